//! What is left of recordings after a crash: in the spool of this node at its next start, and in the store when the node
//! does not come back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use trunkline_media_core::{SAMPLE_RATE_HZ, wav};
use trunkline_telemetry::trace_id_of;
use trunkline_types::{RecordingId, TenantId, Timestamp};

use super::Context;
use super::files;
use super::meta::Meta;
use super::parts::Part;
use super::store::Writing;
use super::upload::Source;

/// Recordings that may be salvaged or stored at once; a node has as many at most.
const MOST: usize = 20_000;
/// Written at once where audio is missing.
static SILENCE: [u8; 32 * 1024] = [0; 32 * 1024];
/// Bytes of audio in a millisecond.
const BYTES_PER_MS: u64 = wav::STEREO_FRAME_BYTES * 8;

/// Repairs and stores what is in the spool at the start: recordings that were cut by a crash, those that could not be
/// stored, and those of which nobody was told.
pub(super) fn spool(context: &Arc<Context>) {
    let Ok(entries) = std::fs::read_dir(&context.spool) else { return };
    let (beside, others): (Vec<_>, Vec<_>) = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .partition(|p| p.extension().is_some_and(|e| e == "json"));
    for half_written in others.iter().filter(|p| p.extension().is_some_and(|e| e == "new")) {
        let _ = files::remove(half_written);
    }
    for path in beside {
        let Some(mut meta) = Meta::load(&path) else {
            if path.with_extension("wav").exists() {
                tracing::warn!(file = %path.display(), "what is beside a recording cannot be read: it is left alone");
            } else {
                // The first word of a recording that never had audio.
                let _ = files::remove(&path);
            }
            continue;
        };
        if meta.stored.is_some() {
            // A crash may have come between the note and the audio's removal.
            let _ = files::remove(&meta.audio(&context.spool));
            context.finished(&meta);
            continue;
        }
        match repair(&meta.audio(&context.spool)) {
            Ok(found @ (Found::Whole(bytes) | Found::Cut(bytes))) => {
                meta.close_spans(bytes / BYTES_PER_MS);
                meta.salvaged = matches!(found, Found::Cut(_));
                context.busy.lock().insert(meta.recording);
                context.upload(meta, None, None);
            }
            Ok(Found::Nothing) => {
                // It was removed because it is stored, or never was.
                let _ = files::remove(&meta.audio(&context.spool));
                context.busy.lock().insert(meta.recording);
                context.gather(meta);
            }
            Err(error) => context.failed(&meta, &error.to_string(), meta.recording.to_string()),
        }
    }
}

/// What a crash has left of the audio, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// All of it, and its marks.
    Whole(u64),
    /// What there was when it broke off.
    Cut(u64),
    Nothing,
}

/// Makes the header say what is there. A whole file is not touched: it may be in the store under a second name.
fn repair(path: &Path) -> std::io::Result<Found> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let Some((header, keep)) = wav::repair(length) else { return Ok(Found::Nothing) };
    let audio = keep - wav::HEADER_BYTES as u64;
    let mut found = [0; wav::HEADER_BYTES];
    file.read_exact_at(&mut found, 0)?;
    if found == header && keep == length {
        return Ok(Found::Whole(audio));
    }
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    files::set_len(&file, keep)?;
    files::write_at(&file, &header, 0)?;
    Ok(Found::Cut(audio))
}

/// Takes a recording of another node on. One that is under way here already needs no second try.
pub(super) fn command(
    context: &Arc<Context>,
    recording: RecordingId,
    tenant: TenantId,
    node: &str,
) -> Result<(), &'static str> {
    {
        let mut busy = context.busy.lock();
        if busy.len() >= MOST {
            return Err("as many recordings as this node takes are being stored");
        }
        if !busy.insert(recording) {
            drop(busy);
            if let Some(told) = context.untaken.get(&recording) {
                context.finished(&told);
            }
            return Ok(());
        }
    }
    tracing::info!(call_id = %recording.call, trace_id = %trace_id_of(recording.call), recording_id = %recording, node, "salvaging a recording");
    context.gather(Meta::new(recording, recording.call.shard(), tenant, Timestamp::from_micros(0)));
    Ok(())
}

impl Context {
    /// Looks in the background for what the store has of a recording, whole or in parts.
    fn gather(self: &Arc<Self>, mut meta: Meta) {
        meta.salvaged = true;
        self.metrics.uploads_waiting.inc();
        let context = self.clone();
        self.runtime.spawn(async move { context.store_with(meta, Source::Parts).await });
    }

    /// Makes the whole of the parts in the store. `None`: there are none.
    pub(super) async fn assemble(&self, blank: &Meta) -> Result<Option<Meta>, String> {
        let manifest = self.parts.manifest(&blank.tenant, &blank.recording).await?;
        let mut meta = manifest.unwrap_or_else(|| blank.clone());
        meta.salvaged = true;
        if let Some(stored) = self.already(&meta).await? {
            // Its node had stored it, and died before it could say so.
            meta.stored = Some(stored);
            return Ok(Some(meta));
        }
        let parts = self.parts.list(&meta.tenant, &meta.recording).await?;
        let length = parts.iter().map(|part| part.start + part.bytes).max().unwrap_or(0);
        let length = length - length % wav::STEREO_FRAME_BYTES;
        if length == 0 {
            return Ok(None);
        }
        let mut writing = self.store.begin(&meta.key()).await?;
        let written = self.join(&mut meta, &parts, length, &mut writing).await;
        meta.stored = Some(self.store.end(writing, written).await?);
        meta.close_spans(length / BYTES_PER_MS);
        Ok(Some(meta))
    }

    async fn join(
        &self,
        meta: &mut Meta,
        parts: &[Part],
        length: u64,
        writing: &mut Writing,
    ) -> Result<(), String> {
        writing.push(&wav::header(2, SAMPLE_RATE_HZ, length)).await.map_err(|e| e.to_string())?;
        let mut at = 0;
        for part in parts {
            if part.start < at {
                // A shorter try at the same place, or one that was taken over by a longer part.
                if part.start + part.bytes > at {
                    return Err(format!("{} overlaps the part before it", part.key));
                }
                continue;
            }
            if part.start > at {
                meta.add_gap(at / BYTES_PER_MS, part.start.div_ceil(BYTES_PER_MS));
            }
            while at < part.start {
                let count = (part.start - at).min(SILENCE.len() as u64);
                writing.push(&SILENCE[..count as usize]).await.map_err(|e| e.to_string())?;
                at += count;
            }
            at += self.store.copy(&part.key, writing).await?;
        }
        Ok(())
    }
}
