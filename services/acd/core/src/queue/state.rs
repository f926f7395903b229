use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use trunkline_types::{AgentId, CallId, Epoch, OfferId, Timestamp};

use super::{OfferOutcome, QueueEvent, QueueTotals};
use crate::{Enqueue, LeaveCause, protocol::REMEMBER};

/// A queued call's place: the instant by which it is ranked, then the order of arrival. Never changes.
pub(crate) type Place = (Timestamp, u64);

/// At most so many agents are avoided by one call; the oldest is forgotten.
const AVOIDED_MOST: usize = 4;

/// The durable part of a queue: what its events add up to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct QueueSnapshot {
    pub(crate) last_seq: u64,
    /// The latest rank of callers who came for the first time, by priority: nobody who comes later is placed before, whatever
    /// the clock of the queue's new node shows.
    #[serde(default)]
    pub(crate) last_rank: BTreeMap<i16, Timestamp>,
    pub(crate) calls: BTreeMap<CallId, QueuedCall>,
    /// Committed and not known to have ended.
    pub(crate) offers: BTreeMap<OfferId, OpenOffer>,
    /// The latest stay of calls that are no longer here, for late duplicates.
    pub(crate) departed: BTreeMap<CallId, Departure>,
    pub(crate) departed_order: VecDeque<(Timestamp, CallId)>,
    pub(crate) totals: QueueTotals,
}

/// A call that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct QueuedCall {
    pub(crate) seq: u64,
    pub(crate) priority: i16,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) rank_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) target_at: Timestamp,
    pub(crate) short_until: Timestamp,
    pub(crate) enqueue: Box<Enqueue>,
    /// The open offer that it is bound to.
    pub(crate) offer: Option<OfferId>,
    pub(crate) avoid: Vec<Avoid>,
}

impl QueuedCall {
    pub(crate) fn place(&self) -> Place {
        (self.rank_at, self.seq)
    }

    /// Whether `agent`, idle since `idle_since`, is to be spared this call at `now`.
    pub(crate) fn avoids(&self, agent: &AgentId, idle_since: Timestamp, now: Timestamp) -> bool {
        self.avoid.iter().any(|a| a.agent == *agent && a.until > now && idle_since <= a.since)
    }

    /// When the last avoidance ends; `None` = avoids nobody.
    pub(crate) fn avoids_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.avoid.iter().map(|a| a.until).filter(|until| *until > now).max()
    }
}

/// An agent that has just missed, declined or failed the call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Avoid {
    pub(crate) agent: AgentId,
    /// Ends early when the agent goes ready anew after this.
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    pub(crate) after: OfferOutcome,
}

/// A call bound to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OpenOffer {
    pub(crate) call: CallId,
    pub(crate) entry: u32,
    pub(crate) agent: AgentId,
    pub(crate) agent_epoch: Epoch,
    pub(crate) committed_at: Timestamp,
    /// The call has left meanwhile: the agent is told to stop ringing.
    pub(crate) call_left: bool,
}

/// How a call's latest stay ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Departure {
    pub(crate) entry: u32,
    pub(crate) at: Timestamp,
    pub(crate) how: Departed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Departed {
    Refused,
    Answered,
    Left(LeaveCause),
}

impl QueuedCall {
    /// Not to this agent again for a while; the oldest is forgotten when there are many.
    fn avoid(&mut self, avoid: Avoid) {
        self.avoid.retain(|a| a.agent != avoid.agent);
        if self.avoid.len() == AVOIDED_MOST {
            self.avoid.remove(0);
        }
        self.avoid.push(avoid);
    }
}

impl QueueSnapshot {
    /// Applies an event to what is durable.
    pub(crate) fn apply(&mut self, event: &QueueEvent) {
        self.totals.apply(event);
        match event {
            QueueEvent::Enqueued {
                at,
                entered_at,
                call,
                seq,
                priority,
                rank_at,
                expires_at,
                target_at,
                short_until,
                enqueue,
            } => {
                self.last_seq = self.last_seq.max(*seq);
                if entered_at == at {
                    let last = self.last_rank.entry(*priority).or_insert(*rank_at);
                    *last = (*last).max(*rank_at);
                }
                let queued = QueuedCall {
                    seq: *seq,
                    priority: *priority,
                    enqueued_at: *entered_at,
                    rank_at: *rank_at,
                    expires_at: *expires_at,
                    target_at: *target_at,
                    short_until: *short_until,
                    enqueue: enqueue.clone(),
                    offer: None,
                    avoid: Vec::new(),
                };
                self.calls.insert(*call, queued);
            }
            QueueEvent::Refused { at, call, entry, .. } => self.depart(*call, *entry, *at, Departed::Refused),
            QueueEvent::NeverQueued { at, call, entry, cause } => {
                self.depart(*call, *entry, *at, Departed::Left(*cause));
            }
            QueueEvent::Committed { at, offer, call, agent, agent_epoch, .. } => {
                let Some(queued) = self.calls.get_mut(call) else { return };
                queued.offer = Some(offer.clone());
                let open = OpenOffer {
                    call: *call,
                    entry: queued.enqueue.entry,
                    agent: agent.clone(),
                    agent_epoch: *agent_epoch,
                    committed_at: *at,
                    call_left: false,
                };
                self.offers.insert(offer.clone(), open);
            }
            QueueEvent::OfferEnded { offer, call, agent, outcome, ended_at, avoid_until, .. } => {
                self.offers.remove(offer);
                let Some(queued) = self.calls.get_mut(call) else { return };
                if queued.offer.as_ref() == Some(offer) {
                    queued.offer = None;
                }
                if let Some(until) = *avoid_until {
                    let after = *outcome;
                    queued.avoid(Avoid { agent: agent.clone(), since: *ended_at, until, after });
                }
            }
            QueueEvent::Answered { at, offer, call, .. } => {
                self.offers.remove(offer);
                if let Some(queued) = self.calls.remove(call) {
                    self.depart(*call, queued.enqueue.entry, *at, Departed::Answered);
                }
            }
            QueueEvent::Left { at, call, entry, cause, .. } => {
                let offer = self.calls.remove(call).and_then(|queued| queued.offer);
                if let Some(open) = offer.and_then(|offer| self.offers.get_mut(&offer)) {
                    open.call_left = true;
                }
                self.depart(*call, *entry, *at, Departed::Left(*cause));
            }
        }
    }

    fn depart(&mut self, call: CallId, entry: u32, at: Timestamp, how: Departed) {
        self.departed.insert(call, Departure { entry, at, how });
        self.departed_order.push_back((at, call));
        while let Some((then, old)) = self.departed_order.front().copied() {
            if then.plus(REMEMBER) >= at {
                break;
            }
            self.departed_order.pop_front();
            if self.departed.get(&old).is_some_and(|d| d.at == then) {
                self.departed.remove(&old);
            }
        }
    }
}
