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

/// Time until `deadline`, rounded up to the millisecond that timers resolve; zero when it has passed.
pub(crate) fn until(deadline: Timestamp) -> Duration {
    let left = deadline.since(now());
    if left.is_zero() { left } else { Duration::from_millis(left.as_micros().div_ceil(1_000) as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
