//! No caller lost, order of service, waiting times.

use std::collections::{BTreeMap, BTreeSet};

use super::{Promise, Rules, Violation, violation};
use crate::history::{Entry, What};

#[derive(Debug, Default)]
struct Caller {
    called: bool,
    connected: Option<u64>,
    refused: Option<u16>,
    hung_up: bool,
    ended: Option<u64>,
    agent_hung_up: bool,
    rang: Option<u64>,
    entered_ms: BTreeSet<i64>,
}

pub(super) fn check(history: &[Entry], rules: &Rules, found: &mut Vec<Violation>) {
    let callers = callers(history, rules);
    let mut cut_off = Vec::new();
    for (caller, seen) in &callers {
        if let Some(status) = seen.refused {
            if !rules.refused {
                found.push(lost(*caller, &format!("was refused with {status}")));
            }
        } else if seen.called && seen.connected.is_none() && !seen.hung_up {
            found.push(lost(*caller, "got no answer at all"));
        }
        if seen.connected.is_some() && seen.ended.is_some() && !seen.hung_up && !seen.agent_hung_up {
            cut_off.push(*caller);
        }
        if seen.entered_ms.len() > 1 {
            let text = format!("caller {caller} entered at {:?}", seen.entered_ms);
            found.push(violation(Promise::WaitingTime, text));
        }
        waits_since_the_call(*caller, seen, rules, found);
    }
    if cut_off.len() > rules.lost {
        for caller in &cut_off {
            found.push(lost(*caller, "was cut off: the call ended although nobody hung up"));
        }
    }
    order(&callers, rules, found);
}

fn lost(caller: usize, how: &str) -> Violation {
    violation(Promise::NoCallerLost, format!("caller {caller} {how}"))
}

fn callers(history: &[Entry], rules: &Rules) -> BTreeMap<usize, Caller> {
    let mut callers: BTreeMap<usize, Caller> = BTreeMap::new();
    let mut who: BTreeMap<&str, usize> = BTreeMap::new();
    // Whoever is passed on waits anew: the time of the first entry is not theirs any more.
    let mut passed_on: BTreeSet<&str> = BTreeSet::new();
    for entry in history {
        let at = entry.at_ms;
        match &entry.what {
            What::Calls { caller } => callers.entry(*caller).or_default().called = true,
            What::Connected { caller } => {
                callers.entry(*caller).or_default().connected.get_or_insert(at);
            }
            What::Refused { caller, status } => callers.entry(*caller).or_default().refused = Some(*status),
            What::HangsUp { caller } => callers.entry(*caller).or_default().hung_up = true,
            What::Ended { caller } => {
                callers.entry(*caller).or_default().ended.get_or_insert(at);
            }
            What::AgentHangsUp { call_id, .. } => {
                if let Some(caller) = who.get(call_id.as_str()) {
                    callers.entry(*caller).or_default().agent_hung_up = true;
                }
            }
            What::PassesOn { call_id, .. } => _ = passed_on.insert(call_id),
            What::Rings { call, .. } => {
                // Whoever is asked by an agent sees since when that one waits.
                let Some(caller) = call.caller.filter(|_| !call.asked) else { continue };
                who.insert(&call.call_id, caller);
                let seen = callers.entry(caller).or_default();
                seen.rang.get_or_insert(at);
                if !passed_on.contains(call.call_id.as_str()) {
                    seen.entered_ms.insert(call.entered_ms);
                }
            }
            _ => {}
        }
    }
    callers.retain(|caller, seen| seen.called && !rules.ignored.contains(caller));
    callers
}

fn waits_since_the_call(caller: usize, seen: &Caller, rules: &Rules, found: &mut Vec<Violation>) {
    let (Some(connected), Some(entered)) = (seen.connected, seen.entered_ms.first()) else { return };
    let connected = rules.begun_unix_ms + i64::try_from(connected).unwrap_or(i64::MAX);
    let late = entered - connected;
    if u128::from(late.unsigned_abs()) > rules.entered_within.as_millis() {
        let text = format!("caller {caller} waits since {late} ms after the call was answered");
        found.push(violation(Promise::WaitingTime, text));
    }
}

/// Whoever entered earlier and still waited is offered first. Places are compared by the time of entry that the system
/// committed; equal times are in any order.
fn order(callers: &BTreeMap<usize, Caller>, rules: &Rules, found: &mut Vec<Violation>) {
    let slack = u64::try_from(rules.order_within.as_millis()).unwrap_or(u64::MAX);
    let mut rang: Vec<(i64, u64, usize)> = callers
        .iter()
        .filter_map(|(caller, seen)| Some((*seen.entered_ms.first()?, seen.rang?, *caller)))
        .collect();
    rang.sort_unstable();
    // From the last place to the first: the earliest ring of anybody who entered later.
    let mut later: Option<(u64, usize, i64)> = None;
    for (entered, at, caller) in rang.into_iter().rev() {
        if let Some((overtook, other, others)) =
            later.filter(|(ring, _, e)| *e > entered && ring + slack < at)
        {
            let text = format!(
                "caller {other} (entered at {others}) rang at {overtook} ms, {} ms before caller {caller} (entered at \
                 {entered})",
                at - overtook
            );
            found.push(violation(Promise::Order, text));
        }
        if later.is_none_or(|(ring, ..)| at < ring) {
            later = Some((at, caller, entered));
        }
    }
}
