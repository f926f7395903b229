//! kill -9 of a process that writes: after reopening, every acknowledged append is there exactly once.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
};

use trunkline_journal::{Journal, SqliteJournal, SqliteOptions, contract};
use trunkline_types::ShardId;

const DIR: &str = "TRUNKLINE_TEST_CRASH_DIR";
const ENTITIES: usize = 12;

/// Not a test of its own: the process that is killed. It writes without end and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `acknowledged_appends_survive_kill_9` as a child process"]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(SqliteOptions::in_dir(dir)).await.unwrap());
    let shards: Vec<_> = ShardId::all().collect();
    let epoch = journal.seal(&shards, "child").await.unwrap()[0].1;
    let writers: Vec<_> = (0..ENTITIES)
        .map(|n| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                let entity = contract::queue(&format!("q{n}"));
                let mut count = journal.load_entity(&entity).await.unwrap().count;
                loop {
                    journal.append(contract::append(&entity, epoch, count, 3)).await.unwrap();
                    count += 3;
                    // One write call a line: the parent reads whole lines or nothing.
                    std::io::stdout().write_all(format!("ack {n} {count}\n").as_bytes()).unwrap();
                }
            })
        })
        .collect();
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn acknowledged_appends_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 1..=5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            let Some(rest) = line.strip_prefix("ack ") else { continue };
            let (n, count) = rest.split_once(' ').unwrap();
            acknowledged.insert(n.parse::<usize>().unwrap(), count.parse::<u64>().unwrap());
            seen += 1;
            // The rest of the pipe is read to its end: those were acknowledged too.
            if seen == 150 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let journal: Arc<dyn Journal> =
            Arc::new(SqliteJournal::open(SqliteOptions::in_dir(dir.path())).await.unwrap());
        contract::assert_dense(&contract::whole_tail(&journal).await);
        for (n, count) in &acknowledged {
            let history = journal.load_entity(&contract::queue(&format!("q{n}"))).await.unwrap();
            assert!(
                history.count >= *count,
                "round {round}: q{n} lost {} acknowledged events",
                count - history.count
            );
            assert_eq!(history.count % 3, 0, "round {round}: half an append");
            let numbers: Vec<_> = history
                .events
                .iter()
                .map(|e| u64::from_be_bytes(e.payload[..].try_into().unwrap()))
                .collect();
            assert!((1..).zip(&numbers).all(|(i, n)| i == *n), "round {round}: content of q{n}");
        }
        journal.close().await;
    }
}
