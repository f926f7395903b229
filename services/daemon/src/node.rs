//! A node with all roles in one process: made in the order in which each needs the ones before, ended in the other.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use object_store::ObjectStore;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use trunkline_acd::{Acd, AcdMetrics, AcdParts};
use trunkline_actors::{ActorMetrics, Arbiters, now};
use trunkline_call::{CallMetrics, CallParts, Calls};
use trunkline_cluster::{EmbeddedPlacement, Incarnation, Loads, Placement};
use trunkline_console::{Console, ConsoleMetrics, SigningKeys};
use trunkline_edge::{Edge, EdgeMetrics, EdgeParts, TokenKey};
use trunkline_journal::{Journal, JournalMetrics, SqliteJournal, SqliteOptions};
use trunkline_media::MediaNode;
use trunkline_proto::{
    call::v1::{Administrative, CallMessage, administrative, call_message},
    common::v1::{Envelope, Role, envelope::Payload},
    records::v1::records_client::RecordsClient,
};
use trunkline_records::{Records, RecordsMetrics, RecordsParts};
use trunkline_rpc::{Bus, BusMetrics, LocalServer, Traced, entity, serve_in_process};
use trunkline_telemetry::Metrics;
use trunkline_types::{EntityKind, ReleaseCause, ShardId};

use crate::{
    alone::Alone,
    config::NodeConfig,
    documents::{self, Documents},
    metrics_server,
    ports::{AgentCommands, ConsolePort, MediaPort},
    secrets,
};

/// Events of the media threads that wait for the bus.
const MEDIA_EVENTS: usize = 8_192;
/// What is under way may be committed within this at the end.
const FLUSH: Duration = Duration::from_secs(5);
/// Calls that were released at the end have this long for their BYE and their recordings.
const RELEASE: Duration = Duration::from_secs(10);

/// Where the running node can be reached.
pub struct Addresses {
    pub sip: std::net::SocketAddr,
    pub http: std::net::SocketAddr,
    pub metrics: std::net::SocketAddr,
}

/// A running node.
pub struct Node {
    pub addresses: Addresses,
    drain: Duration,
    serving: Arc<AtomicBool>,
    bus: Bus,
    journal: Arc<dyn Journal>,
    arbiters: Arbiters,
    records: Records,
    records_server: LocalServer,
    media: Arc<MediaNode>,
    acd: Arc<Acd>,
    calls: Calls,
    console: Console,
    edge: Edge,
    tasks: Vec<JoinHandle<()>>,
}

/// What every room stands on.
struct Ground {
    metrics: Metrics,
    journal: Arc<dyn Journal>,
    placement: Arc<dyn Placement>,
    arbiters: Arbiters,
    actor_metrics: ActorMetrics,
    bus: Bus,
    documents: Documents,
}

impl Ground {
    async fn lay(config: &NodeConfig, dir: &Path) -> Result<Self> {
        let metrics = Metrics::new();
        let journal_metrics = JournalMetrics::register(&metrics);
        let options = if config.temporary { SqliteOptions::temporary()? } else { SqliteOptions::in_dir(dir) };
        let options = options.metrics(journal_metrics);
        let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(options).await?);
        documents::dev(&*journal, &config.dev, config.console.password_cost).await?;
        let documents = Documents::load(journal.clone()).await?;
        let incarnation = Incarnation(now().as_micros().unsigned_abs());
        let placement = EmbeddedPlacement::start(&*journal, config.node.name.clone(), incarnation).await?;
        let bus_metrics = metrics.room("rpc", BusMetrics::register);
        Ok(Self {
            arbiters: Arbiters::start(config.node.arbiters)?,
            actor_metrics: ActorMetrics::register(&metrics),
            bus: Bus::new(config.node.name.clone(), bus_metrics, now),
            placement: Arc::new(placement),
            metrics,
            journal,
            documents,
        })
    }
}

impl Node {
    /// Starts all roles; returns when every one serves.
    pub async fn start(config: NodeConfig, dir: &Path) -> Result<Self> {
        let ground = Ground::lay(&config, dir).await?;
        let serving = Arc::new(AtomicBool::new(false));
        let objects = recordings(&config)?;
        let (records, records_server) = start_records(&ground, dir, objects).await?;
        let media = start_media(&ground, &config)?;
        let acd = Arc::new(start_acd(&ground));
        let calls = start_calls(&ground, &config);
        let console = start_console(&ground, &config, &records_server, serving.clone()).await?;
        // Recovered calls have something to say to their callers: the edge comes before them.
        let edge = start_edge(&ground, &config).await?;
        let shards: Vec<ShardId> = ground.placement.held_shards();
        let recovered = acd.recover(&shards).await? + calls.recover(&shards).await?;
        if recovered > 0 {
            tracing::info!(entities = recovered, "went on from the journal");
        }
        let (metrics, metrics_task) =
            metrics_server::start(config.metrics.listen, ground.metrics.clone()).await?;
        let follower = tokio::spawn(follow(ground.documents.clone(), acd.clone()));
        serving.store(true, Ordering::Release);
        Ok(Self {
            addresses: Addresses { sip: edge.local_addr(), http: console.local_addr(), metrics },
            drain: Duration::from_secs(config.node.drain_s),
            serving,
            bus: ground.bus,
            journal: ground.journal,
            arbiters: ground.arbiters,
            records,
            records_server,
            media,
            acd,
            calls,
            console,
            edge,
            tasks: vec![metrics_task, follower],
        })
    }

    /// Refuses new calls, lets the present ones end within the drain time, releases the rest, and stops every role.
    pub async fn stop(self) -> Result<()> {
        self.serving.store(false, Ordering::Release);
        self.edge.drain().await;
        self.wait_for_calls(self.drain).await;
        let released = self.release_calls().await?;
        if released > 0 {
            tracing::info!(calls = released, "calls were released because the node stops");
            self.wait_for_calls(RELEASE).await;
        }
        self.edge.shutdown();
        self.console.shutdown().await;
        self.calls.shutdown(FLUSH).await;
        self.acd.shutdown(FLUSH).await;
        if let Ok(media) = Arc::try_unwrap(self.media) {
            media.shutdown().await;
        }
        for task in &self.tasks {
            task.abort();
        }
        self.records_server.shutdown();
        self.records.shutdown().await;
        self.arbiters.shutdown().await?;
        self.journal.close().await;
        Ok(())
    }

    async fn wait_for_calls(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.calls.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn release_calls(&self) -> Result<usize> {
        let shards: Vec<ShardId> = ShardId::all().collect();
        let live = self.journal.live_entities(EntityKind::Call, &shards).await?;
        for call in &live {
            let release = administrative::Command::Release(ReleaseCause::Shutdown.as_str().to_owned());
            let message = call_message::Message::Administrative(Administrative { command: Some(release) });
            // Refused: it ends with the process, and its record says so after the next start.
            let _ = self.bus.send(Envelope {
                to: Some(entity(call)),
                from: Some(self.bus.own(Role::Console)),
                payload: Some(Payload::Call(CallMessage { message: Some(message) })),
                ..Envelope::default()
            });
        }
        Ok(live.len())
    }
}

fn recordings(config: &NodeConfig) -> Result<Arc<dyn ObjectStore>> {
    config.media.recording.store.open().map_err(|problem| anyhow::anyhow!("media.recording.store: {problem}"))
}

async fn start_records(
    ground: &Ground,
    dir: &Path,
    objects: Arc<dyn ObjectStore>,
) -> Result<(Records, LocalServer)> {
    let parts = RecordsParts {
        journal: ground.journal.clone(),
        objects,
        directory: Arc::new(ground.documents.clone()),
        metrics: ground.metrics.room("records", RecordsMetrics::register),
        now,
    };
    let mut records = Records::start(&dir.join("records.sqlite"), parts).await?;
    let service = records.service().context("the records service is taken already")?;
    let router = tonic::transport::Server::builder().trace_fn(trunkline_rpc::server_span).add_service(service);
    Ok((records, serve_in_process(router)))
}

fn start_media(ground: &Ground, config: &NodeConfig) -> Result<Arc<MediaNode>> {
    let (events_in, events) = mpsc::channel(MEDIA_EVENTS);
    let media = config.media.clone();
    let node = ground.metrics.room("media", |registry| MediaNode::start(media, registry, events_in))?;
    let node = Arc::new(node);
    MediaPort::attach(node.clone(), &ground.bus, events);
    Ok(node)
}

fn start_acd(ground: &Ground) -> Acd {
    Acd::start(&AcdParts {
        bus: ground.bus.clone(),
        arbiters: ground.arbiters.clone(),
        journal: ground.journal.clone(),
        placement: ground.placement.clone(),
        directory: Arc::new(ground.documents.clone()),
        actor_metrics: ground.actor_metrics.clone(),
        metrics: ground.metrics.room("acd", AcdMetrics::register),
    })
}

fn start_calls(ground: &Ground, config: &NodeConfig) -> Calls {
    Calls::start(&CallParts {
        bus: ground.bus.clone(),
        arbiters: ground.arbiters.clone(),
        journal: ground.journal.clone(),
        placement: ground.placement.clone(),
        library: ground.documents.flows(),
        media: Arc::new(config.node.name.clone()),
        settings: trunkline_call::Settings::default(),
        max_calls: config.call.max_calls,
        actor_metrics: ground.actor_metrics.clone(),
        metrics: ground.metrics.room("call", CallMetrics::register),
    })
}

async fn start_console(
    ground: &Ground,
    config: &NodeConfig,
    records: &LocalServer,
    serving: Arc<AtomicBool>,
) -> Result<Console> {
    let key = secrets::key(&*ground.journal, "console-sessions").await?;
    let readiness = move || {
        if serving.load(Ordering::Acquire) {
            Vec::new()
        } else {
            vec!["the node starts or drains".to_owned()]
        }
    };
    let ports = trunkline_console::Ports {
        node: config.node.name.clone(),
        incarnation: ground.placement.local().incarnation.0,
        cluster: Arc::new(Alone::new(ground.placement.clone())),
        agents: Arc::new(AgentCommands(ground.bus.clone())),
        records: RecordsClient::new(Traced::new(records.channel.clone())),
        directory: Arc::new(ground.documents.clone()),
        keys: SigningKeys::new(vec![key])?,
        readiness: Arc::new(readiness),
        metrics: ground.metrics.room("console", ConsoleMetrics::register),
    };
    let console = Console::start(config.console.clone(), ports).await?;
    ground.bus.attach_role(Role::Console, Arc::new(ConsolePort(console.clone())));
    Ok(console)
}

async fn start_edge(ground: &Ground, config: &NodeConfig) -> Result<Edge> {
    let parts = EdgeParts {
        bus: ground.bus.clone(),
        placement: ground.placement.clone(),
        loads: Loads::new(config.node.arbiters),
        dial_plan: Arc::new(ground.documents.clone()),
        key: TokenKey::new(&secrets::key(&*ground.journal, "contact-tokens").await?),
        metrics: ground.metrics.room("sip", EdgeMetrics::register),
    };
    Ok(Edge::start(config.sip.clone(), parts).await?)
}

/// Live queues and agents learn of changed documents.
async fn follow(documents: Documents, acd: Arc<Acd>) {
    documents
        .follow(|documents| {
            documents.each(
                |tenant, queue| acd.queue_changed(tenant, queue),
                |tenant, agent| acd.agent_changed(tenant, agent),
            );
        })
        .await;
}
