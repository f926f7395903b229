//! Time on this node: the wall clock read once, then the monotonic clock, so that it never goes back.

use std::time::{Duration, Instant, SystemTime};

use trunkline_types::Timestamp;

/// A reading of both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    wall: Timestamp,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { started: Instant::now(), wall: Timestamp::ZERO.plus(wall) }
    }

    /// Now, as both.
    #[inline]
    pub(crate) fn now(&self) -> Now {
        let instant = Instant::now();
        Now { instant, at: self.wall.plus(instant.saturating_duration_since(self.started)) }
    }

    /// Now, on the wall.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.now().at
    }
}

/// One moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) at: Timestamp,
}
