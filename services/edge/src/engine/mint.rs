//! The ids of new calls. Every edge of a cluster makes the same id of the same INVITE, without asking anybody: a caller whose
//! edge died, or whose load balancer takes another way, and who sends the INVITE again to another edge, reaches the call that
//! it has made already, not a second one.
//!
//! The id follows from a keyed hash of what names the request whatever way it takes: trunk, Call-ID, From tag, CSeq number and
//! Request-URI. The Via is left out, since a proxy that changes to another edge makes a new branch (RFC 3263 section 4.3); the
//! Request-URI is in, since a proxy that tries one number after the other (serial forking) wants another call.
//!
//! Limits. The shard is drawn by the same hash among those whose owners take calls, so an edge that sees another map (an
//! owner has just died, begun to drain, or taken shards over) may make another id. The time within the id is rounded down to
//! [`WINDOW`], with a phase of each INVITE's own, so a repetition `d` later crosses a boundary with the probability
//! `d / WINDOW`: 0.4 % for 4 s. Peers that use the same identifiers again for another call (they must not) get another id once
//! the call is over ([`MAX_TRIES`]), and meet the call that is up until then.

use std::time::Duration;

use trunkline_cluster::{Placement, call_shard};
use trunkline_sip::Request;
use trunkline_types::{CallId, Timestamp};

use crate::token::TokenKey;

/// To this the time within an id is rounded.
const WINDOW: Duration = Duration::from_millis(1 << 20);
/// Ids that one INVITE may have, one after the other, when the calls of the former ones are over.
pub(super) const MAX_TRIES: u32 = 4;

/// The id of the call that `request` makes; `None` when nobody takes calls. `tries`: ids before it whose calls are over.
pub(super) fn call_id(
    key: &TokenKey,
    placement: &dyn Placement,
    trunk: &str,
    request: &Request,
    at: Timestamp,
    tries: u32,
) -> Option<CallId> {
    let headers = &request.headers;
    let call_id = headers.call_id().unwrap_or_default();
    let from = headers.from().ok().and_then(|from| from.tag()).unwrap_or_default();
    let cseq = headers.cseq().map(|cseq| cseq.number).unwrap_or_default();
    let digest = key.digest(
        "invite",
        &[
            trunk.as_bytes(),
            call_id.as_bytes(),
            from.as_bytes(),
            &cseq.to_be_bytes(),
            request.uri.to_string().as_bytes(),
            &tries.to_be_bytes(),
        ],
    );
    let word =
        |n: usize| digest[4 * n..4 * n + 4].iter().fold(0_u32, |value, byte| (value << 8) | u32::from(*byte));
    let entropy = (0..4).fold(0_u128, |value, n| (value << 32) | u128::from(word(n)));
    let shard = call_shard(placement, word(4) >> 1)?;
    Some(CallId::mint(shard, window(at, word(5)), entropy))
}

/// The beginning of the window that `at` is in.
fn window(at: Timestamp, phase: u32) -> Timestamp {
    let length = WINDOW.as_millis() as i64;
    let millis = at.as_millis().max(length);
    Timestamp::from_millis(millis - (millis + i64::from(phase)).rem_euclid(length))
}

/// Whether a call could be placed at all.
pub(super) fn is_possible(placement: &dyn Placement) -> bool {
    call_shard(placement, 0).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_what_is_near() {
        let ms = Timestamp::from_millis;
        let (mut crossed, now) = (0, 1_700_000_000_000_i64);
        for phase in 0..1_000_u32 {
            let phase = phase.wrapping_mul(2_654_435_761);
            let start = window(ms(now), phase);
            assert!(start <= ms(now) && ms(now).since(start) < WINDOW);
            crossed += u32::from(window(ms(now + 4_000), phase) != start);
        }
        assert!((1..12).contains(&crossed), "about 0.4 % cross a boundary within 4 s: {crossed} of 1,000");
    }
}
