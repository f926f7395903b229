//! What calls send.

use tokio::net::TcpListener;
use trunkline_proto::edge::v1::{
    EdgeCommand, SendAck, TransactionFailed, edge_command::Command, edge_event::Event,
    transaction_failed::Kind,
};
use trunkline_rpc::Refused;
use trunkline_sip::{Method, Response};

use crate::support::*;

fn failure(event: Event) -> TransactionFailed {
    match event {
        Event::Failed(failed) => failed,
        other => panic!("not a failure: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bye_goes_to_the_contact_and_its_answer_to_the_call() {
    let mut node = Node::start(config()).await;
    let (phone, contact) = (Phone::new(&node).await, Phone::new(&node).await);
    let up = call_up(&mut node, &phone, "b1").await;
    let target = format!("sip:phone@{}", contact.address());
    for _ in 0..2 {
        // A command that is sent again is one request.
        node.send(&up.call, "bye-1", &from_call(Method::Bye, &target, 1), &up.invite.source, "udp");
    }
    let bye = parse(&contact.receive().await);
    let via = bye.headers.top_via().unwrap();
    assert_eq!((bye.method.clone(), bye.headers.vias().unwrap().len()), (Method::Bye, 1));
    assert!(via.has_cookie() && via.rport().is_some());
    assert_eq!(format!("{}:{}", via.host(), via.port.unwrap()), node.address().to_string());
    contact.send_bytes(&Response::to(&bye, 200).to_bytes()).await;
    match node.event().await {
        (call, Event::Response(response)) => {
            assert_eq!((call, response.client_transaction.as_str()), (up.call.clone(), "bye-1"));
            assert_eq!(parse_response(&response.message).status, 200);
        }
        other => panic!("{other:?}"),
    }
    // Again: absorbed. With a foreign branch, or two Vias: nobody's.
    contact.send_bytes(&Response::to(&bye, 200).to_bytes()).await;
    let text = String::from_utf8(Response::to(&bye, 200).to_bytes().to_vec()).unwrap();
    contact.send_bytes(text.replace("z9hG4bK", "z9hG4bKx").as_bytes()).await;
    contact.fence().await;
    assert!(node.nothing_came());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_comes_before_the_target_and_a_name_is_reached_at_the_source() {
    let mut node = Node::start(config()).await;
    let (phone, proxy) = (Phone::new(&node).await, Phone::new(&node).await);
    let up = call_up(&mut node, &phone, "r1").await;
    let routed = from_call(Method::Info, "sip:phone@192.0.2.1", 1)
        .with_header(trunkline_sip::HeaderName::Route, format!("<sip:{};lr>", proxy.address()));
    node.send(&up.call, "i1", &routed, &up.invite.source, "udp");
    assert_eq!(parse(&proxy.receive().await).method, Method::Info);
    let named = from_call(Method::Info, "sip:phone@phone.example", 2);
    node.send(&up.call, "i2", &named, &up.invite.source, "udp");
    assert_eq!(parse(&phone.receive().await).method, Method::Info);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_is_reported() {
    let mut node = Node::start(fast()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "e1").await;
    // No address at all.
    node.send(&up.call, "no-address", &from_call(Method::Bye, "sip:x@nowhere.example", 1), "", "udp");
    let failed = failure(node.event().await.1);
    assert_eq!((failed.transaction.as_str(), failed.kind()), ("no-address", Kind::Transport));
    // Nobody listens there: known as soon as the connection fails, not after 64 T1.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bye = from_call(Method::Bye, &format!("sip:x@{closed};transport=tcp"), 2);
    node.send(&up.call, "refused", &bye, "", "tcp");
    let failed = failure(node.event().await.1);
    assert_eq!((failed.transaction.as_str(), failed.kind()), ("refused", Kind::Transport));
    // Of the wrong family for the socket.
    node.send(&up.call, "family", &from_call(Method::Bye, "sip:x@[::1]:9", 3), "", "udp");
    let failed = failure(node.event().await.1);
    assert_eq!((failed.transaction.as_str(), failed.kind()), ("family", Kind::Transport));
    // Nobody answers.
    let silent = Phone::new(&node).await;
    let bye = from_call(Method::Bye, &format!("sip:x@{}", silent.address()), 4);
    node.send(&up.call, "silent", &bye, "", "udp");
    let failed = failure(node.event().await.1);
    assert_eq!((failed.transaction.as_str(), failed.kind()), ("silent", Kind::Timeout));
    node.until("nothing is kept", |node| node.metric("transactions") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_goes_past_the_transactions() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "k1").await;
    let ack = SendAck {
        message: from_call(Method::Ack, &format!("sip:x@{}", phone.address()), 1).to_bytes(),
        source: up.invite.source.clone(),
        transport: "udp".into(),
        client_transaction: String::new(),
    };
    node.command(&up.call, Command::Ack(ack));
    assert_eq!(parse(&phone.receive().await).method, Method::Ack);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_a_former_owner_and_empty_ones_are_refused() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    phone.send(&Draft::invite("o1")).await;
    let (call, invite) = node.request().await;
    let answer = |status| {
        let response = Response::to(&parse(&invite.message), status).with_to_tag("ours");
        Command::Response(trunkline_proto::edge::v1::SendResponse {
            transaction: invite.transaction.clone(),
            message: response.to_bytes(),
            ..Default::default()
        })
    };
    node.send_as(&call, 4, answer(180)).unwrap();
    assert_eq!(phone.answer().await.status, 180);
    assert_eq!(node.send_as(&call, 3, answer(486)), Err(Refused::Unroutable));
    node.send_as(&call, 4, answer(200)).unwrap();
    assert_eq!(phone.answer().await.status, 200);
    let nameless = EdgeCommand::default();
    let envelope = trunkline_proto::common::v1::Envelope {
        to: Some(node.bus.own(trunkline_proto::common::v1::Role::Edge)),
        payload: Some(trunkline_proto::common::v1::envelope::Payload::Edge(nameless)),
        ..Default::default()
    };
    assert_eq!(node.bus.send(envelope), Err(Refused::Unroutable));
}
