use serde::{Deserialize, Serialize};
use trunkline_types::OfferId;

use super::{DetachReason, Notes};
use crate::{Action, SessionId};

/// From a console session.
#[derive(Clone, PartialEq, Debug)]
pub enum SessionInput {
    /// A console is there (a tab opened, its socket came back, or it came to another console). Signs the agent in if
    /// needed.
    Attach {
        /// Counts the connections of this session over all consoles, as the page counts them: the highest has the session.
        /// 0 = not told: this one has it.
        connection: u64,
    },
    /// The console says that the page is still there. Attaches a session that is not attached (any more).
    Keepalive,
    /// The session is gone from this console.
    Detach {
        /// Why.
        reason: DetachReason,
    },
    /// The agent wants something. `id` is the client's; the same `(session, id)` again gets the same answer.
    Command {
        /// The client's id of the command.
        id: String,
        /// What.
        command: Command,
    },
}

/// What an agent can want.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Take calls.
    Ready,
    /// Take no calls.
    NotReady {
        /// Reason code, 1 to 64 characters.
        reason: String,
    },
    /// Sign out; while a call lasts it becomes the next status.
    SignOut,
    /// Take the ringing call, with the browser's SDP offer. Answered by [`CommandReply::Media`] once connected.
    Accept {
        /// The ringing offer.
        offer: OfferId,
        /// SDP offer, opaque here.
        sdp_offer: String,
    },
    /// Do not take the ringing call.
    Decline {
        /// The ringing offer.
        offer: OfferId,
    },
    /// Hold, resume, mute, unmute, digits, hang up.
    Control {
        /// What.
        action: Action,
    },
    /// Audio back after a reload of the page. Refused when another attached session has the microphone.
    ResumeMedia {
        /// SDP offer, opaque here.
        sdp_offer: String,
    },
    /// Audio and microphone to this session, whichever had it.
    TakeOver {
        /// SDP offer, opaque here.
        sdp_offer: String,
    },
    /// Save notes as typed (in a call or in wrap-up).
    SaveNotes {
        /// All of them; replaces what was saved.
        notes: Notes,
    },
    /// Done with the contact.
    FinishWrapUp {
        /// All of them; replaces what was saved.
        notes: Notes,
    },
    /// More time.
    ExtendWrapUp,
    /// What comes after the call; `None` = ready.
    SetNextStatus {
        /// The choice.
        next: Option<NextStatus>,
    },
}

/// What comes after a call, when it is not ready.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum NextStatus {
    /// Not ready.
    NotReady {
        /// Reason code.
        reason: String,
    },
    /// Signed out.
    SignedOut,
}

/// How a wrap-up ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrapUpEnd {
    /// The agent finished it.
    ByAgent,
    /// Its time was over.
    TimedOut,
    /// The queue has none.
    None,
}

/// What a command gave.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum CommandReply {
    /// Done.
    Done,
    /// Done; the SDP answer for the session's browser.
    Media {
        /// The conversation.
        offer: OfferId,
        /// SDP answer, opaque here.
        sdp_answer: String,
    },
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum CommandError {
    /// The session is not attached.
    #[error("this session is not attached: attach it first")]
    NotAttached,
    /// Not possible in the present state.
    #[error("not possible while {state}")]
    WrongState {
        /// The state's name.
        state: String,
    },
    /// Another offer rings by now, or none.
    #[error("this call does not ring any more")]
    OfferOver,
    /// The caller hung up first.
    #[error("the caller has hung up")]
    CallerGone,
    /// Media could not be connected.
    #[error("the call could not be connected: {cause}")]
    ConnectFailed {
        /// Release cause by name.
        cause: String,
    },
    /// The call ended while the command was under way.
    #[error("the call has ended")]
    CallEnded,
    /// The call could not do it.
    #[error("{reason}")]
    Call {
        /// What the call said.
        reason: String,
    },
    /// Another session has the microphone.
    #[error("session {session} has the microphone: take over first")]
    MicrophoneElsewhere {
        /// Which.
        session: SessionId,
    },
    /// A text is too long, empty or not one of the choices.
    #[error("{field}: {remedy}")]
    Invalid {
        /// Which field.
        field: String,
        /// What would be right.
        remedy: String,
    },
    /// The wrap-up was extended as often as allowed.
    #[error("the wrap-up has been extended as often as allowed ({max})")]
    NoMoreExtensions {
        /// How often.
        max: u8,
    },
    /// Too many commands are under way.
    #[error("too many commands under way: wait for the answers")]
    Busy,
}
