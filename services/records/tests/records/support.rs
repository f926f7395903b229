use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use object_store::{ObjectStore, local::LocalFileSystem};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};
use tonic::transport::{Channel, Server};
use trunkline_journal::{
    Append, AppendError, Document, DocumentKey, EntityHistory, Journal, JournalError, Pending, Seal,
    Snapshot, StoredEvent,
};
use trunkline_proto::records::v1::{
    Contact, GetContactRequest, GetIntervalsRequest, Interval, ListContactsRequest, LiveSnapshot,
    WatchLiveRequest, records_client::RecordsClient,
};
use trunkline_records::{AgentName, Directory, QueueName, Records, RecordsMetrics, RecordsParts};
use trunkline_rpc::{LocalServer, serve_in_process};
use trunkline_types::{EntityAddress, EntityKind, Epoch, ShardId, TenantId, Timestamp};

use crate::history::{AGENTS, History, MIDNIGHT, QUEUES, S};

pub const SOON: Duration = Duration::from_secs(20);
/// All histories are over by then.
pub const END: i64 = MIDNIGHT + 10_800 * S;

/// A journal on a tape: shows its first `shown` events, and fails when told to.
pub struct Tape {
    pub events: Mutex<Vec<StoredEvent>>,
    shown: watch::Sender<u64>,
    pub failures: AtomicUsize,
    pub reads: AtomicUsize,
    pub identity: AtomicU64,
}

impl Tape {
    pub fn new(events: Vec<StoredEvent>) -> Arc<Self> {
        let (events, shown) = (Mutex::new(events), watch::channel(0).0);
        let (failures, reads) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { events, shown, failures, reads, identity: AtomicU64::new(1) })
    }

    pub fn show(&self, position: usize) {
        self.shown.send_replace(position as u64);
    }

    pub fn show_all(&self) {
        self.show(self.events.lock().unwrap().len());
    }
}

fn not_here<T>() -> Result<T, JournalError> {
    Err(JournalError::Invalid("a tape can only be read".to_owned()))
}

#[async_trait]
impl Journal for Tape {
    fn append(&self, _: Append) -> Pending {
        Pending::decided(Err(AppendError::Invalid("a tape can only be read".to_owned())))
    }

    async fn seal(&self, _: &[ShardId], _: &str) -> Result<Vec<(ShardId, Epoch)>, JournalError> {
        not_here()
    }

    async fn seal_if(&self, _: ShardId, _: Epoch, _: &str) -> Result<Epoch, JournalError> {
        not_here()
    }

    async fn identity(&self) -> Result<u64, JournalError> {
        Ok(self.identity.load(Ordering::Relaxed))
    }

    async fn epochs(&self) -> Result<Vec<Seal>, JournalError> {
        not_here()
    }

    async fn replay_shard(&self, _: ShardId, _: u64, _: usize) -> Result<Vec<StoredEvent>, JournalError> {
        not_here()
    }

    async fn load_entity(&self, _: &EntityAddress) -> Result<EntityHistory, JournalError> {
        not_here()
    }

    async fn live_entities(&self, _: EntityKind, _: &[ShardId]) -> Result<Vec<EntityAddress>, JournalError> {
        not_here()
    }

    async fn put_snapshot(&self, _: &EntityAddress, _: Snapshot) -> Result<(), JournalError> {
        not_here()
    }

    async fn tail(&self, after: u64, limit: usize) -> Result<Vec<StoredEvent>, JournalError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let failing = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if failing.is_ok() {
            return Err(JournalError::Unavailable("as the test wants".to_owned()));
        }
        let (events, shown) = (self.events.lock().unwrap(), *self.shown.borrow() as usize);
        Ok(events[..shown].iter().skip(after as usize).take(limit).cloned().collect())
    }

    fn committed(&self) -> watch::Receiver<u64> {
        self.shown.subscribe()
    }

    async fn put_document(
        &self,
        _: &DocumentKey,
        _: serde_json::Value,
        _: Option<u64>,
    ) -> Result<u64, JournalError> {
        not_here()
    }

    async fn delete_document(&self, _: &DocumentKey, _: Option<u64>) -> Result<u64, JournalError> {
        not_here()
    }

    async fn get_document(&self, _: &DocumentKey) -> Result<Option<Document>, JournalError> {
        not_here()
    }

    async fn document_at(&self, _: &DocumentKey, _: u64) -> Result<Option<Document>, JournalError> {
        not_here()
    }

    async fn list_documents(&self, _: &TenantId, _: &str) -> Result<Vec<Document>, JournalError> {
        not_here()
    }

    fn documents_revision(&self) -> watch::Receiver<u64> {
        self.shown.subscribe()
    }

    async fn close(&self) {}
}

struct Names;

impl Directory for Names {
    fn queues(&self, _: &TenantId) -> Vec<QueueName> {
        let name =
            |id: &str| QueueName { id: id.parse().unwrap(), name: id.to_owned(), service_level_target_s: 20 };
        QUEUES.iter().map(|id| name(id)).collect()
    }

    fn agents(&self, _: &TenantId) -> Vec<AgentName> {
        let name = |id: &str| AgentName {
            id: id.parse().unwrap(),
            name: id.to_owned(),
            queues: vec!["support".parse().unwrap()],
        };
        AGENTS.iter().map(|id| name(id)).collect()
    }
}

/// The database's place and what it is a fold of.
pub struct Place {
    pub dir: TempDir,
    pub tape: Arc<Tape>,
}

pub struct Running {
    pub records: Records,
    pub client: RecordsClient<Channel>,
    pub server: LocalServer,
    pub registry: Registry,
}

impl Place {
    pub fn new(history: &History) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), tape: Tape::new(history.events.clone()) }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("records.sqlite")
    }

    pub async fn start(&self) -> Running {
        let mut registry = Registry::default();
        let objects: Arc<dyn ObjectStore> =
            Arc::new(LocalFileSystem::new_with_prefix(self.dir.path()).unwrap());
        let parts = RecordsParts {
            journal: self.tape.clone(),
            objects,
            directory: Arc::new(Names),
            metrics: RecordsMetrics::register(&mut registry),
            now: || Timestamp::from_micros(END),
        };
        let mut records = Records::start(&self.file(), parts).await.unwrap();
        let server = serve_in_process(Server::builder().add_service(records.service().unwrap()));
        Running { client: RecordsClient::new(server.channel.clone()), records, server, registry }
    }
}

impl Running {
    pub async fn stop(self) {
        self.server.shutdown();
        self.records.shutdown().await;
    }

    pub async fn live(&mut self) -> LiveSnapshot {
        let request = WatchLiveRequest { tenant: "default".into() };
        self.client.get_live(request).await.unwrap().into_inner()
    }

    /// The live numbers once everything up to `position` is in them.
    pub async fn live_at(&mut self, position: usize) -> LiveSnapshot {
        let wait = async {
            loop {
                let live = self.live().await;
                if live.position >= position as u64 {
                    return live;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, wait).await.expect("the fold comes this far")
    }

    pub async fn contact(&mut self, call: &str) -> Option<Contact> {
        let request = GetContactRequest { tenant: "default".into(), call_id: call.into() };
        self.client.get_contact(request).await.ok().map(tonic::Response::into_inner)
    }

    pub async fn list(&mut self, wanted: ListContactsRequest) -> Vec<Contact> {
        let mut all = Vec::new();
        let mut request = ListContactsRequest { tenant: "default".into(), ..wanted };
        loop {
            let page = self.client.list_contacts(request.clone()).await.unwrap().into_inner();
            assert!(
                page.contacts.len() <= if request.page_size == 0 { 50 } else { request.page_size as usize }
            );
            all.extend(page.contacts);
            if page.next_cursor.is_empty() {
                return all;
            }
            request.cursor = page.next_cursor;
        }
    }

    pub async fn intervals(&mut self, queue: &str, from: i64, to: i64) -> Vec<Interval> {
        let request = GetIntervalsRequest {
            tenant: "default".into(),
            queue_id: queue.into(),
            from_us: from,
            to_us: to,
            interval_s: 300,
        };
        self.client.get_intervals(request).await.unwrap().into_inner().intervals
    }

    pub fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    }

    /// Everything that can be asked, for comparison.
    pub async fn everything(&mut self, calls: &[String]) -> (LiveSnapshot, Vec<Contact>, Vec<Interval>) {
        let live = self.live().await;
        let mut contacts = Vec::new();
        for call in calls {
            contacts.extend(self.contact(call).await);
        }
        contacts.extend(self.list(ListContactsRequest { page_size: 200, ..Default::default() }).await);
        let mut intervals = Vec::new();
        for queue in QUEUES {
            intervals.extend(self.intervals(queue, MIDNIGHT - 7_200 * S, END).await);
        }
        (live, contacts, intervals)
    }
}
