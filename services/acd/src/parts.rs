use std::sync::Arc;

use trunkline_acd_core::{AgentConfig, QueueConfig};
use trunkline_actors::{ActorMetrics, Arbiters};
use trunkline_cluster::Placement;
use trunkline_journal::Journal;
use trunkline_rpc::Bus;
use trunkline_types::{AgentId, QueueId, TenantId};

use crate::AcdMetrics;

/// The configuration of queues and agents, as the daemon keeps it. What it returns is validated.
pub trait Directory: Send + Sync + 'static {
    /// Whether there is such a queue; asked for each message.
    fn has_queue(&self, tenant: &TenantId, queue: &QueueId) -> bool;
    /// Whether there is such an agent; asked for each message.
    fn has_agent(&self, tenant: &TenantId, agent: &AgentId) -> bool;
    /// `None`: there is no such queue.
    fn queue(&self, tenant: &TenantId, queue: &QueueId) -> Option<QueueConfig>;
    /// `None`: there is no such agent.
    fn agent(&self, tenant: &TenantId, agent: &AgentId) -> Option<AgentConfig>;
    /// Agents who are configured for a queue.
    fn agents_of(&self, tenant: &TenantId, queue: &QueueId) -> Vec<AgentId>;
    /// Display names of an agent's queues.
    fn queue_names(&self, tenant: &TenantId, agent: &AgentId) -> Vec<String>;
}

/// What the role needs from its node.
pub struct AcdParts {
    /// The bus.
    pub bus: Bus,
    /// The threads of the actors.
    pub arbiters: Arbiters,
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// Who owns which shard.
    pub placement: Arc<dyn Placement>,
    /// The configuration.
    pub directory: Arc<dyn Directory>,
    /// Counters of the actors' host.
    pub actor_metrics: ActorMetrics,
    /// Counters of queues and agents.
    pub metrics: AcdMetrics,
}
