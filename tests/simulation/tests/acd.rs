//! The reservation protocol under loss, duplication, reordering, pauses, crashes and takeovers: 20,000 schedules keep
//! every promise, and each of three rules left out is noticed.

mod common;

use trunkline_simulation::acd::{Acd, Mutations};

/// Seeds that once found something. They stay (and change their meaning only with the simulator itself; what they found
/// has a test of its own in the core besides).
/// 8524: a late duplicate of an enqueue was answered "left" while the call still rang.
/// 595: a leave that overtook its enqueue was forgotten in a crash.
const REGRESSIONS: &[u64] = &[8_524, 595];

/// Proves the promises listed in `trunkline_simulation::acd` over 20,000 schedules.
#[test]
fn every_schedule_keeps_the_promises() {
    let (seeds, sum) = common::keeps_the_promises(&Acd::default(), REGRESSIONS, 20_000);
    assert!(sum.conversations > seeds, "the schedules hardly talk: {sum:?}");
    assert!(sum.crashes > seeds, "the schedules hardly crash: {sum:?}");
}

/// Proves that the same seed is the same schedule.
#[test]
fn a_seed_is_one_schedule() {
    common::is_repeatable(&Acd::default(), 50);
}

/// Runs one seed with its trace: `TRUNKLINE_SEED=n`.
#[test]
fn replay() {
    common::replay(&Acd::default());
}

/// Without the epoch check an agent that has forgotten its tombstones in a crash takes an old offer.
#[test]
fn a_missing_epoch_check_is_noticed() {
    let mutations = Mutations { no_epoch_check: true, ..Mutations::default() };
    common::is_noticed(&Acd(mutations), "the epoch check", 20_000);
}

/// Without tombstones a late duplicate of a reservation and its commit ring a call that is elsewhere by now.
#[test]
fn missing_tombstones_are_noticed() {
    let mutations = Mutations { no_tombstones: true, ..Mutations::default() };
    common::is_noticed(&Acd(mutations), "tombstones", 20_000);
}

/// Offering a call anew because the answer to the commit is late makes it ring twice.
#[test]
fn offering_anew_after_the_commit_is_noticed() {
    let mutations = Mutations { reoffer_after_commit: true, ..Mutations::default() };
    common::is_noticed(&Acd(mutations), "keeping to the offer after its commit", 2_000);
}
