//! What the machine is told, and what it wants done.

use std::time::Duration;

use trunkline_types::{Epoch, NodeId, ShardId};

use crate::{
    NodeIdentity, NodeInfo, NodeRecord, Seen,
    plan::Change,
    table::{Block, Holdings},
};

/// What a node may do with a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Nothing.
    None,
    /// Recovered entities may act.
    Opening(Epoch),
    /// It acts.
    Held(Epoch),
}

/// What has happened. Answers name what was asked for; one that comes late is judged by what is the case now.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// The store was read completely, at this revision.
    Listed(u64, Vec<Seen>),
    /// Changes, up to this revision.
    Watched(u64, Vec<Seen>),
    /// The store answers, or has ceased to.
    Connected(bool),
    /// This node is to become a member.
    Join,
    /// This node is to give its shards away, or not any more.
    SetDraining(bool),
    /// This node ends now: it closes what it still has.
    Quit,
    /// The node's keys are written, at this revision; its lease lives until then.
    Registered {
        /// Revision of the store.
        revision: u64,
        /// By the clock of `now`.
        until: Duration,
        /// What was written as held.
        holdings: Holdings,
    },
    /// It could not be registered.
    NotRegistered,
    /// The lease was renewed until then.
    Renewed(Duration),
    /// The store does not know the lease any more.
    LeaseLost,
    /// This node was elected at this revision; `None` = another one was, or the store did not answer.
    Campaigned(Option<u64>),
    /// The lease of the election at this revision is lost.
    ElectionLost(u64),
    /// The gate was raised, or was not.
    Raised(bool),
    /// The blocks were written, at these revisions.
    Assigned(Result<Vec<(usize, u64)>, ()>),
    /// What is held was written, or was not.
    Published(bool),
    /// A node could not be taken out.
    NotEvicted(NodeIdentity),
    /// A suspicion could not be written.
    NotSuspected(NodeIdentity),
    /// A link to a node broke.
    Suspect(NodeId),
    /// A direct probe was answered, or was not.
    Probed(NodeIdentity, bool),
    /// The former owner has let go, or did not answer in time.
    Released(Vec<ShardId>),
    /// The journal has sealed them.
    Sealed(Vec<(ShardId, Epoch)>),
    /// The journal could not seal them.
    SealFailed(Vec<ShardId>),
    /// The host has rebuilt them, or could not.
    Opened(Vec<ShardId>, bool),
    /// Nothing acts on them any more.
    Closed(Vec<ShardId>),
    /// The journal refused our epoch.
    Fenced(ShardId, Epoch),
    /// A new owner asks us to let go.
    ReleaseRequested(Vec<ShardId>),
    /// These blocks were read again, and are taken in; `false` = they could not be.
    Confirmed(Vec<Seen>, Vec<usize>, bool),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write the node's keys under its lease; get a lease first if there is none.
    Register(NodeRecord, Holdings),
    /// Try to become coordinator.
    Campaign,
    /// Write blocks, each if its key still is at the revision, all if this node still is elected. With the reasons.
    Assign(Vec<(usize, u64, Block)>, Vec<Change>),
    /// Write the gate, if this node still is elected and the gate is not higher.
    Raise(u32),
    /// Write what is held, under the node's lease.
    Publish(Holdings),
    /// Write another node's record, if its key is there and this node still is elected.
    Evict(NodeIdentity, NodeRecord),
    /// Remove the coordinator's key if it still is the one of this revision: two observers do not reach its node.
    Depose(u64),
    /// Write a suspicion under the node's lease, or remove it.
    Suspect(NodeIdentity, bool),
    /// Ask a node directly whether it lives.
    Probe(NodeInfo),
    /// Ask a former owner to let go.
    Release(NodeIdentity, Vec<ShardId>),
    /// Seal in the journal.
    Seal(Vec<ShardId>),
    /// Have the host rebuild.
    Open(Vec<ShardId>),
    /// Have the host end.
    Close(Vec<ShardId>),
    /// From now on this is what the node may do. Carried out before the other effects of the step.
    Hold(Vec<(ShardId, Holding)>),
    /// Read these blocks from the store's quorum.
    Confirm(Vec<usize>),
    /// Members or owners have changed.
    Changed,
}
