use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use trunkline_journal::{Journal, JournalError};
use trunkline_types::Timestamp;

/// The journal's clock is asked so often; the quickest answer tells most exactly.
const ASKED: usize = 5;

/// The journal's clock minus this machine's when the process started, microseconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// The present instant: the one place from which shells take time.
///
/// It is the system's wall clock when the process started, set by [`follow`] to the journal's, and carried on by the
/// monotonic clock, so it never goes back or jumps within a process, whatever is done to the wall clock. (Its rate is
/// disciplined by NTP like the wall clock's.)
pub fn now() -> Timestamp {
    static BASE: OnceLock<(Instant, Timestamp)> = OnceLock::new();
    let (started, base) = BASE.get_or_init(|| (Instant::now(), wall()));
    shifted(*base, AHEAD.load(Ordering::Relaxed)).plus(started.elapsed())
}

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn shifted(at: Timestamp, by_us: i64) -> Timestamp {
    Timestamp::from_micros(at.as_micros().saturating_add(by_us))
}

/// Has the process go by the journal's clock from now on: entities keep deadlines and places as instants, and take them
/// from node to node. To be called once, before anything takes time. Gives by how much the machine's clock is behind,
/// microseconds (negative: ahead).
///
/// # Errors
/// When the journal does not answer.
pub async fn follow(journal: &dyn Journal) -> Result<i64, JournalError> {
    let mut best: Option<(Duration, i64)> = None;
    for _ in 0..ASKED {
        let (asked, here) = (Instant::now(), now());
        let there = journal.clock().await?;
        let took = asked.elapsed();
        let behind = there.as_micros().saturating_sub(here.plus(took / 2).as_micros());
        if best.is_none_or(|(quickest, _)| took < quickest) {
            best = Some((took, behind));
        }
    }
    let behind = best.map_or(0, |(_, behind)| behind);
    AHEAD.fetch_add(behind, Ordering::Relaxed);
    Ok(behind)
}

/// A deadline that is so far away when its timer is set is met together with others.
const FAR: Duration = Duration::from_secs(5);
/// So many of them in a second: thousands of callers who wait, each with a deadline a minute, would otherwise wake their
/// thread thousands of times a minute, each time for one of them.
const TOGETHER_US: i64 = 100_000;

/// When to wake for `deadline`: at that instant, or less than 100 ms later when that is more than 5 s from `now`.
pub(crate) fn wake_at(deadline: Timestamp, now: Timestamp) -> Timestamp {
    if deadline.since(now) <= FAR || deadline == Timestamp::MAX {
        return deadline;
    }
    let past = deadline.as_micros().rem_euclid(TOGETHER_US);
    Timestamp::from_micros(deadline.as_micros().saturating_add((TOGETHER_US - past) % TOGETHER_US))
}

/// Time until `deadline`, rounded up to the millisecond that timers resolve; zero when it has passed.
pub(crate) fn until(deadline: Timestamp) -> Duration {
    let left = deadline.since(now());
    if left.is_zero() { left } else { Duration::from_millis(left.as_micros().div_ceil(1_000) as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never early, never late by 100 ms, exact when it is near, and far ones of the same tenth of a second together.
    #[test]
    fn far_deadlines_are_met_together() {
        let now = Timestamp::from_micros(1_700_000_000_012_345);
        let at = |ms: u64| now.plus(Duration::from_millis(ms));
        assert_eq!([0, 1, 500, 5_000].map(|ms| wake_at(at(ms), now)), [0, 1, 500, 5_000].map(at));
        let mut woken: Vec<Timestamp> = (5_001..6_001).map(|ms| wake_at(at(ms), now)).collect();
        for (ms, wakes) in (5_001..).zip(&woken) {
            assert!(*wakes >= at(ms) && wakes.since(at(ms)) < Duration::from_millis(100), "{ms}: {wakes:?}");
        }
        woken.dedup();
        assert_eq!(woken.len(), 11);
        let whole = Timestamp::from_micros(1_700_000_060_000_000);
        assert_eq!((wake_at(whole, now), wake_at(Timestamp::MAX, now)), (whole, Timestamp::MAX));
    }

    #[test]
    fn time_never_goes_back_and_is_the_wall_clocks() {
        let first = now();
        assert!((first.as_micros() - wall().as_micros()).abs() < 5_000_000);
        let mut last = first;
        for _ in 0..10_000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
        assert_eq!(until(last), Duration::ZERO);
        assert!(until(now().plus(Duration::from_secs(1))) <= Duration::from_millis(1_001));
    }
}
