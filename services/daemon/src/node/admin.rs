//! What operators see of the cluster and may do to it: the gRPC service `trunkline.cluster.v1.Admin`, and the same for the
//! console's page.

use std::sync::Arc;

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use trunkline_actors::now;
use trunkline_cluster::{EtcdPlacement, Incarnation, NodeIdentity, Placement, Role};
use trunkline_proto::{
    cluster::v1::{
        GetOverviewRequest, ListTelephonesRequest, ListTelephonesResponse, Member, Overview,
        ReleaseShardsRequest, ReleaseShardsResponse, SetDrainRequest, SetDrainResponse, ShardRange,
        admin_server::Admin,
    },
    common::v1 as common,
};
use trunkline_rpc::ErrorKind;
use trunkline_types::{Feature, NodeId, ShardGroup, ShardId};

use super::{ground::Ground, health::Health, telephones::Telephones};
use crate::config::NodeConfig;

/// Answers for one node.
#[derive(Clone)]
pub(crate) struct Operator {
    pub placement: Arc<dyn Placement>,
    pub etcd: Option<Arc<EtcdPlacement>>,
    pub health: Health,
    /// "sqlite" or "postgres".
    pub journal: &'static str,
    pub version: &'static str,
    pub started_us: i64,
    pub telephones: Telephones,
}

impl Operator {
    /// For the node that stands on `ground`.
    pub(super) fn new(ground: &Ground, config: &NodeConfig, health: &Health, started_us: i64) -> Self {
        Self {
            placement: ground.placement.clone(),
            etcd: ground.seat.member().cloned(),
            health: health.clone(),
            journal: config.journal_kind(),
            version: env!("CARGO_PKG_VERSION"),
            started_us,
            telephones: Telephones::new(ground),
        }
    }

    /// The cluster as this node sees it.
    pub fn overview(&self) -> Overview {
        let mut overview = match &self.etcd {
            Some(etcd) => etcd.overview(),
            None => self.alone(),
        };
        overview.journal = self.journal.to_owned();
        overview.journal_problem = self.health.journal_problem().unwrap_or_default();
        overview.coordination_problem = self.health.coordination_problem().unwrap_or_default();
        overview.at_us = now().as_micros();
        overview
    }

    /// A node that is alone owns everything.
    fn alone(&self) -> Overview {
        let local = self.placement.local();
        let held = self.placement.held_shards();
        let ranges = ranges(&held, &local, |shard| self.placement.held(shard).map_or(0, |epoch| epoch.0));
        Overview {
            cluster: "none".to_owned(),
            node: local.id.to_string(),
            coordinator: local.id.to_string(),
            map_revision: self.placement.revision().0,
            gate: self.placement.gate(),
            members: vec![Member {
                node: local.id.to_string(),
                incarnation: local.incarnation.0,
                roles: Role::ALL.into_iter().map(|role| i32::from(to_proto(role))).collect(),
                version: self.version.to_owned(),
                features: Feature::LATEST,
                state: "serving".to_owned(),
                since_us: self.started_us,
                shards_active: u32::try_from(held.len()).unwrap_or(u32::MAX),
                ..Member::default()
            }],
            shards: ranges,
            coordination: "embedded".to_owned(),
            ..Overview::default()
        }
    }

    /// Drains a node or ends its draining.
    pub async fn set_drain(&self, node: &str, drain: bool, by: &str) -> Result<(), (ErrorKind, String)> {
        let id: NodeId =
            node.parse().map_err(|_| (ErrorKind::Invalid, format!("node: {node:?} is not a node's name")))?;
        let Some(etcd) = &self.etcd else {
            let why =
                "this node is alone: there is no other that could take its calls; stop it instead (SIGTERM)";
            return Err((ErrorKind::Conflict, why.to_owned()));
        };
        if !self.placement.nodes().iter().any(|member| member.identity.id == id) {
            let why = format!("node: {node} is no member now; `trunkline cluster` lists the members");
            return Err((ErrorKind::NotFound, why));
        }
        tracing::info!(%node, drain, by, "an operator asked for it");
        etcd.set_drain(&id, drain).await.map_err(|error| (ErrorKind::Unavailable, error.to_string()))
    }
}

fn ranges(shards: &[ShardId], owner: &NodeIdentity, epoch: impl Fn(ShardId) -> u64) -> Vec<ShardRange> {
    let mut ranges: Vec<ShardRange> = Vec::new();
    for shard in shards {
        let (index, epoch) = (u32::from(shard.index()), epoch(*shard));
        let first_of_group = ShardGroup::ALL.iter().any(|group| group.range().0 == shard.index());
        match ranges.last_mut() {
            Some(last) if last.last + 1 == index && last.epoch == epoch && !first_of_group => {
                last.last = index
            }
            _ => ranges.push(ShardRange {
                first: index,
                last: index,
                owner: owner.id.to_string(),
                phase: "active".to_owned(),
                epoch,
            }),
        }
    }
    ranges
}

/// The wire's name of a role.
pub(crate) const fn to_proto(role: Role) -> common::Role {
    match role {
        Role::Edge => common::Role::Edge,
        Role::Call => common::Role::Call,
        Role::Acd => common::Role::Acd,
        Role::Media => common::Role::Media,
        Role::Records => common::Role::Records,
        Role::Console => common::Role::Console,
    }
}

#[async_trait]
impl Admin for Operator {
    async fn get_overview(&self, _: Request<GetOverviewRequest>) -> Result<Response<Overview>, Status> {
        Ok(Response::new(self.overview()))
    }

    async fn set_drain(
        &self,
        request: Request<SetDrainRequest>,
    ) -> Result<Response<SetDrainResponse>, Status> {
        let SetDrainRequest { node, drain, by } = request.into_inner();
        match Self::set_drain(self, &node, drain, &by).await {
            Ok(()) => Ok(Response::new(SetDrainResponse {})),
            Err((kind, why)) => Err(kind.status(why)),
        }
    }

    async fn list_telephones(
        &self,
        request: Request<ListTelephonesRequest>,
    ) -> Result<Response<ListTelephonesResponse>, Status> {
        self.telephones.list(request.into_inner()).await.map(Response::new)
    }

    async fn release_shards(
        &self,
        request: Request<ReleaseShardsRequest>,
    ) -> Result<Response<ReleaseShardsResponse>, Status> {
        let ReleaseShardsRequest { node, incarnation, shards } = request.into_inner();
        let Some(etcd) = &self.etcd else {
            return Err(ErrorKind::Conflict.status("this node is alone"));
        };
        let local = self.placement.local();
        if local.id.as_str() != node || local.incarnation != Incarnation(incarnation) {
            return Err(ErrorKind::Moved.status(format!("this is {local}")));
        }
        let shards: Vec<ShardId> =
            shards.into_iter().filter_map(|shard| ShardId::new(u16::try_from(shard).ok()?)).collect();
        let released = etcd.release_requested(&shards).await;
        let released = released.into_iter().map(|shard| u32::from(shard.index())).collect();
        Ok(Response::new(ReleaseShardsResponse { released }))
    }
}
