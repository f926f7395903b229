//! Contact records, live and interval numbers, the recordings' catalogue: projections of the journal.
//!
//! Owns the folds (`fold`, pure), the database that they are kept in (`store`), the task that keeps it up with the
//! journal (`projector`), and the gRPC service `trunkline.records.v1.Records`. All of it is derived: with the file gone
//! it is rebuilt from the journal. Live numbers, intervals and records are folds of the same events, so they agree
//! exactly. Refuses to decide anything.
//!
//! Called by the console over gRPC; started by the daemon. Definitions of the metrics: `fold::Counters`.

pub mod fold;
mod metrics;
mod projector;
mod serve;
mod store;

use std::{path::Path, sync::Arc};

use object_store::ObjectStore;
use tokio::task::JoinHandle;
use trunkline_journal::Journal;
use trunkline_proto::records::v1::records_server::RecordsServer;
use trunkline_types::{AgentId, QueueId, TenantId, Timestamp};

pub use crate::{metrics::RecordsMetrics, store::StoreError};
use crate::{projector::Projector, serve::Service, store::Store};

/// A queue as boards name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueName {
    /// Its id.
    pub id: QueueId,
    /// What people read.
    pub name: String,
    /// Target of the service level, seconds.
    pub service_level_target_s: u32,
}

/// An agent as boards name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentName {
    /// Its id.
    pub id: AgentId,
    /// What people read.
    pub name: String,
    /// Queues it serves.
    pub queues: Vec<QueueId>,
}

/// The names on boards, answered from memory.
pub trait Directory: Send + Sync + 'static {
    /// Queues of a tenant.
    fn queues(&self, tenant: &TenantId) -> Vec<QueueName>;
    /// Agents of a tenant.
    fn agents(&self, tenant: &TenantId) -> Vec<AgentName>;
}

/// What the role needs from its node.
pub struct RecordsParts {
    /// What is folded.
    pub journal: Arc<dyn Journal>,
    /// Where media nodes put recordings.
    pub objects: Arc<dyn ObjectStore>,
    /// Names.
    pub directory: Arc<dyn Directory>,
    /// Its counters.
    pub metrics: RecordsMetrics,
    /// The node's clock.
    pub now: fn() -> Timestamp,
}

/// The running role.
pub struct Records {
    store: Store,
    projector: JoinHandle<()>,
    service: Option<RecordsServer<Service>>,
}

impl Records {
    /// Opens (or rebuilds) the database `file`, catches up with the journal and goes on following it.
    pub async fn start(file: &Path, parts: RecordsParts) -> Result<Self, StoreError> {
        let store = Store::open(file).await?;
        let (mut projector, shared) =
            Projector::load(parts.journal, store.clone(), parts.metrics.clone(), parts.now).await?;
        projector.catch_up().await?;
        let now = parts.now;
        let service = Service {
            store: store.clone(),
            shared,
            objects: parts.objects,
            directory: parts.directory,
            metrics: parts.metrics,
            now,
        };
        Ok(Self {
            store,
            projector: tokio::spawn(projector.run()),
            service: Some(RecordsServer::new(service)),
        })
    }

    /// The gRPC service, for the node's server; once.
    pub fn service(
        &mut self,
    ) -> Option<RecordsServer<impl trunkline_proto::records::v1::records_server::Records>> {
        self.service.take()
    }

    /// Stops following the journal and closes the database.
    pub async fn shutdown(&self) {
        self.projector.abort();
        self.store.close().await;
    }
}
