//! Recordings that are stored, and of which their call has been told but has not said that it took it. Their files stay in
//! the spool meanwhile, so that a crash finds and tells them once more; where nobody says it for long, a note replaces the
//! audio.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use trunkline_types::RecordingId;

use super::Context;
use super::files;
use super::meta::Meta;

/// How long the audio is kept in the spool beside the store's.
const KEPT: Duration = Duration::from_secs(10);
/// More are not kept with their audio.
const MOST: usize = 4_096;
/// Acknowledgements that are dealt with in one go.
const BATCH: usize = 64;

/// What is left of a stored recording's parts in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// There were none.
    Nothing,
    /// Their manifest.
    Manifest,
    /// That has to be looked at.
    Unknown,
}

#[derive(Debug)]
struct Told {
    meta: Meta,
    rest: Rest,
    at: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Untaken {
    told: Mutex<HashMap<RecordingId, Told>>,
}

impl Untaken {
    /// `false`: there is no room for it.
    pub(super) fn add(&self, meta: Meta, rest: Rest) -> bool {
        let mut told = self.told.lock();
        let room = told.len() < MOST;
        if room {
            told.insert(meta.recording, Told { meta, rest, at: Instant::now() });
        }
        room
    }

    /// What was told of it, if it still waits.
    pub(super) fn get(&self, recording: &RecordingId) -> Option<Meta> {
        self.told.lock().get(recording).map(|told| told.meta.clone())
    }

    fn take(&self, recording: &RecordingId) -> Option<Told> {
        self.told.lock().remove(recording)
    }

    fn old(&self, age: Duration) -> Vec<Meta> {
        let told = self.told.lock();
        told.values().filter(|told| told.at.elapsed() >= age).map(|told| told.meta.clone()).collect()
    }
}

impl Context {
    /// From now on a note in the spool tells that it is stored, instead of its audio.
    pub(super) fn note(&self, meta: &Meta) {
        if let Err(error) = meta.save(&self.spool) {
            // What was beside the audio still leads to the object.
            tracing::warn!(recording_id = %meta.recording, %error, "that a recording is stored cannot be noted in the spool");
        }
        let _ = files::remove(&meta.audio(&self.spool));
    }

    /// Puts notes in the place of the audio of recordings that have waited so long.
    pub(super) async fn note_untaken(self: &Arc<Self>, age: Duration) {
        let context = self.clone();
        let noted = tokio::task::spawn_blocking(move || {
            for meta in context.untaken.old(age) {
                context.note(&meta);
                if context.untaken.take(&meta.recording).is_some() {
                    context.busy.lock().remove(&meta.recording);
                } else {
                    // Taken meanwhile.
                    let _ = files::remove(&meta.beside(&context.spool));
                }
            }
        });
        let _ = noted.await;
    }

    /// Their calls know: nothing has to tell of them any more. The spool last, because it leads to the rest after a crash.
    async fn taken(self: &Arc<Self>, recordings: Vec<String>) {
        let _alone = self.telling.lock().await;
        let mut known = Vec::new();
        for recording in recordings {
            let told = recording.parse().ok().and_then(|id| self.untaken.take(&id));
            let noted = || Meta::load(&self.spool.join(format!("{recording}.json")));
            let (meta, rest, has_audio) = match told {
                Some(told) => (told.meta, told.rest, true),
                None => match noted().filter(|meta| meta.stored.is_some()) {
                    Some(meta) => (meta, Rest::Unknown, false),
                    None => continue,
                },
            };
            let removed = match rest {
                Rest::Nothing => Ok(()),
                Rest::Manifest => self.parts.remove_manifest(&meta).await,
                Rest::Unknown => self.parts.remove(&meta).await,
            };
            if let Err(problem) = removed {
                tracing::debug!(recording, problem, "the manifest of a stored recording is left behind");
            }
            known.push((meta, has_audio));
        }
        let context = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for (meta, has_audio) in known {
                // In this order: audio with nothing beside it would be nobody's.
                if has_audio {
                    let _ = files::remove(&meta.audio(&context.spool));
                }
                let _ = files::remove(&meta.beside(&context.spool));
                if has_audio {
                    context.busy.lock().remove(&meta.recording);
                }
            }
        });
        let _ = removed.await;
    }
}

/// Removes what tells of recordings once their calls know.
pub(super) async fn forget(context: Arc<Context>, mut taken: mpsc::Receiver<String>) {
    let mut looked = Instant::now();
    let mut recordings = Vec::new();
    loop {
        if let Ok(count) = tokio::time::timeout(KEPT, taken.recv_many(&mut recordings, BATCH)).await {
            if count == 0 {
                return;
            }
            context.taken(std::mem::take(&mut recordings)).await;
        }
        if looked.elapsed() >= KEPT {
            looked = Instant::now();
            context.note_untaken(KEPT).await;
        }
    }
}
