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
use trunkline_types::EntityAddress;

use crate::{Activation, Behaviour, entity::Entity, handle::Admission};

const STRIPES: usize = 64;

/// An entity's place in the registry.
pub(crate) enum Slot<B: Behaviour> {
    /// Being rebuilt; messages wait here.
    Starting(Starting<B::Message>),
    /// Active.
    Running { actor: Addr<Entity<B>>, admission: Arc<Admission>, generation: u64 },
}

/// What waits for an entity to be rebuilt.
pub(crate) struct Starting<M> {
    pub(crate) waiting: VecDeque<(M, Activation)>,
    /// Told whether it came up.
    pub(crate) watchers: Vec<oneshot::Sender<bool>>,
}

impl<M> Default for Starting<M> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), watchers: Vec::new() }
    }
}

type Slots<B> = HashMap<Arc<EntityAddress>, Slot<B>>;

pub(crate) struct Registry<B: Behaviour> {
    stripes: Vec<Mutex<Slots<B>>>,
    hasher: std::hash::RandomState,
    count: AtomicUsize,
    gauge: Gauge,
    /// Told when the last one goes.
    pub(crate) empty: Notify,
}

impl<B: Behaviour> Registry<B> {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(HashMap::new())).collect(),
            hasher: std::hash::RandomState::new(),
            count: AtomicUsize::new(0),
            gauge,
            empty: Notify::new(),
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
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.empty.notify_waiters();
        }
        Some(removed)
    }

    /// The actors that run at present.
    pub(crate) fn running(&self) -> Vec<Addr<Entity<B>>> {
        let mut found = Vec::with_capacity(self.count());
        for stripe in &self.stripes {
            for slot in stripe.lock().values() {
                if let Slot::Running { actor, .. } = slot {
                    found.push(actor.clone());
                }
            }
        }
        found
    }
}
