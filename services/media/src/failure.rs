//! Why a command was not executed, on its way into a `MediaFailure`.

use trunkline_cluster::StaleEpoch;
use trunkline_media_core::{dtmf::DigitsError, sdp::SdpError};
use trunkline_proto::media::v1::{self as pb, media_failure::Kind, media_reply};

/// A refusal: kind and a text that names field and remedy.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind:?}: {message}")]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn overload(message: impl Into<String>) -> Self {
        Self::new(Kind::Overload, message)
    }
}

impl From<SdpError> for Failure {
    fn from(error: SdpError) -> Self {
        let kind = match &error {
            SdpError::Malformed(_) => Kind::MalformedSdp,
            SdpError::NoCommonCodec(_) => Kind::NoCommonCodec,
            SdpError::Unsupported(_) => Kind::UnsupportedTransport,
            SdpError::Mismatch(_) => Kind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<DigitsError> for Failure {
    fn from(error: DigitsError) -> Self {
        Self::new(if error == DigitsError::Full { Kind::Overload } else { Kind::Invalid }, error.to_string())
    }
}

impl From<StaleEpoch> for Failure {
    fn from(stale: StaleEpoch) -> Self {
        Self::new(Kind::StaleEpoch, format!("{stale}: another owner has the shard"))
    }
}

/// The outcome of a command.
pub(crate) type Done = Result<pb::MediaOk, Failure>;

/// The reply that carries an outcome.
pub(crate) fn reply(call_id: &str, command_id: u64, done: Done) -> pb::MediaReply {
    let result = match done {
        Ok(ok) => media_reply::Result::Ok(ok),
        Err(failure) => media_reply::Result::Failure(pb::MediaFailure {
            kind: failure.kind as i32,
            message: failure.message,
        }),
    };
    pb::MediaReply { call_id: call_id.to_owned(), command_id, result: Some(result) }
}
