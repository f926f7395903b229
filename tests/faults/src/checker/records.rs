//! No record lost or doubled, and each tells what was seen.

use std::collections::{BTreeMap, BTreeSet};

use super::{Promise, Rules, Violation, violation};
use crate::history::{Entry, What};

/// Times in records are rounded, and talk begins before the page is told.
const SLACK_MS: i64 = 1_000;

struct Record<'a> {
    call_id: &'a str,
    caller: Option<usize>,
    agent: &'a str,
    ended_ms: Option<i64>,
    talk_ms: i64,
}

pub(super) fn check(history: &[Entry], rules: &Rules, found: &mut Vec<Violation>) {
    let records: Vec<Record<'_>> = history
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Record { call_id, caller, agent, ended_ms, talk_ms, .. } => {
                Some(Record { call_id, caller: *caller, agent, ended_ms: *ended_ms, talk_ms: *talk_ms })
            }
            _ => None,
        })
        .collect();
    // A scenario that ends early has none to show, and fails for its own reason.
    if records.is_empty() {
        return;
    }
    once(history, &records, rules, found);
    agents(history, &records, found);
    overlaps(history, &records, found);
}

fn once(history: &[Entry], records: &[Record<'_>], rules: &Rules, found: &mut Vec<Violation>) {
    let mut count: BTreeMap<usize, usize> = BTreeMap::new();
    for record in records {
        match record.caller {
            Some(caller) => *count.entry(caller).or_default() += 1,
            None => {
                let text = format!("the record {} is of nobody who called", record.call_id);
                found.push(violation(Promise::Records, text));
            }
        }
        if record.ended_ms.is_none() {
            found.push(violation(Promise::Records, format!("the record {} has no end", record.call_id)));
        }
    }
    let connected = history.iter().filter_map(|entry| match entry.what {
        What::Connected { caller } if !rules.ignored.contains(&caller) => Some(caller),
        _ => None,
    });
    for caller in connected {
        match count.get(&caller).copied().unwrap_or(0) {
            1 => {}
            0 => found.push(violation(Promise::Records, format!("caller {caller} has no record"))),
            n => found.push(violation(Promise::Records, format!("caller {caller} has {n} records"))),
        }
    }
}

/// A call that somebody took says who did.
fn agents(history: &[Entry], records: &[Record<'_>], found: &mut Vec<Violation>) {
    let (mut took, mut asked) = (BTreeMap::<&str, &str>::new(), BTreeMap::<&str, &str>::new());
    let mut left: BTreeSet<&str> = BTreeSet::new();
    for entry in history {
        match &entry.what {
            // Whoever is asked gets the caller when the other one leaves.
            What::Answers { agent, call } if call.asked && !left.contains(call.call_id.as_str()) => {
                asked.insert(&call.call_id, agent);
            }
            What::Answers { agent, call } => _ = took.insert(&call.call_id, agent),
            What::PassesOn { call_id, .. } => {
                left.insert(call_id);
                took.extend(asked.remove(call_id.as_str()).map(|agent| (call_id.as_str(), agent)));
            }
            _ => {}
        }
    }
    for record in records {
        if let Some(agent) = took.get(record.call_id).filter(|agent| **agent != record.agent) {
            let text =
                format!("call {} was taken by {agent}, its record says {:?}", record.call_id, record.agent);
            found.push(violation(Promise::Records, text));
        }
    }
}

/// An agent's conversations do not overlap. The end is known and the length; what lies between is hold and talk.
fn overlaps(history: &[Entry], records: &[Record<'_>], found: &mut Vec<Violation>) {
    // The length is of all conversations of a call, of which the last agent had only one.
    let passed_on = |call: &str| {
        history.iter().any(|entry| match &entry.what {
            What::Consults { call_id, .. } | What::PassesOn { call_id, .. } => call_id == call,
            _ => false,
        })
    };
    let mut by_agent: BTreeMap<&str, Vec<(i64, i64, &str)>> = BTreeMap::new();
    let of_one = records.iter().filter(|record| !record.agent.is_empty() && record.talk_ms > 0);
    for record in of_one.filter(|record| !passed_on(record.call_id)) {
        let Some(ended) = record.ended_ms else { continue };
        by_agent.entry(record.agent).or_default().push((ended - record.talk_ms, ended, record.call_id));
    }
    for (agent, mut calls) in by_agent {
        calls.sort_unstable();
        for pair in calls.windows(2) {
            let [(_, ended, one), (began, _, other)] = pair else { continue };
            if *began + SLACK_MS < *ended {
                let text = format!(
                    "the records of {agent} overlap: {other} begins {} ms before {one} ends",
                    ended - began
                );
                found.push(violation(Promise::OneCallAnAgent, text));
            }
        }
    }
}
