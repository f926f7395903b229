//! Events on their way out of worker threads, the writer and the recogniser's streams: told at once, and those that matter
//! again until their call has taken them.

mod book;

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use trunkline_proto::media::v1::{self as pb, media_event::Event};
use trunkline_types::{CallId, ShardId};

use self::book::Book;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::owners::Owners;

/// Events that may wait for a slow receiver; more are dropped and counted.
const CAPACITY: usize = 65_536;
/// Longest sleep of the task that tells events.
const IDLE: Duration = Duration::from_secs(5);
/// While events wait to be acknowledged, it looks this often whether they were.
const ROUND: Duration = Duration::from_millis(20);
/// Outcomes of recordings that were taken and wait for their files to be removed.
const SETTLED: usize = 4_096;

/// Whose event it is: where it is told.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) call: CallId,
    pub(crate) shard: ShardId,
    /// As its commands name it; empty, if they do not.
    pub(crate) tenant: Arc<str>,
}

/// What the task is told.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events")]
enum Told {
    Event(CallId, ShardId, pb::MediaEvent),
    NewOwner(ShardId),
}

/// What calls have taken, by the events' ids. It is looked at in rounds: to wake the task for each event of each call costs
/// more than the rest of an acknowledgement.
type Taken = Arc<Mutex<Vec<(CallId, Vec<u64>)>>>;

/// Where events go. Never blocks.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    sender: mpsc::Sender<Told>,
    taken: Taken,
    next: Arc<AtomicU64>,
    waiting: Arc<AtomicUsize>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// What the node learns from acknowledgements.
pub(crate) struct Acknowledged {
    /// Recordings (by id) whose outcome their call has taken.
    pub(crate) recordings: mpsc::Receiver<String>,
    /// Calls that care for their session.
    pub(crate) attended: mpsc::Receiver<CallId>,
}

impl Sink {
    /// Events go to `receiver` in order; this task ends when all sinks are gone.
    pub(crate) fn start(
        runtime: &tokio::runtime::Handle,
        clock: Clock,
        metrics: Arc<Metrics>,
        owners: Arc<Owners>,
        receiver: mpsc::Sender<pb::MediaEvent>,
    ) -> (Self, Acknowledged) {
        let (sender, queue) = mpsc::channel(CAPACITY);
        let (settled, recordings) = mpsc::channel(SETTLED);
        let (attends, attended) = mpsc::channel(SETTLED);
        let (waiting, taken) = (Arc::new(AtomicUsize::new(0)), Taken::default());
        let teller = Teller {
            book: Book::default(),
            taken: taken.clone(),
            settling: Vec::new(),
            clock,
            metrics: metrics.clone(),
            owners,
            receiver,
            settled,
            attends,
            waiting: waiting.clone(),
        };
        runtime.spawn(teller.run(queue));
        // Microseconds since 1970 as the first number: ascending across restarts, a million events a second to spare.
        let first = u64::try_from(clock.timestamp().as_micros()).unwrap_or(0);
        let sink = Self { sender, taken, next: Arc::new(AtomicU64::new(first)), waiting, clock, metrics };
        (sink, Acknowledged { recordings, attended })
    }

    pub(crate) fn emit(&self, owner: &Owner, event: Event) {
        let event = pb::MediaEvent {
            call_id: owner.call.to_string(),
            shard: u32::from(owner.shard.index()),
            tenant: owner.tenant.to_string(),
            event_id: self.next.fetch_add(1, Ordering::Relaxed),
            at_us: self.clock.timestamp().as_micros(),
            acknowledge: false,
            event: Some(event),
        };
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.sender.try_send(Told::Event(owner.call, owner.shard, event)).is_err() {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            self.metrics.events_dropped.inc();
        }
    }

    /// The call has taken these. What is lost here is made good by the event's repetition.
    pub(crate) fn acknowledge(&self, call: CallId, ids: Vec<u64>) {
        let mut taken = self.taken.lock();
        if taken.len() < CAPACITY {
            taken.push((call, ids));
        }
    }

    /// The shard has a new owner, who has heard nothing yet.
    pub(crate) fn new_owner(&self, shard: ShardId) {
        let _ = self.sender.try_send(Told::NewOwner(shard));
    }

    /// Waits until every event has been told and, where that is asked for, taken; at most `patience`.
    pub(crate) async fn drain(&self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        while self.waiting.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The task behind the sinks.
struct Teller {
    book: Book,
    taken: Taken,
    /// Room for what is taken over.
    settling: Vec<(CallId, Vec<u64>)>,
    clock: Clock,
    metrics: Arc<Metrics>,
    owners: Arc<Owners>,
    receiver: mpsc::Sender<pb::MediaEvent>,
    settled: mpsc::Sender<String>,
    attends: mpsc::Sender<CallId>,
    /// Events not told yet, and those kept.
    waiting: Arc<AtomicUsize>,
}

impl Teller {
    async fn run(mut self, mut queue: mpsc::Receiver<Told>) {
        loop {
            let now = self.clock.timestamp();
            let due = self.book.next().map_or(IDLE, |at| at.since(now).min(ROUND));
            match tokio::time::timeout(due, queue.recv()).await {
                Ok(None) => return,
                Ok(Some(told)) => {
                    if self.take(told).await.is_err() {
                        tracing::warn!("nobody takes media events any more");
                        return;
                    }
                }
                Err(_) => {}
            }
            self.settle_taken();
            self.repeat();
            self.metrics.events_waiting.set(i64::try_from(self.book.len()).unwrap_or(i64::MAX));
        }
    }

    async fn take(&mut self, told: Told) -> Result<(), mpsc::error::SendError<pb::MediaEvent>> {
        match told {
            Told::Event(call, shard, event) => return self.tell(call, shard, event).await,
            Told::NewOwner(shard) => self.book.raise(self.clock.timestamp(), shard),
        }
        Ok(())
    }

    async fn tell(
        &mut self,
        call: CallId,
        shard: ShardId,
        mut event: pb::MediaEvent,
    ) -> Result<(), mpsc::error::SendError<pb::MediaEvent>> {
        let worth = event.event.as_ref().and_then(book::worth);
        let kept = worth.filter(|_| self.owners.acknowledges(shard)).is_some_and(|worth| {
            event.acknowledge = true;
            self.book.keep(self.clock.timestamp(), call, shard, event.clone(), worth)
        });
        event.acknowledge = kept;
        if !kept {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            // Whoever does not acknowledge has taken it when it was told.
            self.settle(call, event.clone());
        }
        self.receiver.send(event).await
    }

    fn settle_taken(&mut self) {
        let mut all = mem::take(&mut self.settling);
        mem::swap(&mut all, &mut self.taken.lock());
        for (call, ids) in all.drain(..) {
            let taken = self.book.acknowledge(call, &ids);
            self.waiting.fetch_sub(taken.len(), Ordering::AcqRel);
            taken.into_iter().for_each(|event| self.settle(call, event));
        }
        self.settling = all;
    }

    fn repeat(&mut self) {
        let now = self.clock.timestamp();
        let owners = self.owners.clone();
        loop {
            let before = self.book.len();
            let Some((again, given_up)) = self.book.due(now, |shard| owners.acknowledges(shard)) else {
                return;
            };
            self.waiting.fetch_sub(before - self.book.len(), Ordering::AcqRel);
            self.metrics.events_dropped.inc_by(given_up);
            for event in again {
                self.metrics.events_repeated.inc();
                // No room: it comes again.
                let _ = self.receiver.try_send(event);
            }
        }
    }

    /// Somebody has taken this event for good.
    fn settle(&self, call: CallId, event: pb::MediaEvent) {
        let _ = match event.event {
            Some(Event::RecordingFinished(e)) => self.settled.try_send(e.recording_id).is_ok(),
            Some(Event::RecordingFailed(_)) | None => true,
            Some(Event::SessionUnattended(_)) if event.acknowledge => self.attends.try_send(call).is_ok(),
            Some(_) => true,
        };
    }
}
