use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use trunkline_types::Timestamp;

use super::{AgentEvent, WrapUpEnd};
use crate::Outcome;

/// An agent's counters and times: a fold of the agent's events. Times in microseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentTotals {
    /// Calls that rang.
    pub offered: u64,
    /// Calls connected.
    pub answered: u64,
    /// Calls whose wrap-up is over: the divisor of AHT.
    pub handled: u64,
    /// Rang until the ring time-out (RNA).
    pub missed: u64,
    /// Declined.
    pub declined: u64,
    /// Accepted, connection failed.
    pub failed: u64,
    /// The caller went first.
    pub caller_gone: u64,
    /// Wrap-ups that ended by their time-out.
    pub wrap_ups_timed_out: u64,
    /// Ready and without a call.
    pub idle_us: u64,
    /// Ringing.
    pub ringing_us: u64,
    /// Between accept and connection.
    pub connecting_us: u64,
    /// In conversation, hold excluded.
    pub talk_us: u64,
    /// Caller on hold.
    pub hold_us: u64,
    /// Wrap-up.
    pub wrap_up_us: u64,
    /// Not ready, by reason.
    pub not_ready_us: BTreeMap<String, u64>,
    doing: Doing,
    since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Doing {
    #[default]
    Away,
    NotReady(String),
    Idle,
    Ringing,
    Connecting,
    Talking,
    Holding,
    WrappingUp,
}

impl AgentTotals {
    /// Adds one event.
    pub fn apply(&mut self, event: &AgentEvent) {
        let doing = match event {
            AgentEvent::SignedIn { .. } => Doing::NotReady("signed_in".into()),
            AgentEvent::SignedOut { .. } => Doing::Away,
            AgentEvent::Ready { .. } => Doing::Idle,
            AgentEvent::NotReady { reason, .. } => Doing::NotReady(reason.clone()),
            AgentEvent::Offered { .. } => {
                self.offered += 1;
                Doing::Ringing
            }
            AgentEvent::Accepted { .. } => Doing::Connecting,
            AgentEvent::OfferEnded { outcome, .. } => {
                match outcome {
                    Outcome::Missed => self.missed += 1,
                    Outcome::Declined => self.declined += 1,
                    Outcome::Failed => self.failed += 1,
                    Outcome::CallerGone => self.caller_gone += 1,
                    Outcome::AgentGone | Outcome::Answered => {}
                }
                Doing::NotReady(super::state::outcome_name(*outcome).into())
            }
            AgentEvent::Connected { .. } => {
                self.answered += 1;
                Doing::Talking
            }
            AgentEvent::HoldChanged { held: true, .. } => Doing::Holding,
            AgentEvent::HoldChanged { held: false, .. } => Doing::Talking,
            AgentEvent::CallEnded { .. } => Doing::WrappingUp,
            AgentEvent::WrapUpEnded { end, .. } => {
                self.handled += 1;
                self.wrap_ups_timed_out += u64::from(*end == WrapUpEnd::TimedOut);
                Doing::NotReady("wrap_up_ended".into())
            }
            AgentEvent::WrapUpExtended { .. }
            | AgentEvent::NotesSaved { .. }
            | AgentEvent::NextStatusSet { .. }
            | AgentEvent::OutcomeSeen { .. }
            | AgentEvent::SessionAttached { .. }
            | AgentEvent::SessionDetached { .. }
            | AgentEvent::CommandBegun { .. }
            | AgentEvent::CommandEnded { .. } => return,
        };
        self.book(event.at());
        self.doing = doing;
    }

    /// Books the time since the last change of state.
    fn book(&mut self, at: Timestamp) {
        let spent = u64::try_from(at.since(self.since).as_micros()).unwrap_or(u64::MAX);
        self.since = self.since.max(at);
        match &self.doing {
            Doing::Away => {}
            Doing::NotReady(_) if spent == 0 => {}
            Doing::NotReady(reason) => *self.not_ready_us.entry(reason.clone()).or_default() += spent,
            Doing::Idle => self.idle_us += spent,
            Doing::Ringing => self.ringing_us += spent,
            Doing::Connecting => self.connecting_us += spent,
            Doing::Talking => self.talk_us += spent,
            Doing::Holding => self.hold_us += spent,
            Doing::WrappingUp => self.wrap_up_us += spent,
        }
    }

    /// The same with the time spent in the present state up to `now`.
    pub fn until(&self, now: Timestamp) -> Self {
        let mut totals = self.clone();
        totals.book(now);
        totals
    }

    /// Average handling time: (talk + hold + wrap-up) ÷ handled. Read it between calls, or the running one counts in the
    /// dividend only.
    pub fn average_handling_time(&self) -> Option<Duration> {
        (self.talk_us + self.hold_us + self.wrap_up_us).checked_div(self.handled).map(Duration::from_micros)
    }

    /// (talk + hold + wrap-up) ÷ (that + idle); not-ready time is excluded. `None` when there was neither.
    pub fn occupancy(&self) -> Option<f64> {
        let busy = self.talk_us + self.hold_us + self.wrap_up_us;
        (busy + self.idle_us > 0).then(|| busy as f64 / (busy + self.idle_us) as f64)
    }
}
