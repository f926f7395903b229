//! What the API answers, as types; made from the records role's messages.

mod cluster;
mod contact;
mod live;

pub(super) use cluster::ClusterOverview;
pub(super) use contact::{Contact, ContactPage};
pub(super) use live::{Intervals, LiveSnapshot};

use crate::clock::ms;

fn none_if_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The records role says "none" by a negative number.
fn known(number: f64) -> Option<f64> {
    (number.is_finite() && number >= 0.0).then_some(number)
}

fn seconds(us: i64) -> f64 {
    ms(us) as f64 / 1_000.0
}

fn all<A, B: From<A>>(list: Vec<A>) -> Vec<B> {
    list.into_iter().map(Into::into).collect()
}
