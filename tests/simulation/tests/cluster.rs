//! A cluster of real cores under faults: 5,000 schedules keep every promise, and each rule left out is noticed.

mod common;

use trunkline_simulation::cluster::{Cluster, Mutations};

/// Seeds that once found something; they stay.
const REGRESSIONS: &[u64] = &[];

/// Proves the promises listed in `trunkline_simulation::cluster`.
#[test]
fn every_schedule_keeps_the_promises() {
    let (seeds, sum) = common::keeps_the_promises(&Cluster::default(), REGRESSIONS, 5_000);
    assert!(sum.conversations > seeds, "the schedules hardly talk: {sum:?}");
    assert!(sum.moves > seeds && sum.faults > seeds, "the schedules are hardly rough: {sum:?}");
    assert!(sum.refused > 0 && sum.ambiguous > 0, "nothing was ever refused or left open: {sum:?}");
}

/// Proves that the same seed is the same schedule.
#[test]
fn a_seed_is_one_schedule() {
    common::is_repeatable(&Cluster::default(), 10);
}

/// Runs one seed with its trace: `TRUNKLINE_SEED=n`.
#[test]
fn replay() {
    common::replay(&Cluster::default());
}

/// What a paused owner says late is told from what its successor says.
#[test]
fn a_missing_epoch_check_is_noticed() {
    let mutations = Mutations { no_epoch_check: true, ..Mutations::default() };
    common::is_noticed(&Cluster(mutations), "the epoch check", 500);
}

/// A late answer to a commit is not a reason to offer the call to somebody else.
#[test]
fn offering_anew_after_the_commit_is_noticed() {
    let mutations = Mutations { reoffer_after_commit: true, ..Mutations::default() };
    common::is_noticed(&Cluster(mutations), "keeping to the offer after its commit", 1_000);
}

/// Recovery is replay with outputs muted: what is over is not said again.
#[test]
fn a_replay_that_speaks_is_noticed() {
    let mutations = Mutations { replay_not_muted: true, ..Mutations::default() };
    common::is_noticed(&Cluster(mutations), "muting the replay", 500);
}

/// A place is what was committed, not what can be worked out again.
#[test]
fn places_given_out_anew_are_noticed() {
    let mutations = Mutations { place_recomputed: true, ..Mutations::default() };
    common::is_noticed(&Cluster(mutations), "the committed places", 500);
}
