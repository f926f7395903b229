use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::watch;
use trunkline_journal::Journal;
use trunkline_types::{Epoch, NodeId, ShardId};

use crate::{ClusterError, Incarnation, MapRevision, NodeIdentity, NodeInfo, Owner, Placement, Role};

/// The placement of a cluster of one: this node owns all shards, sealed through the journal when it starts.
pub struct EmbeddedPlacement {
    local: NodeIdentity,
    info: NodeInfo,
    /// By shard; 0 = lost to another process that sealed it.
    epochs: Vec<AtomicU64>,
    revision: watch::Sender<MapRevision>,
    // Orders losses, so that revisions rise one by one.
    losing: Mutex<()>,
}

impl fmt::Debug for EmbeddedPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedPlacement").field("local", &self.local).finish_non_exhaustive()
    }
}

impl EmbeddedPlacement {
    /// Seals all shards for this node. `incarnation` rises with each start (the time of the start will do).
    ///
    /// # Errors
    /// When the journal cannot seal.
    pub async fn start(
        journal: &dyn Journal,
        id: NodeId,
        incarnation: Incarnation,
    ) -> Result<Self, ClusterError> {
        let local = NodeIdentity { id, incarnation };
        let all: Vec<_> = ShardId::all().collect();
        let sealed = journal.seal(&all, &local.to_string()).await?;
        let epochs = sealed.iter().map(|(_, epoch)| AtomicU64::new(epoch.0)).collect();
        let roles = Role::ALL.into_iter().map(|role| (role, String::new())).collect();
        let info = NodeInfo { identity: local.clone(), roles, zone: None, draining: false };
        tracing::info!(node = %local, shards = all.len(), "shards taken over");
        Ok(Self { local, info, epochs, revision: watch::Sender::new(MapRevision(1)), losing: Mutex::new(()) })
    }
}

impl Placement for EmbeddedPlacement {
    fn local(&self) -> &NodeIdentity {
        &self.local
    }

    fn owner(&self, shard: ShardId) -> Option<Owner> {
        let epoch = self.held(shard)?;
        Some(Owner { node: self.local.id.clone(), incarnation: self.local.incarnation, epoch })
    }

    fn held(&self, shard: ShardId) -> Option<Epoch> {
        match self.epochs[usize::from(shard.index())].load(Ordering::Acquire) {
            0 => None,
            epoch => Some(Epoch(epoch)),
        }
    }

    fn held_shards(&self) -> Vec<ShardId> {
        ShardId::all().filter(|shard| self.held(*shard).is_some()).collect()
    }

    fn revision(&self) -> MapRevision {
        *self.revision.borrow()
    }

    fn changes(&self) -> watch::Receiver<MapRevision> {
        self.revision.subscribe()
    }

    fn node(&self, id: &NodeId) -> Option<NodeInfo> {
        (*id == self.local.id).then(|| self.info.clone())
    }

    fn fenced(&self, shard: ShardId, current: Epoch) {
        let _order = self.losing.lock();
        let held = &self.epochs[usize::from(shard.index())];
        let ours = held.load(Ordering::Acquire);
        if ours != 0 && ours < current.0 {
            held.store(0, Ordering::Release);
            tracing::error!(
                shard = shard.index(),
                ours,
                current = current.0,
                "another process has sealed our shard"
            );
            self.revision.send_modify(|revision| revision.0 += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng, rngs::StdRng};
    use trunkline_journal::{SqliteJournal, SqliteOptions};
    use trunkline_types::{EntityAddress, Timestamp};

    use super::*;
    use crate::{Loads, mint_call};

    async fn journal() -> SqliteJournal {
        SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn each_start_is_a_new_epoch_and_the_former_life_learns_of_it() {
        let journal = journal().await;
        let node: NodeId = "node-1".parse().unwrap();
        let first = EmbeddedPlacement::start(&journal, node.clone(), Incarnation(1)).await.unwrap();
        let second = EmbeddedPlacement::start(&journal, node.clone(), Incarnation(2)).await.unwrap();
        let entity = EntityAddress::queue(&"default".parse().unwrap(), &"support".parse().unwrap());
        let (before, after) = (first.owner_of(&entity).unwrap(), second.owner_of(&entity).unwrap());
        assert_eq!((before.epoch.0 + 1, after.incarnation), (after.epoch.0, Incarnation(2)));
        assert!(second.node(&node).is_some() && second.is_local(&entity));

        let changes = first.changes();
        first.fenced(entity.shard(), after.epoch);
        first.fenced(entity.shard(), after.epoch);
        assert!(!first.is_local(&entity) && first.owner_of(&entity).is_none());
        assert_eq!((first.held_shards().len(), *changes.borrow()), (4_095, MapRevision(2)));
        second.fenced(entity.shard(), before.epoch);
        assert!(second.is_local(&entity), "an older epoch tells nothing");
        journal.close().await;
    }

    #[tokio::test]
    async fn calls_are_minted_in_held_shards_and_spread_over_lanes() {
        let journal = journal().await;
        let placement =
            EmbeddedPlacement::start(&journal, "n".parse().unwrap(), Incarnation(1)).await.unwrap();
        let lost: Vec<_> = ShardId::all().filter(|shard| shard.index().is_multiple_of(3)).collect();
        lost.iter().for_each(|shard| placement.fenced(*shard, Epoch(99)));
        let (loads, seed) = (Loads::new(4), 7);
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut guards, mut lanes) = (Vec::new(), BTreeMap::new());
        for n in 0..4_000 {
            let id = mint_call(&placement, &loads, Timestamp::from_millis(n), random.random()).unwrap();
            assert!(!id.shard().index().is_multiple_of(3), "a shard that is not ours");
            *lanes.entry(id.shard().index() % 4).or_insert(0) += 1;
            guards.push(loads.begin(id.shard()));
        }
        assert!(lanes.values().all(|n| (980..=1_020).contains(n)), "best of two keeps lanes even: {lanes:?}");
        drop(guards);
        assert!(ShardId::all().all(|shard| loads.of(shard) == (0, 0)));
        ShardId::all().for_each(|shard| placement.fenced(shard, Epoch(99)));
        assert!(matches!(mint_call(&placement, &loads, Timestamp::ZERO, 1), Err(ClusterError::NoShard)));
        journal.close().await;
    }
}
