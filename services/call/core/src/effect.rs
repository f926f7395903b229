//! What a call wants done outside. All of it may be done twice: receivers drop what they have seen.

use trunkline_sip::{Request, Response};
use trunkline_types::{AgentId, NodeId, OfferId, QueueId, ReleaseCause, Timestamp};

use crate::{event::Speaker, input::Route, media::MediaCommand};
use std::collections::BTreeMap;

/// One effect of a [`crate::Call`].
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// To the edge named in the route.
    Edge {
        /// Which edge, and the way from there.
        route: Route,
        /// What to do.
        command: EdgeCommand,
    },
    /// To the media node of the call.
    Media {
        /// Which node.
        node: NodeId,
        /// What to do.
        command: MediaCommand,
    },
    /// To a media node: its event has been taken, and what follows from it is committed.
    Acknowledge {
        /// Which node.
        node: NodeId,
        /// Its event.
        event: u64,
    },
    /// To a queue.
    Queue {
        /// Which queue.
        queue: QueueId,
        /// What to say.
        request: QueueRequest,
    },
    /// To an agent.
    Agent {
        /// Which agent.
        agent: AgentId,
        /// The conversation it is about.
        offer: OfferId,
        /// What to say.
        notice: AgentNotice,
    },
}

/// What an edge has to send.
#[derive(Clone, Debug, PartialEq)]
pub enum EdgeCommand {
    /// A response in a server transaction.
    Respond {
        /// The edge's server transaction.
        transaction: String,
        /// The response.
        response: Box<Response>,
        /// A 2xx sent again by the user agent core (RFC 3261 section 13.3.1.4): past the transaction.
        retransmission: bool,
    },
    /// A request of ours, without a Via: the edge adds its own.
    Request {
        /// Unique within the call.
        client_transaction: String,
        /// The request.
        request: Box<Request>,
    },
    /// The ACK of a 2xx to an INVITE of ours, past the transactions; without a Via as well.
    Ack {
        /// The INVITE's transaction.
        client_transaction: String,
        /// The ACK.
        request: Box<Request>,
    },
}

/// What a call says to a queue.
#[derive(Clone, Debug, PartialEq)]
pub enum QueueRequest {
    /// Asks for a place; repeated until answered, and now and then while waiting, so that a lost place is found.
    Enqueue(Box<Enqueue>),
    /// Not waiting any more; repeated until [`crate::QueueSignal::Left`].
    Leave {
        /// Which stay.
        entry: u32,
        /// Why.
        cause: LeaveCause,
    },
    /// Connected to the agent of this offer; repeated until acknowledged.
    Answered {
        /// Which stay.
        entry: u32,
        /// The offer.
        offer: OfferId,
        /// Since when both talk.
        at: Timestamp,
    },
    /// The agent of this offer could not be connected; repeated until acknowledged.
    ConnectFailed {
        /// Which stay.
        entry: u32,
        /// The offer.
        offer: OfferId,
        /// Why, a word for the record.
        reason: String,
    },
    /// Answer to [`crate::QueueSignal::Ask`]: still waiting.
    Alive {
        /// Which stay.
        entry: u32,
    },
    /// Answer to [`crate::QueueSignal::Ask`]: does not wait there.
    Gone {
        /// Which stay.
        entry: u32,
    },
}

/// What a call brings along into a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enqueue {
    /// How many stays in queues this call had before.
    pub entry: u32,
    /// -100 to 100; higher is served first.
    pub priority: i32,
    /// For a caller who comes back to a place: since when they wait. `None` = from now, by the queue's clock.
    pub entered: Option<Timestamp>,
    /// What an agent sees of the call.
    pub card: Card,
}

/// What an agent sees of a call.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Card {
    /// The caller's number, empty when withheld.
    pub caller_number: String,
    /// The caller's display name.
    pub caller_name: String,
    /// What was dialled.
    pub dialled: String,
    /// Set by the flow.
    pub attributes: BTreeMap<String, String>,
    /// Display name of the agent who has the caller and asks for another one; empty = the caller waits alone.
    pub consulted_by: String,
}

/// Why a call left a queue without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveCause {
    /// The caller hung up.
    Abandoned,
    /// The flow took the call elsewhere.
    Flow,
    /// The queue said that the longest wait is over.
    TimedOut,
    /// The call was lost with its media or its node.
    Lost,
}

/// What a call says to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentNotice {
    /// Audio is up.
    Connected {
        /// The session whose offer this answers.
        session: String,
        /// For the browser.
        sdp_answer: String,
        /// Since when both talk.
        at: Timestamp,
        /// Whom they talk to: another agent, when this one is being consulted.
        consultation: Consultation,
    },
    /// Not connected, and never will be under this offer.
    ConnectFailed {
        /// The session that asked, empty when none did.
        session: String,
        /// Why, a word.
        reason: String,
    },
    /// Answer to `RemakeMedia`.
    MediaRemade {
        /// As in the request.
        session: String,
        /// As in the request.
        request: String,
        /// For the browser; empty when it failed.
        sdp_answer: String,
        /// Empty, or why it failed.
        error: String,
    },
    /// The call has left its media node: the page has to make a new offer (`RemakeMedia`). Repeated until it does.
    MediaMoved {
        /// Counts the moves of this call.
        moved: u32,
    },
    /// The conversation as it is now.
    State(ConversationState),
    /// The agent's part is over; repeated until `EndedAck`.
    Ended {
        /// Why.
        cause: ReleaseCause,
        /// When.
        at: Timestamp,
        /// Since when both talked; `None` = never under this offer.
        connected: Option<Timestamp>,
    },
    /// Outcome of a control.
    Result {
        /// As in the request.
        session: String,
        /// As in the request.
        command: String,
        /// Empty = done.
        error: String,
        /// The conversation after it; `None` when there is none.
        state: Option<ConversationState>,
    },
    /// A line of the transcript as it comes; not kept.
    Transcript(Box<TranscriptLine>),
}

/// A line of a live transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranscriptLine {
    /// Who spoke.
    pub speaker: Speaker,
    /// From, ms since the recording began.
    pub start_ms: u64,
    /// To, ms.
    pub end_ms: u64,
    /// What.
    pub text: String,
    /// False: a later line with the same speaker and start replaces it.
    pub is_final: bool,
}

/// A conversation as its agent has to see it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ConversationState {
    /// The agent has put the caller on hold.
    pub on_hold: bool,
    /// The agent is muted.
    pub muted: bool,
    /// A recording runs and is not paused.
    pub recording: bool,
    /// A recording runs and is paused.
    pub recording_paused: bool,
    /// The caller holds us.
    pub caller_held: bool,
    /// How often the call went to another media node.
    pub moves: u32,
    /// How far a consultation is.
    pub consultation: Consultation,
    /// Why the last one came to nothing, a word; empty = it did not.
    pub consult_error: &'static str,
    /// When this was so.
    pub at: Timestamp,
}

/// A consultation, as the agent whom it is told has it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Consultation {
    /// There is none: this agent has the caller alone.
    #[default]
    None,
    /// This agent has the caller, and waits for an agent of this queue.
    Waiting(QueueId),
    /// This agent has the caller, and the one of this display name is being consulted.
    With(String),
    /// This agent is being consulted by the one of this display name, who has the caller.
    By(String),
}
