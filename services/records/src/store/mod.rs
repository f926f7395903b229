//! The projection's own database (SQLite): contacts, interval counters, agents' states, who waits, and the journal
//! position that all of these are a fold of, written together. Derived: deleting the file rebuilds it.

mod schema;

use std::{path::Path, time::Duration};

use prost::Message;
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use trunkline_proto::records::v1::{Contact, ListContactsRequest};

use crate::fold::{AgentState, Counters};

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What the database said.
    #[error("records database: {0}")]
    Database(#[from] sqlx::Error),
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
/// Who waits: tenant, call, queue, entered in microseconds.
pub type Waiting = (String, String, String, i64);

/// What one batch of events changed.
#[derive(Debug, Default)]
pub struct Batch {
    /// The last event of the batch.
    pub position: u64,
    /// Changed contacts.
    pub contacts: Vec<Contact>,
    /// Changed intervals, whole.
    pub intervals: Vec<(IntervalKey, Counters)>,
    /// Changed agents: tenant, agent, state.
    pub agents: Vec<(String, String, AgentState)>,
    /// New entries.
    pub enqueued: Vec<Waiting>,
    /// Calls that wait no more: tenant, call.
    pub left: Vec<(String, String)>,
}

/// The database.
#[derive(Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens or makes it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // NORMAL: what a power cut takes back is folded again from the journal, position and contents together.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        schema::migrate(&writer).await?;
        let readers =
            SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers })
    }

    /// The journal position that the contents are a fold of.
    pub async fn position(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT position FROM progress").fetch_one(&self.readers).await?;
        Ok(u64::try_from(row.get::<i64, _>(0)).unwrap_or(0))
    }

    /// Writes a batch and its position together.
    pub async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        for contact in &batch.contacts {
            sqlx::query(
                "INSERT OR REPLACE INTO contact \
                 (call_id, tenant, started_us, queue, agent, outcome, caller, body) VALUES (?,?,?,?,?,?,?,?)",
            )
            .bind(&contact.call_id)
            .bind(&contact.tenant)
            .bind(contact.started_us)
            .bind(&contact.queue_id)
            .bind(&contact.agent_id)
            .bind(&contact.outcome)
            .bind(format!("{} {}", contact.caller_number, contact.caller_name).to_lowercase())
            .bind(contact.encode_to_vec())
            .execute(&mut *transaction)
            .await?;
        }
        for ((tenant, queue, start), counters) in &batch.intervals {
            sqlx::query("INSERT OR REPLACE INTO interval (tenant, queue, start_us, body) VALUES (?,?,?,?)")
                .bind(tenant)
                .bind(queue)
                .bind(start)
                .bind(counters.encode_to_vec())
                .execute(&mut *transaction)
                .await?;
        }
        for (tenant, agent, state) in &batch.agents {
            sqlx::query("INSERT OR REPLACE INTO agent (tenant, agent, body) VALUES (?,?,?)")
                .bind(tenant)
                .bind(agent)
                .bind(state.encode_to_vec())
                .execute(&mut *transaction)
                .await?;
        }
        for (tenant, call, queue, entered_us) in &batch.enqueued {
            sqlx::query(
                "INSERT OR REPLACE INTO waiting (tenant, call_id, queue, entered_us) VALUES (?,?,?,?)",
            )
            .bind(tenant)
            .bind(call)
            .bind(queue)
            .bind(entered_us)
            .execute(&mut *transaction)
            .await?;
        }
        for (tenant, call) in &batch.left {
            sqlx::query("DELETE FROM waiting WHERE tenant = ? AND call_id = ?")
                .bind(tenant)
                .bind(call)
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query("UPDATE progress SET position = ?")
            .bind(i64::try_from(batch.position).unwrap_or(i64::MAX))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// A contact; `None` when the tenant has no such one.
    pub async fn contact(&self, tenant: &str, call: &str) -> Result<Option<Contact>, StoreError> {
        let row = sqlx::query("SELECT body FROM contact WHERE tenant = ? AND call_id = ?")
            .bind(tenant)
            .bind(call)
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| Ok(Contact::decode(row.get::<&[u8], _>(0))?)).transpose()
    }

    /// Newest first, `limit` at most, after `cursor` (started in microseconds, call id).
    pub async fn contacts(
        &self,
        wanted: &ListContactsRequest,
        cursor: (i64, String),
        limit: u32,
    ) -> Result<Vec<Contact>, StoreError> {
        let until = if wanted.to_us == 0 { i64::MAX } else { wanted.to_us };
        let caller = wanted.caller.to_lowercase();
        let rows = sqlx::query(
            "SELECT body FROM contact WHERE tenant = ?1 AND (started_us, call_id) < (?2, ?3) \
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

    /// All who wait.
    pub async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        let rows = sqlx::query("SELECT tenant, call_id, queue, entered_us FROM waiting")
            .fetch_all(&self.readers)
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
    }

    /// Contacts that have not ended: tenant, call.
    pub async fn open_contacts(&self) -> Result<Vec<Contact>, StoreError> {
        let rows =
            sqlx::query("SELECT body FROM contact WHERE outcome = 'in_progress' OR outcome = 'answered'")
                .fetch_all(&self.readers)
                .await?;
        let all: Result<Vec<Contact>, StoreError> =
            rows.iter().map(|row| Ok(Contact::decode(row.get::<&[u8], _>(0))?)).collect();
        Ok(all?.into_iter().filter(|c| c.ended_us == 0).collect())
    }

    /// Lets the file go.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
