//! What the host promises when shards go and come back.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Fixture, TallyInput as In, entity, eventually};
use trunkline_actors::{Activation, Refused};
use trunkline_journal::Journal;
use trunkline_types::{EntityAddress, ShardId};

const PATIENCE: Duration = Duration::from_secs(10);

/// Two entities of different shards.
fn two() -> (EntityAddress, EntityAddress) {
    let (a, b) = (entity("a"), entity("b"));
    assert_ne!(a.shard(), b.shard());
    (a, b)
}

#[tokio::test]
async fn a_released_shard_commits_what_it_admitted_and_takes_nothing_more() {
    let f = Fixture::start().await;
    let (a, b) = two();
    for address in [&a, &b] {
        f.host.deliver(address, In::Add(1), Activation::CreateNew).unwrap();
    }
    eventually("both run", async || f.effects.all().len() == 2).await;
    f.journal.hold();
    for _ in 0..10 {
        f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
    }
    // Its deadline is the next owner's, not this one's.
    f.host.deliver(&a, In::AddAfter(5_000, 1_000), Activation::OnlyExisting).unwrap();
    let (host, shard) = (f.host.clone(), a.shard());
    let releasing = tokio::spawn(async move { host.release(&[shard], PATIENCE).await });
    let mut admitted = 11;
    while f.host.deliver(&a, In::Add(1), Activation::OnlyExisting) != Err(Refused::NotOwner) {
        admitted += 1;
        assert!(admitted < 200, "the release never began");
        tokio::task::yield_now().await;
    }
    assert!(!releasing.is_finished(), "its commits are under way");
    assert_eq!(f.host.deliver(&b, In::Add(1), Activation::OnlyExisting), Ok(()), "another shard goes on");
    f.journal.release();
    assert!(releasing.await.unwrap());
    assert_eq!(f.total(&a).await, None, "ended");
    let history = f.journal.load_entity(&a).await.unwrap();
    assert_eq!(history.count, admitted, "all that was admitted is committed, and nothing else");
    f.stop().await;
}

#[tokio::test]
async fn a_shard_that_hangs_is_reported_and_ends_when_the_journal_answers() {
    let f = Fixture::start().await;
    let (a, _) = two();
    f.host.deliver(&a, In::Add(1), Activation::CreateNew).unwrap();
    eventually("runs", async || f.effects.all().len() == 1).await;
    f.journal.hold();
    f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
    assert!(!f.host.release(&[a.shard()], Duration::from_millis(50)).await);
    f.journal.release();
    eventually("ended", async || f.host.count() == 0).await;
    f.stop().await;
}

#[tokio::test]
async fn a_shard_that_comes_back_goes_on_at_its_new_epoch() {
    let f = Fixture::start().await;
    let (a, b) = two();
    for address in [&a, &b] {
        f.host.deliver(address, In::Add(3), Activation::CreateNew).unwrap();
    }
    eventually("both run", async || f.effects.all().len() == 2).await;
    for round in 1..=3 {
        assert!(f.host.release(&[a.shard()], PATIENCE).await);
        f.placement.lose(a.shard());
        assert_eq!(f.host.deliver(&a, In::Add(1), Activation::OnlyExisting), Err(Refused::NotOwner));
        f.placement.seal(f.journal.as_ref(), &[a.shard()]).await;
        assert_eq!(f.host.recover_all(&[a.shard()]).await.unwrap(), 1);
        f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
        eventually("goes on", async || f.total(&a).await == Some(3 + round)).await;
    }
    let epochs: Vec<_> =
        f.effects.all().iter().filter(|said| said.id.shard == a.shard()).map(|s| s.id.epoch).collect();
    assert!(epochs.is_sorted() && epochs[0] < *epochs.last().unwrap(), "{epochs:?}");
    assert_eq!(f.total(&b).await, Some(3), "never touched");
    assert!(f.lost().is_empty(), "{:?}", f.lost());
    f.stop().await;
}

#[tokio::test]
async fn an_actor_of_a_former_epoch_does_not_live_on() {
    let f = Fixture::start().await;
    let (a, b) = two();
    for address in [&a, &b] {
        f.host.deliver(address, In::Add(1), Activation::CreateNew).unwrap();
        // Would be said at the former epoch.
        f.host.deliver(address, In::AddAfter(150, 50), Activation::OnlyExisting).unwrap();
    }
    eventually("both run", async || f.effects.all().len() == 2).await;
    let before = f.placement.epoch(&a);
    // Lost and sealed again without a release: the process slept, say. One is found by a message, one by recovery.
    f.placement.seal(f.journal.as_ref(), &[a.shard(), b.shard()]).await;
    f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
    assert_eq!(f.host.recover_all(&[b.shard()]).await.unwrap(), 1);
    eventually("both are rebuilt", async || f.total(&a).await == Some(2) && f.total(&b).await == Some(1))
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        f.effects.totals().iter().all(|total| *total < 50),
        "the former ones' deadlines are gone with them"
    );
    let later = f.effects.all();
    assert!(
        later[2..]
            .iter()
            .filter(|said| said.id.shard != entity("c").shard())
            .all(|said| said.id.epoch > before),
        "{later:?}"
    );
    f.stop().await;
}

#[tokio::test]
async fn a_timer_of_a_former_epoch_decides_nothing() {
    let f = Fixture::start().await;
    let (a, _) = two();
    f.host.deliver(&a, In::Add(1), Activation::CreateNew).unwrap();
    f.host.deliver(&a, In::AddAfter(50, 50), Activation::OnlyExisting).unwrap();
    eventually("runs", async || f.effects.all().len() == 1).await;
    f.placement.seal(f.journal.as_ref(), &[a.shard()]).await;
    // Nobody sends a message and nobody recovers it: its own timer finds that it has outlived its epoch.
    eventually("ended", async || f.total(&a).await.is_none()).await;
    assert_eq!(f.effects.totals(), [1]);
    assert_eq!(f.journal.load_entity(&a).await.unwrap().count, 1);
    f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
    eventually("comes back at the new epoch", async || f.total(&a).await == Some(2)).await;
    f.stop().await;
}

#[tokio::test]
async fn what_waits_for_an_entity_that_is_being_rebuilt_is_handled_before_the_shard_goes() {
    let f = Fixture::start().await;
    let (a, _) = two();
    f.host.deliver(&a, In::Add(1), Activation::CreateNew).unwrap();
    eventually("runs", async || f.effects.all().len() == 1).await;
    assert!(f.host.release(&[a.shard()], PATIENCE).await);
    f.placement.seal(f.journal.as_ref(), &[a.shard()]).await;
    // Admitted while it is read from the journal, and let go in the same breath.
    f.host.deliver(&a, In::Add(5), Activation::OnlyExisting).unwrap();
    assert!(f.host.release(&[a.shard()], PATIENCE).await);
    assert_eq!(f.host.count(), 0);
    assert_eq!(f.journal.load_entity(&a).await.unwrap().count, 2, "the message was not lost");
    // The same when the map has changed before the host is told.
    f.placement.seal(f.journal.as_ref(), &[a.shard()]).await;
    f.host.deliver(&a, In::Add(5), Activation::OnlyExisting).unwrap();
    f.placement.lose(a.shard());
    assert!(f.host.release(&[a.shard()], PATIENCE).await);
    assert_eq!(f.host.count(), 0);
    assert_eq!(f.journal.load_entity(&a).await.unwrap().count, 3, "this one neither");
    assert!(f.undeliverable().is_empty());
    f.stop().await;
}

#[tokio::test]
async fn a_broadcast_reaches_all_and_names_those_without_room() {
    let f = Fixture::with(|options| options.permits = 2).await;
    let addresses: Vec<_> = (0..50).map(|n| entity(&format!("e{n}"))).collect();
    for address in &addresses {
        f.host.deliver(address, In::Add(1), Activation::CreateNew).unwrap();
    }
    eventually("all run", async || f.effects.all().len() == 50).await;
    f.journal.hold();
    for _ in 0..2 {
        f.host.deliver(&addresses[7], In::Add(1), Activation::OnlyExisting).unwrap();
    }
    let full = f.host.broadcast(|| In::Add(10));
    assert_eq!(full, [addresses[7].clone()]);
    f.journal.release();
    eventually("the caller tries again", async || {
        full.iter().all(|address| f.host.deliver(address, In::Add(10), Activation::OnlyExisting).is_ok())
    })
    .await;
    eventually("all were told once", async || {
        let mut told = 0;
        for address in &addresses {
            let expected = if *address == addresses[7] { 13 } else { 11 };
            told += usize::from(f.total(address).await == Some(expected));
        }
        told == 50
    })
    .await;
    f.stop().await;
}

#[tokio::test]
async fn many_entities_of_many_shards_go_together() {
    let f = Fixture::start().await;
    for n in 0..500 {
        f.host.deliver(&entity(&format!("e{n}")), In::Add(1), Activation::CreateNew).unwrap();
    }
    eventually("all run", async || f.effects.all().len() == 500).await;
    let all: Vec<_> = ShardId::all().collect();
    let began = std::time::Instant::now();
    assert!(f.host.release(&all, PATIENCE).await);
    println!("500 entities let go in {:?}", began.elapsed());
    assert_eq!(f.host.count(), 0);
    f.stop().await;
}
