use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use trunkline_telemetry::{Metrics, buckets};

type Label = [(&'static str, &'static str); 1];
/// [`crate::Refused`] by name.
const REFUSALS: [&str; 5] = ["full", "stopped", "not_owner", "closing", "crowded"];

/// [`crate::Lost`] by name.
const LOSSES: [&str; 5] = ["fenced", "conflict", "journal", "panic", "history"];

type TwoLabels = [(&'static str, &'static str); 2];

/// What the hosts count, by kind of entity. One for the process.
#[derive(Debug, Clone)]
pub struct ActorMetrics {
    entities: Family<Label, Gauge>,
    depth: Family<Label, Gauge>,
    refusals: Family<TwoLabels, Counter>,
    activations: Family<TwoLabels, Counter>,
    lost: Family<TwoLabels, Counter>,
    undeliverable: Family<TwoLabels, Counter>,
    panics: Family<Label, Counter>,
    timer_lag: Histogram,
}

impl ActorMetrics {
    /// Unregistered: for tests.
    pub fn new() -> Self {
        Self {
            entities: Family::default(),
            depth: Family::default(),
            refusals: Family::default(),
            activations: Family::default(),
            lost: Family::default(),
            undeliverable: Family::default(),
            panics: Family::default(),
            timer_lag: Histogram::new(buckets::FAST_SECONDS.iter().copied()),
        }
    }

    /// Makes and registers them as `trunkline_actors_…`.
    pub fn register(metrics: &Metrics) -> Self {
        let made = Self::new();
        metrics.room("actors", |room| {
            room.register("entities", "Active entities, by kind", made.entities.clone());
            room.register("mailbox_depth", "Messages waiting or under way, by kind", made.depth.clone());
            room.register(
                "admission_refusals",
                "Messages refused, by kind and reason",
                made.refusals.clone(),
            );
            room.register("activations", "Entities started, by kind and origin", made.activations.clone());
            room.register(
                "lost",
                "Entities whose state was discarded, by kind and reason",
                made.lost.clone(),
            );
            room.register(
                "undeliverable",
                "Messages dropped after admission, by kind",
                made.undeliverable.clone(),
            );
            room.register("panics", "Panics caught in an entity, by kind", made.panics.clone());
            room.register("timer_lag_seconds", "How late timers ran", made.timer_lag.clone());
        });
        made
    }

    pub(crate) fn of(&self, kind: &'static str) -> KindMetrics {
        let label = [("kind", kind)];
        // There from the start, so that the first refusal is an increase.
        for reason in REFUSALS {
            drop(self.refusals.get_or_create(&[("kind", kind), ("reason", reason)]));
        }
        for reason in LOSSES {
            drop(self.lost.get_or_create(&[("kind", kind), ("reason", reason)]));
        }
        KindMetrics {
            kind,
            entities: self.entities.get_or_create_owned(&label),
            depth: self.depth.get_or_create_owned(&label),
            panics: self.panics.get_or_create_owned(&label),
            all: self.clone(),
        }
    }
}

impl Default for ActorMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The metrics of one kind of entity, looked up once.
#[derive(Debug)]
pub(crate) struct KindMetrics {
    kind: &'static str,
    pub(crate) entities: Gauge,
    pub(crate) depth: Gauge,
    pub(crate) panics: Counter,
    all: ActorMetrics,
}

impl KindMetrics {
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.all.refusals.get_or_create(&[("kind", self.kind), ("reason", reason)]).inc();
    }

    pub(crate) fn activate(&self, origin: &'static str) {
        self.all.activations.get_or_create(&[("kind", self.kind), ("origin", origin)]).inc();
    }

    pub(crate) fn lose(&self, reason: &'static str) {
        self.all.lost.get_or_create(&[("kind", self.kind), ("reason", reason)]).inc();
    }

    pub(crate) fn undeliverable(&self, reason: &'static str) {
        self.all.undeliverable.get_or_create(&[("kind", self.kind), ("reason", reason)]).inc();
    }

    pub(crate) fn lag(&self, seconds: f64) {
        self.all.timer_lag.observe(seconds);
    }
}
