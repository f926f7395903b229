use std::sync::atomic::{AtomicU64, Ordering};

use trunkline_types::{Epoch, SHARD_COUNT, ShardId};

/// A command came from a former owner of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{shard} at epoch {} is refused: epoch {} was seen", got.0, highest.0)]
pub struct StaleEpoch {
    /// The shard.
    pub shard: ShardId,
    /// The sender's epoch.
    pub got: Epoch,
    /// The highest epoch seen.
    pub highest: Epoch,
}

/// Remembers the highest epoch of each shard and refuses lower ones. Media nodes and edges keep one, so that an owner that
/// was paused cannot command them once its successor has. Lock-free; 32 KiB.
#[derive(Debug)]
pub struct EpochGuard {
    highest: Vec<AtomicU64>,
}

impl EpochGuard {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self { highest: (0..SHARD_COUNT).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether a command at this epoch may act; a higher one than seen so far raises the bar.
    ///
    /// # Errors
    /// [`StaleEpoch`] when a higher one was seen.
    pub fn admit(&self, shard: ShardId, epoch: Epoch) -> Result<(), StaleEpoch> {
        let before = self.highest[usize::from(shard.index())].fetch_max(epoch.0, Ordering::AcqRel);
        if before > epoch.0 { Err(StaleEpoch { shard, got: epoch, highest: Epoch(before) }) } else { Ok(()) }
    }

    /// The highest epoch seen; 0 = none.
    pub fn highest(&self, shard: ShardId) -> Epoch {
        Epoch(self.highest[usize::from(shard.index())].load(Ordering::Acquire))
    }
}

impl Default for EpochGuard {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_owner_is_refused_and_others_are_not_touched() {
        let guard = EpochGuard::new();
        let (a, b) = (ShardId::new(1).unwrap(), ShardId::new(2).unwrap());
        assert_eq!(guard.admit(a, Epoch(3)), Ok(()));
        assert_eq!(guard.admit(a, Epoch(3)), Ok(()));
        assert_eq!(guard.admit(a, Epoch(2)), Err(StaleEpoch { shard: a, got: Epoch(2), highest: Epoch(3) }));
        assert_eq!(guard.admit(b, Epoch(1)), Ok(()));
        assert_eq!((guard.highest(a), guard.highest(b)), (Epoch(3), Epoch(1)));
    }
}
