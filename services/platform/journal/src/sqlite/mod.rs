//! The embedded journal: one SQLite file, one writer, a few readers.

mod checkpoint;
mod known;
mod migrate;
mod plan;
mod read;
mod ring;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{SqlitePool, sqlite::SqlitePoolOptions};
use tokio::sync::{mpsc, oneshot, watch};
use trunkline_types::{EntityAddress, EntityKind, Epoch, ShardId, TenantId};

use crate::{
    Append, AppendError, Document, DocumentKey, EntityHistory, Journal, JournalError, JournalMetrics,
    OpenError, Pending, Seal, Snapshot, StoredEvent,
    event::written_at,
    gate::{Gate, QUEUE},
    pace::{self, Pace},
};
use checkpoint::Checkpoints;
use ring::Ring;
use schema::{DirLock, Target};
use store::Store;
use writer::{Command, Reply, Writer};

const READERS: u32 = 4;
/// Threads sleep about that exactly.
const GRAIN: Duration = Duration::from_micros(100);

/// Where an embedded journal lives.
#[derive(Debug)]
pub struct SqliteOptions {
    dir: PathBuf,
    temporary: Option<tempfile::TempDir>,
    metrics: JournalMetrics,
    spacing: Duration,
    /// What is held in memory for followers, in bytes.
    held: usize,
}

impl SqliteOptions {
    /// In a data directory, which is made if need be; every commit waits for the disk.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            temporary: None,
            metrics: JournalMetrics::new(),
            spacing: pace::SPACING,
            held: ring::BYTES,
        }
    }

    /// In a temporary directory, which is removed with the journal. Since nothing is meant to outlive the process,
    /// commits do not wait for the disk.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn temporary() -> Result<Self, OpenError> {
        let folder = |source| OpenError::Folder { path: std::env::temp_dir(), source };
        let dir = tempfile::Builder::new().prefix("trunkline-").tempdir().map_err(folder)?;
        Ok(Self {
            dir: dir.path().to_owned(),
            temporary: Some(dir),
            metrics: JournalMetrics::new(),
            spacing: pace::SPACING,
            held: ring::BYTES,
        })
    }

    /// Least time between the starts of two commits under load: 1 ms unless told. It is kept in full only when at least two
    /// appends are to be expected in it, and not at all by an idle journal. More saves CPU, less saves waiting; some four
    /// commits in a row lie between an agent's turning free and ringing.
    #[must_use]
    pub fn spacing(mut self, spacing: Duration) -> Self {
        self.spacing = spacing;
        self
    }

    /// Where to count.
    #[must_use]
    pub fn metrics(mut self, metrics: JournalMetrics) -> Self {
        self.metrics = metrics;
        self
    }
}

/// The embedded [`Journal`]. Cheap to clone; open once per data directory and process.
#[derive(Clone)]
pub struct SqliteJournal(Arc<Inner>);

struct Inner {
    commands: mpsc::Sender<Command>,
    gate: Arc<Gate>,
    readers: SqlitePool,
    ring: Arc<Ring>,
    committed: watch::Receiver<u64>,
    documents: watch::Receiver<u64>,
    path: PathBuf,
}

impl fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteJournal").field(&self.0.path).finish()
    }
}

impl SqliteJournal {
    /// Opens (or makes) the journal, and starts the thread that writes it.
    ///
    /// # Errors
    /// When another process holds the directory, it cannot be used, or the file is damaged or newer than this program.
    pub async fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        let opened = tokio::task::spawn_blocking(move || Self::start(options)).await;
        opened.unwrap_or_else(|error| Err(OpenError::Config(format!("opening the journal failed: {error}"))))
    }

    fn start(options: SqliteOptions) -> Result<Self, OpenError> {
        let lock = DirLock::take(&options.dir)?;
        let path = options.dir.join("journal.db");
        let target = Target { path: path.clone(), synced: options.temporary.is_none() };
        let (store, position, revision) = Store::open(target.clone())?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(target.reader());
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (committed, committed_receiver) = watch::channel(position);
        let (documents, documents_receiver) = watch::channel(revision);
        let gate = Gate::new(options.metrics);
        let ring = Arc::new(Ring::new(position, options.held));
        let thread = |source| OpenError::Thread { source };
        let writer = Writer {
            store,
            commands: receiver,
            gate: Arc::clone(&gate),
            ring: Arc::clone(&ring),
            committed,
            documents,
            checkpoints: Checkpoints::start(target).map_err(thread)?,
            pace: Pace::new(options.spacing, GRAIN),
            dir: (lock, options.temporary),
        };
        std::thread::Builder::new()
            .name("journal-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(thread)?;
        let (committed, documents) = (committed_receiver, documents_receiver);
        Ok(Self(Arc::new(Inner { commands, gate, readers, ring, committed, documents, path })))
    }

    /// The data directory.
    pub fn dir(&self) -> PathBuf {
        self.0.path.parent().map(PathBuf::from).unwrap_or_default()
    }

    /// Makes the next transaction fail.
    #[cfg(feature = "contract")]
    pub async fn inject(&self, fault: crate::Fault) {
        let _ = self.0.commands.send(Command::Fault(fault)).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        let closed = || JournalError::Unavailable("the journal is closed".to_owned());
        self.0.commands.send(command(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    fn append(&self, append: Append) -> Pending {
        self.0.gate.append(append, |queued| {
            self.0.commands.try_send(Command::Append(queued)).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => {
                    AppendError::Unavailable("the journal is closed".to_owned())
                }
            })
        })
    }

    async fn seal(&self, shards: &[ShardId], owner: &str) -> Result<Vec<(ShardId, Epoch)>, JournalError> {
        let (shards, owner) = (shards.to_vec(), owner.to_owned());
        self.ask(|reply| Command::Seal { shards, seen: None, owner, reply }).await
    }

    async fn seal_if(&self, shard: ShardId, seen: Epoch, owner: &str) -> Result<Epoch, JournalError> {
        let (shards, owner) = (vec![shard], owner.to_owned());
        let sealed = self.ask(|reply| Command::Seal { shards, seen: Some(seen), owner, reply }).await?;
        sealed
            .first()
            .map(|(_, epoch)| *epoch)
            .ok_or_else(|| JournalError::Corrupt("nothing was sealed".to_owned()))
    }

    async fn identity(&self) -> Result<u64, JournalError> {
        read::identity(&self.0.readers).await
    }

    async fn epochs(&self) -> Result<Vec<Seal>, JournalError> {
        read::epochs(&self.0.readers).await
    }

    async fn replay_shard(
        &self,
        shard: ShardId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError> {
        read::replay_shard(&self.0.readers, shard, after, limit).await
    }

    async fn load_entity(&self, entity: &EntityAddress) -> Result<EntityHistory, JournalError> {
        read::load_entity(&self.0.readers, entity).await
    }

    async fn live_entities(
        &self,
        kind: EntityKind,
        shards: &[ShardId],
    ) -> Result<Vec<EntityAddress>, JournalError> {
        read::live_entities(&self.0.readers, kind, shards).await
    }

    async fn put_snapshot(&self, entity: &EntityAddress, snapshot: Snapshot) -> Result<(), JournalError> {
        let entity = entity.clone();
        self.ask(|reply| Command::Snapshot { entity, snapshot, reply }).await
    }

    async fn tail(&self, after_position: u64, limit: usize) -> Result<Vec<StoredEvent>, JournalError> {
        let held = if self.0.readers.is_closed() { None } else { self.0.ring.tail(after_position, limit) };
        match held {
            Some(events) => Ok(events),
            None => read::tail(&self.0.readers, after_position, limit).await,
        }
    }

    fn committed(&self) -> watch::Receiver<u64> {
        self.0.committed.clone()
    }

    async fn put_document(
        &self,
        key: &DocumentKey,
        body: serde_json::Value,
        expected: Option<u64>,
    ) -> Result<u64, JournalError> {
        let (key, body) = (key.clone(), Some(body.to_string()));
        self.ask(|reply| Command::Document { key, body, expected, at: written_at(), reply }).await
    }

    async fn delete_document(&self, key: &DocumentKey, expected: Option<u64>) -> Result<u64, JournalError> {
        let key = key.clone();
        self.ask(|reply| Command::Document { key, body: None, expected, at: written_at(), reply }).await
    }

    async fn get_document(&self, key: &DocumentKey) -> Result<Option<Document>, JournalError> {
        self.document_at(key, i64::MAX as u64).await
    }

    async fn document_at(&self, key: &DocumentKey, revision: u64) -> Result<Option<Document>, JournalError> {
        read::document_at(&self.0.readers, key, revision).await
    }

    async fn list_documents(&self, tenant: &TenantId, kind: &str) -> Result<Vec<Document>, JournalError> {
        read::documents(&self.0.readers, tenant, kind).await
    }

    fn documents_revision(&self) -> watch::Receiver<u64> {
        self.0.documents.clone()
    }

    fn delay(&self) -> Duration {
        self.0.gate.delay()
    }

    async fn close(&self) {
        if let Err(error) = self.ask(|reply| Command::Close { reply }).await {
            tracing::debug!(%error, "the journal was closed before");
        }
        self.0.readers.close().await;
    }
}
