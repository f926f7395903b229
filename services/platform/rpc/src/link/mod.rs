//! A link: what this node says to another one on one lane, in order, numbered, acknowledged.

mod driver;
mod outgoing;
mod parcel;
mod queue;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use trunkline_cluster::NodeIdentity;
use trunkline_types::Timestamp;

pub(crate) use self::{
    driver::{Drive, drive},
    parcel::{Origin, Parcel, until},
    queue::NotTaken,
};
use self::{outgoing::Outgoing, queue::Queue};
use crate::{lane::Lane, metrics::LaneMetrics};

/// Limits and times of links and of the hold-back buffer.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Envelopes that a link takes until they are acknowledged; more are refused as [`crate::Refused::Full`].
    pub queued: usize,
    /// And their bytes.
    pub queued_bytes: usize,
    /// Envelopes that may be sent and not acknowledged.
    pub unacknowledged: usize,
    /// And their bytes.
    pub unacknowledged_bytes: usize,
    /// Envelopes in one batch.
    pub batch: usize,
    /// A batch is closed when it has this many bytes.
    pub batch_bytes: usize,
    /// A larger envelope is refused.
    pub envelope_bytes: usize,
    /// An envelope without a deadline is dropped when it could not be sent within this: whoever needs an answer has asked
    /// again meanwhile.
    pub patience: Duration,
    /// A link that has nothing to say for this long disconnects.
    pub idle: Duration,
    /// The first pause before a lost connection is tried again; it doubles, with jitter, up to `longest_pause`.
    pub first_pause: Duration,
    /// See `first_pause`.
    pub longest_pause: Duration,
    /// How long an envelope waits for an owner of its shard.
    pub hold: Duration,
    /// Envelopes that may wait for one shard.
    pub held_shard: usize,
    /// Envelopes that may wait for all shards together.
    pub held: usize,
    /// And their bytes.
    pub held_bytes: usize,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            queued: 16_384,
            queued_bytes: 16 << 20,
            unacknowledged: 8_192,
            unacknowledged_bytes: 8 << 20,
            batch: 256,
            batch_bytes: 256 << 10,
            envelope_bytes: 1 << 20,
            patience: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_secs(2),
            hold: Duration::from_secs(5),
            held_shard: 4_096,
            held: 65_536,
            held_bytes: 64 << 20,
        }
    }
}

/// One lane to one life of one node.
pub(crate) struct Link {
    pub(crate) peer: NodeIdentity,
    pub(crate) lane: Lane,
    pub(crate) address: String,
    id: u64,
    queue: Mutex<Queue>,
    /// Told when a link without a connection has something to send, or is retired.
    wanted: Notify,
    options: Arc<LinkOptions>,
    metrics: LaneMetrics,
    now: fn() -> Timestamp,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).field("lane", &self.lane).finish_non_exhaustive()
    }
}

/// Names links: rises within a process, and from one process of a node to the next as its clock does.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

impl Link {
    pub(crate) fn new(
        peer: NodeIdentity,
        address: String,
        lane: Lane,
        options: Arc<LinkOptions>,
        metrics: LaneMetrics,
        now: fn() -> Timestamp,
    ) -> Arc<Self> {
        let clock = now().as_micros().unsigned_abs();
        let before =
            LAST_ID.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(clock.max(last + 1)));
        let id = clock.max(before.unwrap_or_default() + 1);
        let (queue, wanted) = (Mutex::default(), Notify::new());
        Arc::new(Self { peer, lane, address, id, queue, wanted, options, metrics, now })
    }

    /// Puts a parcel behind the others. Never waits.
    pub(crate) fn push(&self, parcel: Parcel) -> Result<(), NotTaken> {
        let mut queue = self.queue.lock();
        let pushed = queue.push(parcel, &self.options);
        let connected = queue.connected();
        drop(queue);
        let waker = pushed.inspect_err(|not| {
            if matches!(not, NotTaken::Full) {
                self.metrics.full.inc();
            }
        })?;
        self.metrics.queued.inc();
        if let Some(waker) = waker {
            waker.wake();
        }
        if !connected {
            self.wanted.notify_one();
        }
        Ok(())
    }

    /// Ends the link and gives what has to go another way, in order.
    pub(crate) fn retire(&self) -> Vec<Parcel> {
        let (left, waker) = self.queue.lock().retire();
        self.left(left.len());
        if let Some(waker) = waker {
            waker.wake();
        }
        self.wanted.notify_one();
        left
    }

    /// Takes out what has another way now.
    pub(crate) fn take_moved(&self, moved: impl FnMut(&Parcel) -> bool) -> Vec<Parcel> {
        let left = self.queue.lock().take_moved(moved);
        self.left(left.len());
        left
    }

    fn left(&self, n: usize) {
        self.metrics.queued.dec_by(i64::try_from(n).unwrap_or(0));
        self.metrics.rerouted.inc_by(n as u64);
    }

    fn expired(&self, n: usize) {
        if n > 0 {
            self.metrics.expired.inc_by(n as u64);
            self.metrics.queued.dec_by(i64::try_from(n).unwrap_or(0));
        }
    }

    fn acknowledge(&self, number: u64) {
        let (n, waker) = self.queue.lock().acknowledge(number);
        self.metrics.queued.dec_by(i64::try_from(n).unwrap_or(0));
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nothing waits or is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().len() == 0
    }

    fn retired(&self) -> bool {
        self.queue.lock().retired()
    }
}
