//! Which media node a call gets, and which calls are on which node.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use trunkline_call_core::{Library, Treatment, flow::Flow};
use trunkline_cluster::{NodeInfo, Placement, Role};
use trunkline_types::{CallId, EntityAddress, Feature, FlowId, NodeId, QueueId, TenantId};

/// Where calls get their media.
pub trait MediaNodes: Send + Sync + 'static {
    /// The media node that is to anchor a call. `None` = none is to be had: a new call is refused with 503, a call whose
    /// node was lost asks again for a while.
    fn pick(&self, wish: &MediaWish<'_>) -> Option<NodeId>;

    /// Whether this node is there, as far as is known: calls do not wait for the answers of one that is not.
    fn has(&self, node: &NodeId) -> bool;
}

/// What a call wants of its media node.
#[derive(Clone, Copy)]
pub struct MediaWish<'a> {
    /// The call.
    pub call: CallId,
    /// The edge of its caller: the node is to be near.
    pub near: &'a NodeId,
    /// Nodes that failed it.
    pub avoid: &'a [NodeId],
    /// How many calls of this process are on a node.
    pub used: &'a dyn Fn(&NodeId) -> usize,
}

/// Every call on one media node.
impl MediaNodes for NodeId {
    fn pick(&self, wish: &MediaWish<'_>) -> Option<NodeId> {
        (!wish.avoid.contains(self)).then(|| self.clone())
    }

    fn has(&self, node: &NodeId) -> bool {
        self == node
    }
}

/// The members of the cluster with role media that do not drain: those in the zone of the caller's edge first, of these
/// the one with the fewest calls of this node, among equals by the call's id, so that a burst spreads.
pub struct MediaMembers(Arc<dyn Placement>);

impl MediaMembers {
    /// By this placement.
    pub fn new(placement: Arc<dyn Placement>) -> Self {
        Self(placement)
    }
}

impl MediaNodes for MediaMembers {
    fn pick(&self, wish: &MediaWish<'_>) -> Option<NodeId> {
        let MediaWish { call, near, avoid, used } = *wish;
        let zone = self.0.node(near).and_then(|edge| edge.zone.clone());
        let nodes = self.0.nodes();
        let usable = |node: &&Arc<NodeInfo>| {
            node.has(Role::Media) && !node.draining && !avoid.contains(&node.identity.id)
        };
        let best = nodes.iter().filter(usable).min_by_key(|node| {
            let id = &node.identity.id;
            let elsewhere = zone.is_some() && node.zone != zone;
            (elsewhere, used(id), rendezvous(call, id))
        });
        best.map(|node| node.identity.id.clone())
    }

    fn has(&self, node: &NodeId) -> bool {
        self.0.node(node).is_some_and(|node| node.has(Role::Media))
    }
}

/// The same order of nodes for the same call wherever it is asked for.
pub(crate) fn rendezvous(call: CallId, node: &NodeId) -> u64 {
    let bytes = call.to_string().into_bytes().into_iter().chain(node.as_str().bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // FNV's high bits move little with the last bytes: mixed (splitmix64).
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Which active calls of this process have their media on which node.
#[derive(Default)]
pub(crate) struct MediaUse(Mutex<HashMap<NodeId, BTreeSet<EntityAddress>>>);

impl MediaUse {
    /// A call went from one node to another.
    pub fn moved(&self, call: &EntityAddress, from: Option<&NodeId>, to: Option<&NodeId>) {
        let mut nodes = self.0.lock();
        if let Some(calls) = from.and_then(|from| nodes.get_mut(from)) {
            calls.remove(call);
        }
        if let Some(from) = from
            && nodes.get(from).is_some_and(BTreeSet::is_empty)
        {
            nodes.remove(from);
        }
        if let Some(to) = to {
            nodes.entry(to.clone()).or_default().insert(call.clone());
        }
    }

    /// How many are on a node.
    pub fn count(&self, node: &NodeId) -> usize {
        self.0.lock().get(node).map_or(0, BTreeSet::len)
    }

    /// Which are on a node.
    pub fn on(&self, node: &NodeId) -> Vec<EntityAddress> {
        self.0.lock().get(node).map(|calls| calls.iter().cloned().collect()).unwrap_or_default()
    }
}

/// The library as calls see it: flows, treatments and media nodes.
pub(crate) struct Outside {
    pub library: Arc<dyn Library>,
    pub media: Arc<dyn MediaNodes>,
    pub used: Arc<MediaUse>,
    pub placement: Arc<dyn Placement>,
}

impl Library for Outside {
    fn flow(&self, tenant: &TenantId, id: &FlowId) -> Option<Arc<Flow>> {
        self.library.flow(tenant, id)
    }

    fn flow_version(&self, tenant: &TenantId, id: &FlowId, version: u64) -> Option<Arc<Flow>> {
        self.library.flow_version(tenant, id, version)
    }

    fn treatment(&self, tenant: &TenantId, id: &QueueId) -> Arc<Treatment> {
        self.library.treatment(tenant, id)
    }

    fn has_queue(&self, tenant: &TenantId, id: &QueueId) -> bool {
        self.library.has_queue(tenant, id)
    }

    fn media_node(&self, call: CallId, near: &NodeId, avoid: &[NodeId]) -> Option<NodeId> {
        self.media.pick(&MediaWish { call, near, avoid, used: &|node| self.used.count(node) })
    }

    fn has_media_node(&self, node: &NodeId) -> bool {
        self.media.has(node)
    }

    fn may_write(&self, feature: Feature) -> bool {
        self.placement.may_write(feature)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use tokio::sync::watch;
    use trunkline_cluster::{Incarnation, MapRevision, NodeIdentity, Owner};
    use trunkline_types::{Epoch, ShardId, Timestamp};

    use super::*;

    /// Members that the test names.
    pub(crate) struct Members(Mutex<Arc<[Arc<NodeInfo>]>>, watch::Sender<MapRevision>);

    impl Members {
        pub(crate) fn new(nodes: &[(&str, &[Role], &str)]) -> Arc<Self> {
            let members = Self(Mutex::new(Arc::from([])), watch::Sender::new(MapRevision(1)));
            members.set(nodes);
            Arc::new(members)
        }

        /// Name, roles and zone of each; a name that begins with `-` drains.
        pub(crate) fn set(&self, nodes: &[(&str, &[Role], &str)]) {
            let infos = nodes.iter().map(|(name, roles, zone)| {
                let id = name.trim_start_matches('-').parse().unwrap();
                Arc::new(NodeInfo {
                    identity: NodeIdentity { id, incarnation: Incarnation(1) },
                    address: String::new(),
                    roles: roles.iter().copied().collect(),
                    zone: Some((*zone).to_owned()),
                    version: String::new(),
                    draining: name.starts_with('-'),
                    public: BTreeMap::new(),
                })
            });
            let mut infos: Vec<_> = infos.collect();
            infos.sort_by(|a, b| a.identity.id.cmp(&b.identity.id));
            *self.0.lock() = infos.into();
        }
    }

    impl Placement for Members {
        fn local(&self) -> NodeIdentity {
            NodeIdentity { id: "n1".parse().unwrap(), incarnation: Incarnation(1) }
        }
        fn owner(&self, _: ShardId) -> Option<Owner> {
            None
        }
        fn held(&self, _: ShardId) -> Option<Epoch> {
            Some(Epoch(1))
        }
        fn opening(&self, _: ShardId) -> Option<Epoch> {
            None
        }
        fn held_shards(&self) -> Vec<ShardId> {
            Vec::new()
        }
        fn revision(&self) -> MapRevision {
            MapRevision(1)
        }
        fn changes(&self) -> watch::Receiver<MapRevision> {
            self.1.subscribe()
        }
        fn nodes(&self) -> Arc<[Arc<NodeInfo>]> {
            self.0.lock().clone()
        }
        fn fenced(&self, _: ShardId, _: Epoch) {}
    }

    fn call(n: u128) -> CallId {
        CallId::mint(ShardId::new(2_000).unwrap(), Timestamp::from_millis(1_795_000_000_000), n)
    }

    #[test]
    fn a_call_goes_near_its_edge_then_where_few_are_and_never_to_a_node_that_drains_or_failed() {
        use Role::{Edge, Media};
        let placement = Members::new(&[
            ("e1", &[Edge], "a"),
            ("m1", &[Media], "a"),
            ("m2", &[Media], "a"),
            ("-m3", &[Media], "a"),
            ("m4", &[Media], "b"),
        ]);
        let nodes = MediaMembers::new(placement.clone());
        let edge: NodeId = "e1".parse().unwrap();
        let [m1, m2, m4] = ["m1", "m2", "m4"].map(|name| name.parse::<NodeId>().unwrap());
        let pick = |n, avoid: &[NodeId], used: &dyn Fn(&NodeId) -> usize| {
            nodes.pick(&MediaWish { call: call(n), near: &edge, avoid, used })
        };
        let few = |node: &NodeId| usize::from(*node == m1);
        assert_eq!(pick(1, &[], &few), Some(m2.clone()), "fewer calls");
        assert_eq!(pick(1, std::slice::from_ref(&m2), &few), Some(m1.clone()));
        assert_eq!(
            pick(1, &[m1.clone(), m2.clone()], &few),
            Some(m4.clone()),
            "another zone rather than none"
        );
        assert_eq!(pick(1, &[m1.clone(), m2, m4], &few), None);
        let on_m1 = (0..200).filter(|n| pick(*n, &[], &|_| 0) == Some(m1.clone())).count();
        assert!((70..130).contains(&on_m1), "a burst spreads: {on_m1} of 200");
    }

    #[test]
    fn who_is_where_follows_the_calls() {
        let used = MediaUse::default();
        let [m1, m2] = ["m1", "m2"].map(|name| name.parse::<NodeId>().unwrap());
        let address = |n| EntityAddress::call(&"default".parse().unwrap(), call(n));
        used.moved(&address(1), None, Some(&m1));
        used.moved(&address(2), None, Some(&m1));
        used.moved(&address(1), Some(&m1), Some(&m2));
        assert_eq!((used.count(&m1), used.on(&m2)), (1, vec![address(1)]));
        used.moved(&address(1), Some(&m2), None);
        used.moved(&address(2), Some(&m1), None);
        assert!(used.0.lock().is_empty());
    }
}
