//! Who campaigns when the cluster has no coordinator.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use trunkline_cluster_core::{
    Effect, Holdings, Incarnation, Input, Machine, NodeIdentity, NodeRecord, Policy, Seen,
};

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn identity(id: &str) -> NodeIdentity {
    NodeIdentity { id: id.parse().unwrap(), incarnation: Incarnation(1) }
}

fn record(id: &str) -> NodeRecord {
    serde_json::from_value(
        serde_json::json!({ "registration": 0, "address": id, "roles": ["call", "acd"], "since_us": 0 }),
    )
    .unwrap()
}

/// A registered node of a cluster of two that is coordinated by `leader`.
fn member(id: &str, leader: &str) -> Machine {
    let mut machine = Machine::new(identity(id), record(id), Policy::of(at(3_000)));
    machine.handle(at(0), Input::Connected(true));
    machine.handle(at(0), Input::Join);
    let members = ["a", "b"].map(|id| Seen::Node(identity(id), Some(record(id))));
    let leader = Seen::Leader(Some((identity(leader), 5)));
    machine.handle(at(1), Input::Listed(5, members.into_iter().chain([leader]).collect()));
    let (revision, until, holdings) = (5, at(60_000), Holdings::default());
    machine.handle(at(2), Input::Registered { revision, until, holdings });
    machine
}

fn campaigns(machine: &mut Machine, ms: u64) -> bool {
    machine.handle(at(ms), Input::Tick).contains(&Effect::Campaign)
}

/// A coordinator whom others depose while it reaches the store does not campaign against them: found by the simulator, in
/// which both sides deposed and elected sixty times a second and nothing was ever assigned.
#[test]
fn who_was_deposed_leaves_the_election_to_the_others() {
    let mut deposed = member("a", "a");
    assert_eq!(deposed.elected(), Some(5));
    let effects = deposed.handle(at(100), Input::Watched(6, vec![Seen::Leader(None)]));
    assert!(!effects.contains(&Effect::Campaign) && deposed.elected().is_none());
    assert!(!campaigns(&mut deposed, 2_000));
    // The others do so at once.
    let mut other = member("b", "a");
    let effects = other.handle(at(100), Input::Watched(6, vec![Seen::Leader(None)]));
    assert!(effects.contains(&Effect::Campaign) || campaigns(&mut other, 300));
    // Alone it takes over again after a lease's life.
    assert!(campaigns(&mut deposed, 3_200));
}

/// A coordinator that is cut off from the store can neither plan nor probe: it waits for the store and does not look every
/// moment whether it is back.
#[test]
fn who_is_cut_off_from_the_store_waits_for_it() {
    let mut machine = member("a", "a");
    assert_eq!(machine.elected(), Some(5));
    assert!(machine.next_deadline(at(2)).is_some(), "a plan is due");
    machine.handle(at(3), Input::Connected(false));
    for ms in [3, 500, 20_000] {
        machine.handle(at(ms), Input::Tick);
        let next = machine.next_deadline(at(ms));
        assert!(next.is_none_or(|next| next > at(ms)), "at {ms} ms it wants to be woken at {next:?}");
    }
    let effects = machine.handle(at(20_001), Input::Connected(true));
    assert!(!effects.is_empty(), "what was due is done once it is back");
}
