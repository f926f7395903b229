//! From one media node to another.

use std::time::Duration;

use trunkline_sip::{HeaderName, Message, Method, Request, Response, parse_datagram};
use trunkline_types::{RecordingId, ReleaseCause};

use super::bed::*;
use crate::{
    AgentNotice, AgentRequest, Control, Destination, EdgeCommand, Effect, EventBody, Input, MediaBody,
    MediaEvent, MediaFailureKind, MoveReason, Phase, Program, QueueSignal, RecordedObject,
};

fn recording(index: u16) -> RecordingId {
    RecordingId { call: call_id(), index }
}

/// Our INVITE among the fresh effects.
fn our_invite(bed: &Bed) -> Option<(String, Request)> {
    bed.requests().into_iter().rev().find(|(_, request)| request.method == Method::Invite)
}

fn acks(bed: &Bed) -> usize {
    let is_ack = |effect: &&Effect| matches!(effect, Effect::Edge { command: EdgeCommand::Ack { .. }, .. });
    bed.fresh().iter().filter(is_ack).count()
}

/// The caller answers our INVITE.
fn answers(bed: &mut Bed, status: u16, extra: &[(HeaderName, &str)]) {
    let (transaction, invite) = our_invite(bed).expect("an INVITE of ours");
    let mut response = Response::to(&invite, status);
    for (name, value) in extra {
        response = response.with_header(name.clone(), (*value).to_owned());
    }
    if status == 200 {
        response = response.with_body("application/sdp", "v=0\r\nanswer of the caller\r\n");
    }
    bed.step(Input::Response { client_transaction: transaction, response: Box::new(response) });
}

fn remade(bed: &mut Bed) {
    let remake = AgentRequest::RemakeMedia {
        session: "s1".into(),
        request: "r1".into(),
        sdp_offer: "v=0\r\nnew\r\n".into(),
    };
    bed.agent(1, remake);
    bed.settle_media();
    bed.media_event(MediaEvent::Connected { leg: leg(1) });
}

fn moved(bed: &Bed, n: u16) -> bool {
    bed.has(|e| matches!(e, EventBody::LegMoved { leg: l, .. } if *l == leg(n)))
}

#[test]
fn a_conversation_has_audio_on_another_node_after_one_exchange_with_each_party() {
    let mut bed = Bed::talking();
    bed.lose("m1");
    assert!(bed.has(|e| matches!(e, EventBody::MediaMoved { reason: MoveReason::Lost, .. })));
    assert!(bed.notices().contains(&AgentNotice::MediaMoved { moved: 1 }));
    let [(close, MediaBody::CloseSession), (salvage, MediaBody::Salvage { .. }), (node, create)] =
        &bed.commands()[..]
    else {
        panic!("{:?}", bed.commands())
    };
    assert_eq!((close.as_str(), salvage.as_str(), node.as_str()), ("m1", "m2", "m2"));
    let MediaBody::CreateRtp { sdp, former_sdp, .. } = create else { panic!("{create:?}") };
    assert!(sdp.is_empty() && former_sdp == ANSWER, "our offer continues the dialog's session");
    let done = bed.settle_media();
    let second = MediaBody::StartRecording { recording: recording(1), left: leg(0), right: leg(1) };
    assert!(done.contains(&second), "{done:?}");
    // The offer is out as soon as the node has made it.
    let (_, invite) = our_invite(&bed).unwrap();
    assert_eq!(&invite.body[..], ANSWER.as_bytes());
    assert_eq!(invite.headers.contact().unwrap().unwrap().uri.to_string(), "sip:c.token@127.0.0.1:5060");
    assert!(!moved(&bed, 0));
    answers(&mut bed, 200, &[]);
    assert_eq!(acks(&bed), 1);
    assert!(matches!(bed.command().body, MediaBody::SetRemote { .. }));
    bed.settle_media();
    assert!(moved(&bed, 0) && !moved(&bed, 1));
    remade(&mut bed);
    assert!(moved(&bed, 1));
    assert!(matches!(bed.command().body, MediaBody::Bridge { .. }));
    assert_eq!(bed.call.phase(), Phase::Talking);
    // The offer is not told again, and nothing else is due but the command to the dead node.
    bed.drain();
    bed.pass(Duration::from_secs(50));
    assert!(bed.notices().iter().all(|notice| !matches!(notice, AgentNotice::MediaMoved { .. })));
    assert!(bed.requests().is_empty());
    let others: Vec<_> = bed.commands().into_iter().filter(|(node, _)| node != "m1").collect();
    assert!(others.iter().all(|(_, body)| matches!(body, MediaBody::Salvage { .. })), "{others:?}");
}

/// Found by the simulation: the leg of an agent of a former stay was left in the session.
#[test]
fn a_node_to_which_the_call_comes_back_is_cleared_first() {
    let mut bed = Bed::talking();
    bed.lose("m1");
    let first = bed.settle_media();
    assert!(!first.contains(&MediaBody::CloseSession), "it was never there: {first:?}");
    answers(&mut bed, 200, &[]);
    remade(&mut bed);
    bed.settle_media();
    bed.only(&["m1"]);
    bed.lose("m2");
    assert_eq!(bed.call.media_node(), Some(&media_node("m1")));
    let again = bed.settle_media();
    let at = |wanted: fn(&MediaBody) -> bool| again.iter().position(wanted);
    let (close, create) =
        (at(|body| *body == MediaBody::CloseSession), at(|body| matches!(body, MediaBody::CreateRtp { .. })));
    assert!(close.is_some() && close < create, "{again:?}");
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    assert!(bed.call.cause().is_none());
}

#[test]
fn the_page_is_told_until_it_makes_an_offer_and_the_caller_hears_music_meanwhile() {
    let mut bed = Bed::talking();
    bed.control("1", Control::Mute(true));
    bed.settle_media();
    bed.lose("m1");
    bed.settle_media();
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    bed.drain();
    bed.pass(Duration::from_secs(3));
    let told = bed.notices().iter().filter(|n| matches!(n, AgentNotice::MediaMoved { moved: 1 })).count();
    assert!((2..=3).contains(&told), "{told}");
    let music = |body: &MediaBody| matches!(body, MediaBody::SetProgram { program: Program::Music(_), .. });
    assert!(bed.settle_media().iter().any(music), "after two seconds");
    remade(&mut bed);
    let done: Vec<_> = bed.commands().into_iter().map(|(_, body)| body).collect();
    assert!(done.contains(&MediaBody::SetMuted { leg: leg(1), muted: true }), "still muted: {done:?}");
    assert!(matches!(bed.settle_media().last(), Some(MediaBody::Bridge { .. })));
    // An agent who never comes back is released, and the caller waits in front.
    let mut bed = Bed::talking();
    bed.lose("m1");
    bed.settle_media();
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    bed.pass(Duration::from_secs(3));
    bed.settle_media();
    bed.pass(Duration::from_secs(58));
    assert_eq!(bed.call.phase(), Phase::Queued);
}

#[test]
fn a_pause_and_a_hold_outlive_the_move_before_any_audio_flows() {
    let mut bed = Bed::talking();
    bed.control("1", Control::PauseRecording(true));
    bed.control("2", Control::Hold(true));
    bed.settle_media();
    bed.lose("m1");
    let done = bed.settle_media();
    let at = |wanted: fn(&MediaBody) -> bool| done.iter().position(wanted).unwrap_or(usize::MAX);
    let start = at(|body| matches!(body, MediaBody::StartRecording { .. }));
    let pause = at(|body| matches!(body, MediaBody::PauseRecording { paused: true, .. }));
    let hold = at(|body| matches!(body, MediaBody::MarkHold { on: true, .. }));
    assert!(start < pause && pause < done.len() && hold < done.len(), "{done:?}");
    let music = |body: &MediaBody| matches!(body, MediaBody::SetProgram { program: Program::Music(_), .. });
    assert!(done.iter().any(music), "on hold the caller hears music: {done:?}");
    bed.crash(Duration::ZERO);
    assert!(bed.call.recordings.iter().any(|known| known.id == recording(1) && known.paused));
}

#[test]
fn the_recording_of_the_lost_node_is_put_together_by_another_and_its_gap_is_told() {
    let mut bed = Bed::talking();
    bed.pass(Duration::from_secs(10));
    bed.lose("m1");
    bed.settle_media();
    let object = RecordedObject {
        recording: recording(0),
        key: "default/x.wav".into(),
        duration_ms: 8_500,
        size_bytes: 1,
        sha256: "00".into(),
        holds: Vec::new(),
        gaps: Vec::new(),
        salvaged: true,
    };
    bed.media_event(MediaEvent::RecordingFinished(Box::new(object)));
    let finished = bed.events.iter().find_map(|event| match &event.body {
        EventBody::RecordingFinished(finished) => Some(finished.clone()),
        _ => None,
    });
    let finished = finished.expect("salvaged");
    assert!(finished.salvaged);
    assert_eq!((finished.gaps[0].start_ms, finished.gaps[0].end_ms), (8_500, 10_000));
    assert_eq!(finished.gaps[0].reason, "media_lost");
    let acknowledged =
        |effect: &Effect| matches!(effect, Effect::Acknowledge { node, .. } if node.as_str() == "m2");
    assert!(bed.fresh().iter().any(acknowledged));
    let transcript = bed.events.iter().any(|event| matches!(&event.body,
        EventBody::TranscriptStatus { recording: Some(r), status: crate::TranscriptState::Failed, .. } if *r == recording(0)));
    assert!(transcript, "its transcript ends where it ended");
}

#[test]
fn a_waiting_caller_keeps_place_and_time() {
    let mut bed = Bed::waiting();
    bed.lose("m1");
    let done = bed.settle_media();
    assert!(done.iter().any(|body| matches!(body, MediaBody::SetProgram { program: Program::Music(_), .. })));
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    assert!(moved(&bed, 0));
    assert_eq!(bed.call.phase(), Phase::Queued);
    assert_eq!(bed.events.iter().filter(|e| matches!(e.body, EventBody::QueueEntered { .. })).count(), 1);
    // An agent picks up on the new node.
    bed.connect(1);
    bed.settle_media();
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn an_agent_who_is_being_connected_is_connected_on_the_other_node() {
    let mut bed = Bed::waiting();
    bed.connect(1);
    assert!(matches!(bed.command().body, MediaBody::CreateWebRtc { .. }));
    bed.lose("m1");
    let done = bed.settle_media();
    assert!(done.iter().any(|body| matches!(body, MediaBody::CreateWebRtc { .. })), "{done:?}");
    assert_eq!(bed.call.phase(), Phase::Talking);
    assert!(bed.notices().iter().any(|notice| matches!(notice, AgentNotice::Connected { .. })));
}

#[test]
fn an_invite_without_an_answer_is_answered_by_another_node() {
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
    bed.lose("m1");
    assert!(matches!(bed.command().body, MediaBody::CreateRtp { ref sdp, .. } if !sdp.is_empty()));
    bed.media_ok();
    assert_eq!(bed.statuses(), [180, 200]);
    assert!(our_invite(&bed).is_none(), "there is nothing to be renegotiated");
    // The same for a node that is full, drains, or does not answer in two seconds.
    for kind in [MediaFailureKind::Overload, MediaFailureKind::ShuttingDown] {
        let mut bed = Bed::new(shelf(&[]));
        bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
        bed.reply(Err(kind));
        assert_eq!(bed.call.media_node(), Some(&media_node("m2")));
        bed.media_ok();
        assert_eq!(bed.statuses(), [180, 200]);
    }
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
    bed.pass(Duration::from_millis(2_100));
    assert_eq!(bed.call.media_node(), Some(&media_node("m2")));
    bed.media_ok();
    assert_eq!(bed.statuses(), [180, 200]);
}

#[test]
fn the_invite_waits_for_the_ack_of_our_200() {
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
    bed.media_ok();
    bed.lose("m1");
    bed.settle_media();
    assert!(our_invite(&bed).is_none(), "RFC 3261 section 14.1");
    bed.ack();
    assert!(our_invite(&bed).is_some());
    // The answer in an ACK that still comes belongs to the lost node's offer.
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "");
    bed.media_ok();
    bed.lose("m1");
    bed.settle_media();
    bed.send_as("ACK", 1, "Content-Type: application/sdp\r\n", "v=0\r\n");
    assert!(our_invite(&bed).is_some());
    assert!(bed.commands().iter().all(|(_, body)| !matches!(body, MediaBody::SetRemote { .. })));
}

#[test]
fn glare_is_resolved_by_a_pause_and_the_callers_offer_serves_as_well() {
    let mut bed = Bed::waiting();
    bed.lose("m1");
    bed.settle_media();
    // Theirs crosses ours: both get 491.
    bed.send("INVITE", "Content-Type: application/sdp\r\n", "v=0\r\n");
    assert_eq!(bed.statuses(), [491]);
    answers(&mut bed, 491, &[]);
    bed.drain();
    bed.pass(Duration::from_secs(2));
    assert!(our_invite(&bed).is_some(), "within two seconds, the Call-ID is theirs");
    answers(&mut bed, 491, &[]);
    bed.drain();
    // Theirs comes first this time.
    bed.send("INVITE", "Content-Type: application/sdp\r\n", "v=0\r\n");
    assert!(matches!(bed.command().body, MediaBody::Renegotiate { .. }));
    bed.media_ok();
    assert_eq!(bed.statuses(), [200]);
    assert!(moved(&bed, 0));
    bed.send_as("ACK", 3, "", "");
    bed.drain();
    bed.pass(Duration::from_secs(5));
    assert!(our_invite(&bed).is_none(), "nothing is left to be offered");
}

#[test]
fn a_reinvite_that_was_under_way_is_answered_by_the_new_node() {
    for (body, reply) in [("v=0\r\n", true), ("", false)] {
        let mut bed = Bed::waiting();
        let extra = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        bed.send("INVITE", extra, body);
        bed.lose("m1");
        assert!(matches!(bed.command().body, MediaBody::CreateRtp { .. }));
        bed.settle_media();
        assert_eq!(bed.statuses(), [200]);
        assert_eq!(moved(&bed, 0), reply);
        bed.send_as("ACK", 2, "Content-Type: application/sdp\r\n", "v=0\r\n");
        bed.settle_media();
        assert!(moved(&bed, 0));
        assert!(our_invite(&bed).is_none());
    }
}

#[test]
fn a_caller_who_refuses_or_is_gone_ends_the_call() {
    for status in [488, 606, 408, 481] {
        let mut bed = Bed::waiting();
        bed.lose("m1");
        bed.settle_media();
        answers(&mut bed, status, &[]);
        // 481: the caller's BYE crosses our INVITE. That is a hang-up, and no fault of ours.
        let cause = if status == 481 { ReleaseCause::CallerHangup } else { ReleaseCause::MediaLost };
        assert_eq!(bed.call.cause(), Some(cause), "{status}");
        let byes = bed.requests().iter().filter(|(_, request)| request.method == Method::Bye).count();
        assert_eq!(byes, usize::from(status != 481), "{status}");
    }
    let mut bed = Bed::waiting();
    bed.lose("m1");
    bed.settle_media();
    bed.pass(Duration::from_secs(33));
    assert_eq!(bed.call.cause(), Some(ReleaseCause::MediaLost));
    let given = bed.requests().iter().filter(|(_, request)| request.method == Method::Invite).count();
    assert!(given > 5, "the edge is given it again: {given}");
    // A pause that is asked for is kept.
    let mut bed = Bed::waiting();
    bed.lose("m1");
    bed.settle_media();
    answers(&mut bed, 500, &[(HeaderName::RetryAfter, "3")]);
    bed.drain();
    bed.pass(Duration::from_millis(2_900));
    assert!(our_invite(&bed).is_none());
    bed.pass(Duration::from_millis(200));
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    assert!(moved(&bed, 0));
}

#[test]
fn every_2xx_gets_its_ack_even_one_to_an_invite_of_a_former_owner() {
    let mut bed = Bed::waiting();
    bed.lose("m1");
    bed.settle_media();
    let (transaction, invite) = our_invite(&bed).unwrap();
    bed.crash(Duration::from_secs(1));
    let response = Response::to(&invite, 200).with_body("application/sdp", "v=0\r\n");
    let again = Input::Response { client_transaction: transaction, response: Box::new(response) };
    bed.step(again.clone());
    bed.step(again);
    assert_eq!(acks(&bed), 2);
    // The move is done once more by the new owner.
    let endpoints = vec![crate::EndpointInfo {
        leg: leg(0),
        connected: false,
        codec: None,
        direction: None,
        local_sdp: ANSWER.into(),
    }];
    let session = crate::SessionInfo { call: call_id(), endpoints, recording: None, transcribing: false };
    bed.drain();
    bed.reply(Ok(crate::MediaOk { sessions: vec![session], ..Default::default() }));
    assert!(matches!(bed.command().body, MediaBody::CreateOffer { .. }));
    bed.settle_media();
    let (_, second) = our_invite(&bed).unwrap();
    assert!(second.headers.cseq().unwrap().number > invite.headers.cseq().unwrap().number);
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    assert!(moved(&bed, 0));
}

#[test]
fn no_owner_uses_a_sequence_number_of_the_one_before() {
    let mut bed = Bed::waiting();
    bed.lose("m1");
    bed.settle_media();
    let mut last = our_invite(&bed).unwrap().1.headers.cseq().unwrap().number;
    for _ in 0..3 {
        bed.crash(Duration::from_secs(1));
        bed.reply(Ok(crate::MediaOk::default()));
        bed.settle_media();
        assert!(our_invite(&bed).is_none(), "the former owner's may be open");
        bed.pass(Duration::from_millis(1_250));
        let next = our_invite(&bed).unwrap().1.headers.cseq().unwrap().number;
        assert!(next > last, "{next} after {last}");
        last = next;
    }
    bed.crash(Duration::from_secs(1));
    bed.step(Input::Release(ReleaseCause::Shutdown));
    let (_, bye) = bed.requests().pop().unwrap();
    assert!(bye.headers.cseq().unwrap().number > last);
}

#[test]
fn a_former_owners_invite_is_acknowledged_before_another_goes_out() {
    let mut bed = Bed::waiting();
    bed.lose("m1");
    bed.settle_media();
    let (transaction, first) = our_invite(&bed).unwrap();
    bed.crash(Duration::from_secs(1));
    bed.reply(Ok(crate::MediaOk::default()));
    bed.settle_media();
    assert!(our_invite(&bed).is_none(), "one INVITE at a time");
    bed.drain();
    let response = Response::to(&first, 200).with_body("application/sdp", "v=0\r\n");
    bed.step(Input::Response { client_transaction: transaction, response: Box::new(response) });
    assert_eq!(acks(&bed), 1);
    assert!(our_invite(&bed).is_some(), "at once, when the former one is settled");
}

#[test]
fn a_second_loss_amid_the_move_waits_for_the_first_invite() {
    let mut bed = Bed::waiting();
    bed.lose("m1");
    bed.settle_media();
    let (transaction, first) = our_invite(&bed).unwrap();
    bed.drain();
    bed.lose("m2");
    bed.settle_media();
    assert!(our_invite(&bed).is_none(), "one INVITE at a time");
    let response = Response::to(&first, 200).with_body("application/sdp", "v=0\r\n");
    bed.step(Input::Response { client_transaction: transaction, response: Box::new(response) });
    assert_eq!(acks(&bed), 1);
    let (_, second) = our_invite(&bed).expect("the third node's offer");
    assert_ne!(second.headers.cseq().unwrap(), first.headers.cseq().unwrap());
    assert!(!moved(&bed, 0));
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    assert!(moved(&bed, 0));
    assert_eq!(bed.call.media_node(), Some(&media_node("m3")));
}

#[test]
fn a_planned_move_takes_the_agent_first_and_leaves_the_old_session_until_both_are_there() {
    let mut bed = Bed::talking();
    bed.only(&["m2"]);
    bed.step(Input::LeaveMediaNode(media_node("m1")));
    assert!(bed.has(|e| matches!(e, EventBody::MediaMoved { reason: MoveReason::Drained, .. })));
    let done = bed.settle_media();
    assert!(our_invite(&bed).is_none(), "the caller's audio still runs over the old node");
    assert!(!done.contains(&MediaBody::CloseSession));
    remade(&mut bed);
    assert!(our_invite(&bed).is_some(), "as soon as the agent is connected");
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    assert!(bed.commands().contains(&("m1".into(), MediaBody::CloseSession)));
    assert_eq!(bed.call.phase(), Phase::Talking);
    // Without a page that answers the caller follows after two seconds.
    let mut bed = Bed::talking();
    bed.only(&["m2"]);
    bed.step(Input::LeaveMediaNode(media_node("m1")));
    bed.settle_media();
    bed.pass(Duration::from_millis(2_100));
    assert!(our_invite(&bed).is_some());
    // Where nobody takes it, it stays.
    let mut bed = Bed::talking();
    bed.only(&["m1"]);
    bed.step(Input::LeaveMediaNode(media_node("m1")));
    assert!(bed.fresh().is_empty());
}

#[test]
fn a_question_of_the_flow_is_asked_again_where_the_caller_can_hear_it() {
    let mut bed = Bed::new(shelf(&[MENU]));
    bed.invite_to(Destination::Flow("menu".parse().unwrap()), "v=0\r\n");
    bed.media_ok();
    bed.ack();
    let playing = bed.playing().unwrap();
    bed.lose("m1");
    let done = bed.settle_media();
    assert!(done.iter().all(|body| !matches!(body, MediaBody::SetProgram { .. })), "not yet: {done:?}");
    answers(&mut bed, 200, &[]);
    let done = bed.settle_media();
    assert!(
        done.iter().any(|body| matches!(body, MediaBody::SetProgram { program: Program::Play(play), .. } if **play == playing)),
        "{done:?}"
    );
    bed.played();
    bed.settle_media();
    bed.played();
    bed.key('1');
    assert_eq!(bed.call.queue(), Some(&queue()));
}

#[test]
fn a_call_that_is_over_has_its_recording_put_together_elsewhere() {
    let mut bed = Bed::talking();
    bed.send("BYE", "", "");
    bed.lose("m1");
    assert!(matches!(bed.commands().last(), Some((node, MediaBody::Salvage { .. })) if node == "m2"));
    bed.reply(Err(MediaFailureKind::Invalid));
    assert!(bed.has(|e| matches!(e, EventBody::RecordingFailed { .. })));
    bed.agent(1, AgentRequest::EndedAck);
    assert!(bed.call.finished());
}

#[test]
fn a_node_that_died_with_the_owner_is_not_waited_for() {
    let mut bed = Bed::talking();
    bed.vanish("m1");
    bed.crash(Duration::from_secs(4));
    assert!(matches!(bed.command().body, MediaBody::CreateRtp { .. }), "{:?}", bed.command());
    assert!(bed.notices().contains(&AgentNotice::MediaMoved { moved: 1 }));
    bed.settle_media();
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    assert!(moved(&bed, 0));
    // Nor is one whose loss nobody has told of, by a command that gets no answer.
    let mut bed = Bed::talking();
    bed.control("1", Control::Hold(true));
    bed.vanish("m1");
    bed.pass(Duration::from_millis(600));
    assert_eq!(bed.call.media_node(), Some(&media_node("m2")));
    // A recording whose node vanishes after the call is looked for elsewhere when it does not come.
    let mut bed = Bed::talking();
    bed.send("BYE", "", "");
    bed.settle_media();
    bed.vanish("m1");
    bed.pass(Duration::from_secs(61));
    assert!(matches!(bed.commands().last(), Some((node, MediaBody::Salvage { .. })) if node == "m2"));
    assert!(!bed.has(|e| matches!(e, EventBody::RecordingFailed { .. })));
    bed.pass(Duration::from_secs(61));
    assert!(bed.has(|e| matches!(e, EventBody::RecordingFailed { .. })));
}

#[test]
fn what_a_former_node_says_concerns_its_recordings_only() {
    let mut bed = Bed::waiting();
    bed.lose("m1");
    bed.settle_media();
    answers(&mut bed, 200, &[]);
    bed.settle_media();
    let former = Some(media_node("m1"));
    bed.media_event_of(former.clone(), MediaEvent::SessionEnded { shutdown: false });
    assert_eq!(bed.call.media_node(), Some(&media_node("m2")));
    // One that still holds a session of ours is told to end it.
    bed.drain();
    bed.pass(Duration::from_secs(61));
    bed.drain();
    bed.media_event_of(former, MediaEvent::Unattended);
    assert_eq!(bed.commands(), [("m1".into(), MediaBody::CloseSession)]);
    bed.drain();
    bed.media_event(MediaEvent::Unattended);
    assert!(matches!(bed.fresh(), [Effect::Acknowledge { .. }]));
}

#[test]
fn requests_that_come_again_are_answered_again() {
    // The INVITE itself, while it rings, through another edge.
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
    let effects = bed.effects.len();
    let again = |bed: &mut Bed, transaction: &str, edge: &str| {
        let request = bed.request("INVITE", 1, "Content-Type: application/sdp\r\n", "v=0\r\n");
        let new_call = crate::NewCall {
            dialled: "support".into(),
            destination: Destination::Queue(queue()),
            caller_number: String::new(),
            caller_name: String::new(),
            contact_uri: "sip:c.token@127.0.0.1:5060".into(),
            trunk: String::new(),
        };
        let route = crate::Route { edge: edge.parse().unwrap(), ..route() };
        bed.step(Input::Request(Box::new(crate::Incoming {
            transaction: transaction.into(),
            request,
            route,
            new_call: Some(Box::new(new_call)),
        })));
    };
    again(&mut bed, "t1", "e1");
    again(&mut bed, "other", "e2");
    assert_eq!(bed.statuses(), [180, 180, 180]);
    assert_eq!(bed.effects.len(), effects + 2, "nothing else is done");
    bed.media_ok();
    let last = bed.effects.iter().rev().find_map(|effect| match effect {
        Effect::Edge { route, command: EdgeCommand::Respond { transaction, response, .. } } => {
            Some((route.edge.to_string(), transaction.clone(), response.status))
        }
        _ => None,
    });
    assert_eq!(last, Some(("e2".into(), "other".into(), 200)));
    bed.drain();
    again(&mut bed, "third", "e2");
    assert_eq!(bed.statuses(), [200], "until the ACK");
    bed.ack();
    again(&mut bed, "fourth", "e2");
    assert_eq!(bed.statuses(), [200, 482]);
    // In the dialog.
    let mut bed = Bed::talking();
    bed.send_as("INFO", 2, "Content-Type: application/dtmf-relay\r\n", "Signal=9\r\n");
    bed.send_as("INFO", 2, "Content-Type: application/dtmf-relay\r\n", "Signal=9\r\n");
    assert_eq!(bed.statuses(), [200, 200]);
    bed.send_as("INVITE", 3, "Content-Type: application/sdp\r\n", "v=0\r\n");
    bed.send_as("INVITE", 3, "Content-Type: application/sdp\r\n", "v=0\r\n");
    bed.settle_media();
    assert_eq!(bed.statuses(), [200, 200, 200]);
    bed.send_as("BYE", 4, "", "");
    bed.send_as("BYE", 4, "", "");
    assert_eq!(bed.statuses(), [200, 200, 200, 200, 200]);
    bed.queue(0, QueueSignal::Left);
}

#[test]
fn a_session_timer_is_kept_by_our_invite() {
    let mut bed = Bed::new(shelf(&[]));
    let extra = "Supported: timer\r\nSession-Expires: 600;refresher=uac\r\n";
    bed.invite_with(Destination::Queue(queue()), extra, "v=0\r\n");
    bed.media_ok();
    bed.ack();
    bed.settle_media();
    bed.lose("m1");
    bed.settle_media();
    let (_, invite) = our_invite(&bed).unwrap();
    assert_eq!(invite.headers.get_str(&HeaderName::SessionExpires).as_deref(), Some("600;refresher=uas"));
    assert!(matches!(parse_datagram(&with_via(&invite)), Ok(Message::Request(_))), "it can be read");
    answers(&mut bed, 422, &[(HeaderName::MinSe, "900")]);
    let (_, invite) = our_invite(&bed).unwrap();
    assert_eq!(invite.headers.get_str(&HeaderName::SessionExpires).as_deref(), Some("900;refresher=uas"));
    answers(&mut bed, 200, &[(HeaderName::SessionExpires, "900;refresher=uas")]);
    bed.settle_media();
    assert!(moved(&bed, 0));
    assert_eq!(bed.call.caller.as_deref().unwrap().session_s, Some(900));
}

/// As an edge sends it.
fn with_via(request: &Request) -> bytes::Bytes {
    let mut request = request.clone();
    request.headers.push_front(HeaderName::Via, "SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1");
    request.to_bytes()
}
