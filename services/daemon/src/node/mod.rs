//! A node with its roles: made in the order in which each needs the ones before, ended in the other.

mod admin;
pub(crate) mod advertise;
mod ground;
mod health;
mod members;
mod metrics;
mod opening;
mod roles;
mod server;
mod shards;
mod telephones;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{task::JoinHandle, time::Instant};
use trunkline_acd::Acd;
use trunkline_actors::now;
use trunkline_call::Calls;
use trunkline_cluster::Role;
use trunkline_console::Console;
use trunkline_edge::Edge;
use trunkline_media::MediaNode;
use trunkline_proto::{
    call::v1::{Administrative, CallMessage, administrative, call_message},
    common::v1::{self as common, Envelope, envelope::Payload},
};
use trunkline_records::Records;
use trunkline_registrar::Registrar;
use trunkline_rpc::{Peers, entity};
use trunkline_telemetry::Metrics;
use trunkline_types::{EntityKind, NodeId, ReleaseCause, ShardId};

pub(crate) use self::admin::{Operator, to_proto};
pub use self::ground::journal;
use self::{ground::Ground, health::Health, server::Server, shards::Rooms};
use crate::{config::NodeConfig, documents::Documents, metrics_server};

/// What is under way may be committed within this at the end.
const FLUSH: Duration = Duration::from_secs(5);
/// The last captures have this long to reach their collector.
const CAPTURES: Duration = Duration::from_secs(1);
/// Calls that were released at the end have this long for their BYE and their recordings.
const RELEASE: Duration = Duration::from_secs(10);
/// Shards have this long to reach their new owners when a member leaves.
const HAND_OVER: Duration = Duration::from_secs(30);
/// Between two looks at what a stopping node still has.
const LOOK: Duration = Duration::from_millis(50);

/// Where the running node can be reached.
pub struct Addresses {
    pub cluster: Option<SocketAddr>,
    pub sip: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub metrics: SocketAddr,
}

/// A running node.
pub struct Node {
    pub addresses: Addresses,
    config: NodeConfig,
    ground: Ground,
    health: Health,
    server: Server,
    records: Option<Records>,
    media: Option<Arc<MediaNode>>,
    acd: Option<Acd>,
    registrar: Option<Registrar>,
    calls: Option<Calls>,
    console: Option<Console>,
    edge: Option<Arc<Edge>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts the node's roles; returns when every one serves and, in a cluster, the node is a member.
    pub async fn start(mut config: NodeConfig, dir: &Path) -> Result<Self> {
        // Whether it lives can be asked before anything that it waits for is there.
        let (metrics, health) = (Metrics::new(), Health::new());
        let (metrics_at, metrics_task) =
            metrics_server::start(config.metrics.listen, metrics.clone(), health.probe()).await?;
        advertise::settle(&mut config, |why| health.waits(why)).await;
        let ground = Ground::lay(&config, dir, metrics).await?;
        health.member(ground.seat.member());
        let started_us = now().as_micros();
        let roles: Vec<&str> = config.node.roles.iter().map(|role| role.as_str()).collect();
        let placement = ground.placement.clone();
        metrics::register(&ground.metrics, health.clone(), placement, roles.join(","), started_us);
        let operator = Operator::new(&ground, &config, &health, started_us);
        roles::say_credentials(&config);
        let mut records = None;
        if config.has(Role::Records) {
            records = Some(roles::records(&ground, &config, dir).await?);
        }
        let server = Server::start(&ground, &config, operator.clone(), records.as_mut()).await?;
        let media = if config.has(Role::Media) { Some(roles::media(&ground, &config)?) } else { None };
        let acd = config.has(Role::Acd).then(|| roles::acd(&ground));
        let registrar = roles::registrar(&ground, &config, &operator);
        let calls = config.has(Role::Call).then(|| roles::calls(&ground, &config));
        let mut console = None;
        if config.has(Role::Console) {
            let channel = server.records_channel();
            console = Some(roles::console(&ground, &config, channel, &health, operator).await?);
        }
        // Recovered calls have something to say to their callers: the edge comes before them.
        let mut edge = None;
        if config.has(Role::Edge) {
            edge = Some(Arc::new(roles::edge(&ground, &config).await?));
        }
        let rooms = Arc::new(Rooms::new(ground.bus.clone()));
        rooms.complete(acd.clone(), registrar.clone(), calls.clone());
        if let Some(member) = ground.seat.member().cloned() {
            ground.bus.on_link_lost(move |node| member.suspect(node));
        }
        ground.seat.join(rooms, Peers::new(ground.channels.clone(), ground.tls.clone())).await?;
        let told = members::Told {
            acd: acd.clone(),
            calls: calls.clone(),
            edge: edge.clone(),
            media: media.clone(),
        };
        let tasks = vec![
            metrics_task,
            tokio::spawn(follow(ground.documents.clone(), acd.clone(), registrar.clone())),
            tokio::spawn(members::follow(ground.placement.clone(), told)),
            tokio::spawn(health.clone().watch(ground.journal.clone())),
        ];
        opening::settle(&config, &*ground.placement, &health).await;
        health.serving(true);
        let addresses = Addresses {
            cluster: server.address(),
            sip: edge.as_ref().map(|edge| edge.local_addr()),
            http: console.as_ref().map(Console::local_addr),
            metrics: metrics_at,
        };
        Ok(Self {
            addresses,
            config,
            ground,
            health,
            server,
            records,
            media,
            acd,
            registrar,
            calls,
            console,
            edge,
            tasks,
        })
    }

    /// Its name.
    pub fn name(&self) -> &NodeId {
        &self.config.node.name
    }

    /// What it does.
    pub fn roles(&self) -> Vec<&'static str> {
        self.config.node.roles.iter().map(|role| role.as_str()).collect()
    }

    /// Refuses new calls, gives away or ends what it has within the drain time, and stops every role.
    pub async fn stop(self) -> Result<()> {
        self.health.serving(false);
        let drain = Duration::from_secs(self.config.node.drain_s);
        if let Some(media) = &self.media {
            media.drain(true);
        }
        match self.ground.seat.member() {
            Some(member) => {
                // The others see it: calls move off its media, load balancers and trunks go elsewhere.
                member.drain(true).await;
                if let Some(edge) = &self.edge {
                    edge.drain().await;
                }
                let left = || {
                    self.media.as_ref().map_or(0, |media| media.sessions())
                        + self.edge.as_ref().map_or(0, |edge| edge.busy())
                };
                wait(Instant::now() + drain, left).await;
                if !member.leave(drain.max(HAND_OVER)).await {
                    tracing::warn!("not every shard had a new owner in time; the others take them now");
                }
            }
            None => self.end_calls(drain).await?,
        }
        self.shut().await
    }

    /// Alone, calls have nowhere to go: they may end, and then are ended.
    async fn end_calls(&self, drain: Duration) -> Result<()> {
        if let Some(edge) = &self.edge {
            edge.drain().await;
        }
        let Some(calls) = &self.calls else { return Ok(()) };
        wait(Instant::now() + drain, || calls.count()).await;
        let released = self.release_calls().await?;
        if released > 0 {
            tracing::info!(calls = released, "calls were released because the node stops");
            wait(Instant::now() + RELEASE, || calls.count()).await;
        }
        Ok(())
    }

    async fn release_calls(&self) -> Result<usize> {
        let shards: Vec<ShardId> = ShardId::all().collect();
        let live = self.ground.journal.live_entities(EntityKind::Call, &shards).await?;
        for call in &live {
            let release = administrative::Command::Release(ReleaseCause::Shutdown.as_str().to_owned());
            let message = call_message::Message::Administrative(Administrative { command: Some(release) });
            // Refused: it ends with the process, and its record says so after the next start.
            let _ = self.ground.bus.send(Envelope {
                to: Some(entity(call)),
                from: Some(self.ground.bus.own(common::Role::Console)),
                payload: Some(Payload::Call(CallMessage { message: Some(message) })),
                ..Envelope::default()
            });
        }
        Ok(live.len())
    }

    async fn shut(self) -> Result<()> {
        if let Some(edge) = &self.edge {
            edge.shutdown();
        }
        if let Some(console) = &self.console {
            console.shutdown().await;
        }
        if let Some(calls) = &self.calls {
            calls.shutdown(FLUSH).await;
        }
        if let Some(acd) = &self.acd {
            acd.shutdown(FLUSH).await;
        }
        if let Some(registrar) = &self.registrar {
            registrar.shutdown(FLUSH).await;
        }
        if let Some(media) = &self.media {
            media.shutdown().await;
        }
        for task in &self.tasks {
            task.abort();
        }
        if let Some(hep) = self.ground.hep {
            hep.shutdown(CAPTURES).await;
        }
        self.ground.bus.shutdown(FLUSH).await;
        self.server.shutdown().await;
        if let Some(records) = &self.records {
            records.shutdown().await;
        }
        self.ground.arbiters.shutdown().await?;
        self.ground.journal.close().await;
        Ok(())
    }
}

async fn wait(deadline: Instant, left: impl Fn() -> usize) {
    while left() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

/// Live queues, agents and telephones learn of changed documents.
async fn follow(documents: Documents, acd: Option<Acd>, registrar: Option<Registrar>) {
    documents
        .follow(|documents| {
            if let Some(registrar) = &registrar {
                registrar.accounts_changed();
            }
            let Some(acd) = &acd else { return };
            documents.each(
                |tenant, queue| acd.queue_changed(tenant, queue),
                |tenant, agent| acd.agent_changed(tenant, agent),
            );
        })
        .await;
}
