//! Recordings: from a tap to a stereo WAV file in the spool, from there to the object store, and what is found of them
//! after a crash.

mod store;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trunkline_media_core::timeline::{Span, SpanKind};
use trunkline_media_core::wav;
use trunkline_proto::media::v1::{self as pb, media_event::Event};
use trunkline_telemetry::trace_id_of;
use trunkline_types::{RecordingId, ShardId, TenantId, Timestamp};

use self::store::Store;
use self::writer::Writer;
use crate::clock::Clock;
use crate::config::RecordingConfig;
use crate::events::{Owner, Sink};
use crate::metrics::{Metrics, Outcome, OutcomeLabel};
use crate::tap::TapReader;

/// Recordings that may begin between two turns of the writer.
const QUEUE: usize = 1_024;

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

/// What is written beside the audio, so that a crash loses neither whose it is nor its spans.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) recording: RecordingId,
    shard: u16,
    pub(crate) tenant: TenantId,
    pub(crate) started_at_us: i64,
    pub(crate) spans: Vec<MetaSpan>,
}

/// A span in the file beside the audio.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct MetaSpan {
    kind: u8,
    start_ms: u64,
    end_ms: u64,
}

impl Meta {
    pub(crate) fn new(recording: RecordingId, owner: Owner, tenant: TenantId, started_at: Timestamp) -> Self {
        let started_at_us = started_at.as_micros();
        Self { recording, shard: owner.shard.index(), tenant, started_at_us, spans: Vec::new() }
    }

    pub(crate) fn owner(&self) -> Owner {
        let shard = ShardId::new(self.shard).unwrap_or(self.recording.call.shard());
        Owner { call: self.recording.call, shard }
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        Timestamp::from_micros(self.started_at_us)
    }

    pub(crate) fn set_spans(&mut self, spans: &[Span]) {
        let kind = |k| match k {
            SpanKind::Hold => 1,
            SpanKind::Paused => 2,
            SpanKind::Gap => 3,
        };
        self.spans = spans
            .iter()
            .map(|s| MetaSpan { kind: kind(s.kind), start_ms: s.start_ms, end_ms: s.end_ms })
            .collect();
    }

    /// `{tenant}/{recording}.wav`
    pub(crate) fn key(&self) -> String {
        format!("{}/{}.wav", self.tenant, self.recording)
    }

    pub(crate) fn audio(&self, spool: &Path) -> PathBuf {
        spool.join(format!("{}.wav", self.recording))
    }

    pub(crate) fn beside(&self, spool: &Path) -> PathBuf {
        spool.join(format!("{}.json", self.recording))
    }

    /// Written anew and renamed: after a crash it is the old or the new one.
    pub(crate) fn save(&self, spool: &Path) -> std::io::Result<()> {
        let path = self.beside(spool);
        let fresh = path.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }
}

/// What the writer, the uploads and the salvage share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) spool: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) sink: Sink,
    pub(crate) metrics: Arc<Metrics>,
    store: Store,
    runtime: tokio::runtime::Handle,
    uploads: tokio::sync::Semaphore,
}

/// Uploads at once.
const UPLOADS: usize = 4;

/// The handle that workers have.
#[derive(Debug)]
pub(crate) struct Recorder {
    begin: SyncSender<(Meta, TapReader)>,
    context: Arc<Context>,
}

impl Recorder {
    /// Makes the folders, starts the writer and stores what a crash has left in the spool.
    pub(crate) fn start(
        config: &RecordingConfig,
        clock: Clock,
        sink: Sink,
        metrics: Arc<Metrics>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, RecordingError> {
        let spool = config.spool.clone();
        let trouble = |source| RecordingError::Spool { path: spool.display().to_string(), source };
        std::fs::create_dir_all(&spool).map_err(trouble)?;
        let store = Store::open(&config.store).map_err(RecordingError::Store)?;
        let uploads = tokio::sync::Semaphore::new(UPLOADS);
        let context = Arc::new(Context { spool, clock, sink, metrics, store, runtime, uploads });
        salvage(&context);
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
        open.inc();
        self.begin.try_send((meta, reader)).map_err(|_| {
            open.dec();
            "the writer of recordings does not keep up"
        })
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
    }
}

impl Context {
    /// Stores a complete file in the background, with retries; the spool keeps it until that has worked.
    pub(crate) fn upload(self: &Arc<Self>, meta: Meta, salvaged: bool) {
        self.metrics.uploads_waiting.inc();
        let context = self.clone();
        let complete = std::time::Instant::now();
        self.runtime.spawn(async move {
            let stored = {
                let _permit = context.uploads.acquire().await;
                context.store.put(&meta.audio(&context.spool), &meta.key()).await
            };
            match stored {
                Ok(stored) => {
                    context.metrics.upload_lag.observe(complete.elapsed().as_secs_f64());
                    context.finished(&meta, &stored, salvaged);
                }
                Err(problem) => {
                    let kept_at =
                        meta.audio(&context.spool).file_name().map(|n| n.to_string_lossy().into_owned());
                    context.failed(&meta, &problem, kept_at.unwrap_or_default());
                }
            }
            context.metrics.uploads_waiting.dec();
        });
    }

    fn finished(&self, meta: &Meta, stored: &store::Stored, salvaged: bool) {
        let outcome = if salvaged { Outcome::Salvaged } else { Outcome::Stored };
        self.metrics.recordings.get_or_create(&OutcomeLabel { outcome }).inc();
        let data = stored.bytes.saturating_sub(wav::HEADER_BYTES as u64);
        let spans = meta.spans.iter().map(|s| pb::Span {
            kind: s.kind.into(),
            start_ms: s.start_ms,
            end_ms: s.end_ms,
        });
        let finished = pb::RecordingFinished {
            recording_id: meta.recording.to_string(),
            tenant: meta.tenant.to_string(),
            key: meta.key(),
            started_at_us: meta.started_at_us,
            duration_ms: data / wav::STEREO_FRAME_BYTES / 8,
            bytes: stored.bytes,
            sha256: stored.sha256.to_vec().into(),
            spans: spans.collect(),
            salvaged,
        };
        self.sink.emit(meta.owner(), Event::RecordingFinished(finished));
        let _ = std::fs::remove_file(meta.audio(&self.spool));
        let _ = std::fs::remove_file(meta.beside(&self.spool));
    }

    /// The talk goes on; what there is of the audio stays in the spool.
    pub(crate) fn failed(&self, meta: &Meta, problem: &str, kept_at: String) {
        tracing::error!(call_id = %meta.recording.call, trace_id = %trace_id_of(meta.recording.call), recording_id = %meta.recording, problem, "recording failed");
        self.metrics.recordings.get_or_create(&OutcomeLabel { outcome: Outcome::Failed }).inc();
        let failed = pb::RecordingFailed {
            recording_id: meta.recording.to_string(),
            tenant: meta.tenant.to_string(),
            message: problem.to_owned(),
            kept_at,
        };
        self.sink.emit(meta.owner(), Event::RecordingFailed(failed));
    }
}

/// Repairs and stores what is in the spool at the start: recordings that were cut by a crash, and those that could not
/// be stored.
fn salvage(context: &Arc<Context>) {
    let Ok(entries) = std::fs::read_dir(&context.spool) else { return };
    let beside = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "json"));
    for path in beside {
        let meta = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Meta>(&bytes).ok());
        let Some(meta) = meta else {
            tracing::warn!(file = %path.display(), "what is beside a recording cannot be read: it is left alone");
            continue;
        };
        match repair(&meta.audio(&context.spool)) {
            Ok(true) => context.upload(meta, true),
            Ok(false) => {
                context.failed(&meta, "a crash left no audio", String::new());
                let _ = std::fs::remove_file(meta.audio(&context.spool));
                let _ = std::fs::remove_file(&path);
            }
            Err(error) => context.failed(&meta, &error.to_string(), meta.recording.to_string()),
        }
    }
}

/// Makes the header say what is there. `false`: nothing is.
fn repair(path: &Path) -> std::io::Result<bool> {
    use std::io::{Seek, SeekFrom, Write};
    let mut file = match std::fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let Some((header, keep)) = wav::repair(file.metadata()?.len()) else { return Ok(false) };
    file.set_len(keep)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.sync_all()?;
    Ok(true)
}
