//! What every implementation of [`Journal`] must do. An implementation's tests call [`all`] with a [`Harness`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use trunkline_types::{CallId, EntityAddress, EntityKind, Epoch, ShardId, TenantId, Timestamp};

use crate::{
    Append, AppendError, Appended, DocumentKey, Journal, JournalError, MAX_APPEND_BYTES, NewEvent, Snapshot,
    StoredEvent,
};

pub use crate::Fault;

/// How the suite gets at an implementation.
#[async_trait]
pub trait Harness: Send + Sync {
    /// An empty journal.
    async fn fresh(&self) -> Arc<dyn Journal>;
    /// Closes the journal and opens the same store again.
    async fn reopen(&self, journal: Arc<dyn Journal>) -> Arc<dyn Journal>;
    /// Makes the next transaction of the journal fail.
    async fn inject(&self, journal: &Arc<dyn Journal>, fault: Fault);
}

/// Runs the whole suite.
pub async fn all(harness: &dyn Harness) {
    fencing(harness).await;
    a_fenced_append_does_not_harm_its_neighbours(harness).await;
    no_holes_behind_a_failed_append(harness).await;
    density_and_order(harness).await;
    ambiguity_is_told_and_the_truth_can_be_read(harness).await;
    the_tail_is_complete_under_concurrency(harness).await;
    finished_entities_are_not_live(harness).await;
    snapshots_shorten_histories(harness).await;
    nothing_is_lost_by_reopening(harness).await;
    invalid_appends_are_refused(harness).await;
    documents_are_versioned(harness).await;
    it_keeps_its_identity(harness).await;
}

pub fn tenant() -> TenantId {
    "default".parse().unwrap()
}

pub fn queue(name: &str) -> EntityAddress {
    EntityAddress::queue(&tenant(), &name.parse().unwrap())
}

pub fn call(shard: ShardId, n: u128) -> EntityAddress {
    EntityAddress::call(&tenant(), CallId::mint(shard, Timestamp::from_millis(1_795_000_000_000), n))
}

pub fn event(n: u64) -> NewEvent {
    NewEvent::new("test.happened", 1, Timestamp::from_millis(n as i64), n.to_be_bytes().to_vec())
}

pub fn append(entity: &EntityAddress, epoch: Epoch, after: u64, events: u64) -> Append {
    let events = (after + 1..=after + events).map(event).collect();
    Append { entity: entity.clone(), epoch, after, events }
}

/// Waits until everything up to a position can be read.
pub async fn visible(journal: &Arc<dyn Journal>, position: u64) {
    let mut committed = journal.committed();
    let reached = committed.wait_for(|known| *known >= position);
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .expect("what is committed can be read soon")
        .unwrap();
}

async fn sealed(journal: &Arc<dyn Journal>, entity: &EntityAddress) -> Epoch {
    journal.seal(&[entity.shard()], "test").await.unwrap()[0].1
}

/// Everything, read by pages. What was committed before is in it.
pub async fn whole_tail(journal: &Arc<dyn Journal>) -> Vec<StoredEvent> {
    let mut events: Vec<StoredEvent> = Vec::new();
    loop {
        let page = journal.tail(events.last().map_or(0, |event| event.position), 97).await.unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}

/// Positions rise; sequence numbers and numbers within entities are dense and rise with them.
pub fn assert_dense(events: &[StoredEvent]) {
    let (mut seqs, mut nths, mut position) = (BTreeMap::new(), BTreeMap::new(), 0);
    for event in events {
        assert!(event.position > position, "position {position} before {event:?}");
        position = event.position;
        assert_eq!(event.shard, event.entity.shard());
        let seq = seqs.entry(event.shard).or_insert(0);
        *seq += 1;
        assert_eq!(event.seq, *seq, "shard order broken at {event:?}");
        let nth = nths.entry(event.entity.clone()).or_insert(0);
        *nth += 1;
        assert_eq!(event.nth, *nth, "entity order broken at {event:?}");
    }
}

pub async fn fencing(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let entity = queue("support");
    let unsealed = journal.append(append(&entity, Epoch(1), 0, 1)).await;
    assert_eq!(
        unsealed,
        Err(AppendError::Fenced { current: Epoch(0) }),
        "a shard that nobody sealed has no owner"
    );
    let old = sealed(&journal, &entity).await;
    journal.append(append(&entity, old, 0, 1)).await.unwrap();
    let new = sealed(&journal, &entity).await;
    assert_eq!(new.0, old.0 + 1);
    for wrong in [old, Epoch(new.0 + 1)] {
        let refused = journal.append(append(&entity, wrong, 1, 1)).await;
        assert_eq!(refused, Err(AppendError::Fenced { current: new }));
    }
    let last = journal.append(append(&entity, new, 1, 1)).await.unwrap();
    visible(&journal, last.position).await;
    assert!(
        matches!(journal.seal_if(entity.shard(), old, "late").await, Err(JournalError::Moved { current }) if current == new)
    );
    let newest = journal.seal_if(entity.shard(), new, "next").await.unwrap();
    let seals = journal.epochs().await.unwrap();
    assert_eq!((seals.len(), seals[0].epoch, seals[0].owner.as_str()), (1, newest, "next"));
    assert_eq!(whole_tail(&journal).await.iter().map(|e| e.epoch).collect::<Vec<_>>(), [old, new]);
    // All shards at once, as a node does that starts.
    let all: Vec<_> = ShardId::all().collect();
    let sealed = journal.seal(&all, "node").await.unwrap();
    assert_eq!(sealed.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), all);
    journal.close().await;
}

pub async fn a_fenced_append_does_not_harm_its_neighbours(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let (ours, lost) = (queue("a"), queue("b"));
    assert_ne!(ours.shard(), lost.shard());
    let epoch = sealed(&journal, &ours).await;
    let stale = sealed(&journal, &lost).await;
    sealed(&journal, &lost).await;
    let pending: Vec<_> = (0..50)
        .map(|n| {
            let (good, bad) =
                (journal.append(append(&ours, epoch, n, 1)), journal.append(append(&lost, stale, 0, 1)));
            (good, bad)
        })
        .collect();
    for (good, bad) in pending {
        visible(&journal, good.await.unwrap().position).await;
        assert!(matches!(bad.await, Err(AppendError::Fenced { .. })));
    }
    let events = whole_tail(&journal).await;
    assert_dense(&events);
    assert!(events.len() == 50 && events.iter().all(|event| event.entity == ours));
    journal.close().await;
}

pub async fn no_holes_behind_a_failed_append(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let entity = queue("support");
    let epoch = sealed(&journal, &entity).await;
    journal.append(append(&entity, epoch, 0, 2)).await.unwrap();
    harness.inject(&journal, Fault::Refuse).await;
    let first = journal.append(append(&entity, epoch, 2, 1));
    let refused = first.await;
    assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
    // It was sent in the belief that the first would succeed.
    let behind = journal.append(append(&entity, epoch, 3, 1)).await;
    assert_eq!(behind, Err(AppendError::Conflict { actual: 2 }));
    journal.append(append(&entity, epoch, 2, 1)).await.unwrap();
    // Two activations of one new entity: one of them wins.
    let new = call(entity.shard(), 7);
    let (a, b) = (journal.append(append(&new, epoch, 0, 1)), journal.append(append(&new, epoch, 0, 1)));
    visible(&journal, a.await.unwrap().position).await;
    assert_eq!(b.await, Err(AppendError::Conflict { actual: 1 }));
    assert_dense(&whole_tail(&journal).await);
    // Also when the journal has forgotten the entity meanwhile.
    let journal = harness.reopen(journal).await;
    let (neighbour, twin) = (call(entity.shard(), 8), append(&new, epoch, 0, 1));
    let (good, twin) = (journal.append(append(&neighbour, epoch, 0, 3)), journal.append(twin));
    let good = good.await.unwrap();
    assert_eq!((good.last_seq, twin.await), (7, Err(AppendError::Conflict { actual: 1 })));
    visible(&journal, good.position).await;
    assert_dense(&whole_tail(&journal).await);
    journal.close().await;
}

pub async fn density_and_order(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let entities: Vec<_> = (0..40).map(|n| queue(&format!("q{n}"))).collect();
    let shards: Vec<_> = entities.iter().map(EntityAddress::shard).collect();
    journal.seal(&shards, "test").await.unwrap();
    let epochs: BTreeMap<_, _> =
        journal.epochs().await.unwrap().into_iter().map(|s| (s.shard, s.epoch)).collect();
    let mut counts = vec![0; entities.len()];
    let mut pending = Vec::new();
    for n in 0..400_u64 {
        // A pattern that visits entities unevenly and with different batch sizes.
        let (i, events) = ((n * n % 37) as usize, n % 5 + 1);
        pending.push(journal.append(append(&entities[i], epochs[&entities[i].shard()], counts[i], events)));
        counts[i] += events;
    }
    let mut last = 0;
    for pending in pending {
        let Appended { first_seq, last_seq, position } = pending.await.unwrap();
        assert!(position > last && last_seq >= first_seq, "commit order is the order of the calls");
        last = position;
    }
    visible(&journal, last).await;
    let events = whole_tail(&journal).await;
    assert_dense(&events);
    assert_eq!(events.len() as u64, counts.iter().sum::<u64>());
    assert_eq!(*journal.committed().borrow(), last);
    for (entity, count) in entities.iter().zip(counts) {
        let history = journal.load_entity(entity).await.unwrap();
        assert_eq!((history.count, history.events.len() as u64), (count, count));
        assert_eq!(history.last_seq, history.events.last().map_or(0, |event| event.seq));
        let of_shard = journal.replay_shard(entity.shard(), 0, 10_000).await.unwrap();
        assert!((1..).zip(&of_shard).all(|(seq, event)| event.seq == seq));
        let rest = journal.replay_shard(entity.shard(), 3, 2).await.unwrap();
        assert_eq!(rest, of_shard.iter().skip(3).take(2).cloned().collect::<Vec<_>>());
    }
    journal.close().await;
}

pub async fn ambiguity_is_told_and_the_truth_can_be_read(harness: &dyn Harness) {
    for (fault, expected) in [(Fault::LoseBeforeCommit, 1), (Fault::LoseAfterCommit, 3)] {
        let journal = harness.fresh().await;
        let entity = queue("support");
        let epoch = sealed(&journal, &entity).await;
        journal.append(append(&entity, epoch, 0, 1)).await.unwrap();
        harness.inject(&journal, fault).await;
        let outcome = journal.append(append(&entity, epoch, 1, 2)).await;
        assert!(matches!(outcome, Err(AppendError::Ambiguous(_))), "{fault:?}: {outcome:?}");
        let history = journal.load_entity(&entity).await.unwrap();
        assert_eq!(history.count, expected, "{fault:?}: all of the append or nothing");
        let last = journal.append(append(&entity, epoch, history.count, 1)).await.unwrap();
        visible(&journal, last.position).await;
        let events = whole_tail(&journal).await;
        assert_dense(&events);
        assert_eq!(events.len() as u64, expected + 1);
        assert_eq!(*journal.committed().borrow(), last.position);
        journal.close().await;
    }
}

pub async fn the_tail_is_complete_under_concurrency(harness: &dyn Harness) {
    const WRITERS: u64 = 16;
    const APPENDS: u64 = 60;
    let journal = harness.fresh().await;
    let all: Vec<_> = ShardId::all().collect();
    let epoch = journal.seal(&all, "test").await.unwrap()[0].1;
    let reader = tokio::spawn({
        let journal = Arc::clone(&journal);
        async move {
            let mut committed = journal.committed();
            let mut events: Vec<StoredEvent> = Vec::new();
            while (events.len() as u64) < WRITERS * APPENDS * 2 {
                let known = *committed.borrow_and_update();
                let page = journal.tail(events.last().map_or(0, |event| event.position), 33).await.unwrap();
                if page.is_empty() {
                    let read = events.last().map_or(0, |event| event.position);
                    assert!(read >= known, "announced but not visible");
                    committed.changed().await.unwrap();
                }
                events.extend(page);
            }
            events
        }
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let (journal, entity) = (Arc::clone(&journal), queue(&format!("w{w}")));
            tokio::spawn(async move {
                for n in 0..APPENDS {
                    journal.append(append(&entity, epoch, n * 2, 2)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let events = tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap();
    assert_dense(&events);
    journal.close().await;
}

pub async fn finished_entities_are_not_live(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let (here, there) = (ShardId::new(5).unwrap(), ShardId::new(6).unwrap());
    let epoch = journal.seal(&[here, there], "test").await.unwrap()[0].1;
    let (waiting, ended, elsewhere) = (call(here, 1), call(here, 2), call(there, 3));
    for entity in [&waiting, &ended, &elsewhere] {
        journal.append(append(entity, epoch, 0, 2)).await.unwrap();
    }
    let mut end = append(&ended, epoch, 2, 1);
    end.events[0].last = true;
    journal.append(end).await.unwrap();
    let journal = harness.reopen(journal).await;
    let live = |shards: Vec<ShardId>| {
        let journal = Arc::clone(&journal);
        async move { journal.live_entities(EntityKind::Call, &shards).await.unwrap() }
    };
    assert_eq!(live(vec![here]).await, std::slice::from_ref(&waiting));
    assert_eq!(live(vec![here, there]).await, [waiting, elsewhere]);
    assert!(journal.live_entities(EntityKind::Queue, &[here]).await.unwrap().is_empty());
    assert!(journal.load_entity(&ended).await.unwrap().finished);
    // An event after the end makes it live again, until the next end.
    journal.append(append(&ended, epoch, 3, 1)).await.unwrap();
    assert_eq!(live(vec![here]).await.len(), 2);
    assert!(!journal.load_entity(&ended).await.unwrap().finished);
    journal.close().await;
}

pub async fn snapshots_shorten_histories(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let entity = queue("support");
    let epoch = sealed(&journal, &entity).await;
    journal.append(append(&entity, epoch, 0, 10)).await.unwrap();
    let snapshot =
        |nth: u64| Snapshot { nth, version: 2, body: format!("state after {nth}").into_bytes().into() };
    journal.put_snapshot(&entity, snapshot(7)).await.unwrap();
    journal.put_snapshot(&entity, snapshot(4)).await.unwrap();
    assert!(matches!(journal.put_snapshot(&entity, snapshot(11)).await, Err(JournalError::Invalid(_))));
    assert!(matches!(
        journal.put_snapshot(&queue("nobody"), snapshot(1)).await,
        Err(JournalError::Invalid(_))
    ));
    let history = journal.load_entity(&entity).await.unwrap();
    assert_eq!(history.snapshot, Some(snapshot(7)), "an older one does not replace a newer one");
    assert_eq!(history.events.iter().map(|event| event.nth).collect::<Vec<_>>(), [8, 9, 10]);
    journal.put_snapshot(&entity, snapshot(10)).await.unwrap();
    let history = journal.load_entity(&entity).await.unwrap();
    assert_eq!((history.events.len(), history.count, history.last_seq), (0, 10, 10));
    journal.close().await;
}

pub async fn nothing_is_lost_by_reopening(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let entity = queue("support");
    let epoch = sealed(&journal, &entity).await;
    let before = journal.append(append(&entity, epoch, 0, 5)).await.unwrap();
    visible(&journal, before.position).await;
    let stored = whole_tail(&journal).await;
    let journal = harness.reopen(journal).await;
    assert_eq!(whole_tail(&journal).await, stored);
    assert_eq!(*journal.committed().borrow(), before.position);
    let after = journal.append(append(&entity, epoch, 5, 1)).await.unwrap();
    assert_eq!(after.first_seq, before.last_seq + 1);
    assert!(after.position > before.position);
    journal.close().await;
    let refused = journal.append(append(&entity, epoch, 6, 1)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(_))), "closed: {refused:?}");
}

pub async fn invalid_appends_are_refused(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let entity = queue("support");
    let epoch = sealed(&journal, &entity).await;
    let big = NewEvent { payload: vec![0; MAX_APPEND_BYTES + 1].into(), ..event(1) };
    for events in [vec![], vec![big]] {
        let outcome = journal.append(Append { entity: entity.clone(), epoch, after: 0, events }).await;
        assert!(matches!(outcome, Err(AppendError::Invalid(_))), "{outcome:?}");
    }
    assert!(whole_tail(&journal).await.is_empty());
    assert_eq!(journal.load_entity(&entity).await.unwrap().count, 0);
    journal.close().await;
}

pub async fn documents_are_versioned(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let key = |id: &str| DocumentKey::new(&tenant(), "queue", id);
    let body = |n: u64| serde_json::json!({ "name": "Support", "n": n });
    let first = journal.put_document(&key("support"), body(1), Some(0)).await.unwrap();
    let second = journal.put_document(&key("support"), body(2), Some(first)).await.unwrap();
    let stale = journal.put_document(&key("support"), body(3), Some(first)).await;
    assert!(matches!(stale, Err(JournalError::RevisionConflict { current }) if current == second));
    let exists = journal.put_document(&key("support"), body(3), Some(0)).await;
    assert!(matches!(exists, Err(JournalError::RevisionConflict { .. })));
    let other = journal.put_document(&key("sales"), body(9), None).await.unwrap();
    assert!(first < second && second < other);
    assert_eq!(*journal.documents_revision().borrow(), other);
    let journal = harness.reopen(journal).await;
    assert_eq!(*journal.documents_revision().borrow(), other);
    let found = journal.get_document(&key("support")).await.unwrap().unwrap();
    assert_eq!((found.revision, found.body), (second, body(2)));
    let old = journal.document_at(&key("support"), first).await.unwrap().unwrap();
    assert_eq!((old.revision, old.body), (first, body(1)));
    let listed = journal.list_documents(&tenant(), "queue").await.unwrap();
    assert_eq!(listed.iter().map(|d| d.key.id.as_str()).collect::<Vec<_>>(), ["sales", "support"]);
    let deleted = journal.delete_document(&key("support"), Some(second)).await.unwrap();
    assert!(journal.get_document(&key("support")).await.unwrap().is_none());
    assert_eq!(journal.list_documents(&tenant(), "queue").await.unwrap().len(), 1);
    assert!(journal.document_at(&key("support"), deleted - 1).await.unwrap().is_some());
    let again = journal.put_document(&key("support"), body(4), Some(0)).await.unwrap();
    assert!(again > deleted, "a deleted document can be made anew");
    journal.close().await;
}

pub async fn it_keeps_its_identity(harness: &dyn Harness) {
    let journal = harness.fresh().await;
    let identity = journal.identity().await.unwrap();
    let journal = harness.reopen(journal).await;
    assert_eq!(journal.identity().await.unwrap(), identity, "the same store is the same journal");
    journal.close().await;
    let other = harness.fresh().await;
    assert_ne!(other.identity().await.unwrap(), identity, "another store is another one");
    other.close().await;
}
