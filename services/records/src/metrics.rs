use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use trunkline_telemetry::buckets;

/// What the records role counts.
#[derive(Clone)]
pub struct RecordsMetrics {
    pub(crate) events: Counter,
    pub(crate) errors: Counter,
    pub(crate) rebuilds: Counter,
    pub(crate) position: Gauge,
    pub(crate) lag: Histogram,
    pub(crate) watchers: Gauge,
    pub(crate) read_bytes: Counter,
}

impl RecordsMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_records`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            events: Counter::default(),
            errors: Counter::default(),
            rebuilds: Counter::default(),
            position: Gauge::default(),
            lag: Histogram::new(buckets::LATENCY_SECONDS.iter().copied()),
            watchers: Gauge::default(),
            read_bytes: Counter::default(),
        };
        registry.register("events", "Events folded", metrics.events.clone());
        registry.register(
            "errors",
            "Events that could not be read and batches that could not be written",
            metrics.errors.clone(),
        );
        registry.register(
            "rebuilds",
            "Times that the records were thrown away and folded anew, because they were of another journal",
            metrics.rebuilds.clone(),
        );
        registry.register(
            "position",
            "Journal position that the records are a fold of",
            metrics.position.clone(),
        );
        registry.register(
            "lag_seconds",
            "From an event until it is in the records, of the youngest of each batch",
            metrics.lag.clone(),
        );
        registry.register("live_watchers", "Streams of live numbers", metrics.watchers.clone());
        registry.register("recording_read_bytes", "Bytes of recordings served", metrics.read_bytes.clone());
        metrics
    }
}
