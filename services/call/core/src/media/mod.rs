//! The media node of a call: one command at a time, repeated until it is answered.

mod events;
mod link;
mod message;
mod outcome;
mod side;

pub(crate) use link::{MediaLink, Then};
pub use message::{
    Codec, Direction, Disconnect, EndpointInfo, MediaBody, MediaCommand, MediaEvent, MediaFailure,
    MediaFailureKind, MediaOk, MediaReply, Play, Program, RecordedObject, SessionInfo,
};
