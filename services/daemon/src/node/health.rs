//! Whether this node serves: what `/readyz` says. Liveness asks for none of it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use trunkline_cluster::{EtcdPlacement, Placement};
use trunkline_journal::{DocumentKey, Journal};
use trunkline_types::TenantId;

use crate::{
    documents::{SYSTEM, kind},
    metrics_server::Problems,
};

/// Between two questions to the journal.
const EVERY: Duration = Duration::from_secs(2);
/// It has this long to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The node's state as its parts report it. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Health(Arc<Inner>);

struct Inner {
    serving: AtomicBool,
    journal: AtomicBool,
    etcd: OnceLock<Arc<EtcdPlacement>>,
    /// What the start waits for.
    waits: Mutex<Option<String>>,
}

impl Health {
    /// Of a node that begins to start.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            serving: AtomicBool::new(false),
            journal: AtomicBool::new(true),
            etcd: OnceLock::new(),
            waits: Mutex::new(None),
        }))
    }

    /// The node is a member from now on: what is wrong with the coordination is wrong with it.
    pub fn member(&self, etcd: Option<&Arc<EtcdPlacement>>) {
        if let Some(etcd) = etcd {
            let _ = self.0.etcd.set(etcd.clone());
        }
    }

    /// The start waits for something, or not any more.
    pub fn waits(&self, why: Option<String>) {
        *self.0.waits.lock() = why;
    }

    pub fn serving(&self, serves: bool) {
        self.0.serving.store(serves, Ordering::Release);
    }

    /// Why the node does not serve, a sentence a reason; empty = it serves.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.0.serving.load(Ordering::Acquire) {
            problems.push("the node starts or drains".to_owned());
            problems.extend(self.0.waits.lock().clone());
        } else if self.0.etcd.get().is_some_and(|etcd| etcd.draining()) {
            problems
                .push("the node was drained by an operator; `trunkline undrain` brings it back".to_owned());
        }
        problems.extend(self.journal_problem());
        problems.extend(self.coordination_problem());
        problems
    }

    /// The same for the metrics' address.
    pub fn probe(&self) -> Problems {
        let health = self.clone();
        Arc::new(move || health.problems())
    }

    pub fn journal_problem(&self) -> Option<String> {
        let answers = self.0.journal.load(Ordering::Acquire);
        (!answers).then(|| "the journal's database does not answer".to_owned())
    }

    pub fn coordination_problem(&self) -> Option<String> {
        self.0.etcd.get()?.problem()
    }

    /// Asks the journal until the task is ended.
    pub async fn watch(self, journal: Arc<dyn Journal>) {
        let Ok(tenant) = SYSTEM.parse::<TenantId>() else { return };
        let place = DocumentKey { tenant, kind: kind::TENANT.into(), id: "health".to_owned() };
        loop {
            let answer = tokio::time::timeout(PATIENCE, journal.get_document(&place)).await;
            let answers = matches!(answer, Ok(Ok(_)));
            if self.0.journal.swap(answers, Ordering::AcqRel) != answers {
                if answers {
                    tracing::info!("the journal's database answers again");
                } else {
                    tracing::error!("the journal's database does not answer; calls that are up go on");
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}
