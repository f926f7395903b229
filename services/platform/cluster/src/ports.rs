use std::time::Duration;

use async_trait::async_trait;
use trunkline_types::ShardId;

use crate::NodeInfo;

/// What lives in shards on this node: the rooms, as placement sees them. The daemon implements it.
#[async_trait]
pub trait ShardHost: Send + Sync + 'static {
    /// These shards were sealed by this node ([`crate::Placement::opening`] answers): rebuild their entities. Returns when
    /// the entities are up. May be asked again for a shard after an error, and after [`ShardHost::close`].
    ///
    /// # Errors
    /// A sentence for the log; placement tries again.
    async fn open(&self, shards: &[ShardId]) -> Result<(), String>;

    /// These shards are not this node's any more: let commits under way finish, for at most `patience`, and end the actors.
    /// Returns when nothing acts on them.
    async fn close(&self, shards: &[ShardId], patience: Duration);
}

/// A host of nothing: for nodes without entities, and tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoShards;

#[async_trait]
impl ShardHost for NoShards {
    async fn open(&self, _: &[ShardId]) -> Result<(), String> {
        Ok(())
    }
    async fn close(&self, _: &[ShardId], _: Duration) {}
}

/// Asks a shard's former owner to let go. Implemented over the nodes' gRPC; the other end calls `release_requested`.
#[async_trait]
pub trait ReleasePeer: Send + Sync + 'static {
    /// Returns when nothing acts on these shards at `node` any more, or it could not be reached within `deadline`: the seal
    /// fences it anyway.
    async fn release(&self, node: &NodeInfo, shards: &[ShardId], deadline: Duration);
}

/// Asks a node directly whether it lives, past etcd.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// Whether this life of this node answered within `deadline`.
    async fn reachable(&self, node: &NodeInfo, deadline: Duration) -> bool;
}
