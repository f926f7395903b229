//! Runs the machine: takes inputs in order, and carries its effects out against etcd, the journal, the host and the other
//! nodes. Every effect is answered by an input, within a deadline.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};
use trunkline_cluster_core::{Effect, Holding, Holdings, Input, Machine, NodeIdentity, NodeInfo, NodeRecord};
use trunkline_journal::Journal;
use trunkline_types::ShardId;

use super::{
    Inputs,
    link::Link,
    shared::Shared,
    store::{StoreError, keep_alive},
};
use crate::{Probe, ReleasePeer, ShardHost};

/// Inputs that are taken in one go before the others may read.
const BURST: usize = 64;
/// Sealing may take this long.
const SEAL: Duration = Duration::from_secs(10);
/// Rebuilding may take this long before it is begun again.
const OPEN: Duration = Duration::from_secs(60);
/// Beyond its patience the host may take this long to close.
const CLOSE: Duration = Duration::from_secs(5);
/// A direct probe.
const PROBE: Duration = Duration::from_millis(500);

/// What the node gives once it joins.
pub(super) struct Ports {
    pub host: Arc<dyn ShardHost>,
    pub release: Arc<dyn ReleasePeer>,
    pub probe: Arc<dyn Probe>,
}

/// A lease and the task that keeps it alive.
struct Lease {
    id: i64,
    until: Instant,
    keeper: AbortHandle,
}

#[derive(Default)]
struct Leases {
    node: Option<Lease>,
    election: Option<Lease>,
}

pub(super) struct Engine {
    pub machine: Mutex<Machine>,
    pub shared: Arc<Shared>,
    pub link: Arc<Link>,
    pub inputs: Inputs,
    pub journal: Arc<dyn Journal>,
    pub ports: OnceLock<Ports>,
    leases: Mutex<Leases>,
    begun: Instant,
    ttl: Duration,
    /// Since when shards are on their way to this node, for the metric.
    taking: Mutex<BTreeMap<ShardId, Instant>>,
}

impl Engine {
    pub fn new(
        machine: Machine,
        shared: Arc<Shared>,
        link: Arc<Link>,
        inputs: Inputs,
        journal: Arc<dyn Journal>,
        begun: Instant,
    ) -> Arc<Self> {
        let ttl = machine.policy().ttl;
        Arc::new(Self {
            machine: Mutex::new(machine),
            shared,
            link,
            inputs,
            journal,
            ports: OnceLock::new(),
            leases: Mutex::default(),
            begun,
            ttl,
            taking: Mutex::default(),
        })
    }

    /// The machine's clock.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.begun)
    }

    /// Runs until nobody can send inputs any more, or it is aborted.
    pub async fn run(self: Arc<Self>, mut inputs: mpsc::Receiver<Input>) {
        let mut burst = Vec::with_capacity(BURST);
        loop {
            let deadline = self.machine.lock().next_deadline(self.now()).map(|at| self.begun + at);
            // A deadline that the machine does not act on (it waits for something else) must not spin.
            let deadline = deadline.map(|at| at.max(Instant::now() + Duration::from_millis(2)));
            tokio::select! {
                taken = inputs.recv_many(&mut burst, BURST) => if taken == 0 { return },
                () = sleep_until(deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(1))) => {
                    burst.push(Input::Tick);
                }
            }
            for input in burst.drain(..) {
                self.step(input);
            }
        }
    }

    fn step(self: &Arc<Self>, input: Input) {
        self.count(&input);
        let (effects, revision, changed) = {
            let mut machine = self.machine.lock();
            let (now, replaced, outdated) = (self.now(), machine.is_replaced(), machine.is_outdated());
            let effects = machine.handle(now, input);
            if machine.is_replaced() && !replaced {
                tracing::error!(node = %machine.me(), "another process runs under this node's name and began later: this one stops");
            }
            if machine.is_outdated() && !outdated {
                tracing::error!(node = %machine.me(), gate = machine.map().gate, "the other nodes write what this program cannot read: it stops; upgrade it");
            }
            // First of all, so that nothing acts on a shard after it was given away.
            let mut changed = false;
            for effect in &effects {
                if let Effect::Hold(holdings) = effect {
                    holdings.iter().for_each(|(shard, holding)| self.hold(*shard, *holding));
                    changed = true;
                }
            }
            if effects.contains(&Effect::Changed) {
                self.shared.update(&machine, now);
                changed = true;
            }
            self.gauge(&machine);
            (effects, machine.map().revision, changed)
        };
        if changed {
            self.shared.announce(revision);
        }
        effects.into_iter().for_each(|effect| self.carry_out(effect));
    }

    fn hold(&self, shard: ShardId, holding: Holding) {
        self.shared.hold(shard, holding);
        let begun = match holding {
            Holding::Held(_) => self.taking.lock().remove(&shard),
            Holding::None => {
                self.taking.lock().remove(&shard);
                None
            }
            Holding::Opening(_) => None,
        };
        if let Some(begun) = begun {
            self.link.metrics.takeover_seconds.observe(begun.elapsed().as_secs_f64());
        }
    }

    fn count(&self, input: &Input) {
        match input {
            Input::LeaseLost | Input::ElectionLost(_) => _ = self.link.metrics.leases_lost.inc(),
            Input::Fenced(..) => _ = self.link.metrics.fenced.inc(),
            _ => {}
        }
    }

    fn gauge(&self, machine: &Machine) {
        let metrics = &self.link.metrics;
        metrics.members.set(self.shared.snapshot().nodes.len() as i64);
        metrics.shards_held.set(machine.held() as i64);
        metrics.shards_opening.set(self.taking.lock().len() as i64);
        metrics.coordinator.set(i64::from(machine.elected().is_some()));
    }

    fn spawn(self: &Arc<Self>, answer: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move { inputs.tell(answer.await).await });
    }

    fn carry_out(self: &Arc<Self>, effect: Effect) {
        let this = Arc::clone(self);
        match effect {
            Effect::Changed | Effect::Hold(_) => {}
            Effect::Register(record, holdings) => {
                self.spawn(async move { this.register(record, holdings).await })
            }
            Effect::Raise(gate) => self.spawn(async move { this.raise(gate).await }),
            Effect::Campaign => self.spawn(async move { this.campaign().await }),
            Effect::Assign(blocks, changes) => {
                let elected = self.machine.lock().elected().unwrap_or_default();
                self.spawn(async move {
                    let written = this.link.assign(elected, &blocks).await;
                    if written.is_ok() {
                        for change in &changes {
                            this.link
                                .metrics
                                .moves
                                .get_or_create(&[("reason", change.reason.as_str())])
                                .inc();
                        }
                        tracing::info!(
                            shards = changes.len(),
                            reason = changes[0].reason.as_str(),
                            "shards assigned"
                        );
                    }
                    Input::Assigned(written.map_err(drop))
                });
            }
            Effect::Publish(holdings) => self.spawn(async move {
                let Some(lease) = this.lease() else { return Input::Published(false) };
                Input::Published(this.link.publish(&this.shared.me, &holdings, lease).await.is_ok())
            }),
            Effect::Evict(node, record) => self.spawn(async move { this.evict(node, record).await }),
            Effect::Depose(revision) => self.spawn(async move {
                if this.link.depose(revision).await.is_ok() {
                    tracing::warn!("two observers do not reach the coordinator: another one is elected");
                }
                Input::Tick
            }),
            Effect::Suspect(node, stands) => self.spawn(async move {
                let written = this.link.suspect(&node, &this.shared.me.id, stands, this.lease()).await;
                if written.is_ok() || !stands { Input::Tick } else { Input::NotSuspected(node) }
            }),
            Effect::Probe(node) => self.spawn(async move { this.probe(node).await }),
            Effect::Release(node, shards) => self.release(node, shards),
            Effect::Seal(shards) => self.seal(shards),
            Effect::Open(shards) => self.open(shards),
            Effect::Close(shards) => self.close(shards),
            Effect::Confirm(blocks) => self.spawn(async move {
                match this.link.blocks(&blocks).await {
                    Ok(seen) => Input::Confirmed(seen, blocks, true),
                    Err(_) => Input::Confirmed(Vec::new(), blocks, false),
                }
            }),
        }
    }

    fn lease(&self) -> Option<i64> {
        self.leases.lock().node.as_ref().map(|lease| lease.id)
    }

    async fn register(self: &Arc<Self>, record: NodeRecord, holdings: Holdings) -> Input {
        let kept = self.leases.lock().node.as_ref().map(|lease| (lease.id, lease.until));
        let (id, until) = match kept {
            Some(kept) => kept,
            None => {
                let asked = Instant::now();
                match self.link.grant(self.ttl).await {
                    Ok(id) => (id, asked + self.ttl),
                    Err(error) => return self.not_registered(&error),
                }
            }
        };
        match self.link.register(&self.shared.me, &record, &holdings, id).await {
            Ok(revision) => {
                if kept.is_none() {
                    self.keep_node_lease(id, until);
                    tracing::info!(node = %self.shared.me, registration = record.registration, "registered");
                }
                Input::Registered { revision, until: self.at(until), holdings }
            }
            Err(error) => {
                if matches!(error, StoreError::Refused(_)) {
                    self.drop_lease(id);
                }
                self.not_registered(&error)
            }
        }
    }

    fn not_registered(&self, error: &StoreError) -> Input {
        tracing::warn!(node = %self.shared.me, %error, "not registered, trying again");
        Input::NotRegistered
    }

    fn drop_lease(&self, id: i64) {
        let mut leases = self.leases.lock();
        if let Some(lease) = leases.node.take_if(|lease| lease.id == id) {
            lease.keeper.abort();
        }
    }

    fn keep_node_lease(self: &Arc<Self>, id: i64, until: Instant) {
        let this = Arc::clone(self);
        let keeper = tokio::spawn(async move {
            let renewed = |sent: Instant| {
                if let Some(lease) = this.leases.lock().node.as_mut().filter(|lease| lease.id == id) {
                    lease.until = sent + this.ttl;
                }
                this.inputs.try_tell(Input::Renewed(this.at(sent + this.ttl)));
            };
            keep_alive(Arc::clone(&this.link), id, this.ttl, renewed).await;
            this.leases.lock().node.take_if(|lease| lease.id == id);
            tracing::warn!(node = %this.shared.me, "the node's lease has ended: registering again");
            this.inputs.tell(Input::LeaseLost).await;
        });
        self.leases.lock().node = Some(Lease { id, until, keeper: keeper.abort_handle() });
    }

    async fn campaign(self: &Arc<Self>) -> Input {
        let asked = Instant::now();
        let Ok(id) = self.link.grant(self.ttl).await else { return Input::Campaigned(None) };
        match self.link.campaign(&self.shared.me, id).await {
            Ok(revision) => {
                let this = Arc::clone(self);
                let keeper = tokio::spawn(async move {
                    keep_alive(Arc::clone(&this.link), id, this.ttl, |_| {}).await;
                    this.leases.lock().election.take_if(|lease| lease.id == id);
                    this.inputs.tell(Input::ElectionLost(revision)).await;
                });
                let lease = Lease { id, until: asked + self.ttl, keeper: keeper.abort_handle() };
                self.leases.lock().election = Some(lease);
                tracing::info!(node = %self.shared.me, "this node coordinates the cluster");
                Input::Campaigned(Some(revision))
            }
            Err(_) => {
                // Also when it is not known whether it was written: the key goes with the lease.
                let _ = self.link.revoke(id).await;
                Input::Campaigned(None)
            }
        }
    }

    async fn raise(&self, gate: u32) -> Input {
        let (elected, before) = {
            let machine = self.machine.lock();
            (machine.elected().unwrap_or_default(), machine.map().gate)
        };
        let done = self.link.raise(elected, before, gate).await;
        match &done {
            Ok(()) => tracing::info!(gate, "every node can read this: it is written from now on"),
            Err(error) => tracing::warn!(gate, %error, "the gate is not raised, trying again"),
        }
        Input::Raised(done.is_ok())
    }

    async fn evict(self: &Arc<Self>, node: NodeIdentity, record: NodeRecord) -> Input {
        let elected = self.machine.lock().elected().unwrap_or_default();
        match self.link.evict(elected, &node, &record).await {
            Ok(()) => {
                self.link.metrics.evictions.inc();
                tracing::warn!(%node, "two observers do not reach this node: it is taken out before its lease ends");
                Input::Tick
            }
            Err(_) => Input::NotEvicted(node),
        }
    }

    async fn probe(&self, node: NodeInfo) -> Input {
        let reached = match self.ports.get() {
            Some(ports) => timeout(PROBE * 2, ports.probe.reachable(&node, PROBE)).await.unwrap_or(false),
            // Before this node has joined it judges nobody.
            None => true,
        };
        Input::Probed(node.identity, reached)
    }

    fn taking(&self, shards: &[ShardId]) {
        let (now, mut taking) = (Instant::now(), self.taking.lock());
        shards.iter().for_each(|shard| _ = taking.entry(*shard).or_insert(now));
    }

    fn release(self: &Arc<Self>, node: NodeIdentity, shards: Vec<ShardId>) {
        let this = Arc::clone(self);
        let (info, deadline) = {
            let machine = self.machine.lock();
            (machine.info(&node), machine.policy().release)
        };
        self.spawn(async move {
            if let (Some(info), Some(ports)) = (info, this.ports.get()) {
                let asked = ports.release.release(&info, &shards, deadline);
                if timeout(deadline + Duration::from_millis(250), asked).await.is_err() {
                    tracing::warn!(%node, shards = shards.len(), "a former owner did not let go in time");
                }
            }
            Input::Released(shards)
        });
    }

    fn seal(self: &Arc<Self>, shards: Vec<ShardId>) {
        self.taking(&shards);
        let this = Arc::clone(self);
        self.spawn(async move {
            let owner = this.shared.me.to_string();
            match timeout(SEAL, this.journal.seal(&shards, &owner)).await {
                Ok(Ok(sealed)) => Input::Sealed(sealed),
                Ok(Err(error)) => {
                    tracing::error!(%error, shards = shards.len(), "shards cannot be sealed, trying again");
                    Input::SealFailed(shards)
                }
                Err(_) => {
                    tracing::error!(shards = shards.len(), "the journal did not seal in time, trying again");
                    Input::SealFailed(shards)
                }
            }
        });
    }

    fn open(self: &Arc<Self>, shards: Vec<ShardId>) {
        let this = Arc::clone(self);
        self.spawn(async move {
            let Some(ports) = this.ports.get() else { return Input::Opened(shards, false) };
            let opened = match timeout(OPEN, ports.host.open(&shards)).await {
                Ok(opened) => opened,
                Err(_) => Err("not within a minute".to_owned()),
            };
            if let Err(error) = &opened {
                tracing::error!(error, shards = shards.len(), "shards cannot be opened, trying again");
            }
            Input::Opened(shards, opened.is_ok())
        });
    }

    fn close(self: &Arc<Self>, shards: Vec<ShardId>) {
        let this = Arc::clone(self);
        let patience = self.machine.lock().policy().release;
        self.spawn(async move {
            if let Some(ports) = this.ports.get()
                && timeout(patience + CLOSE, ports.host.close(&shards, patience)).await.is_err()
            {
                tracing::error!(
                    shards = shards.len(),
                    "shards were not closed in time: the journal fences them"
                );
            }
            Input::Closed(shards)
        });
    }

    /// Keeps no lease alive any more.
    pub fn stop(&self) {
        let leases = std::mem::take(&mut *self.leases.lock());
        [leases.election, leases.node].into_iter().flatten().for_each(|lease| lease.keeper.abort());
    }

    /// Gives both leases back, so that the others need not wait for their end.
    pub async fn resign(&self) {
        let leases = std::mem::take(&mut *self.leases.lock());
        for lease in [leases.election, leases.node].into_iter().flatten() {
            lease.keeper.abort();
            let _ = self.link.revoke(lease.id).await;
        }
    }
}
