//! Commands to the media node, its answers and its events, as the call sees them.

use bytes::Bytes;
use trunkline_types::{CallId, LegId, NodeId, RecordingId};

use crate::event::{Quality, Span, Speaker, TranscriptState};

/// A command; executed at most once per `id`, however often it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaCommand {
    /// Unique within the call and ascending, also across a recovery.
    pub id: u64,
    /// What to do.
    pub body: MediaBody,
}

/// What a media node is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaBody {
    /// An RTP endpoint for a SIP leg; without SDP the reply carries our offer.
    CreateRtp {
        /// The leg.
        leg: LegId,
        /// The party's offer, or empty.
        sdp: Bytes,
        /// Where the signalling comes from: media behind NAT are learnt from it.
        signalling_ip: String,
        /// The last SDP of this dialog from another node, whose origin is continued (RFC 3264 section 8); or empty.
        former_sdp: Bytes,
        /// The Call-ID of the dialog, or empty.
        sip_call_id: String,
    },
    /// The answer to an offer of ours.
    SetRemote {
        /// The leg.
        leg: LegId,
        /// The party's answer.
        sdp: Bytes,
    },
    /// An offer of the party in a dialog that stands; the reply carries the answer.
    Renegotiate {
        /// The leg.
        leg: LegId,
        /// The party's offer.
        sdp: Bytes,
    },
    /// An offer of ours in a dialog that stands.
    CreateOffer {
        /// The leg.
        leg: LegId,
    },
    /// A browser's leg; the reply carries the answer.
    CreateWebRtc {
        /// The leg.
        leg: LegId,
        /// The browser's offer.
        sdp: String,
        /// What the other party speaks, to save transcoding.
        prefer: Option<Codec>,
    },
    /// The same leg with a new peer connection; made when it does not exist.
    ReplaceWebRtc {
        /// The leg.
        leg: LegId,
        /// The browser's offer.
        sdp: String,
        /// What the other party speaks.
        prefer: Option<Codec>,
    },
    /// Ends one leg's audio.
    CloseEndpoint {
        /// The leg.
        leg: LegId,
    },
    /// Ends all audio, recordings and transcriptions of the call.
    CloseSession,
    /// What a party hears.
    SetProgram {
        /// The leg.
        leg: LegId,
        /// From now on.
        program: Program,
    },
    /// Both hear each other.
    Bridge {
        /// One leg.
        a: LegId,
        /// The other.
        b: LegId,
    },
    /// Nothing of the party's audio is forwarded.
    SetMuted {
        /// The leg.
        leg: LegId,
        /// From now on.
        muted: bool,
    },
    /// Digits towards the party, RFC 4733.
    SendDigits {
        /// The leg.
        leg: LegId,
        /// `0-9 * # A-D`.
        digits: String,
    },
    /// Stereo recording from now on.
    StartRecording {
        /// Which one.
        recording: RecordingId,
        /// The caller's leg, left.
        left: LegId,
        /// The agent's leg, right.
        right: LegId,
    },
    /// Marks a hold in the recording.
    MarkHold {
        /// Which one.
        recording: RecordingId,
        /// Begins or ends.
        on: bool,
    },
    /// Silence instead of audio from now on, or audio again.
    PauseRecording {
        /// Which one.
        recording: RecordingId,
        /// From now on.
        paused: bool,
        /// The node resumes by itself after this long, ms.
        resume_after_ms: u32,
    },
    /// Ends a recording.
    StopRecording {
        /// Which one.
        recording: RecordingId,
    },
    /// Both channels to the recogniser; named like the recording.
    StartTranscription {
        /// Which one.
        recording: RecordingId,
        /// The caller's leg, left.
        left: LegId,
        /// The agent's leg, right.
        right: LegId,
        /// BCP 47, empty = the recogniser's default.
        language: String,
        /// Expected words and phrases.
        phrases: Vec<String>,
    },
    /// Ends a transcription.
    StopTranscription {
        /// Which one.
        recording: RecordingId,
    },
    /// Puts together what is stored of a recording whose node is gone. Needs no session.
    Salvage {
        /// Which one.
        recording: RecordingId,
        /// The node that made it.
        node: NodeId,
    },
    /// What is there? After a recovery.
    ListSessions,
}

impl MediaBody {
    /// True for what makes an endpoint.
    pub const fn creates(&self) -> bool {
        matches!(self, Self::CreateRtp { .. } | Self::CreateWebRtc { .. } | Self::ReplaceWebRtc { .. })
    }
}

/// What a party hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Nothing.
    Silence,
    /// Music of this name; goes on where it stopped.
    Music(String),
    /// Prompts, then something else.
    Play(Box<Play>),
    /// What this leg's party says.
    PeerOf(LegId),
}

/// Prompts one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    /// Names, at least one.
    pub prompts: Vec<String>,
    /// What comes after; not another `Play`.
    pub then: Program,
    /// Comes back when it ended.
    pub token: String,
    /// A key ends it.
    pub interruptible: bool,
    /// Mixed over the music that plays now.
    pub over_music: bool,
}

/// A codec spoken on a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
}

impl Codec {
    /// The encoding name of RFC 3551.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }

    /// The inverse of [`Codec::as_str`].
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Pcmu, Self::Pcma].into_iter().find(|codec| codec.as_str() == name)
    }
}

/// Direction of audio as the node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    SendRecv,
    /// The node sends, the party does not.
    SendOnly,
    /// The party does not listen: it holds us.
    RecvOnly,
    /// Neither way: it holds us.
    Inactive,
}

impl Direction {
    /// True when the party holds us.
    pub const fn held(self) -> bool {
        matches!(self, Self::RecvOnly | Self::Inactive)
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaReply {
    /// The command.
    pub command: u64,
    /// How it went.
    pub result: Result<MediaOk, MediaFailure>,
}

/// Done.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct MediaOk {
    /// Answer or offer, where the command gives one.
    pub sdp: Bytes,
    /// As negotiated.
    pub codec: Option<Codec>,
    /// As negotiated.
    pub direction: Option<Direction>,
    /// Answer to [`MediaBody::ListSessions`].
    pub sessions: Vec<SessionInfo>,
    /// Answer to [`MediaBody::StartRecording`]: nobody transcribes on that node.
    pub no_recogniser: bool,
}

/// Not done.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaFailure {
    /// What kind.
    pub kind: MediaFailureKind,
    /// For people: names field and remedy.
    pub message: String,
}

/// Why a command was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaFailureKind {
    /// Another owner has the shard.
    StaleEpoch,
    /// The SDP cannot be read.
    MalformedSdp,
    /// No codec in common.
    NoCommonCodec,
    /// No RTP/AVP audio in the offer.
    UnsupportedTransport,
    /// No room.
    Overload,
    /// The session is gone.
    UnknownSession,
    /// The endpoint is gone.
    UnknownEndpoint,
    /// No such prompt.
    UnknownPrompt,
    /// The command does not fit.
    Invalid,
    /// It exists already.
    Conflict,
    /// RFC 4733 is not negotiated.
    NoTelephoneEvent,
    /// The node takes no new sessions.
    ShuttingDown,
    /// A defect.
    Internal,
}

/// A session on a media node.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionInfo {
    /// Whose.
    pub call: CallId,
    /// Its endpoints.
    pub endpoints: Vec<EndpointInfo>,
    /// The recording that runs.
    pub recording: Option<RecordingId>,
    /// A transcription runs.
    pub transcribing: bool,
}

/// An endpoint on a media node.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointInfo {
    /// The leg.
    pub leg: LegId,
    /// Audio or ICE is alive.
    pub connected: bool,
    /// As negotiated.
    pub codec: Option<Codec>,
    /// As negotiated.
    pub direction: Option<Direction>,
    /// The last SDP that the node gave.
    pub local_sdp: Bytes,
}

/// What happened on a media node.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaEvent {
    /// One key, once.
    Digit {
        /// The leg.
        leg: LegId,
        /// `0-9 * # A-D`.
        digit: char,
    },
    /// A [`Program::Play`] ended.
    PlaybackFinished {
        /// The leg.
        leg: LegId,
        /// As in the command.
        token: String,
    },
    /// Audio is alive.
    Connected {
        /// The leg.
        leg: LegId,
    },
    /// Audio is gone.
    Disconnected {
        /// The leg.
        leg: LegId,
        /// Why.
        reason: Disconnect,
    },
    /// Measured; only the last one of a leg is kept.
    Quality {
        /// The leg.
        leg: LegId,
        /// The endpoint has been closed.
        last: bool,
        /// What was measured.
        quality: Quality,
    },
    /// A recording is stored and complete.
    RecordingFinished(Box<RecordedObject>),
    /// A recording cannot be written at present, or can again.
    RecordingTrouble {
        /// Which one.
        recording: RecordingId,
        /// Why.
        reason: String,
        /// It is written again.
        over: bool,
    },
    /// A recording is not to be had.
    RecordingFailed {
        /// Which one.
        recording: RecordingId,
        /// Why.
        reason: String,
    },
    /// A piece of transcript.
    TranscriptSegment {
        /// Named like the recording.
        recording: RecordingId,
        /// Who spoke.
        speaker: Speaker,
        /// From, ms.
        start_ms: u64,
        /// To, ms.
        end_ms: u64,
        /// What.
        text: String,
        /// 0 to 1; negative = unknown.
        confidence: f32,
        /// False: only shown; a later one with the same speaker and start replaces it.
        is_final: bool,
    },
    /// Audio that did not reach the recogniser.
    TranscriptGap {
        /// Named like the recording.
        recording: RecordingId,
        /// From, ms.
        start_ms: u64,
        /// To, ms.
        end_ms: u64,
        /// Why.
        reason: String,
    },
    /// The recogniser's state.
    TranscriptStatus {
        /// Named like the recording.
        recording: RecordingId,
        /// The state.
        state: TranscriptState,
        /// For people.
        detail: String,
    },
    /// The node ended the session by itself.
    SessionEnded {
        /// The node is going away (otherwise: nobody had asked for the session for minutes).
        shutdown: bool,
    },
    /// Nobody has asked for the session for a while: is it still wanted? Acknowledging says so.
    Unattended,
    /// Nothing that concerns a call; it is only acknowledged.
    Other,
}

/// Why audio is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// Nothing was heard for the node's configured time.
    NoRtp,
    /// The browser sends no STUN any more.
    Ice,
    /// The browser closed its connection.
    Closed,
    /// DTLS or ICE failed.
    Failed,
    /// RTP pauses while ICE is alive.
    Paused,
}

/// What a media node says of a stored recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedObject {
    /// Which one.
    pub recording: RecordingId,
    /// Object key.
    pub key: String,
    /// Length, ms.
    pub duration_ms: u64,
    /// Size, bytes.
    pub size_bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
    /// When the caller was on hold.
    pub holds: Vec<Span>,
    /// What is missing.
    pub gaps: Vec<Span>,
    /// Found after its node was lost, and put together from what was stored.
    pub salvaged: bool,
}
