use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
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
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use trunkline_sip::{Frame, StreamFramer};

use crate::config::Settings;

/// Messages that wait to be written to one peer; a peer that takes no more is closed.
const WRITE_QUEUE: usize = 256;
/// A peer that does not take a message within this is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
const READ_BYTES: usize = 16 * 1024;

/// What a connection tells the engine.
pub(crate) enum ConnectionEvent {
    Opened { connection: u64, peer: SocketAddr, writer: mpsc::Sender<Bytes> },
    Frame { connection: u64, peer: SocketAddr, frame: Frame },
    Closed { connection: u64 },
}

/// Makes connections, counts them, and keeps them within the limits.
#[derive(Clone)]
pub(crate) struct Connections {
    settings: Arc<Settings>,
    events: mpsc::Sender<ConnectionEvent>,
    next: Arc<AtomicU64>,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
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
    pub fn new(settings: Arc<Settings>, events: mpsc::Sender<ConnectionEvent>) -> Self {
        Self { settings, events, next: Arc::new(AtomicU64::new(1)), open: Arc::default() }
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
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        if self.events.send(ConnectionEvent::Opened { connection, peer, writer }).await.is_err() {
            return;
        }
        self.serve(connection, stream, peer, queue, place).await;
    }

    /// Opens a connection to `peer`. What is sent to the returned queue meanwhile goes out once it stands; a failure is
    /// reported as `Closed`.
    pub fn open(&self, peer: SocketAddr) -> Option<(u64, mpsc::Sender<Bytes>)> {
        let place = self.place(peer.ip())?;
        let connection = self.number();
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        let this = self.clone();
        tokio::spawn(async move {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(peer)).await {
                Ok(Ok(stream)) => this.serve(connection, stream, peer, queue, place).await,
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
        queue: mpsc::Receiver<Bytes>,
        _place: Place,
    ) {
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let (pongs, pong_queue) = mpsc::channel(1);
        let reader = std::pin::pin!(self.read(connection, peer, read, pongs));
        let mut writer = std::pin::pin!(write_all(write, queue, pong_queue));
        tokio::select! {
            () = reader => {
                // The engine gives its end of the queue up on `Closed`; what it has put in before still goes out.
                let _ = self.events.send(ConnectionEvent::Closed { connection }).await;
                let _ = timeout(WRITE_TIMEOUT, writer).await;
            }
            () = &mut writer => {
                let _ = self.events.send(ConnectionEvent::Closed { connection }).await;
            }
        }
    }

    async fn read(
        &self,
        connection: u64,
        peer: SocketAddr,
        mut read: OwnedReadHalf,
        pongs: mpsc::Sender<()>,
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
                if matches!(frame, Frame::Ping) {
                    // Full: a pong is on its way already.
                    let _ = pongs.try_send(());
                } else if !self.hand_over(connection, peer, frame).await {
                    return;
                }
            }
            proven |= whole;
            if !framer.is_mid_message() && proven {
                deadline = Instant::now() + self.settings.idle_timeout;
            } else if whole || (proven && !was_mid_message) {
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

fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
}

async fn write_all(
    mut write: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    mut pongs: mpsc::Receiver<()>,
) {
    loop {
        let bytes = tokio::select! {
            message = queue.recv() => match message {
                Some(bytes) => bytes,
                None => return,
            },
            // RFC 5626 section 4.4.1: CRLF answers a double CRLF.
            Some(()) = pongs.recv() => Bytes::from_static(b"\r\n"),
        };
        if !matches!(timeout(WRITE_TIMEOUT, write.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
    }
}
