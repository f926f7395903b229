//! The cluster of one: what the console shows of it.

use std::sync::Arc;

use async_trait::async_trait;
use trunkline_actors::now;
use trunkline_cluster::{Placement, Role as NodeRole};
use trunkline_console::{ClusterPort, ClusterRefused};
use trunkline_proto::{
    cluster::v1::{Member, Overview, ShardRange},
    common::v1::Role,
};
use trunkline_types::{NodeId, ShardId};

/// A node that coordinates with nobody.
pub struct Alone {
    placement: Arc<dyn Placement>,
    since_us: i64,
}

impl Alone {
    pub fn new(placement: Arc<dyn Placement>) -> Self {
        Self { placement, since_us: now().as_micros() }
    }

    fn shards(&self) -> Vec<ShardRange> {
        let mut ranges: Vec<ShardRange> = Vec::new();
        for shard in ShardId::all() {
            let index = u32::from(shard.index());
            let range = match self.placement.owner(shard) {
                Some(owner) => ShardRange {
                    first: index,
                    last: index,
                    owner: owner.node.to_string(),
                    phase: if owner.active { "active" } else { "opening" }.to_owned(),
                    epoch: owner.epoch.0,
                },
                // Another process has sealed it.
                None => ShardRange {
                    first: index,
                    last: index,
                    phase: "unassigned".to_owned(),
                    ..ShardRange::default()
                },
            };
            match ranges.last_mut() {
                Some(last)
                    if (&last.owner, &last.phase, last.epoch)
                        == (&range.owner, &range.phase, range.epoch) =>
                {
                    last.last = index;
                }
                _ => ranges.push(range),
            }
        }
        ranges
    }
}

#[async_trait]
impl ClusterPort for Alone {
    async fn overview(&self) -> Result<Overview, ClusterRefused> {
        let (local, shards) = (self.placement.local(), self.shards());
        let count = |phase: &str| {
            shards.iter().filter(|range| range.phase == phase).map(|range| range.last - range.first + 1).sum()
        };
        let member = Member {
            node: local.id.to_string(),
            incarnation: local.incarnation.0,
            roles: NodeRole::ALL.into_iter().map(|role| proto_role(role).into()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: "serving".to_owned(),
            since_us: self.since_us,
            shards_active: count("active"),
            shards_opening: count("opening"),
            ..Member::default()
        };
        Ok(Overview {
            cluster: "trunkline".to_owned(),
            node: local.id.to_string(),
            coordinator: local.id.to_string(),
            map_revision: self.placement.revision().0,
            members: vec![member],
            shards,
            coordination: "embedded".to_owned(),
            journal: "sqlite".to_owned(),
            at_us: now().as_micros(),
            ..Overview::default()
        })
    }

    async fn set_drain(&self, node: &NodeId, _: bool, _: &str) -> Result<(), ClusterRefused> {
        if *node != self.placement.local().id {
            return Err(ClusterRefused::UnknownNode);
        }
        let why = "This is the only node: nothing can move. Stop it instead (SIGTERM); calls may end first.";
        Err(ClusterRefused::Impossible(why.to_owned()))
    }
}

const fn proto_role(role: NodeRole) -> Role {
    match role {
        NodeRole::Edge => Role::Edge,
        NodeRole::Call => Role::Call,
        NodeRole::Acd => Role::Acd,
        NodeRole::Media => Role::Media,
        NodeRole::Records => Role::Records,
        NodeRole::Console => Role::Console,
    }
}
