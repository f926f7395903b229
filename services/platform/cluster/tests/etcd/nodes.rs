//! Nodes of a cluster in one process: placements over one etcd and one journal, whose hosts write down what they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use trunkline_cluster::{
    ClusterConfig, ClusterMetrics, EtcdConfig, EtcdPlacement, NodeInfo, NodeSpec, Placement, Probe,
    ReleasePeer, Role, ShardHost, testing::Etcd,
};
use trunkline_config::Span;
use trunkline_journal::{Journal, SqliteJournal, SqliteOptions};
use trunkline_types::{Epoch, NodeId, ShardGroup, ShardId};

pub fn id(n: usize) -> NodeId {
    format!("n{n}").parse().unwrap()
}

/// What is common to all nodes.
pub struct World {
    pub journal: Arc<dyn Journal>,
    nodes: Mutex<BTreeMap<NodeId, Weak<EtcdPlacement>>>,
    /// Nodes that nobody reaches directly.
    pub cut: Mutex<BTreeSet<NodeId>>,
    /// Who acted on which shard at which epoch, as the hosts were told; and who did before.
    acts: Mutex<BTreeMap<(ShardId, Epoch), NodeId>>,
    pub opened: AtomicU32,
    pub closed: AtomicU32,
}

impl World {
    pub async fn new() -> Arc<Self> {
        let journal = SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap();
        Arc::new(Self {
            journal: Arc::new(journal),
            nodes: Mutex::default(),
            cut: Mutex::default(),
            acts: Mutex::default(),
            opened: AtomicU32::new(0),
            closed: AtomicU32::new(0),
        })
    }

    fn reach(&self, node: &NodeInfo) -> Option<Arc<EtcdPlacement>> {
        if self.cut.lock().contains(&node.identity.id) {
            return None;
        }
        let found = self.nodes.lock().get(&node.identity.id)?.upgrade()?;
        (found.local() == node.identity).then_some(found)
    }
}

struct Peers(Arc<World>);

#[async_trait]
impl ReleasePeer for Peers {
    async fn release(&self, node: &NodeInfo, shards: &[ShardId], _: Duration) {
        if let Some(peer) = self.0.reach(node) {
            peer.release_requested(shards).await;
        }
    }
}

#[async_trait]
impl Probe for Peers {
    async fn reachable(&self, node: &NodeInfo, _: Duration) -> bool {
        self.0.reach(node).is_some()
    }
}

struct Host {
    world: Arc<World>,
    node: NodeId,
    placement: Mutex<Weak<EtcdPlacement>>,
    open: Mutex<BTreeSet<ShardId>>,
    slow: AtomicBool,
}

#[async_trait]
impl ShardHost for Host {
    async fn open(&self, shards: &[ShardId]) -> Result<(), String> {
        let Some(placement) = self.placement.lock().upgrade() else { return Err("gone".to_owned()) };
        if self.slow.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(200)).await;
        }
        for shard in shards {
            let Some(epoch) = placement.opening(*shard) else { continue };
            let other = self.world.acts.lock().insert((*shard, epoch), self.node.clone());
            assert!(other.is_none_or(|other| other == self.node), "{shard} at {epoch:?} has two owners");
            assert!(self.open.lock().insert(*shard), "{shard} is opened twice");
        }
        self.world.opened.fetch_add(shards.len() as u32, Ordering::Relaxed);
        Ok(())
    }

    async fn close(&self, shards: &[ShardId], _: Duration) {
        for shard in shards {
            self.open.lock().remove(shard);
        }
        self.world.closed.fetch_add(shards.len() as u32, Ordering::Relaxed);
    }
}

pub struct Node {
    pub placement: Arc<EtcdPlacement>,
    pub metrics: ClusterMetrics,
}

pub const TTL: Duration = Duration::from_secs(2);

/// How long an upgrade can be taken back.
pub const RAISE_AFTER: Duration = Duration::from_secs(2);

pub fn config(etcd: &Etcd) -> ClusterConfig {
    ClusterConfig {
        lease_ttl: Span(TTL),
        raise_after: Span(RAISE_AFTER),
        listen: "127.0.0.1:7400".parse().unwrap(),
        etcd: EtcdConfig { endpoints: etcd.endpoints(), ..EtcdConfig::default() },
        ..ClusterConfig::default()
    }
}

pub fn spec(n: usize, roles: &[Role]) -> NodeSpec {
    NodeSpec {
        id: id(n),
        roles: roles.iter().copied().collect(),
        zone: Some("a".to_owned()),
        version: "test".to_owned(),
        address: format!("10.0.0.{n}:7400"),
        public: [("http".to_owned(), format!("http://n{n}"))].into(),
    }
}

impl Node {
    pub async fn start(world: &Arc<World>, etcd: &Etcd, n: usize, roles: &[Role]) -> Self {
        let spec = spec(n, roles);
        let metrics = ClusterMetrics::new();
        let placement =
            EtcdPlacement::start(&config(etcd), spec, world.journal.clone(), metrics.clone()).await.unwrap();
        world.nodes.lock().insert(id(n), Arc::downgrade(&placement));
        let host = Arc::new(Host {
            world: world.clone(),
            node: id(n),
            placement: Mutex::new(Arc::downgrade(&placement)),
            open: Mutex::default(),
            slow: AtomicBool::new(n.is_multiple_of(2)),
        });
        let peers = Arc::new(Peers(world.clone()));
        placement.join(host, peers.clone(), peers).await.unwrap();
        Self { placement, metrics }
    }

    pub fn held(&self, group: ShardGroup) -> usize {
        group.shards().filter(|shard| self.placement.held(*shard).is_some()).count()
    }

    pub fn all(&self) -> usize {
        self.placement.held_shards().len()
    }

    /// As if the process was killed: nothing is given back.
    pub fn kill(self, world: &World) {
        world.nodes.lock().remove(&self.placement.local().id);
    }
}

pub const CALL_ACD: [Role; 2] = [Role::Call, Role::Acd];

/// Three nodes among which all shards are held.
pub async fn three(world: &Arc<World>, etcd: &Etcd) -> Vec<Node> {
    let mut nodes = Vec::new();
    for n in 1..=3 {
        nodes.push(Node::start(world, etcd, n, &CALL_ACD).await);
    }
    settled(&nodes, 3).await;
    nodes
}

/// Waits until these nodes hold all shards, evenly, each at the epoch of the journal, and all maps agree.
pub async fn settled(nodes: &[Node], among: usize) {
    until("all shards are held evenly and published", || {
        let even = ShardGroup::ALL.into_iter().all(|group| {
            let share = usize::from(group.range().1) / among;
            let held: Vec<usize> =
                nodes.iter().map(|node| node.held(group)).filter(|held| *held > 0).collect();
            held.len() == among && held.iter().all(|held| (share..=share + 1).contains(held))
        });
        even && agreed(nodes)
    })
    .await;
}

pub fn agreed(nodes: &[Node]) -> bool {
    ShardId::all().all(|shard| {
        let holders: Vec<_> = nodes.iter().filter(|node| node.placement.held(shard).is_some()).collect();
        let [holder] = holders[..] else { return false };
        let (local, epoch) = (holder.placement.local(), holder.placement.held(shard));
        nodes.iter().all(|node| {
            node.placement
                .owner(shard)
                .is_some_and(|owner| owner.is(&local) && owner.active && Some(owner.epoch) == epoch)
        })
    })
}

/// Waits for something with a deadline.
pub async fn until(what: &str, is: impl FnMut() -> bool) {
    within(Duration::from_secs(30), what, is).await;
}

/// Waits for something; gives how long it took.
pub async fn within(limit: Duration, what: &str, mut is: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

/// Watches that something stays true for a while.
pub async fn stays(long: Duration, what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < long {
        assert!(is(), "after {:?} not any more: {what}", begun.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
}
