use std::time::Duration;

use serde::{Deserialize, Serialize};
use trunkline_types::Timestamp;

use super::{OfferOutcome, QueueEvent};
use crate::{LeaveCause, Outcome};

/// A queue's counters: a fold of its events, so that live boards, interval metrics and records agree exactly.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueTotals {
    /// Calls that entered the queue.
    pub offered: u64,
    /// Calls refused because the queue was full.
    pub refused: u64,
    /// Calls connected to an agent.
    pub answered: u64,
    /// … within the service level's target.
    pub answered_in_target: u64,
    /// Callers who hung up while waiting, short ones included.
    pub abandoned: u64,
    /// … before the short-abandon limit.
    pub short_abandoned: u64,
    /// Calls released because they had waited for as long as allowed.
    pub timed_out: u64,
    /// Calls that the flow took out.
    pub flowed_out: u64,
    /// Calls lost with their node.
    pub lost: u64,
    /// Calls that wait now, ringing ones included.
    pub waiting: u64,
    /// Offers committed to agents.
    pub offers: u64,
    /// Offers that rang until the ring time-out (RNA).
    pub missed: u64,
    /// Offers declined by the agent.
    pub declined: u64,
    /// Offers accepted whose connection failed.
    pub failed: u64,
    /// Offers whose hold was gone when the commit came.
    pub rejected: u64,
    /// Sum of (connected − enqueued) over the answered, in microseconds.
    pub answered_wait_us: u64,
    /// Longest such wait, in microseconds.
    pub longest_answered_wait_us: u64,
    /// Smoothed time between two answers while others waited, in microseconds; 0 = unknown.
    pub answer_gap_us: u64,
    last_answer_at: Option<Timestamp>,
}

impl QueueTotals {
    /// Adds one event.
    pub fn apply(&mut self, event: &QueueEvent) {
        match event {
            QueueEvent::Enqueued { .. } => {
                self.offered += 1;
                self.waiting += 1;
            }
            QueueEvent::Refused { .. } => self.refused += 1,
            QueueEvent::NeverQueued { .. } => {}
            QueueEvent::Committed { .. } => self.offers += 1,
            QueueEvent::OfferEnded { outcome, .. } => match outcome {
                OfferOutcome::Rejected => self.rejected += 1,
                OfferOutcome::Agent(Outcome::Missed) => self.missed += 1,
                OfferOutcome::Agent(Outcome::Declined) => self.declined += 1,
                OfferOutcome::Agent(Outcome::Failed) => self.failed += 1,
                OfferOutcome::Agent(Outcome::CallerGone | Outcome::AgentGone | Outcome::Answered) => {}
            },
            QueueEvent::Answered { at, enqueued_at, within_target, .. } => {
                self.answered += 1;
                self.answered_in_target += u64::from(*within_target);
                let wait = micros(at.since(*enqueued_at));
                self.answered_wait_us += wait;
                self.longest_answered_wait_us = self.longest_answered_wait_us.max(wait);
                self.gap(*at);
                self.gone();
            }
            QueueEvent::Left { cause, short, .. } => {
                match cause {
                    LeaveCause::Abandoned => {
                        self.abandoned += 1;
                        self.short_abandoned += u64::from(*short);
                    }
                    LeaveCause::FlowOut => self.flowed_out += 1,
                    LeaveCause::Timeout => self.timed_out += 1,
                    LeaveCause::Lost => self.lost += 1,
                }
                self.gone();
            }
        }
    }

    fn gap(&mut self, at: Timestamp) {
        if let Some(last) = self.last_answer_at {
            let gap = micros(at.since(last));
            // 1/8 for the newest, as for TCP's round-trip time (RFC 6298): follows a shift change within some calls.
            self.answer_gap_us = if self.answer_gap_us == 0 {
                gap
            } else {
                self.answer_gap_us - self.answer_gap_us / 8 + gap / 8
            };
        }
        self.last_answer_at = Some(at);
    }

    fn gone(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            // A gap during which nobody waited says nothing about the speed of service.
            self.last_answer_at = None;
        }
    }

    /// Answered in target ÷ (answered + abandoned − short abandons); `None` when nothing counts yet.
    pub fn service_level(&self) -> Option<f64> {
        let counted = self.answered + self.abandoned - self.short_abandoned;
        (counted > 0).then(|| self.answered_in_target as f64 / counted as f64)
    }

    /// Abandoned ÷ offered; `None` when nothing was offered yet.
    pub fn abandonment_rate(&self) -> Option<f64> {
        (self.offered > 0).then(|| self.abandoned as f64 / self.offered as f64)
    }

    /// Average speed of answer: mean of (connected − enqueued) over the answered.
    pub fn average_speed_of_answer(&self) -> Option<Duration> {
        self.answered_wait_us.checked_div(self.answered).map(Duration::from_micros)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
