//! The object store: a local folder, or S3.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, WriteMultipart};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::credentials::{Way, credentials_remedy};
use crate::config::StoreConfig;

/// Parts of an upload; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
const READ_BYTES: usize = 256 * 1024;
/// What is read whole: manifests.
const MAX_READ_BYTES: u64 = 1024 * 1024;
/// An object that is written and removed to see whether that may be done.
const PROBE: &str = ".trunkline-probe";

/// What was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    store: Arc<dyn ObjectStore>,
    /// When it is one.
    folder: Option<PathBuf>,
    prefix: String,
    /// Bucket or folder, for messages.
    name: String,
    /// Of a bucket's credentials.
    way: Option<Way>,
}

/// An object that is being written.
pub(super) struct Writing {
    upload: WriteMultipart,
    hash: Sha256,
    bytes: u64,
}

impl Writing {
    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.upload.wait_for_capacity(2).await?;
        self.upload.write(bytes);
        Ok(())
    }
}

impl Store {
    pub(super) fn open(config: &StoreConfig) -> Result<Self, String> {
        match config {
            StoreConfig::Folder { path } => {
                let name = format!("folder {}", path.display());
                std::fs::create_dir_all(path).map_err(|e| format!("{name}: {e}"))?;
                let store = LocalFileSystem::new_with_prefix(path).map_err(|e| format!("{name}: {e}"))?;
                let store = Arc::new(store.with_fsync(true));
                Ok(Self { store, folder: Some(path.clone()), prefix: String::new(), name, way: None })
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

    fn path(&self, key: &str) -> Path {
        if self.prefix.is_empty() { Path::from(key) } else { Path::from(format!("{}/{key}", self.prefix)) }
    }

    fn key(&self, path: &Path) -> String {
        let whole = path.as_ref();
        let own = whole.strip_prefix(&self.prefix).unwrap_or(whole);
        own.trim_start_matches('/').to_owned()
    }

    /// A text for people: where, what, and what to do about it.
    fn explain(&self, error: &Error) -> String {
        let name = &self.name;
        if let Some(remedy) = credentials_remedy(error) {
            return format!("{name}: {remedy} ({error})");
        }
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                let remedy = self.way.as_ref().map_or("check the rights", Way::refused);
                format!("{name}: access is refused: {remedy} ({error})")
            }
            Error::NotFound { .. } => {
                format!("{name}: it is not there: check bucket, region and endpoint ({error})")
            }
            _ => format!("{name}: the store does not do it ({error})"),
        }
    }

    pub(super) async fn begin(&self, key: &str) -> Result<Writing, String> {
        let upload = self.store.put_multipart(&self.path(key)).await.map_err(|e| self.explain(&e))?;
        let upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        Ok(Writing { upload, hash: Sha256::new(), bytes: 0 })
    }

    /// Makes the object appear, whole; or nothing of it when `written` failed.
    pub(super) async fn end(&self, writing: Writing, written: Result<(), String>) -> Result<Stored, String> {
        if let Err(problem) = written {
            // Best effort: S3 charges for what is left of an upload.
            let _ = writing.upload.abort().await;
            return Err(problem);
        }
        writing.upload.finish().await.map_err(|e| self.explain(&e))?;
        Ok(Stored { bytes: writing.bytes, sha256: writing.hash.finalize().into() })
    }

    /// The path of a key, when the store is a folder. (A key has only characters that mean themselves in a path.)
    pub(super) fn file(&self, key: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(key))
    }

    /// Copies a file to `key`. In S3 one that is shorter than a part is one request instead of three.
    pub(super) async fn put_file(&self, file: Arc<File>, key: &str) -> Result<Stored, String> {
        let (first, hash) = read(file.clone(), 0, PART_BYTES, |first| Sha256::digest(first)).await?;
        if first.len() < PART_BYTES {
            let stored = Stored { bytes: first.len() as u64, sha256: hash.into() };
            return self.put_bytes(key, first).await.map(|()| stored);
        }
        drop(first);
        let mut writing = self.begin(key).await?;
        let written = self.push_file(&file, &mut writing).await;
        self.end(writing, written).await
    }

    async fn push_file(&self, file: &Arc<File>, to: &mut Writing) -> Result<(), String> {
        loop {
            let (piece, ()) = read(file.clone(), to.bytes, READ_BYTES, |_| ()).await?;
            if piece.is_empty() {
                return Ok(());
            }
            to.push(&piece).await.map_err(|e| self.explain(&e))?;
        }
    }

    pub(super) async fn put_bytes(&self, key: &str, bytes: Bytes) -> Result<(), String> {
        self.store.put(&self.path(key), bytes.into()).await.map(drop).map_err(|e| self.explain(&e))
    }

    /// Appends an object to another that is being written; gives its length.
    pub(super) async fn copy(&self, key: &str, to: &mut Writing) -> Result<u64, String> {
        let explain = |e: Error| self.explain(&e);
        let mut stream = self.store.get(&self.path(key)).await.map_err(explain)?.into_stream();
        let mut length = 0;
        while let Some(bytes) = stream.try_next().await.map_err(explain)? {
            length += bytes.len() as u64;
            to.push(&bytes).await.map_err(explain)?;
        }
        Ok(length)
    }

    /// A small object; `None`: it is not there.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Bytes>, String> {
        match self.store.get(&self.path(key)).await {
            Ok(found) if found.meta.size > MAX_READ_BYTES => {
                Err(format!("{key} has {} bytes: at most {MAX_READ_BYTES} are read", found.meta.size))
            }
            Ok(found) => found.bytes().await.map(Some).map_err(|e| self.explain(&e)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// What an object is, read from its beginning to its end; `None`: it is not there.
    pub(super) async fn digest(&self, key: &str) -> Result<Option<Stored>, String> {
        let explain = |e: Error| self.explain(&e);
        let mut stream = match self.store.get(&self.path(key)).await {
            Ok(found) => found.into_stream(),
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(explain(error)),
        };
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        while let Some(piece) = stream.try_next().await.map_err(explain)? {
            hash.update(&piece);
            bytes += piece.len() as u64;
        }
        Ok(Some(Stored { bytes, sha256: hash.finalize().into() }))
    }

    /// Keys and lengths under a prefix, at most `most`.
    pub(super) async fn list(&self, prefix: &str, most: usize) -> Result<Vec<(String, u64)>, String> {
        let path = self.path(prefix);
        let found = self.store.list(Some(&path)).take(most);
        let found: Vec<_> = found.try_collect().await.map_err(|e: Error| self.explain(&e))?;
        Ok(found.iter().map(|meta| (self.key(&meta.location), meta.size)).collect())
    }

    /// Removes objects; those that are not there are no error.
    pub(super) async fn remove(&self, keys: Vec<String>) -> Result<(), String> {
        let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let mut removed = self.store.delete_stream(futures::stream::iter(paths).boxed());
        while let Some(outcome) = removed.next().await {
            match outcome {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(self.explain(&error)),
            }
        }
        Ok(())
    }

    /// Whether recordings can be stored: writes a small object and removes it.
    pub(super) async fn probe(&self) -> Result<(), String> {
        self.put_bytes(PROBE, Bytes::from_static(b"written and removed to see whether that may be done"))
            .await?;
        self.remove(vec![PROBE.to_owned()]).await
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

    /// By which way credentials for the bucket are got, without a secret; `None`: it is a folder.
    pub fn credentials(&self) -> Option<String> {
        way(self).map(|way| way.to_string())
    }

    /// Whether recordings can be stored there: writes a small object and removes it.
    ///
    /// # Errors
    /// A text for people that names the folder or bucket, the reason and the remedy.
    pub async fn check(&self) -> Result<(), String> {
        Store::open(self)?.probe().await
    }
}

fn way(config: &StoreConfig) -> Option<Way> {
    Way::of(config, |name| std::env::var(name).ok())
}

/// So much of a file, from `offset` on, and what `look` makes of it; less only at the file's end.
async fn read<T: Send + 'static>(
    file: Arc<File>,
    offset: u64,
    most: usize,
    look: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<(Bytes, T), String> {
    let read = tokio::task::spawn_blocking(move || {
        let length = file.metadata()?.len().saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(length).map_or(most, |length| length.min(most))];
        file.read_exact_at(&mut bytes, offset)?;
        let seen = look(&bytes);
        Ok::<_, std::io::Error>((Bytes::from(bytes), seen))
    });
    read.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

#[cfg(feature = "s3")]
fn s3(config: &StoreConfig) -> Result<Store, String> {
    use object_store::{ClientOptions, RetryConfig};
    let StoreConfig::S3 { bucket, prefix, region, endpoint, access_key_id, secret_access_key, allow_http } =
        config
    else {
        return Err("not S3".into());
    };
    // Whoever puts something tries again; trouble has to be known within seconds.
    let client = ClientOptions::new()
        .with_allow_http(*allow_http)
        .with_connect_timeout(Duration::from_secs(3))
        .with_timeout(Duration::from_secs(60));
    let retry =
        RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(5), ..RetryConfig::default() };
    let mut builder = object_store::aws::AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_client_options(client)
        .with_retry(retry);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let (Some(id), Some(secret)) = (access_key_id, secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    let (name, way) = (format!("S3 bucket {bucket}"), way(config));
    let trouble = |e: Error| format!("{name}: {e}");
    if let Some(way) = &way {
        builder = way.apply(builder).map_err(trouble)?;
    }
    let store = Arc::new(builder.build().map_err(trouble)?);
    Ok(Store { store, folder: None, prefix: prefix.trim_matches('/').to_owned(), name, way })
}

#[cfg(not(feature = "s3"))]
fn s3(_: &StoreConfig) -> Result<Store, String> {
    Err("this binary was built without S3: build trunkline-media with the feature s3".into())
}
