//! The stay in a queue.

use std::{sync::Arc, time::Duration};

use trunkline_types::ReleaseCause;

use super::{bed::*, sip::SDP};
use crate::{
    Destination, Direction, EventBody, LeaveCause, MediaBody, MediaFailureKind, Phase, Program, QueueOutcome,
    QueueRequest, QueueSignal, RefusedReason, Treatment,
};

fn entered() -> Bed {
    let mut bed = Bed::new(shelf(&[]));
    bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
    bed.media_ok();
    bed.ack();
    bed.settle_media();
    bed
}

fn exited(bed: &Bed, outcome: QueueOutcome) -> bool {
    bed.has(|event| matches!(event, EventBody::QueueExited { outcome: o, .. } if *o == outcome))
}

#[test]
fn the_place_is_asked_for_until_it_is_given_and_music_plays() {
    let mut bed = entered();
    assert!(
        bed.effects.iter().filter_map(media_of).any(|command| {
            matches!(command.body, MediaBody::SetProgram { program: Program::Music(_), .. })
        })
    );
    let first = bed.queue_requests();
    let [QueueRequest::Enqueue(enqueue)] = &first[..] else { panic!("{first:?}") };
    assert_eq!((enqueue.entry, enqueue.entered, enqueue.priority), (0, None, 0));
    assert_eq!(enqueue.card.caller_number, "+493012345");
    bed.drain();
    bed.pass(Duration::from_secs(4));
    // 0.5, 1.5 and 3.5 s after the first; each is the same.
    assert_eq!(bed.queue_requests(), [first[0].clone(), first[0].clone(), first[0].clone()]);
    bed.queue(0, QueueSignal::Queued { position: 3 });
    bed.drain();
    bed.pass(Duration::from_secs(29));
    assert!(bed.queue_requests().is_empty());
    bed.pass(Duration::from_secs(2));
    assert_eq!(bed.queue_requests().len(), 2, "the place is checked, and again until answered");
    assert_eq!(bed.call.phase(), Phase::Queued);
}

/// Those who were told their places within a quarter of a second ask again at one instant: one message for all of them.
#[test]
fn calls_ask_for_their_places_together() {
    let asks_at = |told: u64| {
        let mut bed = entered();
        bed.pass(Duration::from_millis(told));
        bed.queue(0, QueueSignal::Queued { position: 0 });
        let (told, mut now) = (bed.now, bed.now);
        bed.drain();
        while bed.queue_requests().is_empty() {
            now = now.plus(Duration::from_millis(1));
            bed.pass(Duration::from_millis(1));
        }
        let after = now.since(told);
        assert!(after > Duration::from_millis(29_750) && after <= Duration::from_secs(30), "{after:?}");
        now
    };
    let first = asks_at(0);
    assert_eq!([1, 100, 249].map(asks_at), [first; 3]);
    assert_ne!(asks_at(250), first);
}

#[test]
fn announcements_come_over_the_music_and_stop_when_there_is_no_prompt() {
    let mut bed = Bed::waiting();
    bed.pass(Duration::from_secs(20));
    let play = bed.playing().unwrap();
    assert_eq!((play.prompts, play.over_music), (vec!["queue-wait".to_owned()], true));
    bed.settle_media();
    bed.queue(0, QueueSignal::Queued { position: 0 });
    bed.drain();
    bed.pass(Duration::from_secs(45));
    bed.reply(Err(MediaFailureKind::UnknownPrompt));
    bed.queue(0, QueueSignal::Queued { position: 0 });
    bed.drain();
    bed.pass(Duration::from_secs(100));
    assert!(bed.fresh().iter().filter_map(media_of).next().is_none());
    assert_eq!(bed.call.phase(), Phase::Queued);
}

#[test]
fn who_has_put_us_on_hold_is_told_nothing_until_they_are_back() {
    let mut bed = Bed::waiting();
    bed.send("INVITE", SDP, "v=0\r\na=inactive\r\n");
    bed.reply(Ok(ok(Direction::Inactive)));
    bed.settle_media();
    bed.send_as("ACK", 2, "", "");
    bed.pass(Duration::from_secs(29));
    assert!(bed.playing().is_none());
    bed.send("INVITE", SDP, "v=0\r\na=sendrecv\r\n");
    bed.reply(Ok(ok(Direction::SendRecv)));
    bed.settle_media();
    bed.send_as("ACK", 3, "", "");
    bed.queue(0, QueueSignal::Queued { position: 0 });
    // Its turn comes 45 s after the one that was left out at 20 s.
    bed.pass(Duration::from_secs(29));
    assert!(bed.playing().is_none());
    bed.pass(Duration::from_secs(8));
    assert_eq!(bed.playing().unwrap().prompts, ["queue-wait"]);
}

#[test]
fn a_refused_caller_hears_why_and_is_released() {
    let mut bed = entered();
    bed.queue(0, QueueSignal::Refused(RefusedReason::QueueFull));
    assert!(exited(&bed, QueueOutcome::Refused));
    assert_eq!(bed.playing().unwrap().prompts, ["queue-full"]);
    bed.played();
    assert_eq!(bed.call.cause(), Some(ReleaseCause::QueueFull));
    assert_eq!(bed.requests().len(), 1);
    // Without a message, or without its end being reported, the release comes all the same.
    let mut bed = entered();
    bed.library = Arc::new(Shelf {
        flows: Default::default(),
        treatment: Arc::new(Treatment { refused_prompts: vec![], ..Treatment::default() }),
        nodes: Default::default(),
        gone: Default::default(),
        upgraded: true,
    });
    bed.queue(0, QueueSignal::Refused(RefusedReason::UnknownQueue));
    bed.settle_media();
    bed.pass(Duration::from_secs(121));
    assert_eq!(bed.call.cause(), Some(ReleaseCause::UnknownNumber));
}

#[test]
fn a_caller_who_waited_too_long_hears_goodbye_and_the_queue_hears_that_we_heard() {
    let mut bed = Bed::waiting();
    bed.queue(0, QueueSignal::TimedOut);
    assert!(exited(&bed, QueueOutcome::TimedOut));
    assert_eq!(bed.queue_requests(), [QueueRequest::Leave { entry: 0, cause: LeaveCause::TimedOut }]);
    assert_eq!(bed.playing().unwrap().prompts, ["goodbye"]);
    // The queue did not hear it and says it again.
    bed.queue(0, QueueSignal::TimedOut);
    assert_eq!(bed.queue_requests().len(), 2);
    bed.played();
    assert_eq!(bed.call.cause(), Some(ReleaseCause::QueueTimeout));
}

#[test]
fn a_queue_that_never_answers_loses_the_call_in_time() {
    let mut bed = entered();
    bed.pass(Duration::from_secs(59));
    assert!(!exited(&bed, QueueOutcome::Lost), "it may be on its way to another node");
    bed.pass(Duration::from_secs(5));
    assert!(exited(&bed, QueueOutcome::Lost));
    bed.played();
    assert_eq!(bed.call.cause(), Some(ReleaseCause::Overload));
}

#[test]
fn a_place_that_the_queue_lost_is_taken_again_with_the_old_time() {
    let mut bed = Bed::waiting();
    let since = bed.now;
    bed.pass(Duration::from_secs(5));
    bed.drain();
    bed.queue(0, QueueSignal::Left);
    let requests = bed.queue_requests();
    assert!(requests.contains(&QueueRequest::Leave { entry: 0, cause: LeaveCause::Lost }));
    assert!(
        requests
            .iter()
            .any(|r| matches!(r, QueueRequest::Enqueue(e) if e.entry == 1 && e.entered == Some(since)))
    );
}

#[test]
fn leaving_is_said_until_it_is_heard_and_given_up_in_the_end() {
    let mut bed = Bed::waiting();
    bed.send("BYE", "", "");
    bed.settle_media();
    bed.pass(Duration::from_secs(10));
    assert!(bed.queue_requests().len() >= 4);
    bed.pass(Duration::from_secs(120));
    assert!(bed.call.finished());
}

#[test]
fn a_queue_that_asks_hears_where_the_call_is() {
    let mut bed = Bed::waiting();
    bed.queue(0, QueueSignal::Ask);
    bed.queue(7, QueueSignal::Ask);
    assert_eq!(bed.queue_requests(), [QueueRequest::Alive { entry: 0 }, QueueRequest::Gone { entry: 7 }]);
}

#[test]
fn a_queue_that_asks_after_a_stay_hears_how_it_ended() {
    let mut bed = Bed::talking();
    bed.queue(0, QueueSignal::Ask);
    assert!(
        matches!(&bed.queue_requests()[..], [QueueRequest::Answered { entry: 0, offer: o, .. }] if *o == offer(1))
    );
    bed.crash(Duration::from_secs(1));
    bed.drain();
    bed.queue(0, QueueSignal::Ask);
    bed.queue(0, QueueSignal::TimedOut);
    assert!(
        bed.queue_requests().iter().all(|request| matches!(request, QueueRequest::Answered { .. })),
        "{:?}",
        bed.queue_requests()
    );
    let mut bed = Bed::waiting();
    bed.send("BYE", "", "");
    bed.queue(0, QueueSignal::Left);
    bed.drain();
    bed.queue(0, QueueSignal::Ask);
    assert_eq!(bed.queue_requests(), [QueueRequest::Leave { entry: 0, cause: LeaveCause::Abandoned }]);
    bed.drain();
    bed.queue(7, QueueSignal::Ask);
    assert_eq!(bed.queue_requests(), [QueueRequest::Gone { entry: 7 }], "nothing is known of it");
}
