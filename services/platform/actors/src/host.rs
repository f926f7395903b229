//! The host of one kind of entity: finds, starts, restarts and retires actors.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};
use trunkline_cluster::Placement;
use trunkline_journal::{AppendError, EntityHistory, Journal, JournalError};
use trunkline_types::{EntityAddress, EntityKind, Epoch, ShardId};

use crate::{
    ActorMetrics, Arbiters, Behaviour, Handle, Refused,
    entity::{Discard, Inspect},
    handle::Admitted,
    metrics::KindMetrics,
    registry::{Registry, Slot, Starting, Target},
    tenure::Tenures,
};

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
    pub(crate) const fn reason(&self) -> &'static str {
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
    /// Events between two snapshots of up to 256 KiB; larger ones come less often, see [`HostOptions::spacing`].
    pub snapshot_every: u64,
}

impl HostOptions {
    /// 256 permits, 100,000 entities, 32 activations at a time, a snapshot every 2,000 events.
    pub const fn new(kind: EntityKind) -> Self {
        Self { kind, permits: 256, max_entities: 100_000, max_activating: 32, snapshot_every: 2_000 }
    }

    /// Events between a snapshot of so many bytes and the next. Making one takes time by its size (a queue remembers the
    /// calls of its last two minutes: 18,000 of them are 2.6 MB), and so does reading the events behind it: both grow
    /// alike, up to sixteen times.
    pub const fn spacing(&self, bytes: usize) -> u64 {
        let times = 1 + bytes / SNAPSHOT_BYTES;
        self.snapshot_every.saturating_mul(if times > 16 { 16 } else { times as u64 })
    }
}

/// Snapshots up to this size come as often as they may.
const SNAPSHOT_BYTES: usize = 256 << 10;

impl<B: Behaviour> Inner<B> {
    /// The epoch at which this host may act on a shard: it is this node's, and was not let go.
    pub(crate) fn admitted(&self, shard: ShardId) -> Option<Epoch> {
        self.placement.sealed(shard).filter(|epoch| !self.tenures.is_released(shard, *epoch))
    }

    pub(crate) fn ticket(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// An entity is started at an epoch of its shard.
    pub(crate) fn begin(&self, shard: ShardId, epoch: Epoch) -> u64 {
        self.tenures.begin(shard, epoch);
        self.ticket()
    }

    /// Puts the next life of an entity into the slot of one of a former epoch, which is discarded: whatever it appended
    /// and was not committed before the seal is refused. What waited for it waits for the new one.
    pub(crate) fn restart<'a>(
        &self,
        slot: &'a mut Slot<B>,
        shard: ShardId,
        epoch: Epoch,
    ) -> (u64, &'a mut Starting<B::Message>) {
        let ticket = self.begin(shard, epoch);
        let former = std::mem::replace(slot, Slot::Starting(Starting::new(epoch, ticket)));
        let Slot::Starting(starting) = slot else { unreachable!("put there just now") };
        match former {
            Slot::Running { actor, .. } => {
                // One message to an actor that ends by it.
                #[allow(clippy::disallowed_methods)]
                actor.do_send(Discard);
            }
            Slot::Starting(former) => {
                (starting.waiting, starting.watchers) = (former.waiting, former.watchers);
            }
        }
        (ticket, starting)
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
    pub(crate) arbiters: Arbiters,
    pub(crate) placement: Arc<dyn Placement>,
    pub(crate) registry: Registry<B>,
    pub(crate) factory: Box<Factory<B>>,
    pub(crate) on_lost: Option<Box<OnLost>>,
    pub(crate) on_undeliverable: Option<Box<OnUndeliverable<B::Message>>>,
    pub(crate) activating: Semaphore,
    pub(crate) generations: AtomicU64,
    pub(crate) tenures: Tenures,
    pub(crate) closing: AtomicBool,
}

/// Hosts the active entities of one kind. Cheap to clone.
pub struct Host<B: Behaviour>(pub(crate) Arc<Inner<B>>);

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
            tenures: Tenures::new(),
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
        let epoch = inner.admitted(address.shard()).ok_or(Refused::NotOwner)?;
        let mut slots = inner.registry.stripe(address);
        match slots.get_mut(address) {
            Some(slot) if slot.epoch() < epoch => {
                let (ticket, starting) = inner.restart(slot, address.shard(), epoch);
                starting.waiting.push_back((message, activation));
                drop(slots);
                inner.activate(Arc::new(address.clone()), ticket, 0, Vec::new());
                Ok(())
            }
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
                if activation != Activation::OnlyExisting
                    && inner.registry.count() >= inner.options.max_entities
                {
                    return Err(Refused::Crowded);
                }
                let address = Arc::new(address.clone());
                let ticket = inner.begin(address.shard(), epoch);
                let mut starting = Starting::new(epoch, ticket);
                starting.waiting.push_back((message, activation));
                inner.registry.insert(&mut slots, Arc::clone(&address), Slot::Starting(starting));
                drop(slots);
                if activation == Activation::CreateNew {
                    inner.start_on_arbiter(address, ticket, EntityHistory::default(), 0);
                } else {
                    inner.activate(address, ticket, 0, Vec::new());
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
    /// up; the others were logged. To be called when this node has sealed the shards, and again each time it has: actors
    /// of a former epoch are discarded. Shards that are not this node's are left out.
    ///
    /// # Errors
    /// When the journal cannot tell which there are.
    pub async fn recover_all(&self, shards: &[ShardId]) -> Result<usize, JournalError> {
        let live = self.0.journal.live_entities(self.0.options.kind, shards).await?;
        let mut watched = Vec::with_capacity(live.len());
        for address in live {
            let Some(epoch) = self.0.admitted(address.shard()) else { continue };
            let mut slots = self.0.registry.stripe(&address);
            let (told, watcher) = oneshot::channel();
            match slots.get_mut(&address) {
                Some(slot) if slot.epoch() < epoch => {
                    let (ticket, starting) = self.0.restart(slot, address.shard(), epoch);
                    starting.watchers.push(told);
                    drop(slots);
                    self.0.activate(Arc::new(address), ticket, 0, Vec::new());
                }
                Some(Slot::Running { .. }) => _ = told.send(true),
                Some(Slot::Starting(starting)) => starting.watchers.push(told),
                None => {
                    let address = Arc::new(address);
                    let ticket = self.0.begin(address.shard(), epoch);
                    let mut starting = Starting::new(epoch, ticket);
                    starting.watchers.push(told);
                    self.0.registry.insert(&mut slots, Arc::clone(&address), Slot::Starting(starting));
                    drop(slots);
                    self.0.activate(address, ticket, 0, Vec::new());
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
                let left = self.0.registry.collect(|_, _| true);
                left.iter().for_each(Target::close);
                let look = Instant::now() + Duration::from_millis(50);
                while self.count() > 0 && Instant::now() < look {
                    let _ = tokio::time::timeout_at(look, self.0.registry.removed.notified()).await;
                }
                // Those that were being started came up meanwhile.
                if self.count() == 0 {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, ended).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_snapshots_are_taken_less_often() {
        let options = HostOptions { snapshot_every: 2_000, ..HostOptions::new(EntityKind::Queue) };
        let events = |bytes| options.spacing(bytes);
        assert_eq!([0, 200_000, 300_000, 2_600_000].map(events), [2_000, 2_000, 4_000, 20_000]);
        assert_eq!(events(usize::MAX), 32_000, "what has to be read has a bound");
        assert_eq!(HostOptions { snapshot_every: u64::MAX, ..options }.spacing(1 << 20), u64::MAX);
    }
}
