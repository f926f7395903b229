//! What queues and agents are configured with. Documents are versioned; each routing decision carries the version.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use trunkline_types::QueueId;

use crate::{Skills, millis};

/// Why a configuration is refused: the field and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {remedy}")]
pub struct ConfigError {
    /// The offending field.
    pub field: &'static str,
    /// What would be right.
    pub remedy: String,
}

/// How an agent is chosen. Each strategy is a total order with a stated tie-break.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Strategy {
    /// The agent who has been idle longest; ties by agent id, ascending.
    #[default]
    LongestIdle,
}

/// A skill that a queue's calls need.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkillRequirement {
    /// Name of the skill.
    pub name: String,
    /// Least level, 1 to 5.
    pub min_level: u8,
}

/// A queue's configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Version of the document; recorded in each decision.
    pub version: u64,
    /// What agents and supervisors read.
    pub display_name: String,
    /// How an agent is chosen.
    pub strategy: Strategy,
    /// What an agent must be able to do.
    pub required_skill: Option<SkillRequirement>,
    /// Most calls that may wait (ringing ones included); beyond that `QueueFull`. 1 to 1,000,000.
    pub max_waiting: u32,
    /// Longest wait; then `QueueTimeout`. `None` = no limit.
    #[serde(with = "millis::option")]
    pub max_wait: Option<Duration>,
    /// How long it rings at an agent. 3 s to 120 s.
    #[serde(with = "millis")]
    pub ring_timeout: Duration,
    /// Longest wrap-up; zero = none. At most 1 h.
    #[serde(with = "millis")]
    pub wrap_up: Duration,
    /// Service level: answered within this.
    #[serde(with = "millis")]
    pub service_level: Duration,
    /// Abandoned sooner than this is a short abandon.
    #[serde(with = "millis")]
    pub short_abandon: Duration,
    /// Record conversations.
    pub recording: bool,
    /// Conversations must be recorded: one that its media node cannot record moves to another node, and ends when none can.
    /// Otherwise it goes on with a gap in its recording, and an alarm.
    pub recording_required: bool,
    /// Priority of calls that bring none, -100 to 100.
    pub default_priority: i16,
    /// How much waiting one step of priority is worth. At most 1 h.
    #[serde(with = "millis")]
    pub priority_step: Duration,
    /// After a miss, decline or failure the same call is not offered to the same agent for this long.
    #[serde(with = "millis")]
    pub avoid_after_miss: Duration,
    /// Wrap-up is finished by hand only with a disposition.
    pub disposition_required: bool,
    /// Dispositions to choose from; empty = free text. At most 200.
    pub dispositions: Vec<String>,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            version: 0,
            display_name: String::new(),
            strategy: Strategy::LongestIdle,
            required_skill: None,
            max_waiting: 1_000,
            max_wait: None,
            ring_timeout: Duration::from_secs(20),
            wrap_up: Duration::from_secs(30),
            service_level: Duration::from_secs(20),
            short_abandon: Duration::from_secs(5),
            recording: true,
            recording_required: false,
            default_priority: 0,
            priority_step: Duration::from_secs(60),
            avoid_after_miss: Duration::from_secs(10),
            disposition_required: false,
            dispositions: Vec::new(),
        }
    }
}

fn within(field: &'static str, ok: bool, remedy: &str) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError { field, remedy: remedy.to_owned() }) }
}

impl QueueConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of its range, with the range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let secs = Duration::from_secs;
        within(
            "recording_required",
            self.recording || !self.recording_required,
            "set recording too, or leave it out",
        )?;
        within("max_waiting", (1..=1_000_000).contains(&self.max_waiting), "use 1 to 1000000")?;
        within("max_wait", self.max_wait.is_none_or(|w| w >= secs(1)), "use at least 1 s, or leave it out")?;
        within("ring_timeout", (secs(3)..=secs(120)).contains(&self.ring_timeout), "use 3 s to 120 s")?;
        within("wrap_up", self.wrap_up <= secs(3_600), "use at most 3600 s")?;
        within("service_level", self.service_level > Duration::ZERO, "use more than 0 s")?;
        within("short_abandon", self.short_abandon <= secs(60), "use at most 60 s")?;
        within("default_priority", (-100..=100).contains(&self.default_priority), "use -100 to 100")?;
        within("priority_step", self.priority_step <= secs(3_600), "use at most 3600 s")?;
        within("avoid_after_miss", self.avoid_after_miss <= secs(300), "use at most 300 s")?;
        within("dispositions", self.dispositions.len() <= 200, "use at most 200 dispositions")?;
        if let Some(skill) = &self.required_skill {
            within("required_skill.min_level", (1..=5).contains(&skill.min_level), "use 1 to 5")?;
            within(
                "required_skill.name",
                !skill.name.is_empty(),
                "name the skill, or leave required_skill out",
            )?;
        }
        Ok(())
    }
}

/// Where an agent goes after an offer that came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterOffer {
    /// Stays ready, at the end of the line.
    Ready,
    /// Not ready, with the outcome as the reason.
    NotReady,
}

/// An agent's configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Version of the document.
    pub version: u64,
    /// What others read.
    pub display_name: String,
    /// The queues the agent serves. At most 64.
    pub queues: Vec<QueueId>,
    /// What the agent can do, name → level 1 to 5. At most 64.
    pub skills: Skills,
    /// After a missed call (RNA).
    pub after_missed: AfterOffer,
    /// After a declined call.
    pub after_declined: AfterOffer,
    /// How long the agent stays signed in without a console while idle. 5 s to 300 s.
    #[serde(with = "millis")]
    pub grace: Duration,
    /// A conversation without any console attached is ended after this. 10 s to 600 s.
    #[serde(with = "millis")]
    pub talk_grace: Duration,
    /// What one extension adds to the wrap-up.
    #[serde(with = "millis")]
    pub wrap_up_extension: Duration,
    /// How many times a wrap-up may be extended.
    pub max_extensions: u8,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            version: 0,
            display_name: String::new(),
            queues: Vec::new(),
            skills: Skills::new(),
            after_missed: AfterOffer::NotReady,
            after_declined: AfterOffer::Ready,
            grace: Duration::from_secs(30),
            talk_grace: Duration::from_secs(120),
            wrap_up_extension: Duration::from_secs(30),
            max_extensions: 3,
        }
    }
}

impl AgentConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of its range, with the range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let secs = Duration::from_secs;
        within("queues", self.queues.len() <= 64, "use at most 64 queues")?;
        within("skills", self.skills.len() <= 64, "use at most 64 skills")?;
        within("skills", self.skills.values().all(|level| (1..=5).contains(level)), "use levels 1 to 5")?;
        within("grace", (secs(5)..=secs(300)).contains(&self.grace), "use 5 s to 300 s")?;
        within("talk_grace", (secs(10)..=secs(600)).contains(&self.talk_grace), "use 10 s to 600 s")?;
        within("wrap_up_extension", self.wrap_up_extension <= secs(600), "use at most 600 s")?;
        within("max_extensions", self.max_extensions <= 20, "use at most 20")
    }
}
