use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Request},
    middleware::from_fn_with_state,
    response::{IntoResponse, Redirect},
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tower_http::compression::{
    CompressionLayer,
    predicate::{DefaultPredicate, NotForContentType, Predicate},
};

use crate::{
    auth::Auth,
    config::ConsoleConfig,
    pages,
    ports::Ports,
    problem::Problem,
    rest::{self, LiveHub, Records},
    runbooks,
    stall::StallGuard,
    ws::Registry,
};

/// Largest request head, bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// After a failed accept (out of descriptors) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) config: ConsoleConfig,
    /// The pages' content security policy.
    pub(crate) policy: String,
    pub(crate) ports: Ports,
    pub(crate) auth: Arc<Auth>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) records: Records,
    pub(crate) live: Arc<LiveHub>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// The peer's address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Everything that is served.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    // What is streamed as it comes, or compressed already, is left alone.
    let compressible = DefaultPredicate::new().and(NotForContentType::const_new("audio/"));
    rest::router(&shared)
        .route("/healthz", get(pages::healthz))
        .route("/readyz", get(pages::readyz))
        .route("/runbooks", get(async || Redirect::permanent("/runbooks/")))
        .route("/runbooks/", get(async || runbooks::serve(None)))
        .route("/runbooks/{name}", get(async |Path(name): Path<String>| runbooks::serve(Some(&name))))
        .fallback(pages::serve)
        .method_not_allowed_fallback(async || Problem::method().into_response())
        .layer(CompressionLayer::new().compress_when(compressible))
        .layer(from_fn_with_state(Arc::clone(&shared), pages::protect))
        .with_state(shared)
}

/// Accepts connections until the node stops.
pub(crate) async fn accept(listener: TcpListener, router: Router, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(shared.config.max_connections));
    loop {
        let (stream, peer) = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_of_one_connection(&error) {
                        tracing::warn!(%error, "no connection could be accepted; raise the limit of open files");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // Dropped: the client sees a closed connection and the load balancer tries another node.
            shared.ports.metrics.connections_refused.inc();
            continue;
        };
        let connection = serve(stream, peer, place, router.clone(), Arc::clone(&shared));
        shared.tasks.spawn(connection);
    }
}

/// Errors of `accept` that say nothing about the next connection.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Serves one connection: HTTP/1.1 with upgrades. HTTP/2 is spoken by what stands in front and ends TLS.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    router: Router,
    shared: Arc<Shared>,
) {
    let timings = shared.config.timings;
    let metrics = &shared.ports.metrics;
    let _ = stream.set_nodelay(true);
    // The place goes along with the socket, also when it becomes a WebSocket.
    let io =
        TokioIo::new(StallGuard::new(stream, timings.write_stall, (place, Open::new(&metrics.connections))));
    let address = ClientAddress(peer.ip().to_canonical());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(address);
        router.clone().oneshot(Request::from(request.map(axum::body::Body::new)))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timings.header)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(timings.drain, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended with an error");
    }
}

/// Counts an open connection for as long as it lives.
struct Open(prometheus_client::metrics::gauge::Gauge);

impl Open {
    fn new(gauge: &prometheus_client::metrics::gauge::Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
