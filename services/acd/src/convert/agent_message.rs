//! To and from agents: what queues, calls and consoles tell them, and what they tell calls.

use trunkline_acd_core::{
    Action, AgentInput, AgentToCall, CallToAgent, ConversationStatus, QueueToAgent, SessionId, Stamp,
    agent::{Command, Console, DetachReason, NextStatus, Notes, SessionInput},
};
use trunkline_proto::{
    acd::v1::{self as pb, agent_command, agent_message::Message, call_control, call_to_agent},
    call::v1::{self as call_pb, agent_to_call, control},
};
use trunkline_types::{AgentId, Epoch, OfferId};

use super::{Malformed, Parsed, at, at_some, cause, parse, queue_message::offer_card};

/// What a queue tells an agent.
pub(crate) fn from_queue(message: Message) -> Parsed<AgentInput> {
    let (queue, message) = match message {
        Message::Reserve(m) => {
            let message = QueueToAgent::Reserve {
                offer: parse("reserve.offer_id", &m.offer_id)?,
                agent_epoch: Epoch(m.agent_epoch),
            };
            (parse("reserve.queue_id", &m.queue_id)?, message)
        }
        Message::Commit(m) => {
            let message = QueueToAgent::Commit {
                offer: parse("commit.offer_id", &m.offer_id)?,
                agent_epoch: Epoch(m.agent_epoch),
                card: Box::new(offer_card(&m)?),
            };
            (parse("commit.queue_id", &m.queue_id)?, message)
        }
        Message::Cancel(m) => {
            let offer: OfferId = parse("cancel.offer_id", &m.offer_id)?;
            (offer.queue.clone(), QueueToAgent::Cancel { offer })
        }
        Message::EndedAck(m) => {
            let offer: OfferId = parse("ended_ack.offer_id", &m.offer_id)?;
            (offer.queue.clone(), QueueToAgent::EndedSeen { offer })
        }
        Message::AnnouncementSeen(m) => {
            let stamp = Stamp { epoch: Epoch(m.agent_epoch), seq: m.sequence };
            (parse("announcement_seen.queue_id", &m.queue_id)?, QueueToAgent::AnnouncementSeen { stamp })
        }
        Message::AskAvailability(m) => {
            (parse("ask_availability.queue_id", &m.queue_id)?, QueueToAgent::AskAnnounce)
        }
        Message::Call(_) | Message::Command(_) => return Err(Malformed("message")),
    };
    Ok(AgentInput::FromQueue { queue, message })
}

/// What a call tells an agent. `before` is the conversation as last heard of.
pub(crate) fn from_call(m: pb::CallToAgent, before: ConversationStatus) -> Parsed<AgentInput> {
    let offer: OfferId = parse("offer_id", &m.offer_id)?;
    let message = match m.event.ok_or(Malformed("event"))? {
        call_to_agent::Event::Connected(e) => {
            CallToAgent::Connected { offer, sdp_answer: e.sdp_answer, at: at(e.at_us) }
        }
        call_to_agent::Event::ConnectFailed(e) => {
            CallToAgent::ConnectFailed { offer, cause: cause(&e.reason) }
        }
        call_to_agent::Event::MediaRemade(e) => {
            let control = parse("media_remade.request", &e.request)?;
            if e.error.is_empty() {
                CallToAgent::MediaRemade { offer, control, sdp_answer: e.sdp_answer }
            } else {
                CallToAgent::ControlFailed { offer, control, error: e.error }
            }
        }
        call_to_agent::Event::State(e) => CallToAgent::Status { offer, status: status(&e) },
        call_to_agent::Event::Result(e) => {
            let control = parse("result.command", &e.command)?;
            if e.error.is_empty() {
                let status = e.state.as_ref().map_or(before, status);
                CallToAgent::ControlDone { offer, control, status }
            } else {
                CallToAgent::ControlFailed { offer, control, error: e.error }
            }
        }
        // Passed on by the shell.
        call_to_agent::Event::Transcript(_) => return Err(Malformed("transcript")),
        call_to_agent::Event::MediaMoved(_) => return Err(Malformed("media_moved")),
        call_to_agent::Event::Ended(e) => CallToAgent::Ended {
            offer,
            connected_at: at_some(e.connected_us),
            cause: cause(&e.cause),
            at: at(e.at_us),
        },
    };
    Ok(AgentInput::FromCall { call: parse("call_id", &m.call_id)?, message })
}

/// The call's clock orders its states.
pub(crate) fn status(state: &pb::AgentCallState) -> ConversationStatus {
    ConversationStatus {
        version: u64::try_from(state.at_us).unwrap_or(0),
        held: state.on_hold,
        muted: state.muted,
    }
}

/// The console that speaks.
pub(crate) fn console(m: &pb::AgentCommand) -> Parsed<Console> {
    Ok(Console { node: parse("console", &m.console)?, incarnation: m.console_incarnation })
}

/// What a console session wants; `saved` are the notes as they stand.
pub(crate) fn from_session(m: pb::AgentCommand, saved: &Notes) -> Parsed<AgentInput> {
    use agent_command::Command as Pb;
    let console = console(&m)?;
    let session = SessionId(m.session);
    let say =
        |message| AgentInput::FromSession { session: session.clone(), console: console.clone(), message };
    let command = match m.command.ok_or(Malformed("command"))? {
        Pb::Attach(c) => return Ok(say(SessionInput::Attach { connection: c.connection })),
        Pb::Detach(_) => return Ok(say(SessionInput::Detach { reason: DetachReason::Closed })),
        Pb::Keepalive(_) => return Ok(say(SessionInput::Keepalive)),
        Pb::SetReady(_) => Command::Ready,
        Pb::SetNotReady(c) => Command::NotReady { reason: c.reason },
        Pb::SignOut(_) => Command::SignOut,
        Pb::Accept(c) => {
            Command::Accept { offer: parse("accept.offer_id", &c.offer_id)?, sdp_offer: c.sdp_offer }
        }
        Pb::Decline(c) => Command::Decline { offer: parse("decline.offer_id", &c.offer_id)? },
        Pb::ResumeMedia(c) if c.take_over => Command::TakeOver { sdp_offer: c.sdp_offer },
        Pb::ResumeMedia(c) => Command::ResumeMedia { sdp_offer: c.sdp_offer },
        Pb::Control(c) => Command::Control { action: action(c.control.ok_or(Malformed("control"))?)? },
        Pb::SaveNotes(c) => Command::SaveNotes { notes: Notes { text: c.notes, ..saved.clone() } },
        Pb::FinishWrapUp(c) => Command::FinishWrapUp {
            notes: Notes {
                disposition: (!c.disposition.is_empty()).then_some(c.disposition),
                tags: c.tags,
                text: if c.notes.is_empty() { saved.text.clone() } else { c.notes },
            },
        },
        Pb::ExtendWrapUp(_) => Command::ExtendWrapUp,
        Pb::SetNext(c) => {
            Command::SetNextStatus { next: (!c.ready).then_some(NextStatus::NotReady { reason: c.reason }) }
        }
    };
    Ok(say(SessionInput::Command { id: m.id, command }))
}

/// The inverse of [`action`].
pub(crate) fn control_of(action: &Action) -> pb::CallControl {
    use call_control::Control;
    let control = match action {
        Action::Hold => Control::Hold(true),
        Action::Resume => Control::Hold(false),
        Action::Mute => Control::Mute(true),
        Action::Unmute => Control::Mute(false),
        Action::Digits(digits) => Control::Digits(digits.clone()),
        Action::Hangup => Control::HangUp(true),
        Action::PauseRecording(pause) => Control::PauseRecording(*pause),
        Action::Transfer(queue) => Control::Transfer(queue.to_string()),
        Action::Consult(queue) => Control::Consult(queue.to_string()),
        Action::CompleteTransfer => Control::CompleteTransfer(true),
        Action::CancelConsult => Control::CancelConsult(true),
    };
    pb::CallControl { control: Some(control) }
}

pub(crate) fn action(control: call_control::Control) -> Parsed<Action> {
    use call_control::Control;
    Ok(match control {
        Control::Hold(true) => Action::Hold,
        Control::Hold(false) => Action::Resume,
        Control::Mute(true) => Action::Mute,
        Control::Mute(false) => Action::Unmute,
        Control::Digits(digits) => Action::Digits(digits),
        Control::HangUp(_) => Action::Hangup,
        Control::PauseRecording(pause) => Action::PauseRecording(pause),
        Control::Transfer(queue) => Action::Transfer(parse("control.transfer", &queue)?),
        Control::Consult(queue) => Action::Consult(parse("control.consult", &queue)?),
        Control::CompleteTransfer(_) => Action::CompleteTransfer,
        Control::CancelConsult(_) => Action::CancelConsult,
    })
}

/// What an agent tells a call.
pub(crate) fn to_call(agent: &AgentId, name: &str, message: AgentToCall) -> call_pb::AgentToCall {
    use agent_to_call::Event;
    let (offer, event) = match message {
        AgentToCall::Connect { offer, entry, session, sdp_offer, recording, recording_required } => {
            let connect = call_pb::Connect {
                session: session.0,
                sdp_offer,
                agent_name: name.to_owned(),
                queue_id: offer.queue.to_string(),
                recording,
                recording_required,
                entry,
            };
            (offer, Event::Connect(connect))
        }
        AgentToCall::GiveUp { offer } => (offer, Event::GiveUp(true)),
        AgentToCall::RemakeMedia { offer, control, session, sdp_offer } => {
            let remake = call_pb::RemakeMedia { session: session.0, request: control.to_string(), sdp_offer };
            (offer, Event::RemakeMedia(remake))
        }
        AgentToCall::Control { offer, control, action } => {
            let control = call_pb::Control {
                session: String::new(),
                command: control.to_string(),
                control: Some(action_to(action)),
            };
            (offer, Event::Control(control))
        }
        AgentToCall::Ask { offer } => (offer, Event::AskAlive(true)),
        AgentToCall::EndedSeen { offer } => (offer, Event::EndedAck(true)),
    };
    call_pb::AgentToCall { agent_id: agent.to_string(), offer_id: offer.to_string(), event: Some(event) }
}

fn action_to(action: Action) -> control::Control {
    use control::Control;
    match action {
        Action::Hold => Control::Hold(true),
        Action::Resume => Control::Hold(false),
        Action::Mute => Control::Mute(true),
        Action::Unmute => Control::Mute(false),
        Action::Digits(digits) => Control::Digits(digits),
        Action::Hangup => Control::HangUp(true),
        Action::PauseRecording(pause) => Control::PauseRecording(pause),
        Action::Transfer(queue) => Control::Transfer(queue.to_string()),
        Action::Consult(queue) => Control::Consult(queue.to_string()),
        Action::CompleteTransfer => Control::CompleteTransfer(true),
        Action::CancelConsult => Control::CancelConsult(true),
    }
}
