//! Proves the machine against seeded schedules: joins, losses, drains, pauses, partitions and outages of the store and of the
//! journal. In every step, no two nodes hold a shard at the same epoch, nothing is opened that is still up, and nothing is
//! held before it is rebuilt (`model` asserts it). Afterwards everything heals within a bound, and then nothing moves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod model;

use std::time::Duration;

use model::{Model, TTL, ms};
use rand::Rng;
use trunkline_cluster_core::{Input, Policy};
use trunkline_types::Feature;

const HEALED: Duration = Duration::from_secs(40);

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let more = std::env::var("TRUNKLINE_SEEDS").ok().and_then(|text| text.parse().ok());
    let first = std::env::var("TRUNKLINE_SEED").ok().and_then(|text| text.parse().ok());
    match first {
        Some(seed) => seed..seed + 1,
        None => 0..more.unwrap_or(count),
    }
}

fn cluster(seed: u64, nodes: usize) -> Model {
    let mut model = Model::new(seed);
    for _ in 0..nodes {
        model.join();
    }
    model.run_until("all shards are held", HEALED, |model| model.is_even(nodes));
    model
}

/// Nothing moves for a while.
fn is_quiet(model: &mut Model) {
    // Answers that were lost are asked for again, leases that ended unseen are replaced.
    model.run(model.now + TTL * 4);
    let (moved, writes, log) = (model.moved(), model.store.writes, model.store.log.len());
    model.wakes = 0;
    model.run(model.now + Duration::from_secs(20));
    let news: Vec<_> = model.store.log[log..].iter().map(|(_, seen)| format!("{seen:.0?}")).collect();
    assert_eq!(
        (model.moved(), model.store.writes),
        (moved, writes),
        "written without a cause: {news:?}\n{}",
        model.describe()
    );
    assert!(model.wakes < 20 * model.nodes.len() as u64, "{} wakes in 20 s of peace", model.wakes);
}

#[test]
fn a_join_moves_what_makes_it_even_and_a_loss_what_is_lost() {
    for seed in seeds(6) {
        println!("seed {seed}");
        let nodes = 2 + (seed % 5) as usize;
        let mut model = cluster(seed, nodes);
        is_quiet(&mut model);
        let before = model.moved();
        model.join();
        model.run_until("even", HEALED, |model| model.is_even(nodes + 1));
        let moved = model.moved() - before;
        assert!(moved <= 4_096 / (nodes as u64 + 1) + 2, "{moved} moves for a join to {nodes}");
        is_quiet(&mut model);

        let (before, victim) = (model.moved(), model.random.random_range(0..=nodes));
        let lost = model.nodes[victim].actors.len() as u64;
        model.kill(victim);
        let took = model.run_until("even", TTL * 3, |model| model.is_even(nodes));
        assert!(took >= ms(1_000), "nobody can know at once");
        assert_eq!(model.moved() - before, lost, "only what was lost moves");
        is_quiet(&mut model);
    }
}

#[test]
fn two_observers_are_quicker_than_a_lease_and_one_is_not_believed() {
    for seed in seeds(16) {
        println!("seed {seed}");
        let mut model = cluster(seed, 4);
        let victim = model.random.random_range(0..4);
        let id = model.nodes[victim].machine.me().id.clone();
        // Its links break for some reason, and it lives.
        for n in (0..4).filter(|n| *n != victim) {
            model.input(n, Input::Suspect(id.clone()));
        }
        is_quiet(&mut model);
        model.kill(victim);
        for n in (0..4).filter(|n| *n != victim) {
            model.input(n, Input::Suspect(id.clone()));
        }
        // Also when it coordinates.
        model.run_until("others have its shards", ms(2_500), Model::is_served);
        model.run_until("even", HEALED, |model| model.is_even(3));
    }
}

#[test]
fn a_drain_empties_a_node_in_steps_and_an_operator_may_end_it() {
    for seed in seeds(6) {
        println!("seed {seed}");
        let mut model = cluster(seed, 4);
        let (n, before) = (model.random.random_range(0..4), model.moved());
        let had = model.nodes[n].actors.len() as u64;
        model.drain(n, true);
        model.run_until("empty", HEALED, |model| model.is_even(3) && model.nodes[n].actors.is_empty());
        assert_eq!(model.moved() - before, had);
        is_quiet(&mut model);
        model.drain(n, false);
        model.run_until("even", HEALED, |model| model.is_even(4));
        // All drain: nobody has anywhere to give to, and what a lost node had is taken all the same.
        (0..4).for_each(|n| model.drain(n, true));
        is_quiet(&mut model);
        model.kill(n);
        model.run_until("nothing is nobody's", HEALED, |model| model.is_settled());
    }
}

/// The store stops for a while and ends all leases at once. Gives the moves.
fn mass_expiry(seed: u64, nodes: usize, policy: Policy) -> u64 {
    let mut model = Model::with(seed, policy);
    (0..nodes).for_each(|_| _ = model.join());
    model.run_until("all shards are held", HEALED, |model| model.is_even(nodes));
    let before = model.moved();
    model.store.up = false;
    let long = ms(model.random.random_range(5_000..60_000));
    model.run(model.now + long);
    assert!(model.nodes.iter().all(|node| node.actors.len() >= 4_096 / nodes - 1), "everybody serves on");
    model.store.up = true;
    model.run(model.now + TTL * 5);
    model.run_until("settled", HEALED, |model| model.is_even(nodes));
    model.moved() - before
}

#[test]
fn when_all_leases_end_at_once_nothing_moves() {
    for seed in seeds(12) {
        println!("seed {seed}");
        // Also when it takes as long as with hundreds of nodes until all have registered again.
        let (nodes, spacing) = if seed % 2 == 0 { (3 + (seed % 6) as usize, ms(20)) } else { (24, ms(300)) };
        assert_eq!(mass_expiry(seed, nodes, Policy { spacing, ..Policy::of(TTL) }), 0);
    }
}

#[test]
fn a_store_that_was_down_finds_the_truth_afterwards() {
    for seed in seeds(8) {
        println!("seed {seed}");
        let mut model = cluster(seed, 6);
        let before = model.moved();
        model.store.up = false;
        let pause = ms(model.random.random_range(0..20_000));
        model.run(model.now + pause);
        let lost = (model.nodes[2].actors.len() + model.nodes[4].actors.len()) as u64;
        model.kill(2);
        model.kill(4);
        model.run(model.now + ms(20_000));
        assert_eq!(model.moved(), before, "nobody can decide anything");
        model.store.up = true;
        model.run_until("only the living have shards", HEALED, |model| model.is_even(4));
        assert_eq!(model.moved() - before, lost, "only what the dead had has moved");
        is_quiet(&mut model);
    }
}

#[test]
fn a_paused_owner_is_fenced_and_joins_again() {
    for seed in seeds(8) {
        println!("seed {seed}");
        let mut model = cluster(seed, 3);
        let n = model.random.random_range(0..3);
        model.pause(n, TTL * 3);
        model.run_until("the others have its shards", TTL * 3, |model| {
            (0..3).filter(|other| *other != n).map(|other| model.nodes[other].actors.len()).sum::<usize>()
                == 4_096
        });
        model.run_until("even", HEALED, |model| model.is_even(3));
        is_quiet(&mut model);
    }
}

/// Any mixture of faults. Afterwards everything heals, and stays.
fn chaos(seed: u64) {
    let mut model = cluster(seed, 3);
    model.host_fails = true;
    for _ in 0..model.random.random_range(3..12) {
        let n = model.random.random_range(0..model.nodes.len());
        match model.random.random_range(0..12) {
            0 => model.kill(n),
            1 if !model.nodes[n].alive => model.restart(n),
            2 => {
                model.kill(n);
                model.restart(n);
            }
            3 => {
                let long = ms(model.random.random_range(500..15_000));
                model.pause(n, long);
            }
            4 => model.nodes[n].cut_from_store = true,
            5 => model.nodes[n].cut_from_nodes = true,
            6 => (model.nodes[n].cut_from_store, model.nodes[n].cut_from_nodes) = (false, false),
            7 => {
                let drain = model.random.random();
                model.drain(n, drain);
            }
            8 => model.store.up = !model.store.up,
            9 => model.journal_up = !model.journal_up,
            10 if model.nodes.len() < 7 => _ = model.join(),
            _ => {
                let id = model.nodes[n].machine.me().id.clone();
                let by = model.random.random_range(0..model.nodes.len());
                model.input(by, Input::Suspect(id));
            }
        }
        let long = ms(model.random.random_range(10..6_000));
        model.run(model.now + long);
    }
    (model.store.up, model.journal_up, model.host_fails) = (true, true, false);
    for n in 0..model.nodes.len() {
        let node = &mut model.nodes[n];
        (node.cut_from_store, node.cut_from_nodes) = (false, false);
        node.paused_until = node.paused_until.min(model.now);
        if !model.nodes[n].alive {
            model.restart(n);
        }
        model.drain(n, false);
    }
    let all = model.nodes.len();
    // One that was taken out again and again comes back after up to eight lives of a lease.
    model.run_until("even", HEALED * 2, |model| model.is_even(all));
    is_quiet(&mut model);
}

#[test]
fn whatever_happens_it_heals_and_stays() {
    for seed in seeds(40) {
        println!("seed {seed}");
        chaos(seed);
    }
}

#[test]
fn a_loss_that_is_trusted_without_the_brake_moves_what_lives() {
    // The brake and the probes are what the test above rests on: without them it fails.
    let policy = Policy { mass_per_cent: 100, ..Policy::of(TTL) };
    let moved: u64 = (0..4)
        .map(|seed| {
            let mut model = Model::with(seed, policy.clone());
            (0..4).for_each(|_| _ = model.join());
            model.run_until("all shards are held", HEALED, |model| model.is_even(4));
            let before = model.moved();
            // Nobody reaches anybody, as when the network is gone with the store.
            model.nodes.iter_mut().for_each(|node| node.cut_from_nodes = true);
            model.store.up = false;
            model.run(model.now + TTL * 3);
            model.store.up = true;
            model.run(model.now + TTL);
            model.nodes.iter_mut().for_each(|node| node.cut_from_nodes = false);
            model.run_until("settled", HEALED * 2, |model| model.is_even(4));
            model.moved() - before
        })
        .sum();
    assert!(moved > 0, "mass losses are trusted when the brake is off");
}

#[test]
fn one_who_is_cut_off_is_taken_out_and_its_word_weighs_nothing() {
    for seed in seeds(12) {
        println!("seed {seed}");
        let mut model = cluster(seed, 3);
        let n = model.random.random_range(0..3);
        // It reaches the store and nobody else; everybody suspects whom it does not reach.
        model.nodes[n].cut_from_nodes = true;
        for by in 0..3 {
            for of in (0..3).filter(|of| *of != by && (by == n || *of == n)) {
                let id = model.nodes[of].machine.me().id.clone();
                model.input(by, Input::Suspect(id));
            }
        }
        let lives = |model: &Model| (0..3).filter(|m| *m != n).all(|m| model.nodes[m].actors.len() == 2_048);
        model.run_until("the other two have all shards", TTL * 2, lives);
        model.nodes[n].cut_from_nodes = false;
        model.run_until("even", HEALED, |model| model.is_even(3));
        is_quiet(&mut model);
    }
}

#[test]
fn an_owner_learns_that_a_node_with_an_old_map_has_sealed_over_it() {
    for seed in seeds(12) {
        println!("seed {seed}");
        let mut model = cluster(seed, 3);
        // Nobody appends anything: only the machines can find out.
        model.appends = false;
        let n = model.random.random_range(0..3);
        let far = (0..3).find(|m| *m != n).unwrap();
        let shard = *model.nodes[far].actors.keys().next().unwrap();
        // The old map's seal: it succeeds in the journal, and its answer comes to a node that does not own the shard.
        model.seal_late(n, shard);
        model.run_until("its owner has sealed it again", HEALED, |model| model.is_settled());
    }
}

/// A node of the version before is in a cluster that is being upgraded.
fn mixed(seed: u64) -> Model {
    let mut model = Model::with(seed, Policy { raise_after: Duration::from_secs(30), ..Policy::of(TTL) });
    model.store.gate = Feature::FIRST;
    model.features = Feature::FIRST;
    model.join();
    model.features = Feature::LATEST;
    model.join();
    model.join();
    model.run_until("all shards are held", HEALED, |model| model.is_even(3));
    model
}

#[test]
fn the_gate_waits_for_the_last_node_and_then_for_a_way_back() {
    for seed in seeds(8) {
        println!("seed {seed}");
        let mut model = mixed(seed);
        model.run(model.now + Duration::from_secs(120));
        assert_eq!(model.store.gate, Feature::FIRST, "one node cannot read what is new");

        // Gone is not upgraded: it may come back as it was.
        model.kill(0);
        model.run(model.now + Duration::from_secs(5));
        assert_eq!(model.store.gate, Feature::FIRST);
        model.restart(0);
        let upgraded = model.now;
        model.run_until("the gate is raised", Duration::from_secs(60), |model| {
            model.store.gate == Feature::LATEST
                && model.nodes.iter().all(|node| node.machine.map().gate == Feature::LATEST)
        });
        assert!(model.now - upgraded >= Duration::from_secs(30), "there was no way back");
        is_quiet(&mut model);
    }
}

#[test]
fn a_node_that_cannot_read_what_is_written_gives_everything_up() {
    for seed in seeds(8) {
        println!("seed {seed}");
        let mut model = cluster(seed, 2);
        model.features = Feature::FIRST;
        let old = model.join();
        model.run(model.now + Duration::from_secs(30));
        assert!(model.nodes[old].machine.is_outdated());
        assert!(model.nodes[old].actors.is_empty(), "nothing acts where the journal cannot be read");
        model.run_until("the others have everything", HEALED, |model| model.is_even(2));
    }
}
