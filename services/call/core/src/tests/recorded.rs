//! Conversations that must not go on without being recorded.

use std::{sync::Arc, time::Duration};

use trunkline_types::{RecordingId, ReleaseCause};

use super::{
    bed::{Bed, Shelf, call_id, leg, media_node, shelf},
    recovery::{endpoint, found},
};
use crate::{AgentRequest, EventBody, MediaBody, MediaEvent, MediaFailureKind, MoveReason, Phase};

const LIMIT: Duration = Duration::from_secs(10);

fn trouble(index: u16, over: bool) -> MediaEvent {
    let recording = RecordingId { call: call_id(), index };
    MediaEvent::RecordingTrouble { recording, reason: "No space left on device".into(), over }
}

fn ended(bed: &Bed) -> Option<ReleaseCause> {
    bed.events.iter().find_map(|event| match event.body {
        EventBody::Ended { cause, .. } => Some(cause),
        _ => None,
    })
}

fn moves(bed: &Bed) -> Vec<(String, MoveReason)> {
    let moved = bed.events.iter().filter_map(|event| match &event.body {
        EventBody::MediaMoved { node, reason, .. } => Some((node.as_str().to_owned(), *reason)),
        _ => None,
    });
    moved.collect()
}

fn begun(bed: &Bed) -> Vec<u16> {
    let begun = bed.events.iter().filter_map(|event| match &event.body {
        EventBody::RecordingStarted { recording, .. } => Some(recording.index),
        _ => None,
    });
    begun.collect()
}

/// Both legs follow to the new node.
fn follow(bed: &mut Bed) {
    bed.settle_media();
    let remake = AgentRequest::RemakeMedia {
        session: "s1".into(),
        request: format!("r{}", bed.call.media_node().unwrap().as_str()),
        sdp_offer: "v=0\r\nnew\r\n".into(),
    };
    bed.agent(1, remake);
    bed.settle_media();
    bed.media_event(MediaEvent::Connected { leg: leg(1) });
    let invites = bed.requests().into_iter().filter(|(_, r)| r.method == trunkline_sip::Method::Invite);
    let (transaction, invite) = invites.last().expect("the caller is invited to the new node");
    let response = trunkline_sip::Response::to(&invite, 200).with_body("application/sdp", "v=0\r\n");
    bed.step(crate::Input::Response { client_transaction: transaction, response: Box::new(response) });
    bed.settle_media();
    bed.drain();
}

#[test]
fn where_it_is_not_required_the_talk_goes_on_and_the_record_says_what_is_missing() {
    let mut bed = Bed::talking();
    bed.media_event(trouble(0, false));
    bed.pass(Duration::from_secs(60));
    assert_eq!(bed.call.phase(), Phase::Talking);
    assert!(moves(&bed).is_empty());
    bed.media_event(trouble(0, true));
    let told: Vec<bool> = bed
        .events
        .iter()
        .filter_map(|event| match event.body {
            EventBody::RecordingTrouble { over, .. } => Some(over),
            _ => None,
        })
        .collect();
    assert_eq!(told, [false, true]);
}

#[test]
fn a_node_that_cannot_record_is_left_for_one_that_can() {
    let mut bed = Bed::talking_on_record(shelf(&[]));
    bed.media_event(trouble(0, false));
    assert_eq!(moves(&bed), [("m2".to_owned(), MoveReason::Unrecorded)]);
    assert_eq!(begun(&bed), [0, 1], "recorded anew");
    assert!(!bed.commands().contains(&("m1".into(), MediaBody::CloseSession)), "make before break");
    follow(&mut bed);
    bed.pass(LIMIT * 2);
    assert_eq!((bed.call.phase(), ended(&bed)), (Phase::Talking, None));
    // The next node fails too, and none is tried twice.
    bed.media_event(trouble(1, false));
    follow(&mut bed);
    bed.media_event(trouble(2, false));
    bed.pass(LIMIT / 2);
    let nodes: Vec<String> = moves(&bed).into_iter().map(|(node, _)| node).collect();
    assert_eq!(nodes, ["m2", "m3"]);
    assert_eq!(ended(&bed), None, "it may be over soon");
    bed.pass(LIMIT);
    assert_eq!(ended(&bed), Some(ReleaseCause::RecordingFailed));
}

#[test]
fn trouble_that_is_over_in_time_ends_nothing() {
    let mut bed = Bed::talking_on_record(shelf(&[]));
    bed.only(&["m1"]);
    bed.media_event(trouble(0, false));
    bed.pass(LIMIT / 2);
    bed.media_event(trouble(0, true));
    bed.pass(LIMIT * 2);
    assert_eq!((bed.call.phase(), ended(&bed)), (Phase::Talking, None));
    assert!(moves(&bed).is_empty());
}

#[test]
fn a_recording_that_cannot_begin_begins_on_another_node_or_ends_the_call() {
    let refused = |nodes: &[&str]| {
        let mut bed = Bed::waiting_with(shelf(&[]));
        bed.only(nodes);
        bed.connect_with(1, true);
        bed.media_ok();
        bed.media_ok();
        bed.reply(Err(MediaFailureKind::Internal));
        assert!(bed.has(|e| matches!(e, EventBody::RecordingFailed { .. })));
        bed
    };
    let bed = refused(&["m1", "m2"]);
    assert_eq!(moves(&bed), [("m2".to_owned(), MoveReason::Unrecorded)]);
    assert_eq!(begun(&bed), [0, 1]);
    let mut bed = refused(&["m1"]);
    bed.pass(LIMIT + Duration::from_secs(1));
    assert_eq!(ended(&bed), Some(ReleaseCause::RecordingFailed));
}

#[test]
fn another_owner_goes_on_looking() {
    let mut bed = Bed::talking_on_record(shelf(&[]));
    bed.only(&["m1"]);
    bed.media_event(trouble(0, false));
    bed.pass(LIMIT / 5);
    bed.crash(LIMIT / 5);
    found(&mut bed, vec![endpoint(0, true), endpoint(1, true)]);
    bed.settle_media();
    bed.pass(LIMIT / 5);
    assert_eq!((bed.call.phase(), ended(&bed)), (Phase::Talking, None));
    bed.pass(LIMIT);
    assert_eq!(ended(&bed), Some(ReleaseCause::RecordingFailed));
}

#[test]
fn what_an_older_node_cannot_read_is_not_written() {
    let older = Arc::new(Shelf { upgraded: false, ..Arc::into_inner(shelf(&[])).unwrap() });
    let mut bed = Bed::talking_on_record(older);
    bed.media_event(trouble(0, false));
    assert_eq!(moves(&bed), [("m2".to_owned(), MoveReason::Drained)], "the policy holds all the same");
    bed.only(&[]);
    follow(&mut bed);
    bed.media_event(trouble(1, false));
    bed.pass(LIMIT * 2);
    assert_eq!(ended(&bed), Some(ReleaseCause::MediaLost));
    assert!(!bed.has(|e| matches!(e, EventBody::RecordingTrouble { .. })));
    assert_eq!(bed.call.media_node(), Some(&media_node("m2")));
}
