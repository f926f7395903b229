//! Between `trunkline.*.v1` and the core. Unreadable input is an error that names the field; nothing is guessed.

mod dialog;
mod edge;
mod event;
mod event_read;
mod media;
mod parties;

pub(crate) use edge::{from_edge, to_edge};
pub(crate) use event::{decode, encode, kind};
pub(crate) use media::{acknowledge, from_event, from_reply, to_media};
pub(crate) use parties::{from_agent, from_queue, to_agent, to_queue};

use std::str::FromStr;

use trunkline_types::{ReleaseCause, Timestamp};

/// A field of a message cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(crate) struct Malformed {
    /// `message.field`.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

pub(crate) type Parsed<T> = Result<T, Malformed>;

pub(crate) fn malformed(field: &'static str, problem: impl Into<String>) -> Malformed {
    Malformed { field, problem: problem.into() }
}

pub(crate) fn missing(field: &'static str) -> Malformed {
    malformed(field, "is missing or newer than this version")
}

pub(crate) fn parse<T: FromStr>(field: &'static str, text: &str) -> Parsed<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| malformed(field, error.to_string()))
}

/// Microseconds since the Unix epoch.
pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// A release cause by name.
pub(crate) fn cause(field: &'static str, name: &str) -> Parsed<ReleaseCause> {
    ReleaseCause::parse(name).ok_or_else(|| malformed(field, format!("{name:?} is no release cause")))
}

/// Both directions of a closed set of names.
macro_rules! names {
    ($to:ident, $from:ident, $type:ty, $field:literal, { $($variant:pat => $name:literal = $value:expr),* $(,)? }) => {
        pub(super) fn $to(value: $type) -> &'static str {
            match value { $($variant => $name,)* }
        }
        pub(super) fn $from(name: &str) -> $crate::convert::Parsed<$type> {
            match name {
                $($name => Ok($value),)*
                _ => Err($crate::convert::malformed($field, format!("{name:?} is not known"))),
            }
        }
    };
}
pub(crate) use names;
