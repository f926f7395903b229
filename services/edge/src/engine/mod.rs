//! The edge's one dispatcher: owns the transaction layer and decides for each message where it goes. It never waits
//! for a peer or an actor; its inputs are bounded, and what it cannot place is refused or dropped and counted.

mod calls;
mod inbound;
mod outbound;
mod register;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use rand::Rng;
use tokio::{net::UdpSocket, sync::mpsc};
use trunkline_actors::now;
use trunkline_cluster::{Loads, Placement};
use trunkline_proto::edge::v1::EdgeCommand;
use trunkline_rpc::Bus;
use trunkline_sip::{Method, Output, TransactionLayer, uas};
use trunkline_types::{EntityAddress, Timestamp};

use self::calls::Calls;
use crate::{
    DialPlan, EdgeMetrics,
    config::Settings,
    token::TokenKey,
    transport::{
        Path,
        tcp::{ConnectionEvent, Connections},
    },
};

/// Datagrams handled in a row before commands and timers get their turn.
const UDP_BATCH: usize = 64;
const DATAGRAM_BYTES: usize = 65_535;
/// When timers are later than this the node is overloaded: new calls are shed.
const LAG_LIMIT: Duration = Duration::from_millis(250);

/// A command with the call that gave it.
pub(crate) struct Command {
    pub call: EntityAddress,
    pub command: EdgeCommand,
}

/// What the engine is made of.
pub(crate) struct Parts {
    pub settings: Arc<Settings>,
    pub bus: Bus,
    pub placement: Arc<dyn Placement>,
    pub loads: Arc<Loads>,
    pub dial_plan: Arc<dyn DialPlan>,
    pub key: TokenKey,
    pub metrics: EdgeMetrics,
    pub udp: UdpSocket,
    pub advertised: SocketAddr,
    pub connections: Connections,
}

pub(crate) struct Engine {
    parts: Parts,
    layer: TransactionLayer<Path>,
    capabilities: uas::Capabilities,
    calls: Calls,
    writers: outbound::Writers,
    registrar: register::Challenger,
    /// How late the last timer was: the measure of overload.
    lag: Duration,
    draining: bool,
}

/// The engine's mailboxes.
pub(crate) struct Inboxes {
    pub commands: mpsc::Receiver<Command>,
    pub connections: mpsc::Receiver<ConnectionEvent>,
    pub control: mpsc::Receiver<Control>,
}

/// From the role's owner.
pub(crate) enum Control {
    /// Refuse new calls from now on.
    Drain,
}

impl Engine {
    pub fn new(parts: Parts) -> Self {
        let mut random = rand::rng();
        let config = trunkline_sip::TransactionConfig {
            t1: Duration::from_millis(parts.settings.config.t1_ms),
            t2: Duration::from_millis(parts.settings.config.t2_ms),
            max_transactions: parts.settings.config.max_transactions,
            tag_secret: random.random(),
            ..Default::default()
        };
        // What the layer answers for us is what the capabilities name; REGISTER is ours to challenge.
        let mut capabilities = uas::Capabilities::default();
        capabilities.methods.push(Method::Register);
        Self {
            layer: TransactionLayer::new(config),
            capabilities,
            calls: Calls::new(random.random()),
            writers: outbound::Writers::default(),
            registrar: register::Challenger::new(random.random()),
            lag: Duration::ZERO,
            draining: false,
            parts,
        }
    }

    /// Runs until all command senders are gone.
    pub async fn run(mut self, mut inboxes: Inboxes) {
        let mut datagram = vec![0u8; DATAGRAM_BYTES];
        loop {
            let due = self.layer.next_deadline();
            tokio::select! {
                biased;
                Some(control) = inboxes.control.recv() => match control {
                    Control::Drain => self.draining = true,
                },
                () = sleep_until(due) => self.advance(),
                command = inboxes.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(event) = inboxes.connections.recv() => self.connection_event(event),
                readable = self.parts.udp.readable() => if readable.is_ok() {
                    self.read_datagrams(&mut datagram);
                },
            }
        }
    }

    fn advance(&mut self) {
        let now = now();
        if let Some(due) = self.layer.next_deadline() {
            self.lag = now.since(due);
        }
        let outputs = self.layer.advance(now);
        self.perform(outputs);
        self.parts.metrics.transactions.set(i64::try_from(self.layer.len()).unwrap_or(i64::MAX));
    }

    fn read_datagrams(&mut self, buffer: &mut [u8]) {
        for _ in 0..UDP_BATCH {
            match self.parts.udp.try_recv_from(buffer) {
                Ok((length, source)) => self.datagram(Bytes::copy_from_slice(&buffer[..length]), source),
                Err(_) => return,
            }
        }
    }

    /// Carries out what the transaction layer wants, in order.
    fn perform(&mut self, outputs: Vec<Output<Path>>) {
        for output in outputs {
            match output {
                Output::Send { id, path, bytes } => {
                    if !self.transmit(path, bytes)
                        && let Some(id) = id
                    {
                        let further = self.layer.transport_failed(now(), id);
                        self.perform(further);
                    }
                }
                Output::Request { id, request, path } => self.request(id, request, path),
                Output::Ack { id, request } => self.ack(id, request),
                Output::Cancel { id, request } => self.cancelled(id, &request),
                Output::Response { id, response } => self.response(id, &response),
                Output::StrayResponse { .. } => self.parts.metrics.drop("stray_response"),
                Output::Overloaded { request, path } => {
                    self.refuse_stateless(&request, path, 503, "transactions")
                }
                Output::AckTimeout { id } => self.failed(id, Failure::NoAck),
                Output::Timeout { id } => self.failed(id, Failure::Timeout),
                Output::TransportError { id } => self.failed(id, Failure::Transport),
                Output::Terminated { id } => self.calls.forget(&id),
            }
        }
    }

    /// True when new calls must be shed. (How many calls the node carries is for the call role to refuse.)
    fn overloaded(&self) -> bool {
        self.draining || self.lag > LAG_LIMIT
    }
}

/// How a transaction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Timeout,
    Transport,
    NoAck,
}

async fn sleep_until(due: Option<Timestamp>) {
    match due {
        Some(due) => {
            let wait = due.since(now());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        None => std::future::pending().await,
    }
}
