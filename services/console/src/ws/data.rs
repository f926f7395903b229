//! Data of the protocol's messages.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::merge_patch::{as_a_whole, by_fields};

/// No data.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Empty {}

/// Data of `hello`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Hello {
    /// The session to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resume: Option<Resume>,
    /// Name and version of the client, for logs.
    #[schemars(length(max = 128))]
    pub(crate) client: String,
    /// Counts this client's connections of the session, from 1, over all addresses: by it the newest one is known when
    /// several nodes believe to have the session. 0 or absent = the client does not count.
    #[serde(default)]
    pub(crate) connection: u64,
    /// From `welcome`, for a console of another origin, where the cookie of the first one is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub(crate) ticket: Option<String>,
}

/// Which session, and how far it was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Resume {
    /// From `welcome`.
    #[schemars(length(max = 64))]
    pub(crate) session: String,
    /// The last `seq` that was handled; later frames come again.
    pub(crate) last_seq: u64,
}

/// Data of `ack`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Ack {
    /// The last `seq` that was handled.
    pub(crate) seq: u64,
}

/// Data of `not_ready`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct NotReady {
    /// One of `not_ready_reasons`, or another text.
    #[schemars(length(min = 1, max = 64))]
    pub(crate) reason: String,
}

/// Data of `next`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Next {
    /// Ready after the call.
    pub(crate) ready: bool,
    /// Needed when not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub(crate) reason: Option<String>,
}

/// Data of `accept`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Accept {
    /// From `ring` or the state.
    #[schemars(length(min = 1, max = 128))]
    pub(crate) offer_id: String,
    /// SDP offer (RFC 8866) with one audio section, made without waiting for candidates.
    #[schemars(length(min = 1, max = 65536))]
    pub(crate) sdp: String,
}

/// Data of `decline`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Decline {
    /// From `ring` or the state.
    #[schemars(length(min = 1, max = 128))]
    pub(crate) offer_id: String,
}

/// Data of `media_resume`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct MediaResume {
    /// SDP offer with one audio section.
    #[schemars(length(min = 1, max = 65536))]
    pub(crate) sdp: String,
    /// Also when another session has the microphone.
    pub(crate) take_over: bool,
}

/// Data of `hold`, `mute` and `pause_recording`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Switch {
    /// On or off.
    pub(crate) on: bool,
}

/// Data of `digits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Digits {
    /// 1 to 32 of 0–9, *, # and A–D.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[0-9*#A-D]{1,32}$"))]
    pub(crate) digits: String,
}

/// Data of `transfer` and `consult`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ToQueue {
    /// One of `transfer_queues`.
    #[schemars(length(min = 1, max = 64))]
    pub(crate) queue_id: String,
}

/// Data of `notes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Notes {
    /// From the state.
    pub(crate) call_id: String,
    /// At most 16,384 bytes of UTF-8.
    #[schemars(length(max = 16384))]
    pub(crate) notes: String,
}

/// Data of `wrap_up_finish`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WrapUpFinish {
    /// One of `call.dispositions`; needed when `call.disposition_required`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub(crate) disposition: Option<String>,
    /// At most 16.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    pub(crate) tags: Vec<String>,
    /// Replaces the saved notes; without it they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub(crate) notes: Option<String>,
}

/// Data of `wrap_up_extend`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WrapUpExtend {
    /// From now on.
    #[schemars(range(min = 1, max = 3600))]
    pub(crate) seconds: u32,
}

/// Data of `welcome`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Welcome {
    /// Name of the session, for `resume`.
    pub(crate) session: String,
    /// True: the frames after `last_seq` follow. False: numbering begins at 1 with this frame, and a snapshot follows. When
    /// the name is that of before, the session goes on all the same (at another node): it keeps the microphone, and commands
    /// without a result can be sent again with their ids, they are done once.
    pub(crate) resumed: bool,
    /// The server's clock, milliseconds since the Unix epoch.
    pub(crate) server_ms: i64,
    /// Version of the protocol.
    pub(crate) protocol: u32,
    /// Who is signed in.
    pub(crate) user: User,
    /// Reasons to offer with `not_ready`.
    pub(crate) not_ready_reasons: Vec<String>,
    /// Queues to which a caller can be passed on.
    pub(crate) transfer_queues: Vec<TransferQueue>,
    /// Send `ping` this often, seconds.
    pub(crate) keepalive_s: u32,
    /// Origins of other consoles, to connect to when this one is gone. Absent where a load balancer stands in front.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) alternates: Vec<String>,
    /// For `hello` at an alternate: opens this WebSocket there and nothing else, until the sign-in ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ticket: Option<String>,
}

/// A queue to which a caller can be passed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TransferQueue {
    /// For `transfer` and `consult`.
    pub(crate) id: String,
    /// As people read it.
    pub(crate) name: String,
}

/// Who is signed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct User {
    /// Sign-in name.
    pub(crate) name: String,
    /// What others read.
    pub(crate) display_name: String,
    /// Roles.
    pub(crate) roles: Vec<crate::ports::Role>,
    /// Tenant.
    pub(crate) tenant: String,
    /// The agent that the account acts as.
    pub(crate) agent_id: Option<String>,
}

/// State of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AgentState {
    SignedOut,
    NotReady,
    Ready,
    Ringing,
    Connecting,
    Talking,
    WrapUp,
}

/// Data of `snapshot`. Times are milliseconds since the Unix epoch by the server's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Snapshot {
    /// The server's clock when this was made.
    pub(crate) server_ms: i64,
    /// The state.
    pub(crate) state: AgentState,
    /// Why not ready; empty otherwise.
    pub(crate) reason: String,
    /// Beginning of the state.
    pub(crate) since_ms: i64,
    /// End of a state that ends by itself (ringing, connecting, wrap-up).
    pub(crate) until_ms: Option<i64>,
    /// Set while ringing, connecting, talking and in wrap-up.
    pub(crate) call: Option<CallView>,
    /// What comes after the call; null = ready.
    pub(crate) next: Option<NextView>,
    /// Session that has the microphone.
    pub(crate) microphone: Option<String>,
    /// All sessions of this agent.
    pub(crate) sessions: Vec<String>,
    /// Queues that the agent serves.
    pub(crate) queues: Vec<String>,
}

/// The call in front of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CallView {
    /// Id of the call and of its record.
    pub(crate) call_id: String,
    /// Id of this offer.
    pub(crate) offer_id: String,
    /// Queue.
    pub(crate) queue_id: String,
    /// Queue as people read it.
    pub(crate) queue_name: String,
    /// As presented; any text.
    pub(crate) caller_number: String,
    /// As presented; any text.
    pub(crate) caller_name: String,
    /// What was dialled.
    pub(crate) dialled: String,
    /// Set by the flow.
    pub(crate) attributes: BTreeMap<String, String>,
    /// When the caller entered the queue.
    pub(crate) entered_ms: i64,
    /// When both were connected.
    pub(crate) connected_ms: Option<i64>,
    /// The agent put the caller on hold.
    pub(crate) on_hold: bool,
    /// The agent is muted.
    pub(crate) muted: bool,
    /// Whether the call is recorded.
    pub(crate) recording: RecordingState,
    /// The caller put the agent on hold.
    pub(crate) caller_held: bool,
    /// As saved.
    pub(crate) notes: String,
    /// A wrap-up can only be finished with a disposition.
    pub(crate) disposition_required: bool,
    /// To choose from.
    pub(crate) dispositions: Vec<String>,
    /// Display name of the agent who has the caller and asks for this one; null = the caller waits alone.
    pub(crate) consulted_by: Option<String>,
    /// The consultation of another agent; null = there is none.
    pub(crate) consultation: Option<ConsultationView>,
    /// How often the call's media has moved to another node: an audio connection made before the last move is dead, or about
    /// to be.
    pub(crate) media_generation: u32,
}

by_fields!(Snapshot {
    server_ms,
    state,
    reason,
    since_ms,
    until_ms,
    call,
    next,
    microphone,
    sessions,
    queues,
});
by_fields!(CallView {
    call_id,
    offer_id,
    queue_id,
    queue_name,
    caller_number,
    caller_name,
    dialled,
    attributes,
    entered_ms,
    connected_ms,
    on_hold,
    muted,
    recording,
    caller_held,
    notes,
    disposition_required,
    dispositions,
    consulted_by,
    consultation,
    media_generation,
});
as_a_whole!(AgentState, RecordingState, Option<NextView>, Option<ConsultationView>);

/// A consultation of another agent, or by one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ConsultationView {
    /// How far it is.
    pub(crate) state: ConsultationState,
    /// `waiting`: id of the queue; `with`, `by`: display name of the other agent; `failed`: why, a word.
    pub(crate) party: String,
}

/// How far a consultation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConsultationState {
    /// For an agent of a queue is waited.
    Waiting,
    /// This agent has the caller and talks to the other one.
    With,
    /// The other agent has the caller.
    By,
    /// It came to nothing.
    Failed,
}

/// Whether a call is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecordingState {
    Off,
    On,
    /// By the agent, who can resume it.
    Paused,
}

/// What comes after the call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct NextView {
    /// Ready or not.
    pub(crate) ready: bool,
    /// Why not ready.
    pub(crate) reason: String,
}

/// Data of `delta`: an object with those fields of the state that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Delta(pub(crate) BTreeMap<String, Value>);

/// Data of `result`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CommandResult {
    /// Done or not.
    pub(crate) ok: bool,
    /// Code when not done: `invalid`, `unknown_type`, `timeout`, `busy`, `unavailable`, `too_many_commands`, or one of the agent's (`not_ringing`, `illegal_state`, `microphone_taken`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The error in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// The field of `data` that is wrong, with `invalid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// SDP answer, for `accept` and `media_resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sdp: Option<String>,
}

/// Data of `ring`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Ring {
    /// The offer to accept or decline.
    pub(crate) offer_id: String,
}

/// Data of `microphone_lost`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct MicrophoneLost {
    /// Who has it now.
    pub(crate) to_session: String,
}

/// Data of `media_moved`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct MediaMoved {
    /// The call's offer.
    pub(crate) offer_id: String,
    /// How often the media has moved; a repeated one is no news.
    pub(crate) generation: u32,
}

/// Data of `transcript`. Times are milliseconds since the beginning of the recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Transcript {
    /// The call.
    pub(crate) call_id: String,
    /// `caller` or `agent`.
    pub(crate) channel: String,
    /// Beginning of the segment.
    pub(crate) start_ms: i64,
    /// End of the segment.
    pub(crate) end_ms: i64,
    /// What was understood.
    pub(crate) text: String,
    /// Will not change any more.
    #[serde(rename = "final")]
    pub(crate) is_final: bool,
}

/// Data of `pong`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Pong {
    /// The server's clock, milliseconds since the Unix epoch.
    pub(crate) server_ms: i64,
}
