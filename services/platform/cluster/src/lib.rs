//! Placement: which node owns which shard, and at which epoch.
//!
//! Owns the [`Placement`] trait, node identities, the minting of call ids, and [`EpochGuard`], by which receivers refuse
//! commands of former owners. [`EmbeddedPlacement`] is the one-node implementation; one over etcd has the same shape:
//! reads answer at once from the map last seen, changes are announced by [`Placement::changes`], and the journal's fencing
//! (not the map) keeps two owners from both acting. Who calls it: `trunkline-actors` (may this node act on a shard, and at
//! which epoch), `trunkline-rpc` (where does a message go), `edge` (where is a new call placed), `media` and `edge` as
//! receivers (is this sender's epoch current).
//!
//! It refuses to be a lock: an answer from here is a hint about where to send, and the epoch is what decides. Calls, queue
//! entries, agents and load figures are never kept in the map.

mod embedded;
mod guard;
mod mint;
mod node;

use tokio::sync::watch;
use trunkline_types::{EntityAddress, Epoch, NodeId, ShardId};

pub use embedded::EmbeddedPlacement;
pub use guard::{EpochGuard, StaleEpoch};
pub use mint::{LoadGuard, Loads, mint_call};
pub use node::{Incarnation, MapRevision, NodeIdentity, NodeInfo, Owner, Role};

/// Why placement could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// The journal could not seal the shards.
    #[error("cannot take the shards over: {0}")]
    Journal(#[from] trunkline_journal::JournalError),
    /// This node owns no shard in which a call could live: it is joining or draining.
    #[error("this node owns no shard")]
    NoShard,
}

/// The map of shards to owners as this node sees it. Reads never wait.
pub trait Placement: Send + Sync + 'static {
    /// This node.
    fn local(&self) -> &NodeIdentity;

    /// The owner of a shard; `None` while it is moving or nobody has it.
    fn owner(&self, shard: ShardId) -> Option<Owner>;

    /// The epoch at which this node may act on a shard; `None` = it must not. Told only after the journal has sealed it.
    fn held(&self, shard: ShardId) -> Option<Epoch>;

    /// The shards for which [`Placement::held`] answers.
    fn held_shards(&self) -> Vec<ShardId>;

    /// The revision of the map; goes with every message to a shard.
    fn revision(&self) -> MapRevision;

    /// To wait for changes of the map.
    fn changes(&self) -> watch::Receiver<MapRevision>;

    /// A node of the cluster and where to reach it.
    fn node(&self, id: &NodeId) -> Option<NodeInfo>;

    /// The journal refused this node's epoch: it stops acting on the shard until it has sealed it again.
    fn fenced(&self, shard: ShardId, current: Epoch);

    /// The owner of an entity.
    fn owner_of(&self, entity: &EntityAddress) -> Option<Owner> {
        self.owner(entity.shard())
    }

    /// Whether an entity lives on this node.
    fn is_local(&self, entity: &EntityAddress) -> bool {
        self.held(entity.shard()).is_some()
    }
}
