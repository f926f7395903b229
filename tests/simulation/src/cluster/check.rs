//! What the cluster promises, and nothing of how it is kept.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_acd_core::{AgentEvent, QueueEvent};
use trunkline_call_core::{Event, EventBody};
use trunkline_types::{AgentId, OfferId, ReleaseCause, ShardId};

use super::core::Fact;
use crate::acd::check::Checker as Reservations;

pub(super) struct Checker {
    /// One agent a call, one call an agent, order of service: by the journals of queues and agents.
    pub(super) reservations: Reservations,
    calls: BTreeMap<usize, CallLine>,
    ended_offers: BTreeSet<OfferId>,
    /// Those that were over when the queue's present owner took it over.
    over_before: BTreeMap<usize, BTreeSet<OfferId>>,
    /// The highest epoch that a receiver has heard of a shard.
    heard: BTreeMap<(usize, ShardId), u64>,
    answered: u64,
    talked: u64,
    violations: Vec<String>,
}

#[derive(Default)]
struct CallLine {
    with: Option<(OfferId, AgentId)>,
    bridged: BTreeSet<OfferId>,
    entry: Option<u32>,
    ended: Option<ReleaseCause>,
}

/// Causes that are somebody's wish or a queue's rule; every other one is a caller lost.
const EARNED: [ReleaseCause; 6] = [
    ReleaseCause::CallerHangup,
    ReleaseCause::CallerCancel,
    ReleaseCause::AgentHangup,
    ReleaseCause::QueueTimeout,
    ReleaseCause::QueueFull,
    // After the queue's last word, when its announcement was cut short by a move.
    ReleaseCause::FlowEnd,
];

impl Checker {
    pub(super) fn new(queues: usize) -> Self {
        Self {
            reservations: Reservations::new(queues),
            calls: BTreeMap::new(),
            ended_offers: BTreeSet::new(),
            over_before: BTreeMap::new(),
            heard: BTreeMap::new(),
            answered: 0,
            talked: 0,
            violations: Vec::new(),
        }
    }

    pub(super) fn broken(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(super) fn is_broken(&self) -> bool {
        !self.violations.is_empty() || !self.reservations.violations.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        let mut all = std::mem::take(&mut self.violations);
        all.append(&mut self.reservations.violations);
        all
    }

    pub(super) fn conversations(&self) -> u64 {
        self.talked
    }

    /// Something was committed.
    pub(super) fn fact(&mut self, entity: super::core::Entity, agents: &[AgentId], fact: &Fact) {
        use super::core::Entity;
        match (entity, fact) {
            (Entity::Queue(n), Fact::Queue(event)) => {
                match event {
                    QueueEvent::OfferEnded { offer, .. } => _ = self.ended_offers.insert(offer.clone()),
                    QueueEvent::Answered { offer, .. } => {
                        self.answered += 1;
                        self.ended_offers.insert(offer.clone());
                    }
                    _ => {}
                }
                self.reservations.queue_event(n, event);
            }
            (Entity::Agent(n), Fact::Agent(event)) => {
                self.talked += u64::from(matches!(event, AgentEvent::Connected { .. }));
                self.reservations.agent_event(&agents[n], event);
            }
            (Entity::Call(n), Fact::Call(event)) => self.call(n, event),
            _ => unreachable!("a fact of another kind"),
        }
    }

    fn call(&mut self, n: usize, event: &Event) {
        let line = self.calls.entry(n).or_default();
        let mut broken = None;
        match &event.body {
            EventBody::QueueEntered { entry, .. } => {
                if line.entry.is_some_and(|before| before >= *entry) {
                    broken = Some(format!("call {n} enters its stay {entry} after {:?}", line.entry));
                }
                line.entry = Some(*entry);
            }
            EventBody::AgentBridged { offer, agent, .. } => {
                if let Some((other, at)) = &line.with {
                    broken = Some(format!("call {n} talks under {offer} and {other} ({at})"));
                }
                if !line.bridged.insert(offer.clone()) {
                    broken = Some(format!("call {n} is connected twice under {offer}"));
                }
                line.with = Some((offer.clone(), agent.clone()));
            }
            EventBody::AgentReleased { offer, .. } => _ = line.with.take_if(|(with, _)| with == offer),
            EventBody::Ended { cause, .. } => {
                line.with = None;
                if let Some(before) = line.ended.replace(*cause) {
                    broken = Some(format!("call {n} ends twice: {before:?}, {cause:?}"));
                } else if !EARNED.contains(cause) {
                    broken = Some(format!("call {n} is lost: {cause:?}"));
                }
            }
            _ => {}
        }
        self.violations.extend(broken);
    }

    /// A receiver begins another life, and remembers nothing.
    pub(super) fn forgets(&mut self, receiver: usize) {
        self.heard.retain(|(known, _), _| *known != receiver);
    }

    /// A receiver has let a word of this shard's owner act.
    pub(super) fn acts(&mut self, receiver: usize, shard: ShardId, epoch: u64) {
        let highest = self.heard.entry((receiver, shard)).or_default();
        if epoch < *highest {
            let highest = *highest;
            self.broken(format!("{shard} at epoch {epoch} acts on {receiver}, which has heard {highest}"));
        } else {
            *highest = epoch;
        }
    }

    /// A queue is rebuilt from its journal.
    pub(super) fn taken_over(&mut self, queue: usize) {
        self.over_before.insert(queue, self.ended_offers.clone());
    }

    /// An owner makes an offer (again).
    pub(super) fn offers(&mut self, queue: usize, offer: &OfferId) {
        if self.over_before.get(&queue).is_some_and(|over| over.contains(offer)) {
            self.broken(format!("offer {offer} is over and is made again"));
        }
    }

    /// After everything has come to its end: the three journals tell the same conversations.
    pub(super) fn finally(&mut self, callers: usize) {
        let bridged: u64 = self.calls.values().map(|line| line.bridged.len() as u64).sum();
        let (answered, talked) = (self.answered, self.talked);
        if bridged != answered || bridged != talked {
            self.broken(format!("conversations differ: calls {bridged}, queues {answered}, agents {talked}"));
        }
        let unended = self.calls.iter().filter(|(_, line)| line.ended.is_none()).map(|(n, _)| *n);
        let unended: Vec<usize> = unended.collect();
        if !unended.is_empty() || self.calls.len() > callers {
            self.broken(format!("calls without an end: {unended:?}; {} of {callers}", self.calls.len()));
        }
    }
}
