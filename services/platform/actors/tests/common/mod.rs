//! A machine that counts, a journal whose answers can be held back, and a host over both.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};
use trunkline_actors::{
    ActorMetrics, Arbiters, Behaviour, CommitClass, DecodeError, EffectId, Handle, Host, HostOptions, Lost,
    Undeliverable,
};
use trunkline_cluster::{Incarnation, MapRevision, NodeIdentity, NodeInfo, Owner, Placement};
use trunkline_journal::{
    Append, Document, DocumentKey, EntityHistory, Journal, JournalError, NewEvent, Pending, Seal, Snapshot,
    SqliteJournal, SqliteOptions, StoredEvent,
};
use trunkline_types::{EntityAddress, EntityKind, Epoch, Machine, Outbox, ShardId, TenantId, Timestamp};

pub fn entity(id: &str) -> EntityAddress {
    EntityAddress::queue(&"default".parse().unwrap(), &id.parse().unwrap())
}

/// Waits for a condition, and says which one did not come true.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "did not come true: {what}");
}

#[derive(Debug)]
pub enum TallyInput {
    Add(u64),
    AddQuickly(u64),
    AddAfter(u64, u64),
    Stall(u64),
    Finish,
    Panic,
}

#[derive(Debug)]
pub enum TallyEvent {
    Added(u64),
    AddedQuickly(u64),
    Finished,
}

#[derive(Debug)]
pub enum TallyEffect {
    Say { total: u64, recovered: bool },
}

/// Adds up, and says the total after each addition.
#[derive(Debug, Default)]
pub struct Tally {
    pub total: u64,
    finished: bool,
    later: Vec<(Timestamp, u64)>,
}

impl Tally {
    fn decide(&mut self, event: TallyEvent, out: &mut Outbox<TallyEvent, TallyEffect>) {
        self.apply(&event);
        out.event(event);
        if !self.finished {
            out.effect(TallyEffect::Say { total: self.total, recovered: false });
        }
    }
}

impl Machine for Tally {
    type Input = (Timestamp, TallyInput);
    type Event = TallyEvent;
    type Effect = TallyEffect;

    fn handle(&mut self, now: Timestamp, (_, input): Self::Input, out: &mut Outbox<TallyEvent, TallyEffect>) {
        match input {
            TallyInput::Add(n) => self.decide(TallyEvent::Added(n), out),
            TallyInput::AddQuickly(n) => self.decide(TallyEvent::AddedQuickly(n), out),
            TallyInput::AddAfter(millis, n) => self.later.push((now.plus(Duration::from_millis(millis)), n)),
            TallyInput::Stall(millis) => std::thread::sleep(Duration::from_millis(millis)),
            TallyInput::Finish => self.decide(TallyEvent::Finished, out),
            TallyInput::Panic => panic!("as asked"),
        }
    }

    fn advance(&mut self, now: Timestamp, out: &mut Outbox<TallyEvent, TallyEffect>) {
        self.later.sort_unstable();
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let (_, n) = self.later.remove(0);
            self.decide(TallyEvent::Added(n), out);
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.later.iter().map(|(at, _)| *at).min()
    }

    fn apply(&mut self, event: &TallyEvent) {
        match event {
            TallyEvent::Added(n) | TallyEvent::AddedQuickly(n) => self.total += n,
            TallyEvent::Finished => self.finished = true,
        }
    }

    fn recovered(&mut self, _: Timestamp, out: &mut Outbox<TallyEvent, TallyEffect>) {
        out.effect(TallyEffect::Say { total: self.total, recovered: true });
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Said {
    pub total: u64,
    pub recovered: bool,
    pub id: EffectId,
}

/// What was performed, in order.
#[derive(Debug, Default)]
pub struct Effects(Mutex<Vec<Said>>);

impl Effects {
    pub fn push(&self, said: Said) {
        self.0.lock().push(said);
    }

    pub fn all(&self) -> Vec<Said> {
        self.0.lock().clone()
    }

    pub fn totals(&self) -> Vec<u64> {
        self.0.lock().iter().map(|said| said.total).collect()
    }
}

pub struct TallyShell(pub Arc<Effects>);

impl Behaviour for TallyShell {
    type Core = Tally;
    type Input = (Timestamp, TallyInput);
    type Event = TallyEvent;
    type Effect = TallyEffect;
    type Message = TallyInput;

    fn input(&mut self, message: TallyInput, now: Timestamp) -> Option<Self::Input> {
        Some((now, message))
    }

    fn encode(&self, event: &TallyEvent, now: Timestamp) -> NewEvent {
        let (kind, n) = match event {
            TallyEvent::Added(n) => ("tally.added", *n),
            TallyEvent::AddedQuickly(n) => ("tally.added_quickly", *n),
            TallyEvent::Finished => ("tally.finished", 0),
        };
        NewEvent::new(kind, 1, now, n.to_be_bytes().to_vec())
    }

    fn decode(&self, stored: &StoredEvent) -> Result<TallyEvent, DecodeError> {
        let n = stored.payload[..]
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| DecodeError::new("not 8 bytes"))?;
        match stored.kind.as_ref() {
            "tally.added" => Ok(TallyEvent::Added(n)),
            "tally.added_quickly" => Ok(TallyEvent::AddedQuickly(n)),
            "tally.finished" => Ok(TallyEvent::Finished),
            other => Err(DecodeError::new(format!("unknown kind {other}"))),
        }
    }

    fn perform(&mut self, effect: TallyEffect, id: EffectId) {
        let TallyEffect::Say { total, recovered } = effect;
        self.0.push(Said { total, recovered, id });
    }

    fn class(&self, event: &TallyEvent) -> CommitClass {
        if matches!(event, TallyEvent::AddedQuickly(_)) { CommitClass::ActFirst } else { CommitClass::First }
    }

    fn finished(&self, core: &Tally) -> bool {
        core.finished
    }

    fn snapshot(&self, core: &Tally) -> Option<(u16, Bytes)> {
        Some((1, core.total.to_be_bytes().to_vec().into()))
    }

    fn restore(&self, core: &mut Tally, _: u16, body: &[u8]) -> Result<(), DecodeError> {
        core.total = body.try_into().map(u64::from_be_bytes).map_err(|_| DecodeError::new("not 8 bytes"))?;
        Ok(())
    }
}

/// Commits as the inner journal does, but answers only when told to.
pub struct Held {
    pub inner: SqliteJournal,
    gate: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
    holding: Mutex<bool>,
    held: Arc<AtomicUsize>,
    /// Its clock minus the machine's, microseconds.
    pub ahead_us: AtomicI64,
}

impl Held {
    pub fn hold(&self) {
        *self.holding.lock() = true;
    }

    /// Appends whose answers are held back.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub fn release_one(&self) {
        self.gate.add_permits(1);
    }

    pub fn release(&self) {
        *self.holding.lock() = false;
        self.gate.add_permits(100_000);
    }
}

#[async_trait]
impl Journal for Held {
    fn append(&self, append: Append) -> Pending {
        let pending = self.inner.append(append);
        if !*self.holding.lock() {
            return pending;
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        let (reply, answer) = oneshot::channel();
        let (gate, held) = (Arc::clone(&self.gate), Arc::clone(&self.held));
        self.runtime.spawn(async move {
            let outcome = pending.await;
            gate.acquire().await.unwrap().forget();
            held.fetch_sub(1, Ordering::SeqCst);
            let _ = reply.send(outcome);
        });
        Pending::waiting(answer)
    }

    async fn clock(&self) -> Result<Timestamp, JournalError> {
        let ahead = self.ahead_us.load(Ordering::SeqCst);
        Ok(Timestamp::from_micros(self.inner.clock().await?.as_micros() + ahead))
    }
    async fn seal(&self, shards: &[ShardId], owner: &str) -> Result<Vec<(ShardId, Epoch)>, JournalError> {
        self.inner.seal(shards, owner).await
    }
    async fn seal_if(&self, shard: ShardId, seen: Epoch, owner: &str) -> Result<Epoch, JournalError> {
        self.inner.seal_if(shard, seen, owner).await
    }
    async fn identity(&self) -> Result<u64, JournalError> {
        self.inner.identity().await
    }
    async fn epochs(&self) -> Result<Vec<Seal>, JournalError> {
        self.inner.epochs().await
    }
    async fn replay_shard(
        &self,
        shard: ShardId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError> {
        self.inner.replay_shard(shard, after, limit).await
    }
    async fn load_entity(&self, entity: &EntityAddress) -> Result<EntityHistory, JournalError> {
        self.inner.load_entity(entity).await
    }
    async fn live_entities(
        &self,
        kind: EntityKind,
        shards: &[ShardId],
    ) -> Result<Vec<EntityAddress>, JournalError> {
        self.inner.live_entities(kind, shards).await
    }
    async fn put_snapshot(&self, entity: &EntityAddress, snapshot: Snapshot) -> Result<(), JournalError> {
        self.inner.put_snapshot(entity, snapshot).await
    }
    async fn tail(&self, after: u64, limit: usize) -> Result<Vec<StoredEvent>, JournalError> {
        self.inner.tail(after, limit).await
    }
    fn committed(&self) -> watch::Receiver<u64> {
        self.inner.committed()
    }
    async fn put_document(
        &self,
        key: &DocumentKey,
        body: serde_json::Value,
        expected: Option<u64>,
    ) -> Result<u64, JournalError> {
        self.inner.put_document(key, body, expected).await
    }
    async fn delete_document(&self, key: &DocumentKey, expected: Option<u64>) -> Result<u64, JournalError> {
        self.inner.delete_document(key, expected).await
    }
    async fn get_document(&self, key: &DocumentKey) -> Result<Option<Document>, JournalError> {
        self.inner.get_document(key).await
    }
    async fn document_at(&self, key: &DocumentKey, revision: u64) -> Result<Option<Document>, JournalError> {
        self.inner.document_at(key, revision).await
    }
    async fn list_documents(&self, tenant: &TenantId, kind: &str) -> Result<Vec<Document>, JournalError> {
        self.inner.list_documents(tenant, kind).await
    }
    fn documents_revision(&self) -> watch::Receiver<u64> {
        self.inner.documents_revision()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A placement in which the test seals and loses shards.
pub struct Movable {
    epochs: Mutex<HashMap<ShardId, Epoch>>,
    revision: watch::Sender<MapRevision>,
}

impl Movable {
    /// All shards are this node's.
    async fn start(journal: &dyn Journal) -> Self {
        let made = Self { epochs: Mutex::default(), revision: watch::Sender::new(MapRevision(1)) };
        made.seal(journal, &ShardId::all().collect::<Vec<_>>()).await;
        made
    }

    pub async fn seal(&self, journal: &dyn Journal, shards: &[ShardId]) {
        let sealed = journal.seal(shards, "node-1/1").await.unwrap();
        self.epochs.lock().extend(sealed);
    }

    pub fn epoch(&self, entity: &EntityAddress) -> Epoch {
        self.held(entity.shard()).unwrap()
    }

    pub fn lose(&self, shard: ShardId) {
        self.epochs.lock().remove(&shard);
    }
}

impl Placement for Movable {
    fn local(&self) -> NodeIdentity {
        NodeIdentity { id: "node-1".parse().unwrap(), incarnation: Incarnation(1) }
    }
    fn owner(&self, shard: ShardId) -> Option<Owner> {
        let (local, epoch) = (self.local(), self.held(shard)?);
        Some(Owner { node: local.id, incarnation: local.incarnation, epoch, active: true })
    }
    fn held(&self, shard: ShardId) -> Option<Epoch> {
        self.epochs.lock().get(&shard).copied()
    }
    fn opening(&self, _: ShardId) -> Option<Epoch> {
        None
    }
    fn held_shards(&self) -> Vec<ShardId> {
        ShardId::all().filter(|shard| self.held(*shard).is_some()).collect()
    }
    fn revision(&self) -> MapRevision {
        *self.revision.borrow()
    }
    fn changes(&self) -> watch::Receiver<MapRevision> {
        self.revision.subscribe()
    }
    fn nodes(&self) -> Arc<[Arc<NodeInfo>]> {
        Arc::new([])
    }
    fn fenced(&self, shard: ShardId, current: Epoch) {
        self.epochs.lock().retain(|held, epoch| *held != shard || *epoch >= current);
    }
}

type Answers = Arc<Mutex<Vec<(String, Undeliverable)>>>;

pub struct Fixture {
    pub journal: Arc<Held>,
    pub placement: Arc<Movable>,
    pub arbiters: Arbiters,
    pub host: Host<TallyShell>,
    pub effects: Arc<Effects>,
    pub handles: Arc<Mutex<Vec<Handle<TallyInput>>>>,
    lost: Arc<Mutex<Vec<Lost>>>,
    answers: Answers,
    options: HostOptions,
}

impl Fixture {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut HostOptions)) -> Self {
        let inner = SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap();
        let mut options = HostOptions::new(EntityKind::Queue);
        change(&mut options);
        let gate = Arc::new(Semaphore::new(0));
        let runtime = tokio::runtime::Handle::current();
        let held = Held {
            inner,
            gate,
            runtime,
            holding: Mutex::new(false),
            held: Arc::default(),
            ahead_us: AtomicI64::new(0),
        };
        Self::over(Arc::new(held), options).await
    }

    /// The next life of the node on the same journal.
    pub async fn again(self) -> Self {
        self.arbiters.shutdown().await.unwrap();
        Self::over(self.journal, self.options).await
    }

    async fn over(journal: Arc<Held>, options: HostOptions) -> Self {
        let placement = Arc::new(Movable::start(journal.as_ref()).await);
        let arbiters = Arbiters::start(2).unwrap();
        let effects = Arc::new(Effects::default());
        let (lost, answers, handles) =
            (Arc::new(Mutex::new(Vec::new())), Answers::default(), Arc::new(Mutex::new(Vec::new())));
        let factory = {
            let (effects, handles) = (Arc::clone(&effects), Arc::clone(&handles));
            move |_: &EntityAddress, handle: Handle<TallyInput>| {
                handles.lock().push(handle);
                (Tally::default(), TallyShell(Arc::clone(&effects)))
            }
        };
        let metrics = ActorMetrics::new();
        let host =
            Host::builder(options.clone(), &arbiters, journal.clone(), placement.clone(), &metrics, factory)
                .on_lost({
                    let lost = Arc::clone(&lost);
                    move |_, why| lost.lock().push(why.clone())
                })
                .on_undeliverable({
                    let answers = Arc::clone(&answers);
                    move |address, _, why| answers.lock().push((address.id.clone(), why))
                })
                .build();
        Self { journal, placement, arbiters, host, effects, handles, lost, answers, options }
    }

    pub async fn total(&self, address: &EntityAddress) -> Option<u64> {
        self.host.inspect(address, |tally| tally.total).await
    }

    pub fn lost(&self) -> Vec<Lost> {
        self.lost.lock().clone()
    }

    pub fn undeliverable(&self) -> Vec<(String, Undeliverable)> {
        self.answers.lock().clone()
    }

    pub async fn stop(self) {
        assert!(
            self.host.shutdown(Duration::from_secs(10)).await,
            "{} entities did not end",
            self.host.count()
        );
        self.arbiters.shutdown().await.unwrap();
        self.journal.close().await;
    }
}
