//! The journal of many nodes: one PostgreSQL database, which each node writes through one connection.
//!
//! Who may write a shard is decided by the server, inside the one statement that appends: it locks the shard's row, compares
//! the epoch and the entity's number of events, and writes. So no lock is held across a round trip, and a node that was
//! stopped in the middle holds up nobody. The journal wants session pooling or none between itself and the server, and
//! a standby that is promoted must be a synchronous one: with any other, what was acknowledged can be lost.

mod batch;
mod inspect;
mod read;
mod server;
mod store;
mod verify;
mod watch;
mod writer;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::{
    sync::{mpsc, oneshot, watch as watched},
    task::JoinHandle,
    time::{Instant, sleep},
};
use trunkline_types::{EntityAddress, EntityKind, Epoch, SHARD_COUNT, ShardId, TenantId, Timestamp};

use crate::{
    Append, AppendError, Document, DocumentKey, EntityHistory, Journal, JournalError, JournalMetrics,
    OpenError, Pending, Seal, Snapshot, StoredEvent,
    event::written_at,
    gate::{Gate, QUEUE},
    pace::{self, Pace},
};
pub use inspect::{PostgresInspector, PostgresReport, Schema};
use server::Server;
pub use verify::Verified;
use watch::Committed;
use writer::{Command, Writer};

/// Connections besides the writer's and the one that listens.
const CONNECTIONS: u32 = 8;
/// The runtime's timers go by milliseconds.
const GRAIN: Duration = Duration::from_micros(500);
/// See [`PostgresOptions::patience`].
const PATIENCE: Duration = Duration::from_secs(90);
/// A server that is just starting is waited for.
const OPENING: Duration = Duration::from_secs(10);
const OPENING_PAUSE: Duration = Duration::from_millis(250);

/// Which PostgreSQL database holds the journal, and how it is used.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    server: Server,
    connections: u32,
    spacing: Duration,
    patience: Duration,
    metrics: JournalMetrics,
}

impl PostgresOptions {
    /// The database of a URL (`postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full&sslrootcert=…`). `node` is
    /// shown to those who look at the server's sessions.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn new(url: &str, node: &str) -> Result<Self, OpenError> {
        Ok(Self {
            server: Server::new(url, &format!("trunkline {node}"))?,
            connections: CONNECTIONS,
            spacing: pace::SPACING,
            patience: PATIENCE,
            metrics: JournalMetrics::new(),
        })
    }

    /// How many connections reads, seals and documents may use: 8 unless told. Three more are held for writing and for
    /// following what others write.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Least time between the starts of two commits of this node under load: 1 ms unless told, kept as by
    /// [`SqliteOptions::spacing`](crate::SqliteOptions::spacing). A server that takes longer for a commit is not waited for
    /// besides.
    #[must_use]
    pub fn spacing(mut self, spacing: Duration) -> Self {
        self.spacing = spacing;
        self
    }

    /// How long an append waits for a server that is away before it is refused: 90 s unless told. Until then its maker keeps
    /// its state and goes on when the server is back.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Where to count.
    #[must_use]
    pub fn metrics(mut self, metrics: JournalMetrics) -> Self {
        self.metrics = metrics;
        self
    }
}

/// The [`Journal`] in PostgreSQL. Cheap to clone; one a node.
#[derive(Clone)]
pub struct PostgresJournal(Arc<Inner>);

struct Inner {
    commands: mpsc::Sender<Command>,
    gate: Arc<Gate>,
    pool: PgPool,
    committed: Arc<Committed>,
    documents: Arc<watched::Sender<u64>>,
    followers: Mutex<Vec<JoinHandle<()>>>,
    name: String,
}

impl fmt::Debug for PostgresJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresJournal").field(&self.0.name).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.followers.lock().iter().for_each(JoinHandle::abort);
    }
}

impl PostgresJournal {
    /// Connects, and brings the schema up to date. Waits some seconds for a server that does not answer yet.
    ///
    /// # Errors
    /// When the server cannot be reached or will not do, or its schema is newer than this program.
    pub async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let PostgresOptions { server, connections, spacing, patience, metrics } = options;
        let until = Instant::now() + OPENING;
        loop {
            match server.prepare().await {
                Ok(()) => break,
                Err(OpenError::Unreachable { source, .. })
                    if source.as_database_error().is_none_or(starting) && Instant::now() < until =>
                {
                    tracing::info!(server = server.name, %source, "waiting for PostgreSQL");
                    sleep(OPENING_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        let unreachable = |source| OpenError::Unreachable { server: server.name.clone(), source };
        let connection = server.writer().await.map_err(unreachable)?;
        // One is the listener's for good, one its who looks for commits.
        let pool = server.pool(connections + 2);
        let unreadable = |error: JournalError| OpenError::Server {
            server: server.name.clone(),
            reason: error.to_string(),
        };
        let position = read::position(&pool).await.map_err(unreadable)?;
        let revision = watch::newest(&pool).await.map_err(unreadable)?;
        let (committed, documents) = (Committed::new(position), Arc::new(watched::Sender::new(revision)));
        let followers = vec![
            tokio::spawn(Arc::clone(&committed).follow(pool.clone())),
            tokio::spawn(watch::follow_documents(pool.clone(), Arc::clone(&documents))),
        ];
        let (commands, receiver) = mpsc::channel(QUEUE);
        let gate = Gate::new(metrics);
        let name = server.name.clone();
        let store = store::Store::new(server, connection);
        let pace = Pace::new(spacing, GRAIN);
        let writer = Writer::new(store, receiver, Arc::clone(&gate), Arc::clone(&committed), pace, patience);
        tokio::spawn(writer.run());
        let followers = Mutex::new(followers);
        Ok(Self(Arc::new(Inner { commands, gate, pool, committed, documents, followers, name })))
    }

    /// Makes the next transaction fail.
    #[cfg(feature = "contract")]
    pub async fn inject(&self, fault: crate::Fault) {
        let _ = self.0.commands.send(Command::Fault(fault)).await;
    }

    async fn put(
        &self,
        key: &DocumentKey,
        body: Option<String>,
        expected: Option<u64>,
    ) -> Result<u64, JournalError> {
        let revision = read::put_document(&self.0.pool, key, body, expected, written_at()).await?;
        watch::raise(&self.0.documents, revision);
        Ok(revision)
    }
}

/// Whether the server refused only because it is starting, stopping or full.
fn starting(error: &(dyn sqlx::error::DatabaseError + 'static)) -> bool {
    error.code().is_some_and(|code| code.starts_with("57P") || code == "53300")
}

fn too_many(shards: &[ShardId]) -> Result<(), JournalError> {
    if shards.len() <= usize::from(SHARD_COUNT) {
        return Ok(());
    }
    Err(JournalError::Invalid(format!("{} shards to seal: there are {SHARD_COUNT}", shards.len())))
}

#[async_trait]
impl Journal for PostgresJournal {
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
        too_many(shards)?;
        read::seal(&self.0.pool, shards, None, owner).await
    }

    async fn seal_if(&self, shard: ShardId, seen: Epoch, owner: &str) -> Result<Epoch, JournalError> {
        let sealed = read::seal(&self.0.pool, &[shard], Some(seen), owner).await?;
        let none = || JournalError::Corrupt("nothing was sealed".to_owned());
        sealed.first().map(|(_, epoch)| *epoch).ok_or_else(none)
    }

    async fn identity(&self) -> Result<u64, JournalError> {
        read::identity(&self.0.pool).await
    }

    async fn epochs(&self) -> Result<Vec<Seal>, JournalError> {
        read::epochs(&self.0.pool).await
    }

    async fn replay_shard(
        &self,
        shard: ShardId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError> {
        read::replay_shard(&self.0.pool, shard, after, limit).await
    }

    async fn load_entity(&self, entity: &EntityAddress) -> Result<EntityHistory, JournalError> {
        read::load_entity(&self.0.pool, entity).await
    }

    async fn clock(&self) -> Result<Timestamp, JournalError> {
        read::clock(&self.0.pool).await
    }

    async fn live_entities(
        &self,
        kind: EntityKind,
        shards: &[ShardId],
    ) -> Result<Vec<EntityAddress>, JournalError> {
        read::live_entities(&self.0.pool, kind, shards).await
    }

    async fn put_snapshot(&self, entity: &EntityAddress, snapshot: Snapshot) -> Result<(), JournalError> {
        read::put_snapshot(&self.0.pool, entity, &snapshot).await
    }

    async fn tail(&self, after_position: u64, limit: usize) -> Result<Vec<StoredEvent>, JournalError> {
        read::tail(&self.0.pool, after_position, limit).await
    }

    fn committed(&self) -> watched::Receiver<u64> {
        self.0.committed.subscribe()
    }

    async fn put_document(
        &self,
        key: &DocumentKey,
        body: serde_json::Value,
        expected: Option<u64>,
    ) -> Result<u64, JournalError> {
        self.put(key, Some(body.to_string()), expected).await
    }

    async fn delete_document(&self, key: &DocumentKey, expected: Option<u64>) -> Result<u64, JournalError> {
        self.put(key, None, expected).await
    }

    async fn get_document(&self, key: &DocumentKey) -> Result<Option<Document>, JournalError> {
        self.document_at(key, i64::MAX as u64).await
    }

    async fn document_at(&self, key: &DocumentKey, revision: u64) -> Result<Option<Document>, JournalError> {
        read::document_at(&self.0.pool, key, revision).await
    }

    async fn list_documents(&self, tenant: &TenantId, kind: &str) -> Result<Vec<Document>, JournalError> {
        read::documents(&self.0.pool, tenant, kind).await
    }

    fn documents_revision(&self) -> watched::Receiver<u64> {
        self.0.documents.subscribe()
    }

    fn delay(&self) -> Duration {
        self.0.gate.delay()
    }

    async fn close(&self) {
        let (told, closed) = oneshot::channel();
        if self.0.commands.send(Command::Close(told)).await.is_ok() {
            let _ = closed.await;
        }
        self.0.followers.lock().drain(..).for_each(|follower| follower.abort());
        self.0.pool.close().await;
    }
}
