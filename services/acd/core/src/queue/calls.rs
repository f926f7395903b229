//! What calls say, and what time does to them.

use trunkline_types::{CallId, OfferId, ReleaseCause, Timestamp};

use super::{
    Key, Outbox, Queue, QueueEvent, Releasing,
    state::{Departed, QueuedCall},
};
use crate::{
    CallToQueue, Enqueue, LeaveCause, QueueToCall,
    protocol::{self, RELEASE_FOR, RETURNS_WITHIN},
    timers::backoff,
};

impl Queue {
    pub(super) fn on_call(&mut self, call: CallId, message: CallToQueue, now: Timestamp, out: &mut Outbox) {
        match message {
            CallToQueue::Enqueue(enqueue) => self.enqueue(call, enqueue, now, out),
            CallToQueue::Leave { entry, cause } => {
                self.leave(call, entry, cause, now, out);
                // While it still rings somewhere the call must not be enqueued elsewhere: it would ring twice.
                if !self.leaving.contains_key(&call) {
                    Self::tell_call(call, QueueToCall::LeaveSeen { entry }, out);
                }
            }
            CallToQueue::Gone { entry } => match self.stay(call, entry).and_then(|q| q.offer.clone()) {
                // It may be gone from here because it talks to the agent of this very offer, whose word decides.
                Some(offer) => self.deliver(&offer, now, out),
                None => self.leave(call, entry, LeaveCause::Lost, now, out),
            },
            CallToQueue::Alive { entry } => {
                if self.stay(call, entry).is_some() {
                    self.waits(call, now);
                }
            }
            CallToQueue::Answered { entry, offer, at } => {
                self.answered_by_call(call, entry, &offer, at, now, out);
                Self::tell_call(call, QueueToCall::AnsweredSeen { entry, offer }, out);
            }
        }
    }

    /// The call while it is in this very stay.
    fn stay(&self, call: CallId, entry: u32) -> Option<&QueuedCall> {
        self.state.calls.get(&call).filter(|queued| queued.enqueue.entry == entry)
    }

    fn enqueue(&mut self, call: CallId, enqueue: Box<Enqueue>, now: Timestamp, out: &mut Outbox) {
        let entry = enqueue.entry;
        if let Some(queued) = self.state.calls.get(&call) {
            let present = queued.enqueue.entry;
            if entry == present {
                self.waits(call, now);
                self.confirm(call, out);
                return;
            }
            if entry < present {
                return;
            }
            if queued.offer.is_some() {
                // It may have been answered under this offer, and be back: agent or call will tell. The call asks again.
                return;
            }
            // The call is past that stay, so it has left it; its message to say so was overtaken.
            self.leave(call, present, LeaveCause::FlowOut, now, out);
        }
        if let Some(departure) = self.state.departed.get(&call)
            && departure.entry >= entry
        {
            if self.leaving.contains_key(&call) {
                // It still rings somewhere: not even the answer to a late duplicate may say that it is out.
                return;
            }
            let answer = match departure.how {
                Departed::Refused => QueueToCall::Refused { entry, cause: ReleaseCause::QueueFull },
                Departed::Left(LeaveCause::Timeout) => {
                    QueueToCall::Release { entry, cause: ReleaseCause::QueueTimeout }
                }
                Departed::Answered | Departed::Left(_) => QueueToCall::LeaveSeen { entry },
            };
            Self::tell_call(call, answer, out);
            return;
        }
        if self.leaving.contains_key(&call) {
            // It still rings somewhere for the stay before: no second offer until that has ended. The call asks again.
            return;
        }
        if self.state.calls.len() >= self.config.max_waiting as usize {
            let cause = ReleaseCause::QueueFull;
            self.record(QueueEvent::Refused { at: now, call, entry, cause }, out);
            Self::tell_call(call, QueueToCall::Refused { entry, cause }, out);
            return;
        }
        let config = &self.config;
        let mut enqueue = enqueue;
        let returns = enqueue.entered_at.take();
        let entered_at = returns.map_or(now, |at| at.clamp(now.minus(RETURNS_WITHIN), now));
        let priority = enqueue.priority.unwrap_or(config.default_priority).clamp(-100, 100);
        let worth = config.priority_step * u32::from(priority.unsigned_abs());
        let rank_at = if priority >= 0 { entered_at.minus(worth) } else { entered_at.plus(worth) };
        // Order of arrival: this node's clock may be behind that of the queue's former one.
        let last = self.state.last_rank.get(&priority).copied().filter(|_| returns.is_none());
        let event = QueueEvent::Enqueued {
            at: now,
            entered_at,
            call,
            seq: self.state.last_seq + 1,
            priority,
            rank_at: last.map_or(rank_at, |last| rank_at.max(last)),
            // From this stay: whoever comes back after a long conversation is not sent away at once.
            expires_at: config.max_wait.map(|wait| now.plus(wait)),
            target_at: entered_at.plus(config.service_level),
            short_until: entered_at.plus(config.short_abandon),
            enqueue,
        };
        self.record(event, out);
        self.waits(call, now);
        self.confirm(call, out);
        self.match_up(now, out);
    }

    /// It said so just now: it need not be asked for a while.
    fn waits(&mut self, call: CallId, now: Timestamp) {
        self.asked.insert(call, now.plus(protocol::CALL_CHECK_EVERY));
        self.arm_call(call, now);
    }

    /// Tells a waiting call its place.
    fn confirm(&self, call: CallId, out: &mut Outbox) {
        let Some(queued) = self.state.calls.get(&call) else { return };
        let position = self.position(call);
        let message = QueueToCall::Queued {
            entry: queued.enqueue.entry,
            enqueued_at: queued.enqueued_at,
            position,
            expected_wait: self.expected_wait(position),
            recording: self.config.recording,
        };
        Self::tell_call(call, message, out);
    }

    fn leave(&mut self, call: CallId, entry: u32, cause: LeaveCause, now: Timestamp, out: &mut Outbox) {
        if self.releasing.get(&call).is_some_and(|releasing| releasing.entry <= entry) {
            self.releasing.remove(&call);
            self.timers.cancel(&Key::Release(call));
        }
        let Some(queued) = self.stay(call, entry) else {
            self.leave_unknown(call, entry, cause, now, out);
            return;
        };
        let offer = queued.offer.clone();
        let event = QueueEvent::Left {
            at: now,
            call,
            entry,
            cause,
            enqueued_at: queued.enqueued_at,
            short: cause == LeaveCause::Abandoned && now < queued.short_until,
            ringing_at: offer.as_ref().and_then(|o| self.state.offers.get(o)).map(|open| open.agent.clone()),
        };
        self.record(event, out);
        if let Some(offer) = offer {
            // Stop the ringing; sent again until the agent answers.
            self.deliver(&offer, now, out);
        }
    }

    /// A leave that overtook its enqueue. Journalled, since the enqueue that comes late must not make a ghost, not even
    /// after a crash: the call may wait in another queue by then.
    fn leave_unknown(
        &mut self,
        call: CallId,
        entry: u32,
        cause: LeaveCause,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let known = self.state.calls.get(&call).is_some_and(|queued| queued.enqueue.entry > entry)
            || self.state.departed.get(&call).is_some_and(|departure| departure.entry >= entry);
        if !known && cause != LeaveCause::Lost {
            self.record(QueueEvent::NeverQueued { at: now, call, entry, cause }, out);
        }
    }

    fn answered_by_call(
        &mut self,
        call: CallId,
        entry: u32,
        offer: &OfferId,
        at: Timestamp,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let Some(queued) = self.stay(call, entry) else { return };
        if queued.offer.as_ref() == Some(offer) {
            self.answered(offer, at, now, out);
        } else {
            // It says it is in conversation under an offer that is not its own here. It must not be offered to anybody.
            self.leave(call, entry, LeaveCause::Lost, now, out);
        }
    }

    /// The call's next deadline: release (only while not bound), question, end of avoidance.
    pub(super) fn arm_call(&mut self, call: CallId, now: Timestamp) {
        let Some(queued) = self.state.calls.get(&call) else { return };
        let ask_at = self.asked.get(&call).copied();
        let (expires_at, avoid_until) =
            if queued.offer.is_none() { (queued.expires_at, queued.avoids_until(now)) } else { (None, None) };
        if let Some(at) = [ask_at, expires_at, avoid_until].into_iter().flatten().min() {
            self.timers.set(Key::Call(call), at);
        }
    }

    pub(super) fn call_due(&mut self, call: CallId, now: Timestamp, out: &mut Outbox) {
        let Some(queued) = self.state.calls.get(&call) else { return };
        let (entry, place) = (queued.enqueue.entry, queued.place());
        if self.expire(call, now, out) {
            return;
        }
        if self.asked.get(&call).is_some_and(|at| *at <= now) {
            Self::tell_call(call, QueueToCall::Ask { entry }, out);
            self.asked.insert(call, now.plus(protocol::CALL_CHECK_AGAIN));
        }
        if self.reluctant.contains_key(&place)
            && self.state.calls.get(&call).is_some_and(|queued| queued.avoids_until(now).is_none())
        {
            self.delist(place);
            self.enlist(call, now);
            self.match_up(now, out);
        }
        self.arm_call(call, now);
    }

    /// Releases a call that has waited for as long as it may and rings nowhere.
    pub(super) fn expire(&mut self, call: CallId, now: Timestamp, out: &mut Outbox) -> bool {
        let Some(queued) = self.state.calls.get(&call) else { return false };
        if queued.offer.is_some() || queued.expires_at.is_none_or(|at| at > now) {
            return false;
        }
        let entry = queued.enqueue.entry;
        self.leave(call, entry, LeaveCause::Timeout, now, out);
        let until = now.plus(RELEASE_FOR);
        self.releasing.insert(call, Releasing { entry, until, attempts: 0 });
        self.release_due(call, now, out);
        true
    }

    pub(super) fn release_due(&mut self, call: CallId, now: Timestamp, out: &mut Outbox) {
        let Some(releasing) = self.releasing.get_mut(&call) else { return };
        if releasing.until <= now {
            self.releasing.remove(&call);
            return;
        }
        let entry = releasing.entry;
        let pause = backoff(releasing.attempts, protocol::RESEND_FIRST * 2, protocol::RESEND_MOST * 4);
        releasing.attempts += 1;
        self.timers.set(Key::Release(call), now.plus(pause));
        Self::tell_call(call, QueueToCall::Release { entry, cause: ReleaseCause::QueueTimeout }, out);
    }

    /// After recovery: those released lately may not know it yet.
    pub(super) fn release_again(&mut self, now: Timestamp, out: &mut Outbox) {
        let lately: Vec<_> = self
            .state
            .departed
            .iter()
            .filter(|(_, departure)| departure.how == Departed::Left(LeaveCause::Timeout))
            .map(|(call, departure)| (*call, departure.entry, departure.at.plus(RELEASE_FOR)))
            .filter(|(.., until)| *until > now)
            .collect();
        for (call, entry, until) in lately {
            self.releasing.insert(call, Releasing { entry, until, attempts: 0 });
            self.release_due(call, now, out);
        }
    }
}
