//! The media node as the daemon sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use trunkline_proto::media::v1::{self as pb, media_command::Command, media_failure::Kind};
use trunkline_types::{CallId, SHARD_COUNT, ShardId};

use crate::assets;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::events::Sink;
use crate::failure::{Done, Failure, reply};
use crate::metrics::Metrics;
use crate::recording::Recorder;
use crate::transcription::Transcriber;
use crate::worker::webrtc::{self, Prepared};
use crate::worker::{self, Control, Order, Shared, WorkerHandle};

/// A worker that does not answer within this has stopped; it answers in microseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long recordings may take to be stored at the shutdown.
const DRAIN: Duration = Duration::from_secs(30);

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
    workers: Vec<WorkerHandle>,
}

impl MediaNode {
    /// Starts threads and sockets. Has to be called within a tokio runtime, which serves storage, the recogniser and
    /// the delivery of events; packets never see it. What a crash has left in the spool is repaired and stored, told by
    /// events.
    ///
    /// # Errors
    /// [`StartError`], naming the key and the remedy.
    pub fn start(
        config: Config,
        registry: &mut Registry,
        events: mpsc::Sender<pb::MediaEvent>,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let library = assets::load(config.sounds.as_deref())?;
        let runtime = tokio::runtime::Handle::current();
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::register(registry));
        metrics.sessions_capacity.set(i64::try_from(config.max_sessions).unwrap_or(i64::MAX));
        let sink = Sink::start(&runtime, clock, metrics.clone(), events);
        let recorder =
            Recorder::start(&config.recording, clock, sink.clone(), metrics.clone(), runtime.clone())?;
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
            epochs: (0..SHARD_COUNT).map(|_| AtomicU64::new(0)).collect(),
            sessions: AtomicUsize::new(0),
            recorder,
            transcriber,
        });
        let mut node = Self { shared: shared.clone(), workers: Vec::with_capacity(count) };
        for index in 0..count {
            // When one fails, dropping the node stops those before it.
            let worker = worker::start(shared.clone(), index)
                .map_err(|source| StartError::Worker { index, source })?;
            node.workers.push(worker);
        }
        runtime.spawn_blocking(move || webrtc::warm_up(clock.now().instant));
        Ok(node)
    }

    /// Executes a command and gives its reply; bounded by 5 s. May be called from any task, concurrently; commands of
    /// one call should be awaited one after the other where their order matters.
    pub async fn command(&self, command: pb::MediaCommand) -> pb::MediaReply {
        let (call_id, command_id) = (command.call_id.clone(), command.command_id);
        match self.carry(command).await {
            Ok(reply) => reply,
            Err(failure) => {
                self.shared.metrics.commands_refused.inc();
                reply(&call_id, command_id, Err(failure))
            }
        }
    }

    async fn carry(&self, command: pb::MediaCommand) -> Result<pb::MediaReply, Failure> {
        let shard = self.fence(&command)?;
        let inner =
            command.command.ok_or_else(|| Failure::invalid("command: none of the known ones is set"))?;
        if let Command::ListSessions(list) = &inner {
            if list.shard != command.shard {
                return Err(Failure::invalid("list_sessions.shard is not the shard of the command"));
            }
            let done = self.list(shard).await;
            return Ok(reply(&command.call_id, command.command_id, done));
        }
        let call: CallId = command.call_id.parse().map_err(|e| Failure::invalid(format!("call_id: {e}")))?;
        let worker = self.worker(call)?;
        let prepared = self.prepare(worker, &inner).await?;
        let (sender, receiver) = oneshot::channel();
        let order = Order {
            call,
            shard,
            epoch: command.epoch,
            command_id: command.command_id,
            command: inner,
            prepared,
            reply: sender,
        };
        let sent = worker.send(Control::Order(Box::new(order)));
        sent.map_err(|_| Failure::overload("the commands of this worker do not keep up: try again later"))?;
        answer(receiver).await
    }

    /// Raises the highest epoch seen for the shard, or refuses a lower one.
    fn fence(&self, command: &pb::MediaCommand) -> Result<ShardId, Failure> {
        let wrong = || Failure::invalid(format!("shard {}: use 0 to {}", command.shard, SHARD_COUNT - 1));
        let shard = u16::try_from(command.shard).ok().and_then(ShardId::new).ok_or_else(wrong)?;
        let highest = self.shared.epochs.get(usize::from(shard.index())).ok_or_else(wrong)?;
        let before = highest.fetch_max(command.epoch, Ordering::AcqRel);
        if before > command.epoch {
            self.shared.metrics.epochs_refused.inc();
            let text = format!("epoch {} of shard {shard}: {before} was seen here", command.epoch);
            return Err(Failure::new(Kind::StaleEpoch, text));
        }
        Ok(shard)
    }

    fn worker(&self, call: CallId) -> Result<&WorkerHandle, Failure> {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(call);
        let index = (hash % self.workers.len().max(1) as u64) as usize;
        self.workers.get(index).ok_or_else(|| Failure::new(Kind::ShuttingDown, "this node has no workers"))
    }

    /// Makes a browser's connection away from the worker: keys take milliseconds.
    async fn prepare(
        &self,
        worker: &WorkerHandle,
        command: &Command,
    ) -> Result<Option<Result<Prepared, Failure>>, Failure> {
        let (sdp, prefer) = match command {
            Command::CreateWebrtc(c) => (c.sdp.clone(), &c.prefer),
            Command::ReplaceWebrtc(c) => (c.sdp.clone(), &c.prefer),
            _ => return Ok(None),
        };
        let prefer = worker::codecs(prefer)?;
        let (candidate, clock) = (worker.candidate, self.shared.clock);
        let made =
            tokio::task::spawn_blocking(move || webrtc::prepare(&sdp, &prefer, candidate, clock.now()));
        let made = made.await.map_err(|e| Failure::new(Kind::Internal, format!("connection: {e}")))?;
        Ok(Some(made))
    }

    async fn list(&self, shard: ShardId) -> Done {
        let mut sessions = Vec::new();
        for worker in &self.workers {
            let (reply, receiver) = oneshot::channel();
            let sent = worker.send(Control::List { shard, reply });
            sent.map_err(|_| Failure::overload("the commands of a worker do not keep up: try again later"))?;
            sessions.extend(answer(receiver).await?);
        }
        Ok(pb::MediaOk { sessions, ..pb::MediaOk::default() })
    }

    /// Ends all sessions, writes and stores all recordings, stops the threads. Bounded by about 35 s.
    pub async fn shutdown(mut self) {
        let mut threads = self.stop();
        let joined = tokio::task::spawn_blocking(move || threads.drain(..).for_each(|t| drop(t.join())));
        let _ = tokio::time::timeout(PATIENCE, joined).await;
        self.shared.recorder.drain(DRAIN).await;
    }

    fn stop(&mut self) -> Vec<std::thread::JoinHandle<()>> {
        let stop = |mut worker: WorkerHandle| {
            let _ = worker.send(Control::Shutdown);
            worker.thread.take()
        };
        self.workers.drain(..).filter_map(stop).collect()
    }
}

impl Drop for MediaNode {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn answer<T>(receiver: oneshot::Receiver<T>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, receiver).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Failure::new(Kind::ShuttingDown, "the node is stopping")),
        Err(_) => Err(Failure::new(Kind::Internal, "the worker does not answer")),
    }
}
