use std::collections::{BTreeMap, BTreeSet};

use trunkline_acd_core::{
    Action, AgentEvent, AgentToCall, LeaveCause, QueueEvent,
    queue::{OfferOutcome, QueueTotals},
};
use trunkline_types::{AgentId, CallId, OfferId, Timestamp};

use super::caller::{Caller, Phase, Stay};

/// Knows the promises, and nothing of how they are kept. Sees what is committed and what the calls do.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// What is in each agent's slot.
    slots: BTreeMap<AgentId, (CallId, OfferId)>,
    at: BTreeMap<CallId, BTreeSet<AgentId>>,
    /// Agents who have decided to ask another one, or to pass the caller on, and those who were asked: a second agent may
    /// be there. (Who talks to whom is told by the calls.)
    passes_on: BTreeSet<(CallId, AgentId)>,
    lines: Vec<Line>,
    /// Offers used.
    offers: BTreeSet<OfferId>,
    pub(crate) agent_answers: u64,
    pub(crate) violations: Vec<String>,
}

/// One queue's line, folded from its events.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<(Timestamp, u64), CallId>,
    places: BTreeMap<CallId, (Timestamp, u64)>,
    spared: BTreeMap<(CallId, AgentId), Timestamp>,
    last_seq: u64,
    totals: QueueTotals,
    ends: BTreeMap<(CallId, u32), End>,
    entry: BTreeMap<CallId, u32>,
}

#[derive(Debug, Clone, PartialEq)]
enum End {
    Waits,
    Refused,
    Answered,
    Left(LeaveCause),
}

impl Checker {
    pub(crate) fn new(queues: usize) -> Self {
        Self { lines: (0..queues).map(|_| Line::default()).collect(), ..Self::default() }
    }

    fn broken(&mut self, what: String) {
        self.violations.push(what);
    }

    /// A call is at most at one agent, an agent has at most one call: by the agents' own journals.
    pub(crate) fn agent_event(&mut self, agent: &AgentId, event: &AgentEvent) {
        match event {
            AgentEvent::Offered { offer, card, .. } => {
                if let Some((call, _)) = self.slots.insert(agent.clone(), (card.call, offer.clone())) {
                    self.broken(format!("{agent} is offered {} while it has {call}", card.call));
                }
                if !self.offers.insert(offer.clone()) {
                    self.broken(format!("offer {offer} rang twice"));
                }
                let at = self.at.entry(card.call).or_default();
                at.insert(agent.clone());
                // Whoever is only asked never had the caller alone; when they are told that it is over is another matter.
                if !card.consulted_by.is_empty() {
                    self.passes_on.insert((card.call, agent.clone()));
                }
                let keeps =
                    at.iter().filter(|agent| !self.passes_on.contains(&(card.call, (*agent).clone())));
                if keeps.count() > 1 {
                    let at = format!("{at:?}");
                    self.broken(format!("{} is at two agents: {at}", card.call));
                }
            }
            AgentEvent::OfferEnded { offer, .. } | AgentEvent::CallEnded { offer, .. } => {
                match self.slots.remove(agent) {
                    Some((call, had)) if had == *offer => {
                        if let Some(at) = self.at.get_mut(&call) {
                            at.remove(agent);
                        }
                    }
                    other => self.broken(format!("{agent} ends {offer} but has {other:?}")),
                }
            }
            AgentEvent::Connected { .. } => self.agent_answers += 1,
            AgentEvent::CommandBegun { request, .. } => {
                if let (AgentToCall::Control { action, .. }, Some((call, _))) =
                    (&**request, self.slots.get(agent))
                    && matches!(action, Action::Transfer(_) | Action::Consult(_))
                {
                    self.passes_on.insert((*call, agent.clone()));
                }
            }
            _ => {}
        }
    }

    /// The same by what the calls do: `callers[n]` has just been connected to `agent`.
    pub(super) fn connected(&mut self, callers: &[Caller], n: usize, agent: usize, agents: &[AgentId]) {
        for (m, other) in callers.iter().enumerate() {
            if m != n && matches!(other.phase, Phase::Connected { agent: a, .. } if a == agent) {
                self.broken(format!("{} talks to two callers", agents[agent]));
            }
        }
        if let Some(at) = self.at.get(&callers[n].id)
            && at.iter().any(|a| *a != agents[agent])
        {
            let at = format!("{at:?}");
            self.broken(format!("{} talks to {} and is at {at}", callers[n].id, agents[agent]));
        }
    }

    pub(crate) fn queue_event(&mut self, queue: usize, event: &QueueEvent) {
        let mut broken = Vec::new();
        self.lines[queue].event(event, &mut broken);
        self.violations.append(&mut broken);
    }

    /// After everything has come to an end.
    pub(super) fn finally(&mut self, callers: &[Caller], totals: &[QueueTotals]) {
        let mut connections = 0;
        for caller in callers {
            for (entry, (queue, stay)) in caller.stays.iter().enumerate() {
                let key = (caller.id, entry as u32);
                let end = self.lines[*queue].ends.get(&key).cloned();
                let agrees = match (stay, &end) {
                    (Stay::Answered(..), Some(End::Answered)) => {
                        connections += 1;
                        true
                    }
                    (Stay::Refused, Some(End::Refused)) => true,
                    // Or it hung up while the release was on its way.
                    (Stay::Left(cause), Some(End::Left(left))) => {
                        cause == left || *left == LeaveCause::Timeout
                    }
                    // Left before it had a place, or while it was being refused.
                    (Stay::Left(_), None | Some(End::Refused)) => true,
                    _ => false,
                };
                if !agrees {
                    self.broken(format!(
                        "{} stay {entry}: the call says {stay:?}, the queue {end:?}",
                        caller.id
                    ));
                }
            }
        }
        if self.agent_answers != connections {
            let counted = self.agent_answers;
            self.broken(format!("agents count {counted} conversations, the callers had {connections}"));
        }
        for (queue, totals) in totals.iter().enumerate() {
            self.lines[queue].finally(queue, totals, &mut self.violations);
        }
    }
}

impl Line {
    fn event(&mut self, event: &QueueEvent, broken: &mut Vec<String>) {
        self.totals.apply(event);
        match event {
            QueueEvent::Enqueued { call, seq, rank_at, enqueue, .. } => {
                if *seq != self.last_seq + 1 {
                    broken.push(format!("{call} has arrival number {seq} after {}", self.last_seq));
                }
                self.last_seq = *seq;
                self.waiting.insert((*rank_at, *seq), *call);
                self.places.insert(*call, (*rank_at, *seq));
                self.entry.insert(*call, enqueue.entry);
                if self.ends.insert((*call, enqueue.entry), End::Waits).is_some() {
                    broken.push(format!("{call} is enqueued twice for stay {}", enqueue.entry));
                }
            }
            QueueEvent::Refused { call, entry, .. } => {
                self.ends.insert((*call, *entry), End::Refused);
            }
            QueueEvent::NeverQueued { .. } => {}
            QueueEvent::Committed { at, call, agent, .. } => {
                let Some(place) = self.places.get(call).copied() else {
                    broken.push(format!("{call} is committed and does not wait"));
                    return;
                };
                if self.waiting.remove(&place).is_none() {
                    broken.push(format!("{call} is committed twice"));
                }
                for (_, ahead) in self.waiting.range(..place) {
                    let spared = self.spared.get(&(*ahead, agent.clone())).is_some_and(|until| until > at);
                    if !spared {
                        broken.push(format!("{call} is served before {ahead} by {agent}"));
                    }
                }
            }
            QueueEvent::OfferEnded { call, agent, outcome, avoid_until, .. } => {
                if let Some(place) = self.places.get(call) {
                    self.waiting.insert(*place, *call);
                }
                if let Some(until) = avoid_until {
                    self.spared.insert((*call, agent.clone()), *until);
                    debug_assert!(matches!(outcome, OfferOutcome::Agent(_)));
                }
            }
            QueueEvent::Answered { call, .. } => self.depart(*call, End::Answered, broken),
            QueueEvent::Left { call, cause, .. } => self.depart(*call, End::Left(*cause), broken),
        }
    }

    fn depart(&mut self, call: CallId, how: End, broken: &mut Vec<String>) {
        if let Some(place) = self.places.remove(&call) {
            self.waiting.remove(&place);
        }
        let entry = self.entry.get(&call).copied().unwrap_or_default();
        if self.ends.insert((call, entry), how.clone()) != Some(End::Waits) {
            broken.push(format!("{call} departs twice ({how:?})"));
        }
    }

    fn finally(&self, queue: usize, totals: &QueueTotals, broken: &mut Vec<String>) {
        if self.totals != *totals {
            broken.push(format!("queue {queue}: its counters are not the fold of its events"));
        }
        let count =
            |wanted: &dyn Fn(&End) -> bool| self.ends.values().filter(|end| wanted(end)).count() as u64;
        let counted = [
            (totals.answered, count(&|end| *end == End::Answered), "answered"),
            (totals.abandoned, count(&|end| *end == End::Left(LeaveCause::Abandoned)), "abandoned"),
            (totals.timed_out, count(&|end| *end == End::Left(LeaveCause::Timeout)), "timed out"),
            (totals.refused, count(&|end| *end == End::Refused), "refused"),
            (totals.lost, 0, "lost"),
            (totals.waiting, 0, "waiting"),
            (totals.offered, count(&|end| *end != End::Refused), "offered"),
        ];
        for (counter, truth, name) in counted {
            if counter != truth {
                broken.push(format!("queue {queue}: {name} is {counter}, in truth {truth}"));
            }
        }
    }
}
