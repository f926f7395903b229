//! A cluster of real cores under faults: 5,000 schedules keep every promise, and each of four rules left out is noticed.

use trunkline_simulation::cluster::{Mutations, Report, Schedule};

/// Seeds that once found something; they stay.
const REGRESSIONS: &[u64] = &[];

fn run(schedule: Schedule) -> Report {
    let report = schedule.run();
    assert!(
        report.violations.is_empty(),
        "seed {} ({:?}) breaks: {:#?}\nrun it again: TRUNKLINE_SEED={} cargo test -p trunkline-simulation --test cluster replay -- --nocapture",
        schedule.seed,
        schedule.weather,
        report.violations,
        schedule.seed,
    );
    report
}

/// Proves the promises listed in `trunkline_simulation::cluster`. `TRUNKLINE_SEEDS` for more schedules,
/// `TRUNKLINE_FIRST_SEED` for others.
#[test]
#[allow(clippy::print_stdout)] // of a test
fn every_schedule_keeps_the_promises() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (first, seeds): (u64, u64) =
        (number("TRUNKLINE_FIRST_SEED").unwrap_or(0), number("TRUNKLINE_SEEDS").unwrap_or(5_000));
    let mut sum = Report::default();
    for seed in REGRESSIONS.iter().copied().chain(first..first + seeds) {
        sum.add(&run(Schedule::of(seed)));
    }
    println!("{seeds} seeds from {first}: {sum:?}");
    assert!(sum.conversations > seeds, "the schedules hardly talk: {sum:?}");
    assert!(sum.moves > seeds && sum.faults > seeds, "the schedules are hardly rough: {sum:?}");
    assert!(sum.refused > 0 && sum.ambiguous > 0, "nothing was ever refused or left open: {sum:?}");
}

/// Proves that the same seed is the same schedule.
#[test]
fn a_seed_is_one_schedule() {
    for seed in 0..10 {
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
    for seed in 0..within {
        let violations = Schedule { mutations, ..Schedule::of(seed) }.run().violations;
        if let Some(first) = violations.first() {
            println!("{mutations:?}: noticed at seed {seed}: {first}");
            return;
        }
    }
    panic!("{mutations:?} was not noticed within {within} seeds");
}

/// What a paused owner says late is told from what its successor says.
#[test]
fn a_missing_epoch_check_is_noticed() {
    notices(Mutations { no_epoch_check: true, ..Mutations::default() }, 500);
}

/// A late answer to a commit is not a reason to offer the call to somebody else.
#[test]
fn offering_anew_after_the_commit_is_noticed() {
    notices(Mutations { reoffer_after_commit: true, ..Mutations::default() }, 1_000);
}

/// Recovery is replay with outputs muted: what is over is not said again.
#[test]
fn a_replay_that_speaks_is_noticed() {
    notices(Mutations { replay_not_muted: true, ..Mutations::default() }, 500);
}

/// A place is what was committed, not what can be worked out again.
#[test]
fn places_given_out_anew_are_noticed() {
    notices(Mutations { place_recomputed: true, ..Mutations::default() }, 500);
}
