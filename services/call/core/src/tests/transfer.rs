//! Transfer and consultation.

use std::time::Duration;

use trunkline_types::{LegId, ReleaseCause, Timestamp};

use super::bed::*;
use crate::{
    AgentNotice, AgentRequest, Consultation, Control, EventBody, MediaBody, MediaEvent, Phase, Program,
    QueueRequest, QueueSignal, RefusedReason, TRANSFER_PRIORITY,
};

/// What each leg hears, as the node was told.
fn hears(bed: &Bed, leg: LegId) -> String {
    let mut heard = String::new();
    for command in bed.effects.iter().filter_map(media_of) {
        match command.body {
            MediaBody::Bridge { a, b } if a == leg => heard = format!("leg {}", b.index),
            MediaBody::Bridge { a, b } if b == leg => heard = format!("leg {}", a.index),
            MediaBody::SetProgram { leg: to, program } if to == leg => {
                heard = match program {
                    Program::Music(_) => "music".into(),
                    Program::Silence => "silence".into(),
                    Program::Play(_) | Program::PeerOf(_) => "prompts".into(),
                };
            }
            _ => {}
        }
    }
    heard
}

fn hear(bed: &Bed) -> [String; 3] {
    [leg(0), leg(1), leg(2)].map(|leg| hears(bed, leg))
}

fn released(bed: &Bed) -> Vec<(String, ReleaseCause)> {
    let of = |body: &EventBody| match body {
        EventBody::AgentReleased { agent, cause, .. } => Some((agent.to_string(), *cause)),
        _ => None,
    };
    bed.events.iter().filter_map(|event| of(&event.body)).collect()
}

fn consultation(bed: &Bed, agent: &trunkline_types::AgentId) -> Option<Consultation> {
    bed.told(agent).into_iter().rev().find_map(|notice| match notice {
        AgentNotice::State(state) => Some(state.consultation),
        _ => None,
    })
}

fn result(bed: &Bed) -> Option<String> {
    bed.told(&alice()).into_iter().find_map(|notice| match notice {
        AgentNotice::Result { error, .. } => Some(error),
        _ => None,
    })
}

fn ended(bed: &Bed, agent: &trunkline_types::AgentId) -> Option<(ReleaseCause, Option<Timestamp>)> {
    bed.told(agent).into_iter().find_map(|notice| match notice {
        AgentNotice::Ended { cause, connected, .. } => Some((cause, connected)),
        _ => None,
    })
}

/// Alice has the caller and waits for somebody of sales.
fn consulting() -> Bed {
    let mut bed = Bed::talking();
    bed.control("c", Control::Consult(sales()));
    bed.sales(1, QueueSignal::Queued { position: 0 });
    bed.settle_media();
    bed
}

/// Alice has the caller and talks to Bob.
fn with_bob() -> Bed {
    let mut bed = consulting();
    bed.bob_connects();
    bed.settle_media();
    bed.media_event(MediaEvent::Connected { leg: leg(2) });
    bed.sales(1, QueueSignal::Acknowledged(bobs_offer()));
    bed.drain();
    bed
}

#[test]
fn a_blind_transfer_lets_go_when_the_place_is_there() {
    let mut bed = Bed::talking();
    bed.control("t", Control::Transfer(sales()));
    assert_eq!((bed.call.phase(), result(&bed)), (Phase::Talking, None), "nobody has a place yet");
    let asked = bed.queue_requests();
    let [QueueRequest::Enqueue(enqueue)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((enqueue.entry, enqueue.priority), (1, TRANSFER_PRIORITY));
    assert_eq!(
        (enqueue.entered, enqueue.card.consulted_by.clone()),
        (None, String::new()),
        "nobody is to be consulted"
    );
    // Asked again meanwhile: nothing is done twice.
    bed.control("t", Control::Transfer(sales()));
    bed.sales(1, QueueSignal::Queued { position: 3 });
    bed.settle_media();
    assert_eq!(result(&bed).as_deref(), Some(""));
    assert_eq!(ended(&bed, &alice()).map(|(cause, _)| cause), Some(ReleaseCause::Transferred));
    assert_eq!(released(&bed), [("alice".into(), ReleaseCause::Transferred)]);
    assert_eq!((bed.call.phase(), bed.call.queue()), (Phase::Queued, Some(&sales())));
    assert_eq!(hears(&bed, leg(0)), "music");
    let commands = bed.commands();
    let done = |wanted: fn(&MediaBody) -> bool| commands.iter().any(|(_, body)| wanted(body));
    assert!(done(|b| matches!(b, MediaBody::CloseEndpoint { leg } if leg.index == 1)));
    assert!(done(|b| matches!(b, MediaBody::StopRecording { .. })));
    assert_eq!(bed.kinds().iter().filter(|kind| *kind == "QueueEntered").count(), 2);
    // Somebody there takes the call, recorded anew.
    bed.bob_connects();
    bed.settle_media();
    assert_eq!((bed.call.phase(), bed.call.agent()), (Phase::Talking, Some(&bob())));
    assert_eq!(hears(&bed, leg(0)), "leg 2");
    let begun = |n| move |e: &EventBody| matches!(e, EventBody::RecordingStarted { recording, .. } if recording.index == n);
    assert!(bed.has(begun(0)) && bed.has(begun(1)));
}

#[test]
fn who_is_refused_has_lost_nothing() {
    for (signal, error) in [
        (QueueSignal::Refused(RefusedReason::QueueFull), "queue_full"),
        (QueueSignal::Refused(RefusedReason::UnknownQueue), "unknown_queue"),
        (QueueSignal::TimedOut, "queue_timeout"),
    ] {
        for blind in [true, false] {
            let mut bed = Bed::talking();
            let control = if blind { Control::Transfer(sales()) } else { Control::Consult(sales()) };
            bed.control("t", control);
            bed.sales(1, signal.clone());
            bed.settle_media();
            assert_eq!(result(&bed).as_deref(), Some(if blind { error } else { "" }));
            let told = bed.told(&alice());
            let state = told.into_iter().rev().find_map(|notice| match notice {
                AgentNotice::State(state) => Some(state),
                _ => None,
            });
            assert!(state.is_some_and(|s| s.consult_error == error && s.consultation == Consultation::None));
            assert_eq!(bed.call.phase(), Phase::Talking);
            assert!(released(&bed).is_empty());
            if blind {
                assert_eq!(hears(&bed, leg(0)), "leg 1", "they talk on");
            } else {
                assert_eq!(hears(&bed, leg(0)), "music", "the agent takes the caller back by hand");
            }
            // And may try again, when the queue has said that it rings nowhere any more.
            if signal == QueueSignal::TimedOut {
                bed.drain();
                bed.control("u", Control::Transfer(sales()));
                assert_eq!((result(&bed), bed.queue_requests().len()), (None, 0));
                bed.sales(1, QueueSignal::Left);
            }
            bed.drain();
            bed.control("u", Control::Transfer(sales()));
            bed.sales(2, QueueSignal::Queued { position: 0 });
            assert_eq!(bed.call.phase(), Phase::Queued);
        }
    }
}

#[test]
fn an_agent_who_is_consulted_gets_the_caller_when_the_other_one_leaves() {
    let mut bed = consulting();
    assert_eq!(consultation(&bed, &alice()), Some(Consultation::Waiting(sales())));
    assert_eq!(hear(&bed), ["music", "music", ""], "both wait");
    bed.drain();
    bed.bob_connects();
    bed.settle_media();
    bed.media_event(MediaEvent::Connected { leg: leg(2) });
    assert_eq!(consultation(&bed, &alice()), Some(Consultation::With("Bob".into())));
    assert_eq!(consultation(&bed, &bob()), Some(Consultation::By("Alice".into())));
    assert_eq!(hear(&bed), ["music", "leg 2", "leg 1"]);
    assert_eq!((bed.call.phase(), bed.call.agent()), (Phase::Talking, Some(&alice())));
    // To the caller and back: the hold decides whom the agent hears.
    bed.control("h", Control::Hold(false));
    bed.settle_media();
    assert_eq!(hear(&bed), ["leg 1", "leg 0", "music"]);
    bed.control("i", Control::Hold(true));
    bed.settle_media();
    assert_eq!(hear(&bed), ["music", "leg 2", "leg 1"]);
    bed.drain();
    bed.control("x", Control::CompleteTransfer);
    bed.settle_media();
    assert_eq!(result(&bed).as_deref(), Some(""));
    assert_eq!(ended(&bed, &alice()).map(|(cause, _)| cause), Some(ReleaseCause::Transferred));
    assert_eq!((bed.call.phase(), bed.call.agent()), (Phase::Talking, Some(&bob())));
    assert_eq!((hears(&bed, leg(0)), hears(&bed, leg(2))), ("leg 2".into(), "leg 0".into()));
    assert_eq!(consultation(&bed, &bob()), Some(Consultation::None));
    assert!(bed.has(|e| matches!(e, EventBody::RecordingStarted { agent, .. } if *agent == bob())));
    // Bob's call now: he ends it.
    let hang_up =
        AgentRequest::Control { session: "s9".into(), command: "e".into(), control: Control::HangUp };
    bed.bob(hang_up);
    assert_eq!(bed.call.phase(), Phase::Ended);
}

#[test]
fn a_consultation_ends_and_the_caller_is_there() {
    // The agent cancels while waiting.
    let mut bed = consulting();
    bed.drain();
    bed.control("x", Control::CancelConsult);
    bed.settle_media();
    assert_eq!(result(&bed).as_deref(), Some(""));
    assert!(matches!(bed.queue_requests()[..], [QueueRequest::Leave { entry: 1, .. }]));
    assert_eq!((hears(&bed, leg(0)), hears(&bed, leg(1))), ("leg 1".into(), "leg 0".into()));
    // While Bob's audio is being set up.
    let mut bed = consulting();
    bed.bob_connects();
    bed.control("x", Control::CancelConsult);
    bed.settle_media();
    assert!(matches!(bed.told(&bob())[..], [AgentNotice::ConnectFailed { .. }]));
    assert_eq!(hears(&bed, leg(0)), "leg 1");
    // While both talk.
    let mut bed = with_bob();
    bed.control("x", Control::CancelConsult);
    bed.settle_media();
    assert_eq!(ended(&bed, &bob()).map(|(cause, _)| cause), Some(ReleaseCause::ConsultEnded));
    assert_eq!(hears(&bed, leg(0)), "leg 1");
    // Bob leaves: Alice is alone, the caller still on hold.
    let mut bed = with_bob();
    let hang_up =
        AgentRequest::Control { session: "s9".into(), command: "e".into(), control: Control::HangUp };
    bed.bob(hang_up);
    bed.settle_media();
    assert_eq!(ended(&bed, &bob()).map(|(cause, _)| cause), Some(ReleaseCause::AgentHangup));
    assert_eq!(consultation(&bed, &alice()), Some(Consultation::None));
    assert_eq!((hears(&bed, leg(0)), hears(&bed, leg(1))), ("music".into(), "silence".into()));
    assert_eq!(bed.call.agent(), Some(&alice()));
}

#[test]
fn an_agent_who_goes_amid_a_consultation_leaves_the_caller_with_what_was_found() {
    let mut bed = consulting();
    bed.control("x", Control::HangUp);
    assert_eq!((bed.call.phase(), bed.call.queue()), (Phase::Queued, Some(&sales())));
    let mut bed = with_bob();
    bed.control("x", Control::HangUp);
    bed.settle_media();
    assert_eq!((bed.call.phase(), bed.call.agent()), (Phase::Talking, Some(&bob())));
    // The page is lost for good.
    let mut bed = with_bob();
    bed.media_event(MediaEvent::Disconnected { leg: leg(1), reason: crate::Disconnect::Closed });
    bed.settle_media();
    assert_eq!(hear(&bed)[0], "music");
    assert_eq!(hear(&bed)[2], "music", "nobody talks to Bob");
    bed.pass(Duration::from_secs(61));
    bed.settle_media();
    assert_eq!((bed.call.phase(), bed.call.agent()), (Phase::Talking, Some(&bob())));
    assert_eq!(hears(&bed, leg(0)), "leg 2");
    // The consulted one's: Alice stays.
    let mut bed = with_bob();
    bed.media_event(MediaEvent::Disconnected { leg: leg(2), reason: crate::Disconnect::Closed });
    bed.settle_media();
    bed.pass(Duration::from_secs(61));
    bed.settle_media();
    assert_eq!((bed.call.agent(), consultation(&bed, &alice())), (Some(&alice()), Some(Consultation::None)));
}

#[test]
fn the_end_of_the_call_is_everybodys() {
    let mut bed = with_bob();
    bed.send("BYE", "", "");
    assert!(ended(&bed, &alice()).is_some() && ended(&bed, &bob()).is_some());
    assert_eq!(released(&bed).len(), 2);
    let mut bed = consulting();
    bed.bob_connects();
    bed.send("BYE", "", "");
    assert_eq!(ended(&bed, &bob()), Some((ReleaseCause::CallerHangup, None)), "never connected");
}

#[test]
fn the_consulted_agent_commands_only_what_is_his() {
    let mut bed = with_bob();
    let ask = |bed: &mut Bed, control| {
        bed.drain();
        bed.bob(AgentRequest::Control { session: "s9".into(), command: format!("{control:?}"), control });
        bed.told(&bob()).into_iter().find_map(|notice| match notice {
            AgentNotice::Result { error, .. } => Some(error),
            _ => None,
        })
    };
    for control in [
        Control::Hold(true),
        Control::Transfer(queue()),
        Control::PauseRecording(true),
        Control::Digits("1".into()),
        Control::CompleteTransfer,
    ] {
        assert_eq!(ask(&mut bed, control).as_deref(), Some("being_consulted"));
    }
    assert_eq!(ask(&mut bed, Control::Mute(true)).as_deref(), Some(""));
    let muted = |leg: u16| {
        bed.commands()
            .iter()
            .any(|(_, b)| matches!(b, MediaBody::SetMuted { leg: l, muted: true } if l.index == leg))
    };
    assert!(muted(2) && !muted(1));
}

#[test]
fn a_transfer_survives_its_owner() {
    // The place is asked for; the agent asks on.
    let mut bed = Bed::talking();
    bed.control("t", Control::Transfer(sales()));
    bed.crash(Duration::from_secs(2));
    found(&mut bed, &[0, 1]);
    bed.control("t", Control::Transfer(sales()));
    bed.sales(1, QueueSignal::Queued { position: 0 });
    assert_eq!(bed.call.phase(), Phase::Queued);
    assert_eq!(released(&bed), [("alice".into(), ReleaseCause::Transferred)]);
    // Two agents talk; then one has the caller.
    let mut bed = with_bob();
    bed.crash(Duration::from_secs(2));
    found(&mut bed, &[0, 1, 2]);
    assert_eq!(consultation(&bed, &alice()), Some(Consultation::With("Bob".into())));
    assert_eq!(hear(&bed), ["music", "leg 2", "leg 1"]);
    bed.control("x", Control::CompleteTransfer);
    bed.crash(Duration::from_secs(2));
    found(&mut bed, &[0, 1, 2]);
    assert_eq!((bed.call.phase(), bed.call.agent()), (Phase::Talking, Some(&bob())));
    assert_eq!(hears(&bed, leg(0)), "leg 2");
    let closed = |e: &MediaBody| matches!(e, MediaBody::CloseEndpoint { leg } if leg.index == 1);
    assert!(bed.effects.iter().filter_map(media_of).any(|command| closed(&command.body)));
    // Asked once more by an agent who did not hear: the answer is the end.
    bed.drain();
    bed.control("x", Control::CompleteTransfer);
    assert_eq!(ended(&bed, &alice()).map(|(cause, _)| cause), Some(ReleaseCause::Transferred));
    // Bob was being connected when the owner died: he is told, Alice waits on.
    let mut bed = consulting();
    bed.bob_connects();
    bed.crash(Duration::from_secs(2));
    found(&mut bed, &[0, 1]);
    assert_eq!(consultation(&bed, &alice()), Some(Consultation::Waiting(sales())));
    assert!(bed.told(&bob()).iter().any(|n| matches!(n, AgentNotice::ConnectFailed { .. })));
}

#[test]
fn both_agents_follow_to_another_media_node() {
    let mut bed = with_bob();
    bed.lose("m1");
    let moved = |agent: trunkline_types::AgentId| {
        bed.told(&agent).iter().any(|n| matches!(n, AgentNotice::MediaMoved { .. }))
    };
    assert!(moved(alice()) && moved(bob()));
    bed.settle_media();
    let remake = |session: &str| AgentRequest::RemakeMedia {
        session: session.into(),
        request: "r".into(),
        sdp_offer: "v=0\r\n".into(),
    };
    bed.agent(1, remake("s1"));
    bed.settle_media();
    bed.bob(remake("s9"));
    bed.settle_media();
    for n in [1, 2] {
        bed.media_event(MediaEvent::Connected { leg: leg(n) });
    }
    assert_eq!((hears(&bed, leg(1)), hears(&bed, leg(2))), ("leg 2".into(), "leg 1".into()));
}

#[test]
fn what_an_older_node_cannot_read_is_not_begun() {
    let mut shelf = shelf(&[]);
    std::sync::Arc::get_mut(&mut shelf).unwrap().upgraded = false;
    let mut bed = Bed::talking_on_record(shelf);
    bed.control("t", Control::Transfer(sales()));
    assert_eq!(result(&bed).as_deref(), Some("upgrade_in_progress"));
    assert!(!bed.has(|e| matches!(e, EventBody::QueueEntered { entry: 1, .. })));
}

/// A recovered owner's question what is left on the node, answered with these legs.
fn found(bed: &mut Bed, legs: &[u16]) {
    let endpoints = legs.iter().map(|n| crate::EndpointInfo {
        leg: leg(*n),
        connected: true,
        codec: Some(crate::Codec::Pcmu),
        direction: None,
        local_sdp: ANSWER.into(),
    });
    let session = crate::SessionInfo {
        call: call_id(),
        endpoints: endpoints.collect(),
        recording: None,
        transcribing: false,
    };
    assert_eq!(bed.command().body, MediaBody::ListSessions);
    bed.reply(Ok(crate::MediaOk { sessions: vec![session], ..crate::MediaOk::default() }));
    bed.settle_media();
}
