//! Who owns the shards, as far as commands have told: the highest epoch, and whether the owner acknowledges events.

use std::sync::atomic::{AtomicU8, Ordering};

use trunkline_cluster::{EpochGuard, StaleEpoch};
use trunkline_types::{Epoch, SHARD_COUNT, ShardId};

const UNKNOWN: u8 = 0;
const ACKNOWLEDGES: u8 = 1;
const TOLD_ONCE: u8 = 2;

/// Lock-free; 36 KiB.
#[derive(Debug)]
pub(crate) struct Owners {
    epochs: EpochGuard,
    habits: Box<[AtomicU8]>,
}

impl Owners {
    pub(crate) fn new() -> Self {
        let habits = (0..SHARD_COUNT).map(|_| AtomicU8::new(UNKNOWN)).collect();
        Self { epochs: EpochGuard::new(), habits }
    }

    /// Lets a command of this epoch in; `true`: its sender is a new owner.
    pub(crate) fn admit(&self, shard: ShardId, epoch: Epoch, acknowledges: bool) -> Result<bool, StaleEpoch> {
        let before = self.epochs.highest(shard);
        self.epochs.admit(shard, epoch)?;
        let habit = if acknowledges { ACKNOWLEDGES } else { TOLD_ONCE };
        if let Some(slot) = self.habits.get(usize::from(shard.index())) {
            slot.store(habit, Ordering::Relaxed);
        }
        Ok(before < epoch)
    }

    /// Whether a higher epoch has been seen since the command was admitted.
    pub(crate) fn check(&self, shard: ShardId, epoch: Epoch) -> Result<(), StaleEpoch> {
        let highest = self.epochs.highest(shard);
        if highest > epoch { Err(StaleEpoch { shard, got: epoch, highest }) } else { Ok(()) }
    }

    /// Whether events of the shard are worth repeating. One that nobody has spoken for yet may acknowledge.
    pub(crate) fn acknowledges(&self, shard: ShardId) -> bool {
        let habit = self.habits.get(usize::from(shard.index()));
        habit.is_none_or(|h| h.load(Ordering::Relaxed) != TOLD_ONCE)
    }
}
