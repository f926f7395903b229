use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{encoding::text, registry::Registry};

/// The `Content-Type` of [`Metrics::encode_open_metrics`]: for scrapers whose `Accept` names it.
pub const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The process's metrics, all under the prefix `trunkline_`. Cheap to clone.
///
/// Each shell registers its own under the name of its room, once at start, from one `metrics.rs`. Counters get `_total`
/// from the encoding, so names are registered without it; names carry base units (`_seconds`, `_bytes`). Labels are bounded
/// and never an id or a number.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix("trunkline"))))
    }

    /// Registers a room's metrics as `trunkline_{room}_{name}`.
    pub fn room<T>(&self, room: &str, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(self.0.lock().sub_registry_with_prefix(room))
    }

    /// All metrics in the Prometheus text format; see [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        prometheus_text(&self.encode_open_metrics())
    }

    /// All metrics in the OpenMetrics text format, exemplars included; see [`OPEN_METRICS_TYPE`].
    pub fn encode_open_metrics(&self) -> String {
        let mut out = String::with_capacity(16 * 1_024);
        // Writing to a String cannot fail; a metric that refuses to encode leaves the part before it readable.
        if let Err(error) = text::encode(&mut out, &self.0.lock()) {
            tracing::warn!(%error, "metrics could not be encoded completely");
        }
        out
    }
}

/// The older text format out of the newer: a counter's family is named like its samples, and units, exemplars and the end
/// mark are not part of it.
fn prometheus_text(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, text)| text);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some(help) = help.take() {
                out.extend(["# HELP ", family, suffix, " ", help, "\n"]);
            }
            out.extend(["# TYPE ", family, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            let sample = line.find(" # {").map_or(line, |exemplar| &line[..exemplar]);
            out.extend([sample, "\n"]);
        }
    }
    out
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Bucket bounds, so that the same kind of figure can be compared across rooms.
pub mod buckets {
    /// Work within a node: 20 µs to 5 s.
    pub const FAST_SECONDS: &[f64] = &[
        0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0,
        5.0,
    ];
    /// What a person or a peer waits for: 1 ms to 60 s.
    pub const LATENCY_SECONDS: &[f64] =
        &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];
    /// Waiting and talking: 1 s to 4 h.
    pub const CALL_SECONDS: &[f64] =
        &[1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0];
    /// Sizes of batches and queues: 1 to 16,384 by powers of two.
    pub const COUNTS: &[f64] = &[
        1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0,
        16_384.0,
    ];
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

    use super::*;

    #[test]
    fn names_carry_prefix_and_room_and_the_text_is_complete() {
        let metrics = Metrics::new();
        let (calls, depth) = (Counter::<u64>::default(), Gauge::<i64>::default());
        let seconds = Histogram::new(buckets::FAST_SECONDS.iter().copied());
        metrics.room("journal", |room| {
            room.register("appends", "Appends", calls.clone());
            room.register("queue_depth", "Depth", depth.clone());
            room.register("commit_seconds", "Commit", seconds.clone());
        });
        metrics.room("journal", |room| room.register("other", "Other", Gauge::<i64>::default()));
        calls.inc_by(3);
        seconds.observe(0.003);
        let text = metrics.encode_open_metrics();
        assert!(text.contains("trunkline_journal_appends_total 3"), "{text}");
        assert!(text.contains("trunkline_journal_commit_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("trunkline_journal_other"), "{text}");
        assert!(text.ends_with("# EOF\n"));
        let text = metrics.encode();
        let counter = "# HELP trunkline_journal_appends_total Appends.\n\
                       # TYPE trunkline_journal_appends_total counter\n\
                       trunkline_journal_appends_total 3\n";
        assert!(text.contains(counter), "{text}");
        assert!(!text.contains("EOF") && text.contains("# TYPE trunkline_journal_commit_seconds histogram"));
    }
}
