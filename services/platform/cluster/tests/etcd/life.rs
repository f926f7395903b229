//! Joins, losses, drains, and what operators see.

use std::time::Duration;

use trunkline_cluster::{Placement, Role, testing::Etcd};
use trunkline_types::{Epoch, ShardGroup, ShardId};

use crate::nodes::{CALL_ACD, Node, TTL, World, agreed, id, settled, three, until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_drain_and_leave_and_every_shard_has_one_owner() {
    let (etcd, world) = (Etcd::start(3).await, World::new().await);
    let mut nodes = vec![Node::start(&world, &etcd, 1, &CALL_ACD).await];
    settled(&nodes, 1).await;

    // A join moves what makes it even, and nothing else.
    nodes.push(Node::start(&world, &etcd, 2, &CALL_ACD).await);
    settled(&nodes, 2).await;
    let moved = world.opened.load(std::sync::atomic::Ordering::Relaxed) - 4_096;
    assert_eq!(moved, 2_048, "moves of the join");

    // Roles decide which shards a node may have; who owns nothing is a member all the same.
    nodes.push(Node::start(&world, &etcd, 3, &[Role::Acd]).await);
    nodes.push(Node::start(&world, &etcd, 4, &[Role::Edge, Role::Media]).await);
    until("the node for acd has its share", || nodes[2].held(ShardGroup::Acd) == 341 && agreed(&nodes)).await;
    assert_eq!((nodes[2].held(ShardGroup::Call), nodes[3].all()), (0, 0));
    let edge = nodes[0].placement.node(&id(4)).unwrap();
    assert!(edge.has(Role::Media) && !edge.has(Role::Call) && edge.public["http"] == "http://n4");

    // An operator drains a node from another one: it stays a member, and loses its shards in steps.
    nodes[3].placement.set_drain(&id(2), true).await.unwrap();
    until("the drained node is empty", || nodes[1].all() == 0 && agreed(&nodes)).await;
    assert!(nodes[0].placement.node(&id(2)).unwrap().draining);
    assert!(ShardId::all().all(|shard| nodes[0].placement.owner(shard).unwrap().node != id(2)));
    let seen = nodes[2].placement.overview();
    let drained = seen.members.iter().find(|member| member.node == "n2").unwrap();
    assert_eq!((drained.state.as_str(), drained.shards_active), ("drained", 0));
    assert_eq!(seen.members.iter().map(|member| member.shards_active).sum::<u32>(), 4_096);
    assert!(
        seen.moves.iter().any(|m| m.reason == "drain" && m.from == "n2" && m.finished_us >= m.started_us)
    );
    assert_eq!((seen.coordinator.as_str(), seen.coordination_problem.as_str()), ("n1", ""));
    nodes[3].placement.set_drain(&id(2), false).await.unwrap();
    until("it has shards again", || nodes[1].all() > 1_500 && agreed(&nodes)).await;

    // The coordinator leaves in order: another one follows, and nobody waits for a lease.
    let first = nodes.remove(0);
    assert!(first.placement.leave(Duration::from_secs(30)).await, "handed over");
    let took = within(TTL, "it is no member any more", || nodes[0].placement.node(&id(1)).is_none()).await;
    println!("gone from the list after {took:?}");
    until("all shards have owners", || agreed(&nodes)).await;
    until("a coordinator", || nodes[0].placement.problem().is_none()).await;
    assert!(matches!(nodes[0].placement.overview().coordinator.as_str(), "n2" | "n3" | "n4"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_loses_its_shards_and_comes_back_as_another_life() {
    let (etcd, world) = (Etcd::start(3).await, World::new().await);
    let mut nodes = three(&world, &etcd).await;
    let (victim, before) = (nodes.remove(2), nodes[0].placement.held_shards());
    let former = victim.placement.local();
    let lost = victim.placement.held_shards();
    let old = victim.placement.held(lost[0]).unwrap();
    victim.kill(&world);
    let took =
        within(TTL * 3, "the others have all shards", || nodes.iter().map(Node::all).sum::<usize>() == 4_096)
            .await;
    println!("shards of a killed node were held again after {took:?} (lease of {TTL:?})");
    settled(&nodes, 2).await;
    assert!(
        before.iter().all(|shard| nodes[0].placement.held(*shard).is_some()),
        "nobody else's shards moved"
    );
    assert!(nodes.iter().any(|node| node.placement.held(lost[0]).is_some_and(|epoch| epoch > old)));

    nodes.push(Node::start(&world, &etcd, 3, &CALL_ACD).await);
    settled(&nodes, 3).await;
    assert!(nodes[2].placement.local().incarnation > former.incarnation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_observers_are_quicker_than_the_lease() {
    let (etcd, world) = (Etcd::start(3).await, World::new().await);
    let mut nodes = three(&world, &etcd).await;
    let victim = nodes.remove(2);
    victim.kill(&world);
    // As the links tell when their connections break.
    nodes.iter().for_each(|node| node.placement.suspect(&id(3)));
    let took = within(TTL, "the others have all shards before the lease ends", || {
        nodes.iter().map(Node::all).sum::<usize>() == 4_096
    })
    .await;
    println!("shards of a killed node were held again after {took:?} (lease of {TTL:?})");
    assert!(nodes[0].placement.node(&id(3)).is_none());

    // One that lives is not taken out, however often links to it break.
    for _ in 0..3 {
        nodes[0].placement.suspect(&id(2));
        crate::nodes::stays(TTL / 4, "it is listed", || nodes[0].placement.node(&id(2)).is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_somebody_else_sealed_is_given_up_and_taken_again() {
    let (etcd, world) = (Etcd::start(1).await, World::new().await);
    let nodes = [Node::start(&world, &etcd, 1, &CALL_ACD).await];
    settled(&nodes, 1).await;
    let shard = ShardId::new(77).unwrap();
    let ours = nodes[0].placement.held(shard).unwrap();
    nodes[0].placement.fenced(shard, ours);
    assert_eq!(nodes[0].placement.held(shard), Some(ours), "our own epoch fences nobody");
    let sealed = world.journal.seal(&[shard], "somebody").await.unwrap()[0].1;
    nodes[0].placement.fenced(shard, sealed);
    assert_eq!(nodes[0].placement.held(shard), None, "at once");
    until("it is held again", || nodes[0].placement.held(shard) == Some(Epoch(sealed.0 + 1))).await;
    until("and published", || agreed(&nodes)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_coordinator_is_followed_before_its_lease_ends() {
    let (etcd, world) = (Etcd::start(3).await, World::new().await);
    let mut nodes = three(&world, &etcd).await;
    let leads = nodes[0].placement.overview().coordinator;
    let at = nodes.iter().position(|node| node.placement.local().id.as_str() == leads).unwrap();
    let victim = nodes.remove(at);
    let gone = victim.placement.local().id;
    victim.kill(&world);
    nodes.iter().for_each(|node| node.placement.suspect(&gone));
    let took = within(TTL, "the others have all shards before the lease ends", || {
        nodes.iter().map(Node::all).sum::<usize>() == 4_096
    })
    .await;
    println!("shards of the coordinator's node were held again after {took:?} (lease of {TTL:?})");
    settled(&nodes, 2).await;
}
