use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use trunkline_acd_core::{AgentEvent, QueueEvent};
use trunkline_telemetry::{CallHistogram, buckets};
use trunkline_types::{QueueId, TenantId};

/// Queues are few and configured: they may stand in a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    tenant: String,
    queue: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    tenant: String,
    queue: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentLabels {
    tenant: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReceiverLabels {
    receiver: &'static str,
}

/// How a call can leave a queue.
const OUTCOMES: [&str; 7] =
    ["answered", "short_abandoned", "abandoned", "flow", "timed_out", "lost", "refused"];

/// What queues and agents count. Ratios (service level, abandonment) are recording rules over these.
#[derive(Clone)]
pub struct AcdMetrics {
    offered: Family<QueueLabels, Counter>,
    outcomes: Family<OutcomeLabels, Counter>,
    in_target: Family<QueueLabels, Counter>,
    waiting: Family<QueueLabels, Gauge>,
    oldest: Family<QueueLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    wait_seconds: Family<QueueLabels, CallHistogram, fn() -> CallHistogram>,
    agent_states: Family<StateLabels, Counter>,
    agents: Family<AgentLabels, Gauge>,
    malformed: Family<ReasonLabels, Counter>,
    epochs_refused: Family<ReceiverLabels, Counter>,
}

impl AcdMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_acd`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            offered: Family::default(),
            outcomes: Family::default(),
            in_target: Family::default(),
            waiting: Family::default(),
            oldest: Family::default(),
            wait_seconds: Family::new_with_constructor(|| CallHistogram::new(buckets::CALL_SECONDS)),
            agent_states: Family::default(),
            agents: Family::default(),
            malformed: Family::default(),
            epochs_refused: Family::default(),
        };
        for receiver in ["queue", "agent"] {
            drop(metrics.epochs_refused.get_or_create(&ReceiverLabels { receiver }));
        }
        registry.register("queue_offered", "Calls that entered the queue", metrics.offered.clone());
        registry.register(
            "queue_outcomes",
            "Calls that left the queue, by outcome",
            metrics.outcomes.clone(),
        );
        registry.register(
            "queue_answered_in_target",
            "Calls answered within the service-level target",
            metrics.in_target.clone(),
        );
        registry.register("queue_depth", "Calls waiting", metrics.waiting.clone());
        registry.register(
            "queue_oldest_enqueued_timestamp_seconds",
            "When the longest waiting call entered, Unix seconds; 0 = nobody waits",
            metrics.oldest.clone(),
        );
        registry.register("queue_wait_seconds", "Wait of answered calls", metrics.wait_seconds.clone());
        registry.register(
            "agent_transitions",
            "Changes of agents' states, by new state",
            metrics.agent_states.clone(),
        );
        registry.register("agents", "Agents now, by state", metrics.agents.clone());
        registry.register("malformed_messages", "Messages that could not be read", metrics.malformed.clone());
        registry.register(
            "epochs_refused",
            "Messages of former owners of a shard that were refused, by receiver",
            metrics.epochs_refused.clone(),
        );
        metrics
    }

    pub(crate) fn epoch_refused(&self, receiver: &'static str) {
        self.epochs_refused.get_or_create(&ReceiverLabels { receiver }).inc();
    }

    pub(crate) fn malformed(&self, reason: &'static str) {
        self.malformed.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// An agent changed its state; `None` = it is not on this node.
    pub(crate) fn agent_moved(
        &self,
        tenant: &TenantId,
        from: Option<&'static str>,
        to: Option<&'static str>,
    ) {
        let of = |state| self.agents.get_or_create_owned(&AgentLabels { tenant: tenant.to_string(), state });
        if let Some(from) = from {
            of(from).dec();
        }
        if let Some(to) = to {
            of(to).inc();
        }
    }

    pub(crate) fn depth(&self, tenant: &TenantId, queue: &QueueId, waiting: u32, oldest_s: f64) {
        let labels = labels(tenant, queue);
        self.waiting.get_or_create(&labels).set(i64::from(waiting));
        self.oldest.get_or_create(&labels).set(oldest_s);
    }

    /// The queue is not on this node any more. What was counted stays.
    pub(crate) fn gone(&self, tenant: &TenantId, queue: &QueueId) {
        let labels = labels(tenant, queue);
        self.waiting.remove(&labels);
        self.oldest.remove(&labels);
    }

    pub(crate) fn queue(&self, tenant: &TenantId, queue: &QueueId, event: &QueueEvent) {
        let outcome = match event {
            QueueEvent::Enqueued { .. } => return self.enqueued(tenant, queue),
            QueueEvent::Refused { .. } => "refused",
            QueueEvent::Answered { at, enqueued_at, within_target, call, .. } => {
                let labels = labels(tenant, queue);
                if *within_target {
                    self.in_target.get_or_create(&labels).inc();
                }
                let waited = at.since(*enqueued_at).as_secs_f64();
                self.wait_seconds.get_or_create(&labels).observe(waited, *call);
                "answered"
            }
            QueueEvent::Left { short: true, .. } => "short_abandoned",
            QueueEvent::Left { cause, .. } => match cause {
                trunkline_acd_core::LeaveCause::Abandoned => "abandoned",
                trunkline_acd_core::LeaveCause::FlowOut => "flow",
                trunkline_acd_core::LeaveCause::Timeout => "timed_out",
                trunkline_acd_core::LeaveCause::Lost => "lost",
            },
            QueueEvent::NeverQueued { .. } | QueueEvent::Committed { .. } | QueueEvent::OfferEnded { .. } => {
                return;
            }
        };
        let labels = OutcomeLabels { tenant: tenant.to_string(), queue: queue.to_string(), outcome };
        self.outcomes.get_or_create(&labels).inc();
    }

    fn enqueued(&self, tenant: &TenantId, queue: &QueueId) {
        let labels = labels(tenant, queue);
        if self.offered.get(&labels).is_none() {
            // There from the first call on, so that the first of each outcome is an increase.
            for outcome in OUTCOMES {
                let (tenant, queue) = (labels.tenant.clone(), labels.queue.clone());
                drop(self.outcomes.get_or_create(&OutcomeLabels { tenant, queue, outcome }));
            }
            drop(self.in_target.get_or_create(&labels));
        }
        self.offered.get_or_create(&labels).inc();
    }

    pub(crate) fn agent(&self, event: &AgentEvent) {
        let state = match event {
            AgentEvent::SignedOut { .. } => "signed_out",
            AgentEvent::NotReady { .. } | AgentEvent::SignedIn { .. } => "not_ready",
            AgentEvent::Ready { .. } => "ready",
            AgentEvent::Offered { .. } => "ringing",
            AgentEvent::Accepted { .. } => "connecting",
            AgentEvent::Connected { .. } => "talking",
            AgentEvent::CallEnded { wrap_up_until: Some(_), .. } => "wrap_up",
            _ => return,
        };
        self.agent_states.get_or_create(&StateLabels { state }).inc();
    }
}

fn labels(tenant: &TenantId, queue: &QueueId) -> QueueLabels {
    QueueLabels { tenant: tenant.to_string(), queue: queue.to_string() }
}
