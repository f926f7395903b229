//! The messages between a queue, an agent and a call. The protos mirror these enums one to one; a shell only
//! translates. Every message may be lost, doubled, delayed and reordered: receivers drop duplicates, and senders send
//! again until the answer named at each message arrives.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use trunkline_types::{Epoch, OfferId, QueueId, ReleaseCause, Timestamp};

use crate::{millis, queue::Position};

/// Free attributes of a call (from the flow), shown to the agent and kept in the record.
pub type Attributes = BTreeMap<String, String>;

/// Skill name → level 1 to 5.
pub type Skills = BTreeMap<String, u8>;

/// A console session of an agent (one browser tab), minted by the console.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub String);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Orders an agent's announcements: compares by epoch of the agent's shard, then by a counter within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// The agent shard's epoch.
    pub epoch: Epoch,
    /// Counts announcements within the epoch, from 1.
    pub seq: u64,
}

/// Call → queue. `entry` counts a call's enqueuings (0, 1, …), so that a late duplicate of an earlier stay in the
/// queue is told from the present one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallToQueue {
    /// Asks for a place; sent again until [`QueueToCall::Queued`], [`QueueToCall::Refused`] or
    /// [`QueueToCall::Release`].
    Enqueue(Box<Enqueue>),
    /// The call is no longer waiting; sent again until [`QueueToCall::LeaveSeen`]. Also the answer to
    /// [`QueueToCall::Release`]. Never sent once the call is connected to an agent.
    Leave {
        /// Which stay in the queue.
        entry: u32,
        /// Why.
        cause: LeaveCause,
    },
    /// The call is connected to the agent of `offer`; sent again until [`QueueToCall::AnsweredSeen`]. The agent
    /// reports the same (`Ended` with [`Outcome::Answered`]); whichever comes first counts.
    Answered {
        /// Which stay in the queue.
        entry: u32,
        /// The offer that led to the connection.
        offer: OfferId,
        /// When media were connected.
        at: Timestamp,
    },
    /// Answer to [`QueueToCall::Ask`]: still waiting.
    Alive {
        /// Which stay in the queue.
        entry: u32,
    },
    /// Answer to [`QueueToCall::Ask`] by the shell of the call's shard when nobody knows the call. (A call that is known
    /// answers by what became of that stay: `Alive`, `Answered` or `Leave`, again.)
    Gone {
        /// Which stay in the queue.
        entry: u32,
    },
}

/// What a call brings along when it is enqueued.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Enqueue {
    /// How many times the call was enqueued before.
    pub entry: u32,
    /// Priority steps, -100 to 100 (clamped); `None` = the queue's default. One step counts as
    /// [`crate::QueueConfig::priority_step`] of waiting.
    pub priority: Option<i16>,
    /// The caller's number or address as it may be shown, empty when withheld.
    pub caller: String,
    /// The caller's display name, empty when none.
    pub caller_name: String,
    /// What was dialled.
    pub dialled: String,
    /// Attributes collected by the flow.
    pub attributes: Attributes,
    /// Display name of the agent who has the caller and asks for another one; empty = the caller waits alone.
    #[serde(default)]
    pub consulted_by: String,
    /// Since when it waits, for a call that comes back to the place it had; `None` = from now, by the queue's clock.
    #[serde(default)]
    pub entered_at: Option<Timestamp>,
}

/// Why a call left a queue without being answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaveCause {
    /// The caller hung up.
    Abandoned,
    /// The flow took it out (a key press, another queue).
    FlowOut,
    /// It had waited for as long as the queue allows (decided by the queue).
    Timeout,
    /// The call was lost with its node or does not exist any more.
    Lost,
}

/// Queue → call.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueToCall {
    /// Answer to `Enqueue`: the place is committed. (Or was already, for a duplicate.)
    Queued {
        /// Which stay in the queue.
        entry: u32,
        /// When it was enqueued: the wait counts from here.
        enqueued_at: Timestamp,
        /// Place in the queue.
        position: Position,
        /// See [`crate::queue::Queue::expected_wait`]; `None` when there is nothing to estimate from.
        #[serde(with = "millis::option")]
        expected_wait: Option<Duration>,
        /// The queue wants its calls recorded.
        recording: bool,
    },
    /// Answer to `Enqueue`: no place. `cause` is [`ReleaseCause::QueueFull`].
    Refused {
        /// Which stay in the queue.
        entry: u32,
        /// Why.
        cause: ReleaseCause,
    },
    /// The call is out of the queue: play the message and release. Sent again until `Leave` (any cause), for at most
    /// two minutes. `cause` is [`ReleaseCause::QueueTimeout`].
    Release {
        /// Which stay in the queue.
        entry: u32,
        /// Why.
        cause: ReleaseCause,
    },
    /// Answer to `Leave`: the call is out, and nowhere rings any more for it. (While it still rang somewhere the answer
    /// waits until that has stopped.)
    LeaveSeen {
        /// Which stay in the queue.
        entry: u32,
    },
    /// Answer to `Answered`.
    AnsweredSeen {
        /// Which stay in the queue.
        entry: u32,
        /// The offer.
        offer: OfferId,
    },
    /// "Do you still wait?" Answer: `Alive` or `Gone`.
    Ask {
        /// Which stay in the queue.
        entry: u32,
    },
}

/// Queue → agent: the reservation protocol. `Commit` and `Cancel` after a commit are sent again until `Accepted`,
/// `Rejected` or `Ended`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueToAgent {
    /// Take a hold for this offer; answer `Granted` or `Refused`. Names no call: the call is bound at the commit, so
    /// that calls are committed in the order of their places, whichever grant comes first.
    Reserve {
        /// The offer, used once.
        offer: OfferId,
        /// The epoch in which the agent announced itself; another one is refused.
        agent_epoch: Epoch,
    },
    /// The queue has committed the call to this agent: ring. Answer `Accepted`, `Rejected` or `Ended`.
    Commit {
        /// The offer.
        offer: OfferId,
        /// The epoch in which the hold was granted.
        agent_epoch: Epoch,
        /// What the agent gets to see.
        card: Box<OfferCard>,
    },
    /// Drop the hold, or stop ringing because the caller is gone. Answer: `Rejected` or `Ended`.
    Cancel {
        /// The offer.
        offer: OfferId,
    },
    /// Answer to `Ended`.
    EndedSeen {
        /// The offer.
        offer: OfferId,
    },
    /// Answer to `Available` and `Unavailable`.
    AnnouncementSeen {
        /// Which announcement.
        stamp: Stamp,
    },
    /// The queue has lost sight of its agents (recovery): announce now.
    AskAnnounce,
}

/// What an agent sees of an offered call, complete, so that an agent needs nobody else to show it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OfferCard {
    /// The call.
    pub call: trunkline_types::CallId,
    /// Which stay in the queue.
    pub entry: u32,
    /// The queue.
    pub queue: QueueId,
    /// The queue's display name.
    pub queue_name: String,
    /// The caller's number, empty when withheld.
    pub caller: String,
    /// The caller's display name, empty when none.
    pub caller_name: String,
    /// What was dialled.
    pub dialled: String,
    /// Attributes collected by the flow.
    pub attributes: Attributes,
    /// Display name of the agent who has the caller and asks for this one; empty = the caller waits alone.
    #[serde(default)]
    pub consulted_by: String,
    /// Since when the caller waits.
    pub enqueued_at: Timestamp,
    /// How long it rings before the offer counts as missed.
    #[serde(with = "millis")]
    pub ring_timeout: Duration,
    /// Wrap-up after the call; zero = none.
    #[serde(with = "millis")]
    pub wrap_up: Duration,
    /// The call is to be recorded.
    pub recording: bool,
    /// It must not go on without being recorded.
    #[serde(default)]
    pub recording_required: bool,
    /// Wrap-up may be finished by hand only with a disposition.
    pub disposition_required: bool,
    /// The dispositions to choose from; empty = free text.
    pub dispositions: Vec<String>,
}

/// Agent → queue.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentToQueue {
    /// The agent can take a call; valid for `validity` from receipt. Sent again until `AnnouncementSeen`, and anew
    /// (with a new stamp) before the validity is over.
    Available {
        /// Orders announcements.
        stamp: Stamp,
        /// Since when the agent is idle: the longest idle is served first.
        idle_since: Timestamp,
        /// What the agent can do.
        skills: Skills,
        /// How long the queue may believe this.
        #[serde(with = "millis")]
        validity: Duration,
    },
    /// The agent cannot take a call. Sent again until `AnnouncementSeen`.
    Unavailable {
        /// Orders announcements.
        stamp: Stamp,
    },
    /// Answer to `Reserve`: held.
    Granted {
        /// The offer.
        offer: OfferId,
    },
    /// Answer to `Reserve`: no hold.
    Refused {
        /// The offer.
        offer: OfferId,
        /// Why.
        reason: RefuseReason,
        /// The agent's latest announcement at that moment: older availability is void.
        stamp: Stamp,
    },
    /// Answer to `Commit`: journalled, rings.
    Accepted {
        /// The offer.
        offer: OfferId,
    },
    /// Answer to `Commit` or `Cancel`: this offer never rang and never will.
    Rejected {
        /// The offer.
        offer: OfferId,
    },
    /// The offer is over for this agent. Sent again until `EndedSeen`.
    Ended {
        /// The offer.
        offer: OfferId,
        /// How.
        outcome: Outcome,
        /// When, by the agent's clock.
        at: Timestamp,
    },
}

/// Why an agent gave no hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefuseReason {
    /// The agent's shard has had another owner since the announcement.
    StaleEpoch,
    /// The offer was seen before and is over.
    OfferOver,
    /// Another offer holds or has the slot.
    Busy,
    /// Not ready, signed out, or no console attached that could ring.
    NotReady,
}

/// How an offer ended at the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The call was connected to the agent (the conversation may still go on).
    Answered,
    /// It rang until the ring time-out (RNA).
    Missed,
    /// The agent declined.
    Declined,
    /// The agent accepted, the connection failed.
    Failed,
    /// The caller was gone first.
    CallerGone,
    /// The agent's last console went away while it rang.
    AgentGone,
}

/// Agent → call. `offer` names the conversation in all of them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentToCall {
    /// Connect the agent's media. Sent again until `Connected`, `ConnectFailed` or `Ended`. A call that is not in this
    /// stay of the offer's queue any more answers `Ended`.
    Connect {
        /// The offer.
        offer: OfferId,
        /// Which stay in the queue it was made for.
        entry: u32,
        /// The session whose browser made the SDP offer.
        session: SessionId,
        /// SDP offer, opaque here.
        sdp_offer: String,
        /// Record from the connection on.
        recording: bool,
        /// And do not go on without.
        recording_required: bool,
    },
    /// If this offer is not connected yet, never connect it. The answer is final and the same as to `Connect`:
    /// `Connected` when it was too late, otherwise `ConnectFailed` or `Ended`. Sent again until then.
    GiveUp {
        /// The offer.
        offer: OfferId,
    },
    /// New media for a browser that was reloaded or takes over. Sent again until `MediaRemade`, `ControlFailed` or
    /// `Ended`.
    RemakeMedia {
        /// The offer.
        offer: OfferId,
        /// Counts control requests of this conversation, from 1.
        control: u64,
        /// The session whose browser made the SDP offer.
        session: SessionId,
        /// SDP offer, opaque here.
        sdp_offer: String,
    },
    /// Something to do with the conversation. Sent again until `ControlDone`, `ControlFailed` or `Ended`.
    Control {
        /// The offer.
        offer: OfferId,
        /// Counts control requests of this conversation, from 1; a call does each once.
        control: u64,
        /// What.
        action: Action,
    },
    /// "Does the conversation go on?" Answer: `Status` or `Ended`.
    Ask {
        /// The offer.
        offer: OfferId,
    },
    /// Answer to `Ended`.
    EndedSeen {
        /// The offer.
        offer: OfferId,
    },
}

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

/// Call → agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallToAgent {
    /// Answer to `Connect` and to a late `GiveUp`: media are connected.
    Connected {
        /// The offer.
        offer: OfferId,
        /// SDP answer for the browser.
        sdp_answer: String,
        /// When, by the call's clock.
        at: Timestamp,
    },
    /// Answer to `Connect` and `GiveUp`: not connected and never will be under this offer; the caller still waits.
    ConnectFailed {
        /// The offer.
        offer: OfferId,
        /// Why.
        cause: ReleaseCause,
    },
    /// Answer to `RemakeMedia`.
    MediaRemade {
        /// The offer.
        offer: OfferId,
        /// Which request.
        control: u64,
        /// SDP answer for the browser.
        sdp_answer: String,
    },
    /// Answer to `Control`, with the state after it.
    ControlDone {
        /// The offer.
        offer: OfferId,
        /// Which request.
        control: u64,
        /// The state after it.
        status: ConversationStatus,
    },
    /// Answer to `Control` and `RemakeMedia`.
    ControlFailed {
        /// The offer.
        offer: OfferId,
        /// Which request.
        control: u64,
        /// One sentence for the agent.
        error: String,
    },
    /// Answer to `Ask`, and unasked when something changed.
    Status {
        /// The offer.
        offer: OfferId,
        /// The state now.
        status: ConversationStatus,
    },
    /// The conversation is over, or there is no such call. Sent by the call again until `EndedSeen`, and in answer to
    /// anything that names an offer of a call that is over. For a call that nobody knows the shell of the call's
    /// shard answers it with [`ReleaseCause::NodeLost`].
    Ended {
        /// The offer.
        offer: OfferId,
        /// When it had been connected; `None` = never under this offer.
        connected_at: Option<Timestamp>,
        /// Why it ended.
        cause: ReleaseCause,
        /// When.
        at: Timestamp,
    },
}

/// Hold and mute of a conversation, as the call has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConversationStatus {
    /// Counts changes; an older one is ignored.
    pub version: u64,
    /// The caller is on hold.
    pub held: bool,
    /// The agent is muted.
    pub muted: bool,
}
