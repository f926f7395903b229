//! Recordings: from a tap to a stereo WAV file in the spool, copied to the store in parts while they are made, stored whole
//! at their end, and what is found of them after a crash, on this node or by another one.

mod credentials;
mod files;
mod link;
mod meta;
mod parts;
mod replica;
mod salvage;
mod spool;
mod store;
#[cfg(test)]
mod tests;
mod untaken;
mod upload;
mod writer;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use trunkline_proto::media::v1::{self as pb, media_event::Event};
use trunkline_telemetry::trace_id_of;
use trunkline_types::{RecordingId, TenantId};

pub use self::credentials::credentials_remedy;
pub(crate) use self::meta::Meta;
use self::parts::Parts;
use self::store::Store;
use self::untaken::Untaken;
use self::writer::Writer;
use crate::clock::Clock;
use crate::config::RecordingConfig;
use crate::events::Sink;
use crate::metrics::{Metrics, Outcome, OutcomeLabel, Stage};
use crate::tap::TapReader;

/// Recordings that may begin between two turns of the writer.
const QUEUE: usize = 1_024;
/// Parts under way at once.
const COPIES: usize = 64;
/// The store is looked at this often while it refuses.
const PROBES: Duration = Duration::from_secs(10);

/// Why recordings cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The spool folder cannot be used.
    #[error("media.recording.spool {path}: {source}; make it a folder that can be written")]
    Spool {
        /// The folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error("media.recording.store: {0}")]
    Store(String),
}

/// What the writer, the copies, the uploads and the salvage share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) spool: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) sink: Sink,
    pub(crate) metrics: Arc<Metrics>,
    /// Length of a part; `None`: the store gets nothing before the end.
    segment: Option<Duration>,
    store: Store,
    parts: Parts,
    runtime: tokio::runtime::Handle,
    uploads: Semaphore,
    copies: Semaphore,
    /// Recordings that are being written, stored or salvaged here, or whose audio is in the spool for another reason.
    busy: Mutex<HashSet<RecordingId>>,
    untaken: Untaken,
    /// Held while files that tell of stored recordings are removed, and while those of a salvaged one are written: a call may
    /// take the outcome of one salvage while the next is under way.
    telling: tokio::sync::Mutex<()>,
}

/// The handle that workers have.
#[derive(Debug)]
pub(crate) struct Recorder {
    begin: SyncSender<(Meta, TapReader)>,
    context: Arc<Context>,
}

impl Recorder {
    /// Makes the folders, starts the writer and stores what a crash has left in the spool. `taken` brings the recordings
    /// whose outcome their call has taken.
    pub(crate) fn start(
        config: &RecordingConfig,
        clock: Clock,
        sink: Sink,
        metrics: Arc<Metrics>,
        runtime: tokio::runtime::Handle,
        taken: mpsc::Receiver<String>,
    ) -> Result<Self, RecordingError> {
        let spool = config.spool.clone();
        let trouble = |source| RecordingError::Spool { path: spool.display().to_string(), source };
        std::fs::create_dir_all(&spool).map_err(trouble)?;
        let store = Store::open(&config.store).map_err(RecordingError::Store)?;
        let context = Arc::new(Context {
            spool,
            clock,
            sink,
            metrics,
            segment: (config.segment_ms > 0).then(|| Duration::from_millis(config.segment_ms)),
            parts: Parts::new(store.clone()),
            store,
            runtime,
            uploads: Semaphore::new(config.uploads),
            copies: Semaphore::new(COPIES),
            busy: Mutex::default(),
            untaken: Untaken::default(),
            telling: tokio::sync::Mutex::default(),
        });
        salvage::spool(&context);
        context.runtime.spawn(watch_store(context.clone()));
        context.runtime.spawn(untaken::forget(context.clone(), taken));
        let (begin, queue) = sync_channel(QUEUE);
        let writer = Writer::new(context.clone(), queue);
        // It ends by itself when nobody can begin a recording any more.
        let thread = std::thread::Builder::new().name("media-writer".into()).spawn(move || writer.run());
        thread
            .map_err(|source| RecordingError::Spool { path: context.spool.display().to_string(), source })?;
        Ok(Self { begin, context })
    }

    /// Hands a tap to the writer.
    pub(crate) fn begin(&self, meta: Meta, reader: TapReader) -> Result<(), &'static str> {
        let open = &self.context.metrics.recordings_open;
        let recording = meta.recording;
        if !self.context.busy.lock().insert(recording) {
            return Err("a recording of this name is being stored: use another one");
        }
        open.inc();
        self.begin.try_send((meta, reader)).map_err(|_| {
            open.dec();
            self.context.busy.lock().remove(&recording);
            "the writer of recordings does not keep up"
        })
    }

    /// Assembles what another node has left of a recording in the store, in the background.
    pub(crate) fn salvage(
        &self,
        recording: RecordingId,
        tenant: TenantId,
        node: &str,
    ) -> Result<(), &'static str> {
        salvage::command(&self.context, recording, tenant, node)
    }

    /// Waits until everything that was recorded is written and stored, at most `patience`. Taps must be closed before.
    pub(crate) async fn drain(&self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        let metrics = &self.context.metrics;
        while (metrics.recordings_open.get() > 0 || metrics.uploads_waiting.get() > 0)
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.context.note_untaken(Duration::ZERO).await;
    }
}

impl Context {
    fn finished(&self, meta: &Meta) {
        let Some(stored) = meta.stored else { return };
        let data = stored.bytes.saturating_sub(trunkline_media_core::wav::HEADER_BYTES as u64);
        let finished = pb::RecordingFinished {
            recording_id: meta.recording.to_string(),
            tenant: meta.tenant.to_string(),
            key: meta.key(),
            started_at_us: meta.started_at_us,
            duration_ms: data / trunkline_media_core::wav::STEREO_FRAME_BYTES / 8,
            bytes: stored.bytes,
            sha256: stored.sha256.to_vec().into(),
            spans: meta.wire_spans(),
            salvaged: meta.salvaged,
        };
        self.sink.emit(&meta.owner(), Event::RecordingFinished(finished));
    }

    /// The talk goes on; what there is of the audio stays in the spool.
    fn failed(&self, meta: &Meta, problem: &str, kept_at: String) {
        tracing::error!(call_id = %meta.recording.call, trace_id = %trace_id_of(meta.recording.call), recording_id = %meta.recording, problem, "recording failed");
        self.metrics.recordings.get_or_create(&OutcomeLabel { outcome: Outcome::Failed }).inc();
        let failed = pb::RecordingFailed {
            recording_id: meta.recording.to_string(),
            tenant: meta.tenant.to_string(),
            message: problem.to_owned(),
            kept_at,
        };
        self.sink.emit(&meta.owner(), Event::RecordingFailed(failed));
    }

    /// The writing of a recording is disturbed, or goes on.
    fn trouble(&self, meta: &Meta, problem: &str, over: bool) {
        let call = meta.recording.call;
        tracing::warn!(call_id = %call, trace_id = %trace_id_of(call), recording_id = %meta.recording, problem, over, "a recording cannot be written");
        let trouble = pb::RecordingTrouble {
            recording_id: meta.recording.to_string(),
            tenant: meta.tenant.to_string(),
            message: problem.to_owned(),
            over,
        };
        self.sink.emit(&meta.owner(), Event::RecordingTrouble(trouble));
    }
}

/// Says at the start whether recordings can be stored, before the first one needs it, and goes on asking while they cannot.
async fn watch_store(context: Arc<Context>) {
    let failing = context.metrics.failing(Stage::Store);
    let mut refused = false;
    loop {
        match context.store.probe().await {
            Ok(()) => break,
            Err(problem) => {
                if !std::mem::replace(&mut refused, true) {
                    failing.inc();
                    tracing::error!(problem, "recordings cannot be stored (media.recording.store)");
                }
            }
        }
        tokio::time::sleep(PROBES).await;
    }
    if refused {
        failing.dec();
        tracing::info!("recordings can be stored again");
    }
}
