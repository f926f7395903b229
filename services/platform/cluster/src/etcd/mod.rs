//! Placement over etcd.

mod engine;
mod inspect;
mod keys;
mod link;
mod shared;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use trunkline_cluster_core::{
    Incarnation, Input, Machine, MapRevision, NodeIdentity, NodeInfo, NodeRecord, Owner, Policy, Role, Seen,
};
use trunkline_journal::Journal;
use trunkline_types::{Epoch, Feature, NodeId, ShardGroup, ShardId};

pub use self::inspect::{EtcdEndpoint, EtcdReport, EtcdStatus, RegisteredNode, inspect};
use self::{
    engine::{Engine, Ports},
    keys::Keys,
    link::Link,
    shared::Shared,
};
use crate::{ClusterConfig, ClusterError, ClusterMetrics, Placement, Probe, ReleasePeer, ShardHost};

/// Inputs that wait for the machine.
const INPUTS: usize = 4_096;
/// etcd has to answer within this when a node starts.
const START: Duration = Duration::from_secs(30);
/// What a leaving node still has is closed within this.
const LAST: Duration = Duration::from_secs(5);

/// The way to the machine.
#[derive(Clone)]
struct Inputs(mpsc::Sender<Input>);

impl Inputs {
    async fn tell(&self, input: Input) {
        // The receiver ends with the process's placement only.
        let _ = self.0.send(input).await;
    }

    fn try_tell(&self, input: Input) -> bool {
        self.0.try_send(input).is_ok()
    }

    async fn closed(&self) {
        self.0.closed().await;
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// This node, as the others shall see it.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name, the same over restarts and unlike every other node's.
    pub id: NodeId,
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// Its failure domain.
    pub zone: Option<String>,
    /// The version of its program.
    pub version: String,
    /// `host:port` of its gRPC server.
    pub address: String,
    /// Where the world outside reaches it.
    pub public: BTreeMap<String, String>,
}

/// The placement of a cluster whose members and assignments are in etcd.
///
/// [`EtcdPlacement::start`] reads the map; [`EtcdPlacement::join`] makes this node a member, which may then get shards. Reads
/// never wait. While etcd does not answer, the last map stays in force and this node serves what it holds.
pub struct EtcdPlacement {
    engine: Arc<Engine>,
    runtime: tokio::runtime::Handle,
    tasks: Vec<JoinHandle<()>>,
    /// This process is about to leave, whether the others know it yet or not.
    draining: AtomicBool,
}

impl fmt::Debug for EtcdPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdPlacement").field("local", &self.engine.shared.me).finish_non_exhaustive()
    }
}

impl EtcdPlacement {
    /// Reads the map and follows it. The node is no member yet.
    ///
    /// # Errors
    /// When the configuration is wrong, or etcd does not answer within 30 s.
    pub async fn start(
        config: &ClusterConfig,
        spec: NodeSpec,
        journal: Arc<dyn Journal>,
        metrics: ClusterMetrics,
    ) -> Result<Arc<Self>, ClusterError> {
        config.validate()?;
        let (sender, mut receiver) = mpsc::channel(INPUTS);
        let (inputs, begun) = (Inputs(sender), Instant::now());
        let link = Link::new(&config.etcd, Keys::new(&config.name), metrics)?;
        let follower = tokio::spawn(Arc::clone(&link).run(inputs.clone()));
        let first = match timeout(START, receiver.recv()).await {
            Ok(Some(first)) => first,
            _ => {
                follower.abort();
                return Err(ClusterError::Etcd(
                    link.problem().unwrap_or_else(|| "etcd does not answer".to_owned()),
                ));
            }
        };
        let started = now_us();
        let me = NodeIdentity { incarnation: incarnation(&spec.id, &first, started), id: spec.id };
        let record = NodeRecord {
            registration: 1,
            address: spec.address,
            roles: spec.roles,
            zone: spec.zone,
            version: spec.version,
            features: Feature::LATEST,
            weight: config.weight,
            draining: false,
            evicted: false,
            public: spec.public,
            since_us: i64::try_from(started).unwrap_or(i64::MAX),
        };
        let policy = Policy { raise_after: config.raise_after.0, ..Policy::of(config.lease_ttl.0) };
        let mut machine = Machine::new(me.clone(), record, policy);
        let shared = Shared::new(me);
        // Only the map: nothing can be asked for before the node joins.
        let revision = {
            let now = begun.elapsed();
            machine.handle(now, first);
            shared.update(&machine, now);
            machine.map().revision
        };
        if shared.gate() > Feature::LATEST {
            follower.abort();
            return Err(ClusterError::Outdated { gate: shared.gate(), latest: Feature::LATEST });
        }
        shared.announce(revision);
        let engine = Engine::new(machine, shared, link, inputs, journal, begun);
        let runner = tokio::spawn(Arc::clone(&engine).run(receiver));
        let runtime = tokio::runtime::Handle::current();
        Ok(Arc::new(Self {
            engine,
            runtime,
            tasks: vec![follower, runner],
            draining: AtomicBool::new(false),
        }))
    }

    /// Makes this node a member: from now on it gets shards, and `host` opens and closes them. Returns when it is registered.
    ///
    /// # Errors
    /// When etcd does not register it within 30 s, or it was joined before.
    pub async fn join(
        &self,
        host: Arc<dyn ShardHost>,
        release: Arc<dyn ReleasePeer>,
        probe: Arc<dyn Probe>,
    ) -> Result<(), ClusterError> {
        if self.engine.ports.set(Ports { host, release, probe }).is_err() {
            return Err(ClusterError::Etcd("this node has joined before".to_owned()));
        }
        self.engine.inputs.tell(Input::Join).await;
        let joined = || {
            let (machine, me) = (self.engine.machine.lock(), &self.engine.shared.me);
            machine.is_registered(self.engine.now()) && machine.map().members.record(me).is_some()
        };
        if self.wait(Instant::now() + START, joined).await {
            return Ok(());
        }
        Err(ClusterError::Etcd(
            self.problem().unwrap_or_else(|| "this node could not be registered".to_owned()),
        ))
    }

    /// Waits for something to become true with a change of the map; `false` = not in time.
    async fn wait(&self, until: Instant, is: impl Fn() -> bool) -> bool {
        let mut changes = self.engine.shared.revision.subscribe();
        loop {
            if is() {
                return true;
            }
            // What is waited for may become true without an announcement: looked at again after a moment.
            let again = (Instant::now() + Duration::from_millis(25)).min(until);
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep_until(again) => if again == until { return is() },
            }
        }
    }

    /// Another node says that it owns these shards now: stops acting on them. Gives those on which nothing acts any more.
    pub async fn release_requested(&self, shards: &[ShardId]) -> Vec<ShardId> {
        self.engine.inputs.tell(Input::ReleaseRequested(shards.to_vec())).await;
        let acts = |shard: &ShardId| self.engine.machine.lock().acts(*shard);
        let patience = self.engine.machine.lock().policy().release * 2;
        self.wait(Instant::now() + patience, || !shards.iter().any(acts)).await;
        shards.iter().copied().filter(|shard| !acts(shard)).collect()
    }

    /// A node could not be reached over a link: asks it directly, and tells the others when it does not answer.
    pub fn suspect(&self, node: &NodeId) {
        self.engine.inputs.try_tell(Input::Suspect(node.clone()));
    }

    /// Empties a node, or lets it take shards and calls again; outlasts restarts.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn set_drain(&self, node: &NodeId, drain: bool) -> Result<(), ClusterError> {
        let written = self.engine.link.set_drain(node, drain).await;
        written.map_err(|error| ClusterError::Etcd(error.to_string()))
    }

    /// Takes no new calls any more and gives the shards away, for as long as this process lives.
    pub async fn drain(&self, drain: bool) {
        self.draining.store(drain, Ordering::Release);
        self.engine.inputs.tell(Input::SetDraining(drain)).await;
    }

    /// Gives the shards away a few at a time for at most `patience`, closes what is left, and ends the membership. `true` =
    /// all shards were handed over.
    pub async fn leave(&self, patience: Duration) -> bool {
        self.drain(true).await;
        let until = Instant::now() + patience;
        let handed = self.wait(until, || self.is_empty() || self.has_no_heirs()).await && self.is_empty();
        self.engine.inputs.tell(Input::Quit).await;
        let idle = || self.engine.machine.lock().is_idle();
        if !self.wait(Instant::now() + LAST, idle).await {
            tracing::error!(node = %self.engine.shared.me, "shards were not closed before the end");
        }
        self.engine.resign().await;
        handed
    }

    fn is_empty(&self) -> bool {
        let machine = self.engine.machine.lock();
        machine.is_idle() && machine.map().assigned(&self.engine.shared.me).is_empty()
    }

    /// Whether this node still has shards and nobody else could take any of them.
    fn has_no_heirs(&self) -> bool {
        let (nodes, me) = (self.nodes(), &self.engine.shared.me);
        let owned: BTreeSet<ShardGroup> = ShardId::all()
            .filter(|shard| self.owner(*shard).is_some_and(|o| o.is(me)))
            .map(ShardId::group)
            .collect();
        let heir = |group| nodes.iter().any(|n| n.identity.id != me.id && n.may_own(group) && !n.draining);
        !owned.is_empty() && !owned.into_iter().any(heir)
    }

    /// What is wrong with the coordination, in a sentence; `None` = nothing.
    pub fn problem(&self) -> Option<String> {
        if let Some(problem) = self.engine.link.problem() {
            return Some(problem);
        }
        let machine = self.engine.machine.lock();
        if machine.is_replaced() {
            return Some("another process runs under this node's name".to_owned());
        }
        if machine.is_outdated() {
            return Some("the other nodes write what this node's program cannot read: upgrade it".to_owned());
        }
        if self.engine.ports.get().is_some() && !machine.is_registered(self.engine.now()) {
            return Some("this node is not registered".to_owned());
        }
        machine.map().leader.is_none().then(|| "no coordinator is elected".to_owned())
    }

    /// The cluster as this node sees it. The parts that are not placement's are left empty.
    pub fn overview(&self) -> trunkline_proto::cluster::v1::Overview {
        let name = self.engine.link.keys.prefix().trim_matches('/').to_owned();
        let problem = self.problem().unwrap_or_default();
        let machine = self.engine.machine.lock();
        crate::overview::of(&machine, self.engine.now(), now_us(), name, problem)
    }
}

impl Drop for EtcdPlacement {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.engine.stop();
    }
}

impl Placement for EtcdPlacement {
    fn local(&self) -> NodeIdentity {
        self.engine.shared.me.clone()
    }

    fn owner(&self, shard: ShardId) -> Option<Owner> {
        self.engine.shared.owner(shard)
    }

    fn held(&self, shard: ShardId) -> Option<Epoch> {
        self.engine.shared.held(shard)
    }

    fn opening(&self, shard: ShardId) -> Option<Epoch> {
        self.engine.shared.opening(shard)
    }

    fn held_shards(&self) -> Vec<ShardId> {
        ShardId::all().filter(|shard| self.held(*shard).is_some()).collect()
    }

    fn revision(&self) -> MapRevision {
        *self.engine.shared.revision.borrow()
    }

    fn changes(&self) -> watch::Receiver<MapRevision> {
        self.engine.shared.revision.subscribe()
    }

    fn nodes(&self) -> Arc<[Arc<NodeInfo>]> {
        self.engine.shared.snapshot().nodes.clone()
    }

    fn draining(&self) -> bool {
        let known = || self.node(&self.engine.shared.me.id).is_some_and(|node| node.draining);
        self.draining.load(Ordering::Acquire) || known()
    }

    fn placeable(&self, shard: ShardId) -> bool {
        self.engine.shared.placeable(shard)
    }

    fn gate(&self) -> u32 {
        self.engine.shared.gate()
    }

    fn fenced(&self, shard: ShardId, current: Epoch) {
        if !self.engine.shared.fence(shard, current) {
            return;
        }
        tracing::warn!(shard = shard.index(), current = current.0, "another node has sealed our shard");
        let input = Input::Fenced(shard, current);
        if !self.engine.inputs.try_tell(input.clone()) {
            let inputs = self.engine.inputs.clone();
            self.runtime.spawn(async move { inputs.tell(input).await });
        }
        self.engine.shared.revision.send_modify(|_| {});
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The time of the start, and in any case above every life of this node that the store knows: clocks may have been set back.
fn incarnation(id: &NodeId, listed: &Input, now_us: u64) -> Incarnation {
    let Input::Listed(_, all) = listed else { return Incarnation(now_us) };
    let mut known: Vec<&NodeIdentity> = Vec::new();
    for seen in all {
        match seen {
            Seen::Node(node, _) | Seen::Held(node, _) => known.push(node),
            Seen::Leader(Some((node, _))) => known.push(node),
            Seen::Block(_, _, block) => {
                known.extend(block.0.iter().flat_map(|entry| [&entry.owner, &entry.previous]).flatten());
            }
            _ => {}
        }
    }
    let highest = known.into_iter().filter(|node| node.id == *id).map(|node| node.incarnation.0).max();
    Incarnation(highest.map_or(now_us, |highest| now_us.max(highest + 1)))
}
