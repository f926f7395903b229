use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use trunkline_call_core::{EndedBy, Event, EventBody, FlowOutcome, MoveReason, Phase};
use trunkline_telemetry::buckets;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    direction: &'static str,
    cause: &'static str,
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromLabels {
    from: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

const INBOUND: &str = "inbound";

/// What calls count. Ratios (ASR, NER) are recording rules over these.
#[derive(Clone)]
pub struct CallMetrics {
    started: Family<DirectionLabels, Counter>,
    ended: Family<EndLabels, Counter>,
    active: Family<PhaseLabels, Gauge>,
    setup: Family<OutcomeLabels, Histogram, fn() -> Histogram>,
    flow_steps: Family<OutcomeLabels, Counter>,
    recordings: Family<OutcomeLabels, Counter>,
    malformed: Family<FromLabels, Counter>,
    moves: Family<ReasonLabels, Counter>,
    epochs_refused: Counter,
}

impl CallMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_call`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            started: Family::default(),
            ended: Family::default(),
            active: Family::default(),
            setup: Family::new_with_constructor(|| Histogram::new(buckets::LATENCY_SECONDS.iter().copied())),
            flow_steps: Family::default(),
            recordings: Family::default(),
            malformed: Family::default(),
            moves: Family::default(),
            epochs_refused: Counter::default(),
        };
        registry.register("started", "Calls begun", metrics.started.clone());
        registry.register(
            "ended",
            "Calls ended, by release cause and by who ended them",
            metrics.ended.clone(),
        );
        registry.register("active", "Calls now, by phase", metrics.active.clone());
        registry.register(
            "setup_seconds",
            "From the INVITE on the socket to 180 (ringing), 200 (answered) or a refusal",
            metrics.setup.clone(),
        );
        registry.register("flow_steps", "What happened at nodes of flows", metrics.flow_steps.clone());
        registry.register("recordings", "Recordings, by outcome", metrics.recordings.clone());
        registry.register("malformed_messages", "Messages that could not be read", metrics.malformed.clone());
        registry.register(
            "media_moves",
            "Calls that went to another media node, by why they left theirs",
            metrics.moves.clone(),
        );
        registry.register(
            "epochs_refused",
            "Messages of queues and agents whose shard had another owner already",
            metrics.epochs_refused.clone(),
        );
        metrics
    }

    pub(crate) fn stale(&self) {
        self.epochs_refused.inc();
    }

    pub(crate) fn entered(&self, phase: Phase) {
        self.active.get_or_create(&PhaseLabels { phase: phase_name(phase) }).inc();
    }

    pub(crate) fn left(&self, phase: Phase) {
        self.active.get_or_create(&PhaseLabels { phase: phase_name(phase) }).dec();
    }

    pub(crate) fn setup(&self, outcome: &'static str, took: Duration) {
        self.setup.get_or_create(&OutcomeLabels { outcome }).observe(took.as_secs_f64());
    }

    pub(crate) fn malformed(&self, from: &'static str) {
        self.malformed.get_or_create(&FromLabels { from }).inc();
    }

    /// Counts an event when it is first written; a replay does not come here.
    pub(crate) fn event(&self, event: &Event) {
        match &event.body {
            EventBody::Started(_) => {
                self.started.get_or_create(&DirectionLabels { direction: INBOUND }).inc();
            }
            EventBody::Ended { cause, by } => {
                let labels = EndLabels { direction: INBOUND, cause: cause.as_str(), by: by_name(*by) };
                self.ended.get_or_create(&labels).inc();
            }
            EventBody::FlowStep { outcome, .. } => {
                self.flow_steps.get_or_create(&OutcomeLabels { outcome: step_name(outcome) }).inc();
            }
            EventBody::MediaMoved { reason, .. } => {
                let reason = match reason {
                    MoveReason::Lost => "lost",
                    MoveReason::Drained => "drained",
                };
                self.moves.get_or_create(&ReasonLabels { reason }).inc();
            }
            EventBody::RecordingStarted { .. } => self.recording("started"),
            EventBody::RecordingFinished(_) => self.recording("finished"),
            EventBody::RecordingFailed { .. } => self.recording("failed"),
            _ => {}
        }
    }

    fn recording(&self, outcome: &'static str) {
        self.recordings.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::New => "new",
        Phase::SettingUp => "setting_up",
        Phase::Flow => "flow",
        Phase::Queued => "queued",
        Phase::Connecting => "connecting",
        Phase::Talking => "talking",
        Phase::Ended => "ended",
    }
}

const fn by_name(by: EndedBy) -> &'static str {
    match by {
        EndedBy::Caller => "caller",
        EndedBy::Agent => "agent",
        EndedBy::Flow => "flow",
        EndedBy::Network => "network",
        EndedBy::System => "system",
    }
}

const fn step_name(outcome: &FlowOutcome) -> &'static str {
    match outcome {
        FlowOutcome::Entered => "entered",
        FlowOutcome::Digits(_) => "digits",
        FlowOutcome::NoInput => "no_input",
        FlowOutcome::Invalid => "invalid",
        FlowOutcome::Set { .. } => "set",
        FlowOutcome::Error(_) => "error",
    }
}
