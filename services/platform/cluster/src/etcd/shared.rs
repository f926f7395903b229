//! What other threads read of the engine, without waiting for it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use tokio::sync::watch;
use trunkline_cluster_core::{Holding, Machine, MapRevision, NodeIdentity, NodeInfo, Owner};
use trunkline_types::{Epoch, Feature, SHARD_COUNT, ShardId};

/// Marks an epoch of a shard that is sealed and not rebuilt yet.
const OPENING: u64 = 1 << 63;

/// The map as of the last change.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub nodes: Arc<[Arc<NodeInfo>]>,
    owners: Vec<Option<Owner>>,
    placeable: Vec<bool>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub me: NodeIdentity,
    /// By shard: the epoch at which this node may act, or with [`OPENING`] rebuild; 0 = neither.
    standing: Vec<AtomicU64>,
    snapshot: RwLock<Arc<Snapshot>>,
    gate: AtomicU32,
    pub revision: watch::Sender<MapRevision>,
}

impl Shared {
    pub fn new(me: NodeIdentity) -> Arc<Self> {
        let all = usize::from(SHARD_COUNT);
        let empty = Snapshot { nodes: Arc::from([]), owners: vec![None; all], placeable: vec![false; all] };
        Arc::new(Self {
            me,
            standing: (0..all).map(|_| AtomicU64::new(0)).collect(),
            snapshot: RwLock::new(Arc::new(empty)),
            gate: AtomicU32::new(Feature::FIRST),
            revision: watch::Sender::new(MapRevision(0)),
        })
    }

    fn standing(&self, shard: ShardId) -> &AtomicU64 {
        &self.standing[usize::from(shard.index())]
    }

    pub fn held(&self, shard: ShardId) -> Option<Epoch> {
        let standing = self.standing(shard).load(Ordering::Acquire);
        (standing != 0 && standing & OPENING == 0).then_some(Epoch(standing))
    }

    pub fn opening(&self, shard: ShardId) -> Option<Epoch> {
        let standing = self.standing(shard).load(Ordering::Acquire);
        (standing & OPENING != 0).then_some(Epoch(standing & !OPENING))
    }

    pub fn hold(&self, shard: ShardId, holding: Holding) {
        let standing = match holding {
            Holding::None => 0,
            Holding::Opening(epoch) => epoch.0 | OPENING,
            Holding::Held(epoch) => epoch.0,
        };
        self.standing(shard).store(standing, Ordering::Release);
    }

    /// The journal knows a higher epoch: stops acting at once. `false` = it was not acting at a lower one.
    pub fn fence(&self, shard: ShardId, current: Epoch) -> bool {
        let lower = |standing: u64| (standing != 0 && (standing & !OPENING) < current.0).then_some(0);
        self.standing(shard).fetch_update(Ordering::AcqRel, Ordering::Acquire, lower).is_ok()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().clone()
    }

    pub fn owner(&self, shard: ShardId) -> Option<Owner> {
        let mut owner = self.snapshot.read().owners[usize::from(shard.index())].clone()?;
        // What this node holds it knows before it is published.
        if owner.is(&self.me)
            && let Some(epoch) = self.held(shard)
        {
            (owner.epoch, owner.active) = (epoch, true);
        }
        Some(owner)
    }

    pub fn placeable(&self, shard: ShardId) -> bool {
        self.snapshot.read().placeable[usize::from(shard.index())]
    }

    /// Up to which feature every node can read.
    pub fn gate(&self) -> u32 {
        self.gate.load(Ordering::Acquire)
    }

    /// Takes over what the machine has read.
    pub fn update(&self, machine: &Machine, now: std::time::Duration) {
        self.gate.store(machine.map().gate, Ordering::Release);
        let listed = machine.listed(now);
        let mut alive: BTreeSet<NodeIdentity> = listed.iter().map(|node| node.identity.clone()).collect();
        // Our own shards are ours whatever became of the lease: the journal decides.
        alive.insert(self.me.clone());
        let closed: BTreeSet<_> =
            listed.iter().filter(|node| node.draining).map(|node| node.identity.id.clone()).collect();
        let owners = machine.map().listed_owners(&alive);
        let open = |owner: &Owner| owner.active && !closed.contains(&owner.node);
        let placeable = owners.iter().map(|owner| owner.as_ref().is_some_and(open)).collect();
        *self.snapshot.write() = Arc::new(Snapshot { nodes: listed.into(), owners, placeable });
    }

    /// Tells everybody who waits that something has changed.
    pub fn announce(&self, revision: u64) {
        self.revision.send_replace(MapRevision(revision));
    }
}
