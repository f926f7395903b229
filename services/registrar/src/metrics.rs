use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// How a request whose credentials were right can end.
const RESULTS: [&str; 7] = [
    "changed",
    "unchanged",
    "malformed",
    "interval_too_brief",
    "too_many_contacts",
    "out_of_order",
    "replayed",
];

/// What accounts count.
#[derive(Clone)]
pub struct RegistrarMetrics {
    bindings: Gauge,
    registrations: Family<ResultLabels, Counter>,
    expired: Counter,
}

impl RegistrarMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_registrar`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            bindings: Gauge::default(),
            registrations: Family::default(),
            expired: Counter::default(),
        };
        for result in RESULTS {
            drop(metrics.registrations.get_or_create(&ResultLabels { result }));
        }
        registry.register(
            "bindings",
            "Contacts of telephones that are bound, by the node that keeps them",
            metrics.bindings.clone(),
        );
        registry.register(
            "registrations",
            "REGISTER requests with right credentials, by result",
            metrics.registrations.clone(),
        );
        registry.register("expired", "Bindings that ran out", metrics.expired.clone());
        metrics
    }

    pub(crate) fn registered(&self, result: &'static str) {
        self.registrations.get_or_create(&ResultLabels { result }).inc();
    }

    pub(crate) fn expired(&self, bindings: usize) {
        self.expired.inc_by(bindings as u64);
    }

    /// `more` bindings than before, which may be fewer.
    pub(crate) fn bound(&self, more: i64) {
        self.bindings.inc_by(more);
    }
}
