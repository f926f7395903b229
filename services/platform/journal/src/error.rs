use std::path::PathBuf;

use trunkline_types::Epoch;

/// Why an append was not committed, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The shard has been sealed by another owner: the writer has lost it and discards its state.
    #[error("fenced: the shard is at epoch {}", current.0)]
    Fenced {
        /// The shard's epoch now; 0 = it was never sealed.
        current: Epoch,
    },
    /// The entity has another number of events than the writer believes: an earlier append of it failed, or another
    /// activation of it wrote. The writer discards its state and starts from the journal.
    #[error("conflict: the entity has {actual} events")]
    Conflict {
        /// Events of the entity that are committed.
        actual: u64,
    },
    /// Too much is waiting already; nothing was written.
    #[error("overloaded: the journal's queue is full")]
    Overloaded,
    /// The store cannot be written; nothing was written.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The connection to the store was lost while the commit was under way: it may or may not be there. Whoever sees
    /// this discards its state and reads the journal.
    #[error("ambiguous: {0}")]
    Ambiguous(String),
    /// It can never be stored, by a defect of the caller.
    #[error("invalid append: {0}")]
    Invalid(String),
}

/// Why another request to the journal failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The shard is not at the epoch that was seen.
    #[error("the shard has moved on to epoch {}", current.0)]
    Moved {
        /// The epoch now.
        current: Epoch,
    },
    /// The document is not at the expected revision: somebody else changed it. Read it again and repeat the change.
    #[error("the document is at revision {current}, not at the expected one")]
    RevisionConflict {
        /// The document's revision now; 0 = it does not exist.
        current: u64,
    },
    /// Too much is waiting already.
    #[error("the journal's queue is full")]
    Overloaded,
    /// The store cannot be reached or refuses.
    #[error("journal unavailable: {0}")]
    Unavailable(String),
    /// What was read is not what was ever written.
    #[error("journal row cannot be read: {0}")]
    Corrupt(String),
    /// The request cannot be carried out, by a defect of the caller.
    #[error("invalid request: {0}")]
    Invalid(String),
}

/// Why a journal could not be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is in use by another process{}: stop it first, or give this one its own --data-dir",
            holder.as_ref().map(|h| format!(" (pid {h})")).unwrap_or_default())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process id of the holder, when its lock file tells.
        holder: Option<String>,
    },
    /// The folder or a file in it cannot be made, read or written.
    #[error("cannot use {path} as data directory: {source}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// It is an SQLite file of another program, or none at all, or damaged.
    #[error(
        "{path} is not a readable journal ({reason}): restore it from a backup, or move it away to start empty"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It was written by a newer version.
    #[error(
        "{store} has schema version {found}, this program knows versions up to {known}: run the version of trunkline that wrote it, or a newer one"
    )]
    Newer {
        /// The file, or the server and its database.
        store: String,
        /// The version found there.
        found: i64,
        /// The newest known one.
        known: i64,
    },
    /// SQLite failed otherwise.
    #[error("cannot open {path}: {reason}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// The system gives no thread for the writer.
    #[error("cannot start the journal's thread: {source}: allow this process more threads")]
    Thread {
        /// What it says.
        source: std::io::Error,
    },
    /// The configuration names no store, or two.
    #[error("journal: {0}")]
    Config(String),
    /// The address of a PostgreSQL server is none. The reason does not repeat it: it may hold a password.
    #[error("journal.postgres.url: {reason}: write postgres://USER@HOST:5432/DATABASE")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// PostgreSQL cannot be reached, or does not let us in.
    #[error(
        "cannot use PostgreSQL at {server}: {source}: check journal.postgres.url, and that the server runs and lets this node in"
    )]
    Unreachable {
        /// Host, port and database.
        server: String,
        /// What came of it.
        source: sqlx::Error,
    },
    /// The PostgreSQL server will not do.
    #[error("PostgreSQL at {server} cannot hold the journal: {reason}")]
    Server {
        /// Host, port and database.
        server: String,
        /// Why, and the remedy.
        reason: String,
    },
    /// The schema cannot be made or brought up to date.
    #[error(
        "cannot prepare the schema \"trunkline\" at {server}: {source}: the user needs the right to create it once (GRANT CREATE ON DATABASE)"
    )]
    Migration {
        /// Host, port and database.
        server: String,
        /// What the server says.
        source: sqlx::Error,
    },
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
