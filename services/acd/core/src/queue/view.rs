use std::time::Duration;

use serde::{Deserialize, Serialize};
use trunkline_types::{AgentId, CallId, OfferId, QueueId, Timestamp};

use super::{Queue, QueueTotals, pool::Standing};
use crate::millis;

/// How far a place is counted when it is not simply the last one.
const COUNTED_MOST: usize = 1_000;

/// A place among the calls that wait without ringing anywhere; 1 = next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// This one. 0 = bound to an agent already.
    Exactly(u32),
    /// More than so many are ahead.
    Beyond(u32),
}

/// A queue as a supervisor sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct QueueView {
    /// The queue.
    pub queue: QueueId,
    /// What people read.
    pub display_name: String,
    /// Calls that wait, ringing ones included.
    pub waiting: u32,
    /// When the longest waiting one was enqueued (by rank: the head of the line).
    pub oldest_enqueued_at: Option<Timestamp>,
    /// Agents that could be chosen now.
    pub agents_available: u32,
    /// The expected wait of a call that would be enqueued now.
    #[serde(with = "millis::option")]
    pub expected_wait: Option<Duration>,
    /// The line, at most as many as asked for.
    pub calls: Vec<WaitingCall>,
    /// Agents that could be chosen, longest idle first, at most as many as asked for.
    pub agents: Vec<AvailableAgent>,
    /// Offers that are committed and have not ended, at most as many as asked for.
    pub offers: Vec<OfferView>,
    /// The counters.
    pub totals: QueueTotals,
}

/// A call in the line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WaitingCall {
    /// Place; 1 = next.
    pub position: u32,
    /// The call.
    pub call: CallId,
    /// The caller's number, empty when withheld.
    pub caller: String,
    /// Priority steps.
    pub priority: i16,
    /// Since when it waits.
    pub enqueued_at: Timestamp,
    /// When it is released if nobody takes it.
    pub expires_at: Option<Timestamp>,
}

/// An agent that could be chosen.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AvailableAgent {
    /// The agent.
    pub agent: AgentId,
    /// Since when idle.
    pub idle_since: Timestamp,
}

/// An offer under way.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OfferView {
    /// The offer.
    pub offer: OfferId,
    /// The call.
    pub call: CallId,
    /// The agent.
    pub agent: AgentId,
    /// Since when.
    pub committed_at: Timestamp,
    /// The agent has confirmed that it rings (or rang).
    pub accepted: bool,
    /// The caller is gone; the ringing is being stopped.
    pub call_left: bool,
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Queue {
    /// A waiting call's place. O(log n) for the last in line, otherwise counted up to 1,000.
    pub(super) fn position(&self, call: CallId) -> Position {
        let Some(queued) = self.state.calls.get(&call).filter(|queued| queued.offer.is_none()) else {
            return Position::Exactly(0);
        };
        let place = queued.place();
        let reluctant_ahead = self.reluctant.range(..place).count();
        if self.waiting.last_key_value().is_some_and(|(last, _)| *last == place) {
            return Position::Exactly(count(self.waiting.len() + reluctant_ahead));
        }
        match self.waiting.range(..place).take(COUNTED_MOST).count() {
            COUNTED_MOST => Position::Beyond(count(COUNTED_MOST)),
            ahead => Position::Exactly(count(ahead + reluctant_ahead + 1)),
        }
    }

    /// Place × smoothed time between two answers (while others waited); zero when agents are free for all ahead.
    /// `None` until two calls were answered.
    pub fn expected_wait(&self, position: Position) -> Option<Duration> {
        let (Position::Exactly(place) | Position::Beyond(place)) = position;
        if (place as usize) <= self.pool.available_count() + self.reservations.len() {
            return Some(Duration::ZERO);
        }
        let gap = self.state.totals.answer_gap_us;
        (gap > 0).then(|| Duration::from_micros(gap.saturating_mul(u64::from(place))))
    }

    /// Calls that wait, ringing ones included, and since when the first in line waits. O(log n).
    pub fn depth(&self) -> (u32, Option<Timestamp>) {
        let first = self.waiting.first_key_value().and_then(|(_, call)| self.state.calls.get(call));
        (count(self.state.calls.len()), first.map(|queued| queued.enqueued_at))
    }

    /// How many agents could be chosen now.
    pub fn available_agents(&self) -> usize {
        self.pool.available_count()
    }

    /// Everything a supervisor sees; O(`limit`).
    pub fn view(&self, limit: usize) -> QueueView {
        let line = merge(&self.waiting, &self.reluctant);
        let calls = line.take(limit).enumerate().filter_map(|(n, call)| {
            let queued = self.state.calls.get(&call)?;
            Some(WaitingCall {
                position: count(n + 1),
                call,
                caller: queued.enqueue.caller.clone(),
                priority: queued.priority,
                enqueued_at: queued.enqueued_at,
                expires_at: queued.expires_at,
            })
        });
        let head = merge(&self.waiting, &self.reluctant).next();
        let ringing = self.state.offers.values().filter(|open| !open.call_left).map(|open| open.call);
        let oldest = head.into_iter().chain(ringing);
        let oldest =
            oldest.filter_map(|call| self.state.calls.get(&call)).map(|queued| queued.enqueued_at).min();
        let agents = self.pool.in_order().take(limit);
        let agents = agents.map(|(idle_since, agent)| AvailableAgent { agent: agent.clone(), idle_since });
        let offers = self.state.offers.iter().take(limit).map(|(offer, open)| OfferView {
            offer: offer.clone(),
            call: open.call,
            agent: open.agent.clone(),
            committed_at: open.committed_at,
            accepted: self.deliveries.get(offer).is_some_and(|delivery| delivery.accepted),
            call_left: open.call_left,
        });
        let next_place = count(self.waiting.len() + self.reluctant.len() + 1);
        QueueView {
            queue: self.id.clone(),
            display_name: self.config.display_name.clone(),
            waiting: count(self.state.calls.len()),
            oldest_enqueued_at: oldest,
            agents_available: count(self.pool.available_count()),
            expected_wait: self.expected_wait(Position::Exactly(next_place)),
            calls: calls.collect(),
            agents: agents.collect(),
            offers: offers.collect(),
            totals: self.state.totals.clone(),
        }
    }

    /// Agents known to the queue by standing: (available, being reserved, other).
    pub fn known_agents(&self) -> (usize, usize, usize) {
        let reserving =
            self.pool.iter().filter(|(_, known)| matches!(known.standing, Standing::Reserving(_))).count();
        let all = self.pool.iter().count();
        (self.pool.available_count(), reserving, all - self.pool.available_count() - reserving)
    }
}

type Line = std::collections::BTreeMap<super::Place, CallId>;

/// Both orders as one line.
fn merge<'a>(waiting: &'a Line, reluctant: &'a Line) -> impl Iterator<Item = CallId> + 'a {
    let (mut a, mut b) = (waiting.iter().peekable(), reluctant.iter().peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some((x, _)), Some((y, _))) if y < x => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
    .map(|(_, call)| *call)
}
