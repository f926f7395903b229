use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use trunkline_types::{Epoch, NodeId};

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
    /// The epoch at which it sealed the shard.
    pub epoch: Epoch,
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
    /// Where each of its roles is reached (`host:port` of its gRPC server); in one process all are empty.
    pub roles: BTreeMap<Role, String>,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Whether it takes no new calls any more.
    pub draining: bool,
}
