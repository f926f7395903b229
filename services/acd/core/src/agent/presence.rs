//! What queues are told of an agent, and what follows when nobody is at the desk.

use trunkline_types::{QueueId, Timestamp};

use super::{Agent, AgentEvent, Announcement, Key, Outbox, state::Slot};
use crate::{
    Action, AgentConfig, AgentToQueue, Outcome, Stamp,
    protocol::{self, ANNOUNCE_EVERY, AVAILABLE_VALIDITY, HOLD, RESEND_FIRST, RESEND_MOST, RING_ALONE},
    timers::backoff,
};

impl Agent {
    /// Ready, free, and with a console that could ring.
    pub(super) fn is_available(&self) -> bool {
        matches!(self.state.slot, Slot::Ready { .. }) && !self.state.sessions.is_empty()
    }

    pub(super) fn alone_deadline(&self, _now: Timestamp) -> Option<Timestamp> {
        let since = self.alone_since?;
        match self.state.slot {
            Slot::Ready { .. } | Slot::NotReady { .. } => Some(since.plus(self.config.grace)),
            Slot::Ringing { .. } => Some(since.max(self.state.since).plus(RING_ALONE)),
            Slot::Talking { .. } if !self.hanging_up => Some(since.plus(self.config.talk_grace)),
            _ => None,
        }
    }

    pub(super) fn alone_due(&mut self, now: Timestamp, out: &mut Outbox) {
        if self.alone_deadline(now).is_none_or(|at| at > now) {
            return;
        }
        match self.state.slot {
            Slot::Ready { .. } | Slot::NotReady { .. } => {
                self.record(AgentEvent::SignedOut { at: now, reason: "disconnected".into() }, out);
            }
            Slot::Ringing { .. } => self.end_offer(Outcome::AgentGone, None, now, out),
            Slot::Talking { .. } => self.control(None, Action::Hangup, now, out),
            _ => {}
        }
    }

    /// A hold is a promise that the agent can take the call: gone when the agent cannot any more.
    pub(super) fn keep_promises(&mut self, now: Timestamp) {
        if self.hold.is_some() && !self.is_available() {
            self.release_hold(now);
        }
    }

    /// Tells the queues when availability has changed, or when they have to hear it again.
    pub(super) fn announce(&mut self, now: Timestamp, out: &mut Outbox) {
        let available = self.is_available();
        if self.announced == Some(available) && (!self.announce_anew || self.hold.is_some()) {
            return;
        }
        self.announced = Some(available);
        self.announce_anew = false;
        for queue in self.config.queues.clone() {
            self.announce_to(&queue, now, out);
        }
    }

    /// A new announcement to one queue.
    pub(super) fn announce_to(&mut self, queue: &QueueId, now: Timestamp, out: &mut Outbox) {
        if !self.config.queues.contains(queue) {
            return;
        }
        if self.hold.is_some() {
            // The slot is promised; the queues hear of it when that is over.
            self.announce_anew = true;
            return;
        }
        self.last_stamp += 1;
        let announcement = Announcement { stamp: self.stamp(), seen: false, attempts: 0 };
        self.announcements.insert(queue.clone(), announcement);
        self.send_announcement(queue, now, out);
    }

    fn send_announcement(&mut self, queue: &QueueId, now: Timestamp, out: &mut Outbox) {
        let idle_since = match self.state.slot {
            Slot::Ready { idle_since } if !self.state.sessions.is_empty() => Some(idle_since),
            _ => None,
        };
        let Some(announcement) = self.announcements.get_mut(queue) else { return };
        let stamp = announcement.stamp;
        let message = match idle_since {
            Some(idle_since) => {
                let (skills, validity) = (self.config.skills.clone(), AVAILABLE_VALIDITY);
                AgentToQueue::Available { stamp, idle_since, skills, validity }
            }
            None => AgentToQueue::Unavailable { stamp },
        };
        let pause = backoff(announcement.attempts, RESEND_FIRST, RESEND_MOST * 2);
        announcement.attempts += 1;
        self.timers.set(Key::Announce(queue.clone()), now.plus(pause));
        Self::tell_queue(queue, message, out);
    }

    pub(super) fn announcement_seen(&mut self, queue: &QueueId, stamp: Stamp, now: Timestamp) {
        let available = self.is_available();
        let Some(announcement) = self.announcements.get_mut(queue) else { return };
        if announcement.stamp != stamp {
            return;
        }
        announcement.seen = true;
        let key = Key::Announce(queue.clone());
        if available { self.timers.set(key, now.plus(ANNOUNCE_EVERY)) } else { self.timers.cancel(&key) }
    }

    pub(super) fn announce_due(&mut self, queue: &QueueId, now: Timestamp, out: &mut Outbox) {
        let Some(announcement) = self.announcements.get(queue) else { return };
        if !announcement.seen {
            self.send_announcement(queue, now, out);
        } else if self.hold.is_some() {
            self.timers.set(Key::Announce(queue.clone()), now.plus(HOLD));
        } else {
            self.announce_to(queue, now, out);
        }
    }

    pub(super) fn configure(&mut self, config: Box<AgentConfig>, out: &mut Outbox) {
        for queue in &self.config.queues {
            if !config.queues.contains(queue) {
                // Told once; should it be lost, the belief ends with its validity.
                self.last_stamp += 1;
                let stamp = Stamp { epoch: self.epoch, seq: self.last_stamp };
                Self::tell_queue(queue, AgentToQueue::Unavailable { stamp }, out);
                self.announcements.remove(queue);
                self.timers.cancel(&Key::Announce(queue.clone()));
            }
        }
        self.config = config;
        self.announce_anew = true;
        self.changed = true;
    }

    /// How long a connection may take.
    pub(super) fn connect_until(now: Timestamp) -> Timestamp {
        now.plus(protocol::CONNECT_TIMEOUT)
    }
}
