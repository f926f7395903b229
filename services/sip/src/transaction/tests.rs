//! The layer in the situations that a random network seldom makes.

use std::time::Duration;

use bytes::Bytes;
use trunkline_types::Timestamp;

use super::{Output, TransactionConfig, TransactionError, TransactionId, TransactionLayer};
use crate::{HeaderName, Headers, Message, Method, Request, Response, parse_datagram};

type Layer = TransactionLayer<&'static str>;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn layer() -> Layer {
    TransactionLayer::new(TransactionConfig::default())
}

fn request(method: &str, branch: &str, more: &str) -> Request {
    let text = format!(
        "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP host;branch={branch}\r\nVia: SIP/2.0/UDP far\r\n\
         From: sip:a@b;tag=ft\r\nTo: sip:bob@example.com\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n{more}\r\n"
    );
    match parse_datagram(&Bytes::from(text)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn sent(outputs: &[Output<&'static str>]) -> Vec<Message> {
    let bytes = outputs.iter().filter_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes),
        _ => None,
    });
    bytes.map(|bytes| parse_datagram(bytes).unwrap()).collect()
}

fn only_request(outputs: &[Output<&'static str>]) -> Request {
    match sent(outputs).as_slice() {
        [Message::Request(request)] => request.clone(),
        other => panic!("{other:?}"),
    }
}

fn only_response(outputs: &[Output<&'static str>]) -> Response {
    match sent(outputs).as_slice() {
        [Message::Response(response)] => response.clone(),
        other => panic!("{other:?}"),
    }
}

fn statuses(outputs: &[Output<&'static str>]) -> Vec<u16> {
    sent(outputs)
        .iter()
        .filter_map(|m| if let Message::Response(r) = m { Some(r.status) } else { None })
        .collect()
}

fn methods(outputs: &[Output<&'static str>]) -> Vec<Method> {
    let requests = sent(outputs).into_iter();
    requests.filter_map(|m| if let Message::Request(r) = m { Some(r.method) } else { None }).collect()
}

fn new_request(outputs: &[Output<&'static str>]) -> (TransactionId, Request) {
    let found = outputs.iter().find_map(|output| match output {
        Output::Request { id, request, .. } => Some((*id, request.clone())),
        _ => None,
    });
    found.expect("a new request")
}

#[test]
fn an_invite_is_tried_at_once_and_repeated_answers_are_the_last_one() {
    let mut layer = layer();
    let outputs = layer.on_request(at(0), request("INVITE", "z9hG4bK1", ""), "p", false);
    assert_eq!(statuses(&outputs), [100]);
    let (id, invite) = new_request(&outputs);
    assert_eq!(statuses(&layer.on_request(at(1), invite.clone(), "p", false)), [100]);
    layer.respond(at(2), id, Response::to(&invite, 180)).unwrap();
    assert_eq!(statuses(&layer.on_request(at(3), invite.clone(), "p", false)), [180]);
    layer.respond(at(4), id, Response::to(&invite, 486)).unwrap();
    assert_eq!(statuses(&layer.on_request(at(5), invite.clone(), "p", false)), [486]);
    assert_eq!(
        layer.respond(at(6), id, Response::to(&invite, 200)).unwrap_err(),
        TransactionError::AlreadyFinal
    );
    assert!(layer.on_request(at(7), request("ACK", "z9hG4bK1", ""), "p", false).is_empty(), "absorbed");
}

#[test]
fn a_2xx_is_repeated_until_the_ack_of_its_dialog() {
    for reliable in [false, true] {
        let mut layer = layer();
        let (id, invite) =
            new_request(&layer.on_request(at(0), request("INVITE", "z9hG4bK1", ""), "p", reliable));
        let tag = layer.to_tag(&invite);
        assert_eq!(statuses(&layer.respond(at(0), id, Response::to(&invite, 200)).unwrap()), [200]);
        assert!(layer.on_request(at(10), invite.clone(), "p", reliable).is_empty(), "absorbed, RFC 6026");
        assert_eq!(statuses(&layer.advance(at(500))), [200]);
        assert_eq!(statuses(&layer.advance(at(1_500))), [200]);
        let mut ack = request("ACK", "z9hG4bKother", "");
        ack.headers.set(HeaderName::To, format!("<sip:bob@example.com>;tag={tag}"));
        let outputs = layer.on_request(at(1_600), ack.clone(), "p", reliable);
        assert!(
            matches!(outputs.as_slice(), [Output::Ack { id: Some(acked), .. }] if *acked == id),
            "{outputs:?}"
        );
        assert!(layer.advance(at(31_000)).is_empty());
        let outputs = layer.advance(at(32_000));
        assert!(matches!(outputs.as_slice(), [Output::Terminated { .. }]), "{outputs:?}");
        assert!(layer.is_empty());
        let late = layer.on_request(at(33_000), ack, "p", reliable);
        assert!(matches!(late.as_slice(), [Output::Ack { id: None, .. }]), "to the dialog's owner");
    }
}

#[test]
fn a_missing_ack_is_told_before_the_end() {
    let mut layer = layer();
    let (id, invite) = new_request(&layer.on_request(at(0), request("INVITE", "z9hG4bK1", ""), "p", false));
    layer.respond(at(0), id, Response::to(&invite, 200)).unwrap();
    let mut outputs = Vec::new();
    while let Some(deadline) = layer.next_deadline() {
        outputs.extend(layer.advance(deadline));
    }
    let ends: Vec<_> = outputs.iter().filter(|output| !matches!(output, Output::Send { .. })).collect();
    assert!(matches!(ends.as_slice(), [Output::AckTimeout { .. }, Output::Terminated { .. }]), "{ends:?}");
    assert_eq!(statuses(&outputs).len(), 10);
}

#[test]
fn cancel_and_200_cross() {
    let mut layer = layer();
    let (id, invite) = new_request(&layer.on_request(at(0), request("INVITE", "z9hG4bK1", ""), "p", false));
    layer.respond(at(1), id, Response::to(&invite, 200)).unwrap();
    let outputs = layer.on_request(at(2), request("CANCEL", "z9hG4bK1", ""), "p", false);
    assert_eq!(statuses(&outputs), [200]);
    assert!(
        !outputs.iter().any(|output| matches!(output, Output::Cancel { .. })),
        "too late: the call is answered"
    );
}

#[test]
fn cancel_before_the_answer_reaches_the_user_once() {
    let mut layer = layer();
    let (id, invite) = new_request(&layer.on_request(at(0), request("INVITE", "z9hG4bK1", ""), "p", false));
    let cancel = request("CANCEL", "z9hG4bK1", "Reason: SIP;cause=200\r\n");
    let outputs = layer.on_request(at(1), cancel.clone(), "p", false);
    assert_eq!(statuses(&outputs), [200]);
    assert!(outputs.iter().any(|output| matches!(output, Output::Cancel { id: hit, .. } if *hit == id)));
    let ok = only_response(&outputs);
    let outputs = layer.respond(at(1), id, Response::to(&invite, 487)).unwrap();
    let terminated = only_response(&outputs);
    assert_eq!(ok.headers.to_tag(), terminated.headers.to_tag(), "RFC 3261 section 9.2");
    let again = layer.on_request(at(2), cancel, "p", false);
    assert!(statuses(&again) == [200] && again.len() == 1, "{again:?}");
    let stray = layer.on_request(at(3), request("CANCEL", "z9hG4bKnone", ""), "p", false);
    assert_eq!(statuses(&stray), [481]);
}

#[test]
fn our_cancel_waits_for_a_provisional() {
    let mut layer = layer();
    let invite = request("INVITE", "z9hG4bKc", "Route: <sip:proxy;lr>\r\n");
    let (id, _) = layer.send_request(at(0), &invite, "p", false).unwrap();
    let mut extra = Headers::new();
    extra.push(HeaderName::Reason, "Q.850;cause=16");
    assert!(layer.cancel(at(1), id, extra).unwrap().is_empty());
    let outputs = layer.on_response(at(2), Response::to(&invite, 100));
    let cancel = only_request(&outputs);
    assert_eq!((&cancel.method, &cancel.uri), (&Method::Cancel, &invite.uri));
    assert_eq!(cancel.headers.vias().unwrap().len(), 1);
    assert_eq!(cancel.headers.top_via().unwrap(), invite.headers.top_via().unwrap());
    assert!(cancel.headers.contains(&HeaderName::Route) && cancel.headers.contains(&HeaderName::Reason));
    assert!(layer.cancel(at(3), id, Headers::new()).unwrap().is_empty(), "one CANCEL is enough");
    // Its own answer is not the user's concern; the INVITE's is.
    assert!(layer.on_response(at(4), Response::to(&cancel, 200)).is_empty());
    let outputs = layer.on_response(at(5), Response::to(&invite, 487).with_to_tag("t"));
    assert_eq!(methods(&outputs), [Method::Ack]);
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::Response { response, .. } if response.status == 487))
    );
}

#[test]
fn a_failure_is_acknowledged_with_the_right_headers_each_time_and_told_once() {
    let mut layer = layer();
    let invite = request("INVITE", "z9hG4bKc", "Route: <sip:proxy;lr>\r\n");
    layer.send_request(at(0), &invite, "p", false).unwrap();
    let busy = Response::to(&invite, 486).with_to_tag("busy");
    let outputs = layer.on_response(at(1), busy.clone());
    let ack = only_request(&outputs);
    assert_eq!((ack.headers.to_tag().unwrap().as_str(), ack.headers.cseq().unwrap().number), ("busy", 1));
    assert_eq!(ack.headers.top_via().unwrap(), invite.headers.top_via().unwrap());
    assert_eq!((ack.headers.vias().unwrap().len(), ack.headers.route().unwrap().len()), (1, 1));
    let again = layer.on_response(at(2), busy);
    assert!(methods(&again) == [Method::Ack] && again.len() == 1);
}

#[test]
fn forked_answers_all_reach_the_user_and_repeats_are_acknowledged() {
    let mut layer = layer();
    let invite = request("INVITE", "z9hG4bKc", "");
    let (id, _) = layer.send_request(at(0), &invite, "p", false).unwrap();
    let delivered =
        |outputs: &[Output<&'static str>]| outputs.iter().any(|o| matches!(o, Output::Response { .. }));
    for (status, tag) in [(180, "x"), (183, "y"), (200, "x"), (200, "y")] {
        assert!(
            delivered(&layer.on_response(at(1), Response::to(&invite, status).with_to_tag(tag))),
            "{status} {tag}"
        );
    }
    let mut ack = request("ACK", "z9hG4bKa", "");
    ack.headers.set(HeaderName::To, "<sip:bob@example.com>;tag=x");
    layer.send_ack(Some(id), &ack, "elsewhere");
    let repeat = layer.on_response(at(2), Response::to(&invite, 200).with_to_tag("x"));
    assert!(matches!(repeat.as_slice(), [Output::Send { path: "elsewhere", .. }]), "{repeat:?}");
    assert!(
        delivered(&layer.on_response(at(3), Response::to(&invite, 200).with_to_tag("y"))),
        "not acknowledged yet"
    );
    layer.advance(at(32_001));
    assert!(layer.is_empty());
    let stray = layer.on_response(at(40_000), Response::to(&invite, 200).with_to_tag("z"));
    assert!(matches!(stray.as_slice(), [Output::StrayResponse { .. }]));
}

#[test]
fn peers_of_rfc_2543_are_matched_without_a_cookie() {
    let mut layer = layer();
    let (id, invite) = new_request(&layer.on_request(at(0), request("INVITE", "1", ""), "p", false));
    assert_eq!(statuses(&layer.on_request(at(1), request("INVITE", "1", ""), "p", false)), [100]);
    layer.respond(at(2), id, Response::to(&invite, 404)).unwrap();
    let mut ack = request("ACK", "1", "");
    ack.headers.set(HeaderName::To, "sip:bob@example.com;tag=whatever");
    assert!(layer.on_request(at(3), ack, "p", false).is_empty(), "absorbed");
    assert!(layer.advance(at(1_000)).is_empty(), "not repeated any more");
}

#[test]
fn the_cap_holds_and_leaves_room_for_calls_under_way() {
    let config = TransactionConfig { max_transactions: 10, reserved: 4, ..TransactionConfig::default() };
    let mut layer: Layer = TransactionLayer::new(config);
    for n in 0..20 {
        let outputs = layer.on_request(at(0), request("INVITE", &format!("z9hG4bK{n}"), ""), "p", false);
        assert_eq!(matches!(outputs.as_slice(), [Output::Overloaded { .. }]), n >= 6, "{n}");
    }
    for n in 0..10 {
        let mut bye = request("BYE", &format!("z9hG4bKb{n}"), "");
        bye.headers.set(HeaderName::To, "sip:bob@example.com;tag=t");
        layer.on_request(at(0), bye, "p", false);
    }
    assert_eq!(layer.len(), 10);
    let invite = request("INVITE", "z9hG4bKc", "");
    assert_eq!(layer.send_request(at(0), &invite, "p", false).unwrap_err(), TransactionError::Overloaded(10));
    assert_eq!(statuses(&layer.on_request(at(0), request("CANCEL", "z9hG4bK0", ""), "p", false)), [200]);
    while let Some(deadline) = layer.next_deadline() {
        layer.advance(deadline);
    }
    assert!(layer.is_empty());
}

#[test]
fn a_transport_error_ends_the_transaction_and_is_told() {
    let mut layer = layer();
    let (id, _) = layer.send_request(at(0), &request("OPTIONS", "z9hG4bKc", ""), "p", true).unwrap();
    let outputs = layer.transport_failed(at(1), id);
    assert!(
        matches!(outputs.as_slice(), [Output::TransportError { .. }, Output::Terminated { .. }]),
        "{outputs:?}"
    );
    assert!(layer.transport_failed(at(2), id).is_empty());
}

#[test]
fn a_late_timer_does_not_send_a_burst() {
    let mut layer = layer();
    layer.send_request(at(0), &request("INVITE", "z9hG4bKc", ""), "p", false).unwrap();
    assert_eq!(methods(&layer.advance(at(20_000))).len(), 1);
    assert!(layer.next_deadline().unwrap() > at(20_000));
}

/// What one transaction costs beside the bytes that it must repeat, and beside the nodes of the ordered maps.
#[test]
fn a_transaction_is_small() {
    let entry = size_of::<super::table::Entry<[u8; 32]>>();
    let caller = size_of::<super::table::Caller<[u8; 32]>>();
    assert!(entry + caller <= 384, "{entry} + {caller}");
}

#[test]
fn a_hundred_thousand_transactions_stay_quick() {
    let config = TransactionConfig { max_transactions: 200_000, ..TransactionConfig::default() };
    let mut layer: Layer = TransactionLayer::new(config);
    let template = request("OPTIONS", "z9hG4bKtemplate", "");
    for n in 0..100_000u32 {
        let mut options = template.clone();
        options.headers.set(HeaderName::Via, format!("SIP/2.0/UDP host;branch=z9hG4bK{n}"));
        let (id, options) = new_request(&layer.on_request(at(n.into()), options, "p", false));
        layer.respond(at(n.into()), id, Response::to(&options, 200)).unwrap();
        let _ = layer.advance(at(n.into()));
    }
    // Timer J holds each for 32 s, hence 32,000 at one a millisecond.
    assert!((31_000..=33_000).contains(&layer.len()), "{}", layer.len());
    layer.advance(at(100_000) + Duration::from_secs(40));
    assert!(layer.is_empty());
}
