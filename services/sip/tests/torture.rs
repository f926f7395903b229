//! The 49 messages of RFC 4475 (`rfc4475/`, byte by byte as published; their hashes are checked) and what this crate
//! decides about each: by the parser of datagrams, by the stream framer, by the checks of a user agent server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use trunkline_sip::{
    Frame, HeaderName, Message, Request, Response, StreamFramer, Unacceptable, parse_datagram,
    uas::{Capabilities, check_request, check_response},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// A request that the user agent server acts on.
    Accept,
    /// A response that the user agent client takes.
    Response(u16),
    /// Answered with this status.
    Reject(u16),
    /// Neither answered nor acted upon.
    Drop,
}
use Outcome::{Accept, Drop, Reject};

/// A registrar would serve REGISTER; the rest is the default.
fn capabilities() -> Capabilities {
    let mut can = Capabilities::default();
    can.methods.push(trunkline_sip::Method::Register);
    can
}

const TABLE: &[(&str, Outcome)] = &[
    ("wsinv", Accept), // with a To tag: 481 is the dialog's answer
    ("intmeth", Reject(501)),
    ("esc01", Accept),
    ("escnull", Accept),
    ("esc02", Reject(501)),
    ("lwsdisp", Accept),
    ("longreq", Accept),
    ("dblreq", Accept),
    ("semiuri", Accept),
    ("transports", Accept),
    ("mpart01", Reject(405)),
    ("unreason", Outcome::Response(200)),
    ("noreason", Outcome::Response(100)),
    ("badinv01", Reject(400)),
    ("clerr", Reject(400)),
    ("ncl", Reject(400)),
    ("scalar02", Reject(400)),
    ("scalarlg", Drop),
    ("quotbal", Reject(400)),
    ("ltgtruri", Reject(400)),
    ("lwsruri", Reject(400)),
    ("lwsstart", Reject(400)),
    ("trws", Reject(400)),
    ("escruri", Reject(400)),
    ("baddate", Accept), // a Date only informs
    ("regbadct", Reject(400)),
    ("badaspec", Reject(400)),
    ("baddn", Reject(400)),
    ("badvers", Reject(505)),
    ("mismatch01", Reject(400)),
    ("mismatch02", Reject(400)),
    ("bigcode", Drop),
    ("badbranch", Reject(400)),
    ("insuf", Reject(400)),
    ("unkscm", Reject(416)),
    ("novelsc", Reject(416)),
    ("unksm2", Reject(400)),
    ("bext01", Reject(420)),
    ("invut", Reject(415)),
    ("regaut01", Accept), // the credentials are unusable: 401 by the registrar, see below
    ("multi01", Reject(400)),
    ("mcl01", Reject(400)),
    ("bcast", Drop),
    ("zeromf", Accept),
    ("cparam01", Accept),
    ("cparam02", Accept),
    ("regescrt", Accept),
    ("sdp01", Reject(406)),
    ("inv2543", Accept),
];

fn fixture(name: &str) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rfc4475").join(format!("{name}.dat"));
    Bytes::from(std::fs::read(path).expect("fixture"))
}

fn request(name: &str) -> Request {
    match parse_datagram(&fixture(name)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{name}: {other:?}"),
    }
}

fn judge(message: Message) -> (Outcome, Option<Response>) {
    match message {
        Message::Request(request) => match check_request(&request, &capabilities()) {
            Ok(()) => (Accept, None),
            Err(rejection) => (Reject(rejection.status), Some(rejection.to_response("answer"))),
        },
        Message::Response(response) => match check_response(&response) {
            Ok(()) => (Outcome::Response(response.status), None),
            Err(_) => (Drop, None),
        },
    }
}

fn datagram(bytes: &Bytes) -> (Outcome, Option<Response>) {
    match parse_datagram(bytes) {
        Ok(message) => judge(message),
        Err(Unacceptable::Reject(rejection)) => {
            (Reject(rejection.status), Some(rejection.to_response("answer")))
        }
        Err(Unacceptable::Drop(_)) => (Drop, None),
    }
}

#[test]
fn the_fixtures_are_the_published_ones() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rfc4475/SHA256SUMS");
    let sums = std::fs::read_to_string(path).unwrap();
    let sums: BTreeMap<&str, &str> =
        sums.lines().filter_map(|l| l.split_once("  ")).map(|(s, n)| (n, s)).collect();
    assert_eq!((sums.len(), TABLE.len()), (49, 49));
    for (name, _) in TABLE {
        let hash: String = Sha256::digest(fixture(name)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sums[format!("{name}.dat").as_str()], hash, "{name}");
    }
}

#[test]
fn every_message_has_its_outcome_as_a_datagram() {
    for (name, expected) in TABLE {
        assert_eq!(datagram(&fixture(name)).0, *expected, "{name}: {:?}", parse_datagram(&fixture(name)));
    }
}

/// On a stream the outcome is the same, but for what cannot be framed there: a message without Content-Length is refused,
/// a short one waits until the sender is given up, and more than one message may come out.
#[test]
fn every_message_has_its_outcome_on_a_stream() {
    for (name, expected) in TABLE {
        let mut framer = StreamFramer::new();
        framer.push(&fixture(name));
        let first = framer.next_frame().or_else(|| framer.end()).expect(name);
        let (outcome, closes) = match first {
            Frame::Message(message) => (judge(*message).0, false),
            Frame::Rejected { rejection, close } => (Reject(rejection.status), close),
            Frame::Dropped { close, .. } => (Drop, close),
            Frame::Ping | Frame::Pong => panic!("{name}: a keep-alive"),
        };
        match *name {
            "inv2543" => assert_eq!((outcome, closes), (Reject(400), true), "{name}"),
            "clerr" | "ncl" | "mcl01" | "baddn" => {
                assert!(matches!(outcome, Reject(400)) && closes, "{name}")
            }
            _ => assert_eq!(outcome, *expected, "{name}"),
        }
    }
}

/// What is answered can be answered: the answer is well-formed unless it must repeat what was malformed, and it carries
/// what lets the sender match it.
#[test]
fn every_answer_carries_what_the_sender_needs() {
    for (name, _) in TABLE {
        let Some(answer) = datagram(&fixture(name)).1 else { continue };
        let bytes = answer.to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with(&format!("SIP/2.0 {} ", answer.status)), "{name}");
        assert!(text.contains("\r\nVia: SIP/"), "{name}: {text}");
        if *name != "insuf" {
            assert!(answer.headers.count(&HeaderName::To) == 1 && text.contains(";tag="), "{name}: {text}");
            assert_eq!(answer.headers.count(&HeaderName::CallId), 1, "{name}");
        }
        let repeats_malformed =
            ["badinv01", "scalar02", "quotbal", "badaspec", "baddn", "badbranch", "insuf"];
        if !repeats_malformed.contains(name) {
            let read = parse_datagram(&bytes);
            assert!(
                matches!(&read, Ok(Message::Response(response)) if response.status == answer.status),
                "{name} {read:?}"
            );
        }
    }
}

#[test]
fn the_answers_say_why() {
    let answer = |name| datagram(&fixture(name)).1.unwrap();
    let unsupported = answer("bext01").headers.unsupported().unwrap();
    assert_eq!(unsupported, ["nothingSupportsThis", "nothingSupportsThisEither"]);
    assert!(answer("invut").headers.contains(&HeaderName::Accept));
    assert!(answer("sdp01").headers.contains(&HeaderName::Accept));
    assert!(answer("mpart01").headers.contains(&HeaderName::Allow));
    assert!(answer("intmeth").headers.contains(&HeaderName::Allow));
}

#[test]
fn accepted_messages_are_read_right() {
    let wsinv = request("wsinv");
    assert_eq!(wsinv.headers.to_tag().unwrap(), "1918181833n");
    assert_eq!(wsinv.headers.from().unwrap().display_text().unwrap(), "J Rosenberg \\\"");
    assert_eq!(wsinv.headers.max_forwards().unwrap(), Some(68));
    assert_eq!(wsinv.headers.cseq().unwrap().number, 9);
    let transports: Vec<String> = wsinv.headers.vias().unwrap().iter().map(|via| via.transport()).collect();
    assert_eq!(transports, ["UDP", "TCP", "UDP"]);
    let odd = HeaderName::parse("UnknownHeaderWithUnusualValue").unwrap();
    assert_eq!(wsinv.headers.get_str(&odd).unwrap(), ";;,,;;,;");
    let contact = wsinv.headers.contact().unwrap().unwrap();
    assert_eq!(
        (contact.display_text().unwrap().as_ref(), contact.params.text("q").unwrap().as_str()),
        ("Quoted string \"\"", "0.33")
    );

    let esc01 = request("esc01");
    assert_eq!(esc01.uri.user().unwrap(), "sips:user@example.com");
    assert_eq!(esc01.headers.to().unwrap().uri.user().unwrap(), "user");
    let escnull = request("escnull");
    assert_eq!(escnull.headers.to().unwrap().uri.user().unwrap(), "null-\0-null");
    assert_eq!(request("longreq").headers.vias().unwrap().len(), 34);
    let dblreq = request("dblreq");
    assert!(dblreq.body.is_empty());
    assert_eq!(request("semiuri").uri.user().unwrap(), "user;par=u@example.net");
    let (inside, outside) = (request("cparam02"), request("cparam01"));
    let param = |request: &Request| {
        let contact = request.headers.contact().unwrap().unwrap();
        (
            contact.params.contains("unknownparam"),
            contact.uri.as_sip().unwrap().params.contains("unknownparam"),
        )
    };
    assert_eq!((param(&outside), param(&inside)), ((true, false), (false, true)));
    let regaut = request("regaut01");
    assert!(regaut.headers.contains(&HeaderName::Authorization));
    assert!(regaut.headers.credentials(&HeaderName::Authorization).is_empty(), "401: nothing usable");
    assert!(request("baddate").headers.date().is_err());
    assert_eq!(request("zeromf").headers.max_forwards().unwrap(), Some(0));
    let Ok(Message::Response(unreason)) = parse_datagram(&fixture("unreason")) else { panic!("a response") };
    assert!(String::from_utf8(unreason.reason.to_vec()).unwrap().starts_with("= 2**3 * 5**2 "));
}

/// What is read and written again is the same message: no header, byte or order is lost.
#[test]
fn accepted_messages_survive_a_round_trip() {
    for (name, _) in TABLE {
        let Ok(message) = parse_datagram(&fixture(name)) else { continue };
        let again = parse_datagram(&message.to_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let without_length = |message: &Message| {
            let mut headers = message.headers().clone();
            headers.remove(&HeaderName::ContentLength);
            headers
        };
        assert_eq!(without_length(&message), without_length(&again), "{name}");
        match (message, again) {
            (Message::Request(a), Message::Request(b)) => {
                assert_eq!((a.uri, a.body), (b.uri, b.body), "{name}")
            }
            (Message::Response(a), Message::Response(b)) => {
                assert_eq!((a.reason, a.body), (b.reason, b.body), "{name}")
            }
            _ => panic!("{name}"),
        }
    }
}
