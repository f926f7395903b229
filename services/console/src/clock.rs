use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch: the one place where this crate reads the wall clock.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Milliseconds of an instant in microseconds, rounded down.
pub(crate) fn ms(us: i64) -> i64 {
    us.div_euclid(1_000)
}

/// As [`ms`]; zero means that there is none.
pub(crate) fn ms_or_none(us: i64) -> Option<i64> {
    (us != 0).then(|| ms(us))
}
