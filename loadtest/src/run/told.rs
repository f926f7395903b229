//! What workers are asked and what they tell. Times are microseconds since the beginning of the load, by the coordinator's
//! clock as far as clocks could be agreed upon.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::hist::Hist;
use crate::{
    rtp::Heard,
    scenario::{ReadError, Scenario},
};

/// Calls of one worker; its first call is its number times this.
pub const CALLS_EACH: usize = 10_000_000;

/// The part of a run that one worker does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// Which worker, from 0.
    pub worker: usize,
    /// Of how many.
    pub workers: usize,
    /// The text of the scenario.
    pub scenario: String,
    /// What is different from the text.
    pub changes: Changes,
    /// Edges.
    pub sip: Vec<SocketAddr>,
    /// Consoles.
    pub http: Vec<SocketAddr>,
    /// The worker's address for callers and agents, unless it was told another one.
    pub bind: IpAddr,
}

/// What the command line changes about a scenario.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Changes {
    /// Another seed.
    pub seed: Option<u64>,
    /// All rates times this.
    pub rate: Option<f64>,
    /// All lengths of phases and moments of events times this.
    pub time: Option<f64>,
    /// Another number of agents.
    pub agents: Option<usize>,
    /// Another target.
    pub to: Option<String>,
}

impl Changes {
    /// The scenario with the changes.
    pub fn apply(&self, file: &str, text: &str) -> Result<Scenario, ReadError> {
        let mut scenario = Scenario::parse(file, text)?;
        scenario.seed = self.seed.unwrap_or(scenario.seed);
        scenario.agents.count = self.agents.unwrap_or(scenario.agents.count);
        if let Some(to) = &self.to {
            scenario.callers.to.clone_from(to);
        }
        if let Some(factor) = self.time {
            scenario.stretch(factor);
        }
        if let Some(factor) = self.rate {
            for phase in &mut scenario.callers.phases {
                phase.rate *= factor;
                phase.to_rate = phase.to_rate.map(|rate| rate * factor);
            }
        }
        scenario.check_changed(file)?;
        Ok(scenario)
    }
}

/// What a worker is told while it works.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// The load begins.
    Start(Instant),
    /// An agent, of whichever worker, has this call of yours.
    Connected(usize),
    /// No further calls.
    Stop,
}

/// What a worker tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// Agents are signed in; the load can begin.
    Ready,
    /// A call was answered.
    Answered {
        /// Which.
        call: usize,
        /// When.
        at_us: i64,
    },
    /// A call is over.
    Over(CallRecord),
    /// A call rings at an agent.
    Rang {
        /// The call, by the caller's number.
        call: Option<usize>,
        /// The agent.
        agent: usize,
        /// Since when the agent was free.
        free_us: i64,
        /// When it rang.
        at_us: i64,
        /// When the caller entered the queue, as the system says it.
        entered_us: Option<i64>,
    },
    /// An agent has a call.
    Connected {
        /// The call.
        call: Option<usize>,
        /// The agent.
        agent: usize,
    },
    /// A conversation is over.
    Finished {
        /// The call.
        call: Option<usize>,
        /// The agent.
        agent: usize,
        /// How long it was.
        talked_us: u64,
        /// What the agent heard.
        audio: Option<Audio>,
    },
    /// An agent passed a caller on to another queue.
    PassedOn {
        /// The call.
        call: Option<usize>,
    },
    /// The system refused what an agent wanted.
    Refused {
        /// What, and the error code.
        what: String,
    },
    /// An agent lost the connection, or got it back.
    Agent {
        /// It is there.
        online: bool,
        /// The session before went on.
        resumed: bool,
        /// Why it was lost.
        why: String,
    },
    /// A second is over.
    Beat(Box<Beat>),
    /// Something to note.
    Note(String),
    /// The worker is through.
    Done,
    /// The worker has ended before its time: what was its is missing. Whoever waits for it tells this.
    Lost {
        /// Why.
        why: String,
    },
}

/// One call.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CallRecord {
    /// Which.
    pub call: usize,
    /// When its INVITE was meant to go out.
    pub intended_us: i64,
    /// When its INVITE went out.
    pub sent_us: i64,
    /// When it was over.
    pub over_us: i64,
    /// It was answered.
    pub answered: bool,
    /// Refused with this status; 0 = no answer.
    pub failed: Option<u16>,
    /// The caller gave up waiting for an agent.
    pub gave_up: bool,
    /// Repeated requests.
    pub repeats: u32,
    /// What the caller heard.
    pub audio: Option<Audio>,
}

/// What one side heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audio {
    /// Packets.
    pub packets: u64,
    /// Sequence numbers that never came.
    pub lost: u64,
    /// Packets that came twice or too late.
    pub repeated: u64,
    /// The longest time without a packet, from 200 ms on.
    pub gap_us: u64,
    /// The other side's tone was heard.
    pub tone: bool,
}

impl Audio {
    /// What was heard between two moments.
    pub fn of(heard: &Heard, since: Instant, until: Instant) -> Self {
        Self {
            packets: heard.packets,
            lost: heard.lost,
            repeated: heard.repeated,
            gap_us: micros(heard.longest(since, until)),
            tone: heard.tone.is_some(),
        }
    }
}

/// A second of a worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Beat {
    /// Which, from 0.
    pub second: u64,
    /// Calls that were due.
    pub due: u64,
    /// Calls that were not started, because too many were under way.
    pub not_started: u64,
    /// Calls under way at its end.
    pub live: u64,
    /// How late INVITEs went out.
    pub late: Hist,
    /// Intended moment to 180.
    pub ringing: Hist,
    /// Intended moment to 200.
    pub setup: Hist,
    /// `accept` to its answer.
    pub accept: Hist,
    /// Processor time that the generator used, seconds.
    pub cpu_s: f64,
}

/// Microseconds of a duration.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds from one moment to another, negative when it was before.
pub fn since(start: Instant, at: Instant) -> i64 {
    let signed = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    match at.checked_duration_since(start) {
        Some(after) => signed(after),
        None => -signed(start.duration_since(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_leave_the_rest_as_it_is() {
        let text = "name: x\ncallers:\n  phases: [ { for: 10s, rate: 4, to_rate: 8 } ]\nevents:\n  - { at: 4s, run: [ls] }\n";
        let changes = Changes { rate: Some(2.0), time: Some(0.5), agents: Some(7), ..Changes::default() };
        let scenario = changes.apply("x", text).unwrap();
        assert_eq!((scenario.phases()[0].from, scenario.phases()[0].to), (8.0, 16.0));
        assert_eq!((scenario.length().as_secs(), scenario.events[0].at.0.as_secs()), (5, 2));
        assert_eq!((scenario.agents.count, scenario.callers.to.as_str()), (7, "support"));
    }

    /// What the command line makes of a scenario is held to the same rules as what is written in it.
    #[test]
    fn a_change_that_makes_no_sense_is_refused() {
        let text = "name: x\nwarm_up: 60s\ncallers:\n  phases: [ { for: 180s, rate: 4 } ]\nexpect: { memory_growth: 1 }\n";
        let refused = |changes: Changes| changes.apply("x.yaml", text).map(drop).unwrap_err().to_string();
        let short = refused(Changes { time: Some(0.9), ..Changes::default() });
        assert!(short.starts_with("x.yaml: expect.memory_growth: growth takes 120 s"), "{short}");
        assert!(short.ends_with("(with what the command line changes)"), "{short}");
        let many = refused(Changes { agents: Some(10_000_000), ..Changes::default() });
        assert!(many.starts_with("x.yaml: agents.count: 10000000 is above"), "{many}");
        let fast = refused(Changes { rate: Some(1e9), ..Changes::default() });
        assert!(fast.contains("callers.phases[0]: 4000000000 calls/s is outside"), "{fast}");
        assert!(Changes { time: Some(1.0), ..Changes::default() }.apply("x.yaml", text).is_ok());
    }

    #[test]
    fn moments_before_the_beginning_are_negative() {
        let start = Instant::now() + Duration::from_secs(10);
        assert_eq!(since(start, start - Duration::from_millis(3)), -3_000);
        assert_eq!(since(start, start + Duration::from_millis(3)), 3_000);
    }
}
