use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use trunkline_types::{CallId, NodeId, SHARD_COUNT, ShardGroup, ShardId, Timestamp};

use crate::{ClusterError, Placement, Role};

/// Counters of owners; two whose names meet in one are only judged less exactly.
const NODES: usize = 512;

/// How many calls this process has placed and still counts: by owner, by lane (arbiter thread; it serves the shards `lane mod
/// lanes`), and by shard.
#[derive(Debug)]
pub struct Loads {
    nodes: Vec<AtomicU32>,
    lanes: Vec<AtomicU32>,
    shards: Vec<AtomicU32>,
}

impl Loads {
    /// For nodes with this many lanes (at least one).
    pub fn new(lanes: usize) -> Arc<Self> {
        let zeros = |n: usize| (0..n).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self {
            nodes: zeros(NODES),
            lanes: zeros(lanes.max(1)),
            shards: zeros(usize::from(SHARD_COUNT)),
        })
    }

    /// Counts one more call in a shard and at its owner until the guard is dropped.
    pub fn begin_at(self: &Arc<Self>, placement: &dyn Placement, shard: ShardId) -> LoadGuard {
        let node = placement.owner(shard).map(|owner| slot(&owner.node));
        self.count(shard, node)
    }

    /// Counts one more call in a shard until the guard is dropped.
    pub fn begin(self: &Arc<Self>, shard: ShardId) -> LoadGuard {
        self.count(shard, None)
    }

    fn count(self: &Arc<Self>, shard: ShardId, node: Option<usize>) -> LoadGuard {
        let guard = LoadGuard { loads: Arc::clone(self), shard, node };
        guard.counters().for_each(|counter| _ = counter.fetch_add(1, Ordering::Relaxed));
        guard
    }

    /// The lane's load and, among equals, the shard's.
    pub fn of(&self, shard: ShardId) -> (u32, u32) {
        let [lane, own] = self.counters(shard);
        (lane.load(Ordering::Relaxed), own.load(Ordering::Relaxed))
    }

    /// How many calls are counted at a node.
    pub fn at(&self, node: &NodeId) -> u32 {
        self.nodes[slot(node)].load(Ordering::Relaxed)
    }

    fn counters(&self, shard: ShardId) -> [&AtomicU32; 2] {
        let index = usize::from(shard.index());
        [&self.lanes[index % self.lanes.len()], &self.shards[index]]
    }

    fn key(&self, placement: &dyn Placement, shard: ShardId) -> (u32, (u32, u32)) {
        let node = placement.owner(shard).map_or(0, |owner| self.at(&owner.node));
        (node, self.of(shard))
    }
}

fn slot(node: &NodeId) -> usize {
    let hash = node.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)) % NODES as u64) as usize
}

/// One call counted in [`Loads`].
#[derive(Debug)]
pub struct LoadGuard {
    loads: Arc<Loads>,
    shard: ShardId,
    node: Option<usize>,
}

impl LoadGuard {
    fn counters(&self) -> impl Iterator<Item = &AtomicU32> {
        let node = self.node.map(|slot| &self.loads.nodes[slot]);
        self.loads.counters(self.shard).into_iter().chain(node)
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.counters().for_each(|counter| _ = counter.fetch_sub(1, Ordering::Relaxed));
    }
}

/// Mints the id of a new call in a shard of any owner that takes calls: the less loaded of two drawn at random, by the calls
/// that this process has placed.
///
/// `entropy` is 128 random bits: the low 65 go into the id, the high 62 draw the shards.
///
/// # Errors
/// [`ClusterError::NoShard`] when nobody takes calls.
pub fn mint_call(
    placement: &dyn Placement,
    loads: &Loads,
    now: Timestamp,
    entropy: u128,
) -> Result<CallId, ClusterError> {
    let draw = |bits: u32| {
        call_shard(placement, (entropy >> bits) as u32 & 0x7fff_ffff).ok_or(ClusterError::NoShard)
    };
    let (one, other) = (draw(66)?, draw(97)?);
    let shard = if loads.key(placement, other) < loads.key(placement, one) { other } else { one };
    Ok(CallId::mint(shard, now, entropy))
}

/// A shard for a new call, drawn evenly from those whose owners take calls: the same for the same draw and the same map. When
/// no owner is active, one that is about to be; when all owners drain and somebody else is there to take their shards over, one
/// of those, and the call goes along with its shard; `None` when there is none either.
pub fn call_shard(placement: &dyn Placement, random: u32) -> Option<ShardId> {
    /// Draws before the list is made; all of them miss only when few shards can be had.
    const DRAWS: u32 = 8;
    let (first, count) = ShardGroup::Call.range();
    let mut bits = random;
    for _ in 0..DRAWS {
        let drawn = ShardId::new(first + (bits % u32::from(count)) as u16)?;
        if placement.placeable(drawn) {
            return Some(drawn);
        }
        // A full-period step, scrambled (PCG): draws of neighbours do not follow each other.
        bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        bits ^= bits >> 15;
    }
    let pick = |can: &dyn Fn(ShardId) -> bool| {
        let shards: Vec<_> = ShardGroup::Call.shards().filter(|shard| can(*shard)).collect();
        shards.get((random as usize).checked_rem(shards.len())?).copied()
    };
    pick(&|shard| placement.placeable(shard))
        .or_else(|| pick(&|shard| will_take(placement, shard)))
        .or_else(|| pick(&|shard| hands_over(placement, shard)).filter(|_| has_successor(placement)))
}

/// Whether its owner lives and serves the shard, though it drains.
fn hands_over(placement: &dyn Placement, shard: ShardId) -> bool {
    placement.owner(shard).is_some_and(|owner| owner.active && placement.node(&owner.node).is_some())
}

/// Whether a node that does not drain is there for calls: it has no shard yet, as in the moment after its start.
fn has_successor(placement: &dyn Placement) -> bool {
    placement.nodes().iter().any(|node| node.has(Role::Call) && !node.draining)
}

/// Whether its owner lives, does not drain, and is opening the shard.
fn will_take(placement: &dyn Placement, shard: ShardId) -> bool {
    let owner = placement.owner(shard).and_then(|owner| placement.node(&owner.node));
    owner.is_some_and(|node| !node.draining)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::watch;
    use trunkline_types::Epoch;

    use super::*;
    use crate::{Incarnation, MapRevision, NodeIdentity, NodeInfo, Owner};

    /// All shards have one owner; members and whether they drain.
    struct Map {
        owner: Owner,
        nodes: Mutex<Arc<[Arc<NodeInfo>]>>,
        changes: watch::Sender<MapRevision>,
    }

    fn identity(name: &str) -> NodeIdentity {
        NodeIdentity { id: name.parse().unwrap(), incarnation: Incarnation(1) }
    }

    fn map(active: bool, nodes: &[(&str, Role, bool)]) -> Map {
        let info = |(name, role, draining): &(&str, Role, bool)| {
            Arc::new(NodeInfo {
                identity: identity(name),
                address: String::new(),
                roles: [*role].into(),
                zone: None,
                version: String::new(),
                draining: *draining,
                public: Default::default(),
            })
        };
        let NodeIdentity { id, incarnation } = identity("a");
        Map {
            owner: Owner { node: id, incarnation, epoch: Epoch(1), active },
            nodes: Mutex::new(nodes.iter().map(info).collect()),
            changes: watch::Sender::new(MapRevision(1)),
        }
    }

    impl Placement for Map {
        fn local(&self) -> NodeIdentity {
            identity("a")
        }
        fn owner(&self, _: ShardId) -> Option<Owner> {
            Some(self.owner.clone())
        }
        fn held(&self, _: ShardId) -> Option<Epoch> {
            None
        }
        fn opening(&self, _: ShardId) -> Option<Epoch> {
            None
        }
        fn held_shards(&self) -> Vec<ShardId> {
            Vec::new()
        }
        fn revision(&self) -> MapRevision {
            MapRevision(1)
        }
        fn changes(&self) -> watch::Receiver<MapRevision> {
            self.changes.subscribe()
        }
        fn nodes(&self) -> Arc<[Arc<NodeInfo>]> {
            self.nodes.lock().unwrap().clone()
        }
        fn fenced(&self, _: ShardId, _: Epoch) {}
    }

    /// A rolling restart that does not wait: the one owner is told to go while the node before it, just back, has no shard yet.
    #[test]
    fn the_only_owner_takes_calls_while_it_drains_when_somebody_will_take_its_shards() {
        let takes = |active, nodes: &[_]| call_shard(&map(active, nodes), 7).is_some();
        assert!(takes(true, &[("a", Role::Call, false)]));
        assert!(!takes(true, &[("a", Role::Call, true)]), "it is the last one and goes");
        assert!(takes(true, &[("a", Role::Call, true), ("b", Role::Call, false)]));
        assert!(!takes(true, &[("a", Role::Call, true), ("b", Role::Call, true)]), "all go");
        assert!(!takes(true, &[("a", Role::Call, true), ("b", Role::Media, false)]), "not for calls");
        assert!(
            !takes(true, &[("b", Role::Call, false)]),
            "the owner has vanished: its shards are not served yet"
        );
        assert!(
            !takes(false, &[("a", Role::Call, true), ("b", Role::Call, false)]),
            "nobody serves them now"
        );
    }
}
