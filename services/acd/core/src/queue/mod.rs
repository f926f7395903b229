//! The queue core: the authority on its queued calls.
//!
//! Which call is next: the least `(rank_at, seq)`, where `rank_at = enqueued_at − priority × step`. All waits grow alike,
//! so this is the order by (waiting time ± priority expressed in time) at any instant, and needs no recomputing.
//!
//! Which agent: the longest idle one with the required skill. The agent is reserved first, without naming a call; the
//! call is bound when the hold is granted. So calls are committed in the order of their places, whichever grant comes
//! first: with equal priorities and no offer that came to nothing, order of service is order of arrival.
//!
//! After a miss, decline or failure the call is back at its place and spares that agent for
//! [`QueueConfig::avoid_after_miss`], unless the agent goes ready anew; the next call may take the agent meanwhile. At
//! most 4 agents are spared by a call and at most 16 calls spare somebody at a time (the first of them forgets), so that
//! each decision costs O(log n).
//!
//! Bounds: a reservation 1 s; an announcement is believed for 60 s; a commit is sent again every 2 s at the latest until
//! the agent answers, and never given up; a waiting call that says nothing for 60 s is asked
//! whether it still waits.

mod calls;
mod event;
mod explain;
mod matching;
mod offers;
mod pool;
mod state;
#[cfg(test)]
mod tests;
mod totals;
mod view;

use std::{collections::BTreeMap, sync::Arc};

pub use event::{OfferOutcome, QueueEvent};
pub use explain::{Candidate, Decision, EXPLAINED, Exclusion, ExclusionReason};
pub use state::QueueSnapshot;
pub use totals::QueueTotals;
use trunkline_types::{AgentId, CallId, Epoch, Machine, OfferId, QueueId, TenantId, Timestamp};
pub use view::{AvailableAgent, OfferView, Position, QueueView, WaitingCall};

use self::{
    pool::{AgentPool, Standing},
    state::Place,
};
use crate::{
    AgentToQueue, CallToQueue, QueueConfig, QueueToAgent, QueueToCall,
    protocol::{self, Protocol, counts_from},
    timers::Timers,
};

/// What a queue is told.
#[derive(Clone, PartialEq, Debug)]
pub enum QueueInput {
    /// By a call.
    FromCall {
        /// Which.
        call: CallId,
        /// What.
        message: CallToQueue,
    },
    /// By an agent.
    FromAgent {
        /// Which.
        agent: AgentId,
        /// What.
        message: AgentToQueue,
    },
    /// A new version of its configuration (validated). In force for decisions from now on; instants that were
    /// journalled stay.
    Configure(Box<QueueConfig>),
}

/// What a queue wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum QueueEffect {
    /// Tell a call.
    ToCall {
        /// Which.
        call: CallId,
        /// What.
        message: QueueToCall,
    },
    /// Tell an agent.
    ToAgent {
        /// Which.
        agent: AgentId,
        /// What.
        message: QueueToAgent,
    },
    /// Send [`QueueToAgent::AskAnnounce`] to every agent that is configured for this queue and not in `known`. The shell
    /// paces it: the agents of a large queue are not asked in one instant.
    AskAgents {
        /// Who has announced itself already, in order.
        known: Arc<[AgentId]>,
    },
}

/// What a queue's deadlines are for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    /// A waiting call: released, asked, or its avoidance over.
    Call(CallId),
    /// A reservation is abandoned.
    Reservation(OfferId),
    /// An open offer: commit or cancel is sent again.
    Offer(OfferId),
    /// A known agent: the announcement's validity or the pause is over.
    Agent(AgentId),
    /// A released call is told again.
    Release(CallId),
    /// Agents who have not announced themselves since the recovery are asked again.
    AskAgents,
}

/// A hold that was asked for and not answered yet.
#[derive(Debug)]
struct Reservation {
    agent: AgentId,
    agent_epoch: Epoch,
    decision: Box<Decision>,
}

/// How far the sending again of a commit or cancel is.
#[derive(Debug, Default)]
struct Delivery {
    attempts: u32,
    accepted: bool,
}

/// A call that is being told that it is released.
#[derive(Debug)]
struct Releasing {
    entry: u32,
    until: Timestamp,
    attempts: u32,
}

type Outbox = trunkline_types::Outbox<QueueEvent, QueueEffect>;

/// A queue. See the [module](self).
#[derive(Debug)]
pub struct Queue {
    tenant: TenantId,
    id: QueueId,
    epoch: Epoch,
    config: Box<QueueConfig>,
    state: QueueSnapshot,
    protocol: Protocol,
    /// Calls without an offer, by place; `reluctant` are those that spare somebody.
    waiting: BTreeMap<Place, CallId>,
    reluctant: BTreeMap<Place, CallId>,
    /// Calls that left while their offer is still open.
    leaving: BTreeMap<CallId, OfferId>,
    pool: AgentPool,
    reservations: BTreeMap<OfferId, Reservation>,
    deliveries: BTreeMap<OfferId, Delivery>,
    releasing: BTreeMap<CallId, Releasing>,
    asked: BTreeMap<CallId, Timestamp>,
    timers: Timers<Key>,
    last_offer: u64,
}

impl Queue {
    /// A queue without any history. `epoch` is that of its shard; offers are minted from it.
    pub fn new(tenant: TenantId, id: QueueId, epoch: Epoch, config: QueueConfig) -> Self {
        Self::restore(tenant, id, epoch, config, QueueSnapshot::default())
    }

    /// A queue as of a snapshot; the events after it are to be applied, then [`Machine::recovered`] is to be called.
    pub fn restore(
        tenant: TenantId,
        id: QueueId,
        epoch: Epoch,
        config: QueueConfig,
        snapshot: QueueSnapshot,
    ) -> Self {
        let mut queue = Self {
            tenant,
            id,
            epoch,
            config: Box::new(config),
            state: snapshot,
            protocol: Protocol::default(),
            waiting: BTreeMap::new(),
            reluctant: BTreeMap::new(),
            leaving: BTreeMap::new(),
            pool: AgentPool::default(),
            reservations: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            releasing: BTreeMap::new(),
            asked: BTreeMap::new(),
            timers: Timers::new(),
            last_offer: 0,
        };
        let calls: Vec<CallId> = queue.state.calls.keys().copied().collect();
        for call in calls {
            queue.enlist(call, Timestamp::ZERO);
        }
        for (offer, open) in &queue.state.offers {
            if open.call_left {
                queue.leaving.insert(open.call, offer.clone());
            }
        }
        queue
    }

    /// Leaves rules of the protocol out; only for the simulator.
    #[cfg(feature = "mutations")]
    pub fn mutate(&mut self, mutations: crate::Mutations) {
        self.protocol.mutations = mutations;
    }

    /// The durable part, for a snapshot of the shard.
    pub fn snapshot(&self) -> QueueSnapshot {
        self.state.clone()
    }

    /// The tenant that owns it.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Its id.
    pub fn id(&self) -> &QueueId {
        &self.id
    }

    /// The configuration in force.
    pub fn config(&self) -> &QueueConfig {
        &self.config
    }

    /// The counters.
    pub fn totals(&self) -> &QueueTotals {
        &self.state.totals
    }

    fn record(&mut self, event: QueueEvent, out: &mut Outbox) {
        self.apply(&event);
        out.event(event);
    }

    fn tell_call(call: CallId, message: QueueToCall, out: &mut Outbox) {
        out.effect(QueueEffect::ToCall { call, message });
    }

    fn tell_agent(agent: &AgentId, message: QueueToAgent, out: &mut Outbox) {
        out.effect(QueueEffect::ToAgent { agent: agent.clone(), message });
    }

    /// Puts a call without an offer into the order; `now` decides which avoidances still count.
    fn enlist(&mut self, call: CallId, now: Timestamp) {
        let Some(queued) = self.state.calls.get(&call) else { return };
        if queued.offer.is_some() {
            return;
        }
        let place = queued.place();
        if queued.avoids_until(now).is_none() {
            self.waiting.insert(place, call);
            return;
        }
        self.reluctant.insert(place, call);
        if self.reluctant.len() > matching::RELUCTANT_MOST
            && let Some((place, first)) = self.reluctant.pop_first()
        {
            if let Some(queued) = self.state.calls.get_mut(&first) {
                queued.avoid.clear();
            }
            self.waiting.insert(place, first);
        }
    }

    fn delist(&mut self, place: Place) {
        self.waiting.remove(&place);
        self.reluctant.remove(&place);
    }

    fn fire(&mut self, key: Key, now: Timestamp, out: &mut Outbox) {
        match key {
            Key::Call(call) => self.call_due(call, now, out),
            Key::Reservation(offer) => self.reservation_due(&offer, now, out),
            Key::Offer(offer) => self.offer_due(&offer, now, out),
            Key::Agent(agent) => self.agent_due(&agent, now, out),
            Key::Release(call) => self.release_due(call, now, out),
            Key::AskAgents => self.ask_agents(out),
        }
    }

    fn agent_due(&mut self, agent: &AgentId, now: Timestamp, out: &mut Outbox) {
        let Some(known) = self.pool.get(agent) else { return };
        if known.lease_until <= now {
            self.pool.remove(agent);
            return;
        }
        let lease_until = known.lease_until;
        if matches!(known.standing, Standing::Unresponsive(until) if until <= now) {
            self.pool.set(agent, Standing::Available);
            self.pool.reconsider_one(agent, self.config.required_skill.as_ref());
            self.match_up(now, out);
        }
        self.timers.set(Key::Agent(agent.clone()), lease_until);
    }

    fn configure(&mut self, config: Box<QueueConfig>, now: Timestamp, out: &mut Outbox) {
        self.config = config;
        self.pool.reconsider(self.config.required_skill.as_ref());
        self.match_up(now, out);
    }
}

impl Machine for Queue {
    type Input = QueueInput;
    type Event = QueueEvent;
    type Effect = QueueEffect;

    fn handle(&mut self, now: Timestamp, input: QueueInput, out: &mut Outbox) {
        match input {
            QueueInput::FromCall { call, message } => self.on_call(call, message, now, out),
            QueueInput::FromAgent { agent, message } => self.on_agent(&agent, message, now, out),
            QueueInput::Configure(config) => self.configure(config, now, out),
        }
        debug_assert!(self.holds(), "queue {}: its indexes disagree with its calls", self.id);
    }

    fn advance(&mut self, now: Timestamp, out: &mut Outbox) {
        while let Some((due, key)) = self.timers.pop_due(now) {
            // Decisions carry the instant at which they are taken; what was due earlier is late, not backdated, or a
            // late timer would journal times before events that are already there.
            debug_assert!(due <= now);
            self.fire(key, now, out);
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    fn apply(&mut self, event: &QueueEvent) {
        match event {
            QueueEvent::Enqueued { .. } | QueueEvent::Refused { .. } | QueueEvent::NeverQueued { .. } => {}
            QueueEvent::Committed { call, .. }
            | QueueEvent::OfferEnded { call, .. }
            | QueueEvent::Answered { call, .. }
            | QueueEvent::Left { call, .. } => {
                if let Some(queued) = self.state.calls.get(call) {
                    let place = queued.place();
                    self.delist(place);
                }
            }
        }
        if let QueueEvent::Left { call, .. } = event
            && let Some(offer) = self.state.calls.get(call).and_then(|queued| queued.offer.clone())
        {
            self.leaving.insert(*call, offer);
        }
        self.state.apply(event);
        match event {
            QueueEvent::Enqueued { at, call, .. } => self.enlist(*call, *at),
            QueueEvent::OfferEnded { at, call, offer, .. } => {
                self.close(offer);
                if self.leaving.get(call) == Some(offer) {
                    self.leaving.remove(call);
                }
                self.enlist(*call, *at);
            }
            QueueEvent::Answered { call, offer, .. } => {
                self.close(offer);
                self.forget(*call);
            }
            QueueEvent::Left { call, .. } => self.forget(*call),
            QueueEvent::Committed { .. } | QueueEvent::Refused { .. } | QueueEvent::NeverQueued { .. } => {}
        }
    }

    fn recovered(&mut self, now: Timestamp, out: &mut Outbox) {
        // Not every offer of a former activation was journalled, and it may have been of this very epoch.
        self.last_offer = counts_from(now);
        self.ask_agents(out);
        self.timers.set(Key::AskAgents, now.plus(protocol::ASK_AGENTS_AGAIN));
        let offers: Vec<OfferId> = self.state.offers.keys().cloned().collect();
        for offer in offers {
            self.deliver(&offer, now, out);
        }
        // One after the other, so that 100,000 waiting calls are not asked in the same instant.
        let calls: Vec<CallId> = self.state.calls.keys().copied().collect();
        let step = protocol::CALL_CHECK_EVERY / u32::try_from(calls.len().max(1)).unwrap_or(u32::MAX);
        for (n, call) in calls.into_iter().enumerate() {
            if let Some(place) = self.state.calls.get(&call).map(state::QueuedCall::place) {
                self.delist(place);
                self.enlist(call, now);
            }
            self.asked.insert(call, now.plus(step * u32::try_from(n).unwrap_or(u32::MAX)));
            self.arm_call(call, now);
        }
        self.release_again(now, out);
    }
}

impl Queue {
    /// Asks those who have not announced themselves.
    fn ask_agents(&self, out: &mut Outbox) {
        let known = self.pool.iter().map(|(agent, _)| agent.clone()).collect();
        out.effect(QueueEffect::AskAgents { known });
    }

    /// Drops what was volatile of an offer.
    fn close(&mut self, offer: &OfferId) {
        self.deliveries.remove(offer);
        self.timers.cancel(&Key::Offer(offer.clone()));
    }

    /// Drops what was volatile of a call.
    fn forget(&mut self, call: CallId) {
        self.asked.remove(&call);
        self.timers.cancel(&Key::Call(call));
    }

    /// Every call without an offer is in exactly one order; sizes only, since it is checked at each step.
    fn holds(&self) -> bool {
        let bound = self.state.offers.len() - self.leaving.len();
        self.waiting.len() + self.reluctant.len() + bound == self.state.calls.len()
            && self.state.totals.waiting == self.state.calls.len() as u64
            && self.reluctant.len() <= matching::RELUCTANT_MOST
    }
}
