use sqlx::{Row, SqlitePool};

use super::StoreError;

const VERSION: i64 = 1;

const STATEMENTS: [&str; 8] = [
    "CREATE TABLE contact (call_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, started_us INTEGER NOT NULL, \
     queue TEXT NOT NULL, agent TEXT NOT NULL, outcome TEXT NOT NULL, caller TEXT NOT NULL, body BLOB NOT NULL) \
     WITHOUT ROWID",
    "CREATE INDEX contact_by_time ON contact (tenant, started_us DESC, call_id DESC)",
    "CREATE INDEX contact_open ON contact (outcome)",
    "CREATE TABLE interval (tenant TEXT NOT NULL, queue TEXT NOT NULL, start_us INTEGER NOT NULL, \
     body BLOB NOT NULL, PRIMARY KEY (tenant, queue, start_us)) WITHOUT ROWID",
    "CREATE TABLE agent (tenant TEXT NOT NULL, agent TEXT NOT NULL, body BLOB NOT NULL, \
     PRIMARY KEY (tenant, agent)) WITHOUT ROWID",
    "CREATE TABLE waiting (tenant TEXT NOT NULL, call_id TEXT NOT NULL, queue TEXT NOT NULL, \
     entered_us INTEGER NOT NULL, PRIMARY KEY (tenant, call_id)) WITHOUT ROWID",
    "CREATE TABLE progress (position INTEGER NOT NULL)",
    "INSERT INTO progress VALUES (0)",
];

pub(super) async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let found: i64 = sqlx::query("PRAGMA user_version").fetch_one(pool).await?.get(0);
    if found > VERSION {
        return Err(StoreError::Newer { found, known: VERSION });
    }
    if found < VERSION {
        let mut transaction = pool.begin().await?;
        for statement in STATEMENTS {
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        // A pragma takes no bound values; it must follow VERSION.
        sqlx::query("PRAGMA user_version = 1").execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    Ok(())
}
