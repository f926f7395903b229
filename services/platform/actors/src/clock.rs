use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use trunkline_types::Timestamp;

/// The present instant: the one place from which shells take time.
///
/// It is the system's wall clock when the process started, carried on by the monotonic clock, so it never goes back or
/// jumps within a process, whatever is done to the wall clock. (Its rate is disciplined by NTP like the wall clock's.)
pub fn now() -> Timestamp {
    static BASE: OnceLock<(Instant, Timestamp)> = OnceLock::new();
    let (started, base) = BASE.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)))
    });
    base.plus(started.elapsed())
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
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!((first.as_micros() - wall.as_micros() as i64).abs() < 5_000_000);
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
