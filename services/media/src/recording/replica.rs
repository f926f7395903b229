//! Copies a recording to the store while it is being written, so that the loss of the node and its disk costs two seconds
//! of it. What is new on the spool goes as the next part; a store that is slow gets longer parts, not a queue.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use trunkline_telemetry::trace_id_of;

use super::Context;
use super::meta::Meta;
use super::parts::MAX_PART_BYTES;
use crate::metrics::Stage;

/// For one part; a small object takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a failure, doubling up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What the writer tells the copier.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes of audio on the spool.
    written: AtomicU64,
    /// Marks that the store does not know yet.
    manifest: Mutex<Option<Meta>>,
    ended: AtomicBool,
    news: Notify,
}

/// The writer's handle of a recording's copy.
#[derive(Debug)]
pub(super) struct Replica {
    progress: Arc<Progress>,
    task: tokio::task::JoinHandle<()>,
}

impl Replica {
    pub(super) fn start(context: &Arc<Context>, meta: &Meta) -> Self {
        let progress = Arc::new(Progress { manifest: Mutex::new(Some(meta.clone())), ..Progress::default() });
        let copier = Copier {
            context: context.clone(),
            progress: progress.clone(),
            file: meta.audio(&context.spool),
            meta: meta.clone(),
            done: 0,
        };
        Self { progress, task: context.runtime.spawn(copier.run()) }
    }

    /// So many bytes of audio are on the spool.
    pub(super) fn written(&self, bytes: u64) {
        self.progress.written.store(bytes, Ordering::Release);
        self.progress.news.notify_one();
    }

    pub(super) fn marked(&self, meta: &Meta) {
        *self.progress.manifest.lock() = Some(meta.clone());
        self.progress.news.notify_one();
    }

    /// No more parts; returns when none is under way.
    pub(super) async fn end(self) {
        self.progress.ended.store(true, Ordering::Release);
        self.progress.news.notify_one();
        let stop = self.task.abort_handle();
        // Each step is bounded by itself.
        if tokio::time::timeout(2 * PATIENCE, self.task).await.is_err() {
            stop.abort();
        }
    }
}

struct Copier {
    context: Arc<Context>,
    progress: Arc<Progress>,
    file: PathBuf,
    meta: Meta,
    /// Bytes of audio in the store.
    done: u64,
}

impl Copier {
    async fn run(mut self) {
        let failing = self.context.metrics.failing(Stage::Store);
        let mut pause = FIRST_PAUSE;
        let mut in_trouble = false;
        loop {
            if self.progress.ended.load(Ordering::Acquire) {
                break;
            }
            match self.step().await {
                Ok(true) => {}
                Ok(false) => {
                    if std::mem::take(&mut in_trouble) {
                        failing.dec();
                        pause = FIRST_PAUSE;
                    }
                    self.progress.news.notified().await;
                }
                Err(problem) => {
                    if !std::mem::replace(&mut in_trouble, true) {
                        failing.inc();
                        let call = self.meta.recording.call;
                        tracing::warn!(call_id = %call, trace_id = %trace_id_of(call), problem, "a recording's copy in the store falls behind");
                    }
                    self.rest(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        if in_trouble {
            failing.dec();
        }
    }

    /// Pauses, unless the recording ends.
    async fn rest(&self, pause: Duration) {
        let until = tokio::time::Instant::now() + pause;
        while !self.progress.ended.load(Ordering::Acquire) {
            if tokio::time::timeout_at(until, self.progress.news.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Puts what is new. `false`: nothing was.
    async fn step(&mut self) -> Result<bool, String> {
        let _permit = self.context.copies.acquire().await;
        let manifest = self.progress.manifest.lock().take();
        if let Some(meta) = manifest {
            if let Err(problem) = bounded(self.context.parts.put_manifest(&meta)).await {
                self.progress.manifest.lock().get_or_insert(meta);
                return Err(problem);
            }
            return Ok(true);
        }
        let written = self.progress.written.load(Ordering::Acquire);
        let until = written.min(self.done + MAX_PART_BYTES);
        if until <= self.done {
            return Ok(false);
        }
        bounded(self.context.parts.put(&self.meta, &self.file, self.done, until)).await?;
        self.done = until;
        Ok(until < written)
    }
}

async fn bounded<T>(step: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, step)
        .await
        .unwrap_or_else(|_| Err(format!("the store does not answer within {} s", PATIENCE.as_secs())))
}
