//! A cluster of real cores under faults: 5,000 schedules keep every promise, and each rule left out is noticed.

mod common;

use trunkline_simulation::cluster::{Cluster, Mutations};

/// Seeds that once found something. They stay (and change their meaning only with the simulator itself; what they found has
/// a test of its own in the core besides).
/// 25357: a call came back to a media node on which the leg of an agent of its former stay was left.
/// 289: a call came back to a queue that did not know yet that it had been answered there, and counted as gone.
/// 78804: all media nodes were cut off for a moment before the answer, and the one that was back was not asked again.
const REGRESSIONS: &[u64] = &[25_357, 289, 78_804];

/// Proves the promises listed in `trunkline_simulation::cluster`.
#[test]
fn every_schedule_keeps_the_promises() {
    let (seeds, sum) = common::keeps_the_promises(&Cluster::default(), REGRESSIONS, 5_000);
    assert!(sum.conversations > seeds, "the schedules hardly talk: {sum:?}");
    assert!(sum.consultations * 10 > seeds && sum.transfers * 5 > seeds, "hardly a transfer: {sum:?}");
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

fn is_noticed(what: &str, mutations: Mutations) {
    common::is_noticed(&Cluster(mutations), what, 5_000);
}

/// What a paused owner says late is told from what its successor says.
#[test]
fn a_missing_epoch_check_is_noticed() {
    is_noticed("the epoch check", Mutations { no_epoch_check: true, ..Mutations::default() });
}

/// A late answer to a commit is not a reason to offer the call to somebody else.
#[test]
fn offering_anew_after_the_commit_is_noticed() {
    is_noticed("keeping an offer", Mutations { reoffer_after_commit: true, ..Mutations::default() });
}

/// Recovery is replay with outputs muted: what is over is not said again.
#[test]
fn a_replay_that_speaks_is_noticed() {
    is_noticed("muting the replay", Mutations { replay_not_muted: true, ..Mutations::default() });
}

/// A place is what was committed, not what can be worked out again.
#[test]
fn places_given_out_anew_are_noticed() {
    is_noticed("committed places", Mutations { place_recomputed: true, ..Mutations::default() });
}

/// A new owner raises the epoch: two owners at the same one are not told apart.
#[test]
fn a_seal_that_keeps_the_epoch_is_noticed() {
    is_noticed("raising the epoch", Mutations { seal_keeps_epoch: true, ..Mutations::default() });
}

/// The journal refuses who was sealed out, even if what he writes follows what is there.
#[test]
fn a_journal_without_a_fence_is_noticed() {
    is_noticed("the journal's fence", Mutations { journal_unfenced: true, ..Mutations::default() });
}

/// Commit, then act.
#[test]
fn acting_before_the_commit_is_noticed() {
    is_noticed("output commit", Mutations { acts_before_commit: true, ..Mutations::default() });
}

/// An answer that leaves open what has happened is no yes.
#[test]
fn an_ambiguous_answer_taken_for_a_yes_is_noticed() {
    is_noticed("reading the journal again", Mutations { ambiguous_is_yes: true, ..Mutations::default() });
}

/// An agent that was restarted knows what its slot holds, and does not grant it twice.
#[test]
fn a_slot_that_is_granted_twice_is_noticed() {
    is_noticed("the agent's slot", Mutations { slot_forgotten: true, ..Mutations::default() });
}

/// Who hands a shard over has nothing under way in it any more.
#[test]
fn a_hand_over_without_a_flush_is_noticed() {
    is_noticed(
        "flushing before a hand-over",
        Mutations { hand_over_unflushed: true, ..Mutations::default() },
    );
}

/// Rings, waits and places do not hang on the clocks of machines.
#[test]
fn clocks_of_machines_are_noticed() {
    is_noticed("the journal's clock", Mutations { wall_clocks: true, ..Mutations::default() });
}
