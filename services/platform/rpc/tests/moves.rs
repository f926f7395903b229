//! What the bus promises when shards move and nodes go.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Node, Options, assign, eventually, introduce, message, queue, within};
use trunkline_cluster::Placement;
use trunkline_rpc::{LinkOptions, Refused};
use trunkline_types::ShardId;

fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_owner_waits_in_order_and_within_limits() {
    let links = LinkOptions { held_shard: 20, ..LinkOptions::default() };
    let (a, b) = (Node::with("a", Options { links, ..Options::default() }).await, Node::start("b").await);
    introduce(&[&a, &b]);
    let (remote, local, lost) = (queue("remote"), queue("local"), queue("lost"));
    for n in 1..=20 {
        a.bus.send(message(&remote, n)).unwrap();
        a.bus.send(message(&local, n)).unwrap();
    }
    a.bus.send(message(&lost, 1)).unwrap();
    assert_eq!(a.bus.send(message(&remote, 21)), Err(Refused::Full));
    assert_eq!(a.figure("held_back"), 41);
    assert_eq!((a.queues.count(), b.queues.count()), (0, 0));
    assign(&[&a, &b], remote.shard(), &b, 1);
    // Ours by the map, and not sealed yet: still nothing.
    a.view.owns(local.shard(), Some((&a.identity, 1)));
    let all: Vec<u64> = (1..=20).collect();
    eventually("the other node's went to it", || b.queues.numbers() == all).await;
    assert_eq!(a.queues.count(), 0);
    a.view.seal(local.shard(), Some(1));
    eventually("ours were delivered", || a.queues.numbers() == all).await;
    within(Duration::from_secs(10), "nobody came for the last one", || a.figure("held_back") == 0).await;
    assert_eq!(a.figure("held_back_ended_total{outcome=\"expired\"}"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_owner_passes_on_once_and_tells_the_sender() {
    let (a, b, c) = (Node::start("a").await, Node::start("b").await, Node::start("c").await);
    introduce(&[&a, &b, &c]);
    let q = queue("support");
    assign(&[&a, &b, &c], q.shard(), &c, 7);
    // The sender has an older map.
    a.view.owns(q.shard(), Some((&b.identity, 6)));
    b.view.owns(q.shard(), Some((&c.identity, 7)));
    a.bus.send(message(&q, 1)).unwrap();
    eventually("passed on", || c.queues.numbers() == [1]).await;
    assert_eq!((b.queues.count(), b.link("sent")), (0, 1));
    eventually("the sender has learnt", || {
        let before = b.link("sent");
        a.bus.send(message(&q, 2)).unwrap();
        a.figure("link_queued{lane=\"control\"}") == 0 && b.link("sent") == before && c.queues.count() > 2
    })
    .await;
    // Two maps that each name the other: an envelope goes the way once, and not for ever.
    b.view.owns(q.shard(), Some((&c.identity, 8)));
    c.view.owns(q.shard(), Some((&b.identity, 8)));
    c.view.seal(q.shard(), None);
    let (from_b, from_c) = (b.link("sent"), c.link("sent"));
    let lost = || b.link("hops") + c.link("hops");
    let before = lost();
    a.bus.send(message(&q, 3)).unwrap();
    eventually("dropped after one hop", || lost() > before).await;
    assert!(b.link("sent") - from_b + c.link("sent") - from_c <= 1);
}

/// A shard goes to and fro under traffic. Nothing is lost, nothing comes twice, although every node learns at another
/// time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_under_traffic_lose_nothing() {
    let (a, b, c) = (Node::start("a").await, Node::start("b").await, Node::start("c").await);
    let nodes = [&a, &b, &c];
    introduce(&nodes);
    let q = queue("support");
    let shard = q.shard();
    assign(&nodes, shard, &b, 1);
    const ROUNDS: u64 = 30;
    const EACH: u64 = 300;
    let mut n = 0;
    let burst = async |n: &mut u64, many: u64| {
        for _ in 0..many {
            *n += 1;
            a.insist(message(&q, *n)).await;
            if n.is_multiple_of(16) {
                tokio::task::yield_now().await;
            }
        }
    };
    let settle = async |n: u64| {
        let arrived = || b.queues.count() + c.queues.count() >= n as usize;
        let all = tokio::time::timeout(Duration::from_secs(20), async {
            while !arrived() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        if all.await.is_err() {
            let losses =
                ["hops", "full", "expired", "unroutable"].map(|why| (why, nodes.map(|node| node.link(why))));
            panic!("lost: {losses:?}, held back: {:?}", nodes.map(|node| node.figure("held_back")));
        }
    };
    for round in 0..ROUNDS {
        let (from, to) = if round % 2 == 0 { (&b, &c) } else { (&c, &b) };
        let epoch = round + 2;
        burst(&mut n, EACH / 3).await;
        // The new owner sees the map first, asks the former one to let go, seals; the sender learns last.
        to.view.owns(shard, Some((&to.identity, epoch)));
        burst(&mut n, EACH / 3).await;
        assert!(from.bus.close_shards(&[shard], Duration::from_secs(5)).await);
        let at_release = from.queues.count();
        burst(&mut n, EACH / 3).await;
        assert_eq!(from.queues.count(), at_release, "nothing gets through a closed shard");
        from.view.owns(shard, Some((&to.identity, epoch)));
        from.view.seal(shard, None);
        to.view.seal(shard, Some(epoch));
        a.view.owns(shard, Some((&to.identity, epoch)));
        // What is passed on is passed on once: a shard that moves again before it has arrived would lose it.
        settle(n).await;
    }
    burst(&mut n, EACH).await;
    settle(n).await;
    let mut all = b.queues.numbers();
    all.extend(c.queues.numbers());
    assert_eq!(sorted(all), (1..=n).collect::<Vec<_>>(), "each once");
    println!("{n} messages, {} moves, {} passed on", ROUNDS, b.link("sent") + c.link("sent"));
    assert_eq!(a.bus.send(message(&queue("other"), 1)), Ok(()), "and it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_owner_has_not_acknowledged_goes_to_its_successor() {
    let (a, b, c) = (Node::start("a").await, Node::start("b").await, Node::start("c").await);
    introduce(&[&a, &b, &c]);
    let q = queue("support");
    assign(&[&a, &b, &c], q.shard(), &b, 1);
    a.bus.send(message(&q, 1)).unwrap();
    eventually("b has it", || b.queues.count() == 1).await;
    eventually("acknowledged", || a.figure("link_queued{lane=\"control\"}") == 0).await;
    let (b_id, b_identity) = (b.identity.id.clone(), b.identity.clone());
    b.kill().await;
    for n in 2..=50 {
        a.bus.send(message(&q, n)).unwrap();
    }
    // Its lease ends; nobody has the shard; then c has.
    a.view.gone(&b_id);
    assert!(a.view.owner(q.shard()).is_some_and(|owner| owner.is(&b_identity)), "the map is behind");
    for n in 51..=60 {
        a.bus.send(message(&q, n)).unwrap();
    }
    assign(&[&a, &c], q.shard(), &c, 2);
    eventually("c has the rest", || c.queues.count() == 59).await;
    assert_eq!(c.queues.numbers(), (2..=60).collect::<Vec<_>>(), "in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_when_what_waits_is_sent_on_by_a_new_map() {
    let (a, b, c) = (Node::start("a").await, Node::start("b").await, Node::start("c").await);
    introduce(&[&a, &c]);
    let q = queue("support");
    // b is a member at an address where nobody answers.
    a.view.member(&common::info(&b.identity, "127.0.0.1:9"));
    a.view.owns(q.shard(), Some((&b.identity, 1)));
    c.view.seal(q.shard(), Some(2));
    let mut n = 0;
    for round in 0..50 {
        for _ in 0..20 {
            n += 1;
            a.bus.send(message(&q, n)).unwrap();
        }
        if round == 25 {
            a.view.owns(q.shard(), Some((&c.identity, 2)));
        }
    }
    eventually("all arrived", || c.queues.count() >= n as usize).await;
    assert_eq!(c.queues.numbers(), (1..=n).collect::<Vec<_>>());
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_one_node_do_not_wait_for_each_other() {
    let a = Node::start("a").await;
    introduce(&[&a]);
    let (open, shut) = (queue("open"), queue("shut"));
    assert_ne!(open.shard(), shut.shard());
    a.view.owns(open.shard(), Some((&a.identity, 1)));
    a.view.owns(shut.shard(), Some((&a.identity, 1)));
    let all: Vec<ShardId> = vec![open.shard(), shut.shard()];
    all.iter().for_each(|shard| a.view.seal(*shard, Some(1)));
    assert!(a.bus.close_shards(&[shut.shard()], Duration::from_secs(1)).await);
    a.bus.send(message(&shut, 1)).unwrap();
    a.bus.send(message(&open, 2)).unwrap();
    assert_eq!(a.queues.numbers(), [2], "at once, and only the open one");
    a.view.seal(shut.shard(), Some(2));
    eventually("sealed again", || a.queues.numbers() == [2, 1]).await;
}
