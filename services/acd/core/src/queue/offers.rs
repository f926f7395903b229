//! What agents say: announcements and the reservation protocol.

use trunkline_types::{AgentId, OfferId, Timestamp};

use super::{Key, OfferOutcome, Outbox, Queue, QueueEvent, pool::Standing};
use crate::{
    AgentToQueue, OfferCard, Outcome, QueueToAgent, QueueToCall, Stamp,
    protocol::{self, AVAILABLE_VALIDITY},
    timers::backoff,
};

impl Queue {
    pub(super) fn on_agent(
        &mut self,
        agent: &AgentId,
        message: AgentToQueue,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        match message {
            AgentToQueue::Available { stamp, idle_since, skills, validity } => {
                let lease_until = now.plus(validity.min(AVAILABLE_VALIDITY));
                self.announced(agent, stamp, Some((idle_since, skills)), lease_until, out);
                self.match_up(now, out);
            }
            AgentToQueue::Unavailable { stamp } => {
                self.announced(agent, stamp, None, now.plus(AVAILABLE_VALIDITY), out);
            }
            AgentToQueue::Granted { offer } => self.granted(agent, offer, now, out),
            AgentToQueue::Refused { offer, stamp, .. } => self.refused(agent, &offer, stamp, now, out),
            AgentToQueue::Accepted { offer } => {
                if self.state.offers.get(&offer).is_some_and(|open| open.agent == *agent && !open.call_left) {
                    self.deliveries.entry(offer.clone()).or_default().accepted = true;
                    self.timers.set(Key::Offer(offer), now.plus(protocol::OFFER_CHECK_EVERY));
                }
            }
            AgentToQueue::Rejected { offer } => {
                if self.is_open(&offer, agent) {
                    self.offer_ended(&offer, OfferOutcome::Rejected, now, now, out);
                }
            }
            AgentToQueue::Ended { offer, outcome, at } => {
                if self.is_open(&offer, agent) {
                    match outcome {
                        Outcome::Answered => self.answered(&offer, at, now, out),
                        other => self.offer_ended(&offer, OfferOutcome::Agent(other), at, now, out),
                    }
                }
                Self::tell_agent(agent, QueueToAgent::EndedSeen { offer }, out);
            }
        }
    }

    fn is_open(&self, offer: &OfferId, agent: &AgentId) -> bool {
        self.state.offers.get(offer).is_some_and(|open| open.agent == *agent)
    }

    fn announced(
        &mut self,
        agent: &AgentId,
        stamp: Stamp,
        available: Option<(Timestamp, crate::Skills)>,
        lease_until: Timestamp,
        out: &mut Outbox,
    ) {
        let required = self.config.required_skill.as_ref();
        self.pool.announce(agent, stamp, available, required, lease_until);
        self.arm_agent(agent);
        Self::tell_agent(agent, QueueToAgent::AnnouncementSeen { stamp }, out);
    }

    fn arm_agent(&mut self, agent: &AgentId) {
        let Some(known) = self.pool.get(agent) else { return };
        let at = match known.standing {
            Standing::Unresponsive(until) => until.min(known.lease_until),
            _ => known.lease_until,
        };
        self.timers.set(Key::Agent(agent.clone()), at);
    }

    /// A hold: bind the first call that does not spare this agent, or let go.
    fn granted(&mut self, agent: &AgentId, offer: OfferId, now: Timestamp, out: &mut Outbox) {
        let Some(mut reservation) = self.take_reservation(&offer, agent) else {
            if !self.state.offers.contains_key(&offer) {
                Self::tell_agent(agent, QueueToAgent::Cancel { offer }, out);
            }
            return;
        };
        let idle_since = self.pool.get(agent).map_or(now, |known| known.idle_since);
        // Until its next announcement: the agent itself says when it is free again.
        self.pool.set(agent, Standing::Unavailable);
        let Some(call) = self.first_call_for(agent, idle_since, now) else {
            Self::tell_agent(agent, QueueToAgent::Cancel { offer }, out);
            return;
        };
        self.complete(call, &mut reservation.decision, now);
        let event = QueueEvent::Committed {
            at: now,
            offer: offer.clone(),
            call,
            agent: agent.clone(),
            agent_epoch: reservation.agent_epoch,
            decision: reservation.decision,
        };
        self.record(event, out);
        self.arm_call(call, now);
        self.deliver(&offer, now, out);
        self.match_up(now, out);
    }

    fn take_reservation(&mut self, offer: &OfferId, agent: &AgentId) -> Option<super::Reservation> {
        if self.reservations.get(offer).is_none_or(|reservation| reservation.agent != *agent) {
            return None;
        }
        self.timers.cancel(&Key::Reservation(offer.clone()));
        self.reservations.remove(offer)
    }

    fn refused(&mut self, agent: &AgentId, offer: &OfferId, stamp: Stamp, now: Timestamp, out: &mut Outbox) {
        if self.take_reservation(offer, agent).is_none() {
            return;
        }
        if self.pool.get(agent).is_some_and(|known| known.stamp > stamp) {
            // It has announced itself anew since it refused.
            self.restore_standing(agent);
        } else {
            self.pool.set(agent, Standing::Unavailable);
        }
        self.match_up(now, out);
    }

    /// Back to what the announcement says.
    fn restore_standing(&mut self, agent: &AgentId) {
        self.pool.set(agent, Standing::Available);
        self.pool.reconsider_one(agent, self.config.required_skill.as_ref());
    }

    /// No answer to a reservation: before the commit either side may abandon freely.
    pub(super) fn reservation_due(&mut self, offer: &OfferId, now: Timestamp, out: &mut Outbox) {
        let Some(reservation) = self.reservations.remove(offer) else { return };
        let agent = reservation.agent;
        Self::tell_agent(&agent, QueueToAgent::Cancel { offer: offer.clone() }, out);
        if matches!(self.pool.get(&agent).map(|known| &known.standing), Some(Standing::Reserving(o)) if o == offer)
        {
            self.pool.set(&agent, Standing::Unresponsive(now.plus(protocol::UNRESPONSIVE_PAUSE)));
            self.arm_agent(&agent);
        }
        self.match_up(now, out);
    }

    /// Sends the commit, or the cancel of a call that left, and arranges for the next time. After a commit this is all
    /// that a queue does: the call is never offered elsewhere on a time-out.
    pub(super) fn deliver(&mut self, offer: &OfferId, now: Timestamp, out: &mut Outbox) {
        let Some(open) = self.state.offers.get(offer) else { return };
        let message = match self.state.calls.get(&open.call) {
            Some(queued) if !open.call_left => QueueToAgent::Commit {
                offer: offer.clone(),
                agent_epoch: open.agent_epoch,
                card: Box::new(OfferCard {
                    call: open.call,
                    entry: open.entry,
                    queue: self.id.clone(),
                    queue_name: self.config.display_name.clone(),
                    caller: queued.enqueue.caller.clone(),
                    caller_name: queued.enqueue.caller_name.clone(),
                    dialled: queued.enqueue.dialled.clone(),
                    attributes: queued.enqueue.attributes.clone(),
                    consulted_by: queued.enqueue.consulted_by.clone(),
                    enqueued_at: queued.enqueued_at,
                    ring_timeout: self.config.ring_timeout,
                    wrap_up: self.config.wrap_up,
                    recording: self.config.recording,
                    recording_required: self.config.recording_required,
                    disposition_required: self.config.disposition_required,
                    dispositions: self.config.dispositions.clone(),
                }),
            },
            _ => QueueToAgent::Cancel { offer: offer.clone() },
        };
        Self::tell_agent(&open.agent, message, out);
        let call_left = open.call_left;
        let delivery = self.deliveries.entry(offer.clone()).or_default();
        let pause = if delivery.accepted && !call_left {
            protocol::OFFER_CHECK_EVERY
        } else {
            backoff(delivery.attempts, protocol::RESEND_FIRST, protocol::RESEND_MOST)
        };
        delivery.attempts += 1;
        self.timers.set(Key::Offer(offer.clone()), now.plus(pause));
    }

    pub(super) fn offer_due(&mut self, offer: &OfferId, now: Timestamp, out: &mut Outbox) {
        let late =
            self.deliveries.get(offer).is_some_and(|delivery| delivery.attempts > 2 && !delivery.accepted);
        if late && self.protocol.reoffers_after_commit() {
            self.offer_ended(offer, OfferOutcome::Rejected, now, now, out);
            return;
        }
        self.deliver(offer, now, out);
    }

    /// The call is connected: served.
    pub(super) fn answered(&mut self, offer: &OfferId, at: Timestamp, now: Timestamp, out: &mut Outbox) {
        let Some(open) = self.state.offers.get(offer) else { return };
        let Some(queued) = self.state.calls.get(&open.call).filter(|_| !open.call_left) else {
            // It has left, and still somebody talked to it: the call has the last word on that, and it has said both.
            self.offer_ended(offer, OfferOutcome::Agent(Outcome::CallerGone), at, now, out);
            return;
        };
        // Clocks of two nodes may disagree: never before it was enqueued, never in the future.
        let at = at.clamp(queued.enqueued_at, now.max(queued.enqueued_at));
        let event = QueueEvent::Answered {
            at,
            offer: offer.clone(),
            call: open.call,
            agent: open.agent.clone(),
            enqueued_at: queued.enqueued_at,
            within_target: at <= queued.target_at,
        };
        self.record(event, out);
    }

    fn offer_ended(
        &mut self,
        offer: &OfferId,
        outcome: OfferOutcome,
        at: Timestamp,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let Some(open) = self.state.offers.get(offer) else { return };
        let (call, entry, call_left) = (open.call, open.entry, open.call_left);
        let spare =
            matches!(outcome, OfferOutcome::Agent(Outcome::Missed | Outcome::Declined | Outcome::Failed));
        let event = QueueEvent::OfferEnded {
            at: now,
            ended_at: at,
            offer: offer.clone(),
            call,
            agent: open.agent.clone(),
            outcome,
            avoid_until: (spare && !call_left).then(|| now.plus(self.config.avoid_after_miss)),
        };
        self.record(event, out);
        if call_left {
            Self::tell_call(call, QueueToCall::LeaveSeen { entry }, out);
        } else if !self.expire(call, now, out) {
            self.arm_call(call, now);
        }
        self.match_up(now, out);
    }
}
