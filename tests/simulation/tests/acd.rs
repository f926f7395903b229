//! The reservation protocol under loss, duplication, reordering, pauses, crashes and takeovers: 20,000 schedules keep
//! every promise, and each of three rules left out is noticed.

use trunkline_simulation::acd::{Mutations, Report, Schedule};

/// Seeds that once found something. They stay (and change their meaning only with the simulator itself; what they found
/// has a test of its own in the core besides).
/// 8524: a late duplicate of an enqueue was answered "left" while the call still rang.
/// 595: a leave that overtook its enqueue was forgotten in a crash.
const REGRESSIONS: &[u64] = &[8_524, 595];

fn run(schedule: Schedule) -> Report {
    let report = schedule.run();
    assert!(
        report.violations.is_empty(),
        "seed {} ({:?}) breaks: {:#?}\nrun it again: TRUNKLINE_SEED={} cargo test -p trunkline-simulation replay -- --nocapture",
        schedule.seed,
        schedule.weather,
        report.violations,
        schedule.seed,
    );
    report
}

/// Proves the promises listed in `trunkline_simulation::acd` over 20,000 schedules.
#[test]
fn every_schedule_keeps_the_promises() {
    let seeds = std::env::var("TRUNKLINE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let mut sum = Report::default();
    for seed in REGRESSIONS.iter().copied().chain(0..seeds) {
        let report = run(Schedule::of(seed));
        sum.messages += report.messages;
        sum.offers += report.offers;
        sum.conversations += report.conversations;
        sum.crashes += report.crashes;
    }
    println!("{seeds} seeds: {sum:?}");
    assert!(sum.conversations > seeds, "the schedules hardly talk: {sum:?}");
    assert!(sum.crashes > seeds, "the schedules hardly crash: {sum:?}");
}

/// Proves that the same seed is the same schedule.
#[test]
fn a_seed_is_one_schedule() {
    for seed in 0..50 {
        assert_eq!(format!("{:?}", Schedule::of(seed).run()), format!("{:?}", Schedule::of(seed).run()));
    }
}

/// Runs one seed with its trace: `TRUNKLINE_SEED=n`.
#[test]
fn replay() {
    if let Some(seed) = std::env::var("TRUNKLINE_SEED").ok().and_then(|n| n.parse().ok()) {
        run(Schedule { trace: true, ..Schedule::of(seed) });
    }
}

#[allow(clippy::print_stdout)] // of a test
fn notices(mutations: Mutations, within: u64) {
    let mut first = None;
    let mut caught = 0;
    for seed in 0..within {
        if !(Schedule { mutations, ..Schedule::of(seed) }).run().violations.is_empty() {
            first.get_or_insert(seed);
            caught += 1;
            if caught == 3 {
                break;
            }
        }
    }
    println!("{mutations:?}: first at seed {first:?}, {caught} caught");
    assert!(caught > 0, "{mutations:?} was not noticed within {within} seeds");
}

/// Without the epoch check an agent that has forgotten its tombstones in a crash takes an old offer.
#[test]
fn a_missing_epoch_check_is_noticed() {
    notices(Mutations { no_epoch_check: true, ..Mutations::default() }, 20_000);
}

/// Without tombstones a late duplicate of a reservation and its commit ring a call that is elsewhere by now.
#[test]
fn missing_tombstones_are_noticed() {
    notices(Mutations { no_tombstones: true, ..Mutations::default() }, 20_000);
}

/// Offering a call anew because the answer to the commit is late makes it ring twice.
#[test]
fn offering_anew_after_the_commit_is_noticed() {
    notices(Mutations { reoffer_after_commit: true, ..Mutations::default() }, 2_000);
}
