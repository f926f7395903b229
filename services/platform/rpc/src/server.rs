//! The node's one gRPC server: links, records, administration.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tonic::{service::Routes, transport::Server};
use tracing::Span;

use crate::{
    Tls,
    dial::{CONNECTION_WINDOW, PING_ANSWER, PING_EVERY, STREAM_WINDOW},
    server_span,
    stream::NodeStream,
};

/// A TLS handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections at the same time: some for each node of a large cluster.
const CONNECTIONS: usize = 4_096;
/// Accepted connections that the server has not begun with.
const BACKLOG: usize = 64;
/// Requests at the same time on one connection.
const REQUESTS: u32 = 1_024;
/// Bytes that each direction of a connection within the process buffers.
const MEMORY_BYTES: usize = 256 * 1024;
/// After an error of `accept` (no file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. Dropped, it goes on; [`NodeServer::shutdown`] ends it.
pub struct NodeServer {
    address: Option<SocketAddr>,
    local: InProcess,
    stop: watch::Sender<bool>,
    acceptor: Option<JoinHandle<()>>,
    serving: JoinHandle<()>,
}

/// Opens connections to the server of this process without a socket.
#[derive(Clone)]
pub struct InProcess(mpsc::Sender<NodeStream>);

impl InProcess {
    pub(crate) async fn connect(&self) -> io::Result<DuplexStream> {
        let (client, server) = tokio::io::duplex(MEMORY_BYTES);
        let sent = self.0.send(NodeStream::memory(server)).await;
        sent.map_err(|_| io::Error::new(io::ErrorKind::ConnectionRefused, "this node's server has ended"))?;
        Ok(client)
    }
}

impl NodeServer {
    /// Serves `routes` on `listen`, and within the process. Without `listen` only there. With `tls` a peer that shows no
    /// certificate of the cluster's authority gets nothing; without, it is plain HTTP/2 (loopback, or asked for).
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(listen: Option<SocketAddr>, tls: Option<Tls>, routes: Routes) -> io::Result<Self> {
        let (accepted, incoming) = mpsc::channel(BACKLOG);
        let (stop, stopped) = watch::channel(false);
        let local = InProcess(accepted.clone());
        let (mut address, mut acceptor) = (None, None);
        if let Some(listen) = listen {
            let listener = TcpListener::bind(listen).await?;
            address = Some(listener.local_addr()?);
            acceptor = Some(tokio::spawn(accept(listener, tls, accepted)));
        }
        let serving = tokio::spawn(serve(routes, Incoming(incoming), stopped));
        Ok(Self { address, local, stop, acceptor, serving })
    }

    /// Where it listens; `None` when only within the process.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// For [`crate::Channels::attach_local`].
    pub fn in_process(&self) -> InProcess {
        self.local.clone()
    }

    /// Takes no new connections, lets requests under way end for at most `patience`, and ends.
    pub async fn shutdown(mut self, patience: Duration) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.abort();
        }
        self.stop.send_replace(true);
        if timeout(patience, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

async fn serve(routes: Routes, incoming: Incoming, mut stopped: watch::Receiver<bool>) {
    let server = Server::builder()
        .trace_fn(|request| {
            // A link is a stream for the life of a node, not a call.
            if request.uri().path().starts_with("/trunkline.cluster.v1.Link/") {
                Span::none()
            } else {
                server_span(request)
            }
        })
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_ANSWER))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(REQUESTS)
        .add_routes(routes);
    let stopping = async move { _ = stopped.wait_for(|stop| *stop).await };
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopping).await {
        tracing::error!(%error, "the node's gRPC server ended");
    }
}

async fn accept(listener: TcpListener, tls: Option<Tls>, accepted: mpsc::Sender<NodeStream>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (tls, accepted) = (tls.clone(), accepted.clone());
                tokio::spawn(async move {
                    match shake(stream, tls.as_ref()).await {
                        Ok(stream) => _ = accepted.send(stream.in_place(place)).await,
                        Err(error) => tracing::warn!(%peer, %error, "a connection was refused"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn shake(stream: TcpStream, tls: Option<&Tls>) -> io::Result<NodeStream> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(NodeStream::tcp(stream)) };
    let shaken = timeout(HANDSHAKE, TlsAcceptor::from(tls.server()).accept(stream)).await;
    let shaken =
        shaken.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no handshake in time")));
    tls.metrics().handshake(if shaken.is_ok() { "ok" } else { "failed" });
    Ok(NodeStream::tls(tokio_rustls::TlsStream::from(shaken?)))
}

/// The accepted connections as tonic wants them.
struct Incoming(mpsc::Receiver<NodeStream>);

impl tokio_stream::Stream for Incoming {
    type Item = io::Result<NodeStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|stream| stream.map(Ok))
    }
}
