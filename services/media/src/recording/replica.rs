//! Copies a recording to the store while it is being written, so that the loss of the node and its disk costs two seconds
//! of it. What is new on the spool goes as the next part, the first one with the manifest; a store that is slow gets longer
//! parts, not a queue.

use std::fs::File;
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

/// What there is of a recording in the store when its copying has ended.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// The manifest as it was put.
    pub(super) manifest: Option<Meta>,
    /// Parts, or the attempt at one.
    pub(super) parts: bool,
}

/// The writer's handle of a recording's copy.
#[derive(Debug)]
pub(super) struct Replica {
    context: Arc<Context>,
    meta: Meta,
    progress: Arc<Progress>,
    written: u64,
    /// Begins with the first audio: a recording that ends before has nothing to copy.
    task: Option<tokio::task::JoinHandle<Copied>>,
}

impl Replica {
    pub(super) fn new(context: &Arc<Context>, meta: &Meta) -> Self {
        let progress = Arc::new(Progress { manifest: Mutex::new(Some(meta.clone())), ..Progress::default() });
        Self { context: context.clone(), meta: meta.clone(), progress, written: 0, task: None }
    }

    /// So many bytes of audio are in the spool's file.
    pub(super) fn written(&mut self, bytes: u64, file: Option<&Arc<File>>) {
        let Some(file) = file.filter(|_| bytes > self.written) else { return };
        self.written = bytes;
        self.progress.written.store(bytes, Ordering::Release);
        if self.task.is_some() {
            return self.progress.news.notify_one();
        }
        let copier = Copier {
            context: self.context.clone(),
            progress: self.progress.clone(),
            file: file.clone(),
            meta: self.meta.clone(),
            done: 0,
            copied: Copied::default(),
        };
        self.task = Some(self.context.runtime.spawn(copier.run()));
    }

    pub(super) fn marked(&self, meta: &Meta) {
        *self.progress.manifest.lock() = Some(meta.clone());
        self.progress.news.notify_one();
    }

    /// No more parts; returns when none is under way, with what there is. `None`: that is not known.
    pub(super) async fn end(self) -> Option<Copied> {
        let Some(task) = self.task else { return Some(Copied::default()) };
        self.progress.ended.store(true, Ordering::Release);
        self.progress.news.notify_one();
        let stop = task.abort_handle();
        // Each step is bounded by itself.
        match tokio::time::timeout(2 * PATIENCE, task).await {
            Ok(copied) => copied.ok(),
            Err(_) => {
                stop.abort();
                None
            }
        }
    }
}

struct Copier {
    context: Arc<Context>,
    progress: Arc<Progress>,
    file: Arc<File>,
    meta: Meta,
    /// Bytes of audio in the store.
    done: u64,
    copied: Copied,
}

impl Copier {
    async fn run(mut self) -> Copied {
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
        self.copied
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

    /// Puts what is new. `false`: nothing more is.
    async fn step(&mut self) -> Result<bool, String> {
        let written = self.progress.written.load(Ordering::Acquire);
        let until = written.min(self.done + MAX_PART_BYTES);
        // Marks are nothing without audio: the first ones go with the first part.
        let manifest = self.progress.manifest.lock().take();
        if until <= self.done && manifest.is_none() {
            return Ok(false);
        }
        self.copied.parts |= until > self.done;
        let context = self.context.clone();
        let _permit = context.copies.acquire().await;
        match bounded(self.put(manifest.as_ref(), until)).await {
            Ok(()) => {
                self.done = self.done.max(until);
                self.copied.manifest = manifest.or(self.copied.manifest.take());
                Ok(until < written)
            }
            Err(problem) => {
                if let Some(manifest) = manifest {
                    self.copied.manifest = None;
                    self.progress.manifest.lock().get_or_insert(manifest);
                }
                Err(problem)
            }
        }
    }

    async fn put(&self, manifest: Option<&Meta>, until: u64) -> Result<(), String> {
        let parts = &self.context.parts;
        match manifest {
            Some(manifest) if until <= self.done => parts.put_manifest(manifest).await,
            _ => parts.put(&self.meta, manifest, self.file.clone(), self.done, until).await,
        }
    }
}

async fn bounded<T>(step: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, step)
        .await
        .unwrap_or_else(|_| Err(format!("the store does not answer within {} s", PATIENCE.as_secs())))
}
