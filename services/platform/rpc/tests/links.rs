//! What links promise: order, once, across cuts, delays and silence.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::{
    Node, Options, an_hour_ahead, assign, eventually, id, introduce, message, now, proxy::Proxy, queue,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use trunkline_proto::common::v1::{Envelope, Role};
use trunkline_rpc::{LinkOptions, Refused};

/// Two nodes; what `a` says to `b` goes through the proxy.
async fn pair(options: LinkOptions) -> (Node, Node, Proxy) {
    let a = Node::with("a", Options { links: options, ..Options::default() }).await;
    let b = Node::start("b").await;
    let proxy = Proxy::start(b.address).await;
    introduce(&[&a, &b]);
    a.view.member(&b.at(proxy.address));
    (a, b, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entities_and_roles_are_reached_on_the_node_that_has_them() {
    let (a, b, _proxy) = pair(LinkOptions::default()).await;
    let q = queue("support");
    assign(&[&a, &b], q.shard(), &b, 1);
    a.bus.send(message(&q, 1)).unwrap();
    let to_media = |node: &str, n| {
        let to = Some(trunkline_rpc::node(&id(node), Role::Media));
        Envelope { to, ..message(&q, n) }
    };
    a.bus.send(to_media("b", 2)).unwrap();
    b.bus.send(to_media("a", 3)).unwrap();
    a.bus.send(to_media("a", 4)).unwrap();
    // What b says may be there before it: they have no order between them.
    assert!(a.media.numbers().contains(&4), "the node's own need no link");
    assert_eq!(a.bus.send(to_media("nobody", 5)), Err(Refused::Unroutable));
    eventually("all arrived", || {
        b.queues.numbers() == [1] && b.media.numbers() == [2] && a.media.count() == 2
    })
    .await;
    assert_eq!(a.queues.count(), 0);
    eventually("all are acknowledged", || a.figure("link_queued{lane=\"control\"}") == 0).await;
    assert!(a.bus.shutdown(Duration::from_secs(5)).await, "nothing is left");
}

/// Many cuts at random moments, some of them in the midst of a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_nothing_double_nothing_and_keep_the_order() {
    let seed = std::env::var("SEED").map_or(20_261_122, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (a, b, proxy) =
        pair(LinkOptions { first_pause: Duration::from_millis(2), ..LinkOptions::default() }).await;
    let q = queue("support");
    assign(&[&a, &b], q.shard(), &b, 1);
    const N: u64 = 30_000;
    for n in 1..=N {
        a.insist(message(&q, n)).await;
        match random.random_range(0..1_000) {
            0 => proxy.cut(),
            1 => proxy.cut_after(random.random_range(1..200_000)),
            2 => proxy.cut_after(0),
            3 => proxy.delay(Duration::from_micros(random.random_range(0..2_000))),
            4..100 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    proxy.cut_after(0);
    proxy.delay(Duration::ZERO);
    eventually("the last one arrived", || b.queues.last() == Some(N)).await;
    let numbers = b.queues.numbers();
    let lost = ["expired", "full", "unroutable"].map(|why| (why, a.link(why), b.link(why)));
    assert_eq!(numbers.len(), N as usize, "{lost:?} none is lost, none comes twice");
    assert!(numbers.is_sorted(), "in order");
    println!(
        "{} connections, {} sent again, {} dropped as duplicates",
        proxy.accepted(),
        a.link("resent"),
        b.link("duplicate")
    );
    assert!(proxy.accepted() > 5, "the test has cut: {}", proxy.accepted());
    assert!(a.link("resent") > 0 && b.link("duplicate") > 0, "and it mattered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_swallows_is_given_up_by_its_pings() {
    let (a, b, proxy) = pair(LinkOptions::default()).await;
    let q = queue("support");
    assign(&[&a, &b], q.shard(), &b, 1);
    a.bus.send(message(&q, 1)).unwrap();
    eventually("connected", || b.queues.count() == 1).await;
    proxy.swallow();
    let began = Instant::now();
    a.bus.send(message(&q, 2)).unwrap();
    eventually("over a new connection", || b.queues.numbers() == [1, 2]).await;
    println!("noticed after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(9), "ping, answer, and some");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_late_is_dropped_before_it_is_sent() {
    let patience = Duration::from_millis(300);
    let (a, b, proxy) = pair(LinkOptions { patience, ..LinkOptions::default() }).await;
    let q = queue("support");
    assign(&[&a, &b], q.shard(), &b, 1);
    proxy.refuse(true);
    let deadline = |after: Duration| now().plus(after).as_micros();
    a.bus.send(Envelope { deadline_us: deadline(Duration::from_millis(50)), ..message(&q, 1) }).unwrap();
    a.bus.send(message(&q, 2)).unwrap();
    tokio::time::sleep(patience * 2).await;
    // Sent before the link is back, and worth it.
    a.bus.send(Envelope { deadline_us: deadline(Duration::from_secs(20)), ..message(&q, 3) }).unwrap();
    proxy.refuse(false);
    eventually("the fresh one arrived", || b.queues.count() > 0).await;
    assert_eq!(b.queues.numbers(), [3]);
    assert_eq!(a.link("expired"), 2);
    let late = Envelope { deadline_us: now().as_micros() - 1, ..message(&q, 4) };
    assert_eq!(a.bus.send(late), Err(Refused::Expired));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_survive_clocks_that_disagree() {
    let a = Node::start("a").await;
    let ahead = Node::with("ahead", Options { clock: Some(an_hour_ahead), ..Options::default() }).await;
    introduce(&[&a, &ahead]);
    let (there, here) = (queue("there"), queue("here"));
    assign(&[&a, &ahead], there.shard(), &ahead, 1);
    assign(&[&a, &ahead], here.shard(), &a, 1);
    let in_5_s = |clock: fn() -> trunkline_types::Timestamp| clock().plus(Duration::from_secs(5)).as_micros();
    a.bus.send(Envelope { deadline_us: in_5_s(now), ..message(&there, 1) }).unwrap();
    ahead.bus.send(Envelope { deadline_us: in_5_s(an_hour_ahead), ..message(&here, 2) }).unwrap();
    eventually("both arrive", || ahead.queues.numbers() == [1] && a.queues.numbers() == [2]).await;
    assert_eq!(a.link("expired") + ahead.link("expired"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_link_refuses_and_goes_on_when_it_is_back() {
    let (a, b, proxy) = pair(LinkOptions { queued: 10, ..LinkOptions::default() }).await;
    let q = queue("support");
    assign(&[&a, &b], q.shard(), &b, 1);
    proxy.refuse(true);
    // Behind it everything goes to the link at once.
    a.bus.send(message(&q, 0)).unwrap();
    eventually("linked", || a.figure("link_queued{lane=\"control\"}") == 1).await;
    let outcomes: Vec<_> = (1..=11).map(|n| a.bus.send(message(&q, n))).collect();
    assert!(outcomes[..9].iter().all(Result::is_ok));
    assert_eq!(outcomes[9..], [Err(Refused::Full), Err(Refused::Full)]);
    assert_eq!(a.link("full"), 2);
    proxy.refuse(false);
    eventually("the ten arrive", || b.queues.numbers() == (0..10).collect::<Vec<_>>()).await;
    let large = "x".repeat(2 << 20);
    let large = Envelope { traceparent: large, ..message(&q, 13) };
    assert_eq!(a.bus.send(large), Err(Refused::Unroutable), "larger than a link takes");
    assert_eq!(a.link("oversize"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_link_disconnects_and_comes_back_with_its_numbers() {
    let idle = Duration::from_millis(50);
    let (a, b, proxy) = pair(LinkOptions { idle, ..LinkOptions::default() }).await;
    let q = queue("support");
    assign(&[&a, &b], q.shard(), &b, 1);
    for n in 1..=3 {
        a.bus.send(message(&q, n)).unwrap();
        eventually("arrived", || b.queues.last() == Some(n)).await;
        eventually("disconnected", || {
            a.figure("link_connects_total{outcome=\"ok\"}") == n
                && a.figure("link_connections{lane=\"control\"}") == 0
        })
        .await;
    }
    assert_eq!((b.queues.numbers(), proxy.accepted()), (vec![1, 2, 3], 3));
    assert_eq!(b.link("duplicate"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_for_another_life_of_the_node_is_not_taken() {
    let (a, b, _proxy) = pair(LinkOptions::default()).await;
    let mut other = b.identity.clone();
    other.incarnation.0 = 99;
    a.view.member(&common::info(&other, &b.address.to_string()));
    let to = Some(trunkline_rpc::node(&b.identity.id, Role::Media));
    a.bus.send(Envelope { to, ..message(&queue("q"), 1) }).unwrap();
    eventually("it was tried", || a.figure("link_connects_total{outcome=\"failed\"}") > 1).await;
    assert_eq!(b.media.count(), 0);
    // The map learns of the life that there is: what waited goes to it.
    a.view.member(&b.info);
    eventually("arrived", || b.media.numbers() == [1]).await;
}

/// What a peer that is no node of ours could send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_make_no_sense_are_refused_and_harm_nothing() {
    use tokio_stream::iter;
    use trunkline_proto::cluster::v1::{
        Batch, Hello, Lane, LinkRequest, link_client::LinkClient, link_request::Message,
    };
    let a = Node::start("a").await;
    introduce(&[&a]);
    let q = queue("support");
    assign(&[&a], q.shard(), &a, 1);
    let channel = trunkline_rpc::dial(&a.address.to_string(), None).unwrap();
    let hello = Hello {
        node: "b".to_owned(),
        incarnation: 1,
        lane: Lane::Control.into(),
        to_node: "a".to_owned(),
        to_incarnation: 1,
        link_id: 5,
    };
    let ask = async |messages: Vec<Message>| {
        let requests = messages.into_iter().map(|message| LinkRequest { message: Some(message) });
        let mut answers = LinkClient::new(channel.clone()).open(iter(requests.collect::<Vec<_>>())).await?;
        let mut last = 0;
        while let Some(answer) = answers.get_mut().message().await? {
            last = answer.acknowledged;
        }
        Ok::<u64, tonic::Status>(last)
    };
    let open = async |messages: Vec<Message>| {
        tokio::time::timeout(Duration::from_secs(20), ask(messages)).await.expect("a stream that never ends")
    };
    let batch = |first, envelopes: &[&[u8]]| {
        let envelopes = envelopes.iter().map(|bytes| bytes.to_vec().into()).collect();
        Message::Batch(Batch { first, envelopes, sent_us: 0 })
    };
    use tonic::Code::{Aborted, FailedPrecondition, InvalidArgument};
    let code = async |messages: Vec<Message>| open(messages).await.unwrap_err().code();
    assert_eq!(code(vec![batch(1, &[])]).await, InvalidArgument, "no hello");
    assert_eq!(code(vec![]).await, InvalidArgument, "nothing at all");
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello.clone();
        change(&mut hello);
        Message::Hello(hello)
    };
    assert_eq!(code(vec![with(|hello| hello.node = "no name!".to_owned())]).await, InvalidArgument);
    assert_eq!(code(vec![with(|hello| hello.lane = 77)]).await, InvalidArgument);
    assert_eq!(code(vec![with(|hello| hello.to_node = "c".to_owned())]).await, Aborted);
    assert_eq!(code(vec![with(|hello| hello.to_incarnation = 2)]).await, Aborted);
    let hi = || Message::Hello(hello.clone());
    assert_eq!(code(vec![hi(), hi()]).await, InvalidArgument, "two hellos");

    use prost::Message as _;
    let good = message(&q, 7).encode_to_vec();
    let nowhere = Envelope::default().encode_to_vec();
    let taken = open(vec![hi(), batch(1, &[b"\xff\xff no envelope", &nowhere, &good])]).await.unwrap();
    assert_eq!((taken, a.queues.numbers()), (3, vec![7]), "the one that makes sense arrives");
    let taken = open(vec![hi(), batch(1, &[&good, &good, &good]), batch(9, &[&good])]).await.unwrap();
    assert_eq!((taken, a.queues.numbers()), (9, vec![7, 7]), "three were known, and numbers may be left out");
    assert_eq!(code(vec![with(|hello| hello.link_id = 4)]).await, FailedPrecondition, "a former link");
    assert_eq!(
        code(vec![hi(), batch(u64::MAX, &[&good, &good])]).await,
        InvalidArgument,
        "beyond all numbers"
    );
}

/// A receiver answers from within its delivery, as shells do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_may_send_while_it_takes() {
    struct Echo(trunkline_rpc::Bus, trunkline_types::EntityAddress);
    impl trunkline_rpc::Deliver for Echo {
        fn deliver(
            &self,
            _: Option<trunkline_types::EntityAddress>,
            envelope: Envelope,
        ) -> Result<(), Refused> {
            let n = envelope.effect.map_or(0, |effect| effect.seq);
            self.0.send(message(&self.1, n))
        }
    }
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    introduce(&[&a, &b]);
    let (here, there) = (queue("here"), queue("there"));
    assert_ne!(here.shard(), there.shard());
    b.bus.attach_role(Role::Edge, std::sync::Arc::new(Echo(b.bus.clone(), there.clone())));
    assign(&[&a, &b], here.shard(), &a, 1);
    let to = Some(trunkline_rpc::node(&b.identity.id, Role::Edge));
    // The answers have no owner yet, then this node itself.
    for n in 1..=100 {
        a.bus.send(Envelope { to: to.clone(), ..message(&here, n) }).unwrap();
    }
    eventually("they wait", || b.figure("held_back") == 100).await;
    assign(&[&a, &b], there.shard(), &b, 1);
    eventually("echoed", || b.queues.numbers() == (1..=100).collect::<Vec<_>>()).await;
    assert!(a.bus.shutdown(Duration::from_secs(5)).await);
    assert_eq!(a.bus.send(Envelope { to, ..message(&here, 1) }), Err(Refused::Stopped));
    assert_eq!(a.bus.send(message(&here, 1)), Ok(()), "within the node it goes on");
}
