//! Reads the journal's tail, folds it, and writes what changed together with the position.
//!
//! Memory is always a fold of all events up to [`Live::position`]. The database follows: everything but the rows of
//! calls that are up is written with each round, those a little later ([`Contacts`]); each row of a contact knows which
//! events it has, so that after a crash the fold goes on from what the database lacks and counts nothing twice. A batch
//! that could not be written is kept and written again before anything else is folded.

mod contacts;
mod event;
mod origin;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, time::Instant};
use trunkline_journal::{Journal, StoredEvent};
use trunkline_proto::{
    acd::v1::{AgentEvent, QueueEvent, queue_event},
    call::v1::CallEvent,
};
use trunkline_telemetry::{call_span, tracing::Span};
use trunkline_types::Timestamp;

pub(crate) use self::contacts::Contacts;
use self::event::{Body, Decoded};
use crate::{
    fold::{AgentState, Counters, contact},
    metrics::RecordsMetrics,
    store::{Batch, IntervalKey, PlaceKey, Store, StoreError, mark},
};

/// Length of a stored interval.
pub(crate) const INTERVAL_US: i64 = 300_000_000;
pub(crate) const DAY_US: i64 = 86_400_000_000;
/// Events folded and written together at most.
const BATCH: usize = 1_000;
/// A busy journal is followed in rounds of at least this length: one transaction for all that came meanwhile.
const ROUND: Duration = Duration::from_millis(100);
/// The row of a call that is up may lack its newest events for this long.
const DEFER: Duration = Duration::from_secs(3);
/// Intervals stay in memory for this long before the newest one.
const INTERVALS_KEPT_US: i64 = 3_600_000_000;
const RETRY: Duration = Duration::from_millis(500);

/// What the fold has in memory: the live part of the numbers.
#[derive(Default)]
pub(crate) struct Live {
    /// The last event that is in it.
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
    pub contacts: Arc<Mutex<Contacts>>,
    pub folded: watch::Sender<u64>,
}

pub(crate) struct Projector {
    journal: Arc<dyn Journal>,
    store: Store,
    shared: Shared,
    metrics: RecordsMetrics,
    now: fn() -> Timestamp,
    /// The last event that was read.
    read: u64,
    /// The one at [`Live::position`], see [`mark`].
    mark: String,
    intervals: HashMap<IntervalKey, Counters>,
    /// Tenants' intervals that are in memory, all queues of each.
    loaded: HashSet<(String, i64)>,
    places: HashMap<PlaceKey, i64>,
    /// What the database lacks.
    dirty: Dirty,
    /// What is being written.
    pending: Option<Arc<Batch>>,
    /// Set once the past is folded.
    following: bool,
    /// Spans of the contacts that ended in the batch in hand: from the fold to the disk.
    ending: Vec<Span>,
}

#[derive(Default)]
struct Dirty {
    intervals: BTreeSet<IntervalKey>,
    agents: BTreeSet<(String, String)>,
    places: BTreeMap<PlaceKey, Option<i64>>,
}

impl Projector {
    pub async fn load(
        journal: Arc<dyn Journal>,
        store: Store,
        metrics: RecordsMetrics,
        now: fn() -> Timestamp,
    ) -> Result<(Self, Shared), StoreError> {
        let progress = origin::settle(&*journal, &store, &metrics).await?;
        let mut live = Live { position: progress.position, ..Live::default() };
        let day = now().as_micros().div_euclid(DAY_US);
        for ((tenant, queue, _), counters) in
            store.intervals("", "", day * DAY_US, (day + 1) * DAY_US).await?
        {
            live.today.entry((tenant, queue)).or_insert((day, Counters::default())).1.add(&counters);
        }
        for (tenant, agent, state) in store.agents().await? {
            live.agents.insert((tenant, agent), state);
        }
        let mut places = HashMap::new();
        for (key, entered) in store.places().await? {
            let (tenant, queue, call) = key.clone();
            live.waiting.entry((tenant, queue)).or_default().insert((entered, call));
            places.insert(key, entered);
        }
        for (tenant, call) in store.open_calls().await? {
            live.active.entry(tenant).or_default().insert(call);
        }
        let shared = Shared {
            folded: watch::channel(live.position).0,
            live: Arc::new(RwLock::new(live)),
            contacts: Arc::new(Mutex::new(Contacts::new(DEFER))),
        };
        let projector = Self {
            journal,
            store,
            shared: shared.clone(),
            metrics,
            now,
            read: progress.contacts.min(progress.position),
            mark: progress.mark,
            intervals: HashMap::new(),
            loaded: HashSet::new(),
            places,
            dirty: Dirty::default(),
            pending: None,
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
            let began = Instant::now();
            if let Err(error) = self.catch_up().await {
                tracing::error!(%error, "the records fell behind the journal; trying again");
                self.metrics.errors.inc();
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let due = self.shared.contacts.lock().next_chore();
            tokio::select! {
                changed = committed.changed() => if changed.is_err() { return },
                () = sleep_until(due) => {}
            }
            tokio::time::sleep_until(began + ROUND).await;
        }
    }

    /// Folds all that is committed. What was folded and could not be written is written first the next time.
    pub async fn catch_up(&mut self) -> Result<(), StoreError> {
        self.write_pending().await?;
        loop {
            let stored = self.journal.tail(self.read, BATCH).await?;
            let Some(last) = stored.last() else { break };
            let mut events = Vec::with_capacity(stored.len());
            for stored in &stored {
                match event::decode(stored) {
                    Ok(event) => events.extend(event),
                    Err(error) => {
                        let (position, kind) = (stored.position, &stored.kind);
                        tracing::error!(position, %kind, %error, "an event cannot be read");
                        self.metrics.errors.inc();
                    }
                }
            }
            self.fetch_contacts(&events).await?;
            self.fetch_intervals(&events).await?;
            self.fold(&events, last);
            self.metrics.events.inc_by(stored.len() as u64);
            self.flush().await?;
            self.metrics.lag.observe((self.now)().since(last.at).as_secs_f64());
        }
        // Rows that were put off.
        if self.shared.contacts.lock().next_due().is_some_and(|due| due <= Instant::now()) {
            self.flush().await?;
        }
        self.shared.contacts.lock().trim();
        Ok(())
    }

    async fn fetch_contacts(&mut self, events: &[Decoded]) -> Result<(), StoreError> {
        let mut wanted: BTreeSet<(&str, &str)> = BTreeSet::new();
        let mut born: HashSet<&str> = HashSet::new();
        {
            let (contacts, counted) = (self.shared.contacts.lock(), self.shared.live.read().position);
            for event in events {
                let Some(call) = event.call().filter(|call| !contacts.holds(call)) else { continue };
                if event.position > counted && event.begins_a_call() {
                    born.insert(call);
                } else if !born.contains(call) {
                    wanted.insert((event.tenant.as_str(), call));
                }
            }
        }
        for (tenant, call) in wanted {
            if let Some((contact, position)) = self.store.contact(tenant, call).await? {
                self.shared.contacts.lock().put(contact, position);
            }
        }
        Ok(())
    }

    async fn fetch_intervals(&mut self, events: &[Decoded]) -> Result<(), StoreError> {
        for event in events {
            let Some(at) = event.counts_at() else { continue };
            let start = interval_of(at);
            let slot = (event.tenant.clone(), start);
            if self.loaded.contains(&slot) {
                continue;
            }
            // Of all queues: which one an agent's event is booked into is known only when it is folded.
            for (key, counters) in self.store.intervals(&event.tenant, "", start, start + 1).await? {
                self.intervals.entry(key).or_insert(counters);
            }
            self.loaded.insert(slot);
        }
        Ok(())
    }

    fn fold(&mut self, events: &[Decoded], last: &StoredEvent) {
        let (live, contacts) = (self.shared.live.clone(), self.shared.contacts.clone());
        let (mut live, mut contacts) = (live.write(), contacts.lock());
        let counted = live.position;
        for event in events {
            // Up to there only rows of contacts can lack something.
            let anew = event.position <= counted;
            match &event.body {
                Body::Call(body) => self.fold_call(event, body, anew, &mut live, &mut contacts),
                Body::Queue(body) => self.fold_queue(event, body, anew, &mut live, &mut contacts),
                Body::Agent(body) => self.fold_agent(event, body, anew, &mut live, &mut contacts),
            }
        }
        self.read = last.position;
        if last.position > live.position {
            live.position = last.position;
            self.mark = mark(last);
        }
    }

    fn fold_call(
        &mut self,
        event: &Decoded,
        body: &CallEvent,
        anew: bool,
        live: &mut Live,
        contacts: &mut Contacts,
    ) {
        let (tenant, call) = (event.tenant.as_str(), event.entity.as_str());
        let (mut was_open, mut is_open) = (true, true);
        contacts.fold(tenant, call, event.position, |contact| {
            was_open = contact.ended_us == 0;
            contact::call(contact, body);
            is_open = contact.ended_us == 0;
            false
        });
        if anew {
            return;
        }
        let active = live.active.entry(tenant.to_owned()).or_default();
        if is_open {
            if !active.contains(call) {
                active.insert(call.to_owned());
            }
            return;
        }
        active.remove(call);
        // A rebuild from the journal is no news of its calls.
        if was_open
            && self.following
            && let Ok(id) = call.parse()
        {
            self.ending.push(call_span!("records.contact", id));
        }
    }

    fn fold_queue(
        &mut self,
        event: &Decoded,
        body: &QueueEvent,
        anew: bool,
        live: &mut Live,
        contacts: &mut Contacts,
    ) {
        let (tenant, queue) = (event.tenant.as_str(), event.entity.as_str());
        contacts.fold(tenant, &body.call_id, event.position, |contact| {
            contact::queue(contact, queue, body);
            false
        });
        if anew {
            return;
        }
        self.count(live, tenant, queue, body.at_us, |counters| counters.apply(body));
        let key = || (tenant.to_owned(), queue.to_owned(), body.call_id.clone());
        match &body.event {
            Some(queue_event::Event::Enqueued(_)) => self.enter(live, key(), body.at_us),
            Some(queue_event::Event::Answered(_) | queue_event::Event::Left(_)) => self.leave(live, key()),
            _ => {}
        }
    }

    fn enter(&mut self, live: &mut Live, key: PlaceKey, at_us: i64) {
        self.leave(live, key.clone());
        let (tenant, queue, call) = key.clone();
        live.waiting.entry((tenant, queue)).or_default().insert((at_us, call));
        self.places.insert(key.clone(), at_us);
        self.dirty.places.insert(key, Some(at_us));
    }

    fn leave(&mut self, live: &mut Live, key: PlaceKey) {
        let Some(entered) = self.places.remove(&key) else { return };
        let (tenant, queue, call) = key.clone();
        if let Some(waiting) = live.waiting.get_mut(&(tenant, queue)) {
            waiting.remove(&(entered, call));
        }
        self.dirty.places.insert(key, None);
    }

    fn fold_agent(
        &mut self,
        event: &Decoded,
        body: &AgentEvent,
        anew: bool,
        live: &mut Live,
        contacts: &mut Contacts,
    ) {
        let (tenant, agent) = (event.tenant.as_str(), event.entity.as_str());
        // Done with a conversation: its times go into the contact, which then is written in the same batch, so that
        // they never have to be found again.
        let handled = if anew {
            None
        } else {
            let key = (tenant.to_owned(), agent.to_owned());
            let handled = live.agents.entry(key.clone()).or_default().apply(body);
            self.dirty.agents.insert(key);
            handled
        };
        let call = handled.as_ref().map_or(body.call_id.as_str(), |handled| handled.call.as_str());
        if !call.is_empty() {
            contacts.fold(tenant, call, event.position, |contact| {
                contact::agent(contact, agent, body);
                if let Some(handled) = &handled {
                    contact::handled(contact, handled);
                }
                handled.is_some()
            });
        }
        if let Some(handled) = handled {
            self.count(live, tenant, &handled.queue, body.at_us, |counters| counters.handled(&handled));
        }
    }

    fn count(
        &mut self,
        live: &mut Live,
        tenant: &str,
        queue: &str,
        at_us: i64,
        apply: impl Fn(&mut Counters),
    ) {
        let key = (tenant.to_owned(), queue.to_owned(), interval_of(at_us));
        apply(self.intervals.entry(key.clone()).or_default());
        self.dirty.intervals.insert(key);
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

    /// Writes what the database lacks and is due.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let batch = {
            let live = self.shared.live.read();
            let dirty = std::mem::take(&mut self.dirty);
            let (contacts, contacts_position) = self.shared.contacts.lock().take_due(self.read);
            let counters =
                |key: IntervalKey| self.intervals.get(&key).cloned().map(|counters| (key, counters));
            let agent =
                |key: (String, String)| live.agents.get(&key).cloned().map(|state| (key.0, key.1, state));
            Batch {
                position: live.position,
                mark: self.mark.clone(),
                contacts_position,
                contacts,
                intervals: dirty.intervals.into_iter().filter_map(counters).collect(),
                agents: dirty.agents.into_iter().filter_map(agent).collect(),
                places: dirty.places.into_iter().collect(),
            }
        };
        self.pending = Some(Arc::new(batch));
        self.write_pending().await
    }

    async fn write_pending(&mut self) -> Result<(), StoreError> {
        let Some(batch) = &self.pending else { return Ok(()) };
        self.store.write(Arc::clone(batch)).await?;
        let position = batch.position;
        self.pending = None;
        // Their ends are on the disk: the spans end here.
        self.ending.clear();
        self.metrics.position.set(i64::try_from(position).unwrap_or(i64::MAX));
        self.shared.contacts.lock().trim();
        self.forget_intervals();
        let _ = self.shared.folded.send(position);
        Ok(())
    }

    /// All are on the disk; late events have them fetched again.
    fn forget_intervals(&mut self) {
        let newest = self.loaded.iter().map(|slot| slot.1).max().unwrap_or(0);
        let horizon = newest - INTERVALS_KEPT_US;
        if self.loaded.iter().any(|slot| slot.1 < horizon) {
            self.loaded.retain(|slot| slot.1 >= horizon);
            self.intervals.retain(|key, _| key.2 >= horizon);
        }
    }
}

fn interval_of(at_us: i64) -> i64 {
    at_us.div_euclid(INTERVAL_US) * INTERVAL_US
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
