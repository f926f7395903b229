use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use trunkline_types::{Epoch, Feature, NodeId, ShardGroup};

/// Tells the lives of one node apart: a process that was started again is another owner. Rises with each start. A process that
/// lost its lease and registered again is the same life; what it may still do is told by the epochs.
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
    /// The epoch that it has published for the shard; 0 while it is not active.
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

/// What a node says of itself under its lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Which of this life's registrations: one more each time the lease was lost.
    pub registration: u64,
    /// `host:port` of its gRPC server.
    pub address: String,
    /// What it does. Roles of a newer version are left out.
    #[serde(deserialize_with = "known_roles")]
    pub roles: BTreeSet<Role>,
    /// Its failure domain.
    #[serde(default)]
    pub zone: Option<String>,
    /// The version of its program.
    #[serde(default)]
    pub version: String,
    /// The latest [`Feature`](trunkline_types::Feature) that its program can read.
    #[serde(default = "first")]
    pub features: u32,
    /// Its share of the shards in relation to the others'.
    #[serde(default = "one")]
    pub weight: u32,
    /// It is about to leave.
    #[serde(default)]
    pub draining: bool,
    /// The coordinator has taken it out: two observers did not reach it. It registers again when it lives.
    #[serde(default)]
    pub evicted: bool,
    /// Where the world outside reaches it.
    #[serde(default)]
    pub public: BTreeMap<String, String>,
    /// When this life began, microseconds since 1970 by its own clock: for display.
    #[serde(default)]
    pub since_us: i64,
}

const fn one() -> u32 {
    1
}

const fn first() -> u32 {
    Feature::FIRST
}

fn known_roles<'de, D: serde::Deserializer<'de>>(d: D) -> Result<BTreeSet<Role>, D::Error> {
    let names: Vec<String> = Deserialize::deserialize(d)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

impl NodeRecord {
    /// As the others see it. `drain` = an operator wants it empty.
    pub fn info(&self, identity: &NodeIdentity, drain: bool) -> NodeInfo {
        NodeInfo {
            identity: identity.clone(),
            address: self.address.clone(),
            roles: self.roles.clone(),
            zone: self.zone.clone(),
            version: self.version.clone(),
            draining: self.draining || drain,
            public: self.public.clone(),
        }
    }
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
