//! The counters of a queue. Whatever is shown or reported of them (live, by interval, in totals) is a sum of these,
//! and they are folded from the same events as the contact records: they cannot disagree.

use prost::Message;
use trunkline_proto::acd::v1::{LeaveCause, OfferOutcome, QueueEvent, queue_event::Event};

/// Counts and sums of one queue in one interval (definitions: service level, abandonment, ASA and AHT are computed
/// from these on reading).
#[derive(Clone, PartialEq, Message)]
pub struct Counters {
    /// Calls that entered the queue.
    #[prost(uint64, tag = "1")]
    pub offered: u64,
    /// Connected to an agent.
    #[prost(uint64, tag = "2")]
    pub answered: u64,
    /// Of these, within the target.
    #[prost(uint64, tag = "3")]
    pub answered_in_target: u64,
    /// Hung up while waiting, short abandons included.
    #[prost(uint64, tag = "4")]
    pub abandoned: u64,
    /// Of these, before the short-abandon limit.
    #[prost(uint64, tag = "5")]
    pub short_abandoned: u64,
    /// Released because the longest wait was over.
    #[prost(uint64, tag = "6")]
    pub timed_out: u64,
    /// No place given.
    #[prost(uint64, tag = "7")]
    pub refused: u64,
    /// Left by the flow.
    #[prost(uint64, tag = "8")]
    pub flow_out: u64,
    /// Lost with a node or its media.
    #[prost(uint64, tag = "9")]
    pub lost: u64,
    /// Sum of (connected - entered) over answered, microseconds.
    #[prost(uint64, tag = "10")]
    pub wait_answered_us: u64,
    /// Conversations whose wrap-up ended here.
    #[prost(uint64, tag = "11")]
    pub handled: u64,
    /// Sum of talk, hold and wrap-up of these, microseconds.
    #[prost(uint64, tag = "12")]
    pub handle_us: u64,
    /// Offers that rang without an answer (RNA).
    #[prost(uint64, tag = "13")]
    pub missed: u64,
}

impl Counters {
    /// Counts one event of the queue.
    pub fn apply(&mut self, event: &QueueEvent) {
        match &event.event {
            Some(Event::Enqueued(_)) => self.offered += 1,
            Some(Event::Refused(_)) => self.refused += 1,
            Some(Event::Answered(answered)) => {
                self.answered += 1;
                self.answered_in_target += u64::from(answered.within_target);
                self.wait_answered_us += positive(event.at_us - answered.entered_us);
            }
            Some(Event::OfferEnded(ended)) => {
                self.missed += u64::from(ended.outcome() == OfferOutcome::Missed);
            }
            Some(Event::Left(left)) => match left.cause() {
                LeaveCause::Abandoned => {
                    self.abandoned += 1;
                    self.short_abandoned += u64::from(left.short_abandon);
                }
                LeaveCause::TimedOut => self.timed_out += 1,
                LeaveCause::Flow => self.flow_out += 1,
                LeaveCause::Lost | LeaveCause::Unspecified => self.lost += 1,
            },
            Some(Event::Committed(_) | Event::NeverQueued(_)) | None => {}
        }
    }

    /// Counts a conversation that is done with.
    pub fn handled(&mut self, handled: &super::Handled) {
        self.handled += 1;
        self.handle_us += handled.talk_us + handled.hold_us + handled.wrap_up_us;
    }

    /// Adds another interval of the same queue.
    pub fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.answered += other.answered;
        self.answered_in_target += other.answered_in_target;
        self.abandoned += other.abandoned;
        self.short_abandoned += other.short_abandoned;
        self.timed_out += other.timed_out;
        self.refused += other.refused;
        self.flow_out += other.flow_out;
        self.lost += other.lost;
        self.wait_answered_us += other.wait_answered_us;
        self.handled += other.handled;
        self.handle_us += other.handle_us;
        self.missed += other.missed;
    }

    /// Answered within T ÷ (answered + abandoned − short abandons); `None` when nothing counts yet.
    pub fn service_level(&self) -> Option<f64> {
        ratio(self.answered_in_target, self.answered + self.abandoned - self.short_abandoned)
    }

    /// Abandoned ÷ offered.
    pub fn abandonment_rate(&self) -> Option<f64> {
        ratio(self.abandoned, self.offered)
    }

    /// Average speed of answer, seconds.
    pub fn asa_s(&self) -> Option<f64> {
        ratio(self.wait_answered_us, self.answered).map(|us| us / 1e6)
    }

    /// Average handle time, seconds.
    pub fn aht_s(&self) -> Option<f64> {
        ratio(self.handle_us, self.handled).map(|us| us / 1e6)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

pub(crate) fn positive(us: i64) -> u64 {
    u64::try_from(us).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use trunkline_proto::acd::v1::{QueueAnswered, QueueEnqueued, QueueLeft};

    use super::*;

    fn event(at_us: i64, event: Event) -> QueueEvent {
        QueueEvent { at_us, call_id: "c".to_owned(), event: Some(event) }
    }

    #[test]
    fn service_level_leaves_short_abandons_out() {
        let mut counters = Counters::default();
        for _ in 0..4 {
            counters.apply(&event(0, Event::Enqueued(QueueEnqueued::default())));
        }
        let answered = QueueAnswered { entered_us: 1_000_000, within_target: true, ..Default::default() };
        counters.apply(&event(11_000_000, Event::Answered(answered)));
        for short_abandon in [true, false] {
            let left = QueueLeft { cause: LeaveCause::Abandoned.into(), short_abandon, ..Default::default() };
            counters.apply(&event(0, Event::Left(left)));
        }
        assert_eq!(counters.service_level(), Some(0.5));
        assert_eq!(counters.abandonment_rate(), Some(0.5));
        assert_eq!(counters.asa_s(), Some(10.0));
        assert_eq!(counters.aht_s(), None);
    }

    #[test]
    fn two_halves_add_up_to_the_whole() {
        let mut left = Counters { offered: 3, handled: 1, handle_us: 5, ..Default::default() };
        left.add(&Counters { offered: 2, handled: 2, handle_us: 7, missed: 1, ..Default::default() });
        assert_eq!(left, Counters { offered: 5, handled: 3, handle_us: 12, missed: 1, ..Default::default() });
    }
}
