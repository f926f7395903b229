//! What agents do with conversations.

use serde::{Deserialize, Serialize};
use trunkline_types::{QueueId, ReleaseCause};

/// What an agent can do with a conversation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Put the caller on hold (music).
    Hold,
    /// Take the caller back.
    Resume,
    /// Nothing from the agent reaches the caller.
    Mute,
    /// Undo `Mute`.
    Unmute,
    /// Send DTMF digits to the caller's side.
    Digits(String),
    /// Pause the recording (card data), or go on with it.
    PauseRecording(bool),
    /// End the call; amid a consultation: complete the transfer.
    Hangup,
    /// Pass the caller on to this queue, as soon as it has given a place.
    Transfer(QueueId),
    /// Ask this queue for an agent to talk to, while the caller hears music.
    Consult(QueueId),
    /// Leave the caller to the agent who is being consulted, or to the place in the queue.
    CompleteTransfer,
    /// End the consultation and go back to the caller.
    CancelConsult,
}

impl Action {
    /// What older nodes cannot read ([`trunkline_types::Feature::Transfer`]).
    pub fn is_transfer(&self) -> bool {
        matches!(self, Self::Transfer(_) | Self::Consult(_) | Self::CompleteTransfer | Self::CancelConsult)
    }

    /// The end of the conversation with this cause is what it asks for.
    pub fn is_done_by(&self, cause: ReleaseCause) -> bool {
        match self {
            Self::Hangup => true,
            Self::Transfer(_) | Self::CompleteTransfer => cause == ReleaseCause::Transferred,
            _ => false,
        }
    }
}
