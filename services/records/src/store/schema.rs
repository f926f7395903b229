use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::StoreError;

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

/// An older form is thrown away: everything in it is folded again from the journal.
pub(super) async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let found: i64 = sqlx::query("PRAGMA user_version").fetch_one(pool).await?.get(0);
    if found > VERSION {
        return Err(StoreError::Newer { found, known: VERSION });
    }
    if found < VERSION {
        let mut transaction = pool.begin().await?;
        for table in TABLES {
            let statement = format!("DROP TABLE IF EXISTS {table}");
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
        }
        for statement in STATEMENTS {
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        // A pragma takes no bound values; it must follow VERSION.
        sqlx::query("PRAGMA user_version = 2").execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    for (column, statement) in COLUMNS {
        const THERE: &str = "SELECT count(*) FROM pragma_table_info('progress') WHERE name = ?";
        let there: i64 = sqlx::query(THERE).bind(column).fetch_one(pool).await?.get(0);
        if there == 0 {
            sqlx::query(statement).execute(pool).await?;
        }
    }
    Ok(())
}

/// Nothing is known: everything is folded from the beginning of this journal.
pub(super) async fn begin_anew(pool: &SqlitePool, journal: u64) -> Result<(), StoreError> {
    let mut transaction = pool.begin().await?;
    for table in TABLES.iter().filter(|table| **table != "progress") {
        let statement = format!("DELETE FROM {table}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
    }
    sqlx::query("UPDATE progress SET position = 0, contacts = 0, mark = '', journal = ?")
        .bind(super::stored(journal))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
