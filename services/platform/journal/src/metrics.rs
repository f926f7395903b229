use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use trunkline_telemetry::{Metrics, buckets};

/// What the journal counts.
#[derive(Debug, Clone)]
pub struct JournalMetrics {
    /// Time of a commit, from its first statement to the disk's answer.
    pub commit_seconds: Histogram,
    /// Time of an append from the call to the answer.
    pub append_seconds: Histogram,
    /// Appends in a commit.
    pub batch_appends: Histogram,
    /// Committed events.
    pub events: Counter,
    /// Appends that wait for a commit.
    pub queue_depth: Gauge,
    /// Appends that were not committed, by reason.
    pub refused: Family<[(&'static str, &'static str); 1], Counter>,
}

impl JournalMetrics {
    /// Unregistered: for tests and tools.
    pub fn new() -> Self {
        let made = Self {
            commit_seconds: Histogram::new(buckets::FAST_SECONDS.iter().copied()),
            append_seconds: Histogram::new(buckets::FAST_SECONDS.iter().copied()),
            batch_appends: Histogram::new(buckets::COUNTS.iter().copied()),
            events: Counter::default(),
            queue_depth: Gauge::default(),
            refused: Family::default(),
        };
        // There from the start, so that the first refusal is an increase.
        for reason in ["fenced", "conflict", "overloaded", "unavailable", "ambiguous", "invalid"] {
            drop(made.refused.get_or_create(&[("reason", reason)]));
        }
        made
    }

    /// Makes and registers them as `trunkline_journal_…`.
    pub fn register(metrics: &Metrics) -> Self {
        let made = Self::new();
        metrics.room("journal", |room| {
            room.register("commit_seconds", "Time of one commit of the journal", made.commit_seconds.clone());
            room.register("append_seconds", "Time from an append to its answer", made.append_seconds.clone());
            room.register("batch_appends", "Appends that one commit carried", made.batch_appends.clone());
            room.register("events", "Committed events", made.events.clone());
            room.register("queue_depth", "Appends that wait for a commit", made.queue_depth.clone());
            room.register("refused", "Appends that were not committed, by reason", made.refused.clone());
        });
        made
    }

    /// Counts an append that was not committed.
    pub(crate) fn refuse(&self, error: &crate::AppendError) {
        use crate::AppendError as E;
        let reason = match error {
            E::Fenced { .. } => "fenced",
            E::Conflict { .. } => "conflict",
            E::Overloaded => "overloaded",
            E::Unavailable(_) => "unavailable",
            E::Ambiguous(_) => "ambiguous",
            E::Invalid(_) => "invalid",
        };
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }
}

impl Default for JournalMetrics {
    fn default() -> Self {
        Self::new()
    }
}
