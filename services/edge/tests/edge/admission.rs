//! Who may call, what the call learns of it, and what the edge answers by itself.

use trunkline_edge::TokenKey;
use trunkline_proto::edge::v1::{NewCall, new_call::Destination};
use trunkline_rpc::Refused;
use trunkline_sip::{HeaderName, Method};

use crate::support::*;

async fn new_call(node: &mut Node, phone: &Phone, draft: Draft) -> NewCall {
    phone.send(&draft).await;
    let (call, request) = node.request().await;
    let new = request.new_call.clone().unwrap();
    let token = new.contact_uri.strip_prefix("sip:").unwrap().split('@').next().unwrap();
    assert_eq!(TokenKey::new(&KEY).call(token), Some(call.clone()), "the Contact leads back to the call");
    node.answer(&call, &request, 486);
    assert_eq!(phone.answer().await.status, 486);
    new
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_tells_what_is_understood() {
    let node = Node::start(config()).await;
    let phone = Phone::at("127.0.0.3", &node).await;
    let answer = phone.ask(&Draft::new("OPTIONS", "anyone", "o1")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.allow().unwrap().contains(&Method::Invite));
    assert!(answer.headers.get_str(&HeaderName::Accept).unwrap().contains("application/sdp"));
    let again = phone.ask(&Draft::new("OPTIONS", "anyone", "o1")).await;
    assert_eq!(again.headers.to_tag(), answer.headers.to_tag(), "a retransmission gets the same answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_call_comes_with_who_calls_and_where_to() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let new = new_call(&mut node, &phone, Draft::invite("a1")).await;
    assert_eq!((new.tenant.as_str(), new.trunk.as_str()), ("default", "trusted"));
    assert_eq!(new.destination, Some(Destination::Queue("support".into())));
    assert_eq!((new.dialled.as_str(), new.caller_number.as_str()), ("support", "+4917012345"));

    let new = new_call(&mut node, &phone, Draft::new("INVITE", "menu", "a2")).await;
    assert_eq!(new.destination, Some(Destination::Flow("main".into())));
    let tel = Draft::invite("a3").uri("tel:+49-30-12345").from("<tel:+49-170-1>;tag=f");
    let new = new_call(&mut node, &phone, tel).await;
    assert_eq!((new.dialled.as_str(), new.caller_number.as_str()), ("+493012345", "+491701"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_read_as_they_were_meant_and_cannot_pose_as_numbers() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let latin1 = [&b"\"J\xfcrgen M\xe4rz\""[..], b" <sip:+491@x>;tag=f"].concat();
    assert_eq!(
        new_call(&mut node, &phone, Draft::invite("n1").from(latin1)).await.caller_name,
        "Jürgen März"
    );
    let utf8 = "\"Zoë\" <sip:+491@x>;tag=f";
    assert_eq!(new_call(&mut node, &phone, Draft::invite("n2").from(utf8)).await.caller_name, "Zoë");

    let spoofed = "\"<sip:chief@bank.example>\" <sip:+49666@x>;tag=f";
    let new = new_call(&mut node, &phone, Draft::invite("n3").from(spoofed)).await;
    assert_eq!(
        (new.caller_number.as_str(), new.caller_name.as_str()),
        ("+49666", "<sip:chief@bank.example>")
    );
    let hidden = "\"good\u{202e}live\u{200b}\\\u{7}\" <sip:%0d%0a+49666@x>;tag=f";
    let new = new_call(&mut node, &phone, Draft::invite("n4").from(hidden)).await;
    assert_eq!((new.caller_number.as_str(), new.caller_name.as_str()), ("+49666", "goodlive"));
    let long = format!("\"{}\" <sip:{}@x>;tag=f", "n".repeat(2_000), "7".repeat(2_000));
    let new = new_call(&mut node, &phone, Draft::invite("n5").from(long)).await;
    assert_eq!((new.caller_number.len(), new.caller_name.len()), (128, 128));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_is_believed_from_trusted_trunks_only_and_privacy_is_kept() {
    let mut node = Node::start(config()).await;
    let (trusted, carrier) = (Phone::new(&node).await, Phone::at("127.0.0.2", &node).await);
    let asserted = |branch: &str| {
        Draft::invite(branch)
            .from("<sip:anonymous@anonymous.invalid>;tag=f")
            .with("P-Asserted-Identity: \"Real\" <sip:+4930777@x>")
    };
    let new = new_call(&mut node, &trusted, asserted("p1")).await;
    assert_eq!((new.caller_number.as_str(), new.caller_name.as_str()), ("+4930777", "Real"));
    let new = new_call(&mut node, &carrier, asserted("p2")).await;
    assert_eq!((new.caller_number.as_str(), new.trunk.as_str()), ("", "carrier"));
    for (n, privacy) in ["id", "user;id"].into_iter().enumerate() {
        let draft = asserted(&format!("p3{n}")).with(format!("Privacy: {privacy}"));
        let new = new_call(&mut node, &trusted, draft).await;
        assert_eq!((new.caller_number.as_str(), new.caller_name.as_str()), ("", ""), "{privacy}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_their_status_no_retry_after_and_leave_nothing_behind() {
    let mut node = Node::start(config()).await;
    let (phone, stranger) = (Phone::new(&node).await, Phone::at("127.0.0.3", &node).await);
    let unknown = phone.ask(&Draft::new("INVITE", "nobody", "r1")).await;
    let foreign = stranger.ask(&Draft::invite("r2")).await;
    node.refuse(Some(Refused::Full));
    let full = phone.ask(&Draft::invite("r3")).await;
    node.refuse(None);
    node.edge.drain().await;
    let draining = phone.ask(&Draft::invite("r4")).await;
    assert_eq!([unknown.status, foreign.status, full.status, draining.status], [404, 403, 503, 503]);
    for response in [unknown, foreign, full, draining] {
        assert!(!response.headers.contains(&HeaderName::RetryAfter));
        assert!(response.headers.to_tag().is_some());
    }
    assert!(node.nothing_came());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_refuses_new_calls_and_nothing_of_those_that_are_up_or_coming() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "d1").await;
    phone.send(&Draft::invite("d2")).await;
    let (coming, invite) = node.request().await;
    node.edge.drain().await;
    assert_eq!(phone.ask(&Draft::invite("d3")).await.status, 503);
    // The INVITE again: it is with its call, so it is not judged anew.
    phone.send(&Draft::invite("d2")).await;
    assert!(phone.fence().await.iter().all(|r| r.status == 100), "only its 100 again");
    node.answer(&coming, &invite, 200);
    assert_eq!(phone.answer().await.status, 200);
    phone.send(&Draft::within("BYE", &up.contact, "d4")).await;
    let (call, bye) = node.request().await;
    assert_eq!(call, up.call);
    node.answer(&call, &bye, 200);
    assert_eq!(phone.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_are_challenged_alike_for_everybody() {
    let node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let mut shapes = Vec::new();
    for (n, user) in ["support", "nobody", "alice"].into_iter().enumerate() {
        let answer = phone.ask(&Draft::new("REGISTER", user, &format!("g{n}"))).await;
        let challenges = answer.headers.challenges(&HeaderName::WwwAuthenticate);
        let algorithms: Vec<String> = challenges.iter().map(|c| format!("{:?}", c.algorithm)).collect();
        assert_eq!((answer.status, algorithms.join(" ").as_str()), (401, "Sha256 Md5"));
        assert_ne!(challenges[0].nonce, challenges[1].nonce);
        shapes.push((answer.to_bytes().len() - 3 * user.len(), challenges[0].realm.clone(), algorithms));
    }
    // To, From and Call-ID differ by the request alone.
    assert!(shapes.windows(2).all(|pair| pair[0].1 == pair[1].1 && pair[0].2 == pair[1].2), "{shapes:?}");
    let guess = Draft::new("REGISTER", "alice", "g9").with(
        "Authorization: Digest username=\"alice\", realm=\"127.0.0.1\", nonce=\"x\", uri=\"sip:127.0.0.1\", \
         response=\"00000000000000000000000000000000\"",
    );
    assert_eq!(phone.ask(&guess).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_answered_and_the_next_one_is_served() {
    let node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let no_cseq = String::from_utf8(Draft::invite("m1").bytes()).unwrap().replace("CSeq", "X-CSeq");
    phone.send_bytes(no_cseq.as_bytes()).await;
    assert!(phone.receive().await.starts_with(b"SIP/2.0 400 Bad CSeq"));
    assert_eq!(phone.ask(&Draft::new("MESSAGE", "support", "m2")).await.status, 405);
    assert_eq!(phone.ask(&Draft::new("FROB", "support", "m3")).await.status, 501);
    assert_eq!(phone.ask(&Draft::invite("m4").with("Require: nonsense")).await.status, 420);
    assert_eq!(phone.ask(&Draft::invite("m5").uri("http://127.0.0.1/")).await.status, 416);
    for garbage in [&b"\r\n\r\n"[..], b"\0\0\0\0", b"hello", b"SIP/2.0 200 OK\r\n\r\n", &[0xff; 2_000]] {
        phone.send_bytes(garbage).await;
    }
    assert!(phone.fence().await.is_empty());
    assert_eq!(node.metric("dropped_total{reason=\"keep_alive\"}"), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_go_where_the_via_says_but_never_to_third_parties() {
    let mut node = Node::start(config()).await;
    let (phone, other) = (Phone::new(&node).await, Phone::new(&node).await);
    let victim = other.address();
    // RFC 3581: to the source port, with what it was.
    let answer = phone.ask(&Draft::invite("v1").uri("sip:nobody@x").via("UDP 10.0.0.1;rport")).await;
    let via = answer.headers.top_via().unwrap();
    assert_eq!(via.rport(), Some(Some(phone.address().port())));
    assert_eq!(via.received(), Some(phone.address().ip()));
    // RFC 3261 section 18.2.2: to the source address and the port of the Via.
    let to_port = format!("UDP 192.0.2.1:{};received=192.0.2.66", victim.port());
    phone.send(&Draft::invite("v2").uri("sip:nobody@x").via(&to_port)).await;
    let answer = other.answer().await;
    assert_eq!(answer.headers.top_via().unwrap().received(), Some(phone.address().ip()));
    // maddr would send them anywhere.
    let maddr = format!("UDP 127.0.0.1:{};maddr=127.0.0.2;rport", phone.address().port());
    assert_eq!(phone.ask(&Draft::invite("v3").uri("sip:nobody@x").via(&maddr)).await.status, 404);
    // So with a call's own answer.
    phone.send(&Draft::invite("v4").via(&maddr)).await;
    let (call, invite) = node.request().await;
    assert_eq!(invite.source, phone.address().to_string());
    node.answer(&call, &invite, 486);
    assert_eq!(phone.answer().await.status, 486);
    assert!(other.fence().await.is_empty());
}
