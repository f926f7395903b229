//! A node's clock: monotonic, and off by some difference for as long as its process lives.

use std::time::Duration;

use trunkline_types::Timestamp;

use crate::Rng;

/// How wrong a wall clock is that is wrong.
const HOUR: Duration = Duration::from_secs(3_600);
/// How well a node knows the journal's clock: it asks once, when it starts.
const MEASURED: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    ahead: bool,
    by: Duration,
}

impl Clock {
    /// As a process begins: the journal's, as well as it can be measured. `wall`: its machine's instead, an hour off now and
    /// then.
    pub(super) fn at_start(rng: &mut Rng, wall: bool) -> Self {
        let ahead = rng.chance(500);
        let measured = rng.between(Duration::ZERO, MEASURED);
        let by = if wall && rng.chance(250) { HOUR } else { measured };
        Self { ahead, by }
    }

    /// What it shows.
    pub(super) fn shows(self, now: Timestamp) -> Timestamp {
        if self.ahead { now.plus(self.by) } else { now.minus(self.by) }
    }

    /// When it shows that.
    pub(super) fn when(self, shown: Timestamp) -> Timestamp {
        if self.ahead { shown.minus(self.by) } else { shown.plus(self.by) }
    }
}
