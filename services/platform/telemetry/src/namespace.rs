//! Names of span attributes: fields are named once, for logs (`call_id`); spans are exported with our own namespace before
//! them (`trunkline.call_id`), so that they never meet OpenTelemetry's, which all have a dot (`rpc.method`).

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

use crate::field;

/// An exporter that names attributes before it passes spans on.
#[derive(Debug)]
pub(crate) struct Namespaced<E>(pub(crate) E);

impl<E: SpanExporter> SpanExporter for Namespaced<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        for span in &mut batch {
            name(&mut span.attributes);
            for event in &mut span.events.events {
                name(&mut event.attributes);
            }
        }
        self.0.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

fn name(attributes: &mut Vec<KeyValue>) {
    // The span has it already, in its own place.
    attributes.retain(|attribute| attribute.key.as_str() != field::TRACE_ID);
    for attribute in attributes {
        let key = attribute.key.as_str();
        if !key.contains('.') {
            attribute.key = format!("trunkline.{key}").into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_fields_get_a_namespace_and_those_of_conventions_keep_theirs() {
        let mut attributes = vec![
            KeyValue::new("call_id", "c"),
            KeyValue::new("rpc.method", "m"),
            KeyValue::new("trace_id", "t"),
        ];
        name(&mut attributes);
        let names: Vec<&str> = attributes.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(names, ["trunkline.call_id", "rpc.method"]);
    }
}
