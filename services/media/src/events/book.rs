//! Events that wait to be acknowledged: what is kept, when it is told again, when it is given up.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use trunkline_proto::media::v1::{self as pb, media_event::Event};
use trunkline_types::{CallId, ShardId, Timestamp};

/// Events kept in all, and for one call; more are told once only.
const MOST: usize = 65_536;
const MOST_OF_A_CALL: usize = 512;
/// The first repetition comes after this; the pause doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

const MINUTE: Duration = Duration::from_secs(60);

/// How long an event is worth telling; `None`: once only.
pub(super) fn worth(event: &Event) -> Option<Duration> {
    match event {
        Event::Quality(quality) if !quality.r#final => None,
        Event::TranscriptSegment(segment) if !segment.r#final => None,
        // Nobody decides by these: their commands were answered.
        Event::RecordingStarted(_) | Event::DigitsSent(_) => None,
        // A key is an answer to what is heard now.
        Event::Digit(_) | Event::PlaybackFinished(_) | Event::Connected(_) | Event::Disconnected(_) => {
            Some(MINUTE)
        }
        Event::Quality(_)
        | Event::RecordingTrouble(_)
        | Event::TranscriptSegment(_)
        | Event::TranscriptGap(_)
        | Event::TranscriptStatus(_)
        | Event::SessionEnded(_)
        | Event::SessionUnattended(_) => Some(10 * MINUTE),
        Event::RecordingFinished(_) | Event::RecordingFailed(_) => Some(24 * 60 * MINUTE),
    }
}

#[derive(Debug)]
struct Kept {
    event: pb::MediaEvent,
    until: Timestamp,
}

#[derive(Debug)]
struct OfCall {
    shard: ShardId,
    /// In the order in which they happened.
    events: VecDeque<Kept>,
    next: Timestamp,
    pause: Duration,
}

/// See the module. Decides only; the caller sends.
#[derive(Debug, Default)]
pub(super) struct Book {
    calls: HashMap<CallId, OfCall>,
    schedule: BTreeSet<(Timestamp, CallId)>,
    count: usize,
}

impl Book {
    /// Events that wait.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.schedule.first().map(|(at, _)| *at)
    }

    /// Keeps an event that is being told now. `false`: there is no room, it is told this once.
    pub(super) fn keep(
        &mut self,
        now: Timestamp,
        call: CallId,
        shard: ShardId,
        event: pb::MediaEvent,
        worth: Duration,
    ) -> bool {
        if self.count >= MOST {
            return false;
        }
        let schedule = &mut self.schedule;
        let of_call = self.calls.entry(call).or_insert_with(|| {
            let next = now + FIRST_PAUSE;
            schedule.insert((next, call));
            OfCall { shard, events: VecDeque::new(), next, pause: FIRST_PAUSE }
        });
        if of_call.events.len() >= MOST_OF_A_CALL {
            return false;
        }
        of_call.events.push_back(Kept { event, until: now + worth });
        self.count += 1;
        true
    }

    /// The call has taken these; gives back those that were waiting.
    pub(super) fn acknowledge(&mut self, call: CallId, ids: &[u64]) -> Vec<pb::MediaEvent> {
        let Some(of_call) = self.calls.get_mut(&call) else { return Vec::new() };
        let mut taken = Vec::new();
        of_call.events.retain_mut(|kept| {
            let named = ids.contains(&kept.event.event_id);
            if named {
                taken.push(std::mem::take(&mut kept.event));
            }
            !named
        });
        self.count -= taken.len();
        // Whoever acknowledges is there: what else waits need not wait long.
        of_call.pause = FIRST_PAUSE;
        if of_call.events.is_empty() {
            self.schedule.remove(&(of_call.next, call));
            self.calls.remove(&call);
        }
        taken
    }

    /// The shard has a new owner: everything of its calls is due.
    pub(super) fn raise(&mut self, now: Timestamp, shard: ShardId) {
        for (call, of_call) in self.calls.iter_mut().filter(|(_, of_call)| of_call.shard == shard) {
            self.schedule.remove(&(of_call.next, *call));
            (of_call.next, of_call.pause) = (now, FIRST_PAUSE);
            self.schedule.insert((now, *call));
        }
    }

    /// The next call that is due: what it is told again, and how many events of it are given up. `None`: nothing is due.
    /// `repeats`: its owner acknowledges; otherwise nothing is told twice and the events are forgotten.
    pub(super) fn due(
        &mut self,
        now: Timestamp,
        repeats: impl FnOnce(ShardId) -> bool,
    ) -> Option<(Vec<pb::MediaEvent>, u64)> {
        let (at, call) = self.schedule.first().copied().filter(|(at, _)| *at <= now)?;
        self.schedule.remove(&(at, call));
        let of_call = self.calls.get_mut(&call)?;
        let before = of_call.events.len();
        let repeats = repeats(of_call.shard);
        of_call.events.retain(|kept| repeats && kept.until > now);
        let forgotten = before - of_call.events.len();
        self.count -= forgotten;
        let again: Vec<_> = of_call.events.iter().map(|kept| kept.event.clone()).collect();
        if again.is_empty() {
            self.calls.remove(&call);
        } else {
            of_call.pause = (of_call.pause * 2).min(LONGEST_PAUSE);
            of_call.next = now + of_call.pause;
            self.schedule.insert((of_call.next, call));
        }
        Some((again, if repeats { forgotten as u64 } else { 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000 + seconds * 1_000)
    }

    fn shard(n: u16) -> ShardId {
        ShardId::new(n).unwrap()
    }

    fn call(n: u128) -> CallId {
        CallId::mint(shard(2_000), at(0), n)
    }

    fn digit(id: u64) -> pb::MediaEvent {
        let digit = pb::Digit { digit: "5".into(), ..Default::default() };
        pb::MediaEvent { event_id: id, event: Some(Event::Digit(digit)), ..Default::default() }
    }

    fn told(book: &mut Book, now: Timestamp) -> Vec<u64> {
        let mut all = Vec::new();
        while let Some((again, _)) = book.due(now, |_| true) {
            all.extend(again.iter().map(|e| e.event_id));
        }
        all
    }

    #[test]
    fn what_is_not_acknowledged_is_told_again_in_order_with_longer_pauses_and_given_up_in_the_end() {
        let mut book = Book::default();
        for id in [3, 5, 9] {
            assert!(book.keep(at(0), call(1), shard(2_000), digit(id), MINUTE));
        }
        assert!(told(&mut book, at(0)).is_empty());
        assert_eq!(told(&mut book, at(1)), [3, 5, 9]);
        assert!(told(&mut book, at(2)).is_empty(), "the pause has doubled");
        assert_eq!(book.acknowledge(call(1), &[5, 77]).len(), 1);
        assert_eq!(told(&mut book, at(3)), [3, 9]);
        let mut times = 0;
        let mut forgotten = 0;
        while let Some(next) = book.next() {
            let (again, lost) = book.due(next, |_| true).unwrap();
            times += usize::from(!again.is_empty());
            forgotten += lost;
        }
        assert!((4..8).contains(&times), "a minute with pauses up to 15 s: {times}");
        assert_eq!((forgotten, book.len()), (2, 0));
    }

    #[test]
    fn a_new_owner_is_told_at_once_and_other_shards_are_not_touched() {
        let mut book = Book::default();
        book.keep(at(0), call(1), shard(2_000), digit(1), MINUTE);
        book.keep(at(0), call(2), shard(2_001), digit(2), MINUTE);
        assert_eq!(told(&mut book, at(1)), [1, 2]);
        book.raise(at(1), shard(2_000));
        assert_eq!(told(&mut book, at(1)), [1]);
    }

    #[test]
    fn an_owner_that_acknowledges_nothing_is_told_once() {
        let mut book = Book::default();
        book.keep(at(0), call(1), shard(2_000), digit(1), MINUTE);
        let (again, lost) = book.due(at(1), |_| false).unwrap();
        assert_eq!((again.len(), lost, book.len(), book.next()), (0, 0, 0, None));
    }

    #[test]
    fn what_only_repeats_a_reply_is_told_once() {
        assert_eq!(worth(&Event::RecordingStarted(pb::RecordingStarted::default())), None);
        assert_eq!(worth(&Event::DigitsSent(pb::DigitsSent::default())), None);
        assert_eq!(worth(&Event::Digit(pb::Digit::default())), Some(MINUTE));
    }

    #[test]
    fn one_call_cannot_take_all_the_room() {
        let mut book = Book::default();
        let kept =
            (0..1_000).filter(|id| book.keep(at(0), call(1), shard(2_000), digit(*id), MINUTE)).count();
        assert_eq!((kept, book.len()), (MOST_OF_A_CALL, MOST_OF_A_CALL));
        assert!(book.keep(at(0), call(2), shard(2_000), digit(1), MINUTE));
        let everything: Vec<u64> = (0..1_000).collect();
        assert_eq!(book.acknowledge(call(1), &everything).len(), MOST_OF_A_CALL);
        assert_eq!((book.len(), book.next()), (1, Some(at(1))));
    }
}
