use serde::{Deserialize, Serialize};
use trunkline_types::{AgentId, CallId, Epoch, OfferId, ReleaseCause, Timestamp};

use super::{Attached, NextStatus, Notes};
use crate::{OfferCard, SessionId};

/// An agent's state as consoles and wallboards see it: complete, so that each one replaces the one before.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AgentView {
    /// The agent.
    pub agent: AgentId,
    /// What others read.
    pub display_name: String,
    /// The epoch of the agent's shard: views are ordered by it, then by their version.
    pub epoch: Epoch,
    /// Counts views within an epoch; a consumer ignores older ones.
    pub version: u64,
    /// The state.
    pub status: AgentStatus,
    /// Since when.
    pub since: Timestamp,
    /// What comes after the call; `None` = ready.
    pub next: Option<NextStatus>,
    /// Attached console sessions.
    pub sessions: Vec<Attached>,
    /// The session with the microphone (in a conversation).
    pub microphone: Option<SessionId>,
}

/// An agent's state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum AgentStatus {
    /// Not there.
    SignedOut,
    /// Takes no calls.
    NotReady {
        /// Reason code.
        reason: String,
    },
    /// Takes calls (a volatile hold by a queue is not shown).
    Ready {
        /// Since when idle.
        idle_since: Timestamp,
    },
    /// A call rings.
    Ringing {
        /// The offer.
        offer: OfferId,
        /// The call.
        card: Box<OfferCard>,
        /// It rings until then.
        until: Timestamp,
    },
    /// Accepted, media are being connected.
    Connecting {
        /// The offer.
        offer: OfferId,
        /// The call.
        card: Box<OfferCard>,
    },
    /// In conversation.
    Talking {
        /// The offer.
        offer: OfferId,
        /// The call.
        card: Box<OfferCard>,
        /// Since when.
        connected_at: Timestamp,
        /// The caller is on hold.
        held: bool,
        /// The agent is muted.
        muted: bool,
        /// A hang-up is under way.
        hanging_up: bool,
        /// As saved.
        notes: Box<Notes>,
    },
    /// Wrap-up (after-call work).
    WrapUp {
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
        /// What was shown of it.
        card: Box<OfferCard>,
        /// Ends by itself then.
        until: Timestamp,
        /// How the call ended.
        cause: ReleaseCause,
        /// Extensions so far.
        extended: u8,
        /// As saved.
        notes: Box<Notes>,
    },
}

impl AgentStatus {
    /// The state's name: `signed_out`, `not_ready`, `ready`, `ringing`, `connecting`, `talking`, `wrap_up`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::NotReady { .. } => "not_ready",
            Self::Ready { .. } => "ready",
            Self::Ringing { .. } => "ringing",
            Self::Connecting { .. } => "connecting",
            Self::Talking { .. } => "talking",
            Self::WrapUp { .. } => "wrap_up",
        }
    }
}
