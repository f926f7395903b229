//! What a call decided, for the journal. Versioned and additive: a field is never given another meaning.

use trunkline_sip::{Dialog, Request};
use trunkline_types::{
    AgentId, FlowId, LegId, NodeId, OfferId, QueueId, RecordingId, ReleaseCause, Timestamp,
};

pub use crate::leg_quality::{Missing, Quality};
use crate::{
    input::{Destination, Route},
    media::Codec,
};

/// One event of a [`crate::Call`].
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When it was decided.
    pub at: Timestamp,
    /// What.
    pub body: EventBody,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "events are short-lived; Started comes once a call")]
pub enum EventBody {
    /// The INVITE that makes the call was taken.
    Started(Box<Started>),
    /// The media node that anchors the call.
    MediaSession {
        /// Which one.
        node: NodeId,
    },
    /// The call left its media node for another one; its legs follow one by one.
    MediaMoved {
        /// The node it was on.
        from: NodeId,
        /// The node it is on from now on.
        node: NodeId,
        /// Why.
        reason: MoveReason,
    },
    /// A leg's audio has followed to the new media node.
    LegMoved {
        /// Which one.
        leg: LegId,
        /// What is spoken on it now.
        codec: Option<Codec>,
    },
    /// A leg begins.
    LegAdded {
        /// Which one.
        leg: LegId,
        /// How it speaks.
        kind: LegKind,
        /// Whose it is.
        party: LegParty,
    },
    /// A leg has been answered.
    LegAnswered {
        /// Which one.
        leg: LegId,
        /// What is spoken on it.
        codec: Option<Codec>,
    },
    /// A leg is over.
    LegReleased {
        /// Which one.
        leg: LegId,
        /// Why.
        cause: ReleaseCause,
    },
    /// The whole state of a leg's SIP dialog.
    DialogChanged {
        /// Which leg.
        leg: LegId,
        /// The state from now on.
        state: Box<DialogState>,
    },
    /// A flow begins.
    FlowEntered {
        /// Which one.
        flow: FlowId,
        /// Which immutable version of it.
        version: u64,
    },
    /// Something happened in the flow.
    FlowStep {
        /// At which node.
        node: String,
        /// What.
        outcome: FlowOutcome,
    },
    /// Keys were pressed as input to the flow.
    DigitsReceived {
        /// From which leg.
        leg: LegId,
        /// How many; the digits themselves are not kept.
        count: u32,
        /// By which way the last one came.
        how: DigitsHow,
    },
    /// The call entered a queue.
    QueueEntered {
        /// Which one.
        queue: QueueId,
        /// Counts the call's stays in queues, from 0.
        entry: u32,
        /// The place: since when it counts as waiting.
        entered: Timestamp,
        /// -100 to 100.
        priority: i32,
    },
    /// The stay is over.
    QueueExited {
        /// Which queue.
        queue: QueueId,
        /// Which stay.
        entry: u32,
        /// How.
        outcome: QueueOutcome,
    },
    /// An agent picked up: audio is being set up.
    AgentConnecting {
        /// The conversation.
        offer: OfferId,
        /// The agent.
        agent: AgentId,
        /// The agent's leg.
        leg: LegId,
        /// The agent's display name.
        name: String,
        /// The queue that made the offer.
        queue: QueueId,
        /// The queue wants its conversations recorded.
        recording: bool,
        /// They must not go on without.
        recording_required: bool,
    },
    /// Caller and agent hear each other; or two agents, when there was an agent already: a consultation.
    AgentBridged {
        /// The conversation.
        offer: OfferId,
        /// The agent.
        agent: AgentId,
        /// The agent's leg.
        leg: LegId,
    },
    /// The agent's part is over, or never came about. Of two agents the consulted one gets the caller when the other goes.
    AgentReleased {
        /// The conversation.
        offer: OfferId,
        /// The agent.
        agent: AgentId,
        /// The agent's leg; `None` when the offer was given up before there was one.
        leg: Option<LegId>,
        /// Why.
        cause: ReleaseCause,
    },
    /// One side holds, or takes back.
    HoldChanged {
        /// Who.
        by: HoldBy,
        /// On or off.
        on_hold: bool,
    },
    /// An agent was muted or unmuted.
    MuteChanged {
        /// Whose leg; `None` in old events: of the agent who has the caller.
        leg: Option<LegId>,
        /// From now on.
        muted: bool,
    },
    /// A recording begins.
    RecordingStarted {
        /// Which one.
        recording: RecordingId,
        /// The recorded agent.
        agent: AgentId,
        /// The conversation must not go on without it.
        required: bool,
    },
    /// A recording cannot be written at present, or can again. Written when every node can read it
    /// ([`Feature::RecordingPolicy`](trunkline_types::Feature)).
    RecordingTrouble {
        /// Which one.
        recording: RecordingId,
        /// Why.
        reason: String,
        /// It is written again.
        over: bool,
    },
    /// A recording was paused, or goes on.
    RecordingPaused {
        /// Which one.
        recording: RecordingId,
        /// From now on.
        paused: bool,
    },
    /// A recording is stored and complete.
    RecordingFinished(Box<RecordingFinished>),
    /// A recording is not to be had.
    RecordingFailed {
        /// Which one.
        recording: RecordingId,
        /// Why.
        reason: String,
    },
    /// What becomes of the transcript.
    TranscriptStatus {
        /// Of which recording; `None` in old events: of the first one that is open.
        recording: Option<RecordingId>,
        /// The state from now on.
        status: TranscriptState,
        /// For people.
        detail: String,
    },
    /// A final piece of transcript, or a marked gap.
    TranscriptSegment(Box<TranscriptSegment>),
    /// Measured quality of a leg over its life.
    LegQuality {
        /// Which leg.
        leg: LegId,
        /// What was measured.
        quality: Quality,
    },
    /// The call is over for both parties. Recordings and measurements may still come in.
    Ended {
        /// Why.
        cause: ReleaseCause,
        /// Who ended it.
        by: EndedBy,
    },
}

/// How a call begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// The caller's number, empty when withheld.
    pub caller_number: String,
    /// The caller's display name.
    pub caller_name: String,
    /// What was dialled.
    pub dialled: String,
    /// The trunk, empty when none.
    pub trunk: String,
    /// The SIP Call-ID of the caller's leg.
    pub sip_call_id: String,
    /// The way to the caller.
    pub route: Route,
    /// What was dialled leads there.
    pub destination: Destination,
    /// The INVITE's server transaction.
    pub transaction: String,
    /// The INVITE itself: a recovered owner answers it.
    pub invite: Request,
    /// The Contact that the call presents.
    pub contact_uri: String,
}

/// Why a call leaves its media node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveReason {
    /// The node, or the session on it, is gone: audio stands still until the legs have followed.
    Lost,
    /// The node drains: its audio goes on until the legs have followed.
    Drained,
    /// The node cannot record, and the queue's calls must be: its audio goes on until the legs have followed.
    Unrecorded,
}

/// How a leg speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegKind {
    /// SIP and RTP.
    Sip,
    /// A browser.
    WebRtc,
}

/// Whose leg it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegParty {
    /// The caller's.
    Caller,
    /// This agent's.
    Agent(AgentId),
}

/// A SIP dialog with what belongs to it, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct DialogState {
    /// Tags, sequence numbers, route set, target.
    pub dialog: Dialog,
    /// The way to the peer.
    pub route: Route,
    /// Seconds of the session timer that the peer refreshes (RFC 4028); `None` = none.
    pub session_s: Option<u32>,
    /// A 2xx that was not acknowledged when this was written.
    pub answer: Option<Answer>,
}

/// A 2xx to an INVITE, kept until its ACK.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The INVITE's server transaction.
    pub transaction: String,
    /// The INVITE's CSeq number.
    pub cseq: u32,
    /// The 2xx.
    pub response: trunkline_sip::Response,
    /// It carries an offer of ours: the ACK brings the answer.
    pub offered: bool,
}

/// What happened at a node of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowOutcome {
    /// The call came to it.
    Entered,
    /// A choice was made, or the wanted digits were complete (their number, never the digits).
    Digits(String),
    /// Nothing was keyed in time.
    NoInput,
    /// What was keyed is not among the choices.
    Invalid,
    /// Attribute `name` was set.
    Set {
        /// 1 to 64 characters.
        name: String,
        /// At most 256 characters.
        value: String,
    },
    /// The node could not do its work.
    Error(String),
}

/// By which way digits came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigitsHow {
    /// RTP telephone-event.
    Rfc4733,
    /// SIP INFO.
    SipInfo,
}

/// How a stay in a queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueOutcome {
    /// By an agent.
    Answered,
    /// The caller hung up.
    Abandoned,
    /// The longest wait was over.
    TimedOut,
    /// The queue gave no place.
    Refused,
    /// The call or its place was lost.
    Lost,
    /// The flow took the call elsewhere.
    Flow,
}

/// Who holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldBy {
    /// The agent.
    Agent,
    /// The caller, by re-INVITE or UPDATE.
    Caller,
}

/// Who ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The caller.
    Caller,
    /// The agent.
    Agent,
    /// The flow, or the queue's rules.
    Flow,
    /// A network or a peer that went silent.
    Network,
    /// This system.
    System,
}

/// A stored recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingFinished {
    /// Which one.
    pub recording: RecordingId,
    /// Object key within the recordings' store.
    pub location: String,
    /// Length, ms.
    pub duration_ms: u64,
    /// Size, bytes.
    pub size_bytes: u64,
    /// SHA-256 of the object, lower-case hexadecimal.
    pub sha256: String,
    /// When the caller was on hold.
    pub holds: Vec<Span>,
    /// What is not in it, and why.
    pub gaps: Vec<Span>,
    /// Its media node was lost: this is what had been stored by then.
    pub salvaged: bool,
}

/// A span of a recording, ms since its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// From.
    pub start_ms: u64,
    /// To.
    pub end_ms: u64,
    /// A word.
    pub reason: String,
}

/// What becomes of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TranscriptState {
    /// No recogniser is configured.
    None,
    /// The recogniser listens.
    Started,
    /// The recogniser has said all it will.
    Finished,
    /// The recogniser refused or was lost.
    Failed,
}

/// A final piece of a transcript.
#[derive(Clone, Debug, PartialEq)]
pub struct TranscriptSegment {
    /// The recording on whose axis the times are.
    pub recording: RecordingId,
    /// Who spoke; `None` for a gap on both channels.
    pub speaker: Option<Speaker>,
    /// From, ms.
    pub start_ms: u64,
    /// To, ms.
    pub end_ms: u64,
    /// What was said; for a gap: why nothing is known.
    pub text: String,
    /// 0 to 1; negative = unknown.
    pub confidence: f32,
    /// No text: audio was not recognised.
    pub gap: bool,
}

/// A channel of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// Left.
    Caller,
    /// Right.
    Agent,
}
