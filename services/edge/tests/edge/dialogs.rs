//! Requests within dialogs find their call by token; transactions absorb, end and time out.

use trunkline_edge::TokenKey;
use trunkline_proto::edge::v1::{IncomingRequest, edge_event::Event, transaction_failed::Kind};
use trunkline_rpc::Refused;
use trunkline_sip::{Method, Response};
use trunkline_types::EntityAddress;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_leads_to_the_call_and_a_made_up_one_nowhere() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "t1").await;
    // From anywhere: the token is what counts, a dialog may come in by another way than its INVITE.
    let elsewhere = Phone::at("127.0.0.3", &node).await;
    elsewhere.send(&Draft::within("INFO", &up.contact, "t2")).await;
    let (call, info) = node.request().await;
    assert_eq!((call, parse(&info.message).method), (up.call.clone(), Method::Info));
    assert!(info.new_call.is_none());
    // Peers that ignore Contact: our tag is the token too.
    let token = up.contact.strip_prefix("sip:").unwrap().split('@').next().unwrap().to_owned();
    let mut by_tag = Draft::new("INFO", "support", "t3");
    by_tag.to = format!("<sip:support@127.0.0.1>;tag={token}");
    phone.send(&by_tag).await;
    assert_eq!(node.request().await.0, up.call);

    let foreign = TokenKey::new(&[1; 32]).user(&up.call.tenant, id(&up.call));
    let mut forged = token.clone().into_bytes();
    *forged.last_mut().unwrap() ^= 1;
    let forged = String::from_utf8(forged).unwrap();
    for (n, user) in [foreign, forged, "support".to_owned()].into_iter().enumerate() {
        for method in ["BYE", "INFO", "UPDATE", "INVITE"] {
            let branch = format!("f{n}{method}");
            let draft = Draft::within(method, &format!("sip:{user}@127.0.0.1"), &branch);
            assert_eq!(phone.ask(&draft).await.status, 481, "{method} {user}");
        }
    }
    assert!(node.nothing_came());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_cannot_be_reached_in_time_costs_the_peer_a_500() {
    let mut node = Node::start(fast()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "g1").await;
    for refused in [Refused::Unroutable, Refused::Full, Refused::Stopped, Refused::Expired] {
        node.refuse(Some(refused));
        let bye = Draft::within("BYE", &up.contact, &format!("g{refused:?}"));
        assert_eq!(phone.ask(&bye).await.status, 500, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_invite_is_absorbed_and_its_answer_repeated() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    for _ in 0..3 {
        phone.send(&Draft::invite("i1")).await;
    }
    let (call, invite) = node.request().await;
    assert_eq!(statuses(&phone.fence().await), [(100, 3)].into());
    assert!(node.nothing_came(), "one call");
    node.answer(&call, &invite, 200);
    assert_eq!(phone.answer().await.status, 200);
    // The call repeats a 2xx itself; the edge passes it on past a repeated INVITE.
    phone.send(&Draft::invite("i1")).await;
    assert!(phone.fence().await.is_empty());
    node.answer(&call, &invite, 200);
    assert_eq!(phone.answer().await.status, 200);
    assert!(node.nothing_came());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_is_answered_and_told_to_the_call() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let cancel = |branch: &str| Draft { method: "CANCEL", more: Vec::new(), ..Draft::invite(branch) };
    phone.send(&Draft::invite("c1")).await;
    let (call, invite) = node.request().await;
    assert_eq!(phone.response().await.status, 100);
    phone.send(&cancel("c1").with("Reason: SIP;cause=200;text=\"Call completed elsewhere\"")).await;
    assert_eq!(phone.answer().await.status, 200);
    match node.event().await {
        (to, Event::Cancelled(cancelled)) => {
            assert_eq!((&to, &cancelled.transaction), (&call, &invite.transaction));
            assert!(cancelled.reason.starts_with("SIP;cause=200"));
        }
        other => panic!("{other:?}"),
    }
    node.answer(&call, &invite, 487);
    assert_eq!(phone.answer().await.status, 487);

    // Of nothing.
    assert_eq!(phone.ask(&cancel("c2")).await.status, 481);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ack_of_a_2xx_goes_to_the_call_and_that_of_a_failure_ends_here() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "k1").await;
    // Again, long after and from another port: by the token alone.
    Phone::new(&node).await.send(&Draft::within("ACK", &up.contact, "k2")).await;
    let (call, ack) = node.request().await;
    assert_eq!((call, ack.transaction.as_str()), (up.call, ""));

    phone.send(&Draft::invite("k3")).await;
    let (call, invite) = node.request().await;
    node.answer(&call, &invite, 486);
    let refused = phone.answer().await;
    let mut ack = Draft { method: "ACK", ..Draft::invite("k3") };
    ack.to = format!("<sip:support@127.0.0.1>;tag={}", refused.headers.to_tag().unwrap());
    phone.send(&ack).await;
    assert!(phone.fence().await.is_empty());
    assert!(node.nothing_came());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_ever_for_a_call_that_keeps_silent() {
    let mut node = Node::start(fast()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "s1").await;
    phone.send(&Draft::within("INFO", &up.contact, "s2")).await;
    let (call, info) = node.request().await;
    phone.send(&Draft::invite("s3")).await;
    let (new, invite) = node.request().await;
    // 16 T1 for the INFO, 64 T1 for the INVITE; the call learns of both.
    let (mut answers, mut failed) = (Vec::new(), Vec::new());
    while answers.len() < 2 {
        let answer = phone.answer().await;
        let method = answer.method().unwrap();
        if !answers.contains(&(method.clone(), answer.status)) {
            answers.push((method, answer.status));
        }
    }
    assert_eq!(answers, [(Method::Info, 500), (Method::Invite, 500)]);
    for _ in 0..2 {
        match node.event().await {
            (to, Event::Failed(failure)) => {
                assert_eq!(failure.kind(), Kind::Timeout);
                failed.push((to, failure.transaction));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, [(call.clone(), info.transaction.clone()), (new, invite.transaction)]);
    // An answer after that is no answer.
    node.answer(&call, &info, 200);
    let late = phone.fence().await;
    assert!(late.iter().all(|r| r.status == 500), "{:?}", statuses(&late));
    node.until("all transactions are over", |node| node.metric("transactions") == 0.0).await;
    assert_eq!(node.loads.of(new_shard(&up.call)), (0, 0));
}

fn new_shard(call: &EntityAddress) -> trunkline_types::ShardId {
    call.shard()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_call_counts_as_load_while_its_invite_lives() {
    let mut node = Node::start(fast()).await;
    let phone = Phone::new(&node).await;
    phone.send(&Draft::invite("l1")).await;
    let (call, invite) = node.request().await;
    assert_eq!(node.loads.of(call.shard()), (1, 1));
    node.answer(&call, &invite, 486);
    node.until("the load is gone", |node| node.loads.of(call.shard()) == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_for_a_transaction_of_another_edge_goes_past_the_transactions() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "x1").await;
    let request = parse(&up.invite.message);
    let response = Response::to(&request, 200).with_to_tag("ours");
    node.respond(&up.call, "of-another-edge", &response, &up.invite);
    assert_eq!(phone.answer().await.status, 200);
    // Nonsense of a call harms nobody.
    let nowhere = IncomingRequest { source: "nowhere".into(), ..up.invite.clone() };
    node.respond(&up.call, "gone", &response, &nowhere);
    assert!(phone.fence().await.is_empty());
}
