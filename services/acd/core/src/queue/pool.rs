use std::collections::{BTreeMap, BTreeSet};

use trunkline_types::{AgentId, OfferId, Timestamp};

use super::{Candidate, EXPLAINED, Exclusion, ExclusionReason};
use crate::{SkillRequirement, Skills, Stamp};

/// What a queue knows of its agents. Volatile: a hint only, rebuilt from announcements; safety comes from the
/// reservation.
#[derive(Debug, Default)]
pub(crate) struct AgentPool {
    agents: BTreeMap<AgentId, KnownAgent>,
    /// Who can be chosen: longest idle first, ties by id.
    available: BTreeSet<(Timestamp, AgentId)>,
    /// Known agents that cannot, with a reason of this queue's own.
    aside: BTreeSet<AgentId>,
    /// Known agents that cannot, by their own word.
    unavailable: BTreeSet<AgentId>,
}

#[derive(Debug)]
pub(crate) struct KnownAgent {
    pub(crate) stamp: Stamp,
    pub(crate) idle_since: Timestamp,
    skills: Skills,
    level: u8,
    pub(crate) standing: Standing,
    /// The announcement is believed until then.
    pub(crate) lease_until: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    Available,
    /// Available, but the level in the required skill is too low.
    Unfit,
    Reserving(OfferId),
    Unresponsive(Timestamp),
    Unavailable,
}

fn level_in(skills: &Skills, required: Option<&SkillRequirement>) -> (u8, bool) {
    match required {
        None => (0, true),
        Some(skill) => {
            let level = skills.get(&skill.name).copied().unwrap_or(0);
            (level, level >= skill.min_level)
        }
    }
}

impl AgentPool {
    pub(crate) fn get(&self, agent: &AgentId) -> Option<&KnownAgent> {
        self.agents.get(agent)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&AgentId, &KnownAgent)> {
        self.agents.iter()
    }

    pub(crate) fn available_count(&self) -> usize {
        self.available.len()
    }

    /// Agents that can be chosen, best first.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (Timestamp, &AgentId)> {
        self.available.iter().map(|(idle_since, agent)| (*idle_since, agent))
    }

    /// Takes an announcement in unless a newer one is known.
    pub(crate) fn announce(
        &mut self,
        agent: &AgentId,
        stamp: Stamp,
        available: Option<(Timestamp, Skills)>,
        required: Option<&SkillRequirement>,
        lease_until: Timestamp,
    ) {
        if let Some(known) = self.agents.get_mut(agent) {
            if known.stamp > stamp {
                return;
            }
            if known.stamp == stamp {
                // A duplicate: what happened since (a reservation, a refusal) stands.
                known.lease_until = known.lease_until.max(lease_until);
                return;
            }
        }
        let reserving = match self.agents.get(agent).map(|known| &known.standing) {
            Some(Standing::Reserving(offer)) => Some(offer.clone()),
            _ => None,
        };
        self.remove(agent);
        let (idle_since, skills) = match available {
            Some((idle_since, skills)) => (idle_since, Some(skills)),
            None => (Timestamp::MAX, None),
        };
        let (level, fits) = level_in(skills.as_ref().unwrap_or(&Skills::new()), required);
        let standing = match (&skills, reserving) {
            (None, _) => Standing::Unavailable,
            // The refreshed announcement of an agent that is being reserved: its answer decides.
            (Some(_), Some(offer)) => Standing::Reserving(offer),
            (Some(_), None) if fits => Standing::Available,
            (Some(_), None) => Standing::Unfit,
        };
        let skills = skills.unwrap_or_default();
        self.index(agent, idle_since, &standing);
        self.agents
            .insert(agent.clone(), KnownAgent { stamp, idle_since, skills, level, standing, lease_until });
    }

    fn index(&mut self, agent: &AgentId, idle_since: Timestamp, standing: &Standing) {
        match standing {
            Standing::Available => self.available.insert((idle_since, agent.clone())),
            Standing::Unavailable => self.unavailable.insert(agent.clone()),
            _ => self.aside.insert(agent.clone()),
        };
    }

    /// Forgets an agent.
    pub(crate) fn remove(&mut self, agent: &AgentId) {
        if let Some(known) = self.agents.remove(agent) {
            match known.standing {
                Standing::Available => self.available.remove(&(known.idle_since, agent.clone())),
                Standing::Unavailable => self.unavailable.remove(agent),
                _ => self.aside.remove(agent),
            };
        }
    }

    pub(crate) fn set(&mut self, agent: &AgentId, standing: Standing) {
        if let Some(mut known) = self.agents.remove(agent) {
            match known.standing {
                Standing::Available => self.available.remove(&(known.idle_since, agent.clone())),
                Standing::Unavailable => self.unavailable.remove(agent),
                _ => self.aside.remove(agent),
            };
            self.index(agent, known.idle_since, &standing);
            known.standing = standing;
            self.agents.insert(agent.clone(), known);
        }
    }

    /// The required skill has changed: everybody's fitness anew.
    pub(crate) fn reconsider(&mut self, required: Option<&SkillRequirement>) {
        let agents: Vec<AgentId> = self.agents.keys().cloned().collect();
        for agent in agents {
            self.reconsider_one(&agent, required);
        }
    }

    /// One agent's fitness anew.
    pub(crate) fn reconsider_one(&mut self, agent: &AgentId, required: Option<&SkillRequirement>) {
        let Some(known) = self.agents.get_mut(agent) else { return };
        let (level, fits) = level_in(&known.skills, required);
        known.level = level;
        match known.standing {
            Standing::Available if !fits => self.set(agent, Standing::Unfit),
            Standing::Unfit if fits => self.set(agent, Standing::Available),
            _ => {}
        }
    }

    /// For an explanation: how many could be chosen and the first of them.
    pub(crate) fn candidates(&self, now: Timestamp) -> (u32, Vec<Candidate>) {
        let first = self.in_order().take(EXPLAINED).map(|(idle_since, agent)| Candidate {
            agent: agent.clone(),
            idle_since,
            skill_level: self.agents.get(agent).map_or(0, |known| known.level),
            score: i64::try_from(now.since(idle_since).as_millis()).unwrap_or(i64::MAX),
        });
        (u32::try_from(self.available.len()).unwrap_or(u32::MAX), first.collect())
    }

    /// For an explanation: how many were left out and the first of them, those with this queue's own reason first.
    pub(crate) fn exclusions(&self, required: Option<&SkillRequirement>) -> (u32, Vec<Exclusion>) {
        let needs = required.map_or(0, |skill| skill.min_level);
        let listed = self.aside.iter().chain(&self.unavailable).take(EXPLAINED);
        let listed = listed.filter_map(|agent| {
            let known = self.agents.get(agent)?;
            let reason = match known.standing {
                Standing::Unfit => ExclusionReason::Skill { has: known.level, needs },
                Standing::Reserving(_) => ExclusionReason::Reserving,
                Standing::Unresponsive(_) => ExclusionReason::Unresponsive,
                Standing::Unavailable | Standing::Available => ExclusionReason::Unavailable,
            };
            Some(Exclusion { agent: agent.clone(), reason })
        });
        let count = self.aside.len() + self.unavailable.len();
        (u32::try_from(count).unwrap_or(u32::MAX), listed.collect())
    }
}
