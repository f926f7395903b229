//! The parts of a recording that is being made, in the store under `{tenant}/{recording}.parts/`: `manifest.json`, and
//! `{first byte}.pcm` (twelve digits; 16-bit stereo as in the WAV file, without its header). A part that is put again is
//! the same or longer, so repetition does no harm. In a folder there is one part that grows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use trunkline_media_core::wav;
use trunkline_types::{RecordingId, TenantId};

use super::files;
use super::meta::Meta;
use super::store::Store;

/// Most audio in one part: four minutes.
pub(super) const MAX_PART_BYTES: u64 = 8 * 1024 * 1024;
/// More parts than this are not read: a day of them.
const MAX_PARTS: usize = 100_000;
const MANIFEST: &str = "manifest.json";
const SUFFIX: &str = ".pcm";

/// Audio that is in the store: where it begins in the recording, and how much it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) key: String,
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// See the module. When the store is a folder, parts are appended to in place.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    store: Store,
}

fn prefix(tenant: &TenantId, recording: &RecordingId) -> String {
    format!("{tenant}/{recording}.parts")
}

impl Parts {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    pub(super) async fn put_manifest(&self, meta: &Meta) -> Result<(), String> {
        let bytes = serde_json::to_vec(meta).map_err(|e| e.to_string())?;
        let prefix = prefix(&meta.tenant, &meta.recording);
        match self.store.file(&prefix) {
            Some(folder) => on_disk(move || begin(&folder, &bytes)).await,
            None => self.store.put_bytes(&format!("{prefix}/{MANIFEST}"), bytes.into()).await,
        }
    }

    /// Copies the bytes of audio from `from` to `until` out of the spool's file, with the manifest in front when it has news.
    pub(super) async fn put(
        &self,
        meta: &Meta,
        manifest: Option<&Meta>,
        file: Arc<File>,
        from: u64,
        until: u64,
    ) -> Result<(), String> {
        let prefix = prefix(&meta.tenant, &meta.recording);
        if let Some(folder) = self.store.file(&prefix) {
            let manifest = manifest.map(serde_json::to_vec).transpose().map_err(|e| e.to_string())?;
            return on_disk(move || {
                if let Some(manifest) = manifest {
                    begin(&folder, &manifest)?;
                }
                files::extend(&folder.join(name(0)), &read(&file, from, until)?, from)
            })
            .await;
        }
        if let Some(manifest) = manifest {
            self.put_manifest(manifest).await?;
        }
        let bytes = on_disk(move || read(&file, from, until)).await?;
        self.store.put_bytes(&format!("{prefix}/{}", name(from)), Bytes::from(bytes)).await
    }

    pub(super) async fn manifest(
        &self,
        tenant: &TenantId,
        recording: &RecordingId,
    ) -> Result<Option<Meta>, String> {
        let key = format!("{}/{MANIFEST}", prefix(tenant, recording));
        let Some(bytes) = self.store.read(&key).await? else { return Ok(None) };
        let meta: Meta = serde_json::from_slice(&bytes).map_err(|e| format!("{key}: {e}"))?;
        if (meta.recording, &meta.tenant) == (*recording, tenant) {
            Ok(Some(meta))
        } else {
            Err(format!("{key} is of another recording: {}", meta.recording))
        }
    }

    /// The audio that is there, in order.
    pub(super) async fn list(&self, tenant: &TenantId, recording: &RecordingId) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        for (key, bytes) in self.store.list(&prefix(tenant, recording), MAX_PARTS).await? {
            let start =
                key.rsplit('/').next().and_then(|n| n.strip_suffix(SUFFIX)).and_then(|n| n.parse().ok());
            if let Some(start) = start {
                parts.push(Part { key, start, bytes });
            }
        }
        parts.sort_by_key(|part| part.start);
        Ok(parts)
    }

    /// Removes the audio; the manifest stays until the call has taken the outcome.
    pub(super) async fn remove_audio(&self, meta: &Meta) -> Result<(), String> {
        if let Some(folder) = self.store.file(&prefix(&meta.tenant, &meta.recording)) {
            return on_disk(move || files::remove(&folder.join(name(0)))).await;
        }
        let parts = self.list(&meta.tenant, &meta.recording).await?;
        self.store.remove(parts.into_iter().map(|part| part.key).collect()).await
    }

    /// Removes the manifest, of which is known that nothing else is left.
    pub(super) async fn remove_manifest(&self, meta: &Meta) -> Result<(), String> {
        let prefix = prefix(&meta.tenant, &meta.recording);
        let Some(folder) = self.store.file(&prefix) else {
            return self.store.remove(vec![format!("{prefix}/{MANIFEST}")]).await;
        };
        let emptied = on_disk(move || {
            files::remove(&folder.join(MANIFEST))?;
            files::remove_folder(&folder)
        });
        // Not empty after a write that failed half-way.
        if emptied.await.is_err() { self.remove(meta).await } else { Ok(()) }
    }

    /// Removes whatever there is.
    pub(super) async fn remove(&self, meta: &Meta) -> Result<(), String> {
        let prefix = prefix(&meta.tenant, &meta.recording);
        let keys = self.store.list(&prefix, MAX_PARTS).await?.into_iter().map(|(key, _)| key).collect();
        self.store.remove(keys).await?;
        if let Some(folder) = self.store.file(&prefix) {
            // Not empty when somebody else put something there; that is not ours.
            let _ = on_disk(move || files::remove_folder(&folder)).await;
        }
        Ok(())
    }
}

fn name(start: u64) -> String {
    format!("{start:012}{SUFFIX}")
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

fn read(file: &File, from: u64, until: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(until - from).unwrap_or(0)];
    file.read_exact_at(&mut bytes, wav::HEADER_BYTES as u64 + from)?;
    Ok(bytes)
}

/// Writes the manifest without waiting for the disk: a crash of the machine loses what the spool has.
fn begin(folder: &Path, manifest: &[u8]) -> io::Result<()> {
    files::folder(folder)?;
    files::replace(&folder.join(MANIFEST), manifest)
}
