//! What is left of recordings after a crash: in the spool of this node at its next start, and in the store when the node
//! does not come back.

use std::path::Path;
use std::sync::Arc;

use trunkline_media_core::{SAMPLE_RATE_HZ, wav};
use trunkline_telemetry::trace_id_of;
use trunkline_types::{RecordingId, TenantId, Timestamp};

use super::Context;
use super::meta::Meta;
use super::parts::Part;
use super::store::Writing;
use super::upload::Source;
use crate::events::Owner;

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
    let beside = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "json"));
    for path in beside {
        let Some(mut meta) = Meta::load(&path) else {
            tracing::warn!(file = %path.display(), "what is beside a recording cannot be read: it is left alone");
            continue;
        };
        if meta.stored.is_some() {
            context.finished(&meta);
            continue;
        }
        match repair(&meta.audio(&context.spool)) {
            Ok(Some(bytes)) => {
                meta.close_spans(bytes / BYTES_PER_MS);
                meta.salvaged = true;
                context.busy.lock().insert(meta.recording);
                context.upload(meta, None);
            }
            Ok(None) => {
                context.failed(&meta, "a crash left no audio", String::new());
                let _ = std::fs::remove_file(meta.audio(&context.spool));
                let _ = std::fs::remove_file(&path);
            }
            Err(error) => context.failed(&meta, &error.to_string(), meta.recording.to_string()),
        }
    }
}

/// Makes the header say what is there; gives the bytes of audio. `None`: nothing is.
fn repair(path: &Path) -> std::io::Result<Option<u64>> {
    use std::io::{Seek, SeekFrom, Write};
    let mut file = match std::fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some((header, keep)) = wav::repair(file.metadata()?.len()) else { return Ok(None) };
    file.set_len(keep)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.sync_all()?;
    Ok(Some(keep - wav::HEADER_BYTES as u64))
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
            return Ok(());
        }
    }
    tracing::info!(call_id = %recording.call, trace_id = %trace_id_of(recording.call), recording_id = %recording, node, "salvaging a recording");
    context.metrics.uploads_waiting.inc();
    let owner = Owner { call: recording.call, shard: recording.call.shard() };
    let mut meta = Meta::new(recording, owner, tenant, Timestamp::from_micros(0));
    meta.salvaged = true;
    let context = context.clone();
    context.runtime.clone().spawn(async move {
        context.store_with(meta, String::new(), Source::Parts).await;
    });
    Ok(())
}

impl Context {
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
