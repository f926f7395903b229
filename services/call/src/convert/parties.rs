//! Queues and agents.

use trunkline_call_core::{
    AgentNotice, AgentRequest, Card, Consultation, Control, ConversationState, Input, LeaveCause,
    QueueRequest, QueueSignal, RefusedReason, Speaker,
};
use trunkline_proto::{
    acd::v1::{self as acd, call_to_agent, queue_message},
    call::v1::{self as pb, agent_to_call, control, queue_to_call},
};
use trunkline_types::{CallId, OfferId, Timestamp};

use super::{Parsed, missing, parse};

/// What a queue tells a call.
pub(crate) fn from_queue(message: pb::QueueToCall) -> Parsed<Input> {
    let queue = parse("queue_to_call.queue_id", &message.queue_id)?;
    let signal = match message.event.ok_or_else(|| missing("queue_to_call.event"))? {
        queue_to_call::Event::Queued(e) => QueueSignal::Queued { position: e.position },
        queue_to_call::Event::Refused(reason) => QueueSignal::Refused(match reason.as_str() {
            "unknown_queue" => RefusedReason::UnknownQueue,
            "closed" => RefusedReason::Closed,
            _ => RefusedReason::QueueFull,
        }),
        queue_to_call::Event::Left(_) => QueueSignal::Left,
        queue_to_call::Event::TimedOut(_) => QueueSignal::TimedOut,
        queue_to_call::Event::AcknowledgedOffer(offer) => {
            QueueSignal::Acknowledged(parse("queue_to_call.acknowledged_offer", &offer)?)
        }
        queue_to_call::Event::Ask(_) => QueueSignal::Ask,
    };
    Ok(Input::Queue { queue, entry: message.entry, signal })
}

/// What an agent tells a call.
pub(crate) fn from_agent(message: pb::AgentToCall) -> Parsed<Input> {
    let agent = parse("agent_to_call.agent_id", &message.agent_id)?;
    let offer = parse("agent_to_call.offer_id", &message.offer_id)?;
    let request = match message.event.ok_or_else(|| missing("agent_to_call.event"))? {
        agent_to_call::Event::Connect(e) => AgentRequest::Connect {
            session: e.session,
            sdp_offer: e.sdp_offer,
            agent_name: e.agent_name,
            queue: parse("connect.queue_id", &e.queue_id)?,
            recording: e.recording,
            recording_required: e.recording_required,
        },
        agent_to_call::Event::RemakeMedia(e) => {
            AgentRequest::RemakeMedia { session: e.session, request: e.request, sdp_offer: e.sdp_offer }
        }
        agent_to_call::Event::Control(e) => AgentRequest::Control {
            session: e.session,
            command: e.command,
            control: match e.control.ok_or_else(|| missing("control.control"))? {
                control::Control::Hold(on) => Control::Hold(on),
                control::Control::Mute(on) => Control::Mute(on),
                control::Control::Digits(digits) => Control::Digits(digits),
                control::Control::HangUp(_) => Control::HangUp,
                control::Control::PauseRecording(paused) => Control::PauseRecording(paused),
                control::Control::Transfer(queue) => Control::Transfer(parse("control.transfer", &queue)?),
                control::Control::Consult(queue) => Control::Consult(parse("control.consult", &queue)?),
                control::Control::CompleteTransfer(_) => Control::CompleteTransfer,
                control::Control::CancelConsult(_) => Control::CancelConsult,
            },
        },
        agent_to_call::Event::AskAlive(_) => AgentRequest::AskAlive,
        agent_to_call::Event::EndedAck(_) => AgentRequest::EndedAck,
        agent_to_call::Event::GiveUp(_) => AgentRequest::GiveUp,
    };
    Ok(Input::Agent { agent, offer, request })
}

/// What a call tells a queue.
pub(crate) fn to_queue(call: CallId, request: QueueRequest) -> acd::QueueMessage {
    use queue_message::Message;
    let call_id = call.to_string();
    let message = match request {
        QueueRequest::Enqueue(e) => Message::Enqueue(acd::Enqueue {
            call_id,
            priority: e.priority,
            card: Some(card(e.card)),
            entered_us: e.entered.map_or(0, Timestamp::as_micros),
            entry: e.entry,
        }),
        QueueRequest::Leave { entry, cause } => {
            Message::Leave(acd::Leave { call_id, entry, cause: leave_cause(cause).into() })
        }
        QueueRequest::Answered { entry, offer, at } => Message::Answered(acd::CallAnswered {
            call_id,
            offer_id: offer.to_string(),
            at_us: at.as_micros(),
            entry,
        }),
        QueueRequest::ConnectFailed { entry, offer, reason } => {
            Message::ConnectFailed(acd::ConnectFailed { call_id, offer_id: offer.to_string(), reason, entry })
        }
        QueueRequest::Alive { entry } => Message::Alive(acd::CallAlive { call_id, entry }),
        QueueRequest::Gone { entry } => Message::Gone(acd::CallGone { call_id, entry }),
    };
    acd::QueueMessage { message: Some(message) }
}

fn card(card: Card) -> acd::CallCard {
    acd::CallCard {
        caller_number: card.caller_number,
        caller_name: card.caller_name,
        dialled: card.dialled,
        attributes: card.attributes.into_iter().collect(),
        consulted_by: card.consulted_by,
    }
}

const fn leave_cause(cause: LeaveCause) -> acd::LeaveCause {
    match cause {
        LeaveCause::Abandoned => acd::LeaveCause::Abandoned,
        LeaveCause::Flow => acd::LeaveCause::Flow,
        LeaveCause::TimedOut => acd::LeaveCause::TimedOut,
        LeaveCause::Lost => acd::LeaveCause::Lost,
    }
}

/// What a call tells an agent.
pub(crate) fn to_agent(call: CallId, offer: &OfferId, notice: AgentNotice) -> acd::AgentMessage {
    use call_to_agent::Event;
    let event = match notice {
        AgentNotice::Connected { session, sdp_answer, at, consultation: of } => {
            let (at_us, consultation) = (at.as_micros(), consultation(of, ""));
            Event::Connected(acd::AgentConnected { session, sdp_answer, at_us, consultation })
        }
        AgentNotice::ConnectFailed { session, reason } => {
            Event::ConnectFailed(acd::AgentConnectFailed { session, reason })
        }
        AgentNotice::MediaRemade { session, request, sdp_answer, error } => {
            Event::MediaRemade(acd::MediaRemade { session, request, sdp_answer, error })
        }
        AgentNotice::MediaMoved { moved } => Event::MediaMoved(acd::AgentMediaMoved { generation: moved }),
        AgentNotice::State(state) => Event::State(conversation(state)),
        AgentNotice::Transcript(line) => Event::Transcript(acd::AgentTranscript {
            channel: match line.speaker {
                Speaker::Caller => "caller",
                Speaker::Agent => "agent",
            }
            .to_owned(),
            start_ms: i64::try_from(line.start_ms).unwrap_or(i64::MAX),
            end_ms: i64::try_from(line.end_ms).unwrap_or(i64::MAX),
            text: line.text,
            is_final: line.is_final,
        }),
        AgentNotice::Ended { cause, at, connected } => Event::Ended(acd::AgentCallEnded {
            cause: cause.as_str().to_owned(),
            at_us: at.as_micros(),
            connected_us: connected.map_or(0, |at| at.as_micros()),
        }),
        AgentNotice::Result { session, command, error, state } => {
            Event::Result(acd::AgentCommandResult { session, command, error, state: state.map(conversation) })
        }
    };
    let message =
        acd::CallToAgent { call_id: call.to_string(), offer_id: offer.to_string(), event: Some(event) };
    acd::AgentMessage { message: Some(acd::agent_message::Message::Call(message)) }
}

fn conversation(state: ConversationState) -> acd::AgentCallState {
    acd::AgentCallState {
        on_hold: state.on_hold,
        muted: state.muted,
        recording: state.recording,
        caller_held: state.caller_held,
        at_us: state.at.as_micros(),
        media_generation: state.moves,
        recording_paused: state.recording_paused,
        consultation: consultation(state.consultation, state.consult_error),
    }
}

fn consultation(of: Consultation, error: &str) -> Option<acd::Consultation> {
    use acd::consultation::State;
    let state = match of {
        Consultation::Waiting(queue) => State::WaitingQueueId(queue.to_string()),
        Consultation::With(name) => State::With(name),
        Consultation::By(name) => State::By(name),
        Consultation::None if error.is_empty() => return None,
        Consultation::None => State::Failed(error.to_owned()),
    };
    Some(acd::Consultation { state: Some(state) })
}
