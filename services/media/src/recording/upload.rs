//! Finished recordings on their way from the spool into the store, and what tells of them there.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use trunkline_telemetry::trace_id_of;

use super::Context;
use super::files;
use super::link::{self, Linked, Trouble};
use super::meta::Meta;
use super::replica::{Copied, Replica};
use super::store::Stored;
use super::untaken::Rest;
use crate::metrics::{Outcome, OutcomeLabel, Stage};

/// After this many tries the call is told that there is no recording; the tries go on.
const PATIENT_TRIES: u32 = 5;
/// Pauses between tries double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Context {
    /// Stores a complete file in the background and tries until it is stored; the spool keeps it as long. `file`: when it is
    /// still open.
    pub(super) fn upload(self: &Arc<Self>, meta: Meta, copy: Option<Replica>, file: Option<Arc<File>>) {
        self.metrics.uploads_waiting.inc();
        let context = self.clone();
        self.runtime.spawn(async move {
            let copied = match copy {
                Some(copy) => copy.end().await,
                None if context.segment.is_none() && !meta.salvaged => Some(Copied::default()),
                None => None,
            };
            context.store_with(meta, Source::Spool { file, copied }).await;
        });
    }

    /// Tries until it is in the store (or nothing of it is to be had), and tells.
    pub(super) async fn store_with(self: &Arc<Self>, meta: Meta, mut source: Source) {
        let complete = std::time::Instant::now();
        let failing = self.metrics.failing(Stage::Store);
        let (mut tries, mut pause) = (0, FIRST_PAUSE);
        let (mut needed, mut stored) = (false, None);
        loop {
            tries += 1;
            let attempt = {
                let _permit = match self.uploads.try_acquire() {
                    Ok(permit) => Ok(permit),
                    Err(_) => {
                        // Files that wait are closed: thousands may.
                        source.close();
                        self.uploads.acquire().await
                    }
                };
                self.attempt(&meta, &mut source).await
            };
            match attempt {
                Ok(Some(meta)) => {
                    self.metrics.upload_lag.observe(complete.elapsed().as_secs_f64());
                    needed = self.stored(&meta, &source).await;
                    stored = Some(meta);
                    break;
                }
                Ok(None) => {
                    let _ = files::remove(&meta.beside(&self.spool));
                    self.failed(&meta, "nothing of it is in the store", String::new());
                    break;
                }
                Err(Trouble::Never(problem)) => {
                    let problem = format!("the file cannot be written: {problem}");
                    self.failed(&meta, &problem, source.kept_at(&meta));
                    break;
                }
                Err(Trouble::Later(problem)) => {
                    let call = meta.recording.call;
                    tracing::warn!(call_id = %call, trace_id = %trace_id_of(call), recording_id = %meta.recording, tries, problem, "a recording is not stored yet");
                    if tries == 1 {
                        failing.inc();
                    }
                    if tries == PATIENT_TRIES {
                        let problem = format!("not stored after {tries} tries, which go on: {problem}");
                        self.failed(&meta, &problem, source.kept_at(&meta));
                    }
                }
            }
            source.close();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if tries > 1 {
            failing.dec();
        }
        if !needed {
            self.busy.lock().remove(&meta.recording);
        }
        // After that: it may be taken, or asked for again, at once.
        if let Some(stored) = stored {
            self.finished(&stored);
        }
        self.metrics.uploads_waiting.dec();
    }

    /// The recording with what is stored of it. `None`: there is nothing to store.
    async fn attempt(&self, meta: &Meta, source: &mut Source) -> Result<Option<Meta>, Trouble> {
        let Source::Spool { file, .. } = source else {
            return self.assemble(meta).await.map_err(Trouble::Later);
        };
        let mut meta = meta.clone();
        meta.stored = Some(self.store_file(&meta, file.take()).await?);
        Ok(Some(meta))
    }

    async fn store_file(&self, meta: &Meta, file: Option<Arc<File>>) -> Result<Stored, Trouble> {
        let (path, key) = (meta.audio(&self.spool), meta.key());
        let target = self.store.file(&key);
        let linked = tokio::task::spawn_blocking(move || link::link(&path, file, target)).await;
        let linked = linked.map_err(|e| Trouble::Later(e.to_string()))??;
        if let Linked::Stored(stored) = linked {
            return Ok(stored);
        }
        match (self.already(meta).await.map_err(Trouble::Later)?, linked) {
            (Some(stored), _) => Ok(stored),
            (None, Linked::Copy(file)) => self.store.put_file(file, &key).await.map_err(Trouble::Later),
            (None, _) => Err(Trouble::Later(format!("{key} has vanished from the store"))),
        }
    }

    /// Whether the object is there: from a try whose answer was lost, or because another node has salvaged it. The first
    /// one stays: its call has been told of it.
    pub(super) async fn already(&self, meta: &Meta) -> Result<Option<Stored>, String> {
        self.store.digest(&meta.key()).await
    }

    /// The object is there: nothing else is needed but what tells of it, until that has been taken. `true`: what is in the
    /// spool is kept as long.
    async fn stored(self: &Arc<Self>, meta: &Meta, source: &Source) -> bool {
        let outcome = if meta.salvaged { Outcome::Salvaged } else { Outcome::Stored };
        self.metrics.recordings.get_or_create(&OutcomeLabel { outcome }).inc();
        // Of one that is salvaged a second time, the files that told of the first may be being removed just now.
        let _alone = match source {
            Source::Spool { .. } => None,
            Source::Parts => Some(self.telling.lock().await),
        };
        let rest = self.tidy(meta, source).await;
        let kept = match source {
            Source::Spool { .. } => self.untaken.add(meta.clone(), rest),
            Source::Parts => false,
        };
        if !kept {
            let (context, meta) = (self.clone(), meta.clone());
            let _ = tokio::task::spawn_blocking(move || context.note(&meta)).await;
        }
        kept
    }

    /// Makes the manifest in the store say what another node would have to say, and removes the parts. Gives what is left.
    async fn tidy(&self, meta: &Meta, source: &Source) -> Rest {
        let copied = match source {
            Source::Spool { copied, .. } => copied.as_ref(),
            Source::Parts => None,
        };
        let (manifest, parts) = copied.map_or((None, true), |c| (c.manifest.as_ref(), c.parts));
        let wanted = self.segment.is_some() || meta.salvaged;
        let known = copied.is_some() && manifest.map_or(meta.is_unmarked(), |put| put.marked_as(meta));
        let known = known || !wanted;
        let told = if known { Ok(()) } else { self.parts.put_manifest(meta).await };
        let removed = match (&told, parts) {
            (Ok(()), true) => self.parts.remove_audio(meta).await,
            _ => told,
        };
        match removed {
            Err(problem) => {
                tracing::warn!(recording_id = %meta.recording, problem, "parts of a stored recording are left behind");
                Rest::Unknown
            }
            Ok(()) if copied.is_none() => Rest::Unknown,
            Ok(()) if known && manifest.is_none() && !parts => Rest::Nothing,
            Ok(()) if known && manifest.is_none() => Rest::Unknown,
            Ok(()) => Rest::Manifest,
        }
    }
}

/// Where the audio comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// The file in the spool.
    Spool {
        /// When it is still open.
        file: Option<Arc<File>>,
        /// What there is in the store beside it. `None`: that is not known.
        copied: Option<Copied>,
    },
    /// The parts in the store.
    Parts,
}

impl Source {
    fn close(&mut self) {
        if let Self::Spool { file, .. } = self {
            *file = None;
        }
    }

    /// Where the audio is while the store has not got it.
    fn kept_at(&self, meta: &Meta) -> String {
        match self {
            Self::Spool { .. } => meta.file_name(),
            Self::Parts => String::new(),
        }
    }
}
