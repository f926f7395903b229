use std::sync::atomic::{AtomicU64, Ordering};

use trunkline_types::{Epoch, SHARD_COUNT, ShardId};

/// Which epochs of each shard this host has let go. A shard that comes back has a higher one.
#[derive(Debug)]
pub(crate) struct Tenures(Vec<Tenure>);

#[derive(Debug, Default)]
struct Tenure {
    /// The highest epoch at which something was started here.
    known: AtomicU64,
    /// Let go, with all before it.
    released: AtomicU64,
}

impl Tenures {
    pub(crate) fn new() -> Self {
        Self((0..SHARD_COUNT).map(|_| Tenure::default()).collect())
    }

    fn of(&self, shard: ShardId) -> &Tenure {
        &self.0[usize::from(shard.index())]
    }

    /// Whether the shard was let go at this epoch.
    pub(crate) fn is_released(&self, shard: ShardId, epoch: Epoch) -> bool {
        self.of(shard).released.load(Ordering::Acquire) >= epoch.0
    }

    /// Something is started at this epoch.
    pub(crate) fn begin(&self, shard: ShardId, epoch: Epoch) {
        self.of(shard).known.fetch_max(epoch.0, Ordering::AcqRel);
    }

    /// Lets the shard go: at the epoch at which it is held, or, when it is held no more, at the last one known.
    pub(crate) fn release(&self, shard: ShardId, held: Option<Epoch>) -> Epoch {
        let tenure = self.of(shard);
        let epoch = held.map_or_else(|| tenure.known.load(Ordering::Acquire), |epoch| epoch.0);
        Epoch(tenure.released.fetch_max(epoch, Ordering::AcqRel).max(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_comes_back_with_a_higher_epoch() {
        let (tenures, shard) = (Tenures::new(), ShardId::new(3).unwrap());
        assert!(!tenures.is_released(shard, Epoch(1)));
        tenures.begin(shard, Epoch(4));
        assert_eq!(tenures.release(shard, None), Epoch(4));
        assert!(tenures.is_released(shard, Epoch(4)) && !tenures.is_released(shard, Epoch(5)));
        assert_eq!(tenures.release(shard, Some(Epoch(6))), Epoch(6));
        assert_eq!(tenures.release(shard, None), Epoch(6), "never back");
    }
}
