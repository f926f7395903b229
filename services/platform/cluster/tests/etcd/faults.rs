//! What etcd's own outages must not do.

use std::{sync::atomic::Ordering, time::Duration};

use trunkline_cluster::{Placement, testing::Etcd};

use crate::nodes::{Node, TTL, World, agreed, id, settled, stays, three, until};

/// `TRUNKLINE_LONG=1` runs the outages as long as operators know them.
fn long() -> bool {
    std::env::var_os("TRUNKLINE_LONG").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_of_etcd_is_stopped_every_lease_ends_and_nothing_moves() {
    let (etcd, world) = (Etcd::start(3).await, World::new().await);
    let nodes = three(&world, &etcd).await;
    let (opened, closed) = (world.opened.load(Ordering::Relaxed), world.closed.load(Ordering::Relaxed));
    let held: Vec<_> = nodes.iter().map(|node| node.placement.held_shards()).collect();
    let unmoved = || {
        let same = nodes.iter().zip(&held).all(|(node, held)| node.placement.held_shards() == *held);
        same && nodes.iter().all(|node| node.placement.nodes().len() == 3)
    };
    etcd.pause_all();
    stays(Duration::from_secs(10), "everybody holds what it held, and knows everybody", unmoved).await;
    assert!(nodes[0].placement.problem().is_some(), "operators see it");
    etcd.resume_all();
    stays(TTL * 3, "nothing moves afterwards", unmoved).await;
    until("all maps agree", || agreed(&nodes) && nodes[0].placement.problem().is_none()).await;
    assert_eq!(
        (world.opened.load(Ordering::Relaxed), world.closed.load(Ordering::Relaxed)),
        (opened, closed)
    );
    let lost: u64 = nodes.iter().map(|node| node.metrics.leases_lost.get()).sum();
    println!("{lost} leases were lost");

    // And the cluster works: what is lost now moves.
    let mut nodes = nodes;
    nodes.remove(2).kill(&world);
    settled(&nodes, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_everybody_serves_on_and_ghosts_are_gone_afterwards() {
    let (mut etcd, world) = (Etcd::start(3).await, World::new().await);
    let mut nodes = three(&world, &etcd).await;
    let opened = world.opened.load(Ordering::Relaxed);
    etcd.kill(0);
    etcd.kill(1);
    // Somebody dies meanwhile: nobody can know.
    let lost = nodes.remove(2).placement.clone();
    let shards = lost.held_shards();
    drop(lost);
    let unmoved = || nodes.iter().map(Node::all).sum::<usize>() == 4_096 - shards.len();
    let outage = if long() { Duration::from_secs(60) } else { TTL * 4 };
    stays(outage, "the others hold what they held", unmoved).await;
    assert_eq!(world.opened.load(Ordering::Relaxed), opened);
    etcd.restart(0);
    etcd.restart(1);
    settled(&nodes, 2).await;
    assert!(nodes[0].placement.node(&id(3)).is_none(), "the ghost is gone");
    let moved = world.opened.load(Ordering::Relaxed) - opened;
    assert_eq!(moved as usize, shards.len(), "only its shards moved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_of_etcd_is_not_missed() {
    let (mut etcd, world) = (Etcd::start(3).await, World::new().await);
    let nodes = three(&world, &etcd).await;
    let held: Vec<_> = nodes.iter().map(|node| node.placement.held_shards()).collect();
    let opened = world.opened.load(Ordering::Relaxed);
    for member in 0..3 {
        etcd.kill(member);
        stays(TTL * 2, "nothing moves", || {
            nodes.iter().zip(&held).all(|(node, held)| node.placement.held_shards() == *held)
        })
        .await;
        etcd.restart(member);
        etcd.until_it_answers().await;
    }
    until("all maps agree", || agreed(&nodes)).await;
    assert_eq!(world.opened.load(Ordering::Relaxed), opened);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_compaction_everything_is_read_again() {
    let (mut etcd, world) = (Etcd::start(1).await, World::new().await);
    let nodes = [Node::start(&world, &etcd, 1, &crate::nodes::CALL_ACD).await];
    settled(&nodes, 1).await;
    let mut client = etcd_client::Client::connect(etcd.endpoints(), None).await.unwrap();
    // While the node is cut off, what it has not seen is compacted away.
    etcd.kill(0);
    until("the node notices", || nodes[0].placement.problem().is_some()).await;
    etcd.restart(0);
    etcd.until_it_answers().await;
    let mut revision = 0;
    for _ in 0..50 {
        revision = client.put("/trunkline/drain/n1", "", None).await.unwrap().header().unwrap().revision();
    }
    client.compact(revision, None).await.unwrap();
    until("the node reads on", || {
        nodes[0].placement.problem().is_none()
            && nodes[0].placement.node(&id(1)).is_some_and(|node| node.draining)
    })
    .await;
    assert_eq!(nodes[0].all(), 4_096, "there is nobody else to have the shards");
}
