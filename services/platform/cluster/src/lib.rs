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

mod config;
mod embedded;
mod etcd;
mod guard;
mod metrics;
mod mint;
mod overview;
mod ports;
#[cfg(feature = "testing")]
#[allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]
pub mod testing;

use std::sync::Arc;

use tokio::sync::watch;
use trunkline_types::{EntityAddress, Epoch, Feature, NodeId, ShardId};

pub use config::{ClusterConfig, ConfigError, EtcdConfig, EtcdTls, TlsFiles};
pub use embedded::EmbeddedPlacement;
pub use etcd::{
    EtcdEndpoint, EtcdPlacement, EtcdReport, EtcdStatus, NodeSpec, RegisteredNode, inspect as inspect_etcd,
};
pub use guard::{EpochGuard, StaleEpoch};
pub use metrics::ClusterMetrics;
pub use mint::{LoadGuard, Loads, call_shard, mint_call};
pub use ports::{NoShards, Probe, ReleasePeer, ShardHost};
pub use trunkline_cluster_core::NodeRecord;
pub use trunkline_cluster_core::{Incarnation, MapRevision, NodeIdentity, NodeInfo, Owner, Role, RoleError};

/// Why placement could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// The journal could not seal the shards.
    #[error("cannot take the shards over: {0}")]
    Journal(#[from] trunkline_journal::JournalError),
    /// No member owns a shard in which a call could live: none has the role `call`, or all of them drain.
    #[error("no node takes new calls: start one with the role call, or end a drain")]
    NoShard,
    /// The section `cluster` of the configuration is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// etcd does not answer, or refuses.
    #[error("{0}")]
    Etcd(String),
    /// The cluster writes what this program cannot read.
    #[error(
        "the cluster writes what this program cannot read (gate {gate}, this program knows {latest}): upgrade this node"
    )]
    Outdated {
        /// Up to which feature every node must be able to read.
        gate: u32,
        /// What this program can read.
        latest: u32,
    },
    /// What lives in the shards could not be rebuilt.
    #[error("cannot open the shards: {0}")]
    Open(String),
}

/// The map of shards to owners as this node sees it. Reads never wait.
pub trait Placement: Send + Sync + 'static {
    /// This node. Another incarnation follows when it had to register anew.
    fn local(&self) -> NodeIdentity;

    /// The owner of a shard by the last map seen, active or not; `None` when nobody has it, or who had it has vanished.
    fn owner(&self, shard: ShardId) -> Option<Owner>;

    /// The epoch at which this node may act on a shard; `None` = it must not. Told only after the journal has sealed it and
    /// what lives in it was rebuilt.
    fn held(&self, shard: ShardId) -> Option<Epoch>;

    /// The epoch of a shard that this node has sealed and is rebuilding: recovered entities may act, messages wait.
    fn opening(&self, shard: ShardId) -> Option<Epoch>;

    /// The shards for which [`Placement::held`] answers.
    fn held_shards(&self) -> Vec<ShardId>;

    /// The revision of the map; goes with every message to a shard.
    fn revision(&self) -> MapRevision;

    /// To wait for changes of the map, of the members, and of what is held.
    fn changes(&self) -> watch::Receiver<MapRevision>;

    /// The members, this node among them once it has joined; ordered by id.
    fn nodes(&self) -> Arc<[Arc<NodeInfo>]>;

    /// The journal refused this node's epoch: it stops acting on the shard until it has sealed it again.
    fn fenced(&self, shard: ShardId, current: Epoch);

    /// A member of the cluster and where to reach it.
    fn node(&self, id: &NodeId) -> Option<Arc<NodeInfo>> {
        let nodes = self.nodes();
        let at = nodes.binary_search_by(|node| node.identity.id.cmp(id)).ok()?;
        nodes.get(at).cloned()
    }

    /// The epoch at which entities of a shard may write here: held, or being rebuilt.
    fn sealed(&self, shard: ShardId) -> Option<Epoch> {
        self.held(shard).or_else(|| self.opening(shard))
    }

    /// Up to which [`Feature`] every node of the cluster can read.
    fn gate(&self) -> u32 {
        Feature::LATEST
    }

    /// Whether every node of the cluster can read this, so that it may be written.
    fn may_write(&self, feature: Feature) -> bool {
        self.gate() >= feature.level()
    }

    /// Whether this node takes no new calls any more: an operator drains it, or it is about to leave.
    fn draining(&self) -> bool {
        self.node(&self.local().id).is_some_and(|node| node.draining)
    }

    /// Whether a new call may be placed in this shard: its owner is a member, active, and does not drain.
    fn placeable(&self, shard: ShardId) -> bool {
        self.owner(shard)
            .is_some_and(|owner| owner.active && self.node(&owner.node).is_some_and(|node| !node.draining))
    }

    /// The owner of an entity.
    fn owner_of(&self, entity: &EntityAddress) -> Option<Owner> {
        self.owner(entity.shard())
    }

    /// Whether an entity lives on this node.
    fn is_local(&self, entity: &EntityAddress) -> bool {
        self.held(entity.shard()).is_some()
    }
}
