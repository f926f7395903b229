//! What all families of schedules are put through.

#![allow(clippy::print_stdout, reason = "what the tests found")]

use trunkline_simulation::runner::{Failure, Family, Progress, Tally, processors, sweep};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

fn silently(_: Progress) {}

fn fail(failure: &Failure) -> ! {
    panic!("{failure}")
}

/// Every schedule keeps the promises: those that once found something, and so many others. `TRUNKLINE_SEEDS` for more
/// schedules, `TRUNKLINE_FIRST_SEED` for others.
pub fn keeps_the_promises<F: Family>(family: &F, regressions: &[u64], seeds: u64) -> (u64, F::Report) {
    for seed in regressions {
        sweep(family, *seed, 1, 1, &silently).unwrap_or_else(|failure| fail(&failure));
    }
    let first = number("TRUNKLINE_FIRST_SEED").unwrap_or(0);
    let seeds = number("TRUNKLINE_SEEDS").unwrap_or(seeds);
    let sum = sweep(family, first, seeds, processors(), &silently).unwrap_or_else(|failure| fail(&failure));
    println!("{seeds} seeds from {first}: {sum:?}");
    (seeds, sum)
}

/// A seed is one schedule.
pub fn is_repeatable<F: Family>(family: &F, seeds: u64) {
    for seed in 0..seeds {
        assert_eq!(format!("{:?}", family.run(seed, false)), format!("{:?}", family.run(seed, false)));
    }
}

/// Runs the seed of `TRUNKLINE_SEED` with its trace.
pub fn replay<F: Family>(family: &F) {
    if let Some(seed) = number("TRUNKLINE_SEED") {
        let report = family.run(seed, true);
        assert!(report.violations().is_empty(), "seed {seed} breaks: {:#?}", report.violations());
    }
}

/// Something left out is noticed within so many seeds.
pub fn is_noticed<F: Family>(family: &F, what: &str, within: u64) {
    match sweep(family, 0, within, processors(), &silently) {
        Ok(sum) => panic!("without {what} nothing was noticed within {within} seeds: {sum:?}"),
        Err(failure) => println!("without {what}: seed {}: {:?}", failure.seed, failure.violations.first()),
    }
}
