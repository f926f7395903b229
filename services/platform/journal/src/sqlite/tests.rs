//! Followers read from memory and from the file by turns: whatever happens, they see exactly the journal.

use std::{collections::BTreeMap, sync::Arc};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::watch;
use trunkline_types::{EntityAddress, Epoch, ShardId, Timestamp};

use super::{SqliteJournal, SqliteOptions, read, store::PLACES_EVERY};
use crate::{
    Append, AppendError, Fault, Journal, NewEvent, StoredEvent,
    contract::{append, assert_dense, queue, whole_tail},
};

/// Room for some ten appends: who stops for a moment falls out of it.
const HELD: usize = 8_000;
const BURSTS: usize = 60;
const FOLLOWERS: u64 = 4;

async fn open(dir: &std::path::Path, held: usize) -> SqliteJournal {
    SqliteJournal::open(SqliteOptions { held, ..SqliteOptions::in_dir(dir) }).await.unwrap()
}

/// Bursts of appends, some of which fail in every way there is. Ends with one that is answered, and gives its position.
async fn write(journal: &SqliteJournal, epoch: Epoch, seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let entities: Vec<_> = (0..12).map(|n| queue(&format!("q{n}"))).collect();
    let mut counts: BTreeMap<EntityAddress, u64> = BTreeMap::new();
    for _ in 0..BURSTS {
        match random.random_range(0..20) {
            0 => journal.inject(Fault::Refuse).await,
            1 => journal.inject(Fault::LoseBeforeCommit).await,
            2 => journal.inject(Fault::LoseAfterCommit).await,
            _ => {}
        }
        let mut pending = Vec::new();
        for _ in 0..random.random_range(1..30) {
            let entity = entities[random.random_range(0..entities.len())].clone();
            let mut event = || {
                let payload = vec![random.random(); random.random_range(0..300)];
                NewEvent::new(
                    "q.happened",
                    3,
                    Timestamp::from_micros(i64::from(payload.len() as u16)),
                    payload,
                )
            };
            let events: Vec<_> = (0..5).map(|_| event()).collect();
            let events = events[..random.random_range(1..=events.len())].to_vec();
            let count = counts.entry(entity.clone()).or_default();
            let (after, made) = (*count, events.len() as u64);
            // Some build on what is not there, some come from an owner of the past.
            let after = after + u64::from(random.random_ratio(1, 30));
            let epoch = Epoch(epoch.0 - u64::from(random.random_ratio(1, 30)));
            *count += made;
            let appended = journal.append(Append { entity: entity.clone(), epoch, after, events });
            pending.push((entity, appended));
        }
        let mut failed = Vec::new();
        for (entity, appended) in pending {
            if appended.await.is_err() {
                failed.push(entity);
            }
        }
        for entity in failed {
            let count = journal.load_entity(&entity).await.unwrap().count;
            counts.insert(entity, count);
        }
    }
    let last = Append {
        entity: queue("last"),
        epoch,
        after: 0,
        events: vec![NewEvent::new("q.ended", 1, Timestamp::ZERO, vec![])],
    };
    journal.append(last).await.unwrap().position
}

/// Reads until `end` is known and reached; gives what it read, and how often from memory and from the file.
async fn follow(
    journal: SqliteJournal,
    mut end: watch::Receiver<Option<u64>>,
    seed: u64,
) -> (Vec<StoredEvent>, [u32; 2]) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut events, mut committed): (Vec<StoredEvent>, _) = (Vec::new(), journal.committed());
    let mut sources = [0; 2];
    loop {
        let after = events.last().map_or(0, |event| event.position);
        let ended = *end.borrow();
        if ended.is_some_and(|end| after >= end) {
            return (events, sources);
        }
        let known = *committed.borrow();
        let most = random.random_range(1..40);
        sources[usize::from(journal.0.ring.tail(after, 1).is_none())] += 1;
        let page = journal.tail(after, most).await.unwrap();
        assert!(page.len() <= most);
        assert!(!page.is_empty() || after >= known, "announced but not visible");
        if !page.is_empty() {
            // What is shown is in the file, and nothing between.
            let mut stored = Vec::new();
            while stored.len() < page.len() {
                let from = stored.last().map_or(after, |event: &StoredEvent| event.position);
                stored.extend(read::tail(&journal.0.readers, from, page.len() - stored.len()).await.unwrap());
            }
            assert_eq!(page, stored);
        }
        events.extend(page);
        // Sometimes it stands still until so much has been written.
        let pause = random.random_range(0..60) * u64::from(random.random_ratio(1, 3));
        let after = events.last().map_or(0, |event| event.position);
        tokio::select! {
            more = committed.wait_for(|known| *known > after + pause) => drop(more.unwrap()),
            over = end.wait_for(Option::is_some), if ended.is_none() => drop(over.unwrap()),
            () = std::future::ready(()), if ended.is_some() => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_see_exactly_the_journal_from_memory_and_file_by_turns() {
    let mut read_from = [0; 2];
    for seed in 1..=6 {
        println!("seed {seed}");
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), HELD).await;
        let shards: Vec<_> = ShardId::all().collect();
        journal.seal(&shards, "before").await.unwrap();
        let epoch = journal.seal(&shards, "test").await.unwrap()[0].1;
        let (ended, end) = watch::channel(None);
        let followers: Vec<_> = (0..FOLLOWERS)
            .map(|n| tokio::spawn(follow(journal.clone(), end.clone(), seed * FOLLOWERS + n)))
            .collect();
        ended.send_replace(Some(write(&journal, epoch, seed).await));
        let mut seen = Vec::new();
        for follower in followers {
            let (events, sources) = follower.await.unwrap();
            (read_from[0], read_from[1]) = (read_from[0] + sources[0], read_from[1] + sources[1]);
            seen.push(events);
        }
        journal.close().await;
        // What memory never saw: the same file, opened anew.
        let again: Arc<dyn Journal> = Arc::new(open(dir.path(), 0).await);
        let whole = whole_tail(&again).await;
        assert_dense(&whole);
        assert!(seen.iter().all(|events| *events == whole), "seed {seed}");
        again.close().await;
    }
    println!("read from memory and file: {read_from:?}");
    assert!(read_from.iter().all(|times| *times > 50), "{read_from:?}: one of the two was hardly tried");
}

#[tokio::test]
async fn what_was_committed_without_an_answer_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), HELD).await;
    let entity = queue("support");
    let epoch = journal.seal(&[entity.shard()], "test").await.unwrap()[0].1;
    journal.append(append(&entity, epoch, 0, 2)).await.unwrap();
    journal.inject(Fault::LoseAfterCommit).await;
    let lost = journal.append(append(&entity, epoch, 2, 1)).await;
    assert!(matches!(lost, Err(AppendError::Ambiguous(_))), "{lost:?}");
    for after in 0..3 {
        assert_eq!(journal.tail(after, 10).await.unwrap().len() as u64, 3 - after);
    }
    journal.close().await;
}

#[tokio::test]
async fn a_closed_journal_shows_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), HELD).await;
    let position = *journal.committed().borrow();
    assert!(journal.tail(position, 1).await.unwrap().is_empty());
    journal.close().await;
    assert!(journal.tail(position, 1).await.is_err());
}

/// How many entries can be found by their entity without a scan, and how many there are.
fn placed(dir: &std::path::Path) -> (u64, u64) {
    let file = rusqlite::Connection::open(dir.join("journal.db")).unwrap();
    let sql = "SELECT (SELECT count(*) FROM place JOIN entry USING (position, entity, nth)), \
               (SELECT count(*) FROM entry)";
    file.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[tokio::test]
async fn histories_are_whole_whether_their_entries_are_in_place_or_not() {
    const ENTITIES: u64 = 7;
    let mut dir = tempfile::tempdir().unwrap();
    let shards: Vec<_> = ShardId::all().collect();
    let entities: Vec<_> = (0..ENTITIES).map(|n| queue(&format!("q{n}"))).collect();
    let mut count = 0;
    for round in 0..3 {
        let journal = open(dir.path(), 0).await;
        let (there, all) = placed(dir.path());
        assert_eq!(there, all, "round {round}: what is recovered is found without a scan");
        let epoch = journal.seal(&shards, "test").await.unwrap()[0].1;
        // The writer has forgotten the entities with its process: it looks them up.
        for entity in entities.iter().filter(|_| count > 0) {
            let twin = journal.append(append(entity, epoch, 0, 1)).await;
            assert_eq!(twin, Err(AppendError::Conflict { actual: count }), "round {round}");
        }
        // In the middle of the last round's entries some are in place and some are not.
        let until = count + PLACES_EVERY * 3 / 2 / ENTITIES / 3 * 3;
        while count < until {
            let pending: Vec<_> =
                entities.iter().map(|entity| journal.append(append(entity, epoch, count, 3))).collect();
            for pending in pending {
                pending.await.unwrap();
            }
            count += 3;
        }
        let (there, all) = placed(dir.path());
        assert!(there > 0 && there < all, "round {round}: {there} of {all} in place");
        journal.inject(Fault::LoseBeforeCommit).await;
        let lost = journal.append(append(&entities[0], epoch, count, 1)).await;
        assert!(matches!(lost, Err(AppendError::Ambiguous(_))));
        for entity in &entities {
            let twin = journal.append(append(entity, epoch, 1, 1)).await;
            assert_eq!(twin, Err(AppendError::Conflict { actual: count }), "looked up on both sides");
            let history = journal.load_entity(entity).await.unwrap();
            let numbers =
                history.events.iter().map(|e| u64::from_be_bytes(e.payload[..].try_into().unwrap()));
            assert!(numbers.eq(1..=count) && history.count == count, "round {round}");
        }
        if round == 0 {
            // As a crash would leave it: nothing is brought up to date.
            let crashed = tempfile::tempdir().unwrap();
            for file in ["journal.db", "journal.db-wal"] {
                std::fs::copy(dir.path().join(file), crashed.path().join(file)).unwrap();
            }
            dir = crashed;
            let (there, all) = placed(dir.path());
            assert!(there < all, "{there} of {all} in place");
        }
        journal.close().await;
    }
}

#[tokio::test]
async fn a_history_is_found_by_keys_alone() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 0).await.close().await;
    let file = rusqlite::Connection::open(dir.path().join("journal.db")).unwrap();
    let mut plan = file.prepare(&format!("EXPLAIN QUERY PLAN {}", read::HISTORY)).unwrap();
    let steps = plan.query_map([1, 1], |row| row.get::<_, String>(3)).unwrap();
    let steps: Vec<_> = steps.map(Result::unwrap).collect();
    let has = |part: &str| steps.iter().any(|step| step.contains(part));
    assert!(has("SEARCH p USING PRIMARY KEY (entity=? AND nth>?)"), "{steps:?}");
    assert!(has("SEARCH v USING INTEGER PRIMARY KEY (rowid=?)"), "{steps:?}");
    assert!(has("SEARCH v USING INTEGER PRIMARY KEY (rowid>?)"), "{steps:?}");
    assert!(!has("SCAN v") && !has("SCAN p"), "{steps:?}");
}
