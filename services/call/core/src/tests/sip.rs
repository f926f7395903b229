//! The caller's dialog.

use std::time::Duration;

use trunkline_sip::{HeaderName, Method};
use trunkline_types::{Machine, ReleaseCause};

use super::bed::*;
use crate::{
    Destination, Direction, EventBody, Input, MediaBody, MediaEvent, MediaFailureKind, Phase,
    TransactionFailure,
};

pub(super) const SDP: &str = "Content-Type: application/sdp\r\n";

fn invited() -> Bed {
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
    bed
}

fn cause(bed: &Bed) -> Option<ReleaseCause> {
    bed.call.cause()
}

#[test]
fn an_early_offer_rings_at_once_and_is_answered_with_the_media_nodes_sdp() {
    let mut bed = invited();
    assert_eq!(bed.kinds(), ["Started", "LegAdded", "MediaSession"]);
    assert_eq!(bed.statuses(), [180]);
    let MediaBody::CreateRtp { sdp, signalling_ip, sip_call_id, .. } = bed.command().body else { panic!() };
    assert_eq!((&sdp[..], signalling_ip.as_str()), (&b"v=0\r\n"[..], "127.0.0.1"));
    assert_eq!(sip_call_id, "abc@127.0.0.1", "captures of its reports are found beside its messages");
    let ringing = bed.responses().remove(0);
    assert_eq!(ringing.headers.get_str(&HeaderName::Contact).unwrap(), "<sip:c.token@127.0.0.1:5060>");
    bed.drain();
    bed.media_ok();
    let answer = bed.responses().remove(0);
    assert_eq!((answer.status, &answer.body[..]), (200, ANSWER.as_bytes()));
    assert_eq!(answer.headers.to_tag(), ringing.headers.to_tag(), "one dialog from 180 to 200");
    assert_eq!(bed.kinds()[3..], ["DialogChanged", "LegAnswered", "QueueEntered"]);
    assert_eq!(bed.call.phase(), Phase::Queued);
}

#[test]
fn a_late_offer_is_ours_and_the_ack_brings_the_answer() {
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "");
    assert!(matches!(bed.command().body, MediaBody::CreateRtp { sdp, .. } if sdp.is_empty()));
    bed.media_ok();
    assert_eq!(bed.statuses(), [180, 200]);
    bed.settle_media();
    bed.send_as("ACK", 1, SDP, "v=0\r\ntheirs\r\n");
    assert!(
        matches!(bed.command().body, MediaBody::SetRemote { sdp, .. } if &sdp[..] == b"v=0\r\ntheirs\r\n")
    );
    // An ACK without an answer leaves no way to talk.
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "");
    bed.media_ok();
    bed.ack();
    assert_eq!(cause(&bed), Some(ReleaseCause::BadRequest));
    assert_eq!(bed.requests()[0].1.method, Method::Bye);
}

#[test]
fn each_reason_to_refuse_has_its_status_and_the_call_is_over() {
    let refused = |extra: &str, body: &str, reply: Option<MediaFailureKind>| {
        let mut bed = Bed::new(shelf(&[]));
        bed.only(&["m1"]);
        bed.invite_with(Destination::Queue(queue()), extra, body);
        if let Some(kind) = reply {
            bed.reply(Err(kind));
        }
        let statuses = bed.statuses();
        bed.settle_media();
        bed.pass(Duration::from_secs(5));
        assert!(bed.call.finished(), "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status >= 200).count(), 1);
        (*statuses.last().unwrap(), cause(&bed).unwrap())
    };
    use MediaFailureKind as Kind;
    assert_eq!(refused("", "v", Some(Kind::NoCommonCodec)), (488, ReleaseCause::NoCommonCodec));
    assert_eq!(refused("", "v", Some(Kind::UnsupportedTransport)), (488, ReleaseCause::NoCommonCodec));
    assert_eq!(refused("", "v", Some(Kind::MalformedSdp)), (400, ReleaseCause::BadRequest));
    assert_eq!(refused("", "v", Some(Kind::Overload)), (503, ReleaseCause::Overload));
    assert_eq!(refused("", "v", Some(Kind::Internal)), (500, ReleaseCause::MediaLost));
    let timer = "Supported: timer\r\nSession-Expires: 60\r\n";
    assert_eq!(refused(timer, "v", None), (422, ReleaseCause::BadRequest));
}

#[test]
fn a_body_that_is_not_sdp_is_415_and_an_unknown_flow_404() {
    let mut bed = Bed::new(shelf(&[]));
    let request = bed.request("INVITE", 1, "Content-Type: text/plain\r\n", "hello");
    let new_call = crate::NewCall {
        dialled: "x".into(),
        destination: Destination::Flow("menu".parse().unwrap()),
        caller_number: String::new(),
        caller_name: String::new(),
        contact_uri: "sip:c@h".into(),
        trunk: String::new(),
    };
    let incoming = |request, destination| crate::Incoming {
        transaction: "t1".into(),
        request,
        route: route(),
        new_call: Some(Box::new(crate::NewCall { destination, ..new_call.clone() })),
    };
    bed.step(Input::Request(Box::new(incoming(request.clone(), Destination::Queue(queue())))));
    assert_eq!(bed.statuses(), [415]);
    assert!(bed.call.finished());
    let mut bed = Bed::new(shelf(&[]));
    bed.step(Input::Request(Box::new(incoming(request, Destination::Flow("menu".parse().unwrap())))));
    assert_eq!((bed.statuses(), cause(&bed)), (vec![404], Some(ReleaseCause::UnknownNumber)));
}

#[test]
fn a_media_node_that_does_not_answer_ends_the_call_in_time() {
    let mut bed = invited();
    bed.only(&["m1"]);
    bed.pass(Duration::from_secs(9));
    assert_eq!(bed.statuses(), [180], "it is tried once more");
    bed.pass(Duration::from_secs(9));
    assert_eq!(bed.statuses(), [180, 500]);
    assert!(
        bed.fresh().iter().filter_map(media_of).filter(|c| c.body.creates()).count() >= 5,
        "was repeated"
    );
    bed.pass(Duration::from_secs(70));
    assert!(bed.call.finished());
}

#[test]
fn a_cancel_before_the_answer_is_487_and_one_that_crosses_the_200_is_ignored() {
    let mut bed = invited();
    bed.cancel("t1");
    assert_eq!((bed.statuses(), cause(&bed)), (vec![180, 487], Some(ReleaseCause::CallerCancel)));
    // The media node's answer comes too late and changes nothing; what it made is closed.
    bed.media_ok();
    assert_eq!(bed.statuses(), [180, 487]);
    assert_eq!(bed.command().body, MediaBody::CloseSession);
    bed.settle_media();
    assert!(bed.call.finished());

    let mut bed = invited();
    bed.media_ok();
    bed.cancel("t1");
    assert_eq!((bed.statuses(), cause(&bed)), (vec![180, 200], None));
    bed.ack();
    bed.send("BYE", "", "");
    assert_eq!((bed.statuses(), cause(&bed)), (vec![180, 200, 200], Some(ReleaseCause::CallerHangup)));
}

#[test]
fn a_200_is_repeated_until_its_ack_and_a_lost_ack_ends_in_a_bye() {
    let mut bed = invited();
    bed.media_ok();
    bed.queue(0, crate::QueueSignal::Queued { position: 0 });
    bed.settle_media();
    bed.drain();
    let began = bed.now;
    let mut at = Vec::new();
    while bed.call.phase() == Phase::Queued {
        bed.pass(Duration::from_millis(100));
        if bed.statuses().contains(&200) {
            at.push(u64::try_from(bed.now.since(began).as_millis()).unwrap());
        }
        if bed.call.phase() == Phase::Queued {
            bed.drain();
        }
    }
    // T1 doubling up to T2, RFC 3261 section 13.3.1.4.
    assert_eq!(at, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(bed.now.since(began), Duration::from_secs(32));
    assert_eq!(cause(&bed), Some(ReleaseCause::PeerTimeout));
    let (_, bye) = bed.requests().remove(0);
    assert_eq!(bye.method, Method::Bye);
    assert!(bye.headers.get_str(&HeaderName::Reason).unwrap().starts_with("Q.850;cause=102"));
    assert!(!bye.headers.contains(&HeaderName::Via), "the edge adds its own");
}

#[test]
fn a_bye_of_ours_waits_for_the_ack() {
    let mut bed = invited();
    bed.media_ok();
    bed.drain();
    bed.step(Input::Release(ReleaseCause::Shutdown));
    assert!(bed.requests().is_empty(), "RFC 3261 section 15: not before the ACK");
    bed.ack();
    assert_eq!(bed.requests().len(), 1);
}

#[test]
fn an_edge_that_watches_the_ack_itself_ends_the_call_too() {
    let mut bed = invited();
    bed.media_ok();
    bed.step(Input::TransactionFailed { transaction: "t1".into(), failure: TransactionFailure::NoAck });
    assert_eq!(cause(&bed), Some(ReleaseCause::PeerTimeout));
    assert_eq!(bed.requests().len(), 1);
}

#[test]
fn the_callers_bye_is_answered_at_once_and_everything_is_settled() {
    let mut bed = Bed::waiting();
    bed.send("BYE", "", "");
    assert_eq!(bed.statuses(), [200]);
    assert!(bed.requests().is_empty());
    assert!(matches!(bed.queue_requests()[..], [crate::QueueRequest::Leave { entry: 0, .. }]));
    assert!(!bed.call.finished());
    bed.settle_media();
    bed.queue(0, crate::QueueSignal::Left);
    bed.pass(Duration::from_secs(3));
    assert!(bed.call.finished());
    let kinds = bed.kinds();
    assert_eq!(kinds[kinds.len() - 3..], ["QueueExited", "Ended", "LegReleased"]);
    assert_eq!(bed.call.next_deadline(), None);
}

#[test]
fn a_bye_before_the_answer_ends_the_invite_too() {
    let mut bed = invited();
    bed.send("BYE", "", "");
    assert_eq!(bed.statuses(), [180, 200, 487]);
    assert_eq!(cause(&bed), Some(ReleaseCause::CallerCancel));
}

#[test]
fn hold_by_the_caller_is_answered_and_noted() {
    let mut bed = Bed::talking();
    bed.send("INVITE", SDP, "v=0\r\na=sendonly\r\n");
    assert!(matches!(bed.command().body, MediaBody::Renegotiate { .. }));
    bed.reply(Ok(ok(Direction::RecvOnly)));
    assert_eq!(bed.statuses(), [200]);
    assert!(bed.has(|e| matches!(e, EventBody::HoldChanged { by: crate::HoldBy::Caller, on_hold: true })));
    assert!(matches!(bed.command().body, MediaBody::MarkHold { on: true, .. }));
    assert!(
        matches!(&bed.notices()[..], [crate::AgentNotice::State(state)] if state.caller_held && !state.on_hold)
    );
    bed.settle_media();
    bed.send_as("ACK", 2, "", "");
    // A caller who holds us may be silent for as long as he likes.
    bed.media_event(MediaEvent::Disconnected { leg: leg(0), reason: crate::Disconnect::NoRtp });
    bed.pass(Duration::from_secs(100));
    assert_eq!(cause(&bed), None);
    bed.send("INVITE", SDP, "v=0\r\n");
    bed.reply(Ok(ok(Direction::SendRecv)));
    assert!(matches!(bed.command().body, MediaBody::MarkHold { on: false, .. }));
}

#[test]
fn a_reinvite_without_sdp_gets_an_offer_and_its_ack_brings_the_answer() {
    let mut bed = Bed::talking();
    bed.send("INVITE", "", "");
    assert!(matches!(bed.command().body, MediaBody::CreateOffer { .. }));
    bed.media_ok();
    assert_eq!(&bed.responses()[0].body[..], ANSWER.as_bytes());
    // While our offer is open: no other one.
    bed.drain();
    bed.send("INVITE", SDP, "v=0\r\n");
    bed.send("UPDATE", SDP, "v=0\r\n");
    assert_eq!(bed.statuses(), [491, 491]);
    bed.send_as("ACK", 2, SDP, "v=0\r\n");
    assert!(matches!(bed.command().body, MediaBody::SetRemote { .. }));
}

#[test]
fn overlapping_and_impossible_offers_leave_the_session_as_it_was() {
    let mut bed = Bed::talking();
    bed.send("INVITE", SDP, "v=0\r\n");
    bed.send("INVITE", SDP, "v=0\r\n");
    assert_eq!(bed.statuses(), [500]);
    assert_eq!(bed.responses()[0].headers.retry_after().unwrap(), Some(2));
    bed.reply(Err(MediaFailureKind::NoCommonCodec));
    assert_eq!(bed.statuses(), [500, 488]);
    assert_eq!(bed.call.phase(), Phase::Talking);
    // Cancelled while the media node thinks: 487 once, its answer goes nowhere.
    bed.drain();
    bed.send("INVITE", SDP, "v=0\r\n");
    bed.cancel("t4");
    bed.media_ok();
    assert_eq!(bed.statuses(), [487]);
}

#[test]
fn update_refreshes_the_target_with_and_without_an_offer() {
    let mut bed = Bed::talking();
    bed.send("UPDATE", "", "");
    assert_eq!(bed.statuses(), [200]);
    bed.send("UPDATE", SDP, "v=0\r\n");
    assert!(matches!(bed.command().body, MediaBody::Renegotiate { .. }));
    bed.media_ok();
    assert_eq!(bed.statuses(), [200, 200]);
    assert_eq!(&bed.responses()[1].body[..], ANSWER.as_bytes());
}

#[test]
fn strange_requests_get_their_refusals_and_the_call_goes_on() {
    let mut bed = Bed::talking();
    for (method, status) in
        [("OPTIONS", 200), ("REFER", 405), ("MESSAGE", 405), ("FOO", 501), ("PRACK", 481), ("NOTIFY", 405)]
    {
        bed.drain();
        bed.send(method, "", "");
        assert_eq!(bed.statuses(), [status], "{method}");
        assert!(status == 481 || bed.responses()[0].headers.contains(&HeaderName::Allow), "{method}");
    }
    bed.drain();
    bed.send_as("OPTIONS", 2, "", "");
    assert_eq!(bed.statuses(), [500], "CSeq lower than before");
    bed.drain();
    let tag = std::mem::replace(&mut bed.tag, "other".into());
    bed.send("BYE", "", "");
    assert_eq!(bed.statuses(), [481], "another dialog");
    bed.tag = tag;
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn info_gives_keys_and_other_info_is_refused() {
    let mut bed = Bed::new(shelf(&[MENU]));
    bed.invite_to(Destination::Flow("menu".parse().unwrap()), "v=0\r\n");
    bed.media_ok();
    bed.ack();
    bed.played();
    bed.drain();
    bed.send("INFO", "Content-Type: application/dtmf-relay\r\n", "Signal=2\r\nDuration=100\r\n");
    assert_eq!(bed.statuses(), [200]);
    assert!(
        bed.has(|e| matches!(e, EventBody::DigitsReceived { how: crate::DigitsHow::SipInfo, count: 1, .. }))
    );
    assert_eq!(bed.call.queue().unwrap().as_str(), "sales");
    bed.drain();
    bed.send("INFO", "Content-Type: text/plain\r\n", "x");
    bed.send("INFO", "Content-Type: application/dtmf-relay\r\n", "Signal=99\r\n");
    bed.send("INFO", "", "");
    assert_eq!(bed.statuses(), [415, 400, 200]);
}

#[test]
fn a_session_timer_that_the_peer_refreshes_is_accepted_and_watched() {
    let timer = "Supported: timer\r\nSession-Expires: 120;refresher=uac\r\n";
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_with(Destination::Queue(queue()), timer, "v=0\r\n");
    bed.media_ok();
    let answer = bed.responses().pop().unwrap();
    assert_eq!(answer.headers.get_str(&HeaderName::SessionExpires).unwrap(), "120;refresher=uac");
    assert_eq!(answer.headers.get_str(&HeaderName::Require).unwrap(), "timer");
    bed.ack();
    bed.settle_media();
    bed.queue(0, crate::QueueSignal::Queued { position: 0 });
    bed.pass(Duration::from_secs(80));
    bed.queue(0, crate::QueueSignal::Queued { position: 0 });
    bed.send("UPDATE", timer, "");
    bed.pass(Duration::from_secs(80));
    assert_eq!(cause(&bed), None);
    bed.pass(Duration::from_secs(20));
    assert_eq!(cause(&bed), Some(ReleaseCause::PeerTimeout));
    // Asked to refresh ourselves we do without.
    let mut bed = Bed::new(shelf(&[]));
    let ours = "Supported: timer\r\nSession-Expires: 120;refresher=uas\r\n";
    bed.invite_with(Destination::Queue(queue()), ours, "v=0\r\n");
    bed.media_ok();
    assert!(!bed.responses().pop().unwrap().headers.contains(&HeaderName::SessionExpires));
}

#[test]
fn a_bye_that_nobody_answers_is_given_up() {
    let mut bed = Bed::talking();
    bed.control("1", crate::Control::HangUp);
    assert_eq!(bed.requests().len(), 1);
    bed.settle_media();
    bed.agent(1, crate::AgentRequest::EndedAck);
    bed.pass(Duration::from_secs(130));
    assert!(bed.call.finished());
    // The peer's BYE that crosses ours is answered.
    let mut bed = Bed::talking();
    bed.control("1", crate::Control::HangUp);
    bed.drain();
    bed.send("BYE", "", "");
    assert_eq!(bed.statuses(), [200]);
    assert_eq!(cause(&bed), Some(ReleaseCause::AgentHangup));
}

#[test]
fn silence_of_the_caller_ends_the_call_unless_it_is_over_soon() {
    let mut bed = Bed::waiting();
    bed.media_event(MediaEvent::Disconnected { leg: leg(0), reason: crate::Disconnect::NoRtp });
    bed.pass(Duration::from_secs(10));
    bed.media_event(MediaEvent::Connected { leg: leg(0) });
    bed.pass(Duration::from_secs(10));
    assert_eq!(cause(&bed), None);
    bed.media_event(MediaEvent::Disconnected { leg: leg(0), reason: crate::Disconnect::NoRtp });
    bed.pass(Duration::from_secs(15));
    assert_eq!(cause(&bed), Some(ReleaseCause::MediaTimeout));
    assert_eq!(bed.requests().len(), 1);
}

#[test]
fn an_invite_without_what_a_dialog_needs_is_refused_and_leaves_no_call() {
    let mut bed = Bed::new(shelf(&[]));
    let mut request = bed.request("INVITE", 1, "", "");
    request.headers.remove(&HeaderName::CSeq);
    let new_call = crate::NewCall {
        dialled: "x".into(),
        destination: Destination::Queue(queue()),
        caller_number: String::new(),
        caller_name: String::new(),
        contact_uri: "sip:c@h".into(),
        trunk: String::new(),
    };
    let incoming = crate::Incoming {
        transaction: "t1".into(),
        request,
        route: route(),
        new_call: Some(Box::new(new_call)),
    };
    bed.step(Input::Request(Box::new(incoming)));
    assert_eq!(bed.statuses(), [400]);
    assert!(bed.call.finished() && bed.events.is_empty());
}
