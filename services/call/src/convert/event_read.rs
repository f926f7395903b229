//! Events from the journal, of every version that was ever written.

use bytes::Bytes;
use prost::Message as _;
use trunkline_call_core::{
    Codec, Destination, Event, EventBody, FlowOutcome, LegParty, Missing, Quality, RecordingFinished, Route,
    Span, Speaker, Started, TranscriptSegment,
};
use trunkline_proto::call::v1::{self as pb, call_event::Event as Pb, call_started};

use super::{
    Parsed, at, cause, dialog, edge,
    event::{
        digits_how_from, ended_by_from, hold_by_from, leg_kind_from, move_reason_from, queue_outcome_from,
        transcript_state_from,
    },
    malformed, missing, parse,
};

/// The inverse of `encode`.
pub(crate) fn decode(payload: &Bytes) -> Parsed<Event> {
    let event = pb::CallEvent::decode(payload.clone()).map_err(|e| malformed("call_event", e.to_string()))?;
    let body = body(event.event.ok_or_else(|| missing("call_event.event"))?)?;
    Ok(Event { at: at(event.at_us), body })
}

fn body(event: Pb) -> Parsed<EventBody> {
    Ok(match event {
        Pb::Started(e) => EventBody::Started(Box::new(started(e)?)),
        Pb::MediaSession(e) => EventBody::MediaSession { node: parse("media_session.node", &e.node)? },
        Pb::MediaMoved(e) => EventBody::MediaMoved {
            from: parse("media_moved.from", &e.from)?,
            node: parse("media_moved.node", &e.node)?,
            reason: move_reason_from(&e.reason)?,
        },
        Pb::LegMoved(e) => {
            EventBody::LegMoved { leg: parse("leg_moved.leg_id", &e.leg_id)?, codec: Codec::parse(&e.codec) }
        }
        Pb::LegAdded(e) => EventBody::LegAdded {
            leg: parse("leg_added.leg_id", &e.leg_id)?,
            kind: leg_kind_from(&e.kind)?,
            party: match e.party.as_str() {
                "caller" => LegParty::Caller,
                "agent" => LegParty::Agent(parse("leg_added.agent_id", &e.agent_id)?),
                other => return Err(malformed("leg_added.party", format!("{other:?} is not known"))),
            },
        },
        Pb::LegAnswered(e) => EventBody::LegAnswered {
            leg: parse("leg_answered.leg_id", &e.leg_id)?,
            codec: Codec::parse(&e.codec),
        },
        Pb::LegReleased(e) => EventBody::LegReleased {
            leg: parse("leg_released.leg_id", &e.leg_id)?,
            cause: cause("leg_released.cause", &e.cause)?,
        },
        Pb::Dialog(e) => EventBody::DialogChanged {
            leg: parse("dialog.leg_id", &e.leg_id)?,
            state: Box::new(dialog::read(&e.state)?),
        },
        Pb::FlowEntered(e) => {
            EventBody::FlowEntered { flow: parse("flow_entered.flow", &e.flow)?, version: e.version }
        }
        Pb::FlowStep(e) => flow_step(e)?,
        Pb::Digits(e) => EventBody::DigitsReceived {
            leg: parse("digits.leg_id", &e.leg_id)?,
            count: e.count,
            how: digits_how_from(&e.how)?,
        },
        Pb::QueueEntered(e) => EventBody::QueueEntered {
            queue: parse("queue_entered.queue", &e.queue)?,
            entry: e.entry,
            entered: at(e.entered_us),
            priority: e.priority,
        },
        Pb::QueueExited(e) => EventBody::QueueExited {
            queue: parse("queue_exited.queue", &e.queue)?,
            entry: e.entry,
            outcome: queue_outcome_from(&e.outcome)?,
        },
        Pb::Ended(e) => {
            EventBody::Ended { cause: cause("ended.cause", &e.cause)?, by: ended_by_from(&e.by)? }
        }
        other => agents(other)?,
    })
}

/// Who is in the conversation, and who hears whom.
fn agents(event: Pb) -> Parsed<EventBody> {
    Ok(match event {
        Pb::AgentConnecting(e) => EventBody::AgentConnecting {
            offer: parse("agent_connecting.offer_id", &e.offer_id)?,
            agent: parse("agent_connecting.agent_id", &e.agent_id)?,
            leg: parse("agent_connecting.leg_id", &e.leg_id)?,
            name: e.agent_name,
            queue: parse("agent_connecting.queue", &e.queue)?,
            recording: e.recording,
            recording_required: e.recording_required,
        },
        Pb::AgentBridged(e) => EventBody::AgentBridged {
            offer: parse("agent_bridged.offer_id", &e.offer_id)?,
            agent: parse("agent_bridged.agent_id", &e.agent_id)?,
            leg: parse("agent_bridged.leg_id", &e.leg_id)?,
        },
        Pb::AgentReleased(e) => EventBody::AgentReleased {
            offer: parse("agent_released.offer_id", &e.offer_id)?,
            agent: parse("agent_released.agent_id", &e.agent_id)?,
            leg: match e.leg_id.as_str() {
                "" => None,
                leg => Some(parse("agent_released.leg_id", leg)?),
            },
            cause: cause("agent_released.cause", &e.cause)?,
        },
        Pb::Hold(e) => EventBody::HoldChanged { by: hold_by_from(&e.by)?, on_hold: e.on_hold },
        Pb::Mute(e) => {
            let leg = (!e.leg_id.is_empty()).then(|| parse("mute.leg_id", &e.leg_id)).transpose()?;
            EventBody::MuteChanged { leg, muted: e.muted }
        }
        other => recorded(other)?,
    })
}

fn recorded(event: Pb) -> Parsed<EventBody> {
    Ok(match event {
        Pb::RecordingStarted(e) => EventBody::RecordingStarted {
            recording: parse("recording_started.recording_id", &e.recording_id)?,
            agent: parse("recording_started.agent_id", &e.agent_id)?,
            required: e.required,
        },
        Pb::RecordingTrouble(e) => EventBody::RecordingTrouble {
            recording: parse("recording_trouble.recording_id", &e.recording_id)?,
            reason: e.reason,
            over: e.over,
        },
        Pb::RecordingPaused(e) => EventBody::RecordingPaused {
            recording: parse("recording_paused.recording_id", &e.recording_id)?,
            paused: e.paused,
        },
        Pb::RecordingFinished(e) => EventBody::RecordingFinished(Box::new(RecordingFinished {
            recording: parse("recording_finished.recording_id", &e.recording_id)?,
            location: e.location,
            duration_ms: unsigned(e.duration_ms),
            size_bytes: unsigned(e.size_bytes),
            sha256: e.sha256,
            holds: e.holds.into_iter().map(span).collect(),
            gaps: e.gaps.into_iter().map(span).collect(),
            salvaged: e.salvaged,
        })),
        Pb::RecordingFailed(e) => EventBody::RecordingFailed {
            recording: parse("recording_failed.recording_id", &e.recording_id)?,
            reason: e.reason,
        },
        Pb::TranscriptStatus(e) => {
            let recording = match e.recording_id.as_str() {
                "" => None,
                id => Some(parse("transcript_status.recording_id", id)?),
            };
            let status = transcript_state_from(&e.status)?;
            EventBody::TranscriptStatus { recording, status, detail: e.detail }
        }
        Pb::TranscriptSegment(e) => EventBody::TranscriptSegment(Box::new(TranscriptSegment {
            recording: parse("transcript_segment.recording_id", &e.recording_id)?,
            speaker: match e.channel.as_str() {
                "caller" => Some(Speaker::Caller),
                "agent" => Some(Speaker::Agent),
                _ => None,
            },
            start_ms: unsigned(e.start_ms),
            end_ms: unsigned(e.end_ms),
            text: e.text,
            confidence: e.confidence,
            gap: e.gap,
        })),
        Pb::Quality(e) => quality(e)?,
        _ => return Err(missing("call_event.event")),
    })
}

fn quality(e: pb::LegQuality) -> Parsed<EventBody> {
    Ok(EventBody::LegQuality {
        leg: parse("quality.leg_id", &e.leg_id)?,
        quality: Quality {
            packets_received: e.packets_received,
            packets_lost: e.packets_lost,
            jitter_ms: e.jitter_ms,
            round_trip_ms: e.round_trip_ms,
            mos: e.mos,
            packets_sent: e.packets_sent,
            missing: Missing::parse(&e.missing),
        },
    })
}

fn started(e: pb::CallStarted) -> Parsed<Started> {
    Ok(Started {
        caller_number: e.caller_number,
        caller_name: e.caller_name,
        dialled: e.dialled,
        trunk: e.trunk,
        sip_call_id: e.sip_call_id,
        route: Route { edge: parse("started.edge", &e.edge)?, source: e.source, transport: e.transport },
        destination: match e.destination.ok_or_else(|| missing("started.destination"))? {
            call_started::Destination::Queue(queue) => Destination::Queue(parse("started.queue", &queue)?),
            call_started::Destination::Flow(flow) => Destination::Flow(parse("started.flow", &flow)?),
        },
        transaction: e.transaction,
        invite: edge::request("started.invite", &e.invite)?,
        contact_uri: e.contact_uri,
    })
}

fn flow_step(e: pb::FlowStep) -> Parsed<EventBody> {
    let outcome = match e.outcome.as_str() {
        "entered" => FlowOutcome::Entered,
        "digits" => FlowOutcome::Digits(e.detail),
        "no_input" => FlowOutcome::NoInput,
        "invalid" => FlowOutcome::Invalid,
        "error" => FlowOutcome::Error(e.detail),
        "set" => {
            let (name, value) =
                e.detail.split_once('=').ok_or_else(|| malformed("flow_step.detail", "is not name=value"))?;
            FlowOutcome::Set { name: name.to_owned(), value: value.to_owned() }
        }
        other => return Err(malformed("flow_step.outcome", format!("{other:?} is not known"))),
    };
    Ok(EventBody::FlowStep { node: e.node, outcome })
}

fn span(span: pb::Span) -> Span {
    Span { start_ms: unsigned(span.start_ms), end_ms: unsigned(span.end_ms), reason: span.reason }
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
