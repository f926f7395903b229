//! Calls that move while something is under way, and several edges as one.

use trunkline_proto::edge::v1::{
    RelayResponse, SendResponse, edge_command::Command, edge_event::Event, transaction_failed::Kind,
};
use trunkline_rpc::Refused;
use trunkline_sip::{Method, Response};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_is_given_again_until_the_call_answers() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    phone.send(&Draft::invite("i1")).await;
    let (call, first) = node.request().await;
    assert_eq!(first.attempt, 0);
    // Its owner died with it: the next one gets it, under the same name.
    for attempt in 1..=2 {
        let (to, again) = node.again().await;
        assert_eq!((&to, again.attempt, &again.transaction), (&call, attempt, &first.transaction));
        assert_eq!((again.message, again.new_call), (first.message.clone(), first.new_call.clone()));
    }
    assert_eq!(node.edge.busy(), 1);
    node.answer(&call, &first, 486);
    assert_eq!(phone.answer().await.status, 486);
    node.until("nothing waits", |node| node.edge.busy() == 0).await;
    assert!(node.metric("given_again_total") >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_within_a_dialog_waits_for_its_call_to_be_somewhere() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "w1").await;
    node.refuse(Some(Refused::Unroutable));
    phone.send(&Draft::within("INFO", &up.contact, "w2")).await;
    node.until("the edge tries again", |node| node.metric("given_again_total") > 0.0).await;
    node.refuse(None);
    let (call, request) = node.again().await;
    assert_eq!((call, parse(&request.message).method), (up.call.clone(), Method::Info));
    node.answer(&up.call, &request, 200);
    assert_eq!(phone.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_is_not_kept_waiting_by_a_call_that_keeps_silent() {
    let mut node = Node::start(fast()).await;
    let phone = Phone::new(&node).await;
    phone.send(&Draft::invite("c1")).await;
    let (call, invite) = node.request().await;
    phone.send(&Draft { method: "CANCEL", more: Vec::new(), ..Draft::invite("c1") }).await;
    let mut told = 0;
    // Told again and again, then that its time is over.
    loop {
        match node.event().await {
            (to, Event::Cancelled(cancelled)) => {
                assert_eq!((&to, &cancelled.transaction), (&call, &invite.transaction));
                told += 1;
            }
            (to, Event::Failed(failed)) => {
                assert_eq!((&to, failed.kind()), (&call, Kind::Timeout));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(told >= 2, "{told}");
    let mut statuses = vec![phone.answer().await.status];
    while statuses.last() != Some(&487) {
        statuses.push(phone.answer().await.status);
    }
    assert_eq!(statuses, [200, 487], "the CANCEL's and the INVITE's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_invite_makes_the_same_call_at_every_edge() {
    let (mut one, mut other) = (Node::start(config()).await, Node::start(config()).await);
    let (here, there) = (Phone::new(&one).await, Phone::new(&other).await);
    let invite = |branch: &str| Draft { call_id: "same@test".into(), ..Draft::invite(branch) };
    here.send(&invite("s1")).await;
    let (call, request) = one.request().await;
    there.send(&invite("s1")).await;
    assert_eq!(other.request().await.0, call, "the retransmission took another way");
    there.send(&invite("s2")).await;
    assert_eq!(other.request().await.0, call, "a proxy changed to another edge");
    // Other requests are other calls.
    let tag = invite("s3").from("<sip:+4917012345@phone.example>;tag=g");
    let uri = invite("s4").uri("sip:menu@127.0.0.1");
    let mut next = invite("s5").bytes();
    let at = String::from_utf8_lossy(&next).find("CSeq: 1").unwrap() + 6;
    next[at] = b'2';
    for (n, bytes) in [tag.bytes(), uri.bytes(), next, Draft::invite("s6").bytes()].iter().enumerate() {
        there.send_bytes(bytes).await;
        assert_ne!(other.request().await.0, call, "{n}");
    }
    one.answer(&call, &request, 486);
    assert_eq!(here.answer().await.status, 486);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identifiers_of_a_call_that_is_over_make_another_one() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    phone.send(&Draft::invite("o1")).await;
    let (over, first) = node.request().await;
    node.answer(&over, &first, 481);
    let (call, second) = node.request().await;
    assert_ne!(call, over);
    assert_eq!((second.attempt, &second.transaction), (0, &first.transaction));
    let contacts = [&first, &second].map(|r| r.new_call.as_ref().unwrap().contact_uri.clone());
    assert_ne!(contacts[0], contacts[1]);
    // What the former one still has to say is not for this caller.
    node.answer(&over, &first, 481);
    node.answer(&over, &first, 200);
    assert_eq!(statuses(&phone.fence().await), [(100, 1)].into());
    assert_eq!(node.loads.of(over.shard()).1, u32::from(over.shard() == call.shard()));
    node.answer(&call, &second, 200);
    assert_eq!(phone.answer().await.status, 200);

    // Not without end.
    phone.send(&Draft::invite("o2")).await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        let (call, invite) = node.request().await;
        assert!(!calls.contains(&call));
        node.answer(&call, &invite, 481);
        calls.push(call);
    }
    assert_eq!(phone.answer().await.status, 481);
    assert!(node.nothing_came());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_to_a_request_of_another_edge_finds_its_call() {
    let (mut one, mut other) = (Node::start(config()).await, Node::start(config()).await);
    let (here, there) = (Phone::new(&one).await, Phone::new(&other).await);
    let up = call_up(&mut one, &here, "r1").await;
    one.send(&up.call, "bye-1", &from_call(Method::Bye, "sip:x@y", 1), &up.invite.source, "udp");
    let bye = parse(&here.receive().await);
    let answer = Response::to(&bye, 200).to_bytes();
    // The edge is gone, or never was: straight to the call.
    there.send_bytes(&answer).await;
    match other.event().await {
        (call, Event::Response(response)) => {
            assert_eq!((call, response.client_transaction.as_str()), (up.call.clone(), "bye-1"));
            assert_eq!(response.message, answer);
        }
        event => panic!("{event:?}"),
    }
    // With a branch that nobody made: nobody's.
    let forged = String::from_utf8(answer.to_vec()).unwrap().replacen("bye-1", "bye-2", 1);
    there.send_bytes(forged.as_bytes()).await;
    there.fence().await;
    assert!(other.nothing_came());
    assert_eq!(other.metric("dropped_total{reason=\"stray_response\"}"), 1.0);
    // To the edge that sent it, from another one: its transaction ends, and the call hears of it.
    one.command(&up.call, Command::Relay(RelayResponse { message: answer }));
    assert!(matches!(one.event().await.1, Event::Response(r) if r.client_transaction == "bye-1"));
    one.until("the transaction has its answer", |node| node.edge.busy() == 0).await;
    // A call that did not get it asks again.
    one.send(&up.call, "bye-1", &from_call(Method::Bye, "sip:x@y", 1), &up.invite.source, "udp");
    assert!(matches!(one.event().await.1, Event::Response(r) if r.client_transaction == "bye-1"));
    assert!(here.fence().await.is_empty(), "without asking the peer again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_edge_repeats_a_request_instead_of_sending_a_second_one() {
    let (mut one, other) = (Node::start(config()).await, Node::start(config()).await);
    let here = Phone::new(&one).await;
    let up = call_up(&mut one, &here, "p1").await;
    let mut branches = Vec::new();
    for node in [&one, &other] {
        node.send(&up.call, "info-7", &from_call(Method::Info, "sip:x@y", 7), &up.invite.source, "udp");
        branches.push(parse(&here.receive().await).headers.top_via().unwrap().branch());
    }
    assert_eq!(branches[0], branches[1]);
    one.send(&up.call, "info-8", &from_call(Method::Info, "sip:x@y", 8), &up.invite.source, "udp");
    let other = loop {
        let request = parse(&here.receive().await);
        if request.headers.cseq().unwrap().number == 8 {
            break request.headers.top_via().unwrap().branch();
        }
    };
    assert_ne!(branches[0], other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_seen_from_outside_and_can_be_taken_back() {
    let node = Node::start(config()).await;
    let phone = Phone::at("127.0.0.3", &node).await;
    let mut n = 0;
    for (draining, status) in [(false, 200), (true, 503), (false, 200)] {
        n += 1;
        node.edge.set_draining(draining);
        let answer = phone.ask(&Draft::new("OPTIONS", "edge", &format!("d{n}"))).await;
        assert_eq!(answer.status, status);
        assert!(!answer.headers.contains(&trunkline_sip::HeaderName::RetryAfter));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_without_anybody_who_takes_calls_says_so() {
    let node = Node::start_fenced(config()).await;
    let phone = Phone::new(&node).await;
    assert_eq!(phone.ask(&Draft::invite("n1")).await.status, 503);
    assert_eq!(phone.ask(&Draft::new("OPTIONS", "edge", "n2")).await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_former_owners_are_counted() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "e1").await;
    let answer = || {
        let response = Response::to(&parse(&up.invite.message), 200).with_to_tag("ours");
        Command::Response(SendResponse { message: response.to_bytes(), ..Default::default() })
    };
    node.send_as(&up.call, 7, answer()).unwrap();
    assert_eq!(node.send_as(&up.call, 6, answer()), Err(Refused::Unroutable));
    assert_eq!(node.metric("epochs_refused_total"), 1.0);
}
