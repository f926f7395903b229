//! Judges a history by the promises alone. It knows nothing of shards, epochs and nodes.
//!
//! | promise | what violates it |
//! |---|---|
//! | one agent a call | two agents ring or talk with the same call at the same time |
//! | one call an agent | an agent picks up while another call is in front of them; records of one agent that overlap |
//! | no caller lost | a call that was accepted ends although neither side hung up; an INVITE without any answer |
//! | order of service | a caller rings first although somebody who waited longer had not been offered yet |
//! | waiting times go on | the time of entry that agents see changes, or is not the time of the call |
//! | no record lost or doubled | not exactly one finished record for each call, or one with the wrong agent |
//! | nobody stuck | agents that do not come out of a state, calls that only the system believes in |

mod agents;
mod callers;
mod records;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::history::{Entry, What};

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// No call with two agents at once.
    OneAgentACall,
    /// No agent with two calls at once.
    OneCallAnAgent,
    /// No caller lost.
    NoCallerLost,
    /// Order of service kept.
    Order,
    /// Waiting times go on.
    WaitingTime,
    /// No record lost or doubled.
    Records,
    /// Nobody stuck.
    NobodyStuck,
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.text)
    }
}

/// What a scenario allows, and how exact observers are.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Two observers learn of one moment within this.
    pub told_within: Duration,
    /// An agent who is told about a caller so much earlier than another was not told in the order of the places.
    pub order_within: Duration,
    /// A call that was answered has its place in the queue within this. Longer only where nothing could reach the queue.
    pub entered_within: Duration,
    /// Conversations that may be cut off (the loss of a media node may cost 1 %).
    pub lost: usize,
    /// New calls may be refused: their INVITE came while nothing could be committed.
    pub refused: bool,
    /// The harness's wall clock at the beginning of the history, milliseconds since the Unix epoch.
    pub begun_unix_ms: i64,
    /// Callers that were not part of this run.
    pub ignored: BTreeSet<usize>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            told_within: Duration::from_millis(500),
            order_within: Duration::from_secs(1),
            entered_within: Duration::from_secs(5),
            lost: 0,
            refused: false,
            begun_unix_ms: 0,
            ignored: BTreeSet::new(),
        }
    }
}

/// All violations in a history.
pub fn check(history: &[Entry], rules: &Rules) -> Vec<Violation> {
    let mut found = Vec::new();
    agents::check(history, rules, &mut found);
    callers::check(history, rules, &mut found);
    records::check(history, rules, &mut found);
    stuck(history, &mut found);
    found
}

fn violation(promise: Promise, text: impl Into<String>) -> Violation {
    Violation { promise, text: text.into() }
}

/// States in which an agent can wait for ever by their own will.
const FREE: [&str; 3] = ["ready", "not_ready", "signed_out"];

fn stuck(history: &[Entry], found: &mut Vec<Violation>) {
    for entry in history {
        match &entry.what {
            What::Settled { agent, state } if !FREE.contains(&state.as_str()) => {
                found.push(violation(Promise::NobodyStuck, format!("{agent} is still {state}")));
            }
            What::Rest { calls, waiting } if *calls > 0 || *waiting > 0 => {
                let text = format!("{calls} calls and {waiting} waiting after everybody has left");
                found.push(violation(Promise::NobodyStuck, text));
            }
            _ => {}
        }
    }
}
