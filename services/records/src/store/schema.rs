use std::path::Path;

use rusqlite::{Connection, Result};

use super::{BUSY, StoreError};

const VERSION: i64 = 2;

const TABLES: [&str; 5] = ["contact", "interval", "agent", "waiting", "progress"];

/// `contact.position`: the last journal position that the row has in it; it may lag behind `progress.position`, and
/// `progress.contacts` says from where on some row does. `line` is what lists show, `detail` the rest; both are parts of
/// one message and read back by merging.
///
/// `progress.journal`: which journal it is a fold of, 0 = not known. `progress.mark`: the event at `progress.position`, as
/// [`super::mark`] writes it. Programs of before these two columns leave them as they are.
const STATEMENTS: [&str; 8] = [
    "CREATE TABLE contact (id INTEGER PRIMARY KEY, call_id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, \
     started_us INTEGER NOT NULL, open INTEGER NOT NULL, queue TEXT NOT NULL, agent TEXT NOT NULL, \
     outcome TEXT NOT NULL, caller TEXT NOT NULL, position INTEGER NOT NULL, line BLOB NOT NULL, \
     detail BLOB NOT NULL)",
    "CREATE INDEX contact_by_time ON contact (tenant, started_us DESC, call_id DESC)",
    "CREATE INDEX contact_open ON contact (tenant) WHERE open = 1",
    "CREATE TABLE interval (tenant TEXT NOT NULL, queue TEXT NOT NULL, start_us INTEGER NOT NULL, \
     body BLOB NOT NULL, PRIMARY KEY (tenant, queue, start_us)) WITHOUT ROWID",
    "CREATE TABLE agent (tenant TEXT NOT NULL, agent TEXT NOT NULL, body BLOB NOT NULL, \
     PRIMARY KEY (tenant, agent)) WITHOUT ROWID",
    "CREATE TABLE waiting (tenant TEXT NOT NULL, queue TEXT NOT NULL, call_id TEXT NOT NULL, \
     entered_us INTEGER NOT NULL, PRIMARY KEY (tenant, queue, call_id)) WITHOUT ROWID",
    "CREATE TABLE progress (position INTEGER NOT NULL, contacts INTEGER NOT NULL, \
     journal INTEGER NOT NULL DEFAULT 0, mark TEXT NOT NULL DEFAULT '')",
    "INSERT INTO progress (position, contacts) VALUES (0, 0)",
];

/// What came to the form without making another one of it: a program of before goes on with the file, and so does this one
/// with a file of before.
const COLUMNS: [(&str, &str); 2] = [
    ("journal", "ALTER TABLE progress ADD COLUMN journal INTEGER NOT NULL DEFAULT 0"),
    ("mark", "ALTER TABLE progress ADD COLUMN mark TEXT NOT NULL DEFAULT ''"),
];

/// Opens the file, or makes it, with the form that this program knows.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // What a power cut takes back is folded again from the journal, position and contents together.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// An older form is thrown away: everything in it is folded again from the journal.
fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > VERSION {
        return Err(StoreError::Newer { found, known: VERSION });
    }
    if found < VERSION {
        let transaction = connection.transaction()?;
        for table in TABLES {
            transaction.execute(&format!("DROP TABLE IF EXISTS {table}"), [])?;
        }
        for statement in STATEMENTS {
            transaction.execute(statement, [])?;
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    for (column, statement) in COLUMNS {
        if !connection.column_exists(None, "progress", column)? {
            connection.execute(statement, [])?;
        }
    }
    Ok(())
}

/// Nothing is known: everything is folded from the beginning of this journal.
pub(super) fn begin_anew(connection: &mut Connection, journal: u64) -> Result<()> {
    let transaction = connection.transaction()?;
    for table in TABLES.iter().filter(|table| **table != "progress") {
        transaction.execute(&format!("DELETE FROM {table}"), [])?;
    }
    let sql = "UPDATE progress SET position = 0, contacts = 0, mark = '', journal = ?";
    transaction.execute(sql, [super::stored(journal)])?;
    transaction.commit()
}
