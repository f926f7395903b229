//! Live numbers, intervals and records are folds of the same events: they agree, and they are what happened.

use std::collections::BTreeMap;

use prost::Message;
use trunkline_journal::StoredEvent;
use trunkline_proto::{
    acd::v1::{self as acd, LeaveCause, QueueEvent, queue_event},
    records::v1::{ListContactsRequest, QueueLive},
};
use trunkline_types::{EntityAddress, Timestamp};

use crate::{
    history::{Counted, DAY, History, MIDNIGHT, QUEUES, S, history},
    support::*,
};

fn counted(live: &QueueLive) -> Counted {
    Counted {
        offered: live.offered,
        answered: live.answered,
        in_target: live.answered_in_target,
        abandoned: live.abandoned,
        short: live.short_abandoned,
        timed_out: live.timed_out,
        refused: live.refused,
        missed: live.missed,
        handled: live.handled,
        handle_us: live.handle_us,
        wait_us: live.wait_answered_us,
        waiting: live.waiting,
    }
}

fn add(sum: &mut Counted, one: &Counted) {
    sum.offered += one.offered;
    sum.answered += one.answered;
    sum.in_target += one.in_target;
    sum.abandoned += one.abandoned;
    sum.short += one.short;
    sum.timed_out += one.timed_out;
    sum.refused += one.refused;
    sum.missed += one.missed;
    sum.handled += one.handled;
    sum.handle_us += one.handle_us;
    sum.wait_us += one.wait_us;
    sum.waiting += one.waiting;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_tell_what_happened_on_both_days() {
    for seed in [21, 22, 23, 24] {
        let history = history(seed, 400);
        let place = Place::new(&history);
        place.tape.show_all();
        let mut running = place.start().await;
        let live = running.live().await;
        assert_eq!(live.calls_active, history.active);
        let contacts = running.list(ListContactsRequest { page_size: 200, ..Default::default() }).await;
        let mut total = Counted::default();
        for queue in QUEUES {
            let [yesterday, today] = &history.counted[queue];
            let shown = live.queues.iter().find(|q| q.queue_id == queue).unwrap();
            assert_eq!(&counted(shown), today, "{queue} live: today only");
            for (from, expected) in [(MIDNIGHT - DAY, yesterday), (MIDNIGHT, today)] {
                let mut sum = Counted::default();
                for interval in running.intervals(queue, from, from + DAY).await {
                    assert!((from..from + DAY).contains(&interval.start_us));
                    add(&mut sum, &counted(&interval.numbers.unwrap()));
                }
                assert_eq!(sum, Counted { waiting: 0, ..expected.clone() }, "{queue} intervals");
                add(&mut total, expected);
            }
            let in_queue = |outcome: &str| {
                contacts.iter().filter(|c| c.queue_id == queue && c.outcome == outcome).count() as u64
            };
            let both = |pick: fn(&Counted) -> u64| pick(yesterday) + pick(today);
            assert_eq!(in_queue("answered"), both(|c| c.answered));
            assert_eq!(in_queue("abandoned") + in_queue("short_abandoned"), both(|c| c.abandoned));
            assert_eq!(in_queue("short_abandoned"), both(|c| c.short));
            assert_eq!(in_queue("timed_out"), both(|c| c.timed_out));
            assert_eq!(in_queue("refused"), both(|c| c.refused));
            assert_eq!(in_queue("in_progress"), both(|c| c.waiting));
        }
        check_contacts(&history, &contacts, &total);
        running.stop().await;
    }
}

fn check_contacts(history: &History, contacts: &[trunkline_proto::records::v1::Contact], total: &Counted) {
    assert_eq!(contacts.len(), history.calls.len());
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for contact in contacts {
        *outcomes.entry(&contact.outcome).or_default() += 1;
    }
    assert_eq!(outcomes, history.outcomes);
    let answered: Vec<_> = contacts.iter().filter(|c| c.outcome == "answered").collect();
    assert!(answered.iter().all(|c| c.recordings[0].state == "available" && c.disposition == "solved"));
    // Records are in milliseconds, each rounded down once.
    let handled: i64 = answered.iter().map(|c| c.talk_ms + c.hold_ms + c.wrap_up_ms).sum();
    assert!((total.handle_us / 1_000 - handled).unsigned_abs() <= 3 * answered.len() as u64);
    let waited: i64 = answered.iter().map(|c| c.wait_ms).sum();
    assert!((total.wait_us / 1_000 - waited).unsigned_abs() <= answered.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_happens_the_board_shows_what_a_fold_of_the_same_events_shows() {
    let history = history(31, 100);
    let place = Place::new(&history);
    let mut running = place.start().await;
    for shown in (0..history.events.len()).step_by(211) {
        place.tape.show(shown);
        let live = running.live_at(shown).await;
        let fresh = Place::new(&history);
        fresh.tape.show(shown);
        let mut anew = fresh.start().await;
        assert_eq!(live, anew.live().await, "at {shown}");
        anew.stop().await;
    }
    running.stop().await;
}

fn event(
    history: &History,
    n: u64,
    entity: EntityAddress,
    kind: &'static str,
    payload: Vec<u8>,
) -> StoredEvent {
    let last = history.events.last().unwrap();
    StoredEvent {
        position: last.position + n,
        shard: entity.shard(),
        entity,
        kind: kind.into(),
        payload: payload.into(),
        at: Timestamp::from_micros(END - S),
        ..last.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_events_are_counted_and_newer_kinds_skipped() {
    let history = history(41, 40);
    let whole = Place::new(&history);
    whole.tape.show_all();
    let mut running = whole.start().await;
    let mut expected = running.everything(&history.calls).await;
    running.stop().await;
    let place = Place::new(&history);
    {
        let mut events = place.tape.events.lock().unwrap();
        let queue = history.events.iter().find(|e| e.kind == "queue.event").unwrap().entity.clone();
        let gone: EntityAddress = EntityAddress::call(
            &queue.tenant,
            "0000000000000000000000001".parse().unwrap_or_else(|_| history.calls[0].parse().unwrap()),
        );
        // Field 99 of a message that knows 25: what a newer version would write.
        let newer = [0x08, 0x01, 0x9a, 0x06, 0x00];
        events.push(event(&history, 1, gone.clone(), "call.teleported", newer.to_vec()));
        events.push(event(&history, 2, queue.clone(), "queue.dreamt", newer.to_vec()));
        events.push(event(&history, 3, queue, "queue.event", vec![0xff; 7]));
        events.push(event(&history, 4, gone, "call.ended", b"\x12\xff".to_vec()));
    }
    place.tape.show_all();
    let mut running = place.start().await;
    expected.0.position += 4;
    assert_eq!(running.everything(&history.calls).await, expected, "nothing of it counts");
    assert_eq!(running.metric("errors_total"), 2.0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_enters_the_next_queue_before_it_has_left_the_last_waits_once() {
    let history = history(43, 5);
    let place = Place::new(&history);
    let call = history.calls[0].clone();
    let at = |n: i64| END - 100 * S + n * S;
    let queue_event = |n: i64, queue: &str, event: queue_event::Event| {
        let entity = EntityAddress::queue(&"default".parse().unwrap(), &queue.parse().unwrap());
        let payload = QueueEvent { at_us: at(n), call_id: call.clone(), event: Some(event) }.encode_to_vec();
        place.tape.events.lock().unwrap().push(self::event(
            &history,
            n as u64,
            entity,
            "queue.event",
            payload,
        ));
    };
    let waiting = |live: &trunkline_proto::records::v1::LiveSnapshot| -> Vec<u64> {
        QUEUES.iter().map(|id| live.queues.iter().find(|q| q.queue_id == *id).unwrap().waiting).collect()
    };
    place.tape.show_all();
    let mut running = place.start().await;
    let before = waiting(&running.live().await);
    running.stop().await;
    let enqueued = || queue_event::Event::Enqueued(acd::QueueEnqueued::default());
    let left = |entered: i64| {
        let cause = LeaveCause::Flow.into();
        queue_event::Event::Left(acd::QueueLeft { cause, entered_us: at(entered), ..Default::default() })
    };
    queue_event(1, "support", enqueued());
    queue_event(2, "sales", enqueued());
    queue_event(3, "support", left(1));
    place.tape.show_all();
    let mut running = place.start().await;
    let now = waiting(&running.live().await);
    assert_eq!(now, [before[0], before[1] + 1, before[2]]);
    running.stop().await;
    queue_event(4, "sales", left(2));
    place.tape.show_all();
    let mut running = place.start().await;
    assert_eq!(waiting(&running.live().await), before);
    running.stop().await;
}
