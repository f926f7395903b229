//! Opening: the lock on the data directory, the connection's settings, the schema and its versions.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteLockingMode};

use super::migrate;
use crate::OpenError;

/// "trnk": marks our files among SQLite's.
const APPLICATION_ID: i64 = 0x7472_6e6b;

/// A journal that has no identity gets one; see [`Journal::identity`](crate::Journal::identity).
const IDENTIFY: &str =
    "INSERT OR IGNORE INTO meta (name, value) VALUES ('identity', abs(random() % 9223372036854775807))";

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

/// Another connection's lock is waited for so long; only checkpoints and migrations ever hold one.
const BUSY: Duration = Duration::from_secs(5);

/// KiB of pages that the writer keeps, as SQLite takes it: what it writes to are the ends of a few trees.
const WRITER_CACHE: i32 = -4_096;

impl Target {
    /// For readers. They are used by asynchronous code, so they run on threads of their own.
    pub(super) fn reader(&self) -> SqliteConnectOptions {
        use sqlx::ConnectOptions;
        SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .locking_mode(SqliteLockingMode::Normal)
            .busy_timeout(BUSY)
            .pragma("cache_size", "-1024")
            .disable_statement_logging()
            .thread_name(|n| format!("journal-reader-{n}"))
    }

    pub(super) fn classify(&self, error: &rusqlite::Error) -> OpenError {
        let (path, reason) = (self.path.clone(), error.to_string());
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                OpenError::Corrupt { path, reason }
            }
            _ => OpenError::Database { path, reason },
        }
    }

    /// A connection that writes. Checkpoints are run beside the writer, see `checkpoint.rs`.
    pub(super) fn connect(&self) -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", if self.synced { "FULL" } else { "OFF" })?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "cache_size", WRITER_CACHE)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }

    /// Opens the writer's connection and brings the schema up to date.
    pub(super) fn open(&self) -> Result<Connection, OpenError> {
        let mut connection = self.connect().map_err(|error| self.classify(&error))?;
        self.migrate(&mut connection)?;
        Ok(connection)
    }

    fn migrate(&self, connection: &mut Connection) -> Result<(), OpenError> {
        let failed = |error: rusqlite::Error| self.classify(&error);
        let scalar = |connection: &Connection, sql: &str| -> Result<i64, OpenError> {
            connection.query_row(sql, [], |row| row.get(0)).map_err(failed)
        };
        let id = scalar(connection, "PRAGMA application_id")?;
        let tables = scalar(connection, "SELECT count(*) FROM sqlite_schema")?;
        if id != APPLICATION_ID && tables != 0 {
            let reason = "it is an SQLite database of another program".to_owned();
            return Err(OpenError::Corrupt { path: self.path.clone(), reason });
        }
        let found = match tables {
            0 => 0,
            _ => scalar(connection, "SELECT coalesce(max(version), 0) FROM schema_version")?,
        };
        let known = migrate::KNOWN;
        if found > known {
            let store = self.path.display().to_string();
            return Err(OpenError::Newer { store, found, known });
        }
        for version in found + 1..=known {
            let transaction = connection.transaction().map_err(failed)?;
            if version == 1 {
                transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
            }
            migrate::apply(&transaction, version).map_err(|error| match error {
                migrate::Error::Sqlite(error) => failed(error),
                migrate::Error::Row(reason) => OpenError::Corrupt { path: self.path.clone(), reason },
            })?;
            transaction.commit().map_err(failed)?;
        }
        connection.execute(IDENTIFY, []).map(drop).map_err(failed)
    }
}
