//! The server goes, or the way to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use trunkline_journal::{AppendError, Journal, JournalError, PostgresJournal, contract};
use trunkline_types::{EntityAddress, ShardId};

use super::{
    proxy::{Cut, Proxy},
    support::{database, open, options, server, until},
};

/// The numbers that an entity's events carry.
async fn numbers(journal: &dyn Journal, entity: &EntityAddress) -> Vec<u64> {
    let history = journal.load_entity(entity).await.unwrap();
    history.events.iter().map(|e| u64::from_be_bytes(e.payload[..].try_into().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_connection_breaks_is_committed_exactly_once() {
    let (server, url) = database();
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).await;
    let through = url.replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.address.port()));
    let journal = open(&through).await;
    let (a, b) = (contract::queue("a"), contract::queue("b"));
    let epochs = journal.seal(&[a.shard(), b.shard()], "test").await.unwrap();
    let mut count = 0;
    for cut in [Cut::Request, Cut::Answer, Cut::Answer, Cut::Request] {
        proxy.cut(cut);
        // Two entities, and a pipelined second append that builds on the one in doubt.
        let first = journal.append(contract::append(&a, epochs[0].1, count, 3));
        let other = journal.append(contract::append(&b, epochs[1].1, count, 4));
        let second = journal.append(contract::append(&a, epochs[0].1, count + 3, 1));
        let (first, other, second) = (first.await, other.await, second.await);
        assert!(proxy.is_cut(), "{cut:?} took place");
        let first = first.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
        assert_eq!(first.first_seq, count + 1, "{cut:?}");
        assert_eq!((other.unwrap().last_seq, second.unwrap().last_seq), (count + 4, count + 4), "{cut:?}");
        count += 4;
        for entity in [&a, &b] {
            assert_eq!(numbers(&journal, entity).await, (1..=count).collect::<Vec<_>>(), "{cut:?}");
        }
    }
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_in_doubt_is_fenced_when_the_shard_went_meanwhile() {
    let (server, url) = database();
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).await;
    let through = url.replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.address.port()));
    let (old, new) = (open(&through).await, open(&url).await);
    let (lost, done) = (contract::queue("lost"), contract::queue("done"));
    for (entity, cut) in [(lost, Cut::Request), (done, Cut::Answer)] {
        let epoch = old.seal(&[entity.shard()], "old").await.unwrap()[0].1;
        old.append(contract::append(&entity, epoch, 0, 1)).await.unwrap();
        proxy.cut(cut);
        let pending = old.append(contract::append(&entity, epoch, 1, 1));
        until("the cut", async || proxy.is_cut()).await;
        let sealed = new.seal(&[entity.shard()], "new").await.unwrap()[0].1;
        let outcome = pending.await;
        let count = new.load_entity(&entity).await.unwrap().count;
        // Which of the seal and the second attempt came first is open; what is said is what is there.
        match outcome {
            Ok(_) => assert_eq!(count, 2, "{cut:?}"),
            Err(AppendError::Fenced { current }) => assert_eq!((current, count), (sealed, 1), "{cut:?}"),
            Err(other) => panic!("{cut:?}: {other}"),
        }
        if cut == Cut::Answer && count == 2 {
            assert!(outcome.is_ok(), "it was there before the seal");
        }
    }
    old.close().await;
    new.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_nothing_once_it_is_back() {
    const WRITERS: usize = 12;
    let mut server = server();
    let journal = open(&server.url()).await;
    let all: Vec<_> = ShardId::all().collect();
    let epoch = journal.seal(&all, "test").await.unwrap()[0].1;
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let total = || acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).sum::<u64>();
    let mut writers = Vec::new();
    for w in 0..WRITERS {
        let (journal, acknowledged, stop) = (journal.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let (entity, mut count) = (contract::queue(&format!("w{w}")), 0);
            while !stop.load(Ordering::SeqCst) {
                // Waits through every outage: none fails.
                journal.append(contract::append(&entity, epoch, count, 3)).await.unwrap();
                count += 3;
                acknowledged[w].store(count, Ordering::SeqCst);
            }
        }));
    }
    for round in 1..=3 {
        let before = total();
        until("writers write", async || total() > before + 500).await;
        server.kill();
        assert!(!server.answers());
        until("appends wait", async || journal.delay() > Duration::from_millis(500)).await;
        let read = journal.load_entity(&contract::queue("w0")).await;
        assert!(matches!(read, Err(JournalError::Unavailable(_))), "round {round}: {read:?}");
        let started = Instant::now();
        server.start_again().unwrap();
        let at = total();
        until("it goes on", async || total() > at + 100).await;
        println!("round {round}: appends are committed {:?} after the start", started.elapsed());
        until("nothing is late any more", async || journal.delay() < Duration::from_millis(200)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    for (w, count) in acknowledged.iter().enumerate() {
        let entity = contract::queue(&format!("w{w}"));
        let expected: Vec<u64> = (1..=count.load(Ordering::SeqCst)).collect();
        assert_eq!(numbers(&journal, &entity).await, expected, "w{w}: lost or doubled");
    }
    let journal: Arc<dyn Journal> = Arc::new(journal);
    contract::assert_dense(&contract::whole_tail(&journal).await);
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_and_the_queue_have_an_end_and_liveness_is_not_asked() {
    let mut server = server();
    let options = options(&server.url()).patience(Duration::from_millis(800));
    let journal = PostgresJournal::open(options).await.unwrap();
    let entity = contract::queue("support");
    let epoch = journal.seal(&[entity.shard()], "test").await.unwrap()[0].1;
    journal.append(contract::append(&entity, epoch, 0, 1)).await.unwrap();
    server.kill();
    let started = Instant::now();
    let mut pending: Vec<_> =
        (0..20_000).map(|n| journal.append(contract::append(&entity, epoch, 1 + n, 1))).collect();
    assert!(started.elapsed() < Duration::from_secs(2), "appending never waits");
    assert_eq!(pending.pop().unwrap().await, Err(AppendError::Overloaded), "20,000 do not fit");
    for pending in pending {
        let outcome = pending.await.unwrap_err();
        let told = matches!(
            outcome,
            AppendError::Unavailable(_) | AppendError::Ambiguous(_) | AppendError::Overloaded
        );
        assert!(told, "{outcome:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(journal.delay(), Duration::ZERO, "nothing waits any more");
    server.start_again().unwrap();
    until("it appends again", async || {
        // Whether the first of those in doubt was committed, the journal knows.
        let Ok(history) = journal.load_entity(&entity).await else { return false };
        journal.append(contract::append(&entity, epoch, history.count, 1)).await.is_ok()
    })
    .await;
    server.kill();
    let waiting = journal.append(contract::append(&entity, epoch, 99, 1));
    tokio::time::timeout(Duration::from_secs(15), journal.close())
        .await
        .expect("closing does not wait for a server");
    assert!(waiting.await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_go_on_rising_on_a_server_that_the_data_was_restored_to() {
    let (old, new) = (server(), server());
    let journal: Arc<dyn Journal> = Arc::new(open(&old.url()).await);
    let entity = contract::queue("support");
    let epoch = journal.seal(&[entity.shard()], "test").await.unwrap()[0].1;
    // The old server has counted many transactions.
    old.client(
        "psql",
        &["-qc", "DO $$ BEGIN FOR i IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"],
    )
    .unwrap();
    let before = journal.append(contract::append(&entity, epoch, 0, 3)).await.unwrap();
    journal.close().await;
    let dump = old.client("pg_dump", &["--schema=trunkline", "postgres"]).unwrap();
    let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    std::fs::write(file.path(), dump).unwrap();
    std::os::unix::fs::chown(file.path(), None, None).unwrap();
    std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    new.client("psql", &["-qX", "-v", "ON_ERROR_STOP=1", "-f", file.path().to_str().unwrap()]).unwrap();
    let journal: Arc<dyn Journal> = Arc::new(open(&new.url()).await);
    let after = journal.append(contract::append(&entity, epoch, 3, 2)).await.unwrap();
    assert!(after.position > before.position, "{} > {}", after.position, before.position);
    contract::visible(&journal, after.position).await;
    let rest = journal.tail(before.position, 10).await.unwrap();
    assert_eq!(rest.iter().map(|event| event.nth).collect::<Vec<_>>(), [4, 5]);
    contract::assert_dense(&contract::whole_tail(&journal).await);
    journal.close().await;
}
