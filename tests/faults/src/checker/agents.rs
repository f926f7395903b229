//! One agent a call, one call an agent: from what agents' pages showed.

use std::{collections::BTreeMap, time::Duration};

use super::{Promise, Rules, Violation, violation};
use crate::history::{Entry, What};

/// A call in front of an agent for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub agent: String,
    pub call_id: String,
    pub state: State,
    pub from_ms: u64,
    pub to_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ringing,
    Talking,
    /// In front of an agent whom another one asks, who has the caller.
    Asked,
}

fn state(name: &str, asked: bool) -> Option<State> {
    match name {
        "ringing" | "connecting" | "talking" if asked => Some(State::Asked),
        "ringing" => Some(State::Ringing),
        "connecting" | "talking" => Some(State::Talking),
        _ => None,
    }
}

pub(super) fn check(history: &[Entry], rules: &Rules, found: &mut Vec<Violation>) {
    let held = held(history);
    for (n, one) in held.iter().enumerate() {
        for other in held.iter().skip(n + 1).filter(|other| other.call_id == one.call_id) {
            let both = one.to_ms.min(other.to_ms).saturating_sub(one.from_ms.max(other.from_ms));
            let passed_on = on_purpose(history, one, other) || on_purpose(history, other, one);
            if other.agent != one.agent && !passed_on && Duration::from_millis(both) > rules.told_within {
                let text = format!(
                    "call {} is {:?} at {} ({} to {} ms) and {:?} at {} ({} to {} ms)",
                    one.call_id,
                    one.state,
                    one.agent,
                    one.from_ms,
                    one.to_ms,
                    other.state,
                    other.agent,
                    other.from_ms,
                    other.to_ms
                );
                found.push(violation(Promise::OneAgentACall, text));
            }
        }
    }
    picked_up_twice(history, found);
    one_offer_one_agent(history, found);
}

/// The second one came because the first one wished so: asked for while the first one has the caller, or with the caller
/// from when the first one had decided to leave. (Nobody has the caller beside another one who wishes to keep it.)
fn on_purpose(history: &[Entry], first: &Held, second: &Held) -> bool {
    let wished = history.iter().filter(|entry| entry.at_ms <= second.from_ms);
    let decided = |what: &What| match what {
        What::Consults { agent, call_id } => {
            second.state == State::Asked && *agent == first.agent && *call_id == first.call_id
        }
        What::PassesOn { agent, call_id } => *agent == first.agent && *call_id == first.call_id,
        _ => false,
    };
    wished.map(|entry| &entry.what).any(decided)
}

/// When which call was in front of whom. A page that is offline shows nothing: its time ends with the connection unless
/// the page shows the same call in the same state when it is back.
pub(super) fn held(history: &[Entry]) -> Vec<Held> {
    let mut open: BTreeMap<&str, (Held, Option<u64>)> = BTreeMap::new();
    let mut done = Vec::new();
    for entry in history {
        match &entry.what {
            What::State { agent, state: name, call } => {
                let asked = call.as_ref().is_some_and(|call| call.asked);
                let now = state(name, asked).zip(call.as_ref().map(|call| call.call_id.as_str()));
                let goes_on =
                    open.get(agent.as_str()).is_some_and(|(h, _)| now == Some((h.state, h.call_id.as_str())));
                if goes_on {
                    if let Some((_, lost)) = open.get_mut(agent.as_str()) {
                        *lost = None;
                    }
                    continue;
                }
                done.extend(open.remove(agent.as_str()).map(|held| close(held, entry.at_ms)));
                if let Some((state, call_id)) = now {
                    let held = Held {
                        agent: agent.clone(),
                        call_id: call_id.to_owned(),
                        state,
                        from_ms: entry.at_ms,
                        to_ms: entry.at_ms,
                    };
                    open.insert(agent, (held, None));
                }
            }
            What::Offline { agent, .. } => {
                if let Some((_, lost)) = open.get_mut(agent.as_str()) {
                    lost.get_or_insert(entry.at_ms);
                }
            }
            _ => {}
        }
    }
    let end = history.last().map_or(0, |entry| entry.at_ms);
    done.extend(open.into_values().map(|held| close(held, end)));
    done
}

fn close((held, lost): (Held, Option<u64>), now: u64) -> Held {
    Held { to_ms: lost.unwrap_or(now), ..held }
}

/// Nobody picks up while another call is in front of them.
fn picked_up_twice(history: &[Entry], found: &mut Vec<Violation>) {
    let mut talking: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in history {
        match &entry.what {
            What::State { agent, state: name, call } => {
                match call.as_ref().filter(|call| matches!(state(name, call.asked), Some(State::Talking))) {
                    Some(call) => talking.insert(agent, &call.call_id),
                    None => talking.remove(agent.as_str()),
                };
            }
            What::Offline { agent, .. } => {
                talking.remove(agent.as_str());
            }
            What::Answers { agent, call } | What::Rings { agent, call } => {
                if let Some(other) = talking.get(agent.as_str()).filter(|other| **other != call.call_id) {
                    let text = format!(
                        "{agent} gets call {} at {} ms while talking in call {other}",
                        call.call_id, entry.at_ms
                    );
                    found.push(violation(Promise::OneCallAnAgent, text));
                }
            }
            _ => {}
        }
    }
}

/// An offer is made to one agent, and taken by one.
fn one_offer_one_agent(history: &[Entry], found: &mut Vec<Violation>) {
    let mut rang: BTreeMap<&str, &str> = BTreeMap::new();
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in history {
        let (seen, agent, call, verb) = match &entry.what {
            What::Rings { agent, call } => (&mut rang, agent, call, "rings at"),
            What::Answers { agent, call } => (&mut taken, agent, call, "is taken by"),
            _ => continue,
        };
        if let Some(other) = seen.insert(&call.offer_id, agent).filter(|other| *other != agent) {
            let text = format!("offer {} of call {} {verb} {other} and {agent}", call.offer_id, call.call_id);
            found.push(violation(Promise::OneAgentACall, text));
        }
    }
}
