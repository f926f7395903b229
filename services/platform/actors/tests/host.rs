//! What the host promises, on a machine that counts.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Effects, Fixture, Said, Tally, TallyInput as In, entity, eventually};
use trunkline_actors::{Activation, Lost, Refused, Undeliverable, now};
use trunkline_cluster::Placement;
use trunkline_journal::{Append, AppendError, Journal, NewEvent, contract::Fault};
use trunkline_types::{ShardId, Timestamp};

#[tokio::test]
async fn effects_wait_for_their_commit_and_later_messages_do_not() {
    let f = Fixture::start().await;
    let a = entity("a");
    f.journal.hold();
    for n in [1, 2, 3] {
        f.host.deliver(&a, In::Add(n), Activation::CreateIfMissing).unwrap();
    }
    eventually("all three are handled on the advanced state", async || f.total(&a).await == Some(6)).await;
    assert_eq!(f.journal.held(), 3, "three appends are under way");
    assert!(f.effects.all().is_empty(), "nothing is said before it is committed");
    f.journal.release_one();
    eventually("the first is said", async || f.effects.totals() == [1]).await;
    f.journal.release();
    eventually("the rest follows in order", async || f.effects.totals() == [1, 3, 6]).await;
    let ids: Vec<_> = f.effects.all().iter().map(|said| said.id).collect();
    assert!(ids.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].i < pair[1].i), "{ids:?}");
    f.stop().await;
}

#[tokio::test]
async fn an_act_first_event_does_not_hold_its_effect_back() {
    let f = Fixture::start().await;
    let a = entity("a");
    f.journal.hold();
    f.host.deliver(&a, In::AddQuickly(5), Activation::CreateIfMissing).unwrap();
    eventually("said before its commit", async || f.effects.totals() == [5]).await;
    f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
    f.host.deliver(&a, In::AddQuickly(1), Activation::OnlyExisting).unwrap();
    eventually("both are handled", async || f.total(&a).await == Some(7)).await;
    assert_eq!(f.effects.totals(), [5], "but behind a first-class one it waits its turn");
    f.journal.release();
    eventually("all are said", async || f.effects.totals() == [5, 6, 7]).await;
    f.stop().await;
}

#[tokio::test]
async fn a_failed_commit_ends_the_actor_and_nothing_of_it_was_seen() {
    let f = Fixture::start().await;
    let a = entity("a");
    f.host.deliver(&a, In::Add(10), Activation::CreateIfMissing).unwrap();
    eventually("committed", async || f.effects.totals() == [10]).await;
    for fault in [Fault::Refuse, Fault::LoseBeforeCommit] {
        f.journal.inner.inject(fault).await;
        let before = f.effects.all().len();
        f.host.deliver(&a, In::Add(100), Activation::OnlyExisting).unwrap();
        eventually("it comes back with what is committed", async || {
            f.effects.all()[before..].iter().any(|said| said.recovered) && f.total(&a).await == Some(10)
        })
        .await;
        assert!(f.effects.all()[before..].iter().all(|said| said.total == 10), "{fault:?}");
    }
    assert!(matches!(f.lost()[0], Lost::Journal(AppendError::Unavailable(_))), "{:?}", f.lost());
    assert!(matches!(f.lost()[1], Lost::Journal(AppendError::Ambiguous(_))), "{:?}", f.lost());
    f.stop().await;
}

#[tokio::test]
async fn a_panic_kills_only_its_entity_which_comes_back_from_the_journal() {
    let f = Fixture::start().await;
    let (a, b) = (entity("a"), entity("b"));
    for (address, n) in [(&a, 1), (&b, 2)] {
        f.host.deliver(address, In::Add(n), Activation::CreateIfMissing).unwrap();
    }
    eventually("both run", async || f.effects.all().len() == 2).await;
    f.host.deliver(&a, In::Panic, Activation::OnlyExisting).unwrap();
    eventually("a recovered", async || f.effects.all().iter().any(|said| said.recovered && said.total == 1))
        .await;
    f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
    f.host.deliver(&b, In::Add(1), Activation::OnlyExisting).unwrap();
    eventually("both go on", async || f.total(&a).await == Some(2) && f.total(&b).await == Some(3)).await;
    assert!(f.effects.all().iter().filter(|said| said.recovered).count() == 1, "b was not touched");
    assert!(matches!(&f.lost()[..], [Lost::Panicked(text)] if text == "as asked"), "{:?}", f.lost());
    f.stop().await;
}

#[tokio::test]
async fn admission_is_bounded_until_decisions_are_committed() {
    let f = Fixture::with(|options| options.permits = 4).await;
    let a = entity("a");
    f.journal.hold();
    f.host.deliver(&a, In::Add(1), Activation::CreateIfMissing).unwrap();
    eventually("active", async || f.total(&a).await == Some(1)).await;
    let outcomes: Vec<_> =
        (0..10).map(|_| f.host.deliver(&a, In::Add(1), Activation::OnlyExisting)).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3, "{outcomes:?}");
    assert!(outcomes[3..].iter().all(|outcome| *outcome == Err(Refused::Full)));
    f.journal.release();
    eventually("permits come back", async || {
        f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).is_ok()
    })
    .await;
    f.stop().await;
}

#[tokio::test]
async fn a_fenced_actor_is_discarded_and_its_shard_given_up() {
    let f = Fixture::start().await;
    let a = entity("a");
    f.host.deliver(&a, In::Add(1), Activation::CreateIfMissing).unwrap();
    eventually("committed", async || f.effects.totals() == [1]).await;
    f.journal.seal(&[a.shard()], "another node").await.unwrap();
    f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
    eventually("gone", async || f.host.count() == 0).await;
    assert_eq!(f.effects.totals(), [1], "the decision of the former owner was never seen");
    assert!(matches!(f.lost()[..], [Lost::Journal(AppendError::Fenced { .. })]));
    assert_eq!(f.host.deliver(&a, In::Add(1), Activation::OnlyExisting), Err(Refused::NotOwner));
    assert!(!f.placement.is_local(&a));
    f.stop().await;
}

#[tokio::test]
async fn finished_entities_go_and_late_messages_are_answered() {
    let f = Fixture::start().await;
    let a = entity("a");
    f.host.deliver(&a, In::Add(1), Activation::CreateNew).unwrap();
    f.host.deliver(&a, In::Finish, Activation::OnlyExisting).unwrap();
    eventually("passivated", async || f.host.count() == 0 && f.effects.totals() == [1]).await;
    assert!(f.journal.load_entity(&a).await.unwrap().finished);
    f.host.deliver(&a, In::Add(1), Activation::OnlyExisting).unwrap();
    f.host.deliver(&entity("nobody"), In::Add(1), Activation::OnlyExisting).unwrap();
    eventually("both are answered", async || f.undeliverable().len() == 2).await;
    let answers = f.undeliverable();
    assert!(answers.contains(&("a".to_owned(), Undeliverable::Finished)), "{answers:?}");
    assert!(answers.contains(&("nobody".to_owned(), Undeliverable::Unknown)), "{answers:?}");
    assert_eq!(f.host.count(), 0);
    f.stop().await;
}

#[tokio::test]
async fn a_restart_finds_the_unfinished_and_only_those() {
    let f = Fixture::with(|options| options.snapshot_every = 3).await;
    for n in 0..20 {
        let address = entity(&format!("e{n}"));
        for _ in 0..=n {
            f.host.deliver(&address, In::Add(1), Activation::CreateIfMissing).unwrap();
        }
        if n % 4 == 0 {
            f.host.deliver(&address, In::Finish, Activation::OnlyExisting).unwrap();
        }
    }
    eventually("finished ones went", async || f.host.count() == 15).await;
    eventually("snapshots were taken", async || {
        f.journal
            .load_entity(&entity("e19"))
            .await
            .unwrap()
            .snapshot
            .is_some_and(|snapshot| snapshot.nth == 18)
    })
    .await;
    assert!(f.host.shutdown(Duration::from_secs(10)).await);
    assert_eq!(f.host.deliver(&entity("e1"), In::Add(1), Activation::OnlyExisting), Err(Refused::Closing));

    let g = f.again().await;
    let all: Vec<_> = ShardId::all().collect();
    assert_eq!(g.host.recover_all(&all).await.unwrap(), 15);
    assert_eq!(g.host.recover_all(&all).await.unwrap(), 15, "asking twice starts nothing twice");
    eventually("each took over once", async || g.effects.all().len() == 15).await;
    let mut totals = g.effects.totals();
    totals.sort_unstable();
    let expected: Vec<u64> = (0..20).filter(|n| n % 4 != 0).map(|n| n + 1).collect();
    assert_eq!(totals, expected);
    g.stop().await;
}

#[tokio::test]
async fn create_new_of_one_that_exists_harms_nothing() {
    let f = Fixture::start().await;
    let a = entity("a");
    let epoch = f.placement.held(a.shard()).unwrap();
    let events = vec![NewEvent::new("tally.added", 1, Timestamp::ZERO, 7_u64.to_be_bytes().to_vec())];
    f.journal.append(Append { entity: a.clone(), epoch, after: 0, events }).await.unwrap();
    f.host.deliver(&a, In::Add(1), Activation::CreateNew).unwrap();
    eventually("rebuilt", async || f.effects.all().iter().any(|said| said.recovered && said.total == 7))
        .await;
    assert!(matches!(f.lost()[..], [Lost::Journal(AppendError::Conflict { actual: 1 })]));
    f.stop().await;
}

#[tokio::test]
async fn a_history_that_cannot_be_understood_keeps_its_entity_down() {
    let f = Fixture::start().await;
    let a = entity("a");
    let epoch = f.placement.held(a.shard()).unwrap();
    let events = vec![NewEvent::new("tally.from_the_future", 9, Timestamp::ZERO, Vec::new())];
    f.journal.append(Append { entity: a.clone(), epoch, after: 0, events }).await.unwrap();
    f.host.deliver(&a, In::Add(1), Activation::CreateIfMissing).unwrap();
    eventually("answered", async || f.undeliverable() == [("a".to_owned(), Undeliverable::Failed)]).await;
    assert!(
        matches!(&f.lost()[..], [Lost::History(why)] if why.contains("tally.from_the_future v9")),
        "{:?}",
        f.lost()
    );
    assert_eq!((f.host.count(), f.journal.load_entity(&a).await.unwrap().count), (0, 1));
    assert!(f.effects.all().is_empty());
    f.stop().await;
}

#[tokio::test]
async fn deadlines_run_by_timer_and_before_the_message_that_comes_late() {
    let f = Fixture::start().await;
    let (a, b) = (entity("a"), entity("b"));
    f.host.deliver(&a, In::AddAfter(30, 5), Activation::CreateIfMissing).unwrap();
    f.host.deliver(&a, In::AddAfter(10, 1), Activation::CreateIfMissing).unwrap();
    eventually("in the order of their deadlines", async || f.effects.totals() == [1, 6]).await;
    // The arbiter is kept busy beyond the deadline: the message behind still sees the deadline's outcome first.
    f.host.deliver(&b, In::AddAfter(5, 1), Activation::CreateIfMissing).unwrap();
    f.host.deliver(&b, In::Stall(20), Activation::CreateIfMissing).unwrap();
    f.host.deliver(&b, In::Add(10), Activation::CreateIfMissing).unwrap();
    eventually("both", async || f.effects.totals().len() == 4).await;
    assert_eq!(f.effects.totals()[2..], [1, 11]);
    f.stop().await;
}

/// Actors whose deadlines are far and in the same tenth of a second are woken at its end, together; one that is near is woken
/// at its instant.
#[tokio::test]
async fn far_deadlines_are_met_together() {
    let f = Fixture::start().await;
    let began = now().as_micros();
    // More than five seconds away also when the messages wait.
    let tenth = (began + 7_000_000).div_euclid(100_000) * 100_000;
    let far: Vec<_> = (0..8).map(|n| (entity(&format!("far-{n}")), tenth + 10_000 + n * 8_000)).collect();
    for (address, deadline) in &far {
        let left = u64::try_from(*deadline - now().as_micros()).unwrap().div_ceil(1_000);
        f.host.deliver(address, In::AddAfter(left, 1), Activation::CreateNew).unwrap();
    }
    let near = entity("near");
    f.host.deliver(&near, In::AddAfter(330, 1), Activation::CreateNew).unwrap();
    eventually("all of them", async || f.effects.totals().len() == 9).await;
    let woken = async |address| f.journal.load_entity(address).await.unwrap().events[0].at.as_micros();
    for (address, deadline) in &far {
        let woken = woken(address).await;
        assert!(
            woken >= tenth + 100_000,
            "{address}: due {deadline}, woken {woken}, its tenth began {tenth}"
        );
    }
    // Not at the end of a tenth: it would be there by chance only if its own instant is.
    let near = woken(&near).await - began;
    assert!((330_000..3_000_000).contains(&near), "{near}");
    f.stop().await;
}

#[tokio::test]
async fn too_many_entities_are_refused_and_existing_ones_go_on() {
    let f = Fixture::with(|options| options.max_entities = 2).await;
    for id in ["a", "b"] {
        f.host.deliver(&entity(id), In::Add(1), Activation::CreateNew).unwrap();
    }
    assert_eq!(f.host.deliver(&entity("c"), In::Add(1), Activation::CreateNew), Err(Refused::Crowded));
    f.host.deliver(&entity("a"), In::Add(1), Activation::OnlyExisting).unwrap();
    eventually("a goes on", async || f.total(&entity("a")).await == Some(2)).await;
    f.stop().await;
}

#[tokio::test]
async fn a_handle_follows_its_actor_and_tells_when_it_has_ended() {
    let f = Fixture::start().await;
    let a = entity("a");
    f.host.deliver(&a, In::Add(1), Activation::CreateNew).unwrap();
    eventually("active", async || f.effects.totals() == [1]).await;
    let handle = f.handles.lock().last().cloned().unwrap();
    handle.try_send(In::Add(1)).unwrap();
    eventually("handled", async || f.effects.totals() == [1, 2]).await;
    handle.try_send(In::Finish).unwrap();
    eventually("ended", async || handle.try_send(In::Add(1)) == Err(Refused::Stopped)).await;
    f.stop().await;
}

#[test]
fn said_and_tally_are_what_they_seem() {
    // Keeps the fixture honest: replaying events gives the state that produced them.
    let mut tally = Tally::default();
    trunkline_types::Machine::apply(&mut tally, &common::TallyEvent::Added(4));
    assert_eq!(tally.total, 4);
    let effects = Arc::new(Effects::default());
    effects.push(Said { total: 1, recovered: false, id: "1:1:1:1".parse().unwrap() });
    assert_eq!(effects.totals(), [1]);
}
