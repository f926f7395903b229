//! A worker thread: its sockets, its sessions, its clock.

mod commands;
mod dtls;
mod endpoint;
mod lifecycle;
mod outbox;
mod path;
mod poll;
mod program;
mod rtp;
mod session;
mod taps;
#[cfg(test)]
mod tests;
mod tick;
pub(crate) mod webrtc;
mod wheel;

pub(crate) use lifecycle::codecs;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use str0m::rtp::RtpPacket;
use tokio::sync::oneshot;
use trunkline_media_core::clip::Library;
use trunkline_media_core::program::MAX_FRAME_SAMPLES;
use trunkline_media_core::rtp::HEADER_BYTES;
use trunkline_proto::media::v1::{self as pb, media_failure::Kind};
use trunkline_telemetry::hep::Hep;
use trunkline_types::{CallId, Epoch, ShardId, Timestamp};

use self::endpoint::Endpoint;
use self::outbox::{Outbox, Tally};
use self::poll::{Batch, Poll, Ready};
use self::rtp::Ports;
use self::session::{Session, Tombstones};
use self::wheel::Wheel;
use crate::clock::{Clock, Now};
use crate::config::Config;
use crate::events::{Owner, Sink};
use crate::failure::{self, Failure};
use crate::metrics::Metrics;
use crate::node::Tell;
use crate::owners::Owners;
use crate::recording::Recorder;
use crate::slab::{Key, Slab};
use crate::tap::Tap;
use crate::transcription::Transcriber;

/// Commands that may wait for one worker.
const COMMANDS: usize = 4_096;
/// Commands executed before sockets are looked at again.
const COMMAND_BATCH: usize = 64;
/// Longest wait of a worker without anything to do.
const IDLE: Duration = Duration::from_millis(500);
/// Largest datagram that is read; longer ones are cut and then refused by their parsers.
const DATAGRAM_BYTES: usize = 2_048;

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) sink: Sink,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) library: Library,
    pub(crate) owners: Arc<Owners>,
    pub(crate) sessions: AtomicUsize,
    /// No new sessions.
    pub(crate) draining: AtomicBool,
    pub(crate) recorder: Recorder,
    pub(crate) transcriber: Transcriber,
    /// Who captures reports.
    pub(crate) hep: Hep,
}

impl Shared {
    /// Where an endpoint's reports come to and go from; one that listens everywhere is told by what its party knows.
    fn report_address(&self, port: &rtp::RtpPort) -> SocketAddr {
        let bound = self.config.bind;
        let ip = if bound.is_unspecified() { self.config.advertised() } else { bound };
        SocketAddr::new(ip, port.rtcp_port())
    }
}

/// A command for one call.
pub(crate) struct Order {
    pub(crate) owner: Owner,
    pub(crate) epoch: Epoch,
    pub(crate) command_id: u64,
    pub(crate) command: pb::media_command::Command,
    /// A browser's connection, made before on another thread.
    pub(crate) prepared: Option<Result<webrtc::Prepared, Failure>>,
    pub(crate) reply: Reply,
}

/// What takes the reply to a command, once. Dropped, it says that the node is stopping.
pub(crate) struct Reply {
    call: CallId,
    command_id: u64,
    tell: Option<Tell>,
}

impl Reply {
    pub(crate) fn new(call: CallId, command_id: u64, tell: Tell) -> Self {
        Self { call, command_id, tell: Some(tell) }
    }

    pub(crate) fn tell(mut self, reply: pb::MediaReply) {
        if let Some(tell) = self.tell.take() {
            tell(reply);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            let stopping = Failure::new(Kind::ShuttingDown, "the node is stopping");
            tell(failure::reply(&self.call.to_string(), self.command_id, Err(stopping)));
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, epoch, command_id, command, .. } = self;
        write!(f, "Order({} {epoch:?} {command_id}: {command:?})", owner.call)
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Control {
    Order(Box<Order>),
    List {
        shard: ShardId,
        reply: oneshot::Sender<Vec<pb::SessionInfo>>,
    },
    /// The call cares for its session.
    Attend(CallId),
    Shutdown,
}

/// The handle of a running worker.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    commands: SyncSender<Control>,
    waker: Arc<OwnedFd>,
    /// What its ICE candidate names.
    pub(crate) candidate: SocketAddr,
    thread: parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl WorkerHandle {
    /// Queues without waiting; gives the message back when the queue is full or the thread is gone.
    pub(crate) fn send(&self, control: Control) -> Result<(), Control> {
        let sent = self.commands.try_send(control);
        poll::wake(&self.waker);
        sent.map_err(|e| match e {
            TrySendError::Full(control) | TrySendError::Disconnected(control) => control,
        })
    }

    /// Ends its sessions and then the thread, which is given back once.
    pub(crate) fn stop(&self) -> Option<std::thread::JoinHandle<()>> {
        let _ = self.send(Control::Shutdown);
        self.thread.lock().take()
    }
}

/// Counts of a worker, added to the metrics once a second.
#[derive(Debug, Default)]
struct Counts {
    received: u64,
    refused: u64,
    late: Duration,
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    now: Now,
    poll: Poll,
    waker: Arc<OwnedFd>,
    commands: Receiver<Control>,
    ports: Ports,
    browsers: UdpSocket,
    by_ufrag: HashMap<String, Key>,
    by_address: HashMap<SocketAddr, Key>,
    endpoints: Slab<Endpoint>,
    taps: Slab<Tap>,
    sessions: HashMap<CallId, Session>,
    tombstones: Tombstones,
    wheel: Wheel,
    /// Packets that came out of a browser's connection and wait to be passed on.
    inbox: VecDeque<(Key, RtpPacket)>,
    buffer: Box<[u8; DATAGRAM_BYTES]>,
    frame: Box<[u8; HEADER_BYTES + MAX_FRAME_SAMPLES]>,
    outbox: Outbox,
    counts: Counts,
    next_chore: Timestamp,
    stopping: bool,
}

/// Starts worker `index`.
pub(crate) fn start(shared: Arc<Shared>, index: usize) -> io::Result<WorkerHandle> {
    let (sender, commands) = sync_channel(COMMANDS);
    let advertised = shared.config.advertised();
    let worker = make(shared, index, commands)?;
    let candidate = SocketAddr::new(advertised, worker.browsers.local_addr()?.port());
    let waker = worker.waker.clone();
    let run = move || worker.run(index);
    let thread = std::thread::Builder::new().name(format!("media-{index}")).spawn(run)?;
    Ok(WorkerHandle { commands: sender, waker, candidate, thread: parking_lot::Mutex::new(Some(thread)) })
}

/// Worker `index` with its sockets, not yet running.
fn make(shared: Arc<Shared>, index: usize, commands: Receiver<Control>) -> io::Result<Worker> {
    let config = &shared.config;
    let port = if config.webrtc_port == 0 { 0 } else { config.webrtc_port.saturating_add(index as u16) };
    let browsers = rtp::shared(SocketAddr::new(config.bind, port))?;
    let waker = Arc::new(poll::waker()?);
    let poll = Poll::new()?;
    poll.add(&*waker, Ready::Wake)?;
    poll.add(&browsers, Ready::WebRtc)?;
    let own_ports = config.rtp.pairs().skip(index).step_by(config.workers).collect();
    let now = shared.clock.now();
    Ok(Worker {
        now,
        poll,
        waker,
        commands,
        ports: Ports::new(config.bind, own_ports),
        browsers,
        by_ufrag: HashMap::new(),
        by_address: HashMap::new(),
        endpoints: Slab::new(),
        taps: Slab::new(),
        sessions: HashMap::new(),
        tombstones: Tombstones::default(),
        wheel: Wheel::new(now.at),
        inbox: VecDeque::with_capacity(256),
        buffer: Box::new([0; DATAGRAM_BYTES]),
        frame: Box::new([0; HEADER_BYTES + MAX_FRAME_SAMPLES]),
        outbox: Outbox::direct(),
        counts: Counts::default(),
        next_chore: now.at,
        stopping: false,
        shared,
    })
}

impl Worker {
    fn run(mut self, index: usize) {
        // By this thread: a ring has one owner.
        match Outbox::ring() {
            Ok(outbox) => self.outbox = outbox,
            Err(error) => {
                tracing::info!(worker = index, %error, "packets are sent one by one: io_uring cannot be had");
            }
        }
        let mut batch = Batch::new();
        while !self.stopping {
            self.now = self.shared.clock.now();
            let timeout = self.wheel.next().map_or(IDLE, |due| due.since(self.now.at)).min(IDLE);
            let ready = self.poll.wait(timeout, &mut batch);
            self.now = self.shared.clock.now();
            for n in 0..ready {
                match batch.get(n) {
                    Some(Ready::Rtp(key)) => self.on_rtp(key),
                    Some(Ready::Rtcp(key)) => self.on_rtcp(key),
                    Some(Ready::WebRtc) => self.on_webrtc(),
                    Some(Ready::Wake) => poll::clear(&self.waker),
                    None => {}
                }
            }
            self.outbox.flush();
            self.take_commands();
            self.serve_wheel();
            self.outbox.flush();
            if self.now.at >= self.next_chore {
                self.chores();
            }
        }
        let calls: Vec<CallId> = self.sessions.keys().copied().collect();
        for call in calls {
            self.end_session(call, Some(pb::session_ended::Reason::Shutdown));
        }
        self.publish_counts();
    }

    fn take_commands(&mut self) {
        for _ in 0..COMMAND_BATCH {
            let Ok(control) = self.commands.try_recv() else { return };
            self.now = self.shared.clock.now();
            match control {
                Control::Order(order) => self.execute(*order),
                Control::List { shard, reply } => {
                    let list = self.list(shard);
                    let _ = reply.send(list);
                }
                Control::Attend(call) => {
                    if let Some(session) = self.sessions.get_mut(&call) {
                        session.commanded_at = self.now.at;
                    }
                }
                Control::Shutdown => self.stopping = true,
            }
        }
        // More may wait: do not sleep on them.
        poll::wake(&self.waker);
    }

    fn publish_counts(&mut self) {
        let counts = std::mem::take(&mut self.counts);
        let metrics = &self.shared.metrics;
        metrics.packets_received.inc_by(counts.received);
        metrics.packets_refused.inc_by(counts.refused);
        metrics.tick_late.inc_by(counts.late.as_secs_f64());
        let Tally { sent, errors } = self.outbox.take_tally();
        metrics.packets_sent.inc_by(sent);
        metrics.send_errors.inc_by(errors);
    }
}
