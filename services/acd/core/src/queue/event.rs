use serde::{Deserialize, Serialize};
use trunkline_types::{AgentId, CallId, Epoch, OfferId, ReleaseCause, Timestamp};

use super::Decision;
use crate::{Enqueue, LeaveCause, Outcome};

/// What a queue decided: what its journal holds. Additive: fields may be added with a default, never changed.
/// Everything that is counted or shown is a fold of these; each carries the instants that the fold needs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum QueueEvent {
    /// A call has its place: `(rank_at, seq)`, where `rank_at = entered_at − priority × step`. Never recomputed.
    Enqueued {
        /// When.
        at: Timestamp,
        /// The wait counts from here: `at`, or earlier for a call that has come back.
        entered_at: Timestamp,
        /// The call.
        call: CallId,
        /// Order of arrival in this queue, from 1.
        seq: u64,
        /// Priority steps in force.
        priority: i16,
        /// The instant by which the call is ranked.
        rank_at: Timestamp,
        /// When it is released if nobody took it.
        expires_at: Option<Timestamp>,
        /// Answered until this instant is within the service level.
        target_at: Timestamp,
        /// Abandoned before this instant is a short abandon.
        short_until: Timestamp,
        /// What the call brought along.
        enqueue: Box<Enqueue>,
    },
    /// A call got no place.
    Refused {
        /// When.
        at: Timestamp,
        /// The call.
        call: CallId,
        /// Which stay.
        entry: u32,
        /// Why.
        cause: ReleaseCause,
    },
    /// A call left before its request for a place arrived; that request is void. Counts nowhere.
    NeverQueued {
        /// When.
        at: Timestamp,
        /// The call.
        call: CallId,
        /// Which stay.
        entry: u32,
        /// Why.
        cause: LeaveCause,
    },
    /// A call is bound to an agent. From here on it is never offered to another one until this offer is known to have
    /// ended.
    Committed {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
        /// The agent.
        agent: AgentId,
        /// The agent's epoch under which the hold was granted.
        agent_epoch: Epoch,
        /// How it came to this.
        decision: Box<Decision>,
    },
    /// An offer ended without a conversation; the call is back at its place if it still waits.
    OfferEnded {
        /// When.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
        /// The agent.
        agent: AgentId,
        /// How.
        outcome: OfferOutcome,
        /// When, by the agent's clock (the queue's own for `Rejected`).
        ended_at: Timestamp,
        /// The same agent is not offered this call until then, unless it goes ready anew.
        avoid_until: Option<Timestamp>,
    },
    /// The call was connected to the agent: it has left the queue, served.
    Answered {
        /// When media were connected.
        at: Timestamp,
        /// The offer.
        offer: OfferId,
        /// The call.
        call: CallId,
        /// The agent.
        agent: AgentId,
        /// Since when the call had waited.
        enqueued_at: Timestamp,
        /// Within the service level.
        within_target: bool,
    },
    /// The call left the queue without an answer.
    Left {
        /// When.
        at: Timestamp,
        /// The call.
        call: CallId,
        /// Which stay.
        entry: u32,
        /// Why.
        cause: LeaveCause,
        /// Since when it had waited.
        enqueued_at: Timestamp,
        /// Abandoned within the short-abandon limit.
        short: bool,
        /// The agent at whom it rang.
        ringing_at: Option<AgentId>,
    },
}

impl QueueEvent {
    /// When it happened.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Enqueued { at, .. }
            | Self::Refused { at, .. }
            | Self::NeverQueued { at, .. }
            | Self::Committed { at, .. }
            | Self::OfferEnded { at, .. }
            | Self::Answered { at, .. }
            | Self::Left { at, .. } => *at,
        }
    }

    /// The call it is about.
    pub fn call(&self) -> CallId {
        match self {
            Self::Enqueued { call, .. }
            | Self::Refused { call, .. }
            | Self::NeverQueued { call, .. }
            | Self::Committed { call, .. }
            | Self::OfferEnded { call, .. }
            | Self::Answered { call, .. }
            | Self::Left { call, .. } => *call,
        }
    }
}

/// How an offer ended without a conversation, as the queue sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfferOutcome {
    /// The agent's hold was gone when the commit came; it never rang.
    Rejected,
    /// The agent told how; never [`Outcome::Answered`].
    Agent(Outcome),
}
