//! An edge is ready when the calls that it takes have somewhere to go: after a first install, or when everything comes up at
//! once, shards find their owners some seconds after the nodes are members.

use std::time::Duration;

use tokio::time::timeout;
use trunkline_cluster::{Placement, Role};
use trunkline_types::ShardGroup;

use super::health::Health;
use crate::config::NodeConfig;

/// A cluster that cannot get this far is broken elsewhere: then a caller is answered 503, which says more than silence.
const PATIENCE: Duration = Duration::from_secs(60);

/// An edge waits until every shard has an owner who acts.
pub(super) async fn settle(config: &NodeConfig, placement: &dyn Placement, health: &Health) {
    if config.has(Role::Edge) {
        every_shard_has_an_owner(placement, health).await;
    }
}

/// Says meanwhile what is missing.
async fn every_shard_has_an_owner(placement: &dyn Placement, health: &Health) {
    let mut changes = placement.changes();
    let opening = async {
        while let Some(missing) = missing(placement) {
            health.waits(Some(missing));
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    if timeout(PATIENCE, opening).await.is_err() {
        tracing::warn!(missing = missing(placement), "the edge takes calls although not all can be served");
    }
    health.waits(None);
}

/// The shards that nobody acts on, in a sentence; `None` = every one has its owner.
fn missing(placement: &dyn Placement) -> Option<String> {
    let without = |group: ShardGroup| {
        group.shards().filter(|shard| !placement.owner(*shard).is_some_and(|owner| owner.active)).count()
    };
    let (acd, call) = (without(ShardGroup::Acd), without(ShardGroup::Call));
    (acd + call > 0).then(|| {
        format!(
            "{acd} acd and {call} call shards have no owner yet: they find one when nodes with these roles run (`trunkline \
             cluster`)"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::watch;
    use trunkline_cluster::{Incarnation, MapRevision, NodeIdentity, NodeInfo, Owner};
    use trunkline_types::{Epoch, ShardId};

    use super::*;

    /// Shards below the number have an owner who acts.
    struct Map(Mutex<usize>, watch::Sender<MapRevision>);

    impl Placement for Map {
        fn local(&self) -> NodeIdentity {
            NodeIdentity { id: "n1".parse().unwrap(), incarnation: Incarnation(1) }
        }

        fn owner(&self, shard: ShardId) -> Option<Owner> {
            let active = usize::from(shard.index()) < *self.0.lock();
            let NodeIdentity { id: node, incarnation } = self.local();
            Some(Owner { node, incarnation, epoch: Epoch(u64::from(active)), active })
        }

        fn held(&self, _: ShardId) -> Option<Epoch> {
            None
        }

        fn opening(&self, _: ShardId) -> Option<Epoch> {
            None
        }

        fn held_shards(&self) -> Vec<ShardId> {
            Vec::new()
        }

        fn revision(&self) -> MapRevision {
            *self.1.borrow()
        }

        fn changes(&self) -> watch::Receiver<MapRevision> {
            self.1.subscribe()
        }

        fn nodes(&self) -> Arc<[Arc<NodeInfo>]> {
            Arc::new([])
        }

        fn fenced(&self, _: ShardId, _: Epoch) {}
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_waits_for_the_last_shard_and_says_so() {
        let map = Arc::new(Map(Mutex::new(1_000), watch::Sender::new(MapRevision(1))));
        let health = Health::new();
        let waiting = tokio::spawn({
            let (map, health) = (map.clone(), health.clone());
            async move { every_shard_has_an_owner(&*map, &health).await }
        });
        tokio::task::yield_now().await;
        let said = health.problems().join(" ");
        assert!(said.contains("24 acd and 3072 call shards"), "{said}");

        *map.0.lock() = 4_096;
        map.1.send_replace(MapRevision(2));
        waiting.await.unwrap();
        assert!(!health.problems().join(" ").contains("shards"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_wait_for_ever() {
        let (map, health) = (Map(Mutex::new(0), watch::Sender::new(MapRevision(1))), Health::new());
        let begun = tokio::time::Instant::now();
        every_shard_has_an_owner(&map, &health).await;
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}
