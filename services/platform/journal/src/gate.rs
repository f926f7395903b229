//! What waits for a commit: admitted within limits, counted, answered once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::{Append, AppendError, Appended, JournalMetrics, Pending};

/// Appends that may wait.
pub(crate) const QUEUE: usize = 16_384;
/// Bytes of appends that may wait.
const QUEUE_BYTES: usize = 64 << 20;

/// Counts what waits; one a journal.
#[derive(Debug)]
pub(crate) struct Gate {
    appends: AtomicUsize,
    bytes: AtomicUsize,
    /// When the oldest append that waits was made; kept by the writer, once a round.
    oldest: Mutex<Option<Instant>>,
    pub(crate) metrics: JournalMetrics,
}

/// An append that waits. Dropped without an answer, its maker hears that the outcome is unknown.
#[derive(Debug)]
pub(crate) struct Queued {
    /// Shared with those to whom it is shown once it is committed.
    pub(crate) append: Arc<Append>,
    pub(crate) since: Instant,
    reply: Option<oneshot::Sender<Result<Appended, AppendError>>>,
    gate: Arc<Gate>,
}

impl Gate {
    pub(crate) fn new(metrics: JournalMetrics) -> Arc<Self> {
        let (appends, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { appends, bytes, oldest: Mutex::new(None), metrics })
    }

    fn refuse(&self, error: AppendError) -> Pending {
        self.metrics.refuse(&error);
        Pending::decided(Err(error))
    }

    /// Lets an append in, and has `send` give it to the writer.
    pub(crate) fn append(
        self: &Arc<Self>,
        append: Append,
        send: impl FnOnce(Queued) -> Result<(), AppendError>,
    ) -> Pending {
        if let Some(defect) = append.defect() {
            return self.refuse(AppendError::Invalid(defect));
        }
        let weight = append.weight();
        let appends = self.appends.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(weight, Ordering::Relaxed) + weight;
        self.metrics.queue_depth.inc();
        let (reply, answer) = oneshot::channel();
        let gate = Arc::clone(self);
        let append = Arc::new(append);
        let mut queued = Queued { append, since: Instant::now(), reply: Some(reply), gate };
        if appends >= QUEUE || bytes > QUEUE_BYTES {
            queued.reply = None;
            return self.refuse(AppendError::Overloaded);
        }
        match send(queued) {
            Ok(()) => Pending::waiting(answer),
            Err(error) => self.refuse(error),
        }
    }

    /// Told by the writer at the start and the end of its rounds.
    pub(crate) fn set_oldest(&self, oldest: Option<Instant>) {
        *self.oldest.lock() = oldest;
    }

    /// How long the oldest append has been waiting. Zero once every answer has been given: the writer's round may end later.
    pub(crate) fn delay(&self) -> Duration {
        if self.appends.load(Ordering::Acquire) == 0 {
            return Duration::ZERO;
        }
        self.oldest.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Queued {
    /// Answers, once.
    pub(crate) fn answer(mut self, outcome: Result<Appended, AppendError>) {
        match &outcome {
            Ok(_) => _ = self.gate.metrics.events.inc_by(self.append.events.len() as u64),
            Err(error) => self.gate.metrics.refuse(error),
        }
        self.gate.metrics.append_seconds.observe(self.since.elapsed().as_secs_f64());
        let reply = self.reply.take();
        // Its room is free before its maker hears of it.
        drop(self);
        if let Some(reply) = reply {
            // Whoever no longer waits has ended meanwhile.
            let _ = reply.send(outcome);
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.gate.appends.fetch_sub(1, Ordering::Release);
        self.gate.bytes.fetch_sub(self.append.weight(), Ordering::Relaxed);
        self.gate.metrics.queue_depth.dec();
    }
}
