//! Reads the journal's tail, folds it, and writes what changed together with the position.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use prost::Message;
use tokio::sync::watch;
use trunkline_journal::{Journal, StoredEvent};
use trunkline_proto::{
    acd::v1::{AgentEvent, QueueEvent, queue_event},
    call::v1::CallEvent,
    records::v1::Contact,
};
use trunkline_telemetry::{call_span, tracing::Span};
use trunkline_types::EntityKind;

use crate::{
    fold::{AgentState, Counters, contact},
    metrics::RecordsMetrics,
    store::{Batch, IntervalKey, Store, StoreError},
};

/// Length of a stored interval.
pub(crate) const INTERVAL_US: i64 = 300_000_000;
pub(crate) const DAY_US: i64 = 86_400_000_000;
const BATCH: usize = 500;
/// Ended contacts are kept in memory for late events (wrap-up, transcript) up to this many.
const ENDED_KEPT: usize = 2_000;
const RETRY: Duration = Duration::from_millis(500);

/// What the fold has in memory: the live part of the numbers.
#[derive(Default)]
pub(crate) struct Live {
    pub position: u64,
    /// Today's counters by (tenant, queue), with the day that they are of.
    pub today: HashMap<(String, String), (i64, Counters)>,
    /// Waiting calls by (tenant, queue): (entered, call).
    pub waiting: HashMap<(String, String), BTreeSet<(i64, String)>>,
    /// Agents by (tenant, agent).
    pub agents: BTreeMap<(String, String), AgentState>,
    /// Calls that have begun and not ended, by tenant.
    pub active: HashMap<String, HashSet<String>>,
}

/// Shared by the projector and the service.
#[derive(Clone)]
pub(crate) struct Shared {
    pub live: Arc<RwLock<Live>>,
    pub folded: watch::Sender<u64>,
}

pub(crate) struct Projector {
    journal: Arc<dyn Journal>,
    store: Store,
    shared: Shared,
    metrics: RecordsMetrics,
    contacts: HashMap<String, Contact>,
    ended: std::collections::VecDeque<String>,
    intervals: HashMap<IntervalKey, Counters>,
    where_waiting: HashMap<(String, String), (String, i64)>,
    /// Set once the past is folded.
    following: bool,
    /// Spans of the contacts that ended in the batch in hand: from the fold to the disk.
    ending: Vec<Span>,
}

#[derive(Default)]
struct Dirty {
    contacts: BTreeSet<String>,
    intervals: BTreeSet<IntervalKey>,
    agents: BTreeSet<(String, String)>,
    enqueued: Vec<(String, String, String, i64)>,
    left: Vec<(String, String)>,
}

impl Projector {
    pub async fn load(
        journal: Arc<dyn Journal>,
        store: Store,
        metrics: RecordsMetrics,
        now_us: i64,
    ) -> Result<(Self, Shared), StoreError> {
        let mut live = Live { position: store.position().await?, ..Live::default() };
        let day = now_us.div_euclid(DAY_US);
        for ((tenant, queue, _), counters) in
            store.intervals("", "", day * DAY_US, (day + 1) * DAY_US).await?
        {
            live.today.entry((tenant, queue)).or_insert((day, Counters::default())).1.add(&counters);
        }
        for (tenant, agent, state) in store.agents().await? {
            live.agents.insert((tenant, agent), state);
        }
        let mut where_waiting = HashMap::new();
        for (tenant, call, queue, entered) in store.waiting().await? {
            where_waiting.insert((tenant.clone(), call.clone()), (queue.clone(), entered));
            live.waiting.entry((tenant, queue)).or_default().insert((entered, call));
        }
        let mut contacts = HashMap::new();
        for open in store.open_contacts().await? {
            live.active.entry(open.tenant.clone()).or_default().insert(open.call_id.clone());
            contacts.insert(open.call_id.clone(), open);
        }
        let shared = Shared { folded: watch::channel(live.position).0, live: Arc::new(RwLock::new(live)) };
        let projector = Self {
            journal,
            store,
            shared: shared.clone(),
            metrics,
            contacts,
            ended: std::collections::VecDeque::new(),
            intervals: HashMap::new(),
            where_waiting,
            following: false,
            ending: Vec::new(),
        };
        Ok((projector, shared))
    }

    /// Folds until the task is ended.
    pub async fn run(mut self) {
        let mut committed = self.journal.committed();
        self.following = true;
        loop {
            match self.catch_up().await {
                Ok(()) => {
                    if committed.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the records fell behind the journal; trying again");
                    self.metrics.errors.inc();
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Folds all that is committed. On an error nothing of the batch counts in the database; memory is rebuilt by
    /// folding the same events again only after a restart, so the batch is kept and written again.
    pub async fn catch_up(&mut self) -> Result<(), StoreError> {
        loop {
            let position = self.shared.live.read().position;
            let events = self.journal.tail(position, BATCH).await.map_err(|error| {
                StoreError::Database(sqlx::Error::Io(std::io::Error::other(error.to_string())))
            })?;
            let Some(last) = events.last().map(|event| event.position) else { return Ok(()) };
            self.fetch_contacts(&events).await?;
            self.fetch_intervals(&events).await?;
            let batch = self.fold(&events, last);
            // The fold above is in memory now: writing must succeed before the next one.
            while let Err(error) = self.store.write(clone(&batch)).await {
                tracing::error!(%error, "a batch of records could not be written; trying again");
                self.metrics.errors.inc();
                tokio::time::sleep(RETRY).await;
            }
            self.metrics.events.inc_by(events.len() as u64);
            self.metrics.position.set(i64::try_from(last).unwrap_or(i64::MAX));
            // Their ends are on the disk: the spans end here.
            self.ending.clear();
            self.forget_ended();
            let _ = self.shared.folded.send(last);
        }
    }

    async fn fetch_contacts(&mut self, events: &[StoredEvent]) -> Result<(), StoreError> {
        for event in events {
            let Some(call) = call_of(event) else { continue };
            if self.contacts.contains_key(&call) || event.kind == "call.started" {
                continue;
            }
            if let Some(contact) = self.store.contact(event.entity.tenant.as_str(), &call).await? {
                if contact.ended_us != 0 {
                    self.ended.push_back(call.clone());
                }
                self.contacts.insert(call, contact);
            }
        }
        Ok(())
    }

    async fn fetch_intervals(&mut self, events: &[StoredEvent]) -> Result<(), StoreError> {
        for event in events.iter().filter(|e| e.entity.kind != EntityKind::Call) {
            let start = interval_of(event.at.as_micros());
            let tenant = event.entity.tenant.to_string();
            // An agent's event may book into any of its queues; those are fetched when they are booked into, below.
            let queue =
                if event.entity.kind == EntityKind::Queue { event.entity.id.clone() } else { String::new() };
            let known = self
                .intervals
                .keys()
                .any(|k| k.0 == tenant && k.2 == start && (queue.is_empty() || k.1 == queue));
            if !known {
                for (key, counters) in self.store.intervals(&tenant, &queue, start, start + 1).await? {
                    self.intervals.entry(key).or_insert(counters);
                }
            }
        }
        Ok(())
    }

    fn fold(&mut self, events: &[StoredEvent], last: u64) -> Batch {
        let live = self.shared.live.clone();
        let mut live = live.write();
        let mut dirty = Dirty::default();
        for event in events {
            let folded = match event.entity.kind {
                EntityKind::Call => self.fold_call(event, &mut live, &mut dirty),
                EntityKind::Queue => self.fold_queue(event, &mut live, &mut dirty),
                EntityKind::Agent => self.fold_agent(event, &mut live, &mut dirty),
            };
            if let Err(error) = folded {
                tracing::error!(position = event.position, kind = %event.kind, %error, "an event cannot be read");
                self.metrics.errors.inc();
            }
        }
        live.position = last;
        Batch {
            position: last,
            contacts: dirty.contacts.iter().filter_map(|call| self.contacts.get(call).cloned()).collect(),
            intervals: dirty
                .intervals
                .into_iter()
                .filter_map(|key| self.intervals.get(&key).cloned().map(|counters| (key, counters)))
                .collect(),
            agents: dirty
                .agents
                .into_iter()
                .filter_map(|key| live.agents.get(&key).cloned().map(|state| (key.0, key.1, state)))
                .collect(),
            enqueued: dirty.enqueued,
            left: dirty.left,
        }
    }

    fn contact(&mut self, tenant: &str, call: &str) -> &mut Contact {
        self.contacts.entry(call.to_owned()).or_insert_with(|| Contact {
            call_id: call.to_owned(),
            tenant: tenant.to_owned(),
            trace_id: call
                .parse()
                .map(|id| trunkline_telemetry::trace_id_of(id).to_string())
                .unwrap_or_default(),
            ..Contact::default()
        })
    }

    fn fold_call(
        &mut self,
        event: &StoredEvent,
        live: &mut Live,
        dirty: &mut Dirty,
    ) -> Result<(), prost::DecodeError> {
        let wire = CallEvent::decode(&*event.payload)?;
        let (tenant, call) = (event.entity.tenant.as_str(), event.entity.id.as_str());
        let contact = self.contact(tenant, call);
        let was_open = contact.ended_us == 0;
        contact::call(contact, &wire);
        let is_open = contact.ended_us == 0;
        dirty.contacts.insert(call.to_owned());
        let active = live.active.entry(tenant.to_owned()).or_default();
        if is_open {
            active.insert(call.to_owned());
        } else {
            active.remove(call);
            if was_open {
                self.ended.push_back(call.to_owned());
                // A rebuild from the journal is no news of its calls.
                if self.following
                    && let Ok(id) = call.parse()
                {
                    self.ending.push(call_span!("records.contact", id));
                }
            }
        }
        Ok(())
    }

    fn fold_queue(
        &mut self,
        event: &StoredEvent,
        live: &mut Live,
        dirty: &mut Dirty,
    ) -> Result<(), prost::DecodeError> {
        let wire = QueueEvent::decode(&*event.payload)?;
        let (tenant, queue) = (event.entity.tenant.as_str(), event.entity.id.as_str());
        contact::queue(self.contact(tenant, &wire.call_id), queue, &wire);
        dirty.contacts.insert(wire.call_id.clone());
        self.count(live, dirty, tenant, queue, wire.at_us, |counters| counters.apply(&wire));
        let key = (tenant.to_owned(), wire.call_id.clone());
        match &wire.event {
            Some(queue_event::Event::Enqueued(_)) => {
                self.where_waiting.insert(key.clone(), (queue.to_owned(), wire.at_us));
                live.waiting
                    .entry((tenant.to_owned(), queue.to_owned()))
                    .or_default()
                    .insert((wire.at_us, wire.call_id.clone()));
                dirty.left.retain(|left| *left != key);
                dirty.enqueued.push((key.0, key.1, queue.to_owned(), wire.at_us));
            }
            Some(queue_event::Event::Answered(_) | queue_event::Event::Left(_)) => {
                if let Some((at, entered)) = self.where_waiting.remove(&key)
                    && let Some(waiting) = live.waiting.get_mut(&(tenant.to_owned(), at))
                {
                    waiting.remove(&(entered, wire.call_id.clone()));
                }
                dirty.enqueued.retain(|e| (&e.0, &e.1) != (&key.0, &key.1));
                dirty.left.push(key);
            }
            _ => {}
        }
        Ok(())
    }

    fn fold_agent(
        &mut self,
        event: &StoredEvent,
        live: &mut Live,
        dirty: &mut Dirty,
    ) -> Result<(), prost::DecodeError> {
        let wire = AgentEvent::decode(&*event.payload)?;
        let (tenant, agent) = (event.entity.tenant.as_str(), event.entity.id.as_str());
        let key = (tenant.to_owned(), agent.to_owned());
        let handled = live.agents.entry(key.clone()).or_default().apply(&wire);
        dirty.agents.insert(key);
        if !wire.call_id.is_empty() {
            contact::agent(self.contact(tenant, &wire.call_id), agent, &wire);
            dirty.contacts.insert(wire.call_id.clone());
        }
        if let Some(handled) = handled {
            contact::handled(self.contact(tenant, &handled.call), &handled);
            dirty.contacts.insert(handled.call.clone());
            let whole = handled.talk_us + handled.hold_us + handled.wrap_up_us;
            self.count(live, dirty, tenant, &handled.queue, wire.at_us, |counters| {
                counters.handled += 1;
                counters.handle_us += whole;
            });
        }
        Ok(())
    }

    fn count(
        &mut self,
        live: &mut Live,
        dirty: &mut Dirty,
        tenant: &str,
        queue: &str,
        at_us: i64,
        apply: impl Fn(&mut Counters),
    ) {
        let key = (tenant.to_owned(), queue.to_owned(), interval_of(at_us));
        apply(self.intervals.entry(key.clone()).or_default());
        dirty.intervals.insert(key);
        let day = at_us.div_euclid(DAY_US);
        let today =
            live.today.entry((tenant.to_owned(), queue.to_owned())).or_insert((day, Counters::default()));
        if today.0 < day {
            *today = (day, Counters::default());
        }
        if today.0 == day {
            apply(&mut today.1);
        }
    }

    fn forget_ended(&mut self) {
        while self.ended.len() > ENDED_KEPT {
            if let Some(call) = self.ended.pop_front() {
                self.contacts.remove(&call);
            }
        }
        let horizon = self.intervals.keys().map(|key| key.2).max().unwrap_or(0) - DAY_US;
        self.intervals.retain(|key, _| key.2 >= horizon);
    }
}

fn interval_of(at_us: i64) -> i64 {
    at_us.div_euclid(INTERVAL_US) * INTERVAL_US
}

/// The call that an event is about, without reading more of it than needed.
fn call_of(event: &StoredEvent) -> Option<String> {
    let call = match event.entity.kind {
        EntityKind::Call => return Some(event.entity.id.clone()),
        EntityKind::Queue => QueueEvent::decode(&*event.payload).ok()?.call_id,
        EntityKind::Agent => AgentEvent::decode(&*event.payload).ok()?.call_id,
    };
    (!call.is_empty()).then_some(call)
}

fn clone(batch: &Batch) -> Batch {
    Batch {
        position: batch.position,
        contacts: batch.contacts.clone(),
        intervals: batch.intervals.clone(),
        agents: batch.agents.clone(),
        enqueued: batch.enqueued.clone(),
        left: batch.left.clone(),
    }
}
