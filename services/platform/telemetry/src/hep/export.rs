//! The way to the collector: opened anew when it breaks, with longer and longer pauses in between.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket, lookup_host},
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use trunkline_config::{HostPort, Secret};

use super::{
    Captured, HepConfig, HepTransport,
    mask::mask,
    metrics::{HepMetrics, Reason},
    packet::{Kind, Packet},
    rtcp,
};

/// Written to a connection at once.
const BATCH_BYTES: usize = 64 * 1_024;
/// Looking a name up, connecting, and writing a batch may take this long each.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pauses before the collector is tried again: the first, doubled each time, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Datagrams tell nobody that their collector has moved: its name is looked up again after this.
const RENEW: Duration = Duration::from_secs(60);

/// A way over which this long nothing failed works.
const PROVEN: Duration = Duration::from_secs(1);

/// Why the way is left.
enum Left {
    /// Everything was sent and no more will come.
    Done,
    /// The name is due to be looked up again.
    Renew,
    Broken(io::Error),
}

enum Way {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// Packets that are ready, and how many of which kind.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    sip: u64,
    rtcp: u64,
}

pub(super) struct Sender {
    target: HostPort,
    transport: HepTransport,
    capture_id: u32,
    key: Option<Secret>,
    queue: mpsc::Receiver<Captured>,
    waiting_bytes: Arc<AtomicUsize>,
    metrics: HepMetrics,
}

impl Sender {
    pub(super) fn new(
        config: &HepConfig,
        key: Option<Secret>,
        queue: mpsc::Receiver<Captured>,
        waiting_bytes: Arc<AtomicUsize>,
        metrics: HepMetrics,
    ) -> Self {
        let (target, transport, capture_id) = (config.target.clone(), config.transport, config.capture_id);
        Self { target, transport, capture_id, key, queue, waiting_bytes, metrics }
    }

    /// Sends until `ended` is dropped and the queue is empty; from then on a way that breaks is the end too.
    pub(super) async fn run(mut self, mut ended: oneshot::Receiver<()>) {
        let (mut pause, mut broken) = (FIRST_PAUSE, false);
        loop {
            let opened = Instant::now();
            let left = match open(&self.target, self.transport).await {
                Ok(way) => self.serve(way, &mut ended, &mut broken).await,
                Err(error) => Left::Broken(error),
            };
            match left {
                Left::Done => return,
                Left::Renew => continue,
                Left::Broken(error) if !broken => {
                    tracing::warn!(target = %self.target, %error, "captures do not reach their collector");
                    broken = true;
                }
                Left::Broken(_) => {}
            }
            // One that takes connections only to close them is not tried more often than one that is gone.
            pause = if opened.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { LONGEST_PAUSE.min(pause * 2) };
            // Asked to end, nobody waits for a collector that is gone.
            if self.queue.is_closed() {
                return;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = &mut ended => self.queue.close(),
            }
        }
    }

    async fn serve(&mut self, mut way: Way, ended: &mut oneshot::Receiver<()>, broken: &mut bool) -> Left {
        let renew = Instant::now() + RENEW;
        let mut since = None;
        let mut batch = Batch::default();
        loop {
            let next = tokio::select! {
                biased;
                _ = &mut *ended, if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
                next = self.queue.recv() => next,
                error = way.failed() => return Left::Broken(error),
                () = tokio::time::sleep_until(renew), if matches!(way, Way::Udp(_)) => return Left::Renew,
            };
            let Some(captured) = next else { return Left::Done };
            batch.clear();
            self.add(captured, &mut batch);
            // A datagram holds one packet, a connection takes many at once.
            while matches!(way, Way::Tcp(_)) && batch.bytes.len() < BATCH_BYTES {
                let Ok(captured) = self.queue.try_recv() else { break };
                self.add(captured, &mut batch);
            }
            if batch.bytes.is_empty() {
                continue;
            }
            if let Err(error) = way.send(&batch.bytes).await {
                self.metrics.dropped(Reason::NotSent, batch.sip + batch.rtcp);
                return Left::Broken(error);
            }
            self.metrics.sent(Kind::Sip, batch.sip);
            self.metrics.sent(Kind::Rtcp, batch.rtcp);
            // That a datagram was sent says little: that none came back with an error for a while does.
            let proven = since.get_or_insert_with(Instant::now).elapsed() >= PROVEN;
            if proven && std::mem::take(broken) {
                tracing::info!(target = %self.target, "captures reach their collector again");
            }
        }
    }

    fn add(&self, captured: Captured, batch: &mut Batch) {
        let Captured { kind, flow, at, call, payload } = captured;
        self.waiting_bytes.fetch_sub(payload.len(), Ordering::Relaxed);
        let (payload, correlation) = match kind {
            Kind::Sip => {
                let mut message = payload.to_vec();
                let call_id = mask(&mut message);
                (message, call_id)
            }
            Kind::Rtcp => match rtcp::json(&payload) {
                Some(json) => (json.into_bytes(), call.map(|call| call.to_string().into_bytes())),
                None => return self.metrics.dropped(Reason::Unreadable, 1),
            },
        };
        let packet = Packet {
            flow,
            at,
            kind,
            capture_id: self.capture_id,
            auth_key: self.key.as_ref().map(|key| key.expose().as_bytes()),
            correlation: correlation.as_deref(),
            payload: &payload,
        };
        match (packet.write(&mut batch.bytes), kind) {
            (Ok(()), Kind::Sip) => batch.sip += 1,
            (Ok(()), Kind::Rtcp) => batch.rtcp += 1,
            (Err(_), _) => self.metrics.dropped(Reason::TooLarge, 1),
        }
    }
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        (self.sip, self.rtcp) = (0, 0);
    }
}

impl Way {
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = async {
            match self {
                Self::Udp(socket) => socket.send(bytes).await.map(drop),
                Self::Tcp(stream) => stream.write_all(bytes).await,
            }
        };
        timeout(PATIENCE, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Completes when the collector has closed the connection, or its machine says that nobody takes the datagrams. What
    /// the collector itself says is nothing to us.
    async fn failed(&self) -> io::Error {
        let mut answer = [0; 1_024];
        loop {
            let read = match self {
                Self::Udp(socket) => socket.recv(&mut answer).await.map(|_| 1),
                Self::Tcp(stream) => match stream.readable().await {
                    Ok(()) => stream.try_read(&mut answer),
                    Err(error) => Err(error),
                },
            };
            match read {
                Ok(0) => return io::ErrorKind::ConnectionAborted.into(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return error,
            }
        }
    }
}

async fn open(target: &HostPort, transport: HepTransport) -> io::Result<Way> {
    let opened = async {
        let mut last = io::ErrorKind::NotFound.into();
        for address in lookup_host((target.host.as_str(), target.port)).await? {
            let way = match transport {
                HepTransport::Tcp => TcpStream::connect(address).await.map(Way::Tcp),
                HepTransport::Udp => {
                    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    match UdpSocket::bind(any).await {
                        Ok(socket) => socket.connect(address).await.map(|()| Way::Udp(socket)),
                        Err(error) => Err(error),
                    }
                }
            };
            match way {
                Ok(way) => return Ok(way),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    timeout(PATIENCE, opened).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
