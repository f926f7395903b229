use serde::{Deserialize, Serialize};
use trunkline_types::{CallId, OfferId, ReleaseCause, Timestamp};

use super::{Answer, CommandRef, Console, DetachReason, NextStatus, WrapUpEnd};
use crate::{AgentToCall, OfferCard, Outcome, SessionId};

/// What an agent's slot went through: what its journal holds. Additive: fields may be added with a default, never
/// changed. Times in each state, AHT and occupancy are folds of these ([`crate::agent::AgentTotals`]).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentEvent {
    /// The first console came; the agent is not ready, reason `signed_in`.
    SignedIn {
        /// When.
        at: Timestamp,
        /// By which console.
        session: SessionId,
    },
    /// The agent is gone.
    SignedOut {
        /// When.
        at: Timestamp,
        /// `by_agent`, or `disconnected` when the last console was away for longer than the grace period.
        reason: String,
    },
    /// The agent can take calls.
    Ready {
        /// When.
        at: Timestamp,
        /// Since when idle; earlier than `at` only when idleness was not broken.
        idle_since: Timestamp,
    },
    /// The agent takes no calls.
    NotReady {
        /// When.
        at: Timestamp,
        /// A reason code: chosen by the agent, or `signed_in`, `missed`, `declined`, `connect_failed`.
        reason: String,
    },
    /// A call rings.
    Offered {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call and all that is shown of it.
        card: Box<OfferCard>,
        /// It rings until then.
        ring_until: Timestamp,
    },
    /// The agent took it; media are being connected.
    Accepted {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// From which console.
        session: SessionId,
        /// The browser's SDP offer.
        sdp_offer: String,
        /// The connection is given up if the call has not answered by then.
        connect_until: Timestamp,
    },
    /// The offer came to nothing. Kept until the queue has seen it.
    OfferEnded {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
        /// How.
        outcome: Outcome,
        /// The command that ended it, if one did.
        by: Option<CommandRef>,
    },
    /// The conversation has begun. (The outcome `Answered` is kept until the queue has seen it.)
    Connected {
        /// When media were connected.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
    },
    /// The call went on hold or was taken back.
    HoldChanged {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// On hold now.
        held: bool,
    },
    /// The conversation is over; wrap-up follows when `wrap_up_until` is set.
    CallEnded {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
        /// Why.
        cause: ReleaseCause,
        /// Wrap-up until then; `None` = no wrap-up, the next status follows at once.
        wrap_up_until: Option<Timestamp>,
    },
    /// The agent asked for more time.
    WrapUpExtended {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// Now until then.
        until: Timestamp,
        /// The command that asked for it.
        by: Option<CommandRef>,
    },
    /// Notes, tags and disposition as they stand.
    NotesSaved {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
        /// What was written.
        notes: Box<Notes>,
    },
    /// The contact is done for this agent.
    WrapUpEnded {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
        /// By the agent or by its time-out.
        end: WrapUpEnd,
        /// What was written.
        notes: Box<Notes>,
        /// The command that finished it, if one did.
        by: Option<CommandRef>,
    },
    /// Chosen for after the call; `None` = ready.
    NextStatusSet {
        /// When.
        at: Timestamp,
        /// The choice.
        next: Option<NextStatus>,
    },
    /// The queue has seen the end of the offer.
    OutcomeSeen {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
    },
    /// A console is there, or a session came to another console.
    SessionAttached {
        /// When.
        at: Timestamp,
        /// Which.
        session: SessionId,
        /// Who serves it.
        console: Console,
        /// Which connection of the page this is; 0 = not told.
        connection: u64,
    },
    /// A console is gone.
    SessionDetached {
        /// When.
        at: Timestamp,
        /// Which.
        session: SessionId,
        /// Why.
        reason: DetachReason,
    },
    /// A request to the call, before it leaves.
    CommandBegun {
        /// When.
        at: Timestamp,
        /// Whose.
        by: CommandRef,
        /// Its number.
        control: u64,
        /// What: [`AgentToCall::Control`] or [`AgentToCall::RemakeMedia`].
        request: Box<AgentToCall>,
    },
    /// The call has answered a request.
    CommandEnded {
        /// When.
        at: Timestamp,
        /// Whose.
        by: CommandRef,
        /// Its number.
        control: u64,
        /// What its command was told.
        answer: Box<Answer>,
    },
}

/// What an agent writes about a contact.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// Chosen disposition.
    pub disposition: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Free text.
    pub text: String,
}

impl Notes {
    /// Most bytes of text.
    pub const MAX_TEXT_BYTES: usize = 16_384;
    /// Most tags.
    pub const MAX_TAGS: usize = 32;
    /// Most bytes of a tag or disposition.
    pub const MAX_LABEL_BYTES: usize = 128;
}

impl AgentEvent {
    /// When it happened.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::SignedIn { at, .. }
            | Self::SignedOut { at, .. }
            | Self::Ready { at, .. }
            | Self::NotReady { at, .. }
            | Self::Offered { at, .. }
            | Self::Accepted { at, .. }
            | Self::OfferEnded { at, .. }
            | Self::Connected { at, .. }
            | Self::HoldChanged { at, .. }
            | Self::CallEnded { at, .. }
            | Self::WrapUpExtended { at, .. }
            | Self::NotesSaved { at, .. }
            | Self::WrapUpEnded { at, .. }
            | Self::NextStatusSet { at, .. }
            | Self::OutcomeSeen { at, .. }
            | Self::SessionAttached { at, .. }
            | Self::SessionDetached { at, .. }
            | Self::CommandBegun { at, .. }
            | Self::CommandEnded { at, .. } => *at,
        }
    }

    /// The call it is about, if any.
    pub fn call(&self) -> Option<CallId> {
        match self {
            Self::Offered { card, .. } => Some(card.call),
            Self::OfferEnded { call, .. }
            | Self::Connected { call, .. }
            | Self::CallEnded { call, .. }
            | Self::NotesSaved { call, .. }
            | Self::WrapUpEnded { call, .. } => Some(*call),
            _ => None,
        }
    }
}
