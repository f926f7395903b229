//! Where recordings go: the spool on this machine's disk, and the store.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use object_store::{ObjectStoreExt, PutPayload, path::Path as Key};
use trunkline_cluster::Role;
use trunkline_media::{StoreConfig, credentials_remedy};

use super::{Subject, finding::Area};

const AREA: &str = "storage";
const PROBE: &[u8] = b"written, read and removed by `trunkline doctor`";
/// A part of a recording is stored each second.
const SLOW: Duration = Duration::from_millis(800);
const RIGHTS: &str =
    "make the bucket or folder and give this node's credentials the rights to put, get and delete";
/// An hour of conversation in two channels of G.711, with room for the parts.
const HOUR_BYTES: u64 = 2 * 8_000 * 3_600 * 2;
const GIB: u64 = 1 << 30;

/// Tries both.
pub async fn check(subject: &Subject) -> Option<Area> {
    let config = &subject.config;
    if !config.has(Role::Media) && !config.has(Role::Records) {
        return None;
    }
    let mut area = Area::new(AREA);
    if config.has(Role::Media) {
        disk(&mut area, "media.recording.spool", &config.media.recording.spool);
    }
    if let Some(dir) = &config.node.data_dir {
        disk(&mut area, "node.data_dir", dir);
    }
    match &config.media.recording.store {
        StoreConfig::Folder { path } if !path.is_dir() => {
            area.ok(
                "media.recording.store",
                format!("folder {}: not there yet, the node makes it", path.display()),
            );
        }
        store => objects(&mut area, store).await,
    }
    if let (StoreConfig::Folder { .. }, Some(_)) = (&config.media.recording.store, &config.cluster) {
        area.warn(
            "media.recording.store",
            "a local folder, in a cluster",
            "what one node stores the others cannot play, and it is lost with the node, unless the folder is shared",
            "use kind: s3, or a folder that every media and records node mounts",
        );
    }
    Some(area)
}

async fn objects(area: &mut Area, config: &StoreConfig) {
    let what = match config {
        StoreConfig::Folder { path } => format!("folder {}", path.display()),
        StoreConfig::S3 { bucket, endpoint, .. } => {
            let by = config.credentials().unwrap_or_default();
            format!("S3 bucket {bucket} at {}, credentials by {by}", endpoint.as_deref().unwrap_or("AWS"))
        }
    };
    let key = Key::from(format!(".trunkline-doctor-{:016x}", rand::random::<u64>()));
    let begun = Instant::now();
    let tried = async {
        let store = config.open().map_err(|error| (error, RIGHTS))?;
        let told = |step: &str, error: object_store::Error| {
            (format!("{step}: {error}"), credentials_remedy(&error).unwrap_or(RIGHTS))
        };
        store.put(&key, PutPayload::from_static(PROBE)).await.map_err(|e| told("cannot be written", e))?;
        let read = async { store.get(&key).await?.bytes().await };
        let read = read.await.map_err(|e| told("cannot be read", e));
        let removed = store.delete(&key).await.map_err(|e| told("cannot be removed from", e));
        if read? != PROBE {
            return Err(("what was written reads back differently".to_owned(), RIGHTS));
        }
        removed
    };
    let outcome = tried.await;
    let took = begun.elapsed();
    match outcome {
        Ok(()) if took > SLOW => area.warn(
            "media.recording.store",
            format!("{what}: written, read and removed in {} ms", took.as_millis()),
            "recordings are copied there second by second: what is not there yet is lost with a media node",
            "use a store nearer to the media nodes, or raise media.recording.segment_ms",
        ),
        Ok(()) => area.ok(
            "media.recording.store",
            format!("{what}: written, read and removed in {} ms", took.as_millis()),
        ),
        Err((error, remedy)) => area.fail(
            "media.recording.store",
            format!("{what}: {error}"),
            "recordings stay in the spool until its disk is full, and are lost with the node",
            remedy,
        ),
    }
}

fn disk(area: &mut Area, key: &str, path: &Path) {
    // The node makes the folder at its start: the disk is that of the nearest one that is there.
    let Some(there) = path.ancestors().find(|folder| folder.is_dir()).map(PathBuf::from) else { return };
    let there = if there.as_os_str().is_empty() { PathBuf::from(".") } else { there };
    let Ok(state) = rustix::fs::statvfs(&there) else { return };
    let (free, all) = (state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize);
    let found = format!(
        "{}: {:.1} GiB free of {:.1}, {} hours of recordings",
        path.display(),
        free as f64 / GIB as f64,
        all as f64 / GIB as f64,
        free / HOUR_BYTES
    );
    let why = "a full disk makes gaps in recordings and stops the records of this node; calls go on";
    let remedy = "free or add space; look at trunkline_media_recording_failing";
    if free < GIB / 4 {
        area.fail(key, found, why, remedy);
    } else if free < 2 * GIB || free < all / 20 {
        area.warn(key, found, why, remedy);
    } else {
        area.ok(key, found);
    }
    if rustix::fs::access(&there, rustix::fs::Access::WRITE_OK).is_err() {
        area.warn(
            key,
            format!("{} may not be written by this user", there.display()),
            "the node keeps its recordings under way and its records there",
            "run the doctor as the node's user to be sure, and give that user the folder",
        );
    }
}
