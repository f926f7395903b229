//! When a writer starts its next commit.
//!
//! While a commit is under way, arriving appends gather; on a slow store that alone batches well, and nothing is waited for.
//! On a fast one each commit would carry one append, and under load the processor would be busy with commits. So commits
//! start a little apart, the more the more there is to gather: not at all when idle, `spacing` once two appends arrive in
//! that time.
//!
//! What a caller waits for is several commits in a row, each asked for when the one before is answered. Each of them comes
//! just after a commit's start and pays for nearly the whole distance, which is why it has to be short.
//!
//! No clock, no I/O.

use std::time::Duration;

use tokio::time::Instant;

/// Least time between the starts of two commits under load, unless told: [`crate::SqliteOptions::spacing`].
pub(crate) const SPACING: Duration = Duration::from_millis(1);
/// The load is forgotten by half in this time.
const HALF_LIFE: Duration = Duration::from_millis(50);
/// Appends that have to be expected in the distance before all of it is kept.
const WORTH: f64 = 2.0;

/// The rhythm of one writer.
#[derive(Debug)]
pub(crate) struct Pace {
    spacing: Duration,
    /// A shorter wait than this is none: the timer would make it longer.
    grain: Duration,
    /// Appends, each counted less the older it is.
    load: f64,
    last: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(spacing: Duration, grain: Duration) -> Self {
        Self { spacing, grain, load: 0.0, last: None }
    }

    /// Until when more appends may gather before the next commit; `None` = commit at once.
    pub(crate) fn wait(&self, now: Instant) -> Option<Instant> {
        let until = self.last? + self.distance();
        (until.saturating_duration_since(now) >= self.grain).then_some(until)
    }

    /// A commit of so many appends starts now.
    pub(crate) fn started(&mut self, now: Instant, appends: usize) {
        let half_lives = self.last.map_or(f64::MAX, |last| {
            now.saturating_duration_since(last).as_secs_f64() / HALF_LIFE.as_secs_f64()
        });
        self.load = self.load * 0.5_f64.powf(half_lives) + appends as f64;
        self.last = Some(now);
    }

    /// Between the starts of two commits at the present load.
    fn distance(&self) -> Duration {
        let a_second = self.load * std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64();
        let expected = a_second * self.spacing.as_secs_f64();
        self.spacing.mul_f64((expected / WORTH).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    const CHAIN: u32 = 4;
    const SECONDS: u64 = 20;
    const MS: Duration = Duration::from_millis(1);

    /// What a run of the model says.
    struct Run {
        commits_an_append: f64,
        /// Time of an append and of a chain, at the 99th percentile.
        append: Duration,
        chain: Duration,
        /// The longest that a commit was put off.
        put_off: Duration,
    }

    #[derive(Clone, Copy)]
    struct Waiting {
        since: Instant,
        began: Instant,
        left: u32,
    }

    /// A writer at this pace whose commits take so long, and chains of appends that begin at random; each append of a chain
    /// comes a moment after the one before was answered.
    fn run(mut pace: Pace, appends_a_second: u32, commit: Duration) -> Run {
        let mut random = StdRng::seed_from_u64(u64::from(appends_a_second));
        let start = Instant::now();
        let (mut arriving, mut id) = (BTreeMap::new(), 0_u64);
        let mut at = start;
        while at < start + Duration::from_secs(SECONDS) {
            at += Duration::from_secs_f64(
                -(1.0 - random.random::<f64>()).ln() * f64::from(CHAIN) / f64::from(appends_a_second),
            );
            arriving.insert((at, id), Waiting { since: at, began: at, left: CHAIN });
            id += 1;
        }
        let (mut appends, mut chains, mut commits) = (Vec::new(), Vec::new(), 0);
        let (mut free, mut put_off) = (start, Duration::ZERO);
        while let Some(((first, _), _)) = arriving.first_key_value() {
            let ready = free.max(*first);
            let starts = pace.wait(ready).unwrap_or(ready);
            put_off = put_off.max(starts - ready);
            let later = arriving.split_off(&(starts, u64::MAX));
            let batch = std::mem::replace(&mut arriving, later);
            pace.started(starts, batch.len());
            commits += 1;
            free = starts + commit;
            for of in batch.into_values() {
                appends.push(free - of.since);
                let next = free + Duration::from_micros(random.random_range(100..400));
                match of.left {
                    1 => chains.push(free - of.began),
                    left => _ = arriving.insert((next, id), Waiting { since: next, left: left - 1, ..of }),
                }
                id += 1;
            }
        }
        let p99 = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[times.len() * 99 / 100]
        };
        let commits_an_append = f64::from(commits) / appends.len() as f64;
        Run { commits_an_append, append: p99(&mut appends), chain: p99(&mut chains), put_off }
    }

    fn pace() -> Pace {
        Pace::new(SPACING, MS / 10)
    }

    #[test]
    fn an_idle_writer_commits_at_once_and_a_busy_one_waits_no_longer_than_told() {
        let (mut pace, start) = (pace(), Instant::now());
        assert_eq!(pace.wait(start), None);
        pace.started(start, 3);
        assert_eq!(pace.wait(start), None, "three appends are one call's set-up");
        pace.started(start, 500);
        assert_eq!(pace.wait(start), Some(start + SPACING));
        assert_eq!(pace.wait(start + SPACING), None, "the distance is kept");
        pace.started(start + Duration::from_secs(1), 1);
        assert_eq!(pace.wait(start + Duration::from_secs(1)), None, "the load is forgotten");
        let mut never = Pace::new(Duration::ZERO, MS / 10);
        never.started(start, 500);
        assert_eq!(never.wait(start), None);
    }

    #[test]
    fn four_commits_in_a_row_are_soon_done_at_any_load() {
        let commit = MS / 8;
        for (rate, most) in [(100, 2 * MS), (500, 5 * MS / 2), (900, 7 * MS / 2), (3_000, 5 * MS)] {
            let run = run(pace(), rate, commit);
            assert!(run.chain <= most, "at {rate}/s: {:?}", run.chain);
            assert!(run.append <= SPACING + 2 * commit, "at {rate}/s: {:?}", run.append);
            assert!(run.put_off <= SPACING, "at {rate}/s: {:?}", run.put_off);
        }
    }

    #[test]
    fn waiting_spares_commits_when_there_is_much_to_gather() {
        let at_once = run(Pace::new(Duration::ZERO, MS / 10), 3_000, MS / 8);
        let paced = run(pace(), 3_000, MS / 8);
        assert!(paced.commits_an_append < at_once.commits_an_append / 2.0, "{}", paced.commits_an_append);
    }

    #[test]
    fn a_slow_store_batches_by_itself_and_nothing_is_put_off() {
        for rate in [100, 500, 900, 3_000] {
            let run = run(pace(), rate, 2 * MS);
            assert_eq!(run.put_off, Duration::ZERO, "at {rate}/s");
            assert!(run.append <= 4 * MS + MS / 2, "at most two commits, at {rate}/s: {:?}", run.append);
        }
        assert!(run(pace(), 3_000, 2 * MS).commits_an_append < 0.3);
    }
}
