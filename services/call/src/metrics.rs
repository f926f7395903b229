use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use trunkline_call_core::{EndedBy, Event, EventBody, FlowOutcome, Missing, MoveReason, Phase, Quality};
use trunkline_telemetry::{CallHistogram, buckets};
use trunkline_types::{CallId, LegId, ReleaseCause};

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

/// Whom a leg leads to. Trunks are few and configured: they may stand in a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LegLabels {
    /// "caller" or "agent".
    party: &'static str,
    /// That of a caller's leg; empty for others.
    trunk: String,
}

/// Of a leg whose audio went one way only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OneWayLabels {
    party: &'static str,
    trunk: String,
    /// "received": nothing came from it; "sent": nothing reached it.
    missing: &'static str,
}

const INBOUND: &str = "inbound";
/// Between "nobody understands a word" (1) and the best that G.711 can be (4.41): alerts ask for the share below 3.5.
const MOS: [f64; 10] = [1.5, 2.0, 2.5, 3.0, 3.5, 3.8, 4.0, 4.2, 4.3, 4.5];

/// What calls count. Ratios (ASR, NER) are recording rules over these.
#[derive(Clone)]
pub struct CallMetrics {
    started: Family<DirectionLabels, Counter>,
    ended: Family<EndLabels, Counter>,
    active: Family<PhaseLabels, Gauge>,
    capacity: Gauge,
    setup: Family<OutcomeLabels, CallHistogram, fn() -> CallHistogram>,
    mos: Family<LegLabels, CallHistogram, fn() -> CallHistogram>,
    packets_received: Family<LegLabels, Counter>,
    packets_lost: Family<LegLabels, Counter>,
    measured: Family<LegLabels, Counter>,
    one_way: Family<OneWayLabels, Counter>,
    flow_steps: Family<OutcomeLabels, Counter>,
    recordings: Family<OutcomeLabels, Counter>,
    malformed: Family<FromLabels, Counter>,
    moves: Family<ReasonLabels, Counter>,
    transfers: Counter,
    epochs_refused: Counter,
}

impl CallMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_call`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            started: Family::default(),
            ended: Family::default(),
            active: Family::default(),
            capacity: Gauge::default(),
            setup: Family::new_with_constructor(|| CallHistogram::new(buckets::LATENCY_SECONDS)),
            mos: Family::new_with_constructor(|| CallHistogram::new(&MOS)),
            packets_received: Family::default(),
            packets_lost: Family::default(),
            measured: Family::default(),
            one_way: Family::default(),
            flow_steps: Family::default(),
            recordings: Family::default(),
            malformed: Family::default(),
            moves: Family::default(),
            transfers: Counter::default(),
            epochs_refused: Counter::default(),
        };
        // There from the start, so that the first failure is an increase.
        for outcome in ["started", "finished", "failed"] {
            drop(metrics.recordings.get_or_create(&OutcomeLabels { outcome }));
        }
        for reason in ["lost", "drained"] {
            drop(metrics.moves.get_or_create(&ReasonLabels { reason }));
        }
        metrics.publish(registry);
        metrics.publish_quality(registry);
        metrics
    }

    fn publish(&self, registry: &mut Registry) {
        registry.register("started", "Calls begun", self.started.clone());
        registry.register("ended", "Calls ended, by release cause and by who ended them", self.ended.clone());
        registry.register("active", "Calls now, by phase", self.active.clone());
        registry.register("capacity", "Most calls that this node takes", self.capacity.clone());
        registry.register(
            "setup_seconds",
            "From the INVITE on the socket to 180 (ringing), 200 (answered) or a refusal",
            self.setup.clone(),
        );
        registry.register("flow_steps", "What happened at nodes of flows", self.flow_steps.clone());
        registry.register("recordings", "Recordings, by outcome", self.recordings.clone());
        registry.register("malformed_messages", "Messages that could not be read", self.malformed.clone());
        registry.register("transfers", "Callers whom an agent has passed on", self.transfers.clone());
        registry.register(
            "media_moves",
            "Calls that went to another media node, by why they left theirs",
            self.moves.clone(),
        );
        registry.register(
            "epochs_refused",
            "Messages of queues and agents whose shard had another owner already",
            self.epochs_refused.clone(),
        );
    }

    fn publish_quality(&self, registry: &mut Registry) {
        registry.register(
            "leg_mos",
            "Mean opinion score of what a leg sent us over its life (E-model G.107, G.711 with concealment)",
            self.mos.clone(),
        );
        registry.register(
            "leg_packets_received",
            "RTP packets of legs that have ended",
            self.packets_received.clone(),
        );
        registry.register(
            "leg_packets_lost",
            "RTP packets missing of legs that have ended (RFC 3550 A.3)",
            self.packets_lost.clone(),
        );
        registry.register("legs_measured", "Legs that have ended and had media", self.measured.clone());
        registry.register(
            "legs_one_way",
            "Legs whose audio was to go both ways and went one way only, by what was missing",
            self.one_way.clone(),
        );
    }

    pub(crate) fn takes(&self, most: usize) {
        self.capacity.set(i64::try_from(most).unwrap_or(i64::MAX));
    }

    /// A leg has ended and was measured. `trunk`: by which the call came.
    pub(crate) fn measured(&self, leg: LegId, quality: &Quality, trunk: &str) {
        let (party, trunk) = if leg.index == 0 { ("caller", trunk) } else { ("agent", "") };
        let labels = LegLabels { party, trunk: trunk.to_owned() };
        self.packets_received.get_or_create(&labels).inc_by(quality.packets_received);
        self.packets_lost.get_or_create(&labels).inc_by(quality.packets_lost);
        self.measured.get_or_create(&labels).inc();
        for missing in [Missing::Received, Missing::Sent] {
            let labels = OneWayLabels { party, trunk: trunk.to_owned(), missing: missing.as_str() };
            // There from the first leg on, so that the first failure is an increase.
            self.one_way.get_or_create(&labels).inc_by(u64::from(quality.missing == Some(missing)));
        }
        // Who sent nothing was not heard badly, but not at all.
        if quality.packets_received > 0 {
            self.mos.get_or_create(&labels).observe(f64::from(quality.mos), leg.call);
        }
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

    pub(crate) fn setup(&self, outcome: &'static str, took: Duration, call: CallId) {
        self.setup.get_or_create(&OutcomeLabels { outcome }).observe(took.as_secs_f64(), call);
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
                    MoveReason::Unrecorded => "unrecorded",
                };
                self.moves.get_or_create(&ReasonLabels { reason }).inc();
            }
            EventBody::AgentReleased { cause: ReleaseCause::Transferred, .. } => _ = self.transfers.inc(),
            EventBody::RecordingStarted { .. } => self.recording("started"),
            EventBody::RecordingFinished(_) => self.recording("finished"),
            EventBody::RecordingFailed { .. } => self.recording("failed"),
            EventBody::RecordingTrouble { over: false, .. } => self.recording("troubled"),
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
