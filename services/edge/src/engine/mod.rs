//! The edge's one dispatcher: owns the transaction layer and decides for each message where it goes. It never waits
//! for a peer or an actor; its inputs are bounded, and what it cannot place is refused or dropped and counted.

mod admission;
mod calls;
mod inbound;
mod mint;
mod outbound;
mod register;
mod stray;
mod trace;
mod waiting;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rand::Rng;
use tokio::{net::UdpSocket, sync::mpsc};
use trunkline_actors::now;
use trunkline_cluster::{Loads, Placement};
use trunkline_proto::{edge::v1::EdgeCommand, registrar::v1::RegistrarAnswer};
use trunkline_rpc::Bus;
use trunkline_sip::{Method, Output, TransactionLayer, uas};
use trunkline_types::{EntityAddress, Timestamp};

use self::{admission::Passed, calls::Calls, waiting::Due};
use crate::{
    Accounts, DialPlan, EdgeMetrics,
    config::Settings,
    token::TokenKey,
    transport::{
        Path,
        tap::Tap,
        tcp::{ConnectionEvent, Connections},
    },
};

/// Messages handled in a row from one mailbox before the others get their turn: none can starve another.
const BATCH: usize = 64;
const DATAGRAM_BYTES: usize = 65_535;
/// When timers are later than this the node is overloaded: new calls are shed.
const LAG_LIMIT: Duration = Duration::from_millis(250);
/// A lag says nothing about what is later than this.
const LAG_VALID: Duration = Duration::from_secs(1);
/// Refusals of new calls are logged at most this often; all are counted.
const REFUSALS_LOGGED: Duration = Duration::from_secs(1);

/// What others want of this edge.
pub(crate) enum Command {
    /// A command with the call that gave it.
    Call { call: EntityAddress, command: EdgeCommand },
    /// To a REGISTER.
    Registrar(RegistrarAnswer),
}

/// What the engine is made of.
pub(crate) struct Parts {
    pub settings: Arc<Settings>,
    pub bus: Bus,
    pub placement: Arc<dyn Placement>,
    pub loads: Arc<Loads>,
    pub dial_plan: Arc<dyn DialPlan>,
    pub accounts: Arc<dyn Accounts>,
    pub key: TokenKey,
    pub metrics: EdgeMetrics,
    pub udp: UdpSocket,
    pub advertised: SocketAddr,
    pub connections: Connections,
    /// Captures datagrams; connections capture their own messages.
    pub tap: Tap,
    /// Refuse new calls while it is set.
    pub draining: Arc<AtomicBool>,
    /// Told how many transactions wait for an answer.
    pub busy: Arc<AtomicUsize>,
}

pub(crate) struct Engine {
    parts: Parts,
    layer: TransactionLayer<Path>,
    capabilities: uas::Capabilities,
    calls: Calls,
    writers: outbound::Writers,
    authenticator: register::Authenticator,
    registrations: register::Registrations,
    /// What the request in hand has been found to be, with its tag: judged once, since credentials are good once.
    passed: Option<(String, Passed)>,
    /// Until then new calls are shed: timers were late.
    overloaded_until: Timestamp,
    /// What the transaction layer wants done. Carrying one out may add others, which come after it.
    outputs: VecDeque<Output<Path>>,
    performing: bool,
    refusal_logged: Timestamp,
}

/// The engine's mailboxes.
pub(crate) struct Inboxes {
    pub commands: mpsc::Receiver<Command>,
    pub connections: mpsc::Receiver<ConnectionEvent>,
}

impl Engine {
    pub fn new(parts: Parts) -> Self {
        let mut random = rand::rng();
        let (t1, most) =
            (Duration::from_millis(parts.settings.config.t1_ms), parts.settings.config.max_transactions);
        let config = trunkline_sip::TransactionConfig {
            t1,
            t2: Duration::from_millis(parts.settings.config.t2_ms),
            max_transactions: most,
            // For what belongs to calls that are up.
            reserved: most / 10,
            tag_secret: random.random(),
            ..Default::default()
        };
        // What the layer answers for us is what the capabilities name; REGISTER is ours to answer.
        let mut capabilities = uas::Capabilities::default();
        capabilities.methods.push(Method::Register);
        Self {
            layer: TransactionLayer::new(config),
            capabilities,
            calls: Calls::new(random.random(), waiting::Patience::of(t1)),
            writers: outbound::Writers::default(),
            authenticator: register::Authenticator::new(
                &parts.key,
                parts.settings.config.telephones.offered(),
            ),
            registrations: register::Registrations::new(random.random()),
            passed: None,
            overloaded_until: Timestamp::ZERO,
            outputs: VecDeque::new(),
            performing: false,
            refusal_logged: Timestamp::ZERO,
            parts,
        }
    }

    /// Runs until all command senders are gone.
    pub async fn run(mut self, mut inboxes: Inboxes) {
        let mut datagram = vec![0u8; DATAGRAM_BYTES];
        loop {
            let due = self.next_due();
            tokio::select! {
                () = sleep_until(due) => {}
                command = inboxes.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(event) = inboxes.connections.recv() => self.connection_event(event),
                _ = self.parts.udp.readable() => {}
            }
            self.round(&mut inboxes, &mut datagram);
        }
    }

    /// A turn for everybody, whoever woke the engine.
    fn round(&mut self, inboxes: &mut Inboxes, datagram: &mut [u8]) {
        self.advance();
        for _ in 0..BATCH {
            let Ok(command) = inboxes.commands.try_recv() else { break };
            self.command(command);
        }
        for _ in 0..BATCH {
            let Ok(event) = inboxes.connections.try_recv() else { break };
            self.connection_event(event);
        }
        self.read_datagrams(datagram);
        self.parts.busy.store(self.calls.waiting() + self.registrations.waiting(), Ordering::Release);
    }

    fn next_due(&self) -> Option<Timestamp> {
        let due = [self.layer.next_deadline(), self.calls.waits.next_due(), self.registrations.next_due()];
        due.into_iter().flatten().min()
    }

    fn advance(&mut self) {
        let now = now();
        let Some(due) = self.next_due() else { return };
        if due > now {
            return;
        }
        if now.since(due) > LAG_LIMIT {
            self.overloaded_until = now.plus(LAG_VALID);
        }
        let outputs = self.layer.advance(now);
        self.perform(outputs);
        while let Some(due) = self.calls.waits.due(now) {
            match due {
                Due::Again(id, again) => self.give_again(id, again),
                Due::Over(id) => self.give_up(id),
            }
        }
        self.ask_again(now);
        self.parts.metrics.transactions.set(i64::try_from(self.layer.len()).unwrap_or(i64::MAX));
    }

    fn read_datagrams(&mut self, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            match self.parts.udp.try_recv_from(buffer) {
                Ok((length, source)) => self.datagram(Bytes::copy_from_slice(&buffer[..length]), source),
                Err(_) => return,
            }
        }
    }

    /// Carries out what the transaction layer wants, in order; what that leads to comes after it, not within it.
    fn perform(&mut self, outputs: Vec<Output<Path>>) {
        self.outputs.extend(outputs);
        if self.performing {
            return;
        }
        self.performing = true;
        while let Some(output) = self.outputs.pop_front() {
            self.carry_out(output);
        }
        self.performing = false;
    }

    fn carry_out(&mut self, output: Output<Path>) {
        match output {
            Output::Send { id, path, bytes } => {
                if !self.transmit(path, bytes, id)
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
            Output::StrayResponse { response } => self.stray(response),
            Output::Overloaded { request, path } => {
                self.refuse_stateless(&request, path, 503, "transactions")
            }
            Output::AckTimeout { id } => self.failed(id, Failure::NoAck),
            Output::Timeout { id } => self.failed(id, Failure::Timeout),
            Output::TransportError { id } => self.failed(id, Failure::Transport),
            Output::Terminated { id } => {
                self.calls.forget(&id);
                self.registrations.forget(&id);
            }
        }
    }

    /// True when new calls must be shed. (How many calls the node carries is for the call role to refuse.)
    fn overloaded(&self) -> bool {
        self.drains() || now() < self.overloaded_until
    }

    fn drains(&self) -> bool {
        self.parts.draining.load(Ordering::Acquire)
    }

    /// Whether a refusal may be logged now: a flood of them must not become one of the log.
    fn may_log_refusal(&mut self) -> bool {
        let at = now();
        let may = at.since(self.refusal_logged) >= REFUSALS_LOGGED;
        if may {
            self.refusal_logged = at;
        }
        may
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
