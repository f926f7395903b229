//! Events on their way out of worker threads, the writer and the recogniser's streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use trunkline_proto::media::v1::{self as pb, media_event::Event};
use trunkline_types::{CallId, ShardId};

use crate::clock::Clock;
use crate::metrics::Metrics;

/// Events that may wait for a slow receiver; more are dropped and counted.
const CAPACITY: usize = 65_536;

/// Whose event it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) call: CallId,
    pub(crate) shard: ShardId,
}

/// Where events go. Never blocks.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    sender: mpsc::Sender<pb::MediaEvent>,
    next: Arc<AtomicU64>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Sink {
    /// Events go to `receiver` in order; this task ends when all sinks are gone.
    pub(crate) fn start(
        runtime: &tokio::runtime::Handle,
        clock: Clock,
        metrics: Arc<Metrics>,
        receiver: mpsc::Sender<pb::MediaEvent>,
    ) -> Self {
        let (sender, mut queue) = mpsc::channel(CAPACITY);
        runtime.spawn(async move {
            while let Some(event) = queue.recv().await {
                if receiver.send(event).await.is_err() {
                    tracing::warn!("nobody takes media events any more");
                    break;
                }
            }
        });
        // Microseconds since 1970 as the first number: ascending across restarts, a million events a second to spare.
        let first = u64::try_from(clock.timestamp().as_micros()).unwrap_or(0);
        Self { sender, next: Arc::new(AtomicU64::new(first)), clock, metrics }
    }

    pub(crate) fn emit(&self, owner: Owner, event: Event) {
        let event = pb::MediaEvent {
            call_id: owner.call.to_string(),
            shard: u32::from(owner.shard.index()),
            event_id: self.next.fetch_add(1, Ordering::Relaxed),
            at_us: self.clock.timestamp().as_micros(),
            acknowledge: false,
            event: Some(event),
        };
        if self.sender.try_send(event).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}
