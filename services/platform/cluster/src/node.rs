use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use trunkline_types::{Epoch, NodeId, ShardGroup};

/// Tells the lives of one node apart: a node that comes back is another owner. Rises with each start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// The revision of the map of shards; a sender with an older one is told `Moved`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapRevision(pub u64);

/// One life of one node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// The node.
    pub id: NodeId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.incarnation.0)
    }
}

/// Who owns a shard, and since when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub incarnation: Incarnation,
    /// The epoch last published for the shard. While the owner is not active it may be that of its predecessor.
    pub epoch: Epoch,
    /// Whether it has sealed the shard and rebuilt what lives in it. Until then messages wait.
    pub active: bool,
}

impl Owner {
    /// Whether it is this life of this node.
    pub fn is(&self, identity: &NodeIdentity) -> bool {
        self.node == identity.id && self.incarnation == identity.incarnation
    }
}

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// SIP doors.
    Edge,
    /// Calls.
    Call,
    /// Queues and agents.
    Acd,
    /// RTP and WebRTC.
    Media,
    /// Projections of the journal.
    Records,
    /// HTTP and WebSocket.
    Console,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Edge, Self::Call, Self::Acd, Self::Media, Self::Records, Self::Console];

    /// The name on the command line, in keys and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Call => "call",
            Self::Acd => "acd",
            Self::Media => "media",
            Self::Records => "records",
            Self::Console => "console",
        }
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: use edge, call, acd, media, records or console")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| RoleError(text.chars().take(40).collect()))
    }
}

/// A node as the others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    /// The node and which of its lives.
    pub identity: NodeIdentity,
    /// `host:port` of its one gRPC server; empty when the cluster is one process.
    pub address: String,
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// Its failure domain.
    pub zone: Option<String>,
    /// The version of its program.
    pub version: String,
    /// Whether it takes no new calls any more and gives its shards away.
    pub draining: bool,
    /// Where the world outside reaches it, by name (`http`, `sip`).
    pub public: BTreeMap<String, String>,
}

impl NodeInfo {
    /// Whether it has this role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether it may own shards of this group.
    pub fn may_own(&self, group: ShardGroup) -> bool {
        self.has(match group {
            ShardGroup::Acd => Role::Acd,
            ShardGroup::Call => Role::Call,
        })
    }
}
