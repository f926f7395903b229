//! A real OTLP receiver: what a collector would get.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::Result;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value,
    trace::v1::{self as trace, span::SpanKind},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// Trace id, hexadecimal.
    pub trace: String,
    /// Span id, hexadecimal.
    pub id: String,
    /// Span id of its parent, hexadecimal; empty for a root.
    pub parent: String,
    /// Client, server or internal.
    pub kind: SpanKind,
    /// Names and values.
    pub attributes: Vec<(String, String)>,
    /// Which node sent it (`service.instance.id`).
    pub node: String,
    /// Beginning, nanoseconds since 1970.
    pub start_ns: u64,
    /// End, nanoseconds since 1970.
    pub end_ns: u64,
    /// When it came here.
    pub arrived: Instant,
}

impl Span {
    fn read(span: trace::Span, node: &str, arrived: Instant) -> Self {
        let attributes = span.attributes.iter().cloned();
        Self {
            kind: span.kind(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            attributes: attributes.map(|a| (a.key, text(a.value.and_then(|v| v.value)))).collect(),
            node: node.to_owned(),
            start_ns: span.start_time_unix_nano,
            end_ns: span.end_time_unix_nano,
            name: span.name,
            arrived,
        }
    }

    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether it names this call.
    pub fn of_call(&self, call_id: &str) -> bool {
        self.attribute("trunkline.call_id") == Some(call_id)
    }
}

#[derive(Debug, Clone, Default)]
struct Received(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let arrived = Instant::now();
        let mut spans = Vec::new();
        for resource in request.into_inner().resource_spans {
            let about = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let node = about.into_iter().find(|a| a.key == "service.instance.id");
            let node = node.map(|a| text(a.value.and_then(|v| v.value))).unwrap_or_default();
            let all = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(all.map(|span| Span::read(span, &node, arrived)));
        }
        self.0.lock().unwrap_or_else(|e| e.into_inner()).extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The receiver; it ends with its owner.
#[derive(Debug)]
pub struct Collector {
    /// Where it takes spans.
    pub address: SocketAddr,
    received: Received,
    task: JoinHandle<()>,
}

impl Collector {
    /// On loopback, on a free port.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// On an address of this machine, on a free port.
    pub async fn start_at(address: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Ok(Self { address, received, task })
    }

    /// What has come so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: Option<any_value::Value>) -> String {
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
