//! The agent protocol `trunkline.v1` as types: what is parsed and sent is what `/api/v1/agent/protocol.json` describes.

use serde_json::Value;

pub(crate) use super::data::*;

/// The WebSocket subprotocol.
pub(crate) const SUBPROTOCOL: &str = "trunkline.v1";
/// Version in `welcome`.
pub(crate) const VERSION: u32 = 1;
/// Largest frame from a client, bytes.
pub(crate) const MAX_FRAME_BYTES: usize = 256 * 1024;
/// Frames kept until they are acknowledged.
pub(crate) const MAX_UNACKNOWLEDGED: usize = 512;

/// Why the server closes a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// The node drains: connect again, another node answers.
    Draining,
    /// The client broke the protocol; the reason says how.
    Protocol,
    /// No valid session of a person: sign in.
    NotSignedIn,
    /// No frame from the client for too long.
    Idle,
    /// Another WebSocket resumed this session.
    Superseded,
}

impl CloseCode {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Draining, Self::Protocol, Self::NotSignedIn, Self::Idle, Self::Superseded];

    /// The number.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Draining => 1001,
            Self::Protocol => 4400,
            Self::NotSignedIn => 4401,
            Self::Idle => 4408,
            Self::Superseded => 4409,
        }
    }

    /// What a client should do.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Draining => "This node is being stopped. Connect again at once; another node answers.",
            Self::Protocol => {
                "The client broke the protocol; the close reason says how. Fix the client; it may connect again and resume."
            }
            Self::NotSignedIn => "No valid session of a person, or it ended. Sign in, then connect again.",
            Self::Idle => {
                "No frame from the client for 45 s. Connect again and resume; send ping every 10 s."
            }
            Self::Superseded => "Another WebSocket resumed this session. Do not connect again by yourself.",
        }
    }
}

/// Declares the messages of one direction: the parser or the list of types, their schemas and their documentation come
/// from the same lines.
macro_rules! client_messages {
    ($($(#[doc = $doc:literal])+ $name:literal => $variant:ident($data:ty),)+) => {
        /// What a client can send.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) enum ClientMessage {
            $($(#[doc = $doc])+ $variant($data),)+
        }

        impl ClientMessage {
            /// Reads the data of a message; `None` = there is no such type.
            pub(crate) fn read(kind: &str, data: Value) -> Option<Result<Self, DataError>> {
                match kind {
                    $($name => Some(read_data::<$data>(data).map(Self::$variant)),)+
                    _ => None,
                }
            }

            /// Name of the type.
            pub(crate) fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            /// Name, documentation and schema of each type.
            pub(crate) fn catalogue() -> Vec<MessageDoc> {
                vec![$(MessageDoc {
                    name: $name,
                    text: concat!($($doc),+).trim(),
                    schema: |generator| generator.subschema_for::<$data>(),
                }),+]
            }
        }
    };
}

macro_rules! server_messages {
    ($($(#[doc = $doc:literal])+ $name:literal => $constant:ident($data:ty),)+) => {
        /// Names of what the server sends.
        pub(crate) mod kind {
            $($(#[doc = $doc])+ pub(crate) const $constant: &str = $name;)+
        }

        /// Name, documentation and schema of each type from the server.
        pub(crate) fn server_catalogue() -> Vec<MessageDoc> {
            vec![$(MessageDoc {
                name: $name,
                text: concat!($($doc),+).trim(),
                schema: |generator| generator.subschema_for::<$data>(),
            }),+]
        }
    };
}

/// One message type as the documentation has it.
pub(crate) struct MessageDoc {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

client_messages! {
    /// First frame, within 5 s. Begins a session or resumes one. Answered by `welcome`.
    "hello" => Hello(Hello),
    /// Everything up to `seq` has been handled. At least every 2 s when something came; never answered.
    "ack" => Ack(Ack),
    /// Every 10 s. Answered by `pong`.
    "ping" => Ping(Empty),
    /// Take calls.
    "ready" => Ready(Empty),
    /// Take no calls.
    "not_ready" => NotReady(NotReady),
    /// What comes after the present call: ready, or not ready for a reason.
    "next" => Next(Next),
    /// End the agent's work; close the WebSocket after the result.
    "sign_out" => SignOut(Empty),
    /// Take the ringing call. The result carries the SDP answer.
    "accept" => Accept(Accept),
    /// Do not take the ringing call.
    "decline" => Decline(Decline),
    /// Audio to this page (again): after a reload, or taking over from another session. The result carries the SDP answer.
    "media_resume" => MediaResume(MediaResume),
    /// Put the caller on hold or take the caller back.
    "hold" => Hold(Switch),
    /// Mute or unmute the agent.
    "mute" => Mute(Switch),
    /// Send DTMF digits.
    "digits" => Digits(Digits),
    /// Pass the caller on to a queue. Done when it has given a place; refused with the agent still in the call when not.
    "transfer" => Transfer(ToQueue),
    /// Ask a queue for an agent to talk to, while the caller hears music. `call.consultation` tells how it goes on.
    "consult" => Consult(ToQueue),
    /// Leave the caller to the agent who is being consulted, or to the place in the queue.
    "transfer_complete" => TransferComplete(Empty),
    /// End the consultation and go back to the caller.
    "consult_cancel" => ConsultCancel(Empty),
    /// End the conversation; amid a consultation: `transfer_complete`.
    "hang_up" => HangUp(Empty),
    /// Pause or resume the recording.
    "pause_recording" => PauseRecording(Switch),
    /// Save the notes of a call; they replace what was saved.
    "notes" => Notes(Notes),
    /// Finish the wrap-up.
    "wrap_up_finish" => WrapUpFinish(WrapUpFinish),
    /// More time for the wrap-up.
    "wrap_up_extend" => WrapUpExtend(WrapUpExtend),
}

server_messages! {
    /// Answer to `hello`: which session this is, and whether it was resumed. When not, a `snapshot` follows.
    "welcome" => WELCOME(Welcome),
    /// The agent's whole state; replaces what was known.
    "snapshot" => SNAPSHOT(Snapshot),
    /// JSON merge patch (RFC 7396) to the last state. A field that is absent afterwards counts as null.
    "delta" => DELTA(Delta),
    /// The one answer to a command.
    "result" => RESULT(CommandResult),
    /// A call rings; the state says so too.
    "ring" => RING(Ring),
    /// Another session has the microphone now: close the peer connection.
    "microphone_lost" => MICROPHONE_LOST(MicrophoneLost),
    /// The call's audio is at another node now: make a new peer connection and send `media_resume` at once; keep the old
    /// one until the new one is connected.
    "media_moved" => MEDIA_MOVED(MediaMoved),
    /// A line of the live transcript. A line that is not final is replaced by the next one of the same channel and start.
    "transcript" => TRANSCRIPT(Transcript),
    /// Answer to `ping`.
    "pong" => PONG(Pong),
}

/// The data of a message does not have its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub(crate) struct DataError {
    /// Path within `data`; `data` itself when empty.
    pub(crate) field: String,
    /// What is wrong and what would be right.
    pub(crate) detail: String,
}

impl DataError {
    pub(crate) fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }
}

fn read_data<T: serde::de::DeserializeOwned>(data: Value) -> Result<T, DataError> {
    let data = if data.is_null() { Value::Object(serde_json::Map::new()) } else { data };
    // A list would pass for a structure, field by field.
    if !data.is_object() {
        return Err(DataError::new("data", "is not an object: see /api/v1/agent/protocol"));
    }
    serde_path_to_error::deserialize(data).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.inner().to_string();
        // A missing field is reported at its parent: name the field itself.
        let missing = inner.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let field = match (path.as_str(), missing) {
            (".", Some(field)) => field.to_owned(),
            (".", None) => "data".to_owned(),
            (parent, Some(field)) => format!("{parent}.{field}"),
            (path, None) => path.to_owned(),
        };
        DataError::new(field, inner)
    })
}
