//! What is told of the node as a whole, read at each scrape.

use std::sync::Arc;

use trunkline_cluster::Placement;
use trunkline_telemetry::{
    Metrics,
    prometheus_client::{
        collector::Collector,
        encoding::{DescriptorEncoder, EncodeMetric},
        metrics::{gauge::ConstGauge, info::Info},
    },
    register_process,
};

use super::health::Health;

/// The node as `trunkline_node_…`, and its process.
pub(super) fn register(
    metrics: &Metrics,
    health: Health,
    placement: Arc<dyn Placement>,
    roles: String,
    started_us: i64,
) {
    let node = Node { health, placement, roles, started_us };
    metrics.room("node", |room| room.register_collector(Box::new(node)));
    register_process(metrics);
}

struct Node {
    health: Health,
    placement: Arc<dyn Placement>,
    roles: String,
    started_us: i64,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Node")
    }
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let about = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("roles", self.roles.clone())];
        let info = Info::new(about);
        let kind = EncodeMetric::metric_type(&info);
        info.encode(encoder.encode_descriptor("about", "What runs here", None, kind)?)?;
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            let kind = EncodeMetric::metric_type(&gauge);
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)
        };
        let flag = |is: bool| f64::from(u8::from(is));
        let (health, started) = (&self.health, self.started_us as f64 / 1e6);
        gauge("started_timestamp_seconds", "When the process began, Unix seconds", started)?;
        gauge("ready", "1 while the node serves, as /readyz says it", flag(health.problems().is_empty()))?;
        gauge("draining", "1 while the node gives away what it has", flag(self.placement.draining()))?;
        let journal = health.journal_problem().is_none();
        gauge("journal_connected", "1 while the journal's database answers", flag(journal))
    }
}
