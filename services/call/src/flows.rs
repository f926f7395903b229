//! Flows by tenant, id and version, and how queues treat their callers: the library that calls look into.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use trunkline_call_core::{Library, Treatment, flow::Flow};
use trunkline_types::{FlowId, QueueId, TenantId};

/// Versions of a flow that are kept for calls that began them.
const KEPT_VERSIONS: usize = 16;

/// Published flows and treatments. The daemon publishes; calls read.
#[derive(Default)]
pub struct FlowStore {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    flows: HashMap<(TenantId, FlowId), BTreeMap<u64, Arc<Flow>>>,
    treatments: HashMap<(TenantId, QueueId), Arc<Treatment>>,
    queues: HashMap<TenantId, HashSet<QueueId>>,
    default: Arc<Treatment>,
}

impl FlowStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a version in force (the highest one is) and keeps the last ones for calls that began them.
    pub fn publish(&self, tenant: &TenantId, flow: Flow) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let versions = inner.flows.entry((tenant.clone(), flow.id().clone())).or_default();
        versions.insert(flow.version(), Arc::new(flow));
        while versions.len() > KEPT_VERSIONS {
            versions.pop_first();
        }
    }

    /// Takes a flow out of force: new calls to it are answered 404. Calls in it go on.
    pub fn withdraw(&self, tenant: &TenantId, flow: &FlowId) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.flows.remove(&(tenant.clone(), flow.clone()));
    }

    /// The queues of a tenant from now on. Until this is told every queue is taken for one: the queue itself says no.
    pub fn queues(&self, tenant: &TenantId, queues: HashSet<QueueId>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.queues.insert(tenant.clone(), queues);
    }

    /// How a queue treats its callers from now on.
    pub fn treat(&self, tenant: &TenantId, queue: &QueueId, treatment: Treatment) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.treatments.insert((tenant.clone(), queue.clone()), Arc::new(treatment));
    }

    fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Library for FlowStore {
    fn flow(&self, tenant: &TenantId, id: &FlowId) -> Option<Arc<Flow>> {
        self.read(|inner| {
            inner.flows.get(&(tenant.clone(), id.clone()))?.last_key_value().map(|(_, flow)| flow.clone())
        })
    }

    fn flow_version(&self, tenant: &TenantId, id: &FlowId, version: u64) -> Option<Arc<Flow>> {
        self.read(|inner| inner.flows.get(&(tenant.clone(), id.clone()))?.get(&version).cloned())
    }

    fn has_queue(&self, tenant: &TenantId, id: &QueueId) -> bool {
        self.read(|inner| inner.queues.get(tenant).is_none_or(|queues| queues.contains(id)))
    }

    fn treatment(&self, tenant: &TenantId, id: &QueueId) -> Arc<Treatment> {
        self.read(|inner| {
            inner.treatments.get(&(tenant.clone(), id.clone())).unwrap_or(&inner.default).clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_is_in_force_and_older_ones_stay_for_their_calls() {
        let (store, tenant, id) = (FlowStore::new(), "default".parse().unwrap(), "menu".parse().unwrap());
        for version in 1..=20 {
            store.publish(&tenant, Flow::parse(crate::SAMPLE_FLOW, version).unwrap());
        }
        assert_eq!(store.flow(&tenant, &id).unwrap().version(), 20);
        assert!(
            store.flow_version(&tenant, &id, 5).is_some() && store.flow_version(&tenant, &id, 4).is_none()
        );
        let (there, gone) = ("support".parse().unwrap(), "sales".parse().unwrap());
        assert!(store.has_queue(&tenant, &gone), "nobody has told");
        store.queues(&tenant, [there].into());
        assert!(!store.has_queue(&tenant, &gone));
        store.withdraw(&tenant, &id);
        assert!(store.flow(&tenant, &id).is_none());
    }
}
