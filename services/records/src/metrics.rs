use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What the records role counts.
#[derive(Clone, Default)]
pub struct RecordsMetrics {
    pub(crate) events: Counter,
    pub(crate) errors: Counter,
    pub(crate) position: Gauge,
    pub(crate) watchers: Gauge,
    pub(crate) read_bytes: Counter,
}

impl RecordsMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_records`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("events", "Events folded", metrics.events.clone());
        registry.register(
            "errors",
            "Events that could not be read and batches that could not be written",
            metrics.errors.clone(),
        );
        registry.register(
            "position",
            "Journal position that the records are a fold of",
            metrics.position.clone(),
        );
        registry.register("live_watchers", "Streams of live numbers", metrics.watchers.clone());
        registry.register("recording_read_bytes", "Bytes of recordings served", metrics.read_bytes.clone());
        metrics
    }
}
