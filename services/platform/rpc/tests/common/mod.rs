//! Nodes over real sockets in one process, each with a map that the test changes.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, dead_code)]

pub mod proxy;
pub mod tls;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::service::Routes;
use trunkline_cluster::{
    Incarnation, MapRevision, NodeIdentity, NodeInfo, Owner, Placement, Role as ClusterRole,
};
use trunkline_proto::common::v1::{EffectId, Envelope, Role};
use trunkline_rpc::{Bus, BusMetrics, Deliver, LinkOptions, NodeServer, Refused, Tls, entity};
use trunkline_types::{EntityAddress, EntityKind, Epoch, NodeId, ShardId, Timestamp};

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

/// A clock that is an hour ahead.
pub fn an_hour_ahead() -> Timestamp {
    now().plus(Duration::from_secs(3_600))
}

/// Waits for a condition, and says which one did not come true.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    within(Duration::from_secs(20), what, condition).await;
}

pub async fn within(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "did not come true: {what}");
}

pub fn queue(id: &str) -> EntityAddress {
    EntityAddress::queue(&"default".parse().unwrap(), &id.parse().unwrap())
}

pub fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// A numbered message.
pub fn message(to: &EntityAddress, n: u64) -> Envelope {
    let effect = Some(EffectId { shard: 0, seq: n, index: 0 });
    Envelope { to: Some(entity(to)), effect, ..Envelope::default() }
}

static REVISIONS: AtomicU64 = AtomicU64::new(2);

/// The map as one node sees it.
pub struct View {
    local: NodeIdentity,
    state: Mutex<State>,
    revision: watch::Sender<MapRevision>,
}

#[derive(Default)]
struct State {
    owners: HashMap<ShardId, (NodeIdentity, Epoch)>,
    sealed: HashMap<ShardId, Epoch>,
    nodes: BTreeMap<NodeId, Arc<NodeInfo>>,
}

impl View {
    fn new(local: NodeIdentity) -> Arc<Self> {
        Arc::new(Self { local, state: Mutex::default(), revision: watch::Sender::new(MapRevision(1)) })
    }

    /// Another node becomes or ceases to be a member.
    pub fn member(&self, info: &Arc<NodeInfo>) {
        self.state.lock().nodes.insert(info.identity.id.clone(), Arc::clone(info));
        self.bump();
    }

    pub fn gone(&self, id: &NodeId) {
        self.state.lock().nodes.remove(id);
        self.bump();
    }

    /// The map says who owns a shard; `None` = nobody.
    pub fn owns(&self, shard: ShardId, owner: Option<(&NodeIdentity, u64)>) {
        let mut state = self.state.lock();
        match owner {
            Some((owner, epoch)) => _ = state.owners.insert(shard, (owner.clone(), Epoch(epoch))),
            None => _ = state.owners.remove(&shard),
        }
        drop(state);
        self.bump();
    }

    /// This node has sealed a shard, or let it go.
    pub fn seal(&self, shard: ShardId, epoch: Option<u64>) {
        let mut state = self.state.lock();
        match epoch {
            Some(epoch) => _ = state.sealed.insert(shard, Epoch(epoch)),
            None => _ = state.sealed.remove(&shard),
        }
        drop(state);
        // Not a change of the map, but told.
        self.revision.send_modify(|_| ());
    }

    fn bump(&self) {
        // Rises over all nodes: who has a higher one has learnt later.
        self.revision.send_replace(MapRevision(REVISIONS.fetch_add(1, Ordering::Relaxed)));
    }
}

impl Placement for View {
    fn local(&self) -> NodeIdentity {
        self.local.clone()
    }
    fn owner(&self, shard: ShardId) -> Option<Owner> {
        let (owner, epoch) = self.state.lock().owners.get(&shard)?.clone();
        Some(Owner { node: owner.id, incarnation: owner.incarnation, epoch, active: true })
    }
    fn held(&self, shard: ShardId) -> Option<Epoch> {
        self.state.lock().sealed.get(&shard).copied()
    }
    fn opening(&self, _: ShardId) -> Option<Epoch> {
        None
    }
    fn held_shards(&self) -> Vec<ShardId> {
        self.state.lock().sealed.keys().copied().collect()
    }
    fn revision(&self) -> MapRevision {
        *self.revision.borrow()
    }
    fn changes(&self) -> watch::Receiver<MapRevision> {
        self.revision.subscribe()
    }
    fn nodes(&self) -> Arc<[Arc<NodeInfo>]> {
        self.state.lock().nodes.values().cloned().collect()
    }
    fn fenced(&self, shard: ShardId, _: Epoch) {
        self.seal(shard, None);
    }
}

/// Remembers the numbers of what was delivered.
#[derive(Default)]
pub struct Sink {
    numbers: Mutex<Vec<u64>>,
    /// 0 = takes all.
    refuse: AtomicI64,
}

impl Sink {
    pub fn numbers(&self) -> Vec<u64> {
        self.numbers.lock().clone()
    }
    pub fn count(&self) -> usize {
        self.numbers.lock().len()
    }
    pub fn last(&self) -> Option<u64> {
        self.numbers.lock().last().copied()
    }
}

impl Deliver for Sink {
    fn deliver(&self, _: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        if self.refuse.load(Ordering::Relaxed) != 0 {
            return Err(Refused::Full);
        }
        self.numbers.lock().push(envelope.effect.map_or(0, |effect| effect.seq));
        Ok(())
    }
}

pub struct Node {
    pub identity: NodeIdentity,
    pub bus: Bus,
    pub view: Arc<View>,
    pub queues: Arc<Sink>,
    pub media: Arc<Sink>,
    pub address: SocketAddr,
    pub info: Arc<NodeInfo>,
    pub registry: Mutex<prometheus_client::registry::Registry>,
    server: NodeServer,
}

#[derive(Default)]
pub struct Options {
    pub links: LinkOptions,
    pub clock: Option<fn() -> Timestamp>,
    pub tls: Option<Tls>,
    pub incarnation: u64,
    pub listen: Option<SocketAddr>,
}

impl Node {
    pub async fn start(name: &str) -> Self {
        Self::with(name, Options::default()).await
    }

    pub async fn with(name: &str, options: Options) -> Self {
        let identity = NodeIdentity { id: id(name), incarnation: Incarnation(options.incarnation.max(1)) };
        let view = View::new(identity.clone());
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = BusMetrics::register(&mut registry);
        let bus = Bus::new(identity.id.clone(), metrics, options.clock.unwrap_or(now));
        bus.join(view.clone(), options.tls.clone(), options.links);
        let (queues, media) = (Arc::new(Sink::default()), Arc::new(Sink::default()));
        bus.attach_entities(EntityKind::Queue, queues.clone());
        bus.attach_role(Role::Media, media.clone());
        let routes = Routes::new(bus.link_service().unwrap());
        let listen = options.listen.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let server = NodeServer::start(Some(listen), options.tls, routes).await.unwrap();
        let address = server.local_addr().unwrap();
        let info = info(&identity, &address.to_string());
        Self { identity, bus, view, queues, media, address, info, registry: Mutex::new(registry), server }
    }

    pub fn server(&self) -> &NodeServer {
        &self.server
    }

    /// As other nodes reach it: through a proxy, say.
    pub fn at(&self, address: SocketAddr) -> Arc<NodeInfo> {
        info(&self.identity, &address.to_string())
    }

    /// A figure of the bus; 0 when it was never counted.
    pub fn figure(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
    }

    pub fn link(&self, outcome: &str) -> u64 {
        ["control", "hand_off", "bulk"]
            .iter()
            .map(|lane| self.figure(&format!("link_messages_total{{lane=\"{lane}\",outcome=\"{outcome}\"}}")))
            .sum()
    }

    /// Sends, and again as long as it is refused for want of room.
    pub async fn insist(&self, envelope: Envelope) {
        while let Err(refused) = self.bus.send(envelope.clone()) {
            assert_eq!(refused, Refused::Full);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends it as a crash would, as far as others see it.
    pub async fn kill(self) {
        self.bus.shutdown(Duration::ZERO).await;
        self.server.shutdown(Duration::ZERO).await;
    }
}

pub fn info(identity: &NodeIdentity, address: &str) -> Arc<NodeInfo> {
    Arc::new(NodeInfo {
        identity: identity.clone(),
        address: address.to_owned(),
        roles: BTreeSet::from([ClusterRole::Acd, ClusterRole::Media]),
        zone: None,
        version: "test".to_owned(),
        draining: false,
        public: BTreeMap::new(),
    })
}

/// Makes nodes know each other.
pub fn introduce(nodes: &[&Node]) {
    for node in nodes {
        for other in nodes {
            node.view.member(&other.info);
        }
    }
}

/// Has every node see the same owner, who has sealed the shard.
pub fn assign(nodes: &[&Node], shard: ShardId, owner: &Node, epoch: u64) {
    for node in nodes {
        node.view.owns(shard, Some((&owner.identity, epoch)));
    }
    owner.view.seal(shard, Some(epoch));
}
