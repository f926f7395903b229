//! Many machines against models of etcd, the journal and the hosts, in virtual time, from one seed.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a model for tests, shared by several of them"
)]

mod store;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use trunkline_cluster_core::{
    Block, Effect, Holding, Holdings, Incarnation, Input, Machine, NodeIdentity, NodeRecord, Policy, Reason,
    Role,
};
use trunkline_types::{Epoch, Feature, SHARD_COUNT, ShardGroup, ShardId};

pub use store::{LeaseId, Store};

pub const TTL: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_millis(1_500);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

enum Op {
    Register(NodeRecord, Holdings),
    Campaign,
    Assign(u64, Vec<(usize, u64, Block)>, Vec<Reason>),
    Publish(Holdings),
    Evict(u64, NodeIdentity, NodeRecord),
    Depose(u64),
    Raise(u64, u32),
    Suspect(NodeIdentity, bool),
    Confirm(Vec<usize>),
}

enum Event {
    Input(Input),
    Wake,
    Op(Op),
    Watch,
    Connect,
    KeepAlive(LeaseId, Option<u64>),
    Seal(Vec<ShardId>),
    Opened(Vec<ShardId>),
    Closed(Vec<ShardId>),
    Release(NodeIdentity, Vec<ShardId>, Duration),
    Append,
}

pub struct Node {
    pub machine: Machine,
    pub life: u64,
    pub alive: bool,
    pub paused_until: Duration,
    /// Cut off from etcd, and from the other nodes.
    pub cut_from_store: bool,
    pub cut_from_nodes: bool,
    connected: bool,
    watch_due: bool,
    cursor: Option<usize>,
    lease: Option<(LeaseId, Duration)>,
    /// What acts here, as the host knows.
    pub actors: BTreeMap<ShardId, Epoch>,
    closing: BTreeSet<ShardId>,
    wake_at: Option<Duration>,
}

pub struct Model {
    pub now: Duration,
    pub random: StdRng,
    pub store: Store,
    pub nodes: Vec<Node>,
    pub epochs: Vec<u64>,
    pub journal_up: bool,
    pub policy: Policy,
    queue: BinaryHeap<Reverse<(Duration, u64, usize, u64)>>,
    events: BTreeMap<u64, Event>,
    seq: u64,
    /// Who held a shard at an epoch.
    holders: BTreeMap<(ShardId, Epoch), usize>,
    pub moves: BTreeMap<&'static str, u64>,
    /// Writes to the store in each second.
    pub writes: BTreeMap<u64, u64>,
    pub host_fails: bool,
    /// A node whose seals take long to be carried out.
    slow: Option<usize>,
    /// What the program of the next life can read.
    pub features: u32,
    /// Whether what acts tries to commit now and then, and so learns that it was fenced.
    pub appends: bool,
    /// Times that a machine wanted to be woken and was.
    pub wakes: u64,
}

impl Model {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Policy::of(TTL))
    }

    pub fn with(seed: u64, policy: Policy) -> Self {
        Self {
            now: ms(1_000),
            random: StdRng::seed_from_u64(seed),
            store: Store::new(),
            nodes: Vec::new(),
            epochs: vec![0; usize::from(SHARD_COUNT)],
            journal_up: true,
            policy,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            seq: 0,
            holders: BTreeMap::new(),
            moves: BTreeMap::new(),
            writes: BTreeMap::new(),
            host_fails: false,
            appends: true,
            slow: None,
            features: Feature::LATEST,
            wakes: 0,
        }
    }

    fn identity(n: usize, life: u64) -> NodeIdentity {
        NodeIdentity { id: format!("node-{n}").parse().unwrap(), incarnation: Incarnation(life) }
    }

    fn machine(&self, n: usize, life: u64) -> Machine {
        let record = NodeRecord {
            registration: 1,
            address: format!("10.0.0.{n}:7400"),
            roles: [Role::Call, Role::Acd].into(),
            zone: None,
            version: "1".into(),
            features: self.features,
            weight: 1,
            draining: false,
            evicted: false,
            public: BTreeMap::new(),
            since_us: 0,
        };
        Machine::new(Self::identity(n, life), record, self.policy.clone())
    }

    /// A new node joins.
    pub fn join(&mut self) -> usize {
        let n = self.nodes.len();
        let machine = self.machine(n, 1);
        self.nodes.push(Node {
            machine,
            life: 1,
            alive: true,
            paused_until: Duration::ZERO,
            cut_from_store: false,
            cut_from_nodes: false,
            connected: false,
            watch_due: false,
            cursor: None,
            lease: None,
            actors: BTreeMap::new(),
            closing: BTreeSet::new(),
            wake_at: None,
        });
        self.begin(n);
        n
    }

    fn begin(&mut self, n: usize) {
        self.later(n, 1..=20, Event::Connect);
        self.later(n, 30..=60, Event::Input(Input::Join));
        self.later(n, 100..=200, Event::Append);
    }

    pub fn kill(&mut self, n: usize) {
        self.nodes[n].alive = false;
    }

    /// A killed node starts again, as another life.
    pub fn restart(&mut self, n: usize) {
        let life = self.nodes[n].life + 1;
        let machine = self.machine(n, life);
        let node = &mut self.nodes[n];
        (node.machine, node.life, node.alive, node.connected, node.cursor) =
            (machine, life, true, false, None);
        (node.lease, node.wake_at, node.watch_due, node.paused_until) = (None, None, false, Duration::ZERO);
        node.actors.clear();
        node.closing.clear();
        self.begin(n);
    }

    pub fn pause(&mut self, n: usize, long: Duration) {
        self.nodes[n].paused_until = self.now + long;
    }

    pub fn input(&mut self, n: usize, input: Input) {
        self.at(n, self.now, Event::Input(input));
    }

    pub fn drain(&mut self, n: usize, drain: bool) {
        let id = self.nodes[n].machine.me().id.clone();
        self.store.set_drain(&id, drain);
        self.wrote();
    }

    fn at(&mut self, n: usize, at: Duration, event: Event) {
        self.seq += 1;
        self.events.insert(self.seq, event);
        self.queue.push(Reverse((at, self.seq, n, self.nodes[n].life)));
    }

    fn later(&mut self, n: usize, range: std::ops::RangeInclusive<u64>, event: Event) {
        let delay = ms(self.random.random_range(range));
        self.at(n, self.now + delay, event);
    }

    fn reaches_store(&self, n: usize) -> bool {
        self.store.up && !self.nodes[n].cut_from_store
    }

    fn reaches(&self, n: usize, other: usize) -> bool {
        let (a, b) = (&self.nodes[n], &self.nodes[other]);
        b.alive && b.paused_until <= self.now && !a.cut_from_nodes && !b.cut_from_nodes
    }

    fn find(&self, identity: &NodeIdentity) -> Option<usize> {
        self.nodes.iter().position(|node| node.machine.me() == identity)
    }

    /// Something was written: watches hear of it.
    fn wrote(&mut self) {
        *self.writes.entry(self.now.as_secs()).or_default() += 1;
        for n in 0..self.nodes.len() {
            if self.nodes[n].alive && self.nodes[n].connected && !self.nodes[n].watch_due {
                self.nodes[n].watch_due = true;
                self.later(n, 1..=25, Event::Watch);
            }
        }
    }

    /// Runs until `until`.
    pub fn run(&mut self, until: Duration) {
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until something is so; panics when it is not within `limit`. Gives how long it took.
    pub fn run_until(&mut self, what: &str, limit: Duration, is: impl Fn(&Self) -> bool) -> Duration {
        let begun = self.now;
        while !is(self) {
            assert!(self.now < begun + limit, "not within {limit:?}: {what}\n{}", self.describe());
            self.run(self.now + ms(50));
        }
        self.now - begun
    }

    fn step(&mut self, until: Duration) -> bool {
        let Some(Reverse((at, seq, n, life))) = self.queue.peek().copied() else { return false };
        if at > until {
            return false;
        }
        self.queue.pop();
        let event = self.events.remove(&seq).unwrap();
        self.now = self.now.max(at);
        if self.store.up && self.store.expire(self.now) {
            self.wrote();
        }
        let node = &self.nodes[n];
        if !node.alive || node.life != life {
            return true;
        }
        // What was sent to the store is on its way; all else waits for the paused process.
        if node.paused_until > self.now && !matches!(event, Event::Op(_)) {
            let at = node.paused_until;
            self.events.insert(seq, event);
            self.queue.push(Reverse((at, seq, n, life)));
            return true;
        }
        self.happen(n, event);
        true
    }

    fn happen(&mut self, n: usize, event: Event) {
        match event {
            Event::Input(input) => self.handle(n, input),
            Event::Wake => {
                if self.nodes[n].wake_at.is_some_and(|at| at <= self.now) {
                    self.nodes[n].wake_at = None;
                    self.wakes += 1;
                    self.handle(n, Input::Tick);
                }
            }
            Event::Op(op) => self.op(n, op),
            Event::Connect => self.connect(n),
            Event::Watch => self.watch(n),
            Event::KeepAlive(lease, election) => self.keep_alive(n, lease, election),
            Event::Seal(shards) => self.seal(n, shards),
            Event::Opened(shards) => self.opened(n, shards),
            Event::Closed(shards) => {
                for shard in &shards {
                    self.nodes[n].actors.remove(shard);
                    self.nodes[n].closing.remove(shard);
                }
                self.handle(n, Input::Closed(shards));
            }
            Event::Release(former, shards, until) => self.release(n, former, shards, until),
            Event::Append => self.append(n),
        }
    }

    fn connect(&mut self, n: usize) {
        let (reaches, connected) = (self.reaches_store(n), self.nodes[n].connected);
        if reaches && !connected {
            self.nodes[n].connected = true;
            // Now and then the watch cannot go on where it was.
            if self.nodes[n].cursor.is_none() || self.random.random_bool(0.2) {
                self.nodes[n].cursor = Some(self.store.log.len());
                let all = self.store.list();
                self.handle(n, Input::Listed(self.store.revision, all));
            } else {
                self.later(n, 1..=25, Event::Watch);
            }
            self.handle(n, Input::Connected(true));
        } else if !reaches && connected {
            self.nodes[n].connected = false;
            self.handle(n, Input::Connected(false));
        }
        self.later(n, 100..=300, Event::Connect);
    }

    fn watch(&mut self, n: usize) {
        self.nodes[n].watch_due = false;
        if !self.nodes[n].connected || !self.reaches_store(n) {
            return;
        }
        let from = self.nodes[n].cursor.unwrap_or(0);
        let news: Vec<_> = self.store.log[from..].iter().map(|(_, seen)| seen.clone()).collect();
        self.nodes[n].cursor = Some(self.store.log.len());
        if !news.is_empty() {
            self.handle(n, Input::Watched(self.store.revision, news));
        }
    }

    fn keep_alive(&mut self, n: usize, lease: LeaseId, election: Option<u64>) {
        if !self.reaches_store(n) {
            return self.later(n, 100..=300, Event::KeepAlive(lease, election));
        }
        let until = self.now + self.policy.ttl;
        match self.store.leases.get_mut(&lease) {
            Some(end) => {
                *end = until;
                if election.is_none() {
                    if let Some(own) = self.nodes[n].lease.as_mut().filter(|(id, _)| *id == lease) {
                        own.1 = until;
                    }
                    self.later(n, 1..=10, Event::Input(Input::Renewed(until)));
                }
                let third = self.policy.ttl.as_millis() as u64 / 3;
                self.later(n, third..=third + 20, Event::KeepAlive(lease, election));
            }
            None if election.is_some() => self.handle(n, Input::ElectionLost(election.unwrap())),
            None => {
                self.nodes[n].lease.take_if(|(id, _)| *id == lease);
                self.handle(n, Input::LeaseLost);
            }
        }
    }

    fn op(&mut self, n: usize, op: Op) {
        if !self.reaches_store(n) {
            let failed = match op {
                Op::Register(..) => Input::NotRegistered,
                Op::Campaign => Input::Campaigned(None),
                Op::Assign(..) => Input::Assigned(Err(())),
                Op::Publish(_) => Input::Published(false),
                Op::Evict(_, node, _) => Input::NotEvicted(node),
                Op::Depose(_) => Input::Tick,
                Op::Raise(..) => Input::Raised(false),
                Op::Suspect(node, _) => Input::NotSuspected(node),
                Op::Confirm(blocks) => Input::Confirmed(Vec::new(), blocks, false),
            };
            return self.at(n, self.now + DEADLINE, Event::Input(failed));
        }
        let (me, writes) = (self.nodes[n].machine.me().clone(), self.store.writes);
        let answer = match op {
            Op::Register(record, holdings) => self.register(n, &me, record, holdings),
            Op::Campaign => {
                let lease = self.store.grant(self.now + self.policy.ttl);
                let elected = self.store.campaign(&me, lease);
                if elected.is_some() {
                    self.later(n, 900..=1_000, Event::KeepAlive(lease, elected));
                } else {
                    self.store.revoke(lease);
                }
                Input::Campaigned(elected)
            }
            Op::Assign(elected, blocks, reasons) => {
                let written = self.store.assign(elected, blocks);
                if written.is_ok() {
                    for reason in reasons {
                        *self.moves.entry(reason.as_str()).or_default() += 1;
                    }
                }
                Input::Assigned(written)
            }
            Op::Publish(holdings) => {
                let lease = self.nodes[n].lease.map_or(0, |(id, _)| id);
                Input::Published(self.store.publish(&me, holdings, lease))
            }
            Op::Evict(elected, node, record) => {
                if self.store.evict(elected, &node, record) {
                    Input::Tick
                } else {
                    Input::NotEvicted(node)
                }
            }
            Op::Depose(revision) => {
                self.store.depose(revision);
                Input::Tick
            }
            Op::Raise(elected, gate) => Input::Raised(self.store.raise(elected, gate)),
            Op::Suspect(node, stands) => {
                let lease = self.nodes[n].lease.map_or(0, |(id, _)| id);
                self.store.suspect(&node, &me.id, stands, lease);
                Input::Tick
            }
            Op::Confirm(blocks) => Input::Confirmed(self.store.read_blocks(&blocks), blocks, true),
        };
        if self.store.writes > writes {
            self.wrote();
        }
        // The answer may be lost although it was done.
        let lost = self.random.random_bool(0.01);
        let answer = match answer {
            Input::Assigned(_) if lost => Input::Assigned(Err(())),
            Input::Published(_) if lost => Input::Published(false),
            other => other,
        };
        self.later(n, 1..=10, Event::Input(answer));
    }

    fn register(&mut self, n: usize, me: &NodeIdentity, record: NodeRecord, holdings: Holdings) -> Input {
        let (lease, until) = match self.nodes[n].lease {
            Some(own) => own,
            None => {
                let until = self.now + self.policy.ttl;
                let lease = self.store.grant(until);
                self.nodes[n].lease = Some((lease, until));
                self.later(n, 900..=1_000, Event::KeepAlive(lease, None));
                (lease, until)
            }
        };
        match self.store.register(me, record, holdings.clone(), lease) {
            Some(revision) => Input::Registered { revision, until, holdings },
            None => {
                self.nodes[n].lease = None;
                Input::NotRegistered
            }
        }
    }

    fn seal(&mut self, n: usize, shards: Vec<ShardId>) {
        if !self.journal_up {
            return self.at(n, self.now + ms(1_000), Event::Input(Input::SealFailed(shards)));
        }
        let sealed = shards.iter().map(|shard| {
            let epoch = &mut self.epochs[usize::from(shard.index())];
            *epoch += 1;
            (*shard, Epoch(*epoch))
        });
        let sealed = sealed.collect();
        self.later(n, 1..=20, Event::Input(Input::Sealed(sealed)));
    }

    /// Node `n` begins to take a shard, and the assignment goes back. Its seal is carried out when the owner has long sealed and
    /// published the shard again.
    pub fn seal_late(&mut self, n: usize, shard: ShardId) {
        let (me, owner) = (self.nodes[n].machine.me().clone(), self.find_owner(shard));
        let back = self.nodes[owner].machine.me().clone();
        self.slow = Some(n);
        self.store.reassign(shard, &me);
        self.wrote();
        self.run(self.now + ms(400));
        self.store.reassign(shard, &back);
        self.wrote();
        let before = self.epochs[usize::from(shard.index())];
        self.run(self.now + ms(2_000));
        self.slow = None;
        assert!(self.epochs[usize::from(shard.index())] >= before + 2, "sealed by the owner, and over it");
    }

    fn find_owner(&self, shard: ShardId) -> usize {
        self.nodes.iter().position(|node| node.actors.contains_key(&shard)).unwrap()
    }

    fn opened(&mut self, n: usize, shards: Vec<ShardId>) {
        if self.host_fails && self.random.random_bool(0.1) {
            return self.handle(n, Input::Opened(shards, false));
        }
        for shard in &shards {
            if let Holding::Opening(epoch) = self.nodes[n].machine.holding(*shard) {
                self.nodes[n].actors.insert(*shard, epoch);
            }
        }
        self.handle(n, Input::Opened(shards, true));
    }

    fn release(&mut self, n: usize, former: NodeIdentity, shards: Vec<ShardId>, until: Duration) {
        let other = self.find(&former).filter(|other| self.reaches(n, *other));
        let acts = other.is_some_and(|other| shards.iter().any(|s| self.nodes[other].machine.acts(*s)));
        if self.now < until
            && (acts || other.is_none() && self.find(&former).is_some_and(|o| self.nodes[o].alive))
        {
            return self.later(n, 10..=20, Event::Release(former, shards, until));
        }
        self.handle(n, Input::Released(shards));
    }

    /// Everything that acts here tries to commit something.
    fn append(&mut self, n: usize) {
        if self.journal_up && self.appends {
            let stale: Vec<_> = self.nodes[n]
                .actors
                .iter()
                .map(|(shard, epoch)| (*shard, *epoch, Epoch(self.epochs[usize::from(shard.index())])))
                .filter(|(_, epoch, current)| epoch < current)
                .collect();
            for (shard, _, current) in stale {
                self.handle(n, Input::Fenced(shard, current));
            }
        }
        self.later(n, 100..=300, Event::Append);
    }

    fn handle(&mut self, n: usize, input: Input) {
        let now = self.now;
        let effects = self.nodes[n].machine.handle(now, input);
        for effect in effects {
            self.carry_out(n, effect);
        }
        let wake = self.nodes[n].machine.next_deadline(now);
        assert!(wake.is_none_or(|at| at > now), "node {n} wants to be woken at {wake:?} and it is {now:?}");
        if let Some(at) = wake.filter(|at| self.nodes[n].wake_at.is_none_or(|due| *at < due || due <= now)) {
            self.nodes[n].wake_at = Some(at);
            self.at(n, at, Event::Wake);
        }
    }

    fn carry_out(&mut self, n: usize, effect: Effect) {
        match effect {
            Effect::Changed => {}
            Effect::Hold(holdings) => {
                for (shard, holding) in holdings {
                    if let Holding::Held(epoch) = holding {
                        let other = self.holders.insert((shard, epoch), n);
                        assert!(
                            other.is_none_or(|other| other == n),
                            "{shard} at {epoch:?}: nodes {other:?} and {n}"
                        );
                        assert!(
                            self.nodes[n].actors.get(&shard) == Some(&epoch),
                            "{shard} is held and nothing is up"
                        );
                    }
                }
            }
            Effect::Register(record, holdings) => {
                self.later(n, 1..=10, Event::Op(Op::Register(record, holdings)))
            }
            Effect::Campaign => self.later(n, 1..=10, Event::Op(Op::Campaign)),
            Effect::Assign(blocks, changes) => {
                let elected = self.nodes[n].machine.elected().unwrap();
                let reasons = changes.iter().map(|change| change.reason).collect();
                self.later(n, 1..=10, Event::Op(Op::Assign(elected, blocks, reasons)));
            }
            Effect::Publish(holdings) => self.later(n, 1..=10, Event::Op(Op::Publish(holdings))),
            Effect::Evict(node, record) => {
                let elected = self.nodes[n].machine.elected().unwrap();
                self.later(n, 1..=10, Event::Op(Op::Evict(elected, node, record)));
            }
            Effect::Depose(revision) => self.later(n, 1..=10, Event::Op(Op::Depose(revision))),
            Effect::Raise(gate) => {
                let elected = self.nodes[n].machine.elected().unwrap();
                self.later(n, 1..=10, Event::Op(Op::Raise(elected, gate)));
            }
            Effect::Suspect(node, stands) => self.later(n, 1..=10, Event::Op(Op::Suspect(node, stands))),
            Effect::Confirm(blocks) => self.later(n, 1..=10, Event::Op(Op::Confirm(blocks))),
            Effect::Probe(info) => {
                let reached = self.find(&info.identity).is_some_and(|other| self.reaches(n, other));
                let delay = if reached || !self.nodes[n].cut_from_nodes { 1..=20 } else { 500..=500 };
                self.later(n, delay, Event::Input(Input::Probed(info.identity, reached)));
            }
            Effect::Release(former, shards) => {
                if let Some(other) = self.find(&former).filter(|other| self.reaches(n, *other)) {
                    let delay = ms(self.random.random_range(1..=10));
                    self.at(other, self.now + delay, Event::Input(Input::ReleaseRequested(shards.clone())));
                }
                let until = self.now + self.policy.release;
                self.later(n, 15..=30, Event::Release(former, shards, until));
            }
            Effect::Seal(shards) if self.slow == Some(n) => self.later(n, 1_500..=1_500, Event::Seal(shards)),
            Effect::Seal(shards) => self.later(n, 1..=20, Event::Seal(shards)),
            Effect::Open(shards) => {
                for shard in &shards {
                    let node = &self.nodes[n];
                    assert!(!node.actors.contains_key(shard), "{shard} is opened on node {n} while it is up");
                    assert!(
                        !node.closing.contains(shard),
                        "{shard} is opened on node {n} while it is closed"
                    );
                    assert!(matches!(node.machine.holding(*shard), Holding::Opening(_)));
                }
                self.later(n, 5..=200, Event::Opened(shards));
            }
            Effect::Close(shards) => {
                self.nodes[n].closing.extend(shards.iter().copied());
                self.later(n, 5..=100, Event::Closed(shards));
            }
        }
    }

    /// Live nodes that are neither paused nor cut off.
    pub fn well(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| {
            node.alive && node.paused_until <= self.now && !node.cut_from_store && !node.cut_from_nodes
        })
    }

    /// Every shard is held by exactly one well node, at the journal's epoch, published, and all maps agree.
    pub fn is_settled(&self) -> bool {
        let mut holders = vec![None; usize::from(SHARD_COUNT)];
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            for shard in node.actors.keys() {
                if holders[usize::from(shard.index())].replace(n).is_some() {
                    return false;
                }
            }
        }
        let in_store = ShardId::all().all(|shard| {
            let at = usize::from(shard.index());
            let Some(holder) = holders[at] else { return false };
            let (machine, epoch) = (&self.nodes[holder].machine, Epoch(self.epochs[at]));
            machine.holding(shard) == Holding::Held(epoch)
                && self.store.published(shard) == Some((machine.me(), epoch))
        });
        // And everybody has read it.
        in_store
            && self.well().all(|(_, node)| {
                let map = node.machine.map();
                ShardId::all().all(|shard| {
                    let published = map.assignment(shard).owner.as_ref().zip(map.published(shard));
                    published == self.store.published(shard)
                })
            })
    }

    /// Something acts on every shard at the journal's epoch, whatever has been published.
    pub fn is_served(&self) -> bool {
        let mut served = vec![false; usize::from(SHARD_COUNT)];
        for (shard, epoch) in self.well().flat_map(|(_, node)| &node.actors) {
            let at = usize::from(shard.index());
            served[at] |= self.epochs[at] == epoch.0;
        }
        served.into_iter().all(|served| served)
    }

    /// Settled, and as even as can be among those that may own.
    pub fn is_even(&self, among: usize) -> bool {
        ShardGroup::ALL.into_iter().all(|group| {
            let (total, floor) = (usize::from(group.range().1), usize::from(group.range().1) / among);
            let most = total.div_ceil(among);
            let counts: Vec<_> = self
                .nodes
                .iter()
                .filter(|node| node.alive)
                .map(|node| node.actors.keys().filter(|shard| shard.group() == group).count())
                .filter(|count| *count > 0)
                .collect();
            counts.len() == among && counts.iter().all(|count| (floor..=most).contains(count))
        }) && self.is_settled()
    }

    pub fn moved(&self) -> u64 {
        self.moves.values().sum()
    }

    pub fn describe(&self) -> String {
        let mut text = format!(
            "now {:?}, store up {}, leader {:?}, moves {:?}\n",
            self.now, self.store.up, self.store.leader, self.moves
        );
        for (n, node) in self.nodes.iter().enumerate() {
            let stale =
                node.actors.iter().filter(|(s, e)| e.0 != self.epochs[usize::from(s.index())]).count();
            text += &format!(
                "  {n}: life {} alive {} paused {} cut {}/{} acts on {} ({stale} stale) assigned {} held {} registered {} elected {:?}\n",
                node.life,
                node.alive,
                node.paused_until > self.now,
                node.cut_from_store,
                node.cut_from_nodes,
                node.actors.len(),
                node.machine.map().assigned(node.machine.me()).len(),
                node.machine.held(),
                node.machine.is_registered(self.now),
                node.machine.elected(),
            );
        }
        text
    }
}
