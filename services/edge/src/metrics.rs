use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use trunkline_telemetry::{CallHistogram, buckets};
use trunkline_types::CallId;

/// Label of what comes from no configured trunk.
pub(crate) const NO_TRUNK: &str = "none";
/// Name of the trunk that calls of telephones with accounts come over.
pub(crate) const TELEPHONES: &str = "telephones";

/// Requests and responses. Methods outside the known ones are counted as "other".
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MessageLabels {
    pub method: &'static str,
    pub direction: &'static str,
    /// "request", or the class of the response: "1xx" … "6xx".
    pub class: &'static str,
    /// The trunk's configured name; trunks are few.
    pub trunk: Arc<String>,
}

/// Set-up delay.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SetupLabels {
    /// "ringing" (the first 18x), "answered" (2xx) or "refused".
    pub answer: &'static str,
    pub trunk: Arc<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabels {
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabels {
    pub reason: &'static str,
}

/// Why the edge refuses, as far as somebody has to act on it.
const REFUSALS: [&str; 8] = [
    "overload",
    "capacity",
    "no_shard",
    "unanswered",
    "unknown_number",
    "unknown_source",
    "malformed",
    "draining",
];

/// What becomes of a REGISTER at the edge.
const REGISTRATIONS: [&str; 12] = [
    "acknowledged",
    "challenged",
    "stale",
    "replayed",
    "denied",
    "locked",
    "forbidden",
    "overload",
    "not_upgraded",
    "unanswered",
    "refused",
    "done",
];

/// What the edge counts.
#[derive(Clone)]
pub struct EdgeMetrics {
    pub(crate) messages: Family<MessageLabels, Counter>,
    pub(crate) dropped: Family<ReasonLabels, Counter>,
    pub(crate) rejected: Family<ReasonLabels, Counter>,
    pub(crate) transactions: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) setup_seconds: Family<SetupLabels, CallHistogram, fn() -> CallHistogram>,
    pub(crate) epochs_refused: Counter,
    pub(crate) given_again: Counter,
    pub(crate) relayed: Counter,
    pub(crate) registrations: Family<ResultLabels, Counter>,
}

impl EdgeMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_sip`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            messages: Family::default(),
            dropped: Family::default(),
            rejected: Family::default(),
            transactions: Gauge::default(),
            connections: Gauge::default(),
            setup_seconds: Family::new_with_constructor(|| CallHistogram::new(buckets::LATENCY_SECONDS)),
            epochs_refused: Counter::default(),
            given_again: Counter::default(),
            relayed: Counter::default(),
            registrations: Family::default(),
        };
        for result in REGISTRATIONS {
            drop(metrics.registrations.get_or_create(&ResultLabels { result }));
        }
        // There from the start, so that the first refusal is an increase.
        for reason in REFUSALS {
            drop(metrics.rejected.get_or_create(&ReasonLabels { reason }));
        }
        drop(metrics.dropped.get_or_create(&ReasonLabels { reason: "unparsable" }));
        registry.register(
            "messages",
            "SIP messages by method, direction, class and trunk",
            metrics.messages.clone(),
        );
        registry.register("dropped", "Packets dropped without an answer, by reason", metrics.dropped.clone());
        registry.register(
            "rejected",
            "Requests that the edge refused by itself, by reason",
            metrics.rejected.clone(),
        );
        registry.register("transactions", "SIP transactions alive", metrics.transactions.clone());
        registry.register("connections", "TCP connections open", metrics.connections.clone());
        registry.register(
            "setup_seconds",
            "Time from an INVITE to the first 18x (ringing), its 2xx (answered) or its refusal",
            metrics.setup_seconds.clone(),
        );
        registry.register(
            "epochs_refused",
            "Commands of former owners of calls that were refused",
            metrics.epochs_refused.clone(),
        );
        registry.register(
            "given_again",
            "Requests that were given to their call again because it had not answered",
            metrics.given_again.clone(),
        );
        registry.register(
            "relayed",
            "Responses that were passed on to the edge that had sent the request",
            metrics.relayed.clone(),
        );
        registry.register(
            "registrations",
            "REGISTER requests by what became of them",
            metrics.registrations.clone(),
        );
        metrics
    }

    /// `result` is one of [`REGISTRATIONS`].
    pub(crate) fn registration(&self, result: &'static str) {
        self.registrations.get_or_create(&ResultLabels { result }).inc();
    }

    pub(crate) fn drop(&self, reason: &'static str) {
        self.dropped.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn reject(&self, reason: &'static str) {
        self.rejected.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn answered(&self, status: u16, trunk: Arc<String>, took: Duration, call: CallId) {
        let answer = match status {
            ..200 => "ringing",
            200..300 => "answered",
            _ => "refused",
        };
        self.setup_seconds.get_or_create(&SetupLabels { answer, trunk }).observe(took.as_secs_f64(), call);
    }

    pub(crate) fn message(
        &self,
        method: &str,
        direction: &'static str,
        class: &'static str,
        trunk: Arc<String>,
    ) {
        let method = method_label(method);
        self.messages.get_or_create(&MessageLabels { method, direction, class, trunk }).inc();
    }
}

/// Labels have to be bounded: a peer can send any method.
fn method_label(method: &str) -> &'static str {
    match method {
        "INVITE" => "INVITE",
        "ACK" => "ACK",
        "BYE" => "BYE",
        "CANCEL" => "CANCEL",
        "OPTIONS" => "OPTIONS",
        "REGISTER" => "REGISTER",
        "UPDATE" => "UPDATE",
        "INFO" => "INFO",
        _ => "other",
    }
}

pub(crate) fn class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "6xx",
    }
}
