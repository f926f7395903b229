//! The event journal: the authority on what was decided. Commit, then act.
//!
//! Owns the [`Journal`] trait, its embedded implementation [`SqliteJournal`] (WAL, `synchronous=FULL`, one batching
//! writer), the one for many nodes [`PostgresJournal`] (one batching writer a node, fenced by the server), and the contract
//! suite ([`contract`], feature `contract`) that both pass. [`open`] makes the one that is configured. Who calls it:
//! `trunkline-actors` for the entities' histories, `trunkline-cluster` to seal shards, `records` to fold the tail,
//! the shells for configuration documents.
//!
//! What it promises:
//! - **Fencing.** A shard's epoch is raised by [`Journal::seal`]; an append at a lower or higher epoch is refused within
//!   the commit, without harm to its neighbours in the batch.
//! - **No holes.** An append names how many events of its entity it builds on ([`Append::after`]). One that was sent
//!   behind a failed one is refused, so pipelining cannot leave a gap, and two activations of an entity cannot both write.
//! - **Order.** [`StoredEvent::position`] rises in commit order: what was appended after an answer comes after what was
//!   answered, whichever nodes wrote. [`Journal::tail`] never shows a position before all lower ones are visible.
//!   [`StoredEvent::seq`] is dense per shard, [`StoredEvent::nth`] dense per entity.
//! - **Honesty.** Acknowledged means on the disk. What could not be decided is answered [`AppendError::Ambiguous`], never
//!   guessed.
//!
//! It refuses to understand payloads, to keep more than a bounded amount waiting ([`AppendError::Overloaded`]), and to
//! open a data directory that another process holds.

mod body;
mod config;
#[cfg(feature = "contract")]
#[allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]
pub mod contract;
mod error;
mod event;
mod fault;
mod gate;
mod metrics;
mod pace;
mod pending;
mod postgres;
mod sqlite;
#[cfg(feature = "testing")]
pub mod testing;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use trunkline_types::{EntityAddress, EntityKind, Epoch, ShardId, TenantId, Timestamp};

pub use config::{JournalConfig, PostgresConfig, SqliteConfig, open};
pub use error::{AppendError, JournalError, OpenError};
pub use event::{
    Append, Appended, Document, DocumentKey, EffectId, EffectIdError, EntityHistory, MAX_APPEND_BYTES,
    MAX_EVENTS_PER_APPEND, MAX_KIND_BYTES, NewEvent, Snapshot, StoredEvent,
};
#[cfg(feature = "contract")]
pub use fault::Fault;
#[cfg(not(feature = "contract"))]
pub(crate) use fault::Fault;
pub use metrics::JournalMetrics;
pub use pending::Pending;
pub use postgres::{PostgresInspector, PostgresJournal, PostgresOptions, PostgresReport, Schema, Verified};
pub use sqlite::{SqliteJournal, SqliteOptions};

/// A shard's ownership as the journal knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who sealed it last, in the form that was given.
    pub owner: String,
}

/// The authority on what was decided; see the crate's documentation for its promises.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Takes an append's place in the order at once, and answers when it is committed or refused. Never blocks.
    fn append(&self, append: Append) -> Pending;

    /// Takes the shards over: raises each one's epoch by one. Afterwards every append at an older epoch is refused.
    /// Answered in the order asked.
    async fn seal(&self, shards: &[ShardId], owner: &str) -> Result<Vec<(ShardId, Epoch)>, JournalError>;

    /// Takes one shard over if it still is at the epoch that was seen (0 = never sealed).
    ///
    /// # Errors
    /// [`JournalError::Moved`] when it is not.
    async fn seal_if(&self, shard: ShardId, seen: Epoch, owner: &str) -> Result<Epoch, JournalError>;

    /// The shards that were ever sealed.
    async fn epochs(&self) -> Result<Vec<Seal>, JournalError>;

    /// A page of a shard's events after `after_seq`, in order, at most `limit`.
    async fn replay_shard(
        &self,
        shard: ShardId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError>;

    /// What one entity is rebuilt from; empty for an unknown entity.
    async fn load_entity(&self, entity: &EntityAddress) -> Result<EntityHistory, JournalError>;

    /// The unfinished entities of a kind in these shards, in order of their first events.
    async fn live_entities(
        &self,
        kind: EntityKind,
        shards: &[ShardId],
    ) -> Result<Vec<EntityAddress>, JournalError>;

    /// Stores a snapshot of an entity, unless it has a newer one. Its `nth` must not be above what is committed.
    async fn put_snapshot(&self, entity: &EntityAddress, snapshot: Snapshot) -> Result<(), JournalError>;

    /// A page of all events after a position, in order, at most `limit`; for projections.
    async fn tail(&self, after_position: u64, limit: usize) -> Result<Vec<StoredEvent>, JournalError>;

    /// The highest position that [`Journal::tail`] shows, to wait on. Own appends are told at once, those of other nodes
    /// after a moment.
    fn committed(&self) -> watch::Receiver<u64>;

    /// Writes a new version of a document and gives its revision. With `expected` only if the document is at that
    /// revision (0 = it does not exist).
    ///
    /// # Errors
    /// [`JournalError::RevisionConflict`] when it is not.
    async fn put_document(
        &self,
        key: &DocumentKey,
        body: serde_json::Value,
        expected: Option<u64>,
    ) -> Result<u64, JournalError>;

    /// Ends a document; its versions stay readable by [`Journal::document_at`].
    async fn delete_document(&self, key: &DocumentKey, expected: Option<u64>) -> Result<u64, JournalError>;

    /// The newest version; `None` when it does not exist or was deleted.
    async fn get_document(&self, key: &DocumentKey) -> Result<Option<Document>, JournalError>;

    /// The version that was in force at a revision.
    async fn document_at(&self, key: &DocumentKey, revision: u64) -> Result<Option<Document>, JournalError>;

    /// The newest versions of all documents of a kind, by id.
    async fn list_documents(&self, tenant: &TenantId, kind: &str) -> Result<Vec<Document>, JournalError>;

    /// The revision of the newest change to any document, to wait on.
    fn documents_revision(&self) -> watch::Receiver<u64>;

    /// Which journal this is: a number that is drawn when it is made, and drawn again when it begins anew after a restore.
    /// Whoever keeps something that was derived from the events keeps this beside it: derived from another journal, it
    /// is of no use for this one, whatever the positions are.
    async fn identity(&self) -> Result<u64, JournalError>;

    /// The time by the store's clock. All nodes of a journal go by it, so that deadlines and places mean the same on each
    /// of them whatever its machine's clock shows. A store within this process has no other clock than the machine's.
    async fn clock(&self) -> Result<Timestamp, JournalError> {
        Ok(event::written_at())
    }

    /// How long the oldest append that waits has been waiting, to tell whether the store keeps up: while this is more than
    /// a second or two, decisions are late, and it is better not to take on new work.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }

    /// Commits what waits and lets go of the store. Later appends are refused as unavailable.
    async fn close(&self);
}
