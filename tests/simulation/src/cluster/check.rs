//! What the cluster promises, and nothing of how it is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trunkline_acd_core::{AgentEvent, LeaveCause, Outcome, QueueConfig, QueueEvent};
use trunkline_call_core::{Event, EventBody, QueueOutcome};
use trunkline_types::{AgentId, CallId, OfferId, ReleaseCause, ShardId, Timestamp};

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
    /// What waits in each queue, by its journal.
    lines: Vec<Waiting>,
    /// Since when offers ring, and for how long they may.
    ringing: BTreeMap<OfferId, (Timestamp, Duration)>,
    answered: u64,
    talked: u64,
    consultations: u64,
    transfers: u64,
    violations: Vec<String>,
}

/// A queue's line, for what is promised of time: by the true time, whatever nodes' clocks show.
struct Waiting {
    max_wait: Option<Duration>,
    calls: BTreeMap<CallId, Waits>,
}

struct Waits {
    since: Timestamp,
    entry: u32,
    priority: i16,
    place: (Timestamp, u64),
}

/// Clocks of nodes differ by so much, and commits take so long.
const INACCURATE: Duration = Duration::from_secs(3);
/// A ring that nobody answers ends so late at the latest: after pauses and moves of its agent.
const RINGS_ON: Duration = Duration::from_secs(60);

#[derive(Default)]
struct CallLine {
    /// Agents in the call: who has the caller, and who is being consulted.
    with: Vec<(OfferId, AgentId)>,
    /// An agent is asked for while there is one.
    asks: bool,
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
    pub(super) fn new(queues: &[QueueConfig]) -> Self {
        let lines = queues.iter().map(|q| Waiting { max_wait: q.max_wait, calls: BTreeMap::new() });
        Self {
            reservations: Reservations::new(queues.len()),
            lines: lines.collect(),
            ringing: BTreeMap::new(),
            calls: BTreeMap::new(),
            ended_offers: BTreeSet::new(),
            over_before: BTreeMap::new(),
            heard: BTreeMap::new(),
            answered: 0,
            talked: 0,
            consultations: 0,
            transfers: 0,
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

    /// Agents who talked to another one while that one had the caller, and callers who were passed on.
    pub(super) fn passed_on(&self) -> (u64, u64) {
        (self.consultations, self.transfers)
    }

    /// Something was committed.
    pub(super) fn fact(
        &mut self,
        now: Timestamp,
        entity: super::core::Entity,
        agents: &[AgentId],
        fact: &Fact,
    ) {
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
                self.line(now, n, event);
                self.reservations.queue_event(n, event);
            }
            (Entity::Agent(n), Fact::Agent(event)) => {
                self.talked += u64::from(matches!(event, AgentEvent::Connected { .. }));
                self.rings(now, event);
                self.reservations.agent_event(&agents[n], event);
            }
            (Entity::Call(n), Fact::Call(event)) => self.call(n, event),
            _ => unreachable!("a fact of another kind"),
        }
    }

    /// Nobody is released before the longest wait is over, and nobody comes before those who came before.
    fn line(&mut self, now: Timestamp, n: usize, event: &QueueEvent) {
        let line = &mut self.lines[n];
        let mut broken = None;
        match event {
            QueueEvent::Enqueued { call, seq, priority, rank_at, enqueue, .. } => {
                let (place, entry) = ((*rank_at, *seq), enqueue.entry);
                let comes = Waits { since: now, entry, priority: *priority, place };
                let overtaken = line.calls.iter().find(|(_, waits)| {
                    waits.priority == comes.priority && (waits.entry, entry) == (0, 0) && waits.place > place
                });
                broken =
                    overtaken.map(|(waits, _)| format!("{call} is placed before {waits}, who came first"));
                line.calls.insert(*call, comes);
            }
            QueueEvent::Left { call, cause, .. } => {
                let waits = line.calls.remove(call);
                let early = waits.zip(line.max_wait).filter(|(waits, longest)| {
                    *cause == LeaveCause::Timeout && now.since(waits.since) + INACCURATE < *longest
                });
                broken = early.map(|(waits, longest)| {
                    format!("{call} is released after {:?} instead of {longest:?}", now.since(waits.since))
                });
            }
            QueueEvent::Answered { call, .. } => _ = line.calls.remove(call),
            _ => {}
        }
        self.violations.extend(broken);
    }

    /// A ring lasts as long as it is to.
    fn rings(&mut self, now: Timestamp, event: &AgentEvent) {
        match event {
            AgentEvent::Offered { offer, card, .. } => {
                self.ringing.insert(offer.clone(), (now, card.ring_timeout));
            }
            AgentEvent::OfferEnded { offer, outcome: Outcome::Missed, .. } => {
                let Some((since, lasts)) = self.ringing.remove(offer) else { return };
                let rang = now.since(since);
                if rang + INACCURATE < lasts || rang > lasts + RINGS_ON {
                    self.broken(format!("{offer} rang for {rang:?} instead of {lasts:?}"));
                }
            }
            AgentEvent::OfferEnded { offer, .. } | AgentEvent::Accepted { offer, .. } => {
                self.ringing.remove(offer);
            }
            _ => {}
        }
    }

    fn call(&mut self, n: usize, event: &Event) {
        let line = self.calls.entry(n).or_default();
        let (mut broken, mut consulted, mut passed_on) = (None, false, false);
        match &event.body {
            EventBody::QueueEntered { entry, .. } => {
                if line.entry.is_some_and(|before| before >= *entry) {
                    broken = Some(format!("call {n} enters its stay {entry} after {:?}", line.entry));
                }
                line.entry = Some(*entry);
                line.asks = !line.with.is_empty();
            }
            EventBody::AgentBridged { offer, agent, .. } => {
                let asked = std::mem::take(&mut line.asks);
                let (others, most) = (line.with.len(), usize::from(asked));
                if others > most {
                    broken = Some(format!("call {n} talks under {offer} and {:?}", line.with));
                }
                consulted = others > 0;
                if !line.bridged.insert(offer.clone()) {
                    broken = Some(format!("call {n} is connected twice under {offer}"));
                }
                line.with.push((offer.clone(), agent.clone()));
            }
            EventBody::AgentReleased { offer, cause, .. } => {
                line.with.retain(|(with, _)| with != offer);
                passed_on = *cause == ReleaseCause::Transferred;
            }
            EventBody::QueueExited { outcome, .. } if *outcome != QueueOutcome::Answered => line.asks = false,
            EventBody::Ended { cause, .. } => {
                line.with.clear();
                if let Some(before) = line.ended.replace(*cause) {
                    broken = Some(format!("call {n} ends twice: {before:?}, {cause:?}"));
                } else if !EARNED.contains(cause) {
                    broken = Some(format!("call {n} is lost: {cause:?}"));
                }
            }
            _ => {}
        }
        self.consultations += u64::from(consulted);
        self.transfers += u64::from(passed_on);
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
