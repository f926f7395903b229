//! The embedded journal against the contract, and what only a file can suffer.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::Mutex;
use trunkline_journal::{
    Journal, OpenError, SqliteJournal, SqliteOptions,
    contract::{self, Fault, Harness},
};

#[derive(Default)]
struct Files(Mutex<Vec<(TempDir, SqliteJournal)>>);

#[async_trait]
impl Harness for Files {
    async fn fresh(&self) -> Arc<dyn Journal> {
        let dir = tempfile::tempdir().unwrap();
        let journal = SqliteJournal::open(SqliteOptions::in_dir(dir.path())).await.unwrap();
        self.0.lock().await.push((dir, journal.clone()));
        Arc::new(journal)
    }

    async fn reopen(&self, journal: Arc<dyn Journal>) -> Arc<dyn Journal> {
        journal.close().await;
        let mut held = self.0.lock().await;
        let (dir, held) = held.last_mut().unwrap();
        *held = SqliteJournal::open(SqliteOptions::in_dir(dir.path())).await.unwrap();
        Arc::new(held.clone())
    }

    async fn inject(&self, _: &Arc<dyn Journal>, fault: Fault) {
        self.0.lock().await.last().unwrap().1.inject(fault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_journal_keeps_the_contract() {
    contract::all(&Files::default()).await;
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = SqliteJournal::open(SqliteOptions::in_dir(dir.path())).await.unwrap();
    let error = SqliteJournal::open(SqliteOptions::in_dir(dir.path())).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("pid {}", std::process::id())) && text.contains("--data-dir"), "{text}");
    first.close().await;
    SqliteJournal::open(SqliteOptions::in_dir(dir.path())).await.unwrap().close().await;
}

async fn open_file(dir: &Path) -> Result<SqliteJournal, OpenError> {
    SqliteJournal::open(SqliteOptions::in_dir(dir)).await
}

#[tokio::test]
async fn what_is_no_journal_is_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("journal.db"), vec![b'x'; 8_192]).unwrap();
    let error = open_file(dir.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("backup"), "{error}");

    let file = tempfile::tempdir().unwrap();
    std::fs::write(file.path().join("data"), "a file").unwrap();
    let error = open_file(&file.path().join("data")).await.unwrap_err();
    assert!(matches!(error, OpenError::Folder { .. }), "{error:?}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions() {
    use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
    let dir = tempfile::tempdir().unwrap();
    open_file(dir.path()).await.unwrap().close().await;
    let mut raw =
        SqliteConnectOptions::new().filename(dir.path().join("journal.db")).connect().await.unwrap();
    sqlx::query("INSERT INTO schema_version VALUES (99, 0)").execute(&mut raw).await.unwrap();
    drop(raw);
    let error = open_file(dir.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error:?}");
}

#[tokio::test]
async fn a_temporary_journal_leaves_nothing_behind() {
    let journal = SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap();
    let entity = contract::queue("support");
    let epoch = journal.seal(&[entity.shard()], "test").await.unwrap()[0].1;
    journal.append(contract::append(&entity, epoch, 0, 3)).await.unwrap();
    let dir = journal.dir();
    assert!(dir.join("journal.db").exists());
    journal.close().await;
    assert!(!dir.exists());
}
