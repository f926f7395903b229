//! What a call is told: by edges, its media node, queues, agents and the administration.

use trunkline_sip::{Request, Response};
use trunkline_types::{AgentId, FlowId, NodeId, OfferId, QueueId, ReleaseCause};

use crate::media::{MediaEvent, MediaReply};

/// One input of a [`crate::Call`].
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A SIP request: the INVITE that makes the call, an in-dialog request, or the ACK of a 2xx.
    Request(Box<Incoming>),
    /// The caller cancelled the INVITE of this server transaction; the edge has answered the CANCEL itself.
    Cancelled {
        /// The INVITE's server transaction.
        transaction: String,
        /// Content of the CANCEL's Reason header, empty when there was none.
        reason: String,
    },
    /// A response to a request of ours.
    Response {
        /// As named in [`crate::EdgeCommand::Request`].
        client_transaction: String,
        /// The response.
        response: Box<Response>,
    },
    /// A transaction came to nothing.
    TransactionFailed {
        /// Client or server transaction.
        transaction: String,
        /// How.
        failure: TransactionFailure,
    },
    /// A media node's answer to a command.
    MediaReply(Box<MediaReply>),
    /// Something happened on the media node.
    MediaEvent {
        /// On which node, when that is known: what a node says that the call has left concerns little.
        node: Option<NodeId>,
        /// Unique on its node: an id that was seen is dropped.
        id: u64,
        /// The node repeats it until it is acknowledged.
        acknowledge: bool,
        /// What happened.
        event: Box<MediaEvent>,
    },
    /// From a queue.
    Queue {
        /// Which queue.
        queue: QueueId,
        /// Which stay of the call in that queue; meaningless for [`QueueSignal::Acknowledged`].
        entry: u32,
        /// What it says.
        signal: QueueSignal,
    },
    /// From an agent.
    Agent {
        /// Which agent.
        agent: AgentId,
        /// The conversation it is about.
        offer: OfferId,
        /// What is asked.
        request: AgentRequest,
    },
    /// The administration ends the call.
    Release(ReleaseCause),
    /// This media node is no member of the cluster any more, or came back without its sessions.
    MediaNodeLost(NodeId),
    /// This media node drains: the call leaves it when it is there.
    LeaveMediaNode(NodeId),
}

/// A SIP request as an edge took it.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// The edge's server transaction; empty for ACK.
    pub transaction: String,
    /// The request.
    pub request: Request,
    /// How the dialog's peer was reached: answers and our own requests go the same way.
    pub route: Route,
    /// Only for the INVITE that makes the call.
    pub new_call: Option<Box<NewCall>>,
}

/// The way to the SIP peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The edge that holds the transaction.
    pub edge: NodeId,
    /// Where the request came from, `192.0.2.1:5060`.
    pub source: String,
    /// Over what: `udp`, `tcp`, `tls`, `ws`, `wss`.
    pub transport: String,
}

/// What the edge found out about the INVITE that makes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCall {
    /// What was dialled, normalised.
    pub dialled: String,
    /// What it leads to.
    pub destination: Destination,
    /// The caller's number, empty when withheld.
    pub caller_number: String,
    /// The caller's display name, empty when none.
    pub caller_name: String,
    /// The Contact that the call presents; carries the call's token.
    pub contact_uri: String,
    /// The trunk on which it came, empty when none.
    pub trunk: String,
}

/// Where a call goes after it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Straight to a queue.
    Queue(QueueId),
    /// Into a flow.
    Flow(FlowId),
}

/// How a transaction came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionFailure {
    /// No final response in 64*T1.
    Timeout,
    /// The peer could not be reached.
    Transport,
    /// A final answer of ours was never acknowledged.
    NoAck,
}

/// What a queue says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueSignal {
    /// Answer to `Enqueue`: the place is committed.
    Queued {
        /// Callers in front of this one.
        position: u32,
    },
    /// Answer to `Enqueue`: no place.
    Refused(RefusedReason),
    /// The entry is gone from the queue (answer to `Leave`).
    Left,
    /// The longest wait that the queue allows is over.
    TimedOut,
    /// Answer to `Answered` and `ConnectFailed` of this offer.
    Acknowledged(OfferId),
    /// Does the call still wait? Answered by `Alive` or `Gone`.
    Ask,
}

/// Why a queue gave no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// As many wait as may.
    QueueFull,
    /// The queue takes no calls now.
    Closed,
    /// There is no such queue.
    UnknownQueue,
}

impl RefusedReason {
    /// The cause with which a call ends that has nowhere else to go.
    pub const fn release_cause(self) -> ReleaseCause {
        match self {
            Self::QueueFull | Self::Closed => ReleaseCause::QueueFull,
            Self::UnknownQueue => ReleaseCause::UnknownNumber,
        }
    }
}

/// What an agent asks of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentRequest {
    /// The agent picked up: set up audio and bridge. Repeated until answered.
    Connect {
        /// The console session that made the offer.
        session: String,
        /// The browser's SDP offer.
        sdp_offer: String,
        /// For the record.
        agent_name: String,
        /// The queue that made the offer.
        queue: QueueId,
        /// The queue wants its calls recorded.
        recording: bool,
        /// They must not go on without.
        recording_required: bool,
    },
    /// Never connect this offer unless it is connected already. Answered like `Connect`.
    GiveUp,
    /// A new peer connection for the agent's leg.
    RemakeMedia {
        /// The console session that made the offer.
        session: String,
        /// Unique within the session.
        request: String,
        /// The browser's SDP offer.
        sdp_offer: String,
    },
    /// Something to do with the conversation.
    Control {
        /// The console session it came from.
        session: String,
        /// Unique within the session: a repeated one is answered again, not done again.
        command: String,
        /// What.
        control: Control,
    },
    /// Is the conversation still there?
    AskAlive,
    /// Answer to [`crate::AgentNotice::Ended`].
    EndedAck,
}

/// What an agent can do with a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Put the caller on hold, or take the caller back.
    Hold(bool),
    /// Let nothing from the agent reach the caller.
    Mute(bool),
    /// Send digits to the caller's side.
    Digits(String),
    /// End the call.
    HangUp,
    /// Pause the recording, or go on with it.
    PauseRecording(bool),
    /// Pass the caller on to a queue, as soon as it has given a place (blind transfer).
    Transfer(QueueId),
    /// Ask a queue for an agent to talk to, while the caller hears music.
    Consult(QueueId),
    /// Leave the caller to the agent who is being consulted, or to the place in the queue (attended transfer).
    CompleteTransfer,
    /// End the consultation and go back to the caller.
    CancelConsult,
}
