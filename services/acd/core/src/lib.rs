//! Automatic call distribution: the queue core and the agent core, pure state machines.
//!
//! Owns which call goes to which agent, the reservation between the two, ringing, wrap-up, and the counters and times
//! that are folds of their events. A [`queue::Queue`] is the authority on its queued calls, an [`agent::Agent`] on the
//! agent's one slot; between them runs the reservation protocol:
//!
//! 1. Queue → agent `Reserve(offer, agent epoch)`: the agent takes a volatile hold ([`HOLD`]) and answers `Granted` or
//!    `Refused`.
//! 2. The queue journals `Committed(offer, call)`, then sends `Commit(offer)`. The agent takes it only if the hold lives,
//!    the epoch is the same and the offer is not over; it journals `Offered`, then rings, and answers `Accepted`.
//!    Otherwise the offer is over for ever and the answer is `Rejected`.
//! 3. Before the commit either side may abandon freely. After it the queue only sends again until `Accepted`, `Rejected`
//!    or `Ended`; it never offers the call elsewhere because of a time-out.
//! 4. The agent keeps `Ended(offer, outcome)` until the queue has seen it. An offer id is used once.
//!
//! The call is the third authority: on whether it is connected. It decides each offer once ([`AgentToCall::Connect`]),
//! so that an agent that gave up waiting and a queue that offers anew cannot both be right.
//!
//! Refuses I/O, clocks, randomness and SIP: SDP passes through as opaque text. Called by `services/acd` (the shell) and
//! by `tests/simulation`, which runs both cores against loss, duplication, reordering, pauses and crashes.

mod action;
pub mod agent;
mod config;
mod messages;
mod millis;
mod protocol;
pub mod queue;
mod timers;

pub use action::Action;
pub use agent::{Agent, AgentEffect, AgentEvent, AgentInput, AgentView};
pub use config::{AfterOffer, AgentConfig, ConfigError, QueueConfig, SkillRequirement, Strategy};
pub use messages::{
    AgentToCall, AgentToQueue, Attributes, CallToAgent, CallToQueue, ConversationStatus, Enqueue, LeaveCause,
    OfferCard, Outcome, QueueToAgent, QueueToCall, RefuseReason, SessionId, Skills, Stamp,
};
#[cfg(feature = "mutations")]
pub use protocol::Mutations;
pub use protocol::{
    ANNOUNCE_EVERY, AVAILABLE_VALIDITY, CALL_CHECK_AGAIN, CALL_CHECK_EVERY, CONNECT_TIMEOUT, HOLD,
    OFFER_CHECK_EVERY, RELEASE_FOR, REMEMBER, RESEND_FIRST, RESEND_MOST, RESERVE_TIMEOUT, RING_ALONE,
    TALK_CHECK_AGAIN, TALK_CHECK_EVERY, UNRESPONSIVE_PAUSE,
};
pub use queue::{Queue, QueueEffect, QueueEvent, QueueInput, QueueView};
