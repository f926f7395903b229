use schemars::JsonSchema;
use serde::Serialize;
use trunkline_proto::{cluster::v1 as proto, common::v1::Role};

use super::{all, none_if_empty};
use crate::clock::{ms, ms_or_none};

/// The cluster as one of its nodes sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::rest) struct ClusterOverview {
    /// When this was seen.
    at_ms: i64,
    cluster: String,
    /// The node that answers.
    node: String,
    /// The node that assigns shards; null = none is elected.
    coordinator: Option<String>,
    map_revision: u64,
    /// Up to which feature every node can read; what is later is not written.
    gate: u32,
    /// What members and shards are coordinated by: `embedded` or `etcd`.
    coordination: Dependency,
    /// What decisions are committed to: `sqlite` or `postgres`.
    journal: Dependency,
    members: Vec<Member>,
    /// In ascending order, without gaps.
    shards: Vec<ShardRange>,
    /// Changes of owners, newest first; the last ones only.
    moves: Vec<Move>,
}

/// Something that the cluster stands on.
#[derive(Debug, Serialize, JsonSchema)]
struct Dependency {
    kind: String,
    /// What is wrong with it; null = nothing.
    problem: Option<String>,
}

/// A node.
#[derive(Debug, Serialize, JsonSchema)]
struct Member {
    node: String,
    /// Which of its lives; a number of 64 bits.
    incarnation: String,
    roles: Vec<&'static str>,
    /// Where other nodes reach it; null in a cluster of one process.
    address: Option<String>,
    zone: Option<String>,
    version: String,
    /// The latest feature that its program can read.
    features: u32,
    /// `serving`, `draining`, `drained` or `suspected`.
    state: String,
    /// Since when it is in this state.
    since_ms: i64,
    /// Shards that it owns and acts on.
    shards_active: u32,
    /// Shards that it has been given and rebuilds.
    shards_opening: u32,
    /// Shards that have to leave it.
    shards_leaving: u32,
    /// Where telephones and browsers reach it.
    public_addresses: std::collections::BTreeMap<String, String>,
}

/// Shards in a row with the same owner, phase and epoch.
#[derive(Debug, Serialize, JsonSchema)]
struct ShardRange {
    first: u32,
    last: u32,
    owner: Option<String>,
    /// `active`, `opening` or `unassigned`.
    phase: String,
    epoch: u64,
}

/// A shard's change of owner.
#[derive(Debug, Serialize, JsonSchema)]
struct Move {
    shard: u32,
    from: Option<String>,
    to: Option<String>,
    /// `join`, `loss`, `drain` or `balance`.
    reason: String,
    started_ms: i64,
    /// null = under way.
    finished_ms: Option<i64>,
}

impl From<proto::Overview> for ClusterOverview {
    fn from(from: proto::Overview) -> Self {
        Self {
            at_ms: ms(from.at_us),
            cluster: from.cluster,
            node: from.node,
            coordinator: none_if_empty(from.coordinator),
            map_revision: from.map_revision,
            gate: from.gate,
            coordination: Dependency {
                kind: from.coordination,
                problem: none_if_empty(from.coordination_problem),
            },
            journal: Dependency { kind: from.journal, problem: none_if_empty(from.journal_problem) },
            members: all(from.members),
            shards: all(from.shards),
            moves: all(from.moves),
        }
    }
}

impl From<proto::Member> for Member {
    fn from(from: proto::Member) -> Self {
        Self {
            roles: from.roles().map(role).collect(),
            node: from.node,
            incarnation: from.incarnation.to_string(),
            address: none_if_empty(from.address),
            zone: none_if_empty(from.zone),
            version: from.version,
            features: from.features,
            state: from.state,
            since_ms: ms(from.since_us),
            shards_active: from.shards_active,
            shards_opening: from.shards_opening,
            shards_leaving: from.shards_leaving,
            public_addresses: from.public_addresses.into_iter().collect(),
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Edge => "edge",
        Role::Call => "call",
        Role::Acd => "acd",
        Role::Media => "media",
        Role::Records => "records",
        Role::Console => "console",
        Role::Unspecified => "unknown",
    }
}

impl From<proto::ShardRange> for ShardRange {
    fn from(from: proto::ShardRange) -> Self {
        Self {
            first: from.first,
            last: from.last,
            owner: none_if_empty(from.owner),
            phase: from.phase,
            epoch: from.epoch,
        }
    }
}

impl From<proto::Move> for Move {
    fn from(from: proto::Move) -> Self {
        Self {
            shard: from.shard,
            from: none_if_empty(from.from),
            to: none_if_empty(from.to),
            reason: from.reason,
            started_ms: ms(from.started_us),
            finished_ms: ms_or_none(from.finished_us),
        }
    }
}
