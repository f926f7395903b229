//! Where recordings are kept, and how an operator copies them.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, path::Path as Key, prefix::PrefixStore,
};
use trunkline_system_tests::{
    s,
    s3::{self, S3},
};

/// A store answers within this time.
const ANSWER: Duration = s(20);
/// More objects than this no test makes.
const MOST: usize = 10_000;

/// A kind of store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// A folder that all nodes see.
    #[default]
    Folder,
    /// A bucket.
    S3,
}

/// A store.
#[derive(Debug)]
pub enum Store {
    /// A folder that all nodes see.
    Folder(PathBuf),
    /// A bucket, with its server.
    S3(S3),
}

impl Store {
    /// An empty one: a folder in `data`, or a bucket whose server listens on `address`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn make(keep: Keep, data: &Path, address: IpAddr) -> Result<Self> {
        match keep {
            Keep::Folder => {
                let folder = data.join("recordings");
                fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
                Ok(Self::Folder(folder))
            }
            Keep::S3 => Ok(Self::S3(S3::start(address).await?)),
        }
    }

    /// The value of `media.recording.store`.
    pub fn config(&self) -> String {
        match self {
            Self::Folder(folder) => trunkline_faults::world::Shared::folder(folder),
            Self::S3(server) => server.config(),
        }
    }

    /// The folder, when it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::S3(_) => None,
        }
    }

    /// Copies everything to an empty folder, as `cp -a` or `rclone copy` does.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub async fn back_up(&self, to: &Path) -> Result<()> {
        let bucket = match self {
            Self::Folder(folder) => return copy(folder, to),
            Self::S3(server) => client(server)?,
        };
        let listed = tokio::time::timeout(ANSWER, bucket.list_with_delimiter(None)).await??;
        let mut folders = listed.common_prefixes;
        let mut objects = listed.objects;
        while let Some(folder) = folders.pop() {
            let listed = tokio::time::timeout(ANSWER, bucket.list_with_delimiter(Some(&folder))).await??;
            folders.extend(listed.common_prefixes);
            objects.extend(listed.objects);
            ensure!(objects.len() <= MOST, "{} objects", objects.len());
        }
        for object in objects {
            let got = async { bucket.get(&object.location).await?.bytes().await };
            let bytes = tokio::time::timeout(ANSWER, got).await??;
            let file = to.join(object.location.as_ref());
            fs::create_dir_all(file.parent().context("a key without a folder")?)?;
            fs::write(&file, bytes).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// Copies everything back from such a folder.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub async fn restore(&self, from: &Path) -> Result<()> {
        let bucket = match self {
            Self::Folder(folder) => return copy(from, folder),
            Self::S3(server) => client(server)?,
        };
        let mut folders = vec![from.to_owned()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder)?.flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let key = Key::from(path.strip_prefix(from)?.display().to_string());
                let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
                tokio::time::timeout(ANSWER, bucket.put(&key, bytes.into())).await??;
            }
        }
        Ok(())
    }
}

/// The bucket as another program than the system sees it.
fn client(server: &S3) -> Result<impl ObjectStore> {
    let bucket = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_bucket_name(s3::BUCKET)
        .with_region("us-east-1")
        .with_access_key_id(s3::KEY)
        .with_secret_access_key(s3::SECRET)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()?;
    Ok(PrefixStore::new(bucket, s3::PREFIX))
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
