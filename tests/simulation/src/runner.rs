//! Many seeds on many threads: the same answer whatever their number, and the lowest seed that fails.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often [`sweep`] tells how far it is.
const TELLS_EVERY: Duration = Duration::from_secs(5);

/// What schedules give.
pub trait Tally: Default + fmt::Debug + Send {
    /// Broken promises; empty is good.
    fn violations(&self) -> &[String];
    /// Adds another one's numbers.
    fn add(&mut self, other: &Self);
}

/// Schedules, one for each seed.
pub trait Family: Sync {
    /// What one gives.
    type Report: Tally;
    /// Its name on the command line, and of the tests that run it.
    const NAME: &'static str;
    /// Runs one; with `trace` it prints each step.
    fn run(&self, seed: u64, trace: bool) -> Self::Report;
}

/// A seed whose schedule breaks a promise.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// What was broken; a panic of a core is one of them.
    pub violations: Vec<String>,
    family: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violations, family } = self;
        writeln!(f, "seed {seed} of {family} breaks: {violations:#?}")?;
        write!(
            f,
            "run it again: TRUNKLINE_SEED={seed} cargo test -p trunkline-simulation --test {family} replay -- --nocapture"
        )
    }
}

/// How far a sweep is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Schedules done.
    pub done: u64,
    /// Of so many.
    pub seeds: u64,
    /// Since the beginning.
    pub took: Duration,
}

impl Progress {
    /// Schedules a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// As many threads as there are processors.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `seeds` schedules from `first` on: their numbers added up, or the lowest seed that fails.
///
/// # Errors
/// The [`Failure`] of the lowest seed that breaks a promise.
pub fn sweep<F: Family>(
    family: &F,
    first: u64,
    seeds: u64,
    threads: usize,
    told: &(dyn Fn(Progress) + Sync),
) -> Result<F::Report, Failure> {
    let began = Instant::now();
    let (next, done, failed_at) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let sum: Mutex<F::Report> = Mutex::default();
    let last_told = Mutex::new(began);
    let work = || {
        let mut own = F::Report::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            // Seeds below the one that failed are still run: the lowest is what is told.
            if seed >= first.saturating_add(seeds) || seed > failed_at.load(Ordering::Relaxed) {
                break;
            }
            // A core that panics has broken a promise, too.
            let (report, panicked) = match catch_unwind(AssertUnwindSafe(|| family.run(seed, false))) {
                Ok(report) => (report, None),
                Err(panic) => (F::Report::default(), Some(format!("panics: {}", reason(&*panic)))),
            };
            let violations: Vec<String> = report.violations().iter().cloned().chain(panicked).collect();
            if !violations.is_empty() {
                let mut lowest = hold(&failure);
                if lowest.as_ref().is_none_or(|known| seed < known.seed) {
                    *lowest = Some(Failure { seed, violations, family: F::NAME });
                    failed_at.store(seed, Ordering::Relaxed);
                }
            }
            own.add(&report);
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Ok(mut last) = last_told.try_lock()
                && last.elapsed() >= TELLS_EVERY
            {
                *last = Instant::now();
                told(Progress { done: count, seeds, took: began.elapsed() });
            }
        }
        hold(&sum).add(&own);
    };
    thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    told(Progress { done: done.into_inner(), seeds, took: began.elapsed() });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(failure) => Err(failure),
        None => Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}
