//! Another owner takes the call over from the journal.

use std::time::Duration;

use trunkline_sip::Method;
use trunkline_types::ReleaseCause;

use super::bed::*;
use crate::{
    AgentNotice, AgentRequest, Codec, Control, Destination, Direction, EndpointInfo, EventBody, MediaBody,
    MediaEvent, MediaOk, Phase, Program, QueueRequest, QueueSignal, SessionInfo,
};

pub(super) fn endpoint(n: u16, connected: bool) -> EndpointInfo {
    EndpointInfo {
        leg: leg(n),
        connected,
        codec: Some(Codec::Pcmu),
        direction: Some(Direction::SendRecv),
        local_sdp: ANSWER.into(),
    }
}

pub(super) fn found(bed: &mut Bed, endpoints: Vec<EndpointInfo>) {
    assert_eq!(bed.command().body, MediaBody::ListSessions);
    let session = SessionInfo { call: call_id(), endpoints, recording: None, transcribing: false };
    bed.reply(Ok(MediaOk { sessions: vec![session], ..MediaOk::default() }));
}

fn gone(bed: &mut Bed) {
    assert_eq!(bed.command().body, MediaBody::ListSessions);
    bed.reply(Ok(MediaOk::default()));
}

#[test]
fn a_waiting_call_whose_media_are_gone_is_ended_and_marked_when_no_node_takes_it() {
    let mut bed = Bed::waiting();
    bed.only(&[]);
    bed.crash(Duration::from_secs(8));
    gone(&mut bed);
    assert_eq!(bed.call.cause(), None);
    bed.pass(Duration::from_secs(11));
    assert_eq!(bed.call.cause(), Some(ReleaseCause::MediaLost));
    let (_, bye) = bed.requests().remove(0);
    assert_eq!(
        (bye.method.clone(), bye.headers.cseq().unwrap().number),
        (Method::Bye, 101),
        "the CSeq jumps"
    );
    assert!(matches!(
        bed.queue_requests().last(),
        Some(QueueRequest::Leave { cause: crate::LeaveCause::Lost, .. })
    ));
    bed.answer_bye();
    bed.queue(0, QueueSignal::Left);
    bed.settle_media();
    bed.pass(Duration::from_secs(3));
    assert!(bed.call.finished());
}

#[test]
fn a_media_node_that_does_not_answer_counts_as_gone() {
    let mut bed = Bed::talking();
    bed.crash(Duration::from_secs(8));
    bed.pass(Duration::from_millis(1_900));
    assert_eq!(bed.call.media_node(), Some(&media_node("m1")));
    bed.pass(Duration::from_millis(200));
    assert_eq!((bed.call.cause(), bed.call.media_node()), (None, Some(&media_node("m2"))));
    let moved = bed.notices().into_iter().any(|notice| notice == AgentNotice::MediaMoved { moved: 1 });
    assert!(moved, "{:?}", bed.notices());
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn a_waiting_call_whose_audio_is_there_goes_on() {
    let mut bed = Bed::waiting();
    bed.crash(Duration::from_secs(8));
    // Agents who ask meanwhile are not answered wrongly.
    bed.connect(1);
    assert!(bed.notices().is_empty());
    found(&mut bed, vec![endpoint(0, true)]);
    assert!(matches!(bed.command().body, MediaBody::SetProgram { program: Program::Music(_), .. }));
    bed.settle_media();
    bed.pass(Duration::from_millis(1));
    assert!(matches!(&bed.queue_requests()[..], [QueueRequest::Enqueue(e)] if e.entry == 0));
    bed.connect(1);
    bed.settle_media();
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn a_conversation_goes_on_and_the_queue_hears_of_it_again() {
    let mut bed = Bed::talking();
    bed.control("1", Control::Mute(true));
    bed.settle_media();
    bed.crash(Duration::from_secs(3));
    assert!(matches!(bed.queue_requests()[..], [QueueRequest::Answered { .. }]));
    found(&mut bed, vec![endpoint(0, true), endpoint(1, true)]);
    let done = bed.settle_media();
    assert!(done.contains(&MediaBody::SetMuted { leg: leg(1), muted: true }));
    assert!(done.iter().any(|body| matches!(body, MediaBody::Bridge { .. })), "{done:?}");
    assert!(done.iter().any(|body| matches!(body, MediaBody::StartRecording { .. })), "none ran: {done:?}");
    // The SDP answer is known from the media node.
    bed.drain();
    bed.connect(1);
    assert!(
        matches!(&bed.notices()[..], [AgentNotice::Connected { sdp_answer, .. }] if sdp_answer == ANSWER)
    );
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn an_agent_who_was_lost_with_the_node_has_a_minute_to_come_back() {
    let mut bed = Bed::talking();
    bed.crash(Duration::from_secs(3));
    found(&mut bed, vec![endpoint(0, true)]);
    let done = bed.settle_media();
    assert!(matches!(done[0], MediaBody::SetProgram { program: Program::Music(_), .. }), "{done:?}");
    let remake =
        AgentRequest::RemakeMedia { session: "s2".into(), request: "1".into(), sdp_offer: "v".into() };
    bed.agent(1, remake);
    bed.settle_media();
    bed.media_event(MediaEvent::Connected { leg: leg(1) });
    assert!(bed.settle_media().iter().any(|body| matches!(body, MediaBody::Bridge { .. })));
    bed.pass(Duration::from_secs(70));
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn a_connection_that_was_under_way_is_given_up_and_the_place_kept() {
    let mut bed = Bed::waiting();
    bed.connect(1);
    bed.crash(Duration::from_secs(1));
    found(&mut bed, vec![endpoint(0, true), endpoint(1, false)]);
    assert!(matches!(bed.notices()[..], [AgentNotice::ConnectFailed { .. }]));
    assert_eq!(bed.call.phase(), Phase::Queued);
    assert!(bed.settle_media().contains(&MediaBody::CloseEndpoint { leg: leg(1) }));
}

#[test]
fn an_invite_that_was_not_answered_is_answered_by_the_new_owner() {
    let begun = || {
        let mut bed = Bed::new(shelf(&[]));
        bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
        bed.crash(Duration::from_secs(1));
        bed
    };
    let mut bed = begun();
    found(&mut bed, vec![endpoint(0, false)]);
    assert_eq!(bed.statuses(), [200]);
    assert_eq!(bed.responses()[0].headers.to_tag().unwrap(), bed.tag, "the same dialog as the 180");
    // The command may not have reached the node.
    let mut bed = begun();
    found(&mut bed, vec![]);
    assert!(matches!(bed.command().body, MediaBody::CreateRtp { .. }));
    bed.media_ok();
    assert_eq!(bed.statuses(), [200]);
    let mut bed = begun();
    gone(&mut bed);
    assert!(matches!(bed.command().body, MediaBody::CreateRtp { .. }), "as if it were new");
    bed.media_ok();
    assert_eq!(bed.statuses(), [200]);
}

#[test]
fn a_200_without_a_known_ack_is_repeated_but_its_silence_proves_nothing() {
    let mut bed = Bed::waiting();
    bed.crash(Duration::from_secs(2));
    found(&mut bed, vec![endpoint(0, true)]);
    bed.settle_media();
    bed.queue(0, QueueSignal::Queued { position: 0 });
    bed.pass(Duration::from_secs(33));
    assert!(bed.statuses().len() > 5 && bed.statuses().iter().all(|status| *status == 200));
    assert_eq!(bed.call.cause(), None);
}

#[test]
fn a_flow_begins_its_node_anew() {
    let mut bed = Bed::new(shelf(&[MENU]));
    bed.invite_to(Destination::Flow("menu".parse().unwrap()), "v=0\r\n");
    bed.media_ok();
    bed.ack();
    bed.played();
    bed.settle_media();
    bed.crash(Duration::from_secs(1));
    found(&mut bed, vec![endpoint(0, true)]);
    assert_eq!(bed.playing().unwrap().prompts, ["menu"]);
    bed.key('1');
    assert_eq!(bed.call.queue(), Some(&queue()));
}

#[test]
fn an_ended_call_settles_its_debts_and_ends_once() {
    let mut bed = Bed::talking();
    bed.control("1", Control::HangUp);
    bed.crash(Duration::from_secs(10));
    assert_eq!(bed.requests().len(), 1, "nobody knows whether the BYE went out");
    assert!(bed.notices().iter().any(|notice| matches!(notice, AgentNotice::Ended { .. })));
    bed.answer_bye();
    bed.agent(1, AgentRequest::EndedAck);
    bed.queue(0, QueueSignal::Acknowledged(offer(1)));
    bed.settle_media();
    bed.pass(Duration::from_secs(125));
    assert!(bed.call.finished());
    assert_eq!(bed.events.iter().filter(|event| matches!(event.body, EventBody::Ended { .. })).count(), 1);
    // A caller who had hung up gets no BYE.
    let mut bed = Bed::waiting();
    bed.send("BYE", "", "");
    bed.crash(Duration::from_secs(10));
    assert!(bed.requests().is_empty());
}

#[test]
fn a_crash_before_the_first_commit_leaves_nothing() {
    let mut bed = Bed::new(shelf(&[]));
    bed.crash(Duration::from_secs(1));
    assert!(bed.call.finished());
    assert!(bed.effects.is_empty());
}

#[test]
fn what_had_ended_is_ended_on_the_node_too() {
    let mut bed = Bed::talking();
    bed.media_event(MediaEvent::Disconnected { leg: leg(1), reason: crate::Disconnect::Closed });
    bed.settle_media();
    bed.pass(Duration::from_secs(61));
    assert_eq!(bed.call.phase(), Phase::Queued);
    // The owner dies before the node has heard of it.
    bed.crash(Duration::from_secs(1));
    let recording = trunkline_types::RecordingId { call: call_id(), index: 0 };
    let session = SessionInfo {
        call: call_id(),
        endpoints: vec![endpoint(0, true), endpoint(1, false)],
        recording: Some(recording),
        transcribing: true,
    };
    bed.reply(Ok(MediaOk { sessions: vec![session], ..MediaOk::default() }));
    let done = bed.settle_media();
    for wanted in [
        MediaBody::CloseEndpoint { leg: leg(1) },
        MediaBody::StopRecording { recording },
        MediaBody::StopTranscription { recording },
    ] {
        assert!(done.contains(&wanted), "{wanted:?} is missing in {done:?}");
    }
}

#[test]
fn a_transcript_that_had_not_begun_begins_after_a_recovery() {
    let mut bed = Bed::talking();
    bed.crash(Duration::from_secs(1));
    let recording = trunkline_types::RecordingId { call: call_id(), index: 0 };
    let session = |transcribing| SessionInfo {
        call: call_id(),
        endpoints: vec![endpoint(0, true), endpoint(1, true)],
        recording: Some(recording),
        transcribing,
    };
    let begins = |body: &MediaBody| matches!(body, MediaBody::StartTranscription { .. });
    bed.reply(Ok(MediaOk { sessions: vec![session(false)], ..MediaOk::default() }));
    let done = bed.settle_media();
    assert!(done.iter().any(begins), "{done:?}");
    bed.crash(Duration::from_secs(1));
    bed.reply(Ok(MediaOk { sessions: vec![session(true)], ..MediaOk::default() }));
    let done = bed.settle_media();
    assert!(!done.iter().any(begins), "it runs: {done:?}");
}
