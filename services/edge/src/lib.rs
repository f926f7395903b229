//! The SIP doors: transports, transactions, who may call, which number leads where, overload control.
//!
//! Owns sockets and transactions (RFC 3261 sections 17 and 18, RFC 6026, RFC 3581) and nothing longer: dialogs belong
//! to calls, and any edge brings an in-dialog request to its call by the token in the Contact. Refuses what is
//! malformed (RFC 4475 says how), what comes from no known trunk (403), unknown numbers (404), new calls under overload
//! (503, without Retry-After: that would bench a whole upstream), and commands of a call's former owner. In-dialog
//! requests are never shed. What reaches no call gets no transaction (section 8.2.7): a flood of it leaves nothing
//! behind. A request that its call does not answer is given to it again, since the call may live on another node by then,
//! and in the end answered here (500), so that nothing is kept for ever.
//!
//! All edges of a cluster are alike: any of them takes any request within a dialog, sends any request of a call, and makes
//! the same call of the same INVITE (`engine/mint.rs` says how far). Several may share one address (`sip.advertised`). What
//! one of them takes along when it dies are its TCP connections and its transactions: an INVITE whose 100 was sent is not
//! repeated by its caller, who hears the call's answer through another edge; its CANCEL is answered 481 there.
//!
//! Telephones with accounts (RFC 3261 sections 10 and 22, RFC 8760) register through any edge and call through any edge: the
//! edge checks who they are, the account's actor keeps where they are (`trunkline-registrar`).
//!
//! Called by the daemon; talks to calls through the bus. Deviations: an account's realm need not be the domain that its
//! telephones register at; host names in Contacts are not resolved,
//! the answer goes to the source (RFC 3263 comes with outbound trunks); `maddr` of a Via is not heeded, since it would
//! direct answers at third parties; requests of calls go over UDP whatever their size (section 18.1.1 would change to
//! TCP above 1,300 bytes), since peers of a UDP dialog mostly do not listen on TCP.

mod accounts;
mod config;
mod engine;
mod metrics;
mod token;
mod transport;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use trunkline_cluster::{EpochGuard, Loads, Placement};
use trunkline_proto::{
    common::v1::{Envelope, Role, envelope::Payload},
    edge::v1::EdgeCommand,
    registrar::v1::RegistrarAnswer,
};
use trunkline_rpc::{Bus, Deliver, Refused};
use trunkline_telemetry::hep::Hep;
use trunkline_types::{DialString, EntityAddress, Epoch, FlowId, QueueId, ShardId, TenantId};

pub use crate::{
    accounts::{Accounts, TelephoneAccount},
    config::{Config, ConfigError, DigestAlgorithm, Registrations, TelephonesConfig, TrunkConfig},
    metrics::EdgeMetrics,
    token::TokenKey,
};
use crate::{
    config::Settings,
    engine::{Command, Engine, Inboxes, Parts},
    transport::{tap::Tap, tcp::Connections},
};

/// Commands of calls that wait for the engine; more are refused and sent again by the calls.
const COMMAND_QUEUE: usize = 16_384;
/// Messages of all TCP connections that wait for the engine; then the connections are not read.
const CONNECTION_QUEUE: usize = 1_024;

/// What a dialled number leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Straight into a queue.
    Queue(QueueId),
    /// To a flow.
    Flow(FlowId),
}

/// Who has which number.
pub trait DialPlan: Send + Sync {
    /// `None`: nobody has it (404).
    fn resolve(&self, tenant: &TenantId, dialled: &DialString) -> Option<Destination>;
}

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error(
        "sip.listen: cannot listen on {transport} {address}: {source}; is another SIP server running there?"
    )]
    Listen {
        /// "udp" or "tcp".
        transport: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// What an edge needs from the node.
pub struct EdgeParts {
    /// The bus to the calls.
    pub bus: Bus,
    /// Where calls can be minted.
    pub placement: Arc<dyn Placement>,
    /// How loaded the shards are.
    pub loads: Arc<Loads>,
    /// The numbers.
    pub dial_plan: Arc<dyn DialPlan>,
    /// Telephones' accounts.
    pub accounts: Arc<dyn Accounts>,
    /// The cluster's key for Contact tokens and nonces.
    pub key: TokenKey,
    /// Its counters.
    pub metrics: EdgeMetrics,
    /// Who captures every message that comes and goes.
    pub hep: Hep,
}

/// A running edge.
pub struct Edge {
    address: SocketAddr,
    draining: Arc<AtomicBool>,
    busy: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Edge {
    /// Binds UDP and TCP on `config.listen`, attaches to the bus and serves. Port 0 takes a free one for both.
    pub async fn start(config: Config, parts: EdgeParts) -> Result<Self, EdgeError> {
        let settings = Arc::new(Settings::new(config)?);
        let (udp, tcp) = bind(settings.config.listen).await?;
        let address = udp.local_addr().map_err(|source| EdgeError::Listen {
            transport: "udp",
            address: settings.config.listen,
            source,
        })?;
        let (commands_in, commands) = mpsc::channel(COMMAND_QUEUE);
        let (connections_in, connections_out) = mpsc::channel(CONNECTION_QUEUE);
        let (draining, busy) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let connections = Connections::new(settings.clone(), connections_in, parts.hep.clone());
        parts.bus.attach_role(
            Role::Edge,
            Arc::new(CommandPort {
                commands: commands_in,
                epochs: EpochGuard::new(),
                metrics: parts.metrics.clone(),
            }),
        );
        let advertised = settings.config.advertised.unwrap_or(address);
        let engine = Engine::new(Parts {
            advertised,
            tap: Tap::new(parts.hep, address, advertised),
            settings,
            bus: parts.bus,
            placement: parts.placement,
            loads: parts.loads,
            dial_plan: parts.dial_plan,
            accounts: parts.accounts,
            key: parts.key,
            metrics: parts.metrics,
            udp,
            connections: connections.clone(),
            draining: draining.clone(),
            busy: busy.clone(),
        });
        let inboxes = Inboxes { commands, connections: connections_out };
        let tasks = vec![tokio::spawn(engine.run(inboxes)), tokio::spawn(connections.listen(tcp))];
        Ok(Self { address, draining, busy, tasks })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new calls (503) from now on, and answers OPTIONS by 503, so that load balancers and trunks go elsewhere;
    /// calls that are up, and INVITEs that have their call, go on.
    pub async fn drain(&self) {
        self.set_draining(true);
    }

    /// Drains, or takes new calls again.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    /// Transactions that wait for an answer: of calls to requests of peers, and of peers to requests of calls.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// Closes the doors.
    pub fn shutdown(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// UDP and TCP on the same port, which with port 0 may take a few tries.
async fn bind(wanted: SocketAddr) -> Result<(tokio::net::UdpSocket, TcpListener), EdgeError> {
    let mut tries = if wanted.port() == 0 { 16 } else { 1 };
    loop {
        tries -= 1;
        let udp = transport::udp::bind(wanted).map_err(|source| EdgeError::Listen {
            transport: "udp",
            address: wanted,
            source,
        })?;
        let address = udp.local_addr().unwrap_or(wanted);
        match TcpListener::bind(address).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if tries > 0 => {}
            Err(source) => return Err(EdgeError::Listen { transport: "tcp", address, source }),
        }
    }
}

fn call_of(command: &EdgeCommand) -> Option<EntityAddress> {
    Some(EntityAddress::call(&command.tenant.parse().ok()?, command.call_id.parse().ok()?))
}

fn account_of(answer: &RegistrarAnswer) -> Option<EntityAddress> {
    Some(EntityAddress::telephone(&answer.tenant.parse().ok()?, &answer.telephone.parse().ok()?))
}

/// The bus's end: what calls want done, and what accounts answer.
struct CommandPort {
    commands: mpsc::Sender<Command>,
    /// A former owner of a call, back from a pause, must not speak for it any more.
    epochs: EpochGuard,
    metrics: EdgeMetrics,
}

impl Deliver for CommandPort {
    fn deliver(&self, _: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        let (from, command) = match envelope.payload {
            Some(Payload::Edge(command)) => {
                let call = call_of(&command).ok_or(Refused::Unroutable)?;
                (call.clone(), Command::Call { call, command })
            }
            Some(Payload::Registrar(answer)) => {
                (account_of(&answer).ok_or(Refused::Unroutable)?, Command::Registrar(answer))
            }
            _ => return Err(Refused::Unroutable),
        };
        let sender = envelope.from_shard.and_then(|shard| ShardId::new(u16::try_from(shard).ok()?));
        if let Some(shard) = sender {
            let admitted = self.epochs.admit(shard, Epoch(envelope.from_epoch));
            if shard != from.shard() || admitted.is_err() {
                self.metrics.epochs_refused.inc();
                tracing::warn!(%from, epoch = envelope.from_epoch, "a command of a former owner was refused");
                return Err(Refused::Unroutable);
            }
        }
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Full,
            mpsc::error::TrySendError::Closed(_) => Refused::Stopped,
        })
    }
}
