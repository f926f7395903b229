//! What operators see.

use std::{collections::BTreeMap, time::Duration};

use trunkline_cluster_core::{Machine, NodeIdentity, NodeRecord, Role};
use trunkline_proto::{
    cluster::v1::{Member, Move, Overview, ShardRange},
    common::v1::Role as ProtoRole,
};
use trunkline_types::ShardId;

/// Moves that are shown.
const MOVES: usize = 200;

#[derive(Default)]
struct Counts {
    active: u32,
    opening: u32,
}

/// The cluster as this machine sees it.
pub(crate) fn of(
    machine: &Machine,
    now: Duration,
    now_us: u64,
    cluster: String,
    problem: String,
) -> Overview {
    let map = machine.map();
    let mut counts: BTreeMap<NodeIdentity, Counts> = BTreeMap::new();
    let mut ranges: Vec<ShardRange> = Vec::new();
    for shard in ShardId::all() {
        let (owner, epoch) = (map.assignment(shard).owner.as_ref(), map.published(shard));
        if let Some(owner) = owner {
            let count = counts.entry(owner.clone()).or_default();
            if epoch.is_some() { count.active += 1 } else { count.opening += 1 }
        }
        let phase = match (owner, epoch) {
            (None, _) => "unassigned",
            (Some(_), Some(_)) => "active",
            (Some(_), None) => "opening",
        };
        let index = u32::from(shard.index());
        let range = ShardRange {
            first: index,
            last: index,
            owner: owner.map(|owner| owner.id.as_str().to_owned()).unwrap_or_default(),
            phase: phase.to_owned(),
            epoch: epoch.unwrap_or_default().0,
        };
        match ranges.last_mut() {
            Some(last)
                if last.owner == range.owner && last.phase == range.phase && last.epoch == range.epoch =>
            {
                last.last = index;
            }
            _ => ranges.push(range),
        }
    }
    Overview {
        cluster,
        node: machine.me().id.as_str().to_owned(),
        coordinator: map.leader.as_ref().map(|(node, _)| node.id.as_str().to_owned()).unwrap_or_default(),
        map_revision: map.revision,
        gate: map.gate,
        members: members(machine, &counts),
        shards: ranges,
        moves: moves(machine, now, now_us),
        coordination: "etcd".to_owned(),
        coordination_problem: problem,
        journal: String::new(),
        journal_problem: String::new(),
        at_us: i64::try_from(now_us).unwrap_or(i64::MAX),
    }
}

fn members(machine: &Machine, counts: &BTreeMap<NodeIdentity, Counts>) -> Vec<Member> {
    let (map, doubtful) = (machine.map(), machine.doubtful());
    let none = Counts::default();
    let gone = map.members.gone().map(|(identity, record, _)| (identity, record));
    let mut members: Vec<Member> = map
        .members
        .present()
        .chain(gone.filter(|(identity, _)| counts.contains_key(*identity)))
        .map(|(identity, record)| {
            let count = counts.get(identity).unwrap_or(&none);
            let drains = record.draining || map.members.is_drained(&identity.id);
            let state = match (doubtful.contains(identity), drains) {
                (true, _) => "suspected",
                (false, true) if count.active + count.opening == 0 => "drained",
                (false, true) => "draining",
                (false, false) => "serving",
            };
            member(identity, record, count, state, drains)
        })
        .collect();
    members.sort_by(|a, b| a.node.cmp(&b.node));
    members
}

fn member(identity: &NodeIdentity, record: &NodeRecord, count: &Counts, state: &str, drains: bool) -> Member {
    Member {
        node: identity.id.as_str().to_owned(),
        incarnation: identity.incarnation.0,
        roles: record.roles.iter().map(|role| proto_role(*role).into()).collect(),
        address: record.address.clone(),
        zone: record.zone.clone().unwrap_or_default(),
        version: record.version.clone(),
        features: record.features,
        state: state.to_owned(),
        since_us: record.since_us,
        shards_active: count.active,
        shards_opening: count.opening,
        shards_leaving: if drains { count.active + count.opening } else { 0 },
        public_addresses: record.public.clone().into_iter().collect(),
    }
}

const fn proto_role(role: Role) -> ProtoRole {
    match role {
        Role::Edge => ProtoRole::Edge,
        Role::Call => ProtoRole::Call,
        Role::Acd => ProtoRole::Acd,
        Role::Media => ProtoRole::Media,
        Role::Records => ProtoRole::Records,
        Role::Console => ProtoRole::Console,
    }
}

fn moves(machine: &Machine, now: Duration, now_us: u64) -> Vec<Move> {
    let wall = |at: Duration| {
        let ago = u64::try_from(now.saturating_sub(at).as_micros()).unwrap_or(0);
        i64::try_from(now_us.saturating_sub(ago)).unwrap_or(i64::MAX)
    };
    let text = |id: &trunkline_types::NodeId| id.as_str().to_owned();
    machine
        .moves(MOVES)
        .into_iter()
        .map(|moved| Move {
            shard: u32::from(moved.shard.index()),
            from: moved.from.as_ref().map(text).unwrap_or_default(),
            to: text(&moved.to),
            reason: moved.reason.as_str().to_owned(),
            started_us: wall(moved.started),
            finished_us: moved.finished.map_or(0, wall),
        })
        .collect()
}
