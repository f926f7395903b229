//! What queues say: the reservation protocol, and how an offer ends.

use trunkline_types::{Epoch, OfferId, QueueId, Timestamp};

use super::{Agent, AgentEvent, CommandRef, Hold, Key, NextStatus, Outbox, WrapUpEnd, state::Slot};
use crate::{
    AfterOffer, AgentToQueue, OfferCard, Outcome, QueueToAgent, RefuseReason, Stamp,
    protocol::{self, HOLD},
    timers::backoff,
};

impl Agent {
    pub(super) fn on_queue(
        &mut self,
        queue: &QueueId,
        message: QueueToAgent,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        match message {
            QueueToAgent::Reserve { offer, agent_epoch } => {
                let answer = match self.reserve(queue, &offer, agent_epoch, now) {
                    Ok(()) => AgentToQueue::Granted { offer },
                    Err(reason) => AgentToQueue::Refused { offer, reason, stamp: self.stamp() },
                };
                Self::tell_queue(queue, answer, out);
            }
            QueueToAgent::Commit { offer, agent_epoch, card } => {
                self.commit(queue, &offer, agent_epoch, card, now, out);
            }
            QueueToAgent::Cancel { offer } => self.cancel(queue, &offer, now, out),
            QueueToAgent::EndedSeen { offer } => {
                if self.state.unseen.contains_key(&offer) {
                    self.record(AgentEvent::OutcomeSeen { at: now, offer }, out);
                    // Of no interest to consoles.
                    self.changed = false;
                }
            }
            QueueToAgent::AnnouncementSeen { stamp } => self.announcement_seen(queue, stamp, now),
            QueueToAgent::AskAnnounce => self.announce_to(queue, now, out),
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp { epoch: self.epoch, seq: self.last_stamp }
    }

    fn is_over(&self, offer: &OfferId) -> bool {
        self.protocol.keeps_tombstones() && self.over.contains_key(offer)
    }

    fn is_stale(&self, epoch: Epoch) -> bool {
        self.protocol.checks_epochs() && epoch != self.epoch
    }

    fn reserve(
        &mut self,
        queue: &QueueId,
        offer: &OfferId,
        agent_epoch: Epoch,
        now: Timestamp,
    ) -> Result<(), RefuseReason> {
        if self.is_stale(agent_epoch) {
            return Err(RefuseReason::StaleEpoch);
        }
        if self.is_over(offer)
            || self.state.unseen.contains_key(offer)
            || self.state.slot.contact().is_some_and(|contact| contact.offer == *offer)
        {
            return Err(RefuseReason::OfferOver);
        }
        match &self.hold {
            Some(hold) if hold.offer == *offer => return Ok(()),
            Some(_) => return Err(RefuseReason::Busy),
            None => {}
        }
        if !self.is_available() {
            let busy = self.state.slot.contact().is_some();
            return Err(if busy { RefuseReason::Busy } else { RefuseReason::NotReady });
        }
        self.hold = Some(Hold { offer: offer.clone(), queue: queue.clone(), epoch: agent_epoch });
        self.timers.set(Key::Hold, now.plus(HOLD));
        Ok(())
    }

    /// Drops the hold; the offer is over, and whoever was refused meanwhile is told anew.
    pub(super) fn release_hold(&mut self, now: Timestamp) {
        if let Some(hold) = self.hold.take() {
            self.timers.cancel(&Key::Hold);
            self.bury(&hold.offer, now);
            self.announce_anew = true;
        }
    }

    fn commit(
        &mut self,
        queue: &QueueId,
        offer: &OfferId,
        agent_epoch: Epoch,
        card: Box<OfferCard>,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        if self.answer_known(queue, offer, now, out) {
            return;
        }
        let held = self.hold.as_ref().is_some_and(|hold| {
            hold.offer == *offer
                && hold.queue == *queue
                && (hold.epoch == agent_epoch || !self.protocol.checks_epochs())
        });
        if !held || self.is_stale(agent_epoch) || self.is_over(offer) || !self.is_available() {
            self.reject(queue, offer, now, out);
            return;
        }
        debug_assert!(self.state.slot.contact().is_none(), "agent {}: two calls", self.id);
        self.hold = None;
        self.timers.cancel(&Key::Hold);
        let ring_until = now.plus(card.ring_timeout);
        self.record(AgentEvent::Offered { at: now, offer: offer.clone(), card, ring_until }, out);
        Self::tell_queue(queue, AgentToQueue::Accepted { offer: offer.clone() }, out);
    }

    fn reject(&mut self, queue: &QueueId, offer: &OfferId, now: Timestamp, out: &mut Outbox) {
        if self.hold.as_ref().is_some_and(|hold| hold.offer == *offer) {
            self.release_hold(now);
        } else {
            self.bury(offer, now);
            // The queue took the slot for its own; it has to hear that it is free.
            self.announce_anew = true;
        }
        Self::tell_queue(queue, AgentToQueue::Rejected { offer: offer.clone() }, out);
    }

    /// Answers for an offer that rings, talks or has ended unseen.
    fn answer_known(&mut self, queue: &QueueId, offer: &OfferId, now: Timestamp, out: &mut Outbox) -> bool {
        if self.state.unseen.contains_key(offer) {
            self.tell_outcome(offer, now, out);
            return true;
        }
        match &self.state.slot {
            Slot::Ringing { contact, .. } | Slot::Connecting { contact, .. } if contact.offer == *offer => {
                Self::tell_queue(queue, AgentToQueue::Accepted { offer: offer.clone() }, out);
                true
            }
            Slot::Talking { contact, .. } | Slot::WrapUp { contact, .. } if contact.offer == *offer => {
                let (outcome, at) = (Outcome::Answered, self.state.since);
                Self::tell_queue(queue, AgentToQueue::Ended { offer: offer.clone(), outcome, at }, out);
                true
            }
            _ => false,
        }
    }

    fn cancel(&mut self, queue: &QueueId, offer: &OfferId, now: Timestamp, out: &mut Outbox) {
        match &self.state.slot {
            Slot::Ringing { contact, .. } if contact.offer == *offer => {
                self.end_offer(Outcome::CallerGone, None, now, out);
            }
            // The call decides what comes of a connection under way, and it is being asked.
            Slot::Connecting { contact, .. } if contact.offer == *offer => {}
            _ => {
                if !self.answer_known(queue, offer, now, out) {
                    self.reject(queue, offer, now, out);
                }
            }
        }
    }

    /// The offer in the slot came to nothing.
    pub(super) fn end_offer(
        &mut self,
        outcome: Outcome,
        by: Option<CommandRef>,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let Some(contact) = self.state.slot.contact() else { return };
        let (offer, call, idle_since) = (contact.offer.clone(), contact.card.call, contact.idle_since);
        self.timers.cancel(&Key::Connect);
        self.record(AgentEvent::OfferEnded { at: now, offer: offer.clone(), call, outcome, by }, out);
        self.tell_outcome(&offer, now, out);
        if self.state.next.is_some() {
            self.go_on(now, out);
            return;
        }
        let ready = match outcome {
            Outcome::CallerGone => Some(idle_since),
            Outcome::Missed => (self.config.after_missed == AfterOffer::Ready).then_some(now),
            Outcome::Declined => (self.config.after_declined == AfterOffer::Ready).then_some(now),
            Outcome::Failed | Outcome::AgentGone | Outcome::Answered => None,
        };
        let event = match ready {
            Some(idle_since) => AgentEvent::Ready { at: now, idle_since },
            None => AgentEvent::NotReady { at: now, reason: super::state::outcome_name(outcome).to_owned() },
        };
        self.record(event, out);
    }

    /// After a contact: the chosen next status, otherwise ready.
    pub(super) fn go_on(&mut self, now: Timestamp, out: &mut Outbox) {
        let forgotten = self.alone_since.is_some_and(|since| since.plus(self.config.grace) <= now);
        let event = match self.state.next.clone() {
            Some(NextStatus::SignedOut) => AgentEvent::SignedOut { at: now, reason: "by_agent".into() },
            _ if forgotten => AgentEvent::SignedOut { at: now, reason: "disconnected".into() },
            Some(NextStatus::NotReady { reason }) => AgentEvent::NotReady { at: now, reason },
            None => AgentEvent::Ready { at: now, idle_since: now },
        };
        self.record(event, out);
    }

    /// Tells the queue how an offer ended, and arranges for the next time.
    pub(super) fn tell_outcome(&mut self, offer: &OfferId, now: Timestamp, out: &mut Outbox) {
        let Some(ending) = self.state.unseen.get(offer) else { return };
        let message = AgentToQueue::Ended { offer: offer.clone(), outcome: ending.outcome, at: ending.at };
        Self::tell_queue(&ending.queue, message, out);
        let attempts = self.outcome_attempts.entry(offer.clone()).or_default();
        let pause = backoff(*attempts, protocol::RESEND_FIRST, protocol::RESEND_MOST);
        *attempts += 1;
        self.timers.set(Key::Outcome(offer.clone()), now.plus(pause));
    }

    /// The ring or the wrap-up is over.
    pub(super) fn slot_due(&mut self, now: Timestamp, out: &mut Outbox) {
        match &self.state.slot {
            Slot::Ringing { until, .. } if *until <= now => self.end_offer(Outcome::Missed, None, now, out),
            Slot::WrapUp { until, .. } if *until <= now => {
                self.end_wrap_up(WrapUpEnd::TimedOut, None, now, out)
            }
            _ => {}
        }
    }

    pub(super) fn end_wrap_up(
        &mut self,
        end: WrapUpEnd,
        by: Option<CommandRef>,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let Some(contact) = self.state.slot.contact() else { return };
        let event = AgentEvent::WrapUpEnded {
            at: now,
            offer: contact.offer.clone(),
            call: contact.card.call,
            end,
            notes: Box::new(contact.notes.clone()),
            by,
        };
        self.record(event, out);
        self.go_on(now, out);
    }
}
