use std::{fmt, sync::Arc};

use async_trait::async_trait;
use trunkline_proto::{
    acd::v1::AgentCommand, cluster::v1::Overview, records::v1::records_client::RecordsClient,
};
use trunkline_rpc::Traced;
use trunkline_types::{AgentId, NodeId, QueueId, TenantId};

use crate::{auth::SigningKeys, metrics::ConsoleMetrics};

/// The way to the agents' actors, wherever they are.
pub trait AgentPort: Send + Sync + 'static {
    /// Hands one command to the bus; never blocks. Answers come back through [`crate::Console::deliver`].
    fn send(&self, tenant: &TenantId, agent: &AgentId, command: AgentCommand) -> Result<(), Refused>;
}

/// Why a command did not get onto the bus. The agent's client is told and may try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A queue on the way is full.
    #[error("the system is busy: try again in a moment")]
    Busy,
    /// The agent's shard is moving or its node is away.
    #[error("this agent is moving to another node: try again in a moment")]
    Unavailable,
    /// There is no such agent.
    #[error("this agent is not configured: ask an administrator")]
    UnknownAgent,
}

impl Refused {
    /// The code in a `result`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::UnknownAgent => "unknown_agent",
        }
    }
}

/// What a person may do.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes calls.
    Agent,
    /// Sees all queues, agents, contacts and recordings of the tenant.
    Supervisor,
    /// Configures the tenant; sees what a supervisor sees.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Supervisor, Self::Admin];
}

/// A local account.
#[derive(Clone)]
pub struct Account {
    /// What is typed at sign-in; unique over all tenants.
    pub name: String,
    /// What others read. Any text: it leaves this server as JSON only.
    pub display_name: String,
    /// Argon2id hash in PHC form ([`crate::hash_password`]).
    pub password_hash: String,
    /// Roles; without one nothing but the own session can be read.
    pub roles: Vec<Role>,
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// The agent that it acts as; needed with [`Role::Agent`].
    pub agent: Option<AgentId>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}/{}", self.tenant, self.name)
    }
}

/// A queue as the configuration lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEntry {
    /// Its id.
    pub id: QueueId,
    /// What people read.
    pub name: String,
    /// Target of the service level, seconds.
    pub service_level_target_s: u32,
    /// Dispositions offered at wrap-up.
    pub dispositions: Vec<String>,
}

/// An agent as the configuration lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEntry {
    /// Its id.
    pub id: AgentId,
    /// What people read.
    pub name: String,
    /// Queues it serves.
    pub queues: Vec<QueueId>,
}

/// Configuration documents as the console needs them: answered from memory, asked at each request, so that a change
/// of rights counts at once.
pub trait Directory: Send + Sync + 'static {
    /// The account with this sign-in name.
    fn account(&self, name: &str) -> Option<Account>;
    /// Queues of a tenant.
    fn queues(&self, tenant: &TenantId) -> Vec<QueueEntry>;
    /// Agents of a tenant.
    fn agents(&self, tenant: &TenantId) -> Vec<AgentEntry>;
    /// Reasons offered with "not ready".
    fn not_ready_reasons(&self, tenant: &TenantId) -> Vec<String>;
}

/// What the console shows of the cluster, and what it can ask of it. Each call is given up after
/// [`crate::Timings::upstream`].
#[async_trait]
pub trait ClusterPort: Send + Sync + 'static {
    /// The cluster as this node sees it.
    async fn overview(&self) -> Result<Overview, ClusterRefused>;
    /// Drains a node, or takes that back; done when it is on record, not when the node is empty. `by`: who asks, for the log.
    async fn set_drain(&self, node: &NodeId, drain: bool, by: &str) -> Result<(), ClusterRefused>;
}

/// Why the cluster could not be seen or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterRefused {
    /// No member has this name.
    #[error("no such node")]
    UnknownNode,
    /// It can never be done so; one sentence that says why and what to do instead.
    #[error("{0}")]
    Impossible(String),
    /// Not now; one sentence that says why.
    #[error("{0}")]
    Unavailable(String),
}

/// Asked by `/readyz`: why this node does not serve yet, one sentence a reason; empty = it serves.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the daemon gives to the console.
#[derive(Clone)]
pub struct Ports {
    /// This node; agents' actors send their answers to it.
    pub node: NodeId,
    /// Which of its lives: agents' actors tell the sessions of a dead one from those of the next.
    pub incarnation: u64,
    /// The agents' actors.
    pub agents: Arc<dyn AgentPort>,
    /// The records role.
    pub records: RecordsClient<Traced>,
    /// The cluster's state.
    pub cluster: Arc<dyn ClusterPort>,
    /// Accounts, queues, agents.
    pub directory: Arc<dyn Directory>,
    /// Keys of the session tokens.
    pub keys: SigningKeys,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// Registered by the daemon.
    pub metrics: ConsoleMetrics,
}
