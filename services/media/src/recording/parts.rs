//! The parts of a recording that is being made, in the store under `{tenant}/{recording}.parts/`: `manifest.json`, and
//! `{first byte}.pcm` (twelve digits; 16-bit stereo as in the WAV file, without its header). A part that is put again is
//! the same or longer, so repetition does no harm. In a folder there is one part that grows.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use trunkline_media_core::wav;
use trunkline_types::{RecordingId, TenantId};

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

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    store: Store,
    /// The store's folder, when it is one: parts are appended to in place.
    folder: Option<PathBuf>,
}

fn prefix(tenant: &TenantId, recording: &RecordingId) -> String {
    format!("{tenant}/{recording}.parts")
}

impl Parts {
    pub(super) fn new(store: Store, folder: Option<PathBuf>) -> Self {
        Self { store, folder }
    }

    pub(super) async fn put_manifest(&self, meta: &Meta) -> Result<(), String> {
        let bytes = serde_json::to_vec(meta).map_err(|e| e.to_string())?;
        let key = format!("{}/{MANIFEST}", prefix(&meta.tenant, &meta.recording));
        match self.folder.as_ref().map(|folder| folder.join(&key)) {
            Some(target) => {
                let written = tokio::task::spawn_blocking(move || replace(&target, &bytes)).await;
                written.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
            }
            None => self.store.put_bytes(&key, bytes.into()).await,
        }
    }

    /// Copies the bytes of audio from `from` to `until` out of the spool's file.
    pub(super) async fn put(&self, meta: &Meta, file: &Path, from: u64, until: u64) -> Result<(), String> {
        let (file, prefix) = (file.to_owned(), prefix(&meta.tenant, &meta.recording));
        let target = self.folder.as_ref().map(|folder| folder.join(&prefix).join(name(0)));
        let read = tokio::task::spawn_blocking(move || {
            let bytes = read(&file, from, until)?;
            match target {
                Some(target) => append(&target, &bytes, from).map(|()| None),
                None => Ok(Some(Bytes::from(bytes))),
            }
        });
        let bytes = read.await.map_err(|e| e.to_string())?.map_err(|e: io::Error| e.to_string())?;
        match bytes {
            Some(bytes) => self.store.put_bytes(&format!("{prefix}/{}", name(from)), bytes).await,
            None => Ok(()),
        }
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
        let parts = self.list(&meta.tenant, &meta.recording).await?;
        self.store.remove(parts.into_iter().map(|part| part.key).collect()).await
    }

    /// Removes the rest.
    pub(super) async fn remove(&self, meta: &Meta) -> Result<(), String> {
        let prefix = prefix(&meta.tenant, &meta.recording);
        let keys = self.store.list(&prefix, MAX_PARTS).await?.into_iter().map(|(key, _)| key).collect();
        self.store.remove(keys).await?;
        if let Some(folder) = &self.folder {
            // Not empty when somebody else put something there; that is not ours.
            let _ = tokio::fs::remove_dir(folder.join(prefix)).await;
        }
        Ok(())
    }
}

fn name(start: u64) -> String {
    format!("{start:012}{SUFFIX}")
}

fn read(file: &Path, from: u64, until: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(until - from).unwrap_or(0)];
    File::open(file)?.read_exact_at(&mut bytes, wav::HEADER_BYTES as u64 + from)?;
    Ok(bytes)
}

/// Without waiting for the disk: a crash of the machine loses what the spool has.
fn replace(target: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = target.with_extension("new");
    std::fs::write(&fresh, bytes)?;
    std::fs::rename(fresh, target)
}

fn append(target: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
    let open = || OpenOptions::new().create(true).truncate(false).write(true).open(target);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = target.parent() {
                std::fs::create_dir_all(folder)?;
            }
            open()?
        }
        opened => opened?,
    };
    file.write_all_at(bytes, offset)
}
