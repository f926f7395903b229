//! An agent's view as consoles get it.

use trunkline_acd_core::{
    AgentView, OfferCard,
    agent::{AgentStatus, CommandError, CommandReply, NextStatus},
};
use trunkline_proto::{
    acd::v1::AgentCallState,
    console::v1::{
        AgentCallView, AgentSnapshot, CommandResult, NextStatus as NextPb, SdpAnswer, console_message,
    },
};
use trunkline_types::Timestamp;

use super::card;

/// The snapshot; `call` is the conversation as the call last told it.
pub(crate) fn snapshot(
    view: &AgentView,
    call: &AgentCallState,
    queues: Vec<String>,
    now: Timestamp,
) -> AgentSnapshot {
    let mut snapshot = AgentSnapshot {
        server_us: now.as_micros(),
        state: view.status.name().to_owned(),
        since_us: view.since.as_micros(),
        next: view.next.as_ref().map(|next| match next {
            NextStatus::NotReady { reason } => NextPb { ready: false, reason: reason.clone() },
            NextStatus::SignedOut => NextPb { ready: false, reason: "signed_out".to_owned() },
        }),
        microphone: view.microphone.as_ref().map(|s| s.0.clone()).unwrap_or_default(),
        sessions: view.sessions.iter().map(|attached| attached.session.0.clone()).collect(),
        queues,
        epoch: view.epoch.0,
        version: view.version,
        ..AgentSnapshot::default()
    };
    match &view.status {
        AgentStatus::SignedOut => {}
        AgentStatus::NotReady { reason } => snapshot.reason = reason.clone(),
        AgentStatus::Ready { idle_since } => snapshot.since_us = idle_since.as_micros(),
        AgentStatus::Ringing { offer, card, until } => {
            snapshot.until_us = until.as_micros();
            snapshot.call = Some(call_view(&offer.to_string(), card));
        }
        AgentStatus::Connecting { offer, card } => snapshot.call = Some(call_view(&offer.to_string(), card)),
        AgentStatus::Talking { offer, card, connected_at, held, muted, notes, .. } => {
            snapshot.call = Some(AgentCallView {
                connected_us: connected_at.as_micros(),
                on_hold: *held,
                muted: *muted,
                recording: call.recording,
                caller_held: call.caller_held,
                recording_paused: call.recording_paused,
                media_generation: call.media_generation,
                consultation: call.consultation.clone(),
                notes: notes.text.clone(),
                ..call_view(&offer.to_string(), card)
            });
        }
        AgentStatus::WrapUp { offer, card, until, notes, cause, .. } => {
            snapshot.until_us = until.as_micros();
            snapshot.reason = cause.as_str().to_owned();
            snapshot.call =
                Some(AgentCallView { notes: notes.text.clone(), ..call_view(&offer.to_string(), card) });
        }
    }
    snapshot
}

fn call_view(offer: &str, c: &OfferCard) -> AgentCallView {
    AgentCallView {
        call_id: c.call.to_string(),
        offer_id: offer.to_owned(),
        queue_id: c.queue.to_string(),
        queue_name: c.queue_name.clone(),
        card: Some(card(&c.caller, &c.caller_name, &c.dialled, &c.attributes, &c.consulted_by)),
        entered_us: c.enqueued_at.as_micros(),
        disposition_required: c.disposition_required,
        dispositions: c.dispositions.clone(),
        ..AgentCallView::default()
    }
}

/// The answer to a command that was done.
pub(crate) fn done(id: String, reply: CommandReply) -> console_message::Message {
    match reply {
        CommandReply::Done => console_message::Message::Result(CommandResult { id, ..Default::default() }),
        CommandReply::Media { sdp_answer, .. } => {
            console_message::Message::SdpAnswer(SdpAnswer { id, sdp: sdp_answer })
        }
    }
}

/// The answer to a command that was not done: a code and a sentence.
pub(crate) fn failed(id: String, error: &CommandError) -> console_message::Message {
    let code = match error {
        CommandError::NotAttached => "not_attached",
        CommandError::WrongState { .. } => "wrong_state",
        CommandError::OfferOver => "offer_over",
        CommandError::CallerGone => "caller_gone",
        CommandError::ConnectFailed { .. } => "connect_failed",
        CommandError::CallEnded => "call_ended",
        CommandError::Call { .. } => "call",
        CommandError::MicrophoneElsewhere { .. } => "microphone_taken",
        CommandError::Invalid { .. } => "invalid",
        CommandError::NoMoreExtensions { .. } => "no_more_extensions",
        CommandError::Busy => "busy",
    };
    console_message::Message::Result(CommandResult { id, error: code.to_owned(), message: error.to_string() })
}
