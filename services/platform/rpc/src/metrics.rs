use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Labels of the bus's counters: bounded by the kinds of destination and of refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BusLabels {
    /// "call", "queue", "agent", "edge", "media", "records", "console".
    pub destination: &'static str,
    /// "delivered", "full", "expired", "unroutable", "stopped".
    pub outcome: &'static str,
}

/// What the bus counts.
#[derive(Clone, Default)]
pub struct BusMetrics {
    messages: Family<BusLabels, Counter>,
}

impl BusMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("bus_messages", "Envelopes sent on this node", metrics.messages.clone());
        metrics
    }

    pub(crate) fn count(&self, destination: &'static str, outcome: &'static str) {
        self.messages.get_or_create(&BusLabels { destination, outcome }).inc();
    }
}
