//! What an operator asks of the PostgreSQL that holds the journal, past the nodes that use it. Reads and measures; only
//! [`PostgresInspector::begin_anew`] changes something.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlx::{Connection, Executor, PgPool, Row, postgres::PgRow};
use tokio::time::timeout;
use trunkline_types::{EntityAddress, EntityKind};

use super::{
    read,
    server::{ANSWER, IDENTIFY_ANEW, KNOWN_SCHEMA, Server},
};
use crate::{EntityHistory, JournalError, OpenError, PostgresConfig, Seal};

/// Connections that it may open at the same time.
const CONNECTIONS: u32 = 2;
/// How often what is measured is measured; the median or the best is told.
const TRIES: usize = 5;
/// Positions are `transaction << 20`: so many transactions the lost server may have carried out after the backup was made
/// (twelve days at a thousand a second) before one of its positions could be given out again.
const TRANSACTIONS: i64 = 1 << 30;
/// So many times a shard may have changed its owner after the backup was made before one of its epochs could be used again.
const EPOCHS: i64 = 1_000_000;

/// The server as it presents itself.
#[derive(Debug, Clone)]
pub struct PostgresReport {
    /// Host, port and database.
    pub name: String,
    /// As `15.4`.
    pub version: String,
    /// As 15.
    pub major: i32,
    /// It follows another server and cannot be written.
    pub standby: bool,
    /// What is committed goes to the disk.
    pub fsync: bool,
    /// Torn pages are repaired after a crash.
    pub full_page_writes: bool,
    /// The setting `synchronous_commit` that sessions begin with.
    pub synchronous_commit: String,
    /// The setting `synchronous_standby_names`; empty = nobody is waited for.
    pub synchronous_standbys: String,
    /// Standbys that are connected and synchronous.
    pub standbys_in_sync: i32,
    /// The database's encoding.
    pub encoding: String,
    /// Connections that ordinary users may have.
    pub max_connections: i32,
    /// Connections now, everybody's.
    pub connections: i32,
    /// Connections of nodes.
    pub node_connections: i32,
    /// The user may make a schema in this database.
    pub may_create: bool,
    /// The schema; `None` = not made yet.
    pub schema: Option<Schema>,
    /// This connection is encrypted.
    pub encrypted: bool,
    /// Size of the database.
    pub size_bytes: i64,
    /// Age of the oldest transaction that is open: the journal's tail is read up to there.
    pub oldest_transaction: Duration,
    /// Prepared transactions: they hold the tail back until somebody ends them.
    pub prepared: i32,
    /// Whether WAL is archived, and since when the last attempt has been failing.
    pub archiving: String,
    /// Its clock minus ours, seconds.
    pub clock_offset_s: f64,
    /// From a statement to its answer.
    pub round_trip: Duration,
    /// Of a commit that goes to the disk (and to synchronous standbys); `None` = this user may not measure it.
    pub commit: Option<Duration>,
}

/// The schema in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Its version.
    pub version: i32,
    /// The least version that a program must know to use it.
    pub least: i32,
    /// The newest version that this program knows.
    pub known: i32,
}

/// Connections beside the nodes'.
#[derive(Debug, Clone)]
pub struct PostgresInspector {
    pub(super) server: Server,
    pub(super) pool: PgPool,
}

impl PostgresInspector {
    /// Connects. Makes and changes nothing there.
    ///
    /// # Errors
    /// When the address is none, or the server cannot be reached or does not let us in.
    pub async fn connect(config: &PostgresConfig) -> Result<Self, OpenError> {
        let server = Server::new(config.url.expose(), "trunkline-inspector")?;
        let connection = server.connect().await.map_err(|source| server.unreachable(source))?;
        let _ = connection.close().await;
        let pool = server.pool(CONNECTIONS);
        Ok(Self { server, pool })
    }

    /// The server's state, with measurements.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn report(&self) -> Result<PostgresReport, OpenError> {
        let failed = |source| self.server.unreachable(source);
        let answered = timeout(ANSWER, sqlx::query(STATE).fetch_one(&self.pool)).await;
        let row = answered.map_err(|_| failed(sqlx::Error::PoolTimedOut))?.map_err(failed)?;
        let mut report = state(&row, &self.server.name).map_err(failed)?;
        report.schema = self.schema().await.map_err(failed)?;
        (report.clock_offset_s, report.round_trip) = self.clock().await.map_err(failed)?;
        report.commit = self.commit().await;
        Ok(report)
    }

    async fn schema(&self) -> Result<Option<Schema>, sqlx::Error> {
        let there: bool = sqlx::query("SELECT to_regclass('trunkline.schema_version') IS NOT NULL")
            .fetch_one(&self.pool)
            .await?
            .try_get(0)?;
        if !there {
            return Ok(None);
        }
        let sql = "SELECT coalesce(max(version), 0), coalesce(max(least), 0) FROM trunkline.schema_version";
        let row = sqlx::query(sql).fetch_one(&self.pool).await?;
        let known = i32::try_from(KNOWN_SCHEMA).unwrap_or(i32::MAX);
        Ok(Some(Schema { version: row.try_get(0)?, least: row.try_get(1)?, known }))
    }

    /// Its clock against ours, by the quickest of several answers, and how quick that was.
    async fn clock(&self) -> Result<(f64, Duration), sqlx::Error> {
        let mut best: Option<(f64, Duration)> = None;
        for _ in 0..TRIES {
            let (wall, begun) = (SystemTime::now(), Instant::now());
            let row = sqlx::query("SELECT extract(epoch FROM clock_timestamp())::float8")
                .fetch_one(&self.pool)
                .await?;
            let took = begun.elapsed();
            let here = (wall + took / 2).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            if best.is_none_or(|(_, least)| took < least) {
                best = Some((row.try_get::<f64, _>(0)? - here, took));
            }
        }
        Ok(best.unwrap_or_default())
    }

    /// The median of some commits of a message that nobody reads and no table keeps.
    async fn commit(&self) -> Option<Duration> {
        let mut took = Vec::with_capacity(TRIES);
        for _ in 0..TRIES {
            let begun = Instant::now();
            let sql = "SELECT pg_logical_emit_message(true, 'trunkline-inspector', 'x')";
            timeout(ANSWER, sqlx::query(sql).execute(&self.pool)).await.ok()?.ok()?;
            took.push(begun.elapsed());
        }
        took.sort();
        took.get(TRIES / 2).copied()
    }

    /// The shards that were ever sealed.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn epochs(&self) -> Result<Vec<Seal>, JournalError> {
        read::epochs(&self.pool).await
    }

    /// The entities of a kind with this id, one a tenant.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn find(&self, kind: EntityKind, id: &str) -> Result<Vec<EntityAddress>, JournalError> {
        let sql =
            "SELECT tenant FROM trunkline.entity WHERE name = $1 AND kind = $2 ORDER BY tenant LIMIT 16";
        let rows = sqlx::query(sql).bind(id).bind(kind.as_str()).fetch_all(&self.pool).await?;
        let address = |row: &PgRow| {
            let tenant: String = row.try_get(0)?;
            let tenant = tenant.parse().map_err(|error| JournalError::Corrupt(format!("tenant {error}")))?;
            Ok(EntityAddress { kind, tenant, id: id.to_owned() })
        };
        rows.iter().map(address).collect()
    }

    /// The events of an entity, from its snapshot on.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn load_entity(&self, entity: &EntityAddress) -> Result<EntityHistory, JournalError> {
        read::load_entity(&self.pool, entity).await
    }

    /// After a restore: lets epochs and positions go on far above all that the lost server can have given out since the
    /// backup was made, so that neither a node that outlived it nor a copy of what it told is ever taken for current; and
    /// gives the journal another identity, by which whoever kept a fold of the lost one knows that it is of no use.
    /// Refused while nodes are connected.
    ///
    /// # Errors
    /// When nodes are connected, or the database does not answer.
    pub async fn begin_anew(&self) -> Result<(), JournalError> {
        let mut transaction = self.pool.begin().await?;
        let nodes: Option<String> = sqlx::query(NODES).fetch_one(&mut *transaction).await?.try_get(0)?;
        if let Some(nodes) = nodes {
            return Err(JournalError::Invalid(format!("{nodes} use the database: stop them first")));
        }
        transaction.execute("SELECT trunkline.rebase_v1()").await?;
        sqlx::query("UPDATE trunkline.meta SET value = value + $1 WHERE name = 'position_base'")
            .bind(TRANSACTIONS)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE trunkline.shard SET epoch = epoch + $1, owner = 'restored'")
            .bind(EPOCHS)
            .execute(&mut *transaction)
            .await?;
        transaction.execute(IDENTIFY_ANEW).await?;
        Ok(transaction.commit().await?)
    }
}

/// Those who are connected as nodes are (see `PostgresOptions::new`).
const NODES: &str = "SELECT string_agg(DISTINCT substr(application_name, 11), ', ') FROM pg_stat_activity \
                     WHERE datname = current_database() AND application_name LIKE 'trunkline %'";

const STATE: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, \
    pg_is_in_recovery(), current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on', \
    (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'), \
    current_setting('synchronous_standby_names'), \
    (SELECT count(*)::int FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')), \
    current_setting('server_encoding'), \
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, \
    (SELECT count(*)::int FROM pg_stat_activity WHERE datid IS NOT NULL), \
    (SELECT count(*)::int FROM pg_stat_activity WHERE application_name LIKE 'trunkline %'), \
    has_database_privilege(current_database(), 'CREATE'), \
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), \
    pg_database_size(current_database()), \
    coalesce((SELECT extract(epoch FROM max(now() - xact_start))::float8 FROM pg_stat_activity \
        WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND datid IS NOT NULL), 0), \
    (SELECT count(*)::int FROM pg_prepared_xacts), \
    (SELECT CASE WHEN current_setting('archive_mode') = 'off' THEN 'off' \
        WHEN coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) \
        THEN 'failing since ' || last_failed_time ELSE 'on' END FROM pg_stat_archiver)";

fn state(row: &PgRow, name: &str) -> Result<PostgresReport, sqlx::Error> {
    Ok(PostgresReport {
        name: name.to_owned(),
        version: row.try_get(0)?,
        major: row.try_get(1)?,
        standby: row.try_get(2)?,
        fsync: row.try_get(3)?,
        full_page_writes: row.try_get(4)?,
        synchronous_commit: row.try_get::<Option<String>, _>(5)?.unwrap_or_default(),
        synchronous_standbys: row.try_get(6)?,
        standbys_in_sync: row.try_get(7)?,
        encoding: row.try_get(8)?,
        max_connections: row.try_get(9)?,
        connections: row.try_get(10)?,
        node_connections: row.try_get(11)?,
        may_create: row.try_get(12)?,
        encrypted: row.try_get(13)?,
        size_bytes: row.try_get(14)?,
        oldest_transaction: Duration::try_from_secs_f64(row.try_get(15)?).unwrap_or_default(),
        prepared: row.try_get(16)?,
        archiving: row.try_get(17)?,
        schema: None,
        clock_offset_s: 0.0,
        round_trip: Duration::ZERO,
        commit: None,
    })
}
