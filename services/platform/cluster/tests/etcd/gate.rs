//! What older nodes cannot read waits for them.

use std::time::Duration;

use etcd_client::Client;
use serde_json::json;
use trunkline_cluster::{ClusterError, EtcdPlacement, Placement, testing::Etcd};
use trunkline_types::Feature;

use crate::nodes::{CALL_ACD, Node, RAISE_AFTER, World, config, settled, spec, stays, until};

/// As a version before the gate registers: it does not say what it can read.
fn older() -> serde_json::Value {
    json!({ "registration": 1, "address": "10.0.0.9:7400", "roles": [], "version": "older" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_finished_when_the_last_node_can_read_it_and_not_at_once() {
    let (etcd, world) = (Etcd::start(3).await, World::new().await);
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    let mut nodes = vec![Node::start(&world, &etcd, 1, &CALL_ACD).await];
    settled(&nodes, 1).await;
    assert_eq!(nodes[0].placement.gate(), Feature::LATEST, "a new cluster has nobody to wait for");

    // The cluster of an older version, of which one node is left.
    client.put("/trunkline/node/n9/1", older().to_string(), None).await.unwrap();
    client.delete("/trunkline/gate", None).await.unwrap();
    nodes.push(Node::start(&world, &etcd, 2, &CALL_ACD).await);
    settled(&nodes, 2).await;
    let closed = || {
        let first = |node: &Node| node.placement.gate() == Feature::FIRST;
        nodes.iter().all(first) && !nodes[0].placement.may_write(Feature::RecordingPolicy)
    };
    stays(RAISE_AFTER * 3, "n9 cannot read it", closed).await;
    let seen = nodes[0].placement.overview();
    let can = |name: &str| seen.members.iter().find(|member| member.node == name).unwrap().features;
    assert_eq!((seen.gate, can("n9"), can("n1")), (Feature::FIRST, Feature::FIRST, Feature::LATEST));

    // It is upgraded: another life, which says what it can.
    let mut upgraded = older();
    upgraded["features"] = Feature::LATEST.into();
    client.put("/trunkline/node/n9/2", upgraded.to_string(), None).await.unwrap();
    stays(RAISE_AFTER / 2, "one can still go back", closed).await;
    until("everybody may write it", || {
        nodes.iter().all(|node| node.placement.may_write(Feature::RecordingPolicy))
    })
    .await;
    let kept = client.get("/trunkline/gate", None).await.unwrap();
    assert_eq!(kept.kvs()[0].value_str().unwrap(), Feature::LATEST.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_read_what_is_written_stops_and_does_not_start_again() {
    let (etcd, world) = (Etcd::start(3).await, World::new().await);
    let node = Node::start(&world, &etcd, 1, &CALL_ACD).await;
    settled(std::slice::from_ref(&node), 1).await;
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    client.put("/trunkline/gate", (Feature::LATEST + 1).to_string(), None).await.unwrap();
    until("it holds nothing", || node.placement.held_shards().is_empty()).await;
    assert!(node.placement.problem().is_some_and(|problem| problem.contains("upgrade")));

    let config = config(&etcd);
    let again =
        EtcdPlacement::start(&config, spec(2, &CALL_ACD), world.journal.clone(), node.metrics.clone());
    let refused = tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    let Err(refused) = refused else { panic!("it was let in") };
    assert!(matches!(refused, ClusterError::Outdated { .. }), "{refused}");
    assert!(refused.to_string().contains("upgrade this node"), "{refused}");
}
