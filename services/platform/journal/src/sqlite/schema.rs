//! Opening: the lock on the data directory, the connection's settings, the schema and its versions.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous},
};

use crate::OpenError;

/// "trnk": marks our files among SQLite's.
const APPLICATION_ID: i64 = 0x7472_6e6b;

/// The schema by versions; each entry leads from the version before it. Never changed once released, only added to.
const MIGRATIONS: &[&str] = &[r"
CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE shard (
    id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, owner TEXT NOT NULL
) STRICT;
CREATE TABLE entity (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    shard INTEGER NOT NULL, finished INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX entity_by_name ON entity (name, tenant, kind);
CREATE INDEX entity_live ON entity (kind, shard) WHERE finished = 0;
CREATE TABLE event (
    position INTEGER PRIMARY KEY, shard INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL,
    entity INTEGER NOT NULL, nth INTEGER NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL,
    at INTEGER NOT NULL, last INTEGER NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX event_by_entity ON event (entity, nth);
CREATE TABLE snapshot (
    entity INTEGER PRIMARY KEY, nth INTEGER NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE TABLE document (
    tenant TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL,
    at INTEGER NOT NULL, body TEXT, PRIMARY KEY (tenant, kind, id, revision)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX document_by_revision ON document (revision);
"];

/// The data directory, held for this process by an operating system lock, which a crash releases.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("journal.lock");
        let folder = |source| OpenError::Folder { path: path.clone(), source };
        fs::create_dir_all(dir).map_err(|source| OpenError::Folder { path: dir.to_owned(), source })?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(folder)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let holder = file.read_to_string(&mut text).ok().map(|_| text.trim().to_owned());
                return Err(OpenError::InUse {
                    path: dir.to_owned(),
                    holder: holder.filter(|h| !h.is_empty()),
                });
            }
            Err(TryLockError::Error(source)) => return Err(folder(source)),
        }
        // The pid is for the other's error message only; the lock is what counts.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()));
        written.and_then(|()| file.flush()).map_err(folder)?;
        Ok(Self { _file: file })
    }
}

/// How connections to one journal file are made.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// Whether a commit waits for the disk.
    pub(super) synced: bool,
}

impl Target {
    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .locking_mode(SqliteLockingMode::Normal)
            .busy_timeout(Duration::from_secs(5))
            .statement_cache_capacity(256)
            .disable_statement_logging()
    }

    /// For the one writer. Checkpoints are run beside it, see `writer.rs`.
    pub(super) fn writer(&self) -> SqliteConnectOptions {
        let synchronous = if self.synced { SqliteSynchronous::Full } else { SqliteSynchronous::Off };
        self.options()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .pragma("wal_autocheckpoint", "0")
            .pragma("cache_size", "-16384")
            .thread_name(|_| "journal-writer".to_owned())
    }

    /// For readers and the checkpointer.
    pub(super) fn reader(&self) -> SqliteConnectOptions {
        self.options()
            .create_if_missing(false)
            .pragma("cache_size", "-4096")
            .thread_name(|n| format!("journal-reader-{n}"))
    }

    fn classify(&self, error: sqlx::Error) -> OpenError {
        // SQLITE_CORRUPT 11 and SQLITE_NOTADB 26; extended codes carry the primary one in the low byte.
        let code = error.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse::<u32>().ok());
        match code.map(|c| c & 0xff) {
            Some(11 | 26) => OpenError::Corrupt { path: self.path.clone(), reason: error.to_string() },
            _ => OpenError::Database { path: self.path.clone(), source: error },
        }
    }

    /// Opens the writer's connection and brings the schema up to date.
    pub(super) async fn open(&self) -> Result<SqliteConnection, OpenError> {
        let mut connection = self.writer().connect().await.map_err(|e| self.classify(e))?;
        self.migrate(&mut connection).await?;
        Ok(connection)
    }

    async fn migrate(&self, connection: &mut SqliteConnection) -> Result<(), OpenError> {
        let id: i64 = self.scalar(connection, "PRAGMA application_id").await?;
        let tables: i64 = self.scalar(connection, "SELECT count(*) FROM sqlite_schema").await?;
        if id != APPLICATION_ID && tables != 0 {
            let reason = "it is an SQLite database of another program".to_owned();
            return Err(OpenError::Corrupt { path: self.path.clone(), reason });
        }
        let found = match tables {
            0 => 0,
            _ => self.scalar(connection, "SELECT coalesce(max(version), 0) FROM schema_version").await?,
        };
        let known = MIGRATIONS.len() as i64;
        if found > known {
            return Err(OpenError::Newer { store: self.path.display().to_string(), found, known });
        }
        for (version, sql) in (1..).zip(MIGRATIONS).skip(usize::try_from(found).unwrap_or(0)) {
            self.apply(connection, version, sql).await.map_err(|e| self.classify(e))?;
        }
        Ok(())
    }

    async fn apply(
        &self,
        connection: &mut SqliteConnection,
        version: i64,
        sql: &'static str,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(sql).execute(&mut *transaction).await?;
        if version == 1 {
            // A pragma takes no parameters: this is APPLICATION_ID.
            sqlx::raw_sql("PRAGMA application_id = 0x74726e6b").execute(&mut *transaction).await?;
        }
        sqlx::query("INSERT INTO schema_version (version, applied_at) VALUES (?, unixepoch())")
            .bind(version)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    async fn scalar(&self, connection: &mut SqliteConnection, sql: &'static str) -> Result<i64, OpenError> {
        let row = sqlx::query(sql).fetch_one(connection).await.map_err(|e| self.classify(e))?;
        row.try_get(0).map_err(|e| self.classify(e))
    }
}
