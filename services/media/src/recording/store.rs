//! The object store: a local folder, or S3.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::config::StoreConfig;

/// Parts of an upload; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
const READ_BYTES: usize = 256 * 1024;
/// Tries, with pauses that double from the first.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// What was stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

impl Store {
    pub(super) fn open(config: &StoreConfig) -> Result<Self, String> {
        match config {
            StoreConfig::Folder { path } => {
                let trouble = |e: &dyn std::fmt::Display| format!("folder {}: {e}", path.display());
                std::fs::create_dir_all(path).map_err(|e| trouble(&e))?;
                let store = LocalFileSystem::new_with_prefix(path).map_err(|e| trouble(&e))?.with_fsync(true);
                Ok(Self { store: Arc::new(store), prefix: String::new() })
            }
            StoreConfig::S3 { .. } => s3(config),
        }
    }

    /// The store as a reader of its keys sees it.
    fn reader(self) -> Arc<dyn ObjectStore> {
        if self.prefix.is_empty() {
            self.store
        } else {
            Arc::new(object_store::prefix::PrefixStore::new(self.store, self.prefix))
        }
    }

    /// Copies a file to `key`, with retries; a text for people when it does not work.
    pub(super) async fn put(&self, file: &FilePath, key: &str) -> Result<Stored, String> {
        let key = if self.prefix.is_empty() {
            Path::from(key)
        } else {
            Path::from(format!("{}/{key}", self.prefix))
        };
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            match self.attempt(file, &key).await {
                Ok(stored) => return Ok(stored),
                Err(problem) if tries >= TRIES => {
                    return Err(format!("not stored after {TRIES} tries: {problem}"));
                }
                Err(problem) => tracing::warn!(%key, problem, "recording is not stored yet"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            tries += 1;
        }
    }

    async fn attempt(&self, file: &FilePath, key: &Path) -> Result<Stored, String> {
        let mut file = tokio::fs::File::open(file).await.map_err(|e| e.to_string())?;
        let upload = self.store.put_multipart(key).await.map_err(|e| e.to_string())?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = file.read(&mut buffer).await.map_err(|e| e.to_string())?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            bytes += read as u64;
            upload.wait_for_capacity(2).await.map_err(|e| e.to_string())?;
            upload.write(&buffer[..read]);
        }
        upload.finish().await.map_err(|e| e.to_string())?;
        Ok(Stored { bytes, sha256: hash.finalize().into() })
    }
}

impl StoreConfig {
    /// The store, for those who read what media nodes have put there (keys as in `RecordingFinished.key`).
    ///
    /// # Errors
    /// A text for people that names the folder or bucket.
    pub fn open(&self) -> Result<Arc<dyn ObjectStore>, String> {
        Store::open(self).map(Store::reader)
    }
}

#[cfg(feature = "s3")]
fn s3(config: &StoreConfig) -> Result<Store, String> {
    let StoreConfig::S3 { bucket, prefix, region, endpoint, access_key_id, secret_access_key, allow_http } =
        config
    else {
        return Err("not S3".into());
    };
    let mut builder = object_store::aws::AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_allow_http(*allow_http);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let (Some(id), Some(secret)) = (access_key_id, secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    let store = builder.build().map_err(|e| format!("S3 bucket {bucket}: {e}"))?;
    Ok(Store { store: Arc::new(store), prefix: prefix.trim_matches('/').to_owned() })
}

#[cfg(not(feature = "s3"))]
fn s3(_: &StoreConfig) -> Result<Store, String> {
    Err("this binary was built without S3: build trunkline-media with the feature s3".into())
}
