//! Queues and agents as actors: one a queue, one an agent, placed by shard.
//!
//! Owns the shells of the cores in `acd/core`: conversions between `trunkline.acd.v1` and the cores, events to and
//! from the journal, effects to the bus, sessions of consoles. Decides nothing: who gets a call is decided in the core.
//! Refuses queues and agents that are not configured (a call that enqueues into an unknown queue is told so). Never
//! sees SIP: SDP passes through as text.
//!
//! Called by the daemon; reached over the bus.

mod agent;
mod convert;
mod metrics;
mod outbox;
mod parts;
mod queue;
mod sessions;
mod spans;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::MissedTickBehavior};
use trunkline_acd_core::{Agent, Queue};
use trunkline_actors::{Activation, Host, HostOptions};
use trunkline_cluster::{EpochGuard, Placement};
use trunkline_journal::JournalError;
use trunkline_proto::{
    acd::v1::queue_message::Message as QueuePb,
    call::v1::{CallMessage, call_message},
    common::v1::{Envelope, envelope::Payload},
};
use trunkline_rpc::{Bus, Deliver, Refused, entity};
use trunkline_types::{AgentId, EntityAddress, EntityKind, Epoch, NodeId, QueueId, ShardId, TenantId};

use crate::{
    agent::{AgentMail, AgentShell},
    convert::queue_message,
    outbox::Sender,
    queue::{QueueMail, QueueShell},
    sessions::Sessions,
};
pub use crate::{
    metrics::AcdMetrics,
    parts::{AcdParts, Directory},
    sessions::SessionTimes,
};

/// Messages that may wait at one queue: a burst of calls and answers of all its agents.
const QUEUE_PERMITS: u32 = 65_536;
const AGENT_PERMITS: u32 = 512;
const MAX_QUEUES: usize = 10_000;
const MAX_AGENTS: usize = 100_000;

/// The running role. Clones are handles to the same.
#[derive(Clone)]
pub struct Acd {
    queues: Host<QueueShell>,
    agents: Host<AgentShell>,
    directory: Arc<dyn Directory>,
    sessions: Sessions,
    placement: Arc<dyn Placement>,
    sweeper: Arc<Sweeper>,
}

/// The task that looks after sessions; ends with the role.
struct Sweeper(JoinHandle<()>);

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Acd {
    /// Makes the hosts and attaches them to the bus. Nothing is active until [`Acd::recover`] or a message.
    pub fn start(parts: &AcdParts) -> Self {
        Self::start_with(parts, SessionTimes::default())
    }

    /// The same with other times for sessions of consoles.
    pub fn start_with(parts: &AcdParts, times: SessionTimes) -> Self {
        let sessions = Sessions::default();
        let queues = queue_host(parts);
        let agents = agent_host(parts, &sessions);
        let ends = Ends {
            bus: parts.bus.clone(),
            directory: parts.directory.clone(),
            placement: parts.placement.clone(),
            guard: Arc::new(EpochGuard::new()),
            metrics: parts.metrics.clone(),
        };
        let queue_end = QueueEnd { host: queues.clone(), ends: ends.clone() };
        let agent_end = AgentEnd { host: agents.clone(), ends };
        parts.bus.attach_entities(EntityKind::Queue, Arc::new(queue_end));
        parts.bus.attach_entities(EntityKind::Agent, Arc::new(agent_end));
        let placement = parts.placement.clone();
        let sweeper = tokio::spawn(sweep(sessions.clone(), times, agents.clone(), placement.clone()));
        let sweeper = Arc::new(Sweeper(sweeper));
        Self { queues, agents, directory: parts.directory.clone(), sessions, placement, sweeper }
    }

    /// Brings all queues and agents of `shards` back from the journal: they take over where it ends, say again what was not
    /// acknowledged, and are told of each other's availability. Gives how many came up. May be called again for a shard
    /// that was released.
    ///
    /// # Errors
    /// When the journal cannot tell which there are.
    pub async fn recover(&self, shards: &[ShardId]) -> Result<usize, JournalError> {
        let (queues, agents) = tokio::join!(self.queues.recover_all(shards), self.agents.recover_all(shards));
        Ok(queues? + agents?)
    }

    /// Lets go of `shards`: takes no more messages for them, lets what is under way be committed, ends the actors. False
    /// when some had not ended after `patience`; the new owner's seal fences them.
    pub async fn release(&self, shards: &[ShardId], patience: Duration) -> bool {
        let (queues, agents) =
            tokio::join!(self.queues.release(shards, patience), self.agents.release(shards, patience));
        queues && agents
    }

    /// A console node has left the cluster or came back as another incarnation: the sessions that it served are detached.
    /// An agent keeps its conversation; without another page it takes no calls, and is signed out after its grace time.
    /// (Sessions notice it themselves, by the members and by signs of life; this is sooner.)
    pub fn console_lost(&self, node: &NodeId) {
        let current = self.placement.node(node).map(|info| info.identity.incarnation.0);
        let sessions = self.sessions.console_lost(node, current);
        tracing::info!(%node, sessions, "a console node is gone; its sessions are detached");
    }

    /// Tells the live queue of a new version of its configuration.
    pub fn queue_changed(&self, tenant: &TenantId, queue: &QueueId) {
        let Some(config) = self.directory.queue(tenant, queue) else { return };
        let mail = QueueMail::Configure(Box::new(config));
        // One that is not live reads it when it becomes so.
        let _ = self.queues.deliver(&EntityAddress::queue(tenant, queue), mail, Activation::OnlyExisting);
    }

    /// Tells the live agent of a new version of its configuration.
    pub fn agent_changed(&self, tenant: &TenantId, agent: &AgentId) {
        let Some(config) = self.directory.agent(tenant, agent) else { return };
        let mail = AgentMail::Configure(Box::new(config));
        let _ = self.agents.deliver(&EntityAddress::agent(tenant, agent), mail, Activation::OnlyExisting);
    }

    /// Lets what is under way be committed, then ends the actors.
    pub async fn shutdown(&self, limit: Duration) {
        self.sweeper.0.abort();
        self.queues.shutdown(limit).await;
        self.agents.shutdown(limit).await;
    }
}

fn queue_host(parts: &AcdParts) -> Host<QueueShell> {
    let options = HostOptions {
        permits: QUEUE_PERMITS,
        max_entities: MAX_QUEUES,
        ..HostOptions::new(EntityKind::Queue)
    };
    let (bus, placement) = (parts.bus.clone(), parts.placement.clone());
    let (directory, metrics) = (parts.directory.clone(), parts.metrics.clone());
    let runtime = tokio::runtime::Handle::current();
    let factory = move |address: &EntityAddress, _| {
        // Checked when the message was taken from the bus; an unconfigured queue takes nobody.
        let id: QueueId = address.id.parse().unwrap_or_else(|_| unreachable!("checked by the bus end"));
        let config = directory.queue(&address.tenant, &id).unwrap_or_default();
        let sender = Sender::new(bus.clone(), placement.clone(), address.clone());
        let core = Queue::new(address.tenant.clone(), id.clone(), sender.epoch(), config);
        let tenant = address.tenant.clone();
        let shell = QueueShell::new(tenant, id, sender, directory.clone(), metrics.clone(), runtime.clone());
        (core, shell)
    };
    Host::builder(
        options,
        &parts.arbiters,
        parts.journal.clone(),
        parts.placement.clone(),
        &parts.actor_metrics,
        factory,
    )
    .build()
}

fn agent_host(parts: &AcdParts, sessions: &Sessions) -> Host<AgentShell> {
    let options = HostOptions {
        permits: AGENT_PERMITS,
        max_entities: MAX_AGENTS,
        ..HostOptions::new(EntityKind::Agent)
    };
    let (bus, placement) = (parts.bus.clone(), parts.placement.clone());
    let (directory, metrics) = (parts.directory.clone(), parts.metrics.clone());
    let sessions = sessions.clone();
    let factory = move |address: &EntityAddress, _| {
        let id: AgentId = address.id.parse().unwrap_or_else(|_| unreachable!("checked by the bus end"));
        let config = directory.agent(&address.tenant, &id).unwrap_or_default();
        let sender = Sender::new(bus.clone(), placement.clone(), address.clone());
        let core = Agent::new(address.tenant.clone(), id.clone(), sender.epoch(), config);
        let tenant = address.tenant.clone();
        let shell = AgentShell::new(tenant, id, sender, directory.clone(), metrics.clone(), sessions.clone());
        (core, shell)
    };
    Host::builder(
        options,
        &parts.arbiters,
        parts.journal.clone(),
        parts.placement.clone(),
        &parts.actor_metrics,
        factory,
    )
    .build()
}

async fn sweep(
    sessions: Sessions,
    times: SessionTimes,
    agents: Host<AgentShell>,
    placement: Arc<dyn Placement>,
) {
    let mut ticks = tokio::time::interval(times.sweep);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => sessions.look(&*placement, Instant::now(), times.sweep),
            () = sessions.losses() => {}
        }
        sessions.expire(Instant::now(), times.life, |agent, over| {
            tracing::info!(%agent, session = over.session, reason = over.reason.as_str(), "a console session is over");
            let sent = agents.deliver(agent, AgentMail::Over(over), Activation::OnlyExisting);
            // Full: again later. Otherwise its agent is not live here; whoever recovers it looks after its sessions.
            !matches!(sent, Err(trunkline_actors::Refused::Full | trunkline_actors::Refused::Crowded))
        });
    }
}

#[derive(Clone)]
struct Ends {
    bus: Bus,
    directory: Arc<dyn Directory>,
    placement: Arc<dyn Placement>,
    guard: Arc<EpochGuard>,
    metrics: AcdMetrics,
}

struct QueueEnd {
    host: Host<QueueShell>,
    ends: Ends,
}

struct AgentEnd {
    host: Host<AgentShell>,
    ends: Ends,
}

impl Deliver for QueueEnd {
    fn deliver(&self, address: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        if !self.ends.admits(&envelope, "queue") {
            return Ok(());
        }
        let (Some(address), Some(Payload::Queue(message))) = (address, envelope.payload) else {
            return Err(Refused::Unroutable);
        };
        let queue: QueueId = address.id.parse().map_err(|_| Refused::Unroutable)?;
        if !self.ends.directory.has_queue(&address.tenant, &queue) {
            self.ends.refuse_unknown(&address, message.message.as_ref());
            return Ok(());
        }
        let mail = QueueMail::Wire(Box::new(message));
        self.host.deliver(&address, mail, Activation::CreateIfMissing).map_err(refused)
    }
}

impl Ends {
    /// Whether the sender owned its shard as far as this node knows: by what it was told last, and by the map. What a
    /// former owner says late (it was paused, cut off) is dropped and counted; its successor says what is true.
    fn admits(&self, envelope: &Envelope, receiver: &'static str) -> bool {
        // A node's role speaks for no shard.
        let Some(index) = envelope.from_shard else { return true };
        let epoch = Epoch(envelope.from_epoch);
        let shard = u16::try_from(index).ok().and_then(ShardId::new);
        let admitted = shard.is_some_and(|shard| {
            let published = self.placement.owner(shard).map_or(Epoch(0), |owner| owner.epoch);
            epoch > Epoch(0) && epoch >= published && self.guard.admit(shard, epoch).is_ok()
        });
        if !admitted {
            self.metrics.epoch_refused(receiver);
            tracing::debug!(
                shard = index,
                epoch = epoch.0,
                receiver,
                "a message of a former owner was refused"
            );
        }
        admitted
    }

    /// A call must not wait for a queue that does not exist.
    fn refuse_unknown(&self, queue: &EntityAddress, message: Option<&QueuePb>) {
        let Some(QueuePb::Enqueue(enqueue)) = message else { return };
        let Ok(call) = enqueue.call_id.parse() else { return };
        let answer = queue_message::unknown_queue(&queue.id, enqueue.entry);
        let message = CallMessage { message: Some(call_message::Message::Queue(answer)) };
        let envelope = Envelope {
            to: Some(entity(&EntityAddress::call(&queue.tenant, call))),
            from: Some(entity(queue)),
            payload: Some(Payload::Call(message)),
            ..Envelope::default()
        };
        // Refused: the call asks again.
        let _ = self.bus.send(envelope);
    }
}

impl Deliver for AgentEnd {
    fn deliver(&self, address: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        if !self.ends.admits(&envelope, "agent") {
            return Ok(());
        }
        let (Some(address), Some(Payload::Agent(message))) = (address, envelope.payload) else {
            return Err(Refused::Unroutable);
        };
        let agent: AgentId = address.id.parse().map_err(|_| Refused::Unroutable)?;
        if !self.ends.directory.has_agent(&address.tenant, &agent) {
            return Err(Refused::Unroutable);
        }
        let mail = AgentMail::Wire { message: Box::new(message), traceparent: envelope.traceparent };
        self.host.deliver(&address, mail, Activation::CreateIfMissing).map_err(refused)
    }
}

fn refused(error: trunkline_actors::Refused) -> Refused {
    match error {
        trunkline_actors::Refused::Full | trunkline_actors::Refused::Crowded => Refused::Full,
        trunkline_actors::Refused::Stopped | trunkline_actors::Refused::Closing => Refused::Stopped,
        trunkline_actors::Refused::NotOwner => Refused::Unroutable,
    }
}
