//! A fold that was interrupted anywhere is the fold in one go.

use std::{sync::atomic::Ordering, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use trunkline_types::{EntityKind, Epoch};

use crate::{history::history, support::*};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_and_started_again_at_any_event_it_is_the_same() {
    for seed in [1, 2, 3] {
        let history = history(seed, 120);
        let whole = Place::new(&history);
        whole.tape.show_all();
        let mut running = whole.start().await;
        let expected = running.everything(&history.calls).await;
        running.stop().await;

        let chopped = Place::new(&history);
        let mut random = StdRng::seed_from_u64(seed);
        let (mut shown, mut lives) = (0, 0);
        while shown < history.events.len() {
            let running = chopped.start().await;
            lives += 1;
            // Some events while it runs, ended in the middle of whatever it is doing; some while it does not.
            for _ in 0..random.random_range(0..4) {
                shown = (shown + random.random_range(1..60)).min(history.events.len());
                chopped.tape.show(shown);
                tokio::time::sleep(Duration::from_micros(random.random_range(0..120_000))).await;
            }
            running.stop().await;
            shown = (shown + random.random_range(0..60)).min(history.events.len());
            chopped.tape.show(shown);
        }
        let mut running = chopped.start().await;
        let mut got = running.everything(&history.calls).await;
        let deadline = tokio::time::Instant::now() + SOON;
        while got.1 != expected.1 && tokio::time::Instant::now() < deadline {
            // Lines of calls that are up follow within seconds.
            tokio::time::sleep(Duration::from_millis(200)).await;
            got = running.everything(&history.calls).await;
        }
        println!("{} events in {lives} lives", history.events.len());
        assert_eq!(got.0, expected.0, "live numbers");
        assert_eq!(got.2, expected.2, "intervals");
        for (got, expected) in got.1.iter().zip(&expected.1) {
            assert_eq!(got, expected, "a contact");
        }
        assert_eq!(got.1.len(), expected.1.len());
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agents_event_books_elsewhere_is_not_lost_with_a_restart() {
    // The wrap-up of a call of one queue, right after a start in which only another queue was heard of.
    let history = history(7, 60);
    let place = Place::new(&history);
    for n in 0..history.events.len() {
        if history.events[n].entity.kind == EntityKind::Agent && n % 5 == 0 {
            place.tape.show(n);
            place.start().await.stop().await;
        }
    }
    place.tape.show_all();
    let mut running = place.start().await;
    let live = running.live().await;
    for queue in &live.queues {
        let expected = &history.counted[queue.queue_id.as_str()][1];
        assert_eq!((queue.handled, queue.handle_us), (expected.handled, expected.handle_us));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_file_or_with_one_of_an_older_form_it_is_rebuilt() {
    let history = history(11, 60);
    let place = Place::new(&history);
    place.tape.show_all();
    let mut running = place.start().await;
    let expected = running.everything(&history.calls).await;
    running.stop().await;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.dir.path().join(format!("records.sqlite{suffix}")));
    }
    let mut running = place.start().await;
    assert_eq!(running.everything(&history.calls).await, expected);
    running.stop().await;

    let url = format!("sqlite://{}", place.file().display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    sqlx::query("PRAGMA user_version = 1").execute(&pool).await.unwrap();
    sqlx::query("UPDATE progress SET position = 17").execute(&pool).await.unwrap();
    pool.close().await;
    let mut running = place.start().await;
    assert_eq!(running.everything(&history.calls).await, expected);
    running.stop().await;

    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    sqlx::query("PRAGMA user_version = 99").execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_or_database_that_fails_for_a_while_costs_only_that_while() {
    let history = history(13, 80);
    let whole = Place::new(&history);
    whole.tape.show_all();
    let mut running = whole.start().await;
    let expected = running.everything(&history.calls).await;
    running.stop().await;

    let place = Place::new(&history);
    let mut running = place.start().await;
    place.tape.failures.store(2, Ordering::Relaxed);
    place.tape.show(300);
    running.live_at(300).await;
    assert!(running.metric("errors_total") >= 2.0);

    // The database refuses to be written: another connection holds the lock longer than the writer waits.
    let url = format!("sqlite://{}", place.file().display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let mut lock = pool.acquire().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *lock).await.unwrap();
    let errors = running.metric("errors_total");
    place.tape.show(600);
    let deadline = tokio::time::Instant::now() + SOON;
    while running.metric("errors_total") <= errors {
        assert!(tokio::time::Instant::now() < deadline, "the writer gives up and tries again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sqlx::query("ROLLBACK").execute(&mut *lock).await.unwrap();
    drop(lock);
    pool.close().await;
    place.tape.show_all();
    running.live_at(history.events.len()).await;
    // Nothing was counted twice, in memory or on the disk.
    assert_eq!(running.live().await, expected.0);
    running.stop().await;
    let mut running = place.start().await;
    assert_eq!(running.everything(&history.calls).await, expected);
    running.stop().await;
}

/// What was folded from one journal is not taken for a fold of another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_of_another_journal_is_thrown_away() {
    let (history, other) = (history(17, 80), history(19, 80));
    let (whole, backup) = (history.events.clone(), history.events[..history.events.len() / 2].to_vec());
    let mut overwritten = backup.clone();
    overwritten.extend(other.events[backup.len()..whole.len().min(other.events.len())].iter().cloned());
    overwritten.resize_with(whole.len(), || whole[whole.len() - 1].clone());
    overwritten[whole.len() - 1].epoch = Epoch(1_000_000);
    let cases = [
        ("restored, shorter", 2, backup.clone()),
        ("restored, nothing lost", 2, whole),
        ("put back without a word", 1, backup),
        ("put back without a word and gone on with", 1, overwritten),
    ];
    for (name, identity, now) in cases {
        let mut place = Place::new(&history);
        place.tape.show_all();
        place.start().await.stop().await;

        place.tape = Tape::new(now.clone());
        place.tape.identity.store(identity, Ordering::Relaxed);
        place.tape.show_all();
        let mut running = place.start().await;
        assert_eq!(running.metric("rebuilds_total"), 1.0, "{name}");
        let fresh = Place { dir: tempfile::tempdir().unwrap(), tape: Tape::new(now) };
        fresh.tape.show_all();
        let mut expected = fresh.start().await;
        let calls: Vec<_> = history.calls.iter().chain(&other.calls).cloned().collect();
        assert_eq!(running.everything(&calls).await, expected.everything(&calls).await, "{name}");
        running.stop().await;
        expected.stop().await;
        let again = place.start().await;
        assert_eq!(again.metric("rebuilds_total"), 0.0, "{name}: once");
        again.stop().await;
    }
}

/// A file of before journals had identities is gone on with, by this program and by the one of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_before_identities_is_adopted() {
    let history = history(23, 60);
    let place = Place::new(&history);
    place.tape.show(300);
    place.start().await.stop().await;
    let url = format!("sqlite://{}", place.file().display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    for column in ["journal", "mark"] {
        let statement = format!("ALTER TABLE progress DROP COLUMN {column}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    pool.close().await;

    place.tape.show(400);
    let running = place.start().await;
    assert_eq!(running.metric("rebuilds_total"), 0.0);
    running.stop().await;
    // The program of before goes on with it: it knows neither column.
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let journal: i64 = sqlx::query_scalar("SELECT journal FROM progress").fetch_one(&pool).await.unwrap();
    assert_eq!(journal, 1, "adopted");
    sqlx::query("UPDATE progress SET position = 350, contacts = 350").execute(&pool).await.unwrap();
    pool.close().await;
    let running = place.start().await;
    assert_eq!(running.metric("rebuilds_total"), 0.0, "the mark is of another position and says nothing");
    running.stop().await;
    place.tape.identity.store(2, Ordering::Relaxed);
    let running = place.start().await;
    assert_eq!(running.metric("rebuilds_total"), 1.0);
    running.stop().await;
}
