use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use trunkline_types::{CallId, SHARD_COUNT, ShardGroup, ShardId, Timestamp};

use crate::{ClusterError, Placement};

/// How many calls live in each shard, and on each lane (arbiter thread) that serves the shards `lane mod lanes`.
#[derive(Debug)]
pub struct Loads {
    shards: Vec<AtomicU32>,
    lanes: Vec<AtomicU32>,
}

impl Loads {
    /// For a process with this many lanes (at least one).
    pub fn new(lanes: usize) -> Arc<Self> {
        let zeros = |n: usize| (0..n).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self { shards: zeros(usize::from(SHARD_COUNT)), lanes: zeros(lanes.max(1)) })
    }

    /// Counts one more call in a shard until the guard is dropped.
    pub fn begin(self: &Arc<Self>, shard: ShardId) -> LoadGuard {
        self.counters(shard).iter().for_each(|counter| _ = counter.fetch_add(1, Ordering::Relaxed));
        LoadGuard { loads: Arc::clone(self), shard }
    }

    /// The lane's load and, among equals, the shard's.
    pub fn of(&self, shard: ShardId) -> (u32, u32) {
        let [lane, own] = self.counters(shard);
        (lane.load(Ordering::Relaxed), own.load(Ordering::Relaxed))
    }

    fn counters(&self, shard: ShardId) -> [&AtomicU32; 2] {
        let index = usize::from(shard.index());
        [&self.lanes[index % self.lanes.len()], &self.shards[index]]
    }
}

/// One call counted in [`Loads`].
#[derive(Debug)]
pub struct LoadGuard {
    loads: Arc<Loads>,
    shard: ShardId,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.loads
            .counters(self.shard)
            .iter()
            .for_each(|counter| _ = counter.fetch_sub(1, Ordering::Relaxed));
    }
}

/// Mints the id of a new call in a shard of this node: the less loaded of two drawn at random.
///
/// `entropy` is 128 random bits: the low 65 go into the id, the high 62 draw the shards.
///
/// # Errors
/// [`ClusterError::NoShard`] when this node owns none.
pub fn mint_call(
    placement: &dyn Placement,
    loads: &Loads,
    now: Timestamp,
    entropy: u128,
) -> Result<CallId, ClusterError> {
    let draw = |bits: u32| draw(placement, (entropy >> bits) as u32 & 0x7fff_ffff);
    let (one, other) = (draw(66).ok_or(ClusterError::NoShard)?, draw(97).ok_or(ClusterError::NoShard)?);
    let shard = if loads.of(other) < loads.of(one) { other } else { one };
    Ok(CallId::mint(shard, now, entropy))
}

/// A held shard of calls, drawn evenly: directly when this node holds what was drawn (as it does when it is alone), else from the
/// list of those held.
fn draw(placement: &dyn Placement, random: u32) -> Option<ShardId> {
    let (first, count) = ShardGroup::Call.range();
    let direct = ShardId::new(first + (random % u32::from(count)) as u16)?;
    if placement.held(direct).is_some() {
        return Some(direct);
    }
    let mut held = placement.held_shards();
    held.retain(|shard| shard.group() == ShardGroup::Call);
    let index = (random / u32::from(count)) as usize;
    held.get(index.checked_rem(held.len())?).copied()
}
