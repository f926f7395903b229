//! A store that speaks S3 over HTTP, with signatures that are checked: what a customer's MinIO or AWS is to the system.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::identity::Sessions;

/// The one bucket.
pub const BUCKET: &str = "recordings";
/// Who may use it.
pub const KEY: &str = "trunkline";
/// And with which secret.
pub const SECRET: &str = "correct horse battery staple";
/// What the system puts before its keys.
pub const PREFIX: &str = "site-a";

/// A running server. Dropped, it is gone with all that it kept.
#[derive(Debug)]
pub struct S3 {
    /// Where it listens.
    pub address: SocketAddr,
    folder: TempDir,
    task: JoinHandle<()>,
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl S3 {
    /// Starts one with an empty bucket, on a free port of an address.
    ///
    /// # Errors
    /// When there is no such address here.
    pub async fn start(on: IpAddr) -> Result<Self> {
        Self::with(on, |service| service.set_auth(SimpleAuth::from_single(KEY, SECRET))).await
    }

    /// The same for those who have credentials that are good for a while, and no others.
    ///
    /// # Errors
    /// When there is no such address here.
    pub async fn for_sessions(on: IpAddr, sessions: &Sessions) -> Result<Self> {
        let with = |service: &mut S3ServiceBuilder| {
            service.set_auth(sessions.clone());
            service.set_access(sessions.clone());
        };
        Self::with(on, with).await
    }

    async fn with(on: IpAddr, rights: impl FnOnce(&mut S3ServiceBuilder)) -> Result<Self> {
        let folder = TempDir::with_prefix("trunkline-s3-").context("a folder for the bucket")?;
        std::fs::create_dir(folder.path().join(BUCKET))?;
        let files = s3s_fs::FileSystem::new(folder.path());
        let files = files.map_err(|error| anyhow::anyhow!("the bucket's folder: {error:?}"))?;
        let mut service = S3ServiceBuilder::new(files);
        rights(&mut service);
        let service = service.build();
        let listener = TcpListener::bind((on, 0)).await.with_context(|| format!("{on}"))?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // They end with the server.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is its own affair.
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, folder, task })
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The value of `media.recording.store` in a node's configuration.
    pub fn config(&self) -> String {
        format!(
            "{{ kind: s3, bucket: {BUCKET}, prefix: {PREFIX}, endpoint: \"{}\", allow_http: true, access_key_id: {KEY}, \
             secret_access_key: \"{SECRET}\" }}",
            self.endpoint()
        )
    }

    /// The same without keys.
    pub fn config_without_keys(&self) -> String {
        let endpoint = self.endpoint();
        format!(
            "{{ kind: s3, bucket: {BUCKET}, prefix: {PREFIX}, endpoint: \"{endpoint}\", allow_http: true }}"
        )
    }

    /// Keys of the objects in the bucket, without the prefix, sorted.
    pub fn keys(&self) -> Vec<String> {
        let top = self.folder.path().join(BUCKET).join(PREFIX);
        let (mut keys, mut folders) = (Vec::new(), vec![top.clone()]);
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                match path.strip_prefix(&top) {
                    _ if path.is_dir() => folders.push(path),
                    Ok(key) => keys.push(key.display().to_string()),
                    Err(_) => {}
                }
            }
        }
        keys.sort();
        keys
    }
}
