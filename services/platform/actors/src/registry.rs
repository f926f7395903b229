//! Which entities are active here. Striped, so that arbiters seldom meet at one lock.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix::Addr;
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, oneshot};
use trunkline_types::{EntityAddress, Epoch};

use crate::{Activation, Behaviour, entity::Entity, handle::Admission};

const STRIPES: usize = 64;

/// An entity's place in the registry.
pub(crate) enum Slot<B: Behaviour> {
    /// Being rebuilt; messages wait here.
    Starting(Starting<B::Message>),
    /// Active.
    Running { actor: Addr<Entity<B>>, admission: Arc<Admission>, generation: u64, epoch: Epoch },
}

/// What waits for an entity to be rebuilt.
pub(crate) struct Starting<M> {
    /// The epoch at which it will act.
    pub(crate) epoch: Epoch,
    /// Tells this start from others of the same entity.
    pub(crate) ticket: u64,
    pub(crate) waiting: VecDeque<(M, Activation)>,
    /// Told whether it came up.
    pub(crate) watchers: Vec<oneshot::Sender<bool>>,
}

impl<M> Starting<M> {
    pub(crate) fn new(epoch: Epoch, ticket: u64) -> Self {
        Self { epoch, ticket, waiting: VecDeque::new(), watchers: Vec::new() }
    }
}

/// An entity that was active, or was being started (`actor` is `None`).
pub(crate) struct Target<B: Behaviour> {
    pub(crate) address: Arc<EntityAddress>,
    pub(crate) actor: Option<(Addr<Entity<B>>, Arc<Admission>)>,
}

type Slots<B> = HashMap<Arc<EntityAddress>, Slot<B>>;

pub(crate) struct Registry<B: Behaviour> {
    stripes: Vec<Mutex<Slots<B>>>,
    hasher: std::hash::RandomState,
    count: AtomicUsize,
    gauge: Gauge,
    /// Told when one goes.
    pub(crate) removed: Notify,
}

impl<B: Behaviour> Registry<B> {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(HashMap::new())).collect(),
            hasher: std::hash::RandomState::new(),
            count: AtomicUsize::new(0),
            gauge,
            removed: Notify::new(),
        }
    }

    /// The stripe of an address. Nothing that could block or panic is done under it.
    pub(crate) fn stripe(&self, address: &EntityAddress) -> MutexGuard<'_, Slots<B>> {
        self.stripes[self.hasher.hash_one(address) as usize % STRIPES].lock()
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn insert(&self, slots: &mut Slots<B>, address: Arc<EntityAddress>, slot: Slot<B>) {
        if slots.insert(address, slot).is_none() {
            self.count.fetch_add(1, Ordering::AcqRel);
            self.gauge.inc();
        }
    }

    pub(crate) fn remove(&self, slots: &mut Slots<B>, address: &EntityAddress) -> Option<Slot<B>> {
        let removed = slots.remove(address)?;
        self.gauge.dec();
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.removed.notify_waiters();
        Some(removed)
    }

    /// The entities that `wanted` names, as they are at present.
    pub(crate) fn collect(&self, wanted: impl Fn(&EntityAddress, &Slot<B>) -> bool) -> Vec<Target<B>> {
        let mut found = Vec::new();
        for stripe in &self.stripes {
            for (address, slot) in stripe.lock().iter().filter(|(address, slot)| wanted(address, slot)) {
                let actor = match slot {
                    Slot::Running { actor, admission, .. } => Some((actor.clone(), Arc::clone(admission))),
                    Slot::Starting(_) => None,
                };
                found.push(Target { address: Arc::clone(address), actor });
            }
        }
        found
    }
}
