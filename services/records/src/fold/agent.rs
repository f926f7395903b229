//! What an agent's events say: the state now, and the times in each state.

use prost::Message;
use trunkline_proto::acd::v1::{AgentEvent, OfferOutcome, agent_event::Event};

use super::counters::positive;

/// An agent as the fold has it.
#[derive(Clone, PartialEq, Message)]
pub struct AgentState {
    /// "signed_out", "not_ready", "ready", "ringing", "connecting", "talking", "wrap_up"
    #[prost(string, tag = "1")]
    pub state: String,
    /// Why, where a state has a reason.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// Since when.
    #[prost(int64, tag = "3")]
    pub since_us: i64,
    /// The conversation under way.
    #[prost(message, optional, tag = "4")]
    pub conversation: Option<Conversation>,
    /// The UTC day (days since the epoch) that the sums below are of.
    #[prost(int64, tag = "5")]
    pub day: i64,
    /// Conversations whose wrap-up ended today.
    #[prost(uint64, tag = "6")]
    pub handled: u64,
    /// Microseconds of today's states; a state counts on the day in which it ends.
    #[prost(uint64, tag = "7")]
    pub talk_us: u64,
    /// See `talk_us`.
    #[prost(uint64, tag = "8")]
    pub hold_us: u64,
    /// See `talk_us`.
    #[prost(uint64, tag = "9")]
    pub wrap_up_us: u64,
    /// Available idle.
    #[prost(uint64, tag = "10")]
    pub idle_us: u64,
    /// Rang without an answer today.
    #[prost(uint64, tag = "11")]
    pub missed: u64,
    /// What follows the conversation when the agent chose so: "ready" or a reason; empty = ready.
    #[prost(string, tag = "12")]
    pub next: String,
}

/// A conversation and its times.
#[derive(Clone, PartialEq, Message)]
pub struct Conversation {
    /// The offer.
    #[prost(string, tag = "1")]
    pub offer: String,
    /// The call.
    #[prost(string, tag = "2")]
    pub call: String,
    /// The queue that offered it.
    #[prost(string, tag = "3")]
    pub queue: String,
    /// Connected; 0 = not yet.
    #[prost(int64, tag = "4")]
    pub connected_us: i64,
    /// On hold since; 0 = not on hold.
    #[prost(int64, tag = "5")]
    pub held_since_us: i64,
    /// Time on hold so far.
    #[prost(uint64, tag = "6")]
    pub hold_us: u64,
    /// Talk without hold, once over.
    #[prost(uint64, tag = "7")]
    pub talk_us: u64,
    /// Over since; 0 = still on.
    #[prost(int64, tag = "8")]
    pub ended_us: i64,
}

/// A conversation that is done with, wrap-up included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// The queue.
    pub queue: String,
    /// The call.
    pub call: String,
    /// Microseconds.
    pub talk_us: u64,
    /// Microseconds.
    pub hold_us: u64,
    /// Microseconds.
    pub wrap_up_us: u64,
}

const DAY_US: i64 = 86_400_000_000;

impl AgentState {
    /// Folds one event of the agent; a conversation that was finished by it is returned.
    pub fn apply(&mut self, event: &AgentEvent) -> Option<Handled> {
        let at = event.at_us;
        self.turn_day(at);
        match event.event.as_ref()? {
            Event::SignedIn(_) => self.enter(at, "not_ready", "signed_in"),
            Event::SignedOut(e) => self.enter(at, "signed_out", &e.reason),
            Event::Ready(_) => self.enter(at, "ready", ""),
            Event::NotReady(e) => self.enter(at, "not_ready", &e.reason),
            Event::Offered(e) => {
                let queue = e.commit.as_ref().map(|c| c.queue_id.clone()).unwrap_or_default();
                self.conversation = Some(Conversation {
                    offer: event.offer_id.clone(),
                    call: e.commit.as_ref().map_or_else(|| event.call_id.clone(), |c| c.call_id.clone()),
                    queue,
                    ..Conversation::default()
                });
                self.enter(at, "ringing", "");
            }
            Event::Accepted(_) => self.enter(at, "connecting", ""),
            Event::OfferEnded(e) => {
                self.missed += u64::from(e.outcome() == OfferOutcome::Missed);
                self.conversation = None;
            }
            Event::Connected(_) => {
                if let Some(conversation) = &mut self.conversation {
                    conversation.connected_us = at;
                }
                self.enter(at, "talking", "");
            }
            Event::Hold(e) => self.hold(at, e.on_hold),
            Event::CallEnded(_) => self.ended(at),
            Event::WrapUpEnded(_) => return self.wrapped_up(at),
            Event::WrapUpExtended(_)
            | Event::Notes(_)
            | Event::OutcomeSeen(_)
            | Event::SessionAttached(_)
            | Event::SessionDetached(_)
            | Event::CommandBegun(_)
            | Event::CommandEnded(_) => {}
            Event::Next(e) => self.next.clone_from(&e.reason),
        }
        None
    }

    fn turn_day(&mut self, at: i64) {
        let day = at.div_euclid(DAY_US);
        if day > self.day {
            *self = Self { day, ..self.without_sums() };
        }
    }

    /// The same at the beginning of a day.
    pub fn without_sums(&self) -> Self {
        Self { handled: 0, missed: 0, talk_us: 0, hold_us: 0, wrap_up_us: 0, idle_us: 0, ..self.clone() }
    }

    fn enter(&mut self, at: i64, state: &str, reason: &str) {
        if self.state == "ready" {
            self.idle_us += positive(at - self.since_us);
        }
        self.state = state.to_owned();
        self.reason = reason.to_owned();
        self.since_us = at;
    }

    fn hold(&mut self, at: i64, on_hold: bool) {
        let Some(conversation) = &mut self.conversation else { return };
        if on_hold && conversation.held_since_us == 0 {
            conversation.held_since_us = at;
        } else if !on_hold && conversation.held_since_us != 0 {
            conversation.hold_us += positive(at - conversation.held_since_us);
            conversation.held_since_us = 0;
        }
    }

    fn ended(&mut self, at: i64) {
        self.hold(at, false);
        if let Some(conversation) = &mut self.conversation {
            conversation.ended_us = at;
            let whole =
                if conversation.connected_us == 0 { 0 } else { positive(at - conversation.connected_us) };
            conversation.talk_us = whole.saturating_sub(conversation.hold_us);
            self.talk_us += conversation.talk_us;
            self.hold_us += conversation.hold_us;
        }
        self.enter(at, "wrap_up", "");
    }

    fn wrapped_up(&mut self, at: i64) -> Option<Handled> {
        let conversation = self.conversation.take()?;
        let wrap_up_us = if conversation.ended_us == 0 { 0 } else { positive(at - conversation.ended_us) };
        self.wrap_up_us += wrap_up_us;
        self.handled += 1;
        Some(Handled {
            queue: conversation.queue,
            call: conversation.call,
            talk_us: conversation.talk_us,
            hold_us: conversation.hold_us,
            wrap_up_us,
        })
    }

    /// (talk + hold + wrap-up) ÷ (that + available idle) up to `now_us`; `None` while no time counts.
    pub fn occupancy(&self, now_us: i64) -> Option<f64> {
        let (mut busy, mut idle) = (self.talk_us + self.hold_us + self.wrap_up_us, self.idle_us);
        let current = positive(now_us - self.since_us);
        match self.state.as_str() {
            "ready" => idle += current,
            "talking" | "wrap_up" => busy += current,
            _ => {}
        }
        (busy + idle > 0).then(|| busy as f64 / (busy + idle) as f64)
    }
}

#[cfg(test)]
mod tests {
    use trunkline_proto::acd::v1 as pb;

    use super::*;

    fn event(s: i64, event: Event) -> AgentEvent {
        AgentEvent {
            at_us: s * 1_000_000,
            offer_id: "o".into(),
            call_id: "c".into(),
            event: Some(event),
            by: None,
        }
    }

    #[test]
    fn times_of_a_conversation_add_up() {
        let mut agent = AgentState::default();
        agent.apply(&event(0, Event::SignedIn(pb::AgentSignedIn::default())));
        agent.apply(&event(10, Event::Ready(pb::AgentReady::default())));
        let commit = pb::Commit { call_id: "c".into(), queue_id: "q".into(), ..Default::default() };
        agent.apply(&event(40, Event::Offered(pb::AgentOffered { commit: Some(commit), until_us: 0 })));
        agent.apply(&event(42, Event::Accepted(pb::AgentAccepted::default())));
        agent.apply(&event(43, Event::Connected(pb::AgentTalking {})));
        agent.apply(&event(50, Event::Hold(pb::AgentHoldChanged { on_hold: true })));
        agent.apply(&event(55, Event::Hold(pb::AgentHoldChanged { on_hold: false })));
        agent.apply(&event(63, Event::CallEnded(pb::AgentCallOver::default())));
        assert_eq!(agent.state, "wrap_up");
        let handled = agent.apply(&event(73, Event::WrapUpEnded(pb::AgentWrapUpEnded::default()))).unwrap();
        assert_eq!(
            (handled.talk_us, handled.hold_us, handled.wrap_up_us),
            (15_000_000, 5_000_000, 10_000_000)
        );
        agent.apply(&event(73, Event::Ready(pb::AgentReady::default())));
        // 30 s of talk, hold and wrap-up; 30 s idle before and 30 s since.
        assert_eq!(agent.occupancy(103_000_000), Some(30.0 / 90.0));
    }

    #[test]
    fn a_new_day_begins_at_zero() {
        let mut agent = AgentState { handled: 9, talk_us: 5, ..Default::default() };
        agent.apply(&AgentEvent { at_us: DAY_US + 1, ..event(0, Event::Ready(pb::AgentReady::default())) });
        assert_eq!((agent.handled, agent.talk_us), (0, 0));
    }
}
