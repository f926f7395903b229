use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use trunkline_sip::{Frame, StreamFramer};
use trunkline_telemetry::hep::Hep;

use super::tap::ConnectionTap;
use crate::config::Settings;

/// Messages and bytes that wait to be written to one peer; a peer that takes no more is closed.
const WRITE_QUEUE: usize = 256;
const WRITE_QUEUE_BYTES: usize = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
const READ_BYTES: usize = 4 * 1024;

/// What a connection tells the engine.
pub(crate) enum ConnectionEvent {
    /// A peer has connected.
    Opened {
        connection: u64,
        peer: SocketAddr,
        writer: Writer,
    },
    /// A connection that we opened stands.
    Connected {
        connection: u64,
    },
    Frame {
        connection: u64,
        peer: SocketAddr,
        frame: Frame,
    },
    /// Or never stood.
    Closed {
        connection: u64,
    },
}

/// The engine's end of a connection. Dropped while the connection stands, it closes it at once.
pub(crate) struct Writer {
    queue: mpsc::Sender<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
    _close: oneshot::Sender<()>,
}

/// The connection's end of a [`Writer`].
struct Outgoing {
    queue: mpsc::Receiver<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
    close: oneshot::Receiver<()>,
}

impl Writer {
    fn pair() -> (Self, Outgoing) {
        let (sender, queue) = mpsc::channel(WRITE_QUEUE);
        let (_close, close) = oneshot::channel();
        let waiting_bytes = Arc::<AtomicUsize>::default();
        let writer = Self { queue: sender, waiting_bytes: waiting_bytes.clone(), _close };
        (writer, Outgoing { queue, waiting_bytes, close })
    }

    /// Takes a message without waiting; false when the peer has too much to read already.
    pub fn send(&self, bytes: Bytes) -> bool {
        let length = bytes.len();
        let waiting = self.waiting_bytes.fetch_add(length, Ordering::Relaxed);
        // One message always fits, whatever its size.
        if (waiting > 0 && waiting + length > WRITE_QUEUE_BYTES) || self.queue.try_send(bytes).is_err() {
            self.waiting_bytes.fetch_sub(length, Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// Makes connections, counts them, and keeps them within the limits.
#[derive(Clone)]
pub(crate) struct Connections {
    settings: Arc<Settings>,
    events: mpsc::Sender<ConnectionEvent>,
    next: Arc<AtomicU64>,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    hep: Hep,
}

/// Gives the connection's place back when dropped.
struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

impl Connections {
    pub fn new(settings: Arc<Settings>, events: mpsc::Sender<ConnectionEvent>, hep: Hep) -> Self {
        Self { settings, events, next: Arc::new(AtomicU64::new(1)), open: Arc::default(), hep }
    }

    /// Accepts until the engine is gone.
    pub async fn listen(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Over the limit: closed by dropping it.
                    if let Some(place) = self.place(peer.ip()) {
                        tokio::spawn(self.clone().accepted(stream, peer, place));
                    }
                }
                Err(error) if is_final(&error) => {
                    tracing::error!(%error, "the SIP TCP listener failed");
                    return;
                }
                // Out of descriptors, or the peer was gone already: the next one may succeed after a breath.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            if self.events.is_closed() {
                return;
            }
        }
    }

    async fn accepted(self, stream: TcpStream, peer: SocketAddr, place: Place) {
        let connection = self.number();
        let (writer, outgoing) = Writer::pair();
        if self.events.send(ConnectionEvent::Opened { connection, peer, writer }).await.is_err() {
            return;
        }
        self.serve(connection, stream, peer, outgoing, place).await;
    }

    /// Opens a connection to `peer`. What is sent to the writer meanwhile goes out once it stands; a failure is
    /// reported as `Closed`.
    pub fn open(&self, peer: SocketAddr) -> Option<(u64, Writer)> {
        let place = self.place(peer.ip())?;
        let connection = self.number();
        let (writer, outgoing) = Writer::pair();
        let this = self.clone();
        tokio::spawn(async move {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(peer)).await {
                Ok(Ok(stream)) => {
                    if this.events.send(ConnectionEvent::Connected { connection }).await.is_ok() {
                        this.serve(connection, stream, peer, outgoing, place).await;
                    }
                }
                _ => {
                    let _ = this.events.send(ConnectionEvent::Closed { connection }).await;
                }
            }
        });
        Some((connection, writer))
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn place(&self, peer: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let total: usize = open.values().sum();
        let count = open.entry(peer).or_default();
        let config = &self.settings.config;
        if total >= config.max_connections || *count >= config.max_connections_per_peer {
            if *count == 0 {
                open.remove(&peer);
            }
            return None;
        }
        *count += 1;
        Some(Place { open: self.open.clone(), peer })
    }

    async fn serve(
        self,
        connection: u64,
        stream: TcpStream,
        peer: SocketAddr,
        outgoing: Outgoing,
        _place: Place,
    ) {
        let Outgoing { queue, waiting_bytes, close } = outgoing;
        let limit = self.settings.message_timeout;
        let _ = stream.set_nodelay(true);
        // A stream without an address of its own is broken: its messages come from nowhere, if any come.
        let local = stream.local_addr().unwrap_or(self.settings.config.listen);
        let tap = ConnectionTap::new(self.hep.clone(), local, peer);
        let (read, write) = stream.into_split();
        let (pongs, pong_queue) = mpsc::channel(1);
        let reader = std::pin::pin!(self.read(connection, peer, read, pongs, &tap));
        let mut writer = std::pin::pin!(write_all(write, queue, waiting_bytes, pong_queue, limit, &tap));
        tokio::select! {
            () = reader => {
                // The engine gives its end of the queue up on `Closed`; what it has put in before still goes out.
                let _ = self.events.send(ConnectionEvent::Closed { connection }).await;
                let _ = timeout(limit, writer).await;
            }
            () = &mut writer => {
                let _ = self.events.send(ConnectionEvent::Closed { connection }).await;
            }
            // The engine has given the connection up: the peer does not read, and what waits is not worth waiting for.
            _ = close => {}
        }
    }

    async fn read(
        &self,
        connection: u64,
        peer: SocketAddr,
        mut read: OwnedReadHalf,
        pongs: mpsc::Sender<()>,
        tap: &ConnectionTap,
    ) {
        let mut framer = StreamFramer::new();
        let mut buffer = vec![0u8; READ_BYTES];
        // A peer that trickles bytes has one time-out for the whole message, not one for each byte.
        let mut deadline = Instant::now() + self.settings.message_timeout;
        let mut proven = false;
        loop {
            let length = match timeout_at(deadline, read.read(&mut buffer)).await {
                Ok(Ok(length)) if length > 0 => length,
                _ => {
                    if let Some(frame) = framer.end() {
                        captured(&frame, tap);
                        self.hand_over(connection, peer, frame).await;
                    }
                    return;
                }
            };
            let was_mid_message = framer.is_mid_message();
            framer.push(&buffer[..length]);
            let mut whole = false;
            while let Some(frame) = framer.next_frame() {
                whole = true;
                match frame {
                    // Full: a pong is on its way already.
                    Frame::Ping => _ = pongs.try_send(()),
                    Frame::Pong => {}
                    frame => {
                        // Blank lines keep a connection open; they do not make it one that speaks SIP.
                        proven |= matches!(frame, Frame::Message(_));
                        captured(&frame, tap);
                        if !self.hand_over(connection, peer, frame).await {
                            return;
                        }
                    }
                }
            }
            if !framer.is_mid_message() && proven {
                deadline = Instant::now() + self.settings.idle_timeout;
            } else if proven && (whole || !was_mid_message) {
                deadline = Instant::now() + self.settings.message_timeout;
            }
        }
    }

    /// False when the connection has to close.
    async fn hand_over(&self, connection: u64, peer: SocketAddr, frame: Frame) -> bool {
        let close =
            matches!(&frame, Frame::Rejected { close: true, .. } | Frame::Dropped { close: true, .. });
        // The engine's queue is bounded: a flood on this connection waits here, not in memory.
        let taken = self.events.send(ConnectionEvent::Frame { connection, peer, frame }).await.is_ok();
        taken && !close
    }
}

/// What is rejected is not kept as it came: its answer is captured alone.
fn captured(frame: &Frame, tap: &ConnectionTap) {
    if let Frame::Message(message) = frame {
        tap.received(|| message.to_bytes());
    }
}

fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
}

async fn write_all(
    mut write: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
    mut pongs: mpsc::Receiver<()>,
    limit: Duration,
    tap: &ConnectionTap,
) {
    loop {
        let (bytes, counted) = tokio::select! {
            message = queue.recv() => match message {
                Some(bytes) => { let length = bytes.len(); (bytes, length) }
                None => return,
            },
            // RFC 5626 section 4.4.1: CRLF answers a double CRLF.
            Some(()) = pongs.recv() => (Bytes::from_static(b"\r\n"), 0),
        };
        if !matches!(timeout(limit, write.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
        if counted > 0 {
            tap.sent(&bytes);
            waiting_bytes.fetch_sub(counted, Ordering::Relaxed);
        }
    }
}
