//! What placement costs as the cluster grows: moves, time to converge, and writes to the store when a node joins, drains or is
//! lost, with calls spread over the shards. Virtual time; the machines and their messages are real, etcd and the journal are
//! modelled with 1–25 ms a step.
//!
//! `cargo run --release -p trunkline-cluster-core --example scale [NODES [CALLS]]`
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

#[path = "../tests/model/mod.rs"]
mod model;

use std::time::{Duration, Instant};

use model::{Model, TTL};
use trunkline_types::{SHARD_COUNT, ShardGroup};

const LIMIT: Duration = Duration::from_secs(120);

struct Row {
    what: &'static str,
    moves: u64,
    calls: u64,
    served: Duration,
    took: Duration,
    writes: u64,
    peak: u64,
}

/// Calls whose shard changed its owner. They are spread evenly over the shards of the group.
fn calls_moved(moves: u64, calls: u64) -> u64 {
    moves * u64::from(ShardGroup::Call.range().1) / u64::from(SHARD_COUNT) * calls
        / u64::from(ShardGroup::Call.range().1)
}

fn measure(
    model: &mut Model,
    what: &'static str,
    calls: u64,
    among: usize,
    change: impl FnOnce(&mut Model),
) -> Row {
    let (moves, writes) = (model.moved(), model.store.writes);
    model.writes.clear();
    change(model);
    let served = model.run_until(what, LIMIT, Model::is_served);
    let took = served + model.run_until(what, LIMIT, |model| model.is_even(among));
    // What is still published afterwards counts too.
    model.run(model.now + TTL);
    let moves = model.moved() - moves;
    Row {
        what,
        moves,
        calls: calls_moved(moves, calls),
        served,
        took,
        writes: model.store.writes - writes,
        peak: model.writes.values().copied().max().unwrap_or(0),
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse::<u64>().ok());
    let nodes = args.next().unwrap_or(300) as usize;
    let calls = args.next().unwrap_or(100_000);
    let begun = Instant::now();
    let mut model = Model::new(1);
    let mut rows = Vec::new();
    rows.push(measure(&mut model, "all nodes start", 0, nodes, |model| {
        (0..nodes).for_each(|_| _ = model.join())
    }));
    rows.push(measure(&mut model, "a node joins", calls, nodes + 1, |model| _ = model.join()));
    rows.push(measure(&mut model, "a node is killed", calls, nodes, |model| model.kill(nodes / 2)));
    let leader = |model: &Model| {
        let me = model.store.leader.as_ref().map(|(node, ..)| node.clone());
        model.nodes.iter().position(|node| Some(node.machine.me()) == me.as_ref()).unwrap_or(0)
    };
    rows.push(measure(&mut model, "the coordinator is killed", calls, nodes - 1, |model| {
        model.kill(leader(model))
    }));
    rows.push(measure(&mut model, "a node drains", calls, nodes - 2, |model| model.drain(nodes / 3, true)));
    let tenth = nodes / 10;
    rows.push(measure(&mut model, "a tenth is killed", calls, nodes - 2 - tenth, |model| {
        let alive: Vec<_> =
            model.well().map(|(n, _)| n).filter(|n| *n != nodes / 3).skip(5).take(tenth).collect();
        alive.into_iter().for_each(|n| model.kill(n));
    }));
    rows.push(measure(&mut model, "etcd is down for 60 s", calls, nodes - 2 - tenth, |model| {
        model.store.up = false;
        model.run(model.now + Duration::from_secs(60));
        model.store.up = true;
        model.run(model.now + TTL * 2);
    }));
    println!("{nodes} nodes, {calls} calls, {SHARD_COUNT} shards, leases of {TTL:?}\n");
    println!(
        "| event | shards moved | calls moved | all shards served after | even and published after | writes to etcd | most in a second |"
    );
    println!("|---|---|---|---|---|---|---|");
    for Row { what, moves, calls, served, took, writes, peak } in rows {
        let (served, took) = (served.as_secs_f64(), took.as_secs_f64());
        println!("| {what} | {moves} | {calls} | {served:.2} s | {took:.2} s | {writes} | {peak} |");
    }
    println!("\n{:.1} s of computing", begun.elapsed().as_secs_f64());
}
