use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;
use trunkline_types::{Epoch, SHARD_COUNT, ShardId};

/// Lets envelopes through to the entities of a shard, until the shard is closed at its epoch. Closing waits for those that
/// are on their way through, so that none is handed to a host that has begun to let the shard go.
pub(crate) struct Gates(Vec<Gate>);

#[derive(Default)]
struct Gate {
    inside: AtomicU32,
    /// Closed for this epoch and all before it.
    closed: AtomicU64,
}

/// Held while an envelope is handed over.
pub(crate) struct Pass<'a>(&'a AtomicU32);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gates {
    pub(crate) fn new() -> Self {
        Self((0..SHARD_COUNT).map(|_| Gate::default()).collect())
    }

    fn of(&self, shard: ShardId) -> &Gate {
        &self.0[usize::from(shard.index())]
    }

    /// `None` = closed at this epoch.
    pub(crate) fn enter(&self, shard: ShardId, epoch: Epoch) -> Option<Pass<'_>> {
        let gate = self.of(shard);
        gate.inside.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(&gate.inside);
        (gate.closed.load(Ordering::SeqCst) < epoch.0).then_some(pass)
    }

    /// Whether the shard is closed at this epoch.
    pub(crate) fn is_closed(&self, shard: ShardId, epoch: Epoch) -> bool {
        self.of(shard).closed.load(Ordering::SeqCst) >= epoch.0
    }

    pub(crate) fn close(&self, shard: ShardId, epoch: Epoch) {
        self.of(shard).closed.fetch_max(epoch.0, Ordering::SeqCst);
    }

    /// Waits until nothing is on its way through a closed gate; microseconds, since handing over never waits. False when
    /// something still was after `patience`.
    pub(crate) async fn empty(&self, shard: ShardId, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.of(shard).inside.load(Ordering::SeqCst) > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_gate_opens_with_the_next_epoch_only() {
        let (gates, shard) = (Gates::new(), ShardId::new(7).unwrap());
        let pass = gates.enter(shard, Epoch(3)).unwrap();
        gates.close(shard, Epoch(3));
        assert!(!gates.empty(shard, Duration::from_millis(5)).await, "one is inside");
        drop(pass);
        assert!(gates.empty(shard, Duration::from_millis(5)).await);
        assert!(gates.enter(shard, Epoch(3)).is_none() && gates.is_closed(shard, Epoch(3)));
        assert!(gates.empty(shard, Duration::from_millis(5)).await, "who was refused is not inside");
        assert!(gates.enter(shard, Epoch(4)).is_some());
        assert!(gates.enter(ShardId::new(8).unwrap(), Epoch(1)).is_some());
    }
}
