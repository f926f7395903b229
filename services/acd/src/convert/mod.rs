//! Between the wire forms of `trunkline.acd.v1` and the types of the core. A message that cannot be read is dropped
//! by the caller, with the field that was wrong.

pub(crate) mod agent_event;
pub(crate) mod agent_message;
pub(crate) mod queue_event;
pub(crate) mod queue_message;
pub(crate) mod view;

use std::time::Duration;

use trunkline_acd_core::{Attributes, Outcome};
use trunkline_proto::acd::v1 as pb;
use trunkline_types::{ReleaseCause, Timestamp};

/// Which field of a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or malformed")]
pub(crate) struct Malformed(pub &'static str);

pub(crate) type Parsed<T> = Result<T, Malformed>;

pub(crate) fn parse<T: std::str::FromStr>(field: &'static str, text: &str) -> Parsed<T> {
    text.parse().map_err(|_| Malformed(field))
}

/// Absent when the text is empty.
pub(crate) fn parse_some<T: std::str::FromStr>(field: &'static str, text: &str) -> Parsed<Option<T>> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// 0 on the wire = none.
pub(crate) fn at_some(micros: i64) -> Option<Timestamp> {
    (micros != 0).then(|| Timestamp::from_micros(micros))
}

pub(crate) fn micros_some(at: Option<Timestamp>) -> i64 {
    at.map_or(0, Timestamp::as_micros)
}

pub(crate) fn span(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(crate) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn cause(name: &str) -> ReleaseCause {
    // Causes are additive: one of a newer version is a failure whose name we do not know.
    ReleaseCause::parse(name).unwrap_or(ReleaseCause::Internal)
}

pub(crate) fn outcome(wire: pb::OfferOutcome) -> Option<Outcome> {
    Some(match wire {
        pb::OfferOutcome::Answered => Outcome::Answered,
        pb::OfferOutcome::Missed => Outcome::Missed,
        pb::OfferOutcome::Declined => Outcome::Declined,
        pb::OfferOutcome::Failed => Outcome::Failed,
        pb::OfferOutcome::CallerGone => Outcome::CallerGone,
        pb::OfferOutcome::AgentGone => Outcome::AgentGone,
        pb::OfferOutcome::Unspecified | pb::OfferOutcome::Rejected => return None,
    })
}

pub(crate) fn outcome_to(outcome: Outcome) -> pb::OfferOutcome {
    match outcome {
        Outcome::Answered => pb::OfferOutcome::Answered,
        Outcome::Missed => pb::OfferOutcome::Missed,
        Outcome::Declined => pb::OfferOutcome::Declined,
        Outcome::Failed => pb::OfferOutcome::Failed,
        Outcome::CallerGone => pb::OfferOutcome::CallerGone,
        Outcome::AgentGone => pb::OfferOutcome::AgentGone,
    }
}

pub(crate) fn card(
    number: &str,
    name: &str,
    dialled: &str,
    attributes: &Attributes,
    consulted_by: &str,
) -> pb::CallCard {
    pb::CallCard {
        caller_number: number.to_owned(),
        caller_name: name.to_owned(),
        dialled: dialled.to_owned(),
        attributes: attributes.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        consulted_by: consulted_by.to_owned(),
    }
}
