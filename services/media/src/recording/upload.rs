//! Finished recordings on their way from the spool into the store, and what is removed afterwards.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use trunkline_telemetry::trace_id_of;

use super::Context;
use super::meta::Meta;
use super::replica::Replica;
use super::store::Stored;
use crate::metrics::{Outcome, OutcomeLabel, Stage};

/// After this many tries the call is told that there is no recording; the tries go on.
const PATIENT_TRIES: u32 = 5;
/// Pauses between tries double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Context {
    /// Stores a complete file in the background and tries until it is stored; the spool keeps it as long.
    pub(super) fn upload(self: &Arc<Self>, meta: Meta, copy: Option<Replica>) {
        self.metrics.uploads_waiting.inc();
        let context = self.clone();
        self.runtime.spawn(async move {
            if let Some(copy) = copy {
                copy.end().await;
            }
            let kept_at = meta.audio(&context.spool).file_name().map(|n| n.to_string_lossy().into_owned());
            context.store_with(meta, kept_at.unwrap_or_default(), Source::Spool).await;
        });
    }

    /// Tries until it is in the store (or nothing of it is to be had), and tells.
    pub(super) async fn store_with(self: &Arc<Self>, meta: Meta, kept_at: String, source: Source) {
        let complete = std::time::Instant::now();
        let failing = self.metrics.failing(Stage::Store);
        let (mut tries, mut pause) = (0, FIRST_PAUSE);
        loop {
            tries += 1;
            let attempt = {
                let _permit = self.uploads.acquire().await;
                self.attempt(&meta, source).await
            };
            match attempt {
                Ok(Some(meta)) => {
                    self.metrics.upload_lag.observe(complete.elapsed().as_secs_f64());
                    self.stored(&meta).await;
                    break;
                }
                Ok(None) => {
                    self.failed(&meta, "nothing of it is in the store", String::new());
                    break;
                }
                Err(problem) => {
                    let call = meta.recording.call;
                    tracing::warn!(call_id = %call, trace_id = %trace_id_of(call), recording_id = %meta.recording, tries, problem, "a recording is not stored yet");
                    if tries == 1 {
                        failing.inc();
                    }
                    if tries == PATIENT_TRIES {
                        let problem = format!("not stored after {tries} tries, which go on: {problem}");
                        self.failed(&meta, &problem, kept_at.clone());
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if tries > 1 {
            failing.dec();
        }
        self.metrics.uploads_waiting.dec();
        self.busy.lock().remove(&meta.recording);
    }

    /// The recording with what is stored of it. `None`: there is nothing to store.
    async fn attempt(&self, meta: &Meta, source: Source) -> Result<Option<Meta>, String> {
        let meta = match source {
            Source::Spool => {
                let stored = match self.already(meta).await? {
                    Some(stored) => stored,
                    None => self.store.put_file(&meta.audio(&self.spool), &meta.key()).await?,
                };
                let mut meta = meta.clone();
                meta.stored = Some(stored);
                meta
            }
            Source::Parts => match self.assemble(meta).await? {
                Some(meta) => meta,
                None => return Ok(None),
            },
        };
        Ok(Some(meta))
    }

    /// Whether the object is there: from a try whose answer was lost, or because another node has salvaged it. The first
    /// one stays: its call has been told of it.
    pub(super) async fn already(&self, meta: &Meta) -> Result<Option<Stored>, String> {
        self.store.digest(&meta.key()).await
    }

    /// The object is there: nothing else is needed but what tells of it, until that has been taken.
    async fn stored(&self, meta: &Meta) {
        let outcome = if meta.salvaged { Outcome::Salvaged } else { Outcome::Stored };
        self.metrics.recordings.get_or_create(&OutcomeLabel { outcome }).inc();
        let kept = meta.save(&self.spool);
        let _ = std::fs::remove_file(meta.audio(&self.spool));
        if self.segment.is_some() || meta.salvaged {
            let told = match self.parts.put_manifest(meta).await {
                Ok(()) => self.parts.remove_audio(meta).await,
                Err(problem) => Err(problem),
            };
            if let Err(problem) = told {
                tracing::warn!(recording_id = %meta.recording, problem, "parts of a stored recording are left behind");
            }
        }
        if let Err(error) = kept {
            tracing::warn!(recording_id = %meta.recording, %error, "a crash before its call knows would lose that this is stored");
        }
        self.finished(meta);
    }
}

/// Where the audio comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// The file in the spool.
    Spool,
    /// The parts in the store.
    Parts,
}

/// Removes what tells of recordings once their calls know.
pub(super) async fn forget(context: Arc<Context>, mut taken: mpsc::Receiver<String>) {
    while let Some(recording) = taken.recv().await {
        let path = context.spool.join(format!("{recording}.json"));
        let Some(meta) = Meta::load(&path).filter(|meta| meta.stored.is_some()) else { continue };
        if let Err(problem) = context.parts.remove(&meta).await {
            tracing::debug!(recording, problem, "the manifest of a stored recording is left behind");
        }
        let _ = std::fs::remove_file(path);
    }
}
