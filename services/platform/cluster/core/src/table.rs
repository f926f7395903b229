//! The assignment table: who should own which shard, in blocks; and what an owner says that it holds.

use trunkline_types::{Epoch, SHARD_COUNT, ShardId};

use crate::NodeIdentity;

/// Blocks of the table, each one key.
pub const BLOCKS: usize = 64;
/// Shards in a block.
pub const BLOCK_SHARDS: usize = SHARD_COUNT as usize / BLOCKS;

/// Who should own a shard. Written by the coordinator alone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assignment {
    /// The owner; `None` = never assigned.
    pub owner: Option<NodeIdentity>,
    /// Who owned it before: it is asked to let go.
    pub previous: Option<NodeIdentity>,
    /// How often the owner has changed: tells two assignments to the same node apart.
    pub turn: u64,
}

/// 64 shards in a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block(pub Vec<Assignment>);

impl Default for Block {
    fn default() -> Self {
        Self(vec![Assignment::default(); BLOCK_SHARDS])
    }
}

/// The block that a shard is in.
pub const fn block_of(shard: ShardId) -> usize {
    shard.index() as usize / BLOCK_SHARDS
}

/// A shard's place in its block.
pub const fn place_of(shard: ShardId) -> usize {
    shard.index() as usize % BLOCK_SHARDS
}

/// The shards of a block.
pub fn shards_of(block: usize) -> impl Iterator<Item = ShardId> {
    (block * BLOCK_SHARDS..(block + 1) * BLOCK_SHARDS).filter_map(|index| ShardId::new(index as u16))
}

/// One shard that a node has sealed and rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldShard {
    /// The shard.
    pub shard: ShardId,
    /// The turn of the assignment by which it got it.
    pub turn: u64,
    /// The epoch at which it sealed it.
    pub epoch: Epoch,
}

/// All that a node holds, ordered by shard. Written by that node alone, under its lease.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holdings(pub Vec<HeldShard>);

impl Holdings {
    /// The entry of a shard.
    pub fn get(&self, shard: ShardId) -> Option<&HeldShard> {
        let at = self.0.binary_search_by_key(&shard, |held| held.shard).ok()?;
        self.0.get(at)
    }
}
