//! Who takes whom. Runs whenever a call or an agent comes free; no polling, no scan over calls or agents.

use trunkline_types::{AgentId, CallId, OfferId, Timestamp};

use super::{Decision, Exclusion, ExclusionReason, Key, Outbox, Queue, Reservation, pool::Standing};
use crate::{QueueToAgent, protocol::RESERVE_TIMEOUT};

/// At most so many calls spare an agent at a time.
pub(super) const RELUCTANT_MOST: usize = 16;

impl Queue {
    /// Reserves agents as long as there are calls for them.
    pub(super) fn match_up(&mut self, now: Timestamp, out: &mut Outbox) {
        while let Some(agent) = self.choose(now) {
            let Some(known) = self.pool.get(&agent) else { return };
            let agent_epoch = known.stamp.epoch;
            self.last_offer += 1;
            let offer = OfferId { queue: self.id.clone(), epoch: self.epoch, n: self.last_offer };
            let decision = Box::new(self.explain(now));
            self.pool.set(&agent, Standing::Reserving(offer.clone()));
            self.timers.set(Key::Reservation(offer.clone()), now.plus(RESERVE_TIMEOUT));
            Self::tell_agent(&agent, QueueToAgent::Reserve { offer: offer.clone(), agent_epoch }, out);
            self.reservations.insert(offer, Reservation { agent, agent_epoch, decision });
        }
    }

    /// The next agent to reserve: the longest idle, while fewer holds are asked for than calls could take any agent;
    /// beyond that the longest idle whom one of the reluctant calls takes.
    fn choose(&self, now: Timestamp) -> Option<AgentId> {
        let asked = self.reservations.len();
        if asked < self.waiting.len() {
            return self.pool.in_order().next().map(|(_, agent)| agent.clone());
        }
        if asked >= self.waiting.len() + self.reluctant.len() {
            return None;
        }
        // A call spares at most 4 agents, so one of the first 5 is acceptable to it, if there are as many.
        self.pool
            .in_order()
            .take(5)
            .find(|(idle_since, agent)| {
                self.reluctant.values().any(|call| {
                    self.state.calls.get(call).is_some_and(|queued| !queued.avoids(agent, *idle_since, now))
                })
            })
            .map(|(_, agent)| agent.clone())
    }

    /// The first call by place that does not spare the agent.
    pub(super) fn first_call_for(
        &self,
        agent: &AgentId,
        idle_since: Timestamp,
        now: Timestamp,
    ) -> Option<CallId> {
        let first = self.waiting.first_key_value();
        let willing = self
            .reluctant
            .iter()
            .take_while(|(place, _)| first.is_none_or(|(least, _)| *place < least))
            .find(|(_, call)| {
                self.state.calls.get(call).is_some_and(|queued| !queued.avoids(agent, idle_since, now))
            });
        willing.or(first).map(|(_, call)| *call)
    }

    fn explain(&self, now: Timestamp) -> Decision {
        let (candidate_count, candidates) = self.pool.candidates(now);
        let (excluded_count, excluded) = self.pool.exclusions(self.config.required_skill.as_ref());
        Decision {
            strategy: self.config.strategy,
            config_version: self.config.version,
            chosen_at: now,
            position: 0,
            waiting: u32::try_from(self.waiting.len() + self.reluctant.len()).unwrap_or(u32::MAX),
            candidate_count,
            candidates,
            excluded_count,
            excluded,
        }
    }

    /// Adds to an explanation what is known only now that the call is bound.
    pub(super) fn complete(&self, call: CallId, decision: &mut Decision, now: Timestamp) {
        let Some(queued) = self.state.calls.get(&call) else { return };
        // Only reluctant calls can be ahead of the one that is bound.
        decision.position = 1 + u32::try_from(self.reluctant.range(..queued.place()).count()).unwrap_or(0);
        for avoid in queued.avoid.iter().filter(|avoid| avoid.until > now) {
            let spared = self.pool.get(&avoid.agent).is_some_and(|known| {
                known.standing == Standing::Available && known.idle_since <= avoid.since
            });
            if spared {
                decision.excluded_count += 1;
                let reason = ExclusionReason::Avoided { after: avoid.after };
                decision.excluded.insert(0, Exclusion { agent: avoid.agent.clone(), reason });
            }
        }
    }
}
