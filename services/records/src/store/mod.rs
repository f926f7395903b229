//! The projection's own database (SQLite): contacts, interval counters, agents' states, who waits, and the journal
//! position that all of these are a fold of, written together. Derived: deleting the file rebuilds it.

mod schema;
mod write;

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prost::Message;
use rusqlite::Connection;
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use trunkline_journal::StoredEvent;
use trunkline_proto::records::v1::{Contact, ListContactsRequest};

use crate::fold::{AgentState, Counters};

/// Connections for queries.
const READERS: u32 = 4;
/// KiB of pages that each of them keeps, as SQLite takes it.
const READER_CACHE: &str = "-1024";
/// A query waits this long for a free connection.
const READER_WAIT: Duration = Duration::from_secs(5);
/// Another connection's lock is waited for so long.
const BUSY: Duration = Duration::from_secs(5);

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What the database said.
    #[error("records database: {0}")]
    Database(#[from] sqlx::Error),
    /// The same, to what was to be written.
    #[error("records database: {0}")]
    Write(#[from] rusqlite::Error),
    /// A write did not come to its end; nothing of it is in the file.
    #[error("records database: a write ended early: {0}")]
    Ended(#[from] tokio::task::JoinError),
    /// It was let go.
    #[error("records database: it is closed")]
    Closed,
    /// The journal cannot be read.
    #[error("records: {0}")]
    Journal(#[from] trunkline_journal::JournalError),
    /// A stored message cannot be read.
    #[error("records database: a stored message is damaged: {0}; delete the file to have it rebuilt")]
    Damaged(#[from] prost::DecodeError),
    /// Of a newer version.
    #[error("records database: schema {found} is newer than {known}; delete the file to have it rebuilt")]
    Newer {
        /// In the file.
        found: i64,
        /// Here.
        known: i64,
    },
}

/// A key of the interval table: tenant, queue, start in microseconds.
pub type IntervalKey = (String, String, i64);
/// A place in a queue: tenant, queue, call.
pub type PlaceKey = (String, String, String);

/// A contact, ready to be written.
#[derive(Debug)]
pub struct ContactRow {
    call_id: String,
    tenant: String,
    started_us: i64,
    open: bool,
    queue: String,
    agent: String,
    outcome: String,
    caller: String,
    position: u64,
    line: Vec<u8>,
    detail: Vec<u8>,
}

impl ContactRow {
    /// Of a contact that has everything up to `position` in it. The contact is taken apart and put together again.
    pub fn new(contact: &mut Contact, position: u64) -> Self {
        let mut detail = Contact {
            timeline: std::mem::take(&mut contact.timeline),
            transcript: std::mem::take(&mut contact.transcript),
            decisions: std::mem::take(&mut contact.decisions),
            ..Contact::default()
        };
        let row = Self {
            call_id: contact.call_id.clone(),
            tenant: contact.tenant.clone(),
            started_us: contact.started_us,
            open: contact.ended_us == 0,
            queue: contact.queue_id.clone(),
            agent: contact.agent_id.clone(),
            outcome: contact.outcome.clone(),
            caller: format!("{} {}", contact.caller_number, contact.caller_name).to_lowercase(),
            position,
            line: contact.encode_to_vec(),
            detail: detail.encode_to_vec(),
        };
        contact.timeline = std::mem::take(&mut detail.timeline);
        contact.transcript = std::mem::take(&mut detail.transcript);
        contact.decisions = std::mem::take(&mut detail.decisions);
        row
    }
}

/// What a batch of events changed.
#[derive(Debug, Default)]
pub struct Batch {
    /// Everything but the contacts has all events up to here in it.
    pub position: u64,
    /// The event at `position`, see [`mark`].
    pub mark: String,
    /// So has every contact, up to here.
    pub contacts_position: u64,
    /// Changed contacts.
    pub contacts: Vec<ContactRow>,
    /// Changed intervals, whole.
    pub intervals: Vec<(IntervalKey, Counters)>,
    /// Changed agents: tenant, agent, state.
    pub agents: Vec<(String, String, AgentState)>,
    /// Changed places: entered in microseconds, or `None` when the call waits there no more.
    pub places: Vec<(PlaceKey, Option<i64>)>,
}

/// How far the database has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// See [`Batch::position`].
    pub position: u64,
    /// See [`Batch::contacts_position`].
    pub contacts: u64,
    /// Which journal it is a fold of; 0 = a program that did not write that down made it.
    pub journal: u64,
    /// See [`Batch::mark`]; of another position when a program wrote last that did not write it down.
    pub mark: String,
}

/// What tells an event from any other that a journal may have at the same position.
pub fn mark(event: &StoredEvent) -> String {
    let StoredEvent { position, shard, seq, epoch, nth, at, .. } = event;
    format!("{position} {} {seq} {} {nth} {}", shard.index(), epoch.0, at.as_micros())
}

/// Numbers as the file has them.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The database. A batch is written by one blocking task from its beginning to its end: on a busy node each row that is
/// handed to a thread and back waits for its turn again. What is asked goes through the pool.
#[derive(Clone)]
pub struct Store {
    /// `None` once it is closed.
    writer: Arc<Mutex<Option<Connection>>>,
    readers: SqlitePool,
}

impl Store {
    /// Opens or makes it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let file = path.to_owned();
        let writer = tokio::task::spawn_blocking(move || schema::open(&file)).await??;
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY).read_only(true);
        let options = options.pragma("cache_size", READER_CACHE);
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(READER_WAIT)
            .connect_with(options)
            .await?;
        Ok(Self { writer: Arc::new(Mutex::new(Some(writer))), readers })
    }

    /// On a thread that may wait for the disk.
    async fn on_writer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let writer = Arc::clone(&self.writer);
        tokio::task::spawn_blocking(move || {
            let mut writer = writer.lock();
            Ok(work(writer.as_mut().ok_or(StoreError::Closed)?)?)
        })
        .await?
    }

    /// How far the contents have come.
    pub async fn progress(&self) -> Result<Progress, StoreError> {
        let sql = "SELECT position, contacts, journal, mark FROM progress";
        let row = sqlx::query(sql).fetch_one(&self.readers).await?;
        let number = |column| u64::try_from(row.get::<i64, _>(column)).unwrap_or(0);
        Ok(Progress { position: number(0), contacts: number(1), journal: number(2), mark: row.get(3) })
    }

    /// Writes down which journal the contents are a fold of.
    pub async fn adopt(&self, journal: u64) -> Result<(), StoreError> {
        self.on_writer(move |writer| write::adopt(writer, journal)).await
    }

    /// Throws everything away, to be folded from the beginning of this journal.
    pub async fn begin_anew(&self, journal: u64) -> Result<(), StoreError> {
        self.on_writer(move |writer| schema::begin_anew(writer, journal)).await
    }

    /// Writes a batch and its positions together, or nothing of it.
    pub async fn write(&self, batch: Arc<Batch>) -> Result<(), StoreError> {
        self.on_writer(move |writer| write::batch(writer, &batch)).await
    }

    /// A contact, and the last journal position that it has in it; `None` when the tenant has no such one.
    pub async fn contact(&self, tenant: &str, call: &str) -> Result<Option<(Contact, u64)>, StoreError> {
        let row = sqlx::query("SELECT line, detail, position FROM contact WHERE tenant = ? AND call_id = ?")
            .bind(tenant)
            .bind(call)
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut contact = Contact::decode(row.get::<&[u8], _>(0))?;
        contact.merge(row.get::<&[u8], _>(1))?;
        Ok(Some((contact, u64::try_from(row.get::<i64, _>(2)).unwrap_or(0))))
    }

    /// The lines of contacts (without timeline, transcript and decisions), newest first, `limit` at most, after `cursor`
    /// (started in microseconds, call id).
    pub async fn contacts(
        &self,
        wanted: &ListContactsRequest,
        cursor: (i64, String),
        limit: u32,
    ) -> Result<Vec<Contact>, StoreError> {
        let until = if wanted.to_us == 0 { i64::MAX } else { wanted.to_us };
        let caller = wanted.caller.to_lowercase();
        let rows = sqlx::query(
            "SELECT line FROM contact WHERE tenant = ?1 AND (started_us, call_id) < (?2, ?3) \
             AND started_us >= ?4 AND started_us <= ?5 AND (?6 = '' OR queue = ?6) AND (?7 = '' OR agent = ?7) \
             AND (?8 = '' OR outcome = ?8) AND (?9 = '' OR instr(caller, ?9) > 0) \
             ORDER BY started_us DESC, call_id DESC LIMIT ?10",
        )
        .bind(&wanted.tenant)
        .bind(cursor.0)
        .bind(cursor.1)
        .bind(wanted.from_us)
        .bind(until)
        .bind(&wanted.queue_id)
        .bind(&wanted.agent_id)
        .bind(&wanted.outcome)
        .bind(caller)
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(|row| Ok(Contact::decode(row.get::<&[u8], _>(0))?)).collect()
    }

    /// Counters of a queue with their starts in `[from, to)`; all queues when `queue` is empty.
    pub async fn intervals(
        &self,
        tenant: &str,
        queue: &str,
        from_us: i64,
        to_us: i64,
    ) -> Result<Vec<(IntervalKey, Counters)>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant, queue, start_us, body FROM interval WHERE (?1 = '' OR tenant = ?1) \
             AND (?2 = '' OR queue = ?2) AND start_us >= ?3 AND start_us < ?4 ORDER BY start_us",
        )
        .bind(tenant)
        .bind(queue)
        .bind(from_us)
        .bind(to_us)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| Ok(((row.get(0), row.get(1), row.get(2)), Counters::decode(row.get::<&[u8], _>(3))?)))
            .collect()
    }

    /// All agents: tenant, agent, state.
    pub async fn agents(&self) -> Result<Vec<(String, String, AgentState)>, StoreError> {
        let rows = sqlx::query("SELECT tenant, agent, body FROM agent").fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| Ok((row.get(0), row.get(1), AgentState::decode(row.get::<&[u8], _>(2))?)))
            .collect()
    }

    /// All who wait, and since when.
    pub async fn places(&self) -> Result<Vec<(PlaceKey, i64)>, StoreError> {
        let rows = sqlx::query("SELECT tenant, queue, call_id, entered_us FROM waiting")
            .fetch_all(&self.readers)
            .await?;
        Ok(rows.iter().map(|row| ((row.get(0), row.get(1), row.get(2)), row.get(3))).collect())
    }

    /// Calls that have not ended: tenant, call.
    pub async fn open_calls(&self) -> Result<Vec<(String, String)>, StoreError> {
        let rows = sqlx::query("SELECT tenant, call_id FROM contact WHERE open = 1")
            .fetch_all(&self.readers)
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Lets the file go.
    pub async fn close(&self) {
        self.readers.close().await;
        let writer = Arc::clone(&self.writer);
        // Its end writes what the log has into the file.
        let _ = tokio::task::spawn_blocking(move || drop(writer.lock().take())).await;
    }
}
