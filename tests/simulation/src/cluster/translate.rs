//! Between the words of calls and those of queues and agents, as the shells and their protos translate them.

use trunkline_acd_core::{
    Action, AgentToCall, CallToAgent, CallToQueue, ConversationStatus, Enqueue, LeaveCause, QueueToCall,
};
use trunkline_call_core::{
    AgentNotice, AgentRequest, Control, ConversationState, LeaveCause as CallLeave, QueueRequest,
    QueueSignal, RefusedReason,
};
use trunkline_types::{OfferId, QueueId, ReleaseCause};

/// What a queue tells a call.
pub(super) fn signal(message: QueueToCall) -> (u32, QueueSignal) {
    match message {
        QueueToCall::Queued { entry, .. } => (entry, QueueSignal::Queued { position: 0 }),
        QueueToCall::Refused { entry, .. } => (entry, QueueSignal::Refused(RefusedReason::QueueFull)),
        QueueToCall::Release { entry, .. } => (entry, QueueSignal::TimedOut),
        QueueToCall::LeaveSeen { entry } => (entry, QueueSignal::Left),
        QueueToCall::AnsweredSeen { entry, offer } => (entry, QueueSignal::Acknowledged(offer)),
        QueueToCall::Ask { entry } => (entry, QueueSignal::Ask),
    }
}

/// What a call tells a queue; `None`: the queue's shell answers it.
pub(super) fn request(request: QueueRequest) -> Option<CallToQueue> {
    Some(match request {
        QueueRequest::Enqueue(enqueue) => CallToQueue::Enqueue(Box::new(Enqueue {
            entry: enqueue.entry,
            priority: i16::try_from(enqueue.priority).ok().filter(|priority| *priority != 0),
            caller: enqueue.card.caller_number,
            caller_name: enqueue.card.caller_name,
            dialled: enqueue.card.dialled,
            attributes: enqueue.card.attributes,
            consulted_by: enqueue.card.consulted_by,
            entered_at: enqueue.entered.filter(|_| enqueue.entry > 0),
        })),
        QueueRequest::Leave { entry, cause } => CallToQueue::Leave {
            entry,
            cause: match cause {
                CallLeave::Abandoned => LeaveCause::Abandoned,
                CallLeave::Flow => LeaveCause::FlowOut,
                CallLeave::TimedOut => LeaveCause::Timeout,
                CallLeave::Lost => LeaveCause::Lost,
            },
        },
        QueueRequest::Answered { entry, offer, at } => CallToQueue::Answered { entry, offer, at },
        QueueRequest::ConnectFailed { .. } => return None,
        QueueRequest::Alive { entry } => CallToQueue::Alive { entry },
        QueueRequest::Gone { entry } => CallToQueue::Gone { entry },
    })
}

/// What an agent asks of a call.
pub(super) fn agent_request(message: AgentToCall) -> (OfferId, AgentRequest) {
    match message {
        AgentToCall::Connect { offer, session, sdp_offer, recording, .. } => {
            let queue: QueueId = offer.queue.clone();
            let (session, agent_name) = (session.0, String::new());
            (
                offer,
                AgentRequest::Connect {
                    session,
                    sdp_offer,
                    agent_name,
                    queue,
                    recording,
                    recording_required: false,
                },
            )
        }
        AgentToCall::GiveUp { offer } => (offer, AgentRequest::GiveUp),
        AgentToCall::RemakeMedia { offer, control, session, sdp_offer } => {
            let (session, request) = (session.0, control.to_string());
            (offer, AgentRequest::RemakeMedia { session, request, sdp_offer })
        }
        AgentToCall::Control { offer, control, action } => {
            let control_of = match action {
                Action::Hold => Control::Hold(true),
                Action::Resume => Control::Hold(false),
                Action::Mute => Control::Mute(true),
                Action::Unmute => Control::Mute(false),
                Action::Digits(digits) => Control::Digits(digits),
                Action::PauseRecording(pause) => Control::PauseRecording(pause),
                Action::Hangup => Control::HangUp,
                Action::Transfer(queue) => Control::Transfer(queue),
                Action::Consult(queue) => Control::Consult(queue),
                Action::CompleteTransfer => Control::CompleteTransfer,
                Action::CancelConsult => Control::CancelConsult,
            };
            let (session, command) = (String::new(), control.to_string());
            (offer, AgentRequest::Control { session, command, control: control_of })
        }
        AgentToCall::Ask { offer } => (offer, AgentRequest::AskAlive),
        AgentToCall::EndedSeen { offer } => (offer, AgentRequest::EndedAck),
    }
}

fn status(state: ConversationState) -> ConversationStatus {
    let version = u64::try_from(state.at.as_micros()).unwrap_or(0);
    ConversationStatus { version, held: state.on_hold, muted: state.muted }
}

/// What a call tells an agent; `None`: nothing for the core.
pub(super) fn notice(offer: OfferId, notice: AgentNotice) -> Option<CallToAgent> {
    Some(match notice {
        AgentNotice::Connected { sdp_answer, at, .. } => CallToAgent::Connected { offer, sdp_answer, at },
        AgentNotice::ConnectFailed { reason, .. } => {
            let cause = ReleaseCause::parse(&reason).unwrap_or(ReleaseCause::Internal);
            CallToAgent::ConnectFailed { offer, cause }
        }
        AgentNotice::MediaRemade { request, sdp_answer, error, .. } => {
            let control = request.parse().ok()?;
            if error.is_empty() {
                CallToAgent::MediaRemade { offer, control, sdp_answer }
            } else {
                CallToAgent::ControlFailed { offer, control, error }
            }
        }
        AgentNotice::State(state) => CallToAgent::Status { offer, status: status(state) },
        AgentNotice::Ended { cause, at, connected } => {
            CallToAgent::Ended { offer, connected_at: connected, cause, at }
        }
        AgentNotice::Result { command, error, state, .. } => {
            let control = command.parse().ok()?;
            if error.is_empty() {
                let status = state.map(status).unwrap_or_default();
                CallToAgent::ControlDone { offer, control, status }
            } else {
                CallToAgent::ControlFailed { offer, control, error }
            }
        }
        AgentNotice::MediaMoved { .. } | AgentNotice::Transcript(_) => return None,
    })
}
