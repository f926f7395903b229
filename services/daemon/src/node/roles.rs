//! The start of each role.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use object_store::ObjectStore;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use trunkline_acd::{Acd, AcdMetrics, AcdParts};
use trunkline_actors::now;
use trunkline_call::{CallMetrics, CallParts, Calls, MediaMembers};
use trunkline_cluster::Loads;
use trunkline_console::{Console, ConsoleMetrics, SigningKeys};
use trunkline_edge::{Edge, EdgeMetrics, EdgeParts, TokenKey};
use trunkline_media::{MediaNode, MediaPort};
use trunkline_proto::{common::v1::Role, records::v1::records_client::RecordsClient};
use trunkline_records::{Records, RecordsMetrics, RecordsParts};
use trunkline_registrar::{Registrar, RegistrarMetrics, RegistrarParts};
use trunkline_rpc::Traced;

use super::{admin::Operator, ground::Ground, health::Health};
use crate::{
    config::NodeConfig,
    ports::{AgentCommands, ClusterView, ConsolePort},
    secrets,
};

/// Events of the media threads that wait for the bus.
const MEDIA_EVENTS: usize = 8_192;

fn recordings(config: &NodeConfig) -> Result<Arc<dyn ObjectStore>> {
    config.media.recording.store.open().map_err(|problem| anyhow::anyhow!("media.recording.store: {problem}"))
}

/// Says by which way this node gets to the recordings, before the first request.
pub(super) fn say_credentials(config: &NodeConfig) {
    let uses = config.has(trunkline_cluster::Role::Media) || config.has(trunkline_cluster::Role::Records);
    if let Some(by) = config.media.recording.store.credentials().filter(|_| uses) {
        tracing::info!(by, "credentials for the bucket of recordings (media.recording.store)");
    }
}

pub(super) async fn records(ground: &Ground, config: &NodeConfig, dir: &Path) -> Result<Records> {
    let parts = RecordsParts {
        journal: ground.journal.clone(),
        objects: recordings(config)?,
        directory: Arc::new(ground.documents.clone()),
        metrics: ground.metrics.room("records", RecordsMetrics::register),
        now,
    };
    Ok(Records::start(&dir.join("records.sqlite"), parts).await?)
}

pub(super) fn media(ground: &Ground, config: &NodeConfig) -> Result<Arc<MediaNode>> {
    let (events_in, events) = mpsc::channel(MEDIA_EVENTS);
    let (media, hep) = (config.media.clone(), ground.captures());
    let node = ground.metrics.room("media", |registry| MediaNode::start(media, registry, events_in, hep))?;
    let node = Arc::new(node);
    MediaPort::attach(node.clone(), &ground.bus, events);
    Ok(node)
}

pub(super) fn acd(ground: &Ground) -> Acd {
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

/// Telephones' accounts live where queues and agents do.
pub(super) fn registrar(ground: &Ground, config: &NodeConfig, operator: &Operator) -> Option<Registrar> {
    if !config.has(trunkline_cluster::Role::Acd) {
        return None;
    }
    let registrar = Registrar::start(&RegistrarParts {
        bus: ground.bus.clone(),
        arbiters: ground.arbiters.clone(),
        journal: ground.journal.clone(),
        placement: ground.placement.clone(),
        directory: Arc::new(ground.documents.clone()),
        actor_metrics: ground.actor_metrics.clone(),
        metrics: ground.metrics.room("registrar", RegistrarMetrics::register),
    });
    operator.telephones.attach(registrar.clone());
    Some(registrar)
}

pub(super) fn calls(ground: &Ground, config: &NodeConfig) -> Calls {
    Calls::start(&CallParts {
        bus: ground.bus.clone(),
        arbiters: ground.arbiters.clone(),
        journal: ground.journal.clone(),
        placement: ground.placement.clone(),
        library: ground.documents.flows(),
        media: Arc::new(MediaMembers::new(ground.placement.clone())),
        settings: trunkline_call::Settings::default(),
        max_calls: config.call.max_calls,
        actor_metrics: ground.actor_metrics.clone(),
        metrics: ground.metrics.room("call", CallMetrics::register),
    })
}

pub(super) async fn console(
    ground: &Ground,
    config: &NodeConfig,
    records: Channel,
    health: &Health,
    operator: Operator,
) -> Result<Console> {
    let key = secrets::key(&*ground.journal, "console-sessions").await?;
    let health = health.clone();
    let ports = trunkline_console::Ports {
        node: config.node.name.clone(),
        incarnation: ground.placement.local().incarnation.0,
        agents: Arc::new(AgentCommands(ground.bus.clone())),
        records: RecordsClient::new(Traced::new(records)),
        directory: Arc::new(ground.documents.clone()),
        keys: SigningKeys::new(vec![key])?,
        readiness: Arc::new(move || health.problems()),
        cluster: Arc::new(ClusterView(operator)),
        metrics: ground.metrics.room("console", ConsoleMetrics::register),
    };
    let console = Console::start(config.console.clone(), ports).await?;
    ground.bus.attach_role(Role::Console, Arc::new(ConsolePort(console.clone())));
    Ok(console)
}

pub(super) async fn edge(ground: &Ground, config: &NodeConfig) -> Result<Edge> {
    let parts = EdgeParts {
        bus: ground.bus.clone(),
        placement: ground.placement.clone(),
        loads: Loads::new(config.node.arbiters),
        dial_plan: Arc::new(ground.documents.clone()),
        accounts: Arc::new(ground.documents.clone()),
        key: TokenKey::new(&secrets::key(&*ground.journal, "contact-tokens").await?),
        metrics: ground.metrics.room("sip", EdgeMetrics::register),
        hep: ground.captures(),
    };
    Ok(Edge::start(config.sip.clone(), parts).await?)
}
