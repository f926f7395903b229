use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;
use trunkline_journal::Journal;
use trunkline_types::{Epoch, NodeId, ShardId};

use crate::{
    ClusterError, Incarnation, MapRevision, NodeIdentity, NodeInfo, Owner, Placement, Role, ShardHost,
};

/// Marks an epoch of a shard that is sealed and not rebuilt yet.
const OPENING: u64 = 1 << 63;

/// The placement of a cluster of one: this node owns all shards, sealed through the journal when it starts.
pub struct EmbeddedPlacement {
    local: NodeIdentity,
    nodes: Mutex<Arc<[Arc<NodeInfo>]>>,
    /// By shard; 0 = lost to another process that sealed it; with [`OPENING`] = not rebuilt yet.
    epochs: Vec<AtomicU64>,
    revision: watch::Sender<MapRevision>,
    // Orders changes, so that revisions rise one by one.
    changing: Mutex<()>,
}

impl fmt::Debug for EmbeddedPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedPlacement").field("local", &self.local).finish_non_exhaustive()
    }
}

impl EmbeddedPlacement {
    /// Seals all shards for this node, which may act on them at once: for a host that has nothing to rebuild.
    /// `incarnation` rises with each start (the time of the start will do).
    ///
    /// # Errors
    /// When the journal cannot seal.
    pub async fn start(
        journal: &dyn Journal,
        id: NodeId,
        incarnation: Incarnation,
    ) -> Result<Self, ClusterError> {
        let placement = Self::connect(journal, id, incarnation).await?;
        placement.opened();
        Ok(placement)
    }

    /// Seals all shards for this node; they are opening until [`EmbeddedPlacement::join`].
    ///
    /// # Errors
    /// When the journal cannot seal.
    pub async fn connect(
        journal: &dyn Journal,
        id: NodeId,
        incarnation: Incarnation,
    ) -> Result<Self, ClusterError> {
        let local = NodeIdentity { id, incarnation };
        let all: Vec<_> = ShardId::all().collect();
        let sealed = journal.seal(&all, &local.to_string()).await?;
        let epochs = sealed.iter().map(|(_, epoch)| AtomicU64::new(epoch.0 | OPENING)).collect();
        let info = NodeInfo {
            identity: local.clone(),
            address: String::new(),
            roles: Role::ALL.into(),
            zone: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            draining: false,
            public: Default::default(),
        };
        tracing::info!(node = %local, shards = all.len(), "shards taken over");
        Ok(Self {
            local,
            nodes: Mutex::new(Arc::from([Arc::new(info)])),
            epochs,
            revision: watch::Sender::new(MapRevision(1)),
            changing: Mutex::new(()),
        })
    }

    /// Has the host rebuild what lives in the shards; from then on this node acts on them.
    ///
    /// # Errors
    /// When the host cannot.
    pub async fn join(&self, host: &dyn ShardHost) -> Result<(), ClusterError> {
        let opening: Vec<_> = ShardId::all().filter(|shard| self.opening(*shard).is_some()).collect();
        host.open(&opening).await.map_err(ClusterError::Open)?;
        self.opened();
        Ok(())
    }

    /// Takes no new calls any more, or takes them again.
    pub fn set_drain(&self, draining: bool) {
        let _order = self.changing.lock();
        {
            let mut nodes = self.nodes.lock();
            *nodes =
                nodes.iter().map(|node| Arc::new(NodeInfo { draining, ..NodeInfo::clone(node) })).collect();
        }
        self.revision.send_modify(|revision| revision.0 += 1);
    }

    fn opened(&self) {
        let _order = self.changing.lock();
        self.epochs.iter().for_each(|epoch| _ = epoch.fetch_and(!OPENING, Ordering::AcqRel));
        self.revision.send_modify(|revision| revision.0 += 1);
    }

    fn epoch(&self, shard: ShardId) -> u64 {
        self.epochs[usize::from(shard.index())].load(Ordering::Acquire)
    }
}

impl Placement for EmbeddedPlacement {
    fn local(&self) -> NodeIdentity {
        self.local.clone()
    }

    fn owner(&self, shard: ShardId) -> Option<Owner> {
        let epoch = self.sealed(shard)?;
        let active = self.held(shard).is_some();
        Some(Owner { node: self.local.id.clone(), incarnation: self.local.incarnation, epoch, active })
    }

    fn held(&self, shard: ShardId) -> Option<Epoch> {
        Some(self.epoch(shard)).filter(|epoch| *epoch != 0 && epoch & OPENING == 0).map(Epoch)
    }

    fn opening(&self, shard: ShardId) -> Option<Epoch> {
        Some(self.epoch(shard)).filter(|epoch| epoch & OPENING != 0).map(|epoch| Epoch(epoch & !OPENING))
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

    fn nodes(&self) -> Arc<[Arc<NodeInfo>]> {
        self.nodes.lock().clone()
    }

    fn placeable(&self, shard: ShardId) -> bool {
        self.held(shard).is_some() && !self.nodes.lock().iter().any(|node| node.draining)
    }

    fn fenced(&self, shard: ShardId, current: Epoch) {
        let _order = self.changing.lock();
        let Some(ours) = self.sealed(shard) else { return };
        if ours < current {
            self.epochs[usize::from(shard.index())].store(0, Ordering::Release);
            tracing::error!(
                shard = shard.index(),
                ours = ours.0,
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
        assert_eq!((first.held_shards().len(), *changes.borrow()), (4_095, MapRevision(3)));
        second.fenced(entity.shard(), before.epoch);
        assert!(second.is_local(&entity), "an older epoch tells nothing");
        journal.close().await;
    }

    #[tokio::test]
    async fn nothing_is_held_before_the_host_has_opened_it() {
        struct Host(AtomicU64);
        #[async_trait::async_trait]
        impl ShardHost for Host {
            async fn open(&self, shards: &[ShardId]) -> Result<(), String> {
                let before = self.0.fetch_add(shards.len() as u64, Ordering::Relaxed);
                if before == 0 { Err("not yet".into()) } else { Ok(()) }
            }
            async fn close(&self, _: &[ShardId], _: std::time::Duration) {}
        }
        let journal = journal().await;
        let node: NodeId = "n".parse().unwrap();
        let placement = EmbeddedPlacement::connect(&journal, node, Incarnation(1)).await.unwrap();
        let (shard, host) = (ShardId::new(7).unwrap(), Host(AtomicU64::new(0)));
        for _ in 0..2 {
            assert_eq!((placement.held(shard), placement.opening(shard)), (None, Some(Epoch(1))));
            assert_eq!((placement.sealed(shard), placement.placeable(shard)), (Some(Epoch(1)), false));
            let opened = placement.join(&host).await;
            assert_eq!(opened.is_ok(), placement.held(shard).is_some());
        }
        assert_eq!((placement.held(shard), placement.opening(shard)), (Some(Epoch(1)), None));
        assert!(placement.owner(shard).unwrap().active && placement.placeable(shard));
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
        placement.set_drain(true);
        assert!(matches!(mint_call(&placement, &loads, Timestamp::ZERO, 1), Err(ClusterError::NoShard)));
        placement.set_drain(false);
        assert!(mint_call(&placement, &loads, Timestamp::ZERO, 1).is_ok());
        ShardId::all().for_each(|shard| placement.fenced(shard, Epoch(99)));
        assert!(matches!(mint_call(&placement, &loads, Timestamp::ZERO, 1), Err(ClusterError::NoShard)));
        journal.close().await;
    }
}
