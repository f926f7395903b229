//! Events to the journal.

use prost::Message as _;
use trunkline_call_core::{
    Destination, DigitsHow, EndedBy, Event, EventBody, FlowOutcome, HoldBy, LegKind, LegParty, MoveReason,
    QueueOutcome, Span, Speaker, TranscriptState,
};
use trunkline_proto::call::v1::{self as pb, call_event, call_started};

use super::{dialog, event_read, names};

pub(crate) use event_read::decode;

names!(leg_kind, leg_kind_from, LegKind, "leg_added.kind", {
    LegKind::Sip => "sip" = LegKind::Sip,
    LegKind::WebRtc => "webrtc" = LegKind::WebRtc,
});
names!(digits_how, digits_how_from, DigitsHow, "digits.how", {
    DigitsHow::Rfc4733 => "rfc4733" = DigitsHow::Rfc4733,
    DigitsHow::SipInfo => "sip_info" = DigitsHow::SipInfo,
});
names!(queue_outcome, queue_outcome_from, QueueOutcome, "queue_exited.outcome", {
    QueueOutcome::Answered => "answered" = QueueOutcome::Answered,
    QueueOutcome::Abandoned => "abandoned" = QueueOutcome::Abandoned,
    QueueOutcome::TimedOut => "timed_out" = QueueOutcome::TimedOut,
    QueueOutcome::Refused => "refused" = QueueOutcome::Refused,
    QueueOutcome::Lost => "lost" = QueueOutcome::Lost,
    QueueOutcome::Flow => "flow" = QueueOutcome::Flow,
});
names!(hold_by, hold_by_from, HoldBy, "hold.by", {
    HoldBy::Agent => "agent" = HoldBy::Agent,
    HoldBy::Caller => "caller" = HoldBy::Caller,
});
names!(ended_by, ended_by_from, EndedBy, "ended.by", {
    EndedBy::Caller => "caller" = EndedBy::Caller,
    EndedBy::Agent => "agent" = EndedBy::Agent,
    EndedBy::Flow => "flow" = EndedBy::Flow,
    EndedBy::Network => "network" = EndedBy::Network,
    EndedBy::System => "system" = EndedBy::System,
});
names!(move_reason, move_reason_from, MoveReason, "media_moved.reason", {
    MoveReason::Lost => "lost" = MoveReason::Lost,
    MoveReason::Drained => "drained" = MoveReason::Drained,
    MoveReason::Unrecorded => "unrecorded" = MoveReason::Unrecorded,
});
names!(transcript_state, transcript_state_from, TranscriptState, "transcript_status.status", {
    TranscriptState::None => "none" = TranscriptState::None,
    TranscriptState::Started => "started" = TranscriptState::Started,
    TranscriptState::Finished => "finished" = TranscriptState::Finished,
    TranscriptState::Failed => "failed" = TranscriptState::Failed,
});

/// The kind under which an event is journalled: `call.` and the field of `CallEvent`.
pub(crate) const fn kind(event: &Event) -> &'static str {
    match &event.body {
        EventBody::Started(_) => "call.started",
        EventBody::MediaSession { .. } => "call.media_session",
        EventBody::MediaMoved { .. } => "call.media_moved",
        EventBody::LegMoved { .. } => "call.leg_moved",
        EventBody::LegAdded { .. } => "call.leg_added",
        EventBody::LegAnswered { .. } => "call.leg_answered",
        EventBody::LegReleased { .. } => "call.leg_released",
        EventBody::DialogChanged { .. } => "call.dialog",
        EventBody::FlowEntered { .. } => "call.flow_entered",
        EventBody::FlowStep { .. } => "call.flow_step",
        EventBody::DigitsReceived { .. } => "call.digits",
        EventBody::QueueEntered { .. } => "call.queue_entered",
        EventBody::QueueExited { .. } => "call.queue_exited",
        EventBody::AgentConnecting { .. } => "call.agent_connecting",
        EventBody::AgentBridged { .. } => "call.agent_bridged",
        EventBody::AgentReleased { .. } => "call.agent_released",
        EventBody::HoldChanged { .. } => "call.hold",
        EventBody::MuteChanged { .. } => "call.mute",
        EventBody::RecordingStarted { .. } => "call.recording_started",
        EventBody::RecordingPaused { .. } => "call.recording_paused",
        EventBody::RecordingFinished(_) => "call.recording_finished",
        EventBody::RecordingTrouble { .. } => "call.recording_trouble",
        EventBody::RecordingFailed { .. } => "call.recording_failed",
        EventBody::TranscriptStatus { .. } => "call.transcript_status",
        EventBody::TranscriptSegment(_) => "call.transcript_segment",
        EventBody::LegQuality { .. } => "call.quality",
        EventBody::Ended { .. } => "call.ended",
    }
}

/// As `trunkline.call.v1.CallEvent`.
pub(crate) fn encode(event: &Event) -> Vec<u8> {
    pb::CallEvent { at_us: event.at.as_micros(), event: Some(body(&event.body)) }.encode_to_vec()
}

fn body(event: &EventBody) -> call_event::Event {
    use call_event::Event as Pb;
    match event {
        EventBody::Started(_)
        | EventBody::MediaSession { .. }
        | EventBody::MediaMoved { .. }
        | EventBody::LegMoved { .. }
        | EventBody::LegAdded { .. }
        | EventBody::LegAnswered { .. }
        | EventBody::LegReleased { .. }
        | EventBody::DialogChanged { .. }
        | EventBody::Ended { .. } => signalling(event),
        EventBody::FlowEntered { flow, version } => {
            Pb::FlowEntered(pb::FlowEntered { flow: flow.to_string(), version: *version })
        }
        EventBody::FlowStep { node, outcome } => Pb::FlowStep(flow_step(node, outcome)),
        EventBody::DigitsReceived { leg, count, how } => Pb::Digits(pb::DigitsReceived {
            leg_id: leg.to_string(),
            count: *count,
            how: digits_how(*how).to_owned(),
        }),
        EventBody::QueueEntered { queue, entry, entered, priority } => Pb::QueueEntered(pb::QueueEntered {
            queue: queue.to_string(),
            entry: *entry,
            entered_us: entered.as_micros(),
            priority: *priority,
        }),
        EventBody::QueueExited { queue, entry, outcome } => Pb::QueueExited(pb::QueueExited {
            queue: queue.to_string(),
            entry: *entry,
            outcome: queue_outcome(*outcome).to_owned(),
        }),
        _ => conversation(event),
    }
}

fn signalling(event: &EventBody) -> call_event::Event {
    use call_event::Event as Pb;
    match event {
        EventBody::Started(e) => Pb::Started(pb::CallStarted {
            direction: "inbound".to_owned(),
            caller_number: e.caller_number.clone(),
            caller_name: e.caller_name.clone(),
            dialled: e.dialled.clone(),
            trunk: e.trunk.clone(),
            sip_call_id: e.sip_call_id.clone(),
            source: e.route.source.clone(),
            transport: e.route.transport.clone(),
            edge: e.route.edge.to_string(),
            destination: Some(match &e.destination {
                Destination::Queue(queue) => call_started::Destination::Queue(queue.to_string()),
                Destination::Flow(flow) => call_started::Destination::Flow(flow.to_string()),
            }),
            transaction: e.transaction.clone(),
            invite: e.invite.to_bytes(),
            contact_uri: e.contact_uri.clone(),
        }),
        EventBody::MediaSession { node } => Pb::MediaSession(pb::MediaSession { node: node.to_string() }),
        EventBody::MediaMoved { from, node, reason } => Pb::MediaMoved(pb::MediaMoved {
            from: from.to_string(),
            node: node.to_string(),
            reason: move_reason(*reason).to_owned(),
        }),
        EventBody::LegMoved { leg, codec } => Pb::LegMoved(pb::LegMoved {
            leg_id: leg.to_string(),
            codec: codec.map(|codec| codec.as_str().to_owned()).unwrap_or_default(),
        }),
        EventBody::LegAdded { leg, kind, party } => {
            let (party, agent_id) = match party {
                LegParty::Caller => ("caller", String::new()),
                LegParty::Agent(agent) => ("agent", agent.to_string()),
            };
            let kind = leg_kind(*kind).to_owned();
            Pb::LegAdded(pb::LegAdded { leg_id: leg.to_string(), kind, party: party.to_owned(), agent_id })
        }
        EventBody::LegAnswered { leg, codec } => Pb::LegAnswered(pb::LegAnswered {
            leg_id: leg.to_string(),
            codec: codec.map(|codec| codec.as_str().to_owned()).unwrap_or_default(),
        }),
        EventBody::LegReleased { leg, cause } => {
            Pb::LegReleased(pb::LegReleased { leg_id: leg.to_string(), cause: cause.as_str().to_owned() })
        }
        EventBody::DialogChanged { leg, state } => {
            Pb::Dialog(pb::DialogChanged { leg_id: leg.to_string(), state: dialog::write(state) })
        }
        EventBody::Ended { cause, by } => {
            Pb::Ended(pb::CallEnded { cause: cause.as_str().to_owned(), by: ended_by(*by).to_owned() })
        }
        _ => unreachable!("sorted by `body`"),
    }
}

fn recording(event: &EventBody) -> call_event::Event {
    use call_event::Event as Pb;
    match event {
        EventBody::RecordingStarted { recording, agent, required } => {
            Pb::RecordingStarted(pb::RecordingStarted {
                recording_id: recording.to_string(),
                agent_id: agent.to_string(),
                required: *required,
            })
        }
        EventBody::RecordingTrouble { recording, reason, over } => {
            Pb::RecordingTrouble(pb::RecordingTrouble {
                recording_id: recording.to_string(),
                reason: reason.clone(),
                over: *over,
            })
        }
        EventBody::RecordingPaused { recording, paused } => {
            Pb::RecordingPaused(pb::RecordingPaused { recording_id: recording.to_string(), paused: *paused })
        }
        EventBody::RecordingFinished(e) => Pb::RecordingFinished(pb::RecordingFinished {
            recording_id: e.recording.to_string(),
            location: e.location.clone(),
            duration_ms: signed(e.duration_ms),
            size_bytes: signed(e.size_bytes),
            sha256: e.sha256.clone(),
            holds: e.holds.iter().map(span).collect(),
            gaps: e.gaps.iter().map(span).collect(),
            salvaged: e.salvaged,
        }),
        EventBody::RecordingFailed { recording, reason } => Pb::RecordingFailed(pb::RecordingFailed {
            recording_id: recording.to_string(),
            reason: reason.clone(),
        }),
        _ => unreachable!("sorted by `conversation`"),
    }
}

fn conversation(event: &EventBody) -> call_event::Event {
    use call_event::Event as Pb;
    match event {
        EventBody::AgentConnecting { offer, agent, leg, name, queue, recording, recording_required } => {
            Pb::AgentConnecting(pb::AgentConnecting {
                offer_id: offer.to_string(),
                agent_id: agent.to_string(),
                leg_id: leg.to_string(),
                agent_name: name.clone(),
                queue: queue.to_string(),
                recording: *recording,
                recording_required: *recording_required,
            })
        }
        EventBody::AgentBridged { offer, agent, leg } => Pb::AgentBridged(pb::AgentBridged {
            offer_id: offer.to_string(),
            agent_id: agent.to_string(),
            leg_id: leg.to_string(),
        }),
        EventBody::AgentReleased { offer, agent, leg, cause } => Pb::AgentReleased(pb::AgentReleased {
            offer_id: offer.to_string(),
            agent_id: agent.to_string(),
            leg_id: leg.map(|leg| leg.to_string()).unwrap_or_default(),
            cause: cause.as_str().to_owned(),
        }),
        EventBody::HoldChanged { by, on_hold } => {
            Pb::Hold(pb::HoldChanged { by: hold_by(*by).to_owned(), on_hold: *on_hold })
        }
        EventBody::MuteChanged { leg, muted } => Pb::Mute(pb::MuteChanged {
            muted: *muted,
            leg_id: leg.map(|leg| leg.to_string()).unwrap_or_default(),
        }),
        EventBody::RecordingStarted { .. }
        | EventBody::RecordingTrouble { .. }
        | EventBody::RecordingPaused { .. }
        | EventBody::RecordingFinished(_)
        | EventBody::RecordingFailed { .. } => recording(event),
        EventBody::TranscriptStatus { recording, status, detail } => {
            Pb::TranscriptStatus(pb::TranscriptStatus {
                status: transcript_state(*status).to_owned(),
                detail: detail.clone(),
                recording_id: recording.map(|recording| recording.to_string()).unwrap_or_default(),
            })
        }
        EventBody::TranscriptSegment(e) => Pb::TranscriptSegment(pb::TranscriptSegment {
            recording_id: e.recording.to_string(),
            channel: speaker(e.speaker).to_owned(),
            start_ms: signed(e.start_ms),
            end_ms: signed(e.end_ms),
            text: e.text.clone(),
            confidence: e.confidence,
            gap: e.gap,
        }),
        EventBody::LegQuality { leg, quality } => Pb::Quality(pb::LegQuality {
            leg_id: leg.to_string(),
            packets_received: quality.packets_received,
            packets_lost: quality.packets_lost,
            jitter_ms: quality.jitter_ms,
            round_trip_ms: quality.round_trip_ms,
            mos: quality.mos,
            packets_sent: quality.packets_sent,
            missing: quality.missing.map_or_else(String::new, |missing| missing.as_str().to_owned()),
        }),
        _ => unreachable!("sorted by `body`"),
    }
}

/// `set` keeps its attribute as `name=value` in the detail.
fn flow_step(node: &str, outcome: &FlowOutcome) -> pb::FlowStep {
    let (outcome, detail) = match outcome {
        FlowOutcome::Entered => ("entered", String::new()),
        FlowOutcome::Digits(digits) => ("digits", digits.clone()),
        FlowOutcome::NoInput => ("no_input", String::new()),
        FlowOutcome::Invalid => ("invalid", String::new()),
        FlowOutcome::Set { name, value } => ("set", format!("{name}={value}")),
        FlowOutcome::Error(problem) => ("error", problem.clone()),
    };
    pb::FlowStep { node: node.to_owned(), outcome: outcome.to_owned(), detail }
}

pub(super) const fn speaker(speaker: Option<Speaker>) -> &'static str {
    match speaker {
        Some(Speaker::Caller) => "caller",
        Some(Speaker::Agent) => "agent",
        None => "",
    }
}

fn span(span: &Span) -> pb::Span {
    pb::Span { start_ms: signed(span.start_ms), end_ms: signed(span.end_ms), reason: span.reason.clone() }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
