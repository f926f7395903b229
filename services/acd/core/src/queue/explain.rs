use serde::{Deserialize, Serialize};
use trunkline_types::{AgentId, Timestamp};

use super::OfferOutcome;
use crate::Strategy;

/// How many candidates and exclusions an explanation lists.
pub const EXPLAINED: usize = 10;

/// Why this call went to this agent: kept with the commit, readable at any later time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// The rule.
    pub strategy: Strategy,
    /// The configuration in force.
    pub config_version: u64,
    /// When the agent was chosen (the call is bound at the commit, a round trip later).
    pub chosen_at: Timestamp,
    /// The call's place when it was bound; 1 = first. It is above 1 only when the calls ahead avoid this agent.
    pub position: u32,
    /// How many calls waited when the agent was chosen.
    pub waiting: u32,
    /// How many agents could have been chosen.
    pub candidate_count: u32,
    /// The first [`EXPLAINED`] of them in order; the first is the chosen one unless those before it are avoided.
    pub candidates: Vec<Candidate>,
    /// How many known agents were left out.
    pub excluded_count: u32,
    /// The first [`EXPLAINED`] of them.
    pub excluded: Vec<Exclusion>,
}

/// An agent who could have been chosen.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// The agent.
    pub agent: AgentId,
    /// Since when idle.
    pub idle_since: Timestamp,
    /// Level in the required skill; 0 when the queue requires none.
    pub skill_level: u8,
    /// The score by the strategy: milliseconds of idle time; the highest is chosen.
    pub score: i64,
}

/// An agent who was left out, and why.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Exclusion {
    /// The agent.
    pub agent: AgentId,
    /// Why.
    pub reason: ExclusionReason,
}

/// Why an agent was left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExclusionReason {
    /// Available, but the level in the required skill is too low.
    Skill {
        /// The agent's level, 0 = does not have it.
        has: u8,
        /// The queue's requirement.
        needs: u8,
    },
    /// Another offer of this queue is under way to the agent.
    Reserving,
    /// Did not answer the last reservation in time; asked again after a pause.
    Unresponsive,
    /// Has just missed, declined or failed this very call.
    Avoided {
        /// How that offer ended.
        after: OfferOutcome,
    },
    /// Announced as not available.
    Unavailable,
}
