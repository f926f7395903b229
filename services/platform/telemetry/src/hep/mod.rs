//! Captures of SIP and RTCP for a collector that reads HEP3 (Homer, heplify-server); off unless configured.
//!
//! Who captures hands over bytes and addresses and goes on ([`Hep`]): a queue with limits in messages and bytes, no wait,
//! and what does not fit is dropped and counted. A task of its own masks credentials, digits and keys (`mask`), turns
//! RTCP into the JSON that collectors read (`rtcp`), writes packets (`packet`) and sends them (`export`). Nothing leaves
//! unmasked: what is queued is never written anywhere else.

mod config;
mod export;
mod mask;
mod metrics;
mod packet;
mod rtcp;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use trunkline_types::{CallId, Timestamp};

pub use self::{
    config::{HepConfig, HepError, HepTransport},
    packet::{Carrier, Flow},
};
use self::{
    export::Sender,
    metrics::{HepMetrics, Reason},
    packet::Kind,
};
use crate::Metrics;

/// Messages that may wait for the collector, and their bytes; more are dropped.
const QUEUE: usize = 8_192;
const QUEUE_BYTES: usize = 16 * 1_024 * 1_024;

/// A message as it was captured.
struct Captured {
    kind: Kind,
    flow: Flow,
    at: Timestamp,
    /// None = the payload names it.
    call: Option<Correlation>,
    payload: Bytes,
}

/// Which call a report belongs to: collectors put what has the same name on one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Correlation {
    /// The Call-ID of the SIP dialog that the report's party has: the one of its messages.
    Sip(Arc<str>),
    /// Our own id, where there is no such dialog.
    Call(CallId),
}

impl fmt::Display for Correlation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sip(call_id) => f.write_str(call_id),
            Self::Call(call) => call.fmt(f),
        }
    }
}

/// What captures are handed to. Cheap to clone, never waits; [`Hep::off`] takes nothing.
#[derive(Clone, Default)]
pub struct Hep(Option<Arc<Inlet>>);

struct Inlet {
    queue: mpsc::Sender<Captured>,
    waiting_bytes: Arc<AtomicUsize>,
    metrics: HepMetrics,
    sip: bool,
    rtcp: bool,
}

impl Hep {
    /// Captures nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether SIP is wanted: only then [`Hep::sip`] looks at what it is given.
    pub fn wants_sip(&self) -> bool {
        self.0.as_ref().is_some_and(|inlet| inlet.sip)
    }

    /// Whether RTCP is wanted.
    pub fn wants_rtcp(&self) -> bool {
        self.0.as_ref().is_some_and(|inlet| inlet.rtcp)
    }

    /// A SIP message as it went over the wire.
    pub fn sip(&self, at: Timestamp, flow: Flow, message: &Bytes) {
        if let Some(inlet) = self.0.as_ref().filter(|inlet| inlet.sip) {
            let made = || Captured { kind: Kind::Sip, flow, at, call: None, payload: message.clone() };
            inlet.take(message.len(), made);
        }
    }

    /// A compound RTCP packet of a call.
    pub fn rtcp(&self, at: Timestamp, flow: Flow, call: &Correlation, datagram: &[u8]) {
        if let Some(inlet) = self.0.as_ref().filter(|inlet| inlet.rtcp) {
            let payload = || Bytes::copy_from_slice(datagram);
            let made =
                || Captured { kind: Kind::Rtcp, flow, at, call: Some(call.clone()), payload: payload() };
            inlet.take(datagram.len(), made);
        }
    }
}

impl Inlet {
    /// Nothing is made of what has no room.
    fn take(&self, bytes: usize, made: impl FnOnce() -> Captured) {
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = if waiting + bytes <= QUEUE_BYTES { self.queue.try_reserve().ok() } else { None };
        match place {
            Some(place) => place.send(made()),
            None => {
                self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.metrics.dropped(Reason::QueueFull, 1);
            }
        }
    }
}

impl fmt::Debug for Hep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hep(on)" } else { "Hep(off)" })
    }
}

/// The task that sends what was captured. Dropped, it ends at once; [`HepExporter::shutdown`] sends the rest before.
pub struct HepExporter {
    inlet: Hep,
    end: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl HepExporter {
    /// Begins; has to be called within a tokio runtime. A collector that cannot be reached is tried again and again.
    ///
    /// # Errors
    /// [`HepError`]: the configuration, or the file of the key.
    pub fn start(config: &HepConfig, metrics: &Metrics) -> Result<Self, HepError> {
        let key = config.auth_key()?;
        let metrics = HepMetrics::register(metrics);
        let (queue, captured) = mpsc::channel(QUEUE);
        let waiting_bytes = Arc::<AtomicUsize>::default();
        let (end, ended) = oneshot::channel();
        let sender = Sender::new(config, key, captured, waiting_bytes.clone(), metrics.clone());
        let task = tokio::spawn(sender.run(ended));
        let (sip, rtcp) = (config.sip, config.rtcp);
        let inlet = Hep(Some(Arc::new(Inlet { queue, waiting_bytes, metrics, sip, rtcp })));
        Ok(Self { inlet, end: Some(end), task })
    }

    /// Where captures are handed over.
    pub fn inlet(&self) -> Hep {
        self.inlet.clone()
    }

    /// Takes no more, and sends what waits within `limit`.
    pub async fn shutdown(mut self, limit: Duration) {
        drop(self.end.take());
        let _ = tokio::time::timeout(limit, &mut self.task).await;
    }
}

impl Drop for HepExporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
