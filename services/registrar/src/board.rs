//! What is bound on this node, for people: filled by effects, so that it holds only what is committed.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use trunkline_proto::registrar::v1 as pb;
use trunkline_registrar_core::Binding;
use trunkline_types::EntityAddress;

use crate::{convert, metrics::RegistrarMetrics};

/// A binding and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The account.
    pub address: EntityAddress,
    /// As it goes over the wire.
    pub binding: pb::Binding,
}

struct Shown {
    /// Which activation showed it.
    life: u64,
    bindings: Vec<Binding>,
}

#[derive(Clone)]
pub(crate) struct Board {
    shown: Arc<Mutex<BTreeMap<EntityAddress, Shown>>>,
    lives: Arc<AtomicU64>,
    metrics: RegistrarMetrics,
}

/// Where one activation of an account shows what it has; empty again when it ends, unless the next one has shown already.
pub(crate) struct Place {
    board: Board,
    address: EntityAddress,
    life: u64,
}

impl Board {
    pub fn new(metrics: RegistrarMetrics) -> Self {
        Self { shown: Arc::default(), lives: Arc::default(), metrics }
    }

    pub fn place(&self, address: EntityAddress) -> Place {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        Place { board: self.clone(), address, life }
    }

    /// Accounts with bindings.
    pub fn addresses(&self) -> Vec<EntityAddress> {
        self.shown.lock().keys().cloned().collect()
    }

    pub fn seen(
        &self,
        after: Option<&EntityAddress>,
        wanted: impl Fn(&EntityAddress) -> bool,
        accounts: usize,
    ) -> Vec<Seen> {
        let shown = self.shown.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let each =
            shown.range((from, Bound::Unbounded)).filter(|(address, _)| wanted(address)).take(accounts);
        each.flat_map(|(address, shown)| {
            let seen = |binding| Seen { address: address.clone(), binding: convert::binding(binding) };
            shown.bindings.iter().map(seen)
        })
        .collect()
    }

    fn put(&self, address: &EntityAddress, life: u64, bindings: Vec<Binding>) {
        let mut shown = self.shown.lock();
        if shown.get(address).is_some_and(|former| former.life > life) {
            return;
        }
        let now = bindings.len() as i64;
        let before = if bindings.is_empty() {
            shown.remove(address)
        } else {
            shown.insert(address.clone(), Shown { life, bindings })
        };
        self.metrics.bound(now - before.map_or(0, |before| before.bindings.len() as i64));
    }
}

impl Place {
    pub fn show(&self, bindings: Vec<Binding>) {
        self.board.put(&self.address, self.life, bindings);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.board.put(&self.address, self.life, Vec::new());
    }
}
