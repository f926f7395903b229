//! The host of one kind of entity: finds, starts, restarts and retires actors.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::{Actor, AsyncContext};
use tokio::sync::{Semaphore, oneshot};
use trunkline_cluster::Placement;
use trunkline_journal::{AppendError, EntityHistory, Journal, JournalError, Pending};
use trunkline_types::{EntityAddress, EntityKind, Epoch, Machine, ShardId};

use crate::{
    ActorMetrics, Arbiters, Behaviour, Handle, Refused,
    entity::{Close, Entity, Inspect, Origin},
    handle::{Admission, Admitted},
    metrics::KindMetrics,
    registry::{Registry, Slot, Starting},
};

/// The first pause before an entity that ended early is started again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a new activation waits for the appends of the former one.
const FLIGHT_WAIT: Duration = Duration::from_secs(30);

/// What may happen when a message is for an entity that is not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// The entity is new: its id was minted for this message. Nothing is read; should it exist after all, the journal
    /// refuses the first append and the entity is rebuilt.
    CreateNew,
    /// It is rebuilt from the journal, or made when the journal does not know it.
    CreateIfMissing,
    /// It is rebuilt from the journal; a message for one that is unknown is [`Undeliverable`].
    OnlyExisting,
}

/// Why a message that was admitted was not handed to an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undeliverable {
    /// There is no such entity.
    Unknown,
    /// The entity has come to its end.
    Finished,
    /// The entity could not be rebuilt, or this node lost its shard meanwhile.
    Failed,
}

/// Why an entity's state was discarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Its events were not committed, or may not have been. Fenced = it now lives elsewhere; else it is started again.
    #[error("{0}")]
    Journal(AppendError),
    /// A panic in core or behaviour. It is started again.
    #[error("panic: {0}")]
    Panicked(String),
    /// Its history cannot be read or understood. It stays down until the next message.
    #[error("history: {0}")]
    History(String),
}

impl Lost {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Journal(AppendError::Fenced { .. }) => "fenced",
            Self::Journal(AppendError::Conflict { .. }) => "conflict",
            Self::Journal(_) => "journal",
            Self::Panicked(_) => "panic",
            Self::History(_) => "history",
        }
    }
}

/// Limits of a host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// The kind of entity.
    pub kind: EntityKind,
    /// Messages that one entity may have waiting or under way.
    pub permits: u32,
    /// Entities that may be active; new ones are refused beyond it, existing ones are not.
    pub max_entities: usize,
    /// Histories that are read at the same time.
    pub max_activating: usize,
    /// Events between two snapshots.
    pub snapshot_every: u64,
}

impl HostOptions {
    /// 256 permits, 100,000 entities, 32 activations at a time, a snapshot every 2,000 events.
    pub const fn new(kind: EntityKind) -> Self {
        Self { kind, permits: 256, max_entities: 100_000, max_activating: 32, snapshot_every: 2_000 }
    }
}

type Factory<B> =
    dyn Fn(&EntityAddress, Handle<<B as Behaviour>::Message>) -> (<B as Behaviour>::Core, B) + Send + Sync;
type OnLost = dyn Fn(&EntityAddress, &Lost) + Send + Sync;
type OnUndeliverable<M> = dyn Fn(&EntityAddress, M, Undeliverable) + Send + Sync;

pub(crate) struct Inner<B: Behaviour> {
    pub(crate) options: HostOptions,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) metrics: KindMetrics,
    pub(crate) runtime: tokio::runtime::Handle,
    arbiters: Arbiters,
    placement: Arc<dyn Placement>,
    registry: Registry<B>,
    factory: Box<Factory<B>>,
    on_lost: Option<Box<OnLost>>,
    on_undeliverable: Option<Box<OnUndeliverable<B::Message>>>,
    activating: Semaphore,
    generations: AtomicU64,
    closing: AtomicBool,
}

/// Hosts the active entities of one kind. Cheap to clone.
pub struct Host<B: Behaviour>(Arc<Inner<B>>);

impl<B: Behaviour> Clone for Host<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Behaviour> fmt::Debug for Host<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("options", &self.0.options)
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// Puts a [`Host`] together.
pub struct HostBuilder<B: Behaviour>(Inner<B>);

impl<B: Behaviour> fmt::Debug for HostBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuilder").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl<B: Behaviour> HostBuilder<B> {
    /// Told of each entity whose state was discarded, before it is started again.
    #[must_use]
    pub fn on_lost(mut self, told: impl Fn(&EntityAddress, &Lost) + Send + Sync + 'static) -> Self {
        self.0.on_lost = Some(Box::new(told));
        self
    }

    /// Given each message that was admitted and then could not be handed over, to answer it.
    #[must_use]
    pub fn on_undeliverable(
        mut self,
        given: impl Fn(&EntityAddress, B::Message, Undeliverable) + Send + Sync + 'static,
    ) -> Self {
        self.0.on_undeliverable = Some(Box::new(given));
        self
    }

    /// The host.
    #[must_use]
    pub fn build(self) -> Host<B> {
        Host(Arc::new(self.0))
    }
}

impl<B: Behaviour> Host<B> {
    /// A host whose entities are made by `factory`, which gets a handle to the actor to be (for answers to itself; it does
    /// not survive the activation). Called within a tokio runtime: histories are read there, not on the arbiters.
    pub fn builder(
        options: HostOptions,
        arbiters: &Arbiters,
        journal: Arc<dyn Journal>,
        placement: Arc<dyn Placement>,
        metrics: &ActorMetrics,
        factory: impl Fn(&EntityAddress, Handle<B::Message>) -> (B::Core, B) + Send + Sync + 'static,
    ) -> HostBuilder<B> {
        let metrics = metrics.of(options.kind.as_str());
        HostBuilder(Inner {
            registry: Registry::new(metrics.entities.clone()),
            activating: Semaphore::new(options.max_activating.max(1)),
            options,
            journal,
            metrics,
            runtime: tokio::runtime::Handle::current(),
            arbiters: arbiters.clone(),
            placement,
            factory: Box::new(factory),
            on_lost: None,
            on_undeliverable: None,
            generations: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        })
    }

    /// Hands a message to an entity, starting it if it is not active. Never blocks.
    ///
    /// # Errors
    /// [`Refused`], and nothing was done: the caller answers (a SIP edge by 503).
    pub fn deliver(
        &self,
        address: &EntityAddress,
        message: B::Message,
        activation: Activation,
    ) -> Result<(), Refused> {
        let delivered = self.try_deliver(address, message, activation);
        if let Err(refused) = delivered {
            self.0.metrics.refuse(refused.as_str());
        }
        delivered
    }

    fn try_deliver(
        &self,
        address: &EntityAddress,
        message: B::Message,
        activation: Activation,
    ) -> Result<(), Refused> {
        let inner = &self.0;
        if inner.closing.load(Ordering::Acquire) {
            return Err(Refused::Closing);
        }
        debug_assert_eq!(address.kind, inner.options.kind);
        let mut slots = inner.registry.stripe(address);
        match slots.get_mut(address) {
            Some(Slot::Running { actor, admission, .. }) => {
                let permit = admission.admit().ok_or(Refused::Full)?;
                // The permit is the bound, see `Handle`.
                #[allow(clippy::disallowed_methods)]
                actor.do_send(Admitted { message, permit });
                Ok(())
            }
            Some(Slot::Starting(starting)) => {
                if starting.waiting.len() >= inner.options.permits as usize {
                    return Err(Refused::Full);
                }
                starting.waiting.push_back((message, activation));
                Ok(())
            }
            None => {
                inner.placement.held(address.shard()).ok_or(Refused::NotOwner)?;
                if activation != Activation::OnlyExisting
                    && inner.registry.count() >= inner.options.max_entities
                {
                    return Err(Refused::Crowded);
                }
                let address = Arc::new(address.clone());
                let mut starting = Starting::default();
                starting.waiting.push_back((message, activation));
                inner.registry.insert(&mut slots, Arc::clone(&address), Slot::Starting(starting));
                drop(slots);
                if activation == Activation::CreateNew {
                    inner.start_on_arbiter(address, EntityHistory::default(), 0);
                } else {
                    inner.activate(address, 0, Vec::new());
                }
                Ok(())
            }
        }
    }

    /// How many entities are active or being started.
    pub fn count(&self) -> usize {
        self.0.registry.count()
    }

    /// Starts every unfinished entity of these shards from the journal, and waits until all are up. Gives how many came
    /// up; the others were logged.
    ///
    /// # Errors
    /// When the journal cannot tell which there are.
    pub async fn recover_all(&self, shards: &[ShardId]) -> Result<usize, JournalError> {
        let live = self.0.journal.live_entities(self.0.options.kind, shards).await?;
        let mut watched = Vec::with_capacity(live.len());
        for address in live {
            let mut slots = self.0.registry.stripe(&address);
            let (told, watcher) = oneshot::channel();
            match slots.get_mut(&address) {
                Some(Slot::Running { .. }) => _ = told.send(true),
                Some(Slot::Starting(starting)) => starting.watchers.push(told),
                None => {
                    let address = Arc::new(address);
                    let starting = Starting { watchers: vec![told], ..Starting::default() };
                    self.0.registry.insert(&mut slots, Arc::clone(&address), Slot::Starting(starting));
                    drop(slots);
                    self.0.activate(address, 0, Vec::new());
                }
            }
            watched.push(watcher);
        }
        let mut up = 0;
        for watcher in watched {
            up += usize::from(watcher.await.unwrap_or(false));
        }
        Ok(up)
    }

    /// Looks at the core of an active entity. `None` when it is not active.
    pub async fn inspect<R: Send + 'static>(
        &self,
        address: &EntityAddress,
        look: impl FnOnce(&B::Core) -> R + Send + 'static,
    ) -> Option<R> {
        let actor = match self.0.registry.stripe(address).get(address) {
            Some(Slot::Running { actor, .. }) => actor.clone(),
            _ => return None,
        };
        let (tell, told) = oneshot::channel();
        let inspect = Inspect(Box::new(move |core: &B::Core| _ = tell.send(look(core))));
        actor.try_send(inspect).ok()?;
        told.await.ok()
    }

    /// Refuses new messages, lets each entity commit what is under way, and ends it. False when some had not ended after
    /// `patience`.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.0.closing.store(true, Ordering::Release);
        let ended = async {
            loop {
                let empty = self.0.registry.empty.notified();
                for actor in self.0.registry.running() {
                    // At most one for each round and actor.
                    #[allow(clippy::disallowed_methods)]
                    actor.do_send(Close);
                }
                if self.count() == 0 {
                    return;
                }
                // Those that were being started come up meanwhile.
                let _ = tokio::time::timeout(Duration::from_millis(50), empty).await;
            }
        };
        tokio::time::timeout(patience, ended).await.is_ok()
    }
}

impl<B: Behaviour> Inner<B> {
    /// Reads the history, then starts the actor. The slot is `Starting`.
    fn activate(self: &Arc<Self>, address: Arc<EntityAddress>, attempt: u32, flights: Vec<Pending>) {
        let host = Arc::clone(self);
        self.runtime.spawn(async move {
            let settle = async {
                for flight in flights {
                    let _ = flight.await;
                }
            };
            if tokio::time::timeout(FLIGHT_WAIT, settle).await.is_err() {
                tracing::warn!(entity = %address, "the journal has not answered; the entity is rebuilt from what is there");
            }
            if attempt > 0 {
                tokio::time::sleep((FIRST_PAUSE * 2_u32.pow((attempt - 1).min(12))).min(LONGEST_PAUSE)).await;
            }
            let Ok(_turn) = host.activating.acquire().await else { return };
            match host.journal.load_entity(&address).await {
                Ok(history) => host.start_on_arbiter(address, history, attempt),
                Err(error) => host.give_up(&address, &Lost::History(error.to_string()), Undeliverable::Failed),
            }
        });
    }

    fn start_on_arbiter(self: &Arc<Self>, address: Arc<EntityAddress>, history: EntityHistory, attempt: u32) {
        let (host, at) = (Arc::clone(self), Arc::clone(&address));
        let sent = self.arbiters.of(address.shard()).spawn_fn(move || host.start(&at, history, attempt));
        if !sent {
            self.drop_slot(&address, Undeliverable::Failed);
        }
    }

    /// On the arbiter: rebuilds the core and starts the actor.
    fn start(self: &Arc<Self>, address: &Arc<EntityAddress>, history: EntityHistory, attempt: u32) {
        let Some(epoch) =
            self.placement.held(address.shard()).filter(|_| !self.closing.load(Ordering::Acquire))
        else {
            return self.drop_slot(address, Undeliverable::Failed);
        };
        if history.finished {
            return self.drop_slot(address, Undeliverable::Finished);
        }
        if history.count == 0 && !self.wanted_new(address) {
            return self.drop_slot(address, Undeliverable::Unknown);
        }
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let admission = Admission::new(self.options.permits, self.metrics.depth.clone());
        self.metrics.activate(if history.count == 0 { "new" } else { "journal" });
        let built = catch_unwind(AssertUnwindSafe(|| {
            let mut failure = None;
            let actor = Entity::create(|context| {
                let handle = Handle::new(context.address().recipient(), Arc::clone(&admission));
                let (mut core, behaviour) = (self.factory)(address, handle);
                failure = replay(&behaviour, &mut core, &history).err();
                let dead = failure.is_some();
                Entity::new(
                    self.origin(address, epoch, core, behaviour, &admission, generation, attempt, &history),
                    dead,
                )
            });
            failure.map_or(Ok(actor), Err)
        }));
        match built {
            Ok(Ok(actor)) => self.publish(address, actor, admission, generation),
            Ok(Err(why)) => self.give_up(address, &Lost::History(why), Undeliverable::Failed),
            Err(_) => {
                self.metrics.panics.inc();
                self.give_up(
                    address,
                    &Lost::History("panic while it was rebuilt".to_owned()),
                    Undeliverable::Failed,
                );
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn origin(
        self: &Arc<Self>,
        address: &Arc<EntityAddress>,
        epoch: Epoch,
        core: B::Core,
        behaviour: B,
        admission: &Arc<Admission>,
        generation: u64,
        attempt: u32,
        history: &EntityHistory,
    ) -> Origin<B> {
        Origin {
            address: Arc::clone(address),
            epoch,
            core,
            behaviour,
            admission: Arc::clone(admission),
            host: Arc::clone(self),
            generation,
            attempt,
            count: history.count,
            seq: history.last_seq,
            snapshot: history.snapshot.as_ref().map_or(0, |snapshot| snapshot.nth),
        }
    }

    fn wanted_new(&self, address: &EntityAddress) -> bool {
        match self.registry.stripe(address).get(address) {
            Some(Slot::Starting(starting)) => {
                starting.waiting.iter().any(|(_, activation)| *activation != Activation::OnlyExisting)
            }
            _ => false,
        }
    }

    /// Lets messages reach the actor, those that waited first.
    fn publish(
        &self,
        address: &Arc<EntityAddress>,
        actor: actix::Addr<Entity<B>>,
        admission: Arc<Admission>,
        generation: u64,
    ) {
        let mut slots = self.registry.stripe(address);
        let Some(slot @ Slot::Starting(_)) = slots.get_mut(&**address) else { return };
        let running = Slot::Running { actor: actor.clone(), admission: Arc::clone(&admission), generation };
        let Slot::Starting(starting) = std::mem::replace(slot, running) else { return };
        for (message, _) in starting.waiting {
            // As many as there are permits waited at most.
            let Some(permit) = admission.admit() else { break };
            #[allow(clippy::disallowed_methods)]
            actor.do_send(Admitted { message, permit });
        }
        for watcher in starting.watchers {
            let _ = watcher.send(true);
        }
    }

    fn give_up(&self, address: &EntityAddress, lost: &Lost, why: Undeliverable) {
        tracing::error!(entity = %address, %lost, "entity cannot be started");
        self.metrics.lose(lost.reason());
        if let Some(told) = &self.on_lost {
            told(address, lost);
        }
        self.drop_slot(address, why);
    }

    /// Forgets the entity and answers what waited for it.
    fn drop_slot(&self, address: &EntityAddress, why: Undeliverable) {
        let removed = self.registry.remove(&mut self.registry.stripe(address), address);
        let Some(Slot::Starting(starting)) = removed else { return };
        for (message, _) in starting.waiting {
            self.metrics.undeliverable(match why {
                Undeliverable::Unknown => "unknown",
                Undeliverable::Finished => "finished",
                Undeliverable::Failed => "failed",
            });
            if let Some(given) = &self.on_undeliverable {
                given(address, message, why);
            }
        }
        for watcher in starting.watchers {
            let _ = watcher.send(false);
        }
    }

    /// An actor that has nothing left to do asks whether it may go. Not while a message is on its way to it, unless the
    /// host closes.
    pub(crate) fn retire(
        &self,
        address: &EntityAddress,
        generation: u64,
        admission: &Admission,
        closing: bool,
    ) -> bool {
        let mut slots = self.registry.stripe(address);
        match slots.get(address) {
            Some(Slot::Running { generation: held, .. }) if *held == generation => {
                if !closing && !admission.idle() {
                    return false;
                }
                self.registry.remove(&mut slots, address);
                true
            }
            // Not published yet: it asks again with its next message or timer.
            Some(Slot::Starting(_)) => false,
            _ => true,
        }
    }

    /// An actor discarded its state.
    pub(crate) fn lost(
        self: &Arc<Self>,
        address: &Arc<EntityAddress>,
        generation: u64,
        lost: Lost,
        attempt: u32,
        flights: Vec<Pending>,
    ) {
        tracing::error!(entity = %address, %lost, attempt, "entity lost its state");
        self.metrics.lose(lost.reason());
        if matches!(lost, Lost::Panicked(_)) {
            self.metrics.panics.inc();
        }
        if let Some(told) = &self.on_lost {
            told(address, &lost);
        }
        let fenced = match &lost {
            Lost::Journal(AppendError::Fenced { current }) => Some(*current),
            _ => None,
        };
        if let Some(current) = fenced {
            self.placement.fenced(address.shard(), current);
        }
        let mut slots = self.registry.stripe(address);
        match slots.get_mut(&**address) {
            Some(slot @ Slot::Running { .. }) => {
                if !matches!(slot, Slot::Running { generation: held, .. } if *held == generation) {
                    return;
                }
                if fenced.is_some() || self.closing.load(Ordering::Acquire) {
                    self.registry.remove(&mut slots, address);
                    return;
                }
                *slot = Slot::Starting(Starting::default());
                drop(slots);
                self.activate(Arc::clone(address), attempt, flights);
            }
            // It was lost in its first step, before it was published.
            Some(Slot::Starting(_)) => {
                drop(slots);
                match fenced {
                    Some(_) => self.drop_slot(address, Undeliverable::Failed),
                    None => self.activate(Arc::clone(address), attempt, flights),
                }
            }
            None => {}
        }
    }
}

/// Brings a fresh core to where the journal ends.
fn replay<B: Behaviour>(behaviour: &B, core: &mut B::Core, history: &EntityHistory) -> Result<(), String> {
    if let Some(snapshot) = &history.snapshot {
        behaviour
            .restore(core, snapshot.version, &snapshot.body)
            .map_err(|error| format!("snapshot after event {}: {error}", snapshot.nth))?;
    }
    for stored in &history.events {
        let event = behaviour.decode(stored).map_err(|error| {
            format!("event {} ({} v{}): {error}", stored.nth, stored.kind, stored.version)
        })?;
        core.apply(&event);
    }
    Ok(())
}
