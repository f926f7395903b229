//! The console role: HTTP and WebSocket API for agents' and supervisors' browsers and for integrators, sign-in and
//! rights, the web clients themselves, and the runbooks that alerts lead to.
//!
//! Owns: people's sessions (signed tokens), agents' sessions (one client over all its WebSockets), the live numbers of
//! each tenant as one stream shared by all pages. Keeps nothing that has to survive: a client whose node is gone signs
//! in or connects at another one.
//!
//! Refuses: to know about calls, queues or agents. What an agent wants goes to the agent's actor through [`AgentPort`];
//! what the actor says comes back through [`Console::deliver`]; records and numbers are asked of the records role by
//! gRPC; accounts and lists come from a [`Directory`]. TLS and HTTP/2 end in front of it.
//!
//! Called by: the daemon, which wires the ports; browsers and integrators from outside.
//!
//! Standards: RFC 9110 (conditional requests, ranges), RFC 9457 (problems), RFC 6455 (WebSocket), RFC 7396 (merge
//! patch), OpenAPI 3.1 and JSON Schema 2020-12 made from the Rust types, server-sent events of the HTML standard.
//!
//! Deviations: of several ranges in one request none is served (the whole is). Sign-out is known to this node only; on
//! other nodes the token ends when it expires (12 h) or when the password changes.
//!
//! Limits: every wait is in [`Timings`]; bodies 64 KiB, heads 32 KiB, WebSocket frames 256 KiB and 512 unacknowledged,
//! 8 sessions an agent, connections, sessions and streams by [`ConsoleConfig`].

mod auth;
mod clock;
mod config;
mod links;
mod metrics;
mod pages;
mod ports;
mod problem;
mod rest;
pub mod runbooks;
mod server;
mod stall;
mod ws;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkline_proto::console::v1::ConsoleMessage;

pub use auth::{HashError, KeyError, SigningKeys, hash_password, password_fits};
pub use config::{ConfigError, ConsoleConfig, PasswordCost, Timings};
pub use links::LinkTemplates;
pub use metrics::ConsoleMetrics;
pub use ports::{
    Account, AgentEntry, AgentPort, ClusterPort, ClusterRefused, Directory, Ports, QueueEntry, Readiness,
    Refused, Role,
};

use crate::{
    auth::Auth,
    rest::{LiveHub, Records},
    server::Shared,
    ws::Registry,
};

/// Why the console did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address is taken or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// The password cost is not usable.
    #[error(transparent)]
    PasswordCost(#[from] HashError),
}

/// The running console. Clones are the same one.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Console {
    /// Binds the address and begins to serve. Needs a tokio runtime.
    pub async fn start(config: ConsoleConfig, ports: Ports) -> Result<Self, StartError> {
        config.validate()?;
        let address = config.listen;
        let listen = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (tasks, stop, timings) = (TaskTracker::new(), CancellationToken::new(), config.timings);
        let directory = Arc::clone(&ports.directory);
        let auth = Arc::new(Auth::new(&config, ports.keys.clone(), directory, ports.metrics.clone())?);
        let records = Records::new(ports.records.clone(), timings.upstream);
        let live = LiveHub::new(
            records.clone(),
            timings,
            ports.metrics.clone(),
            config.max_live_streams,
            tasks.clone(),
            stop.clone(),
        );
        let registry = Arc::new(Registry::new(&ports, Arc::clone(&auth), &config));
        let shared = Arc::new(Shared {
            policy: pages::policy(&config),
            config,
            ports,
            auth,
            registry,
            records,
            live: Arc::new(live),
            tasks,
            stop,
        });
        let router = server::router(Arc::clone(&shared));
        shared.tasks.spawn(Arc::clone(&shared.registry).keep(shared.stop.clone()));
        shared.tasks.spawn(server::accept(listener, router, Arc::clone(&shared)));
        tracing::info!(%address, "console serves");
        Ok(Self { shared, address })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Passes a message of an agent's actor to the agent's sessions on this node. Never blocks: frames wait in each
    /// session's bounded buffer; messages for sessions that are not here are dropped and counted.
    pub fn deliver(&self, message: ConsoleMessage) {
        self.shared.registry.deliver(message);
    }

    /// Drains: accepts nothing more, closes WebSockets with 1001, ends streams, lets open requests end within
    /// [`Timings::drain`]. Returns when all is closed.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        let limit = self.shared.config.timings.drain + std::time::Duration::from_secs(3);
        if timeout(limit, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time and are dropped");
        }
    }
}

/// The OpenAPI document, as `/api/v1/openapi.json` serves it; for tools that write it to a file.
pub fn openapi() -> serde_json::Value {
    rest::document()
}

/// The schema of the agent protocol, as `/api/v1/agent/protocol.json` serves it.
pub fn agent_protocol_schema() -> serde_json::Value {
    ws::schema()
}
