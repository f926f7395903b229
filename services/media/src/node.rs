//! The media node as the daemon sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use trunkline_proto::media::v1::{self as pb, media_command::Command, media_failure::Kind};
use trunkline_telemetry::hep::Hep;
use trunkline_telemetry::tracing::Instrument;
use trunkline_types::{CallId, Epoch, RecordingId, SHARD_COUNT, ShardId, TenantId};

use crate::assets;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::events::{Acknowledged, Owner, Sink};
use crate::failure::{Done, Failure, reply};
use crate::metrics::Metrics;
use crate::owners::Owners;
use crate::recording::Recorder;
use crate::transcription::Transcriber;
use crate::worker::webrtc::{self, Prepared};
use crate::worker::{self, Control, Order, Reply, Shared, WorkerHandle};

/// A worker that does not answer within this has stopped; it answers in microseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long recordings may take to be stored at the shutdown.
const DRAIN: Duration = Duration::from_secs(30);
/// How long the last events may take to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Events named by one acknowledgement.
const MAX_ACKNOWLEDGED: usize = 1_024;

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Prompts or music.
    #[error(transparent)]
    Sounds(#[from] assets::SoundError),
    /// Spool or store.
    #[error(transparent)]
    Recording(#[from] crate::recording::RecordingError),
    /// The recogniser's address.
    #[error("media.transcription.endpoint: {0}")]
    Transcription(#[from] tonic::transport::Error),
    /// A thread or socket.
    #[error("media worker {index}: {source}; check media.bind and media.webrtc_port")]
    Worker {
        /// Which.
        index: usize,
        /// Why.
        source: std::io::Error,
    },
}

/// A running media node. Dropping it stops its threads; [`MediaNode::shutdown`] does so in good order.
#[derive(Debug)]
pub struct MediaNode {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    runtime: tokio::runtime::Handle,
}

/// Takes the reply to a command, once, on the thread that has it: it must not wait.
pub type Tell = Box<dyn FnOnce(pb::MediaReply) + Send>;

type Made = Result<Prepared, Failure>;

/// Where a command goes.
enum Way<'a> {
    /// Nowhere: it is done.
    Done(pb::MediaOk),
    /// To all workers.
    List(ShardId),
    Worker(Place<'a>),
}

struct Place<'a> {
    call: CallId,
    shard: ShardId,
    worker: &'a WorkerHandle,
}

fn makes_a_connection(command: &pb::MediaCommand) -> bool {
    matches!(command.command, Some(Command::CreateWebrtc(_) | Command::ReplaceWebrtc(_)))
}

/// The threads; dropped with the node, they end.
#[derive(Debug)]
struct Workers(Vec<WorkerHandle>);

impl Workers {
    /// The one that serves a call.
    fn of(&self, call: CallId) -> Option<&WorkerHandle> {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(call);
        self.0.get((hash % self.0.len().max(1) as u64) as usize)
    }

    fn stop(&self) -> Vec<std::thread::JoinHandle<()>> {
        self.0.iter().filter_map(WorkerHandle::stop).collect()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl MediaNode {
    /// Starts threads and sockets. Has to be called within a tokio runtime, which serves storage, the recogniser and
    /// the delivery of events; packets never see it. What a crash has left in the spool is repaired and stored, told by
    /// events. The reports of plain RTP are captured by `hep`.
    ///
    /// # Errors
    /// [`StartError`], naming the key and the remedy.
    pub fn start(
        config: Config,
        registry: &mut Registry,
        events: mpsc::Sender<pb::MediaEvent>,
        hep: Hep,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let library = assets::load(config.sounds.as_deref())?;
        let runtime = tokio::runtime::Handle::current();
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::register(registry));
        metrics.sessions_capacity.set(i64::try_from(config.max_sessions).unwrap_or(i64::MAX));
        let owners = Arc::new(Owners::new());
        let (sink, Acknowledged { recordings, mut attended }) =
            Sink::start(&runtime, clock, metrics.clone(), owners.clone(), events);
        let recorder = Recorder::start(
            &config.recording,
            clock,
            sink.clone(),
            metrics.clone(),
            runtime.clone(),
            recordings,
        )?;
        let transcription = config.transcription.clone();
        let transcriber =
            Transcriber::new(transcription, clock, sink.clone(), metrics.clone(), runtime.clone())?;
        let count = config.workers;
        let shared = Arc::new(Shared {
            config,
            clock,
            sink,
            metrics,
            library,
            owners,
            sessions: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            recorder,
            transcriber,
            hep,
        });
        let mut workers = Workers(Vec::with_capacity(count));
        for index in 0..count {
            // When one fails, those before it are stopped.
            let worker = worker::start(shared.clone(), index)
                .map_err(|source| StartError::Worker { index, source })?;
            workers.0.push(worker);
        }
        let workers = Arc::new(workers);
        let attending = Arc::downgrade(&workers);
        runtime.spawn(async move {
            while let Some(call) = attended.recv().await {
                let Some(workers) = attending.upgrade() else { return };
                // A full queue: the call is asked again.
                let _ = workers.of(call).map(|worker| worker.send(Control::Attend(call)));
            }
        });
        runtime.spawn_blocking(move || webrtc::warm_up(clock.now().instant));
        Ok(Self { shared, workers, runtime })
    }

    /// Has a command executed and its reply told, on whichever thread has it. Commands of one call are executed in the
    /// order in which they are given, but for those that make a browser's connection: whoever needs an order awaits the
    /// reply.
    pub fn submit(self: &Arc<Self>, command: pb::MediaCommand, tell: Tell) {
        match self.way(&command) {
            Ok(Way::Done(done)) => tell(reply(&command.call_id, command.command_id, Ok(done))),
            Ok(Way::Worker(place)) if !makes_a_connection(&command) => {
                self.order(&place, command, None, tell)
            }
            Ok(_) => {
                let node = self.clone();
                let work = async move { tell(node.command(command).await) };
                self.runtime.spawn(work.in_current_span());
            }
            Err(failure) => tell(self.refused(&command.call_id, command.command_id, failure)),
        }
    }

    /// Executes a command and gives its reply; bounded by 5 s. May be called from any task, concurrently.
    pub async fn command(&self, command: pb::MediaCommand) -> pb::MediaReply {
        let (call_id, command_id) = (command.call_id.clone(), command.command_id);
        match self.carry(command).await {
            Ok(reply) => reply,
            Err(failure) => self.refused(&call_id, command_id, failure),
        }
    }

    async fn carry(&self, command: pb::MediaCommand) -> Result<pb::MediaReply, Failure> {
        match self.way(&command)? {
            Way::Done(done) => Ok(reply(&command.call_id, command.command_id, Ok(done))),
            Way::List(shard) => Ok(reply(&command.call_id, command.command_id, self.list(shard).await)),
            Way::Worker(place) => {
                let prepared = self.prepare(place.worker, command.command.as_ref()).await?;
                let (sender, receiver) = oneshot::channel();
                // The caller may have given up waiting.
                let tell = |reply| drop(sender.send(reply));
                self.order(&place, command, prepared, Box::new(tell));
                answer(receiver).await
            }
        }
    }

    fn refused(&self, call_id: &str, command_id: u64, failure: Failure) -> pb::MediaReply {
        self.shared.metrics.commands_refused.inc();
        reply(call_id, command_id, Err(failure))
    }

    /// Where a command goes that may be executed. What needs no worker is done.
    fn way(&self, command: &pb::MediaCommand) -> Result<Way<'_>, Failure> {
        let shard = self.fence(command)?;
        let none = || Failure::invalid("command: none of the known ones is set");
        let inner = command.command.as_ref().ok_or_else(none)?;
        if let Command::ListSessions(list) = inner {
            if list.shard != command.shard {
                return Err(Failure::invalid("list_sessions.shard is not the shard of the command"));
            }
            return Ok(Way::List(shard));
        }
        let call: CallId = command.call_id.parse().map_err(|e| Failure::invalid(format!("call_id: {e}")))?;
        if call.shard() != shard {
            return Err(Failure::invalid(format!("shard {shard} is not that of call_id, {}", call.shard())));
        }
        match inner {
            Command::AcknowledgeEvents(c) => {
                let ids = c.event_ids.iter().copied().take(MAX_ACKNOWLEDGED).collect();
                self.shared.sink.acknowledge(call, ids);
                Ok(Way::Done(pb::MediaOk::default()))
            }
            Command::SalvageRecording(c) => self.salvage(call, c).map(Way::Done),
            _ => {
                let stopping = || Failure::new(Kind::ShuttingDown, "this node has no workers");
                let worker = self.workers.of(call).ok_or_else(stopping)?;
                Ok(Way::Worker(Place { call, shard, worker }))
            }
        }
    }

    /// Queues a command at its worker.
    fn order(&self, place: &Place<'_>, command: pb::MediaCommand, prepared: Option<Made>, tell: Tell) {
        let pb::MediaCommand { epoch, command_id, tenant, command: Some(command), .. } = command else {
            return;
        };
        let (epoch, reply) = (Epoch(epoch), Reply::new(place.call, command_id, tell));
        let owner = Owner { call: place.call, shard: place.shard, tenant: tenant.into() };
        let order = Order { owner, epoch, command_id, command, prepared, reply };
        if let Err(Control::Order(order)) = place.worker.send(Control::Order(Box::new(order))) {
            let full = Failure::overload("the commands of this worker do not keep up: try again later");
            order.reply.tell(self.refused(&place.call.to_string(), command_id, full));
        }
    }

    /// Raises the highest epoch seen for the shard, or refuses a lower one.
    fn fence(&self, command: &pb::MediaCommand) -> Result<ShardId, Failure> {
        let wrong = || Failure::invalid(format!("shard {}: use 0 to {}", command.shard, SHARD_COUNT - 1));
        let shard = u16::try_from(command.shard).ok().and_then(ShardId::new).ok_or_else(wrong)?;
        match self.shared.owners.admit(shard, Epoch(command.epoch), command.acknowledges_events) {
            Ok(is_new) => {
                if is_new {
                    self.shared.sink.new_owner(shard);
                }
                Ok(shard)
            }
            Err(stale) => {
                self.shared.metrics.epochs_refused.inc();
                Err(stale.into())
            }
        }
    }

    fn salvage(&self, call: CallId, c: &pb::SalvageRecording) -> Done {
        let wrong = |field: &str, e: &dyn std::fmt::Display| Failure::invalid(format!("{field}: {e}"));
        let id: RecordingId = c.recording_id.parse().map_err(|e| wrong("recording_id", &e))?;
        if id.call != call {
            return Err(Failure::invalid("recording_id is of another call"));
        }
        let tenant: TenantId = c.tenant.parse().map_err(|e| wrong("tenant", &e))?;
        let taken = self.shared.recorder.salvage(id, tenant, &c.node);
        taken.map(|()| pb::MediaOk::default()).map_err(Failure::overload)
    }

    /// Makes a browser's connection away from the worker: keys take milliseconds.
    async fn prepare(
        &self,
        worker: &WorkerHandle,
        command: Option<&Command>,
    ) -> Result<Option<Made>, Failure> {
        let (sdp, prefer) = match command {
            Some(Command::CreateWebrtc(c)) => (c.sdp.clone(), &c.prefer),
            Some(Command::ReplaceWebrtc(c)) => (c.sdp.clone(), &c.prefer),
            _ => return Ok(None),
        };
        let prefer = worker::codecs(prefer)?;
        let (candidate, clock) = (worker.candidate, self.shared.clock);
        let made =
            tokio::task::spawn_blocking(move || webrtc::prepare(&sdp, &prefer, candidate, clock.now()));
        let made = made.await.map_err(|e| Failure::new(Kind::Internal, format!("connection: {e}")))?;
        Ok(Some(made))
    }

    /// Who asks for a shard's sessions owns it anew: what was told to the former owner is told again.
    async fn list(&self, shard: ShardId) -> Done {
        self.shared.sink.new_owner(shard);
        let mut sessions = Vec::new();
        for worker in &self.workers.0 {
            let (reply, receiver) = oneshot::channel();
            let sent = worker.send(Control::List { shard, reply });
            sent.map_err(|_| Failure::overload("the commands of a worker do not keep up: try again later"))?;
            sessions.extend(answer(receiver).await?);
        }
        Ok(pb::MediaOk { sessions, ..pb::MediaOk::default() })
    }

    /// Takes no new sessions any more (commands that would make one get SHUTTING_DOWN, and the call goes elsewhere), or
    /// takes them again. Sessions that exist go on.
    pub fn drain(&self, draining: bool) {
        self.shared.draining.store(draining, Ordering::Relaxed);
        self.shared.metrics.draining.set(i64::from(draining));
    }

    /// Sessions on this node.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::Acquire)
    }

    /// Ends all sessions, writes and stores all recordings, stops the threads. Bounded by about 40 s. Commands that come
    /// afterwards get SHUTTING_DOWN or OVERLOAD.
    pub async fn shutdown(&self) {
        self.drain(true);
        let mut threads = self.workers.stop();
        let joined = tokio::task::spawn_blocking(move || threads.drain(..).for_each(|t| drop(t.join())));
        let _ = tokio::time::timeout(PATIENCE, joined).await;
        self.shared.recorder.drain(DRAIN).await;
        self.shared.sink.drain(LAST_WORDS).await;
    }
}

async fn answer<T>(receiver: oneshot::Receiver<T>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, receiver).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Failure::new(Kind::ShuttingDown, "the node is stopping")),
        Err(_) => Err(Failure::new(Kind::Internal, "the worker does not answer")),
    }
}
