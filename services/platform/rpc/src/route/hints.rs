use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use trunkline_cluster::{Incarnation, MapRevision};
use trunkline_proto::cluster::v1::Moved;
use trunkline_types::{NodeId, ShardId};

/// What peers said of shards by a newer map than this node has seen: used until the map comes.
#[derive(Default)]
pub(crate) struct Hints {
    /// How many there are; read without the lock.
    count: AtomicUsize,
    inner: Mutex<HashMap<ShardId, Hint>>,
}

struct Hint {
    owner: (NodeId, Incarnation),
    revision: MapRevision,
}

impl Hints {
    /// Takes what is newer than the map of `seen`. True = something was.
    pub(crate) fn learn(&self, moved: &[Moved], seen: MapRevision) -> bool {
        let mut inner = self.inner.lock();
        let mut learnt = false;
        for moved in moved {
            let revision = MapRevision(moved.map_revision);
            let shard = u16::try_from(moved.shard).ok().and_then(ShardId::new);
            let (Some(shard), Ok(node)) = (shard, moved.owner.parse::<NodeId>()) else { continue };
            if revision <= seen || inner.get(&shard).is_some_and(|hint| hint.revision >= revision) {
                continue;
            }
            inner.insert(shard, Hint { owner: (node, Incarnation(moved.owner_incarnation)), revision });
            learnt = true;
        }
        self.count.store(inner.len(), Ordering::Release);
        learnt
    }

    /// Who owns a shard, when a peer knows better than the map.
    pub(crate) fn owner(
        &self,
        shard: ShardId,
        seen: impl FnOnce() -> MapRevision,
    ) -> Option<(NodeId, Incarnation)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let seen = seen();
        let mut inner = self.inner.lock();
        let owner = inner.get(&shard).filter(|hint| hint.revision > seen).map(|hint| hint.owner.clone());
        if owner.is_none() && inner.remove(&shard).is_some() {
            self.count.store(inner.len(), Ordering::Release);
        }
        owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_holds_until_the_map_has_come() {
        let hints = Hints::default();
        let moved = |owner: &str, revision| Moved {
            shard: 5,
            owner: owner.to_owned(),
            owner_incarnation: 1,
            map_revision: revision,
        };
        let shard = ShardId::new(5).unwrap();
        let owner = |seen| hints.owner(shard, || MapRevision(seen)).map(|(node, _)| node.to_string());
        assert!(!hints.learn(&[moved("n2", 7)], MapRevision(7)), "the map knows it");
        assert!(hints.learn(&[moved("n2", 8), moved("", 9)], MapRevision(7)));
        assert!(!hints.learn(&[moved("n1", 8)], MapRevision(7)), "not newer");
        assert!(hints.learn(&[moved("n3", 9)], MapRevision(7)));
        assert_eq!(owner(8), Some("n3".to_owned()));
        assert_eq!(owner(9), None);
        assert_eq!(owner(8), None, "forgotten");
        assert_eq!(hints.count.load(Ordering::Acquire), 0);
    }
}
