//! A gRPC service of the same process, reached through memory instead of a socket: the same code path as to another
//! node, without a port.

use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc, task::JoinHandle};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint, Uri, server::Router};

/// Bytes that each direction of an in-process connection buffers.
const BUFFER_BYTES: usize = 256 * 1024;
/// Connections waiting to be accepted.
const BACKLOG: usize = 16;

/// An in-process gRPC server and the channel to it.
pub struct LocalServer {
    /// Connects at first use and again when the connection ends.
    pub channel: Channel,
    task: JoinHandle<()>,
}

impl LocalServer {
    /// Ends the server; calls under way fail with `Unavailable`.
    pub fn shutdown(&self) {
        self.task.abort();
    }
}

/// Serves `router` in this process.
pub fn serve_in_process(router: Router) -> LocalServer {
    let (connections, accepted) = mpsc::channel::<DuplexStream>(BACKLOG);
    let incoming = ReceiverStream::new(accepted).map(Ok::<_, std::io::Error>);
    let task = tokio::spawn(async move {
        if let Err(error) = router.serve_with_incoming(incoming).await {
            tracing::error!(%error, "in-process gRPC server ended");
        }
    });
    let connector = tower::service_fn(move |_: Uri| {
        let connections = connections.clone();
        async move {
            let (client, server) = tokio::io::duplex(BUFFER_BYTES);
            connections
                .send(server)
                .await
                .map_err(|_| std::io::Error::other("the in-process server has ended"))?;
            Ok::<_, std::io::Error>(TokioIo::new(client))
        }
    });
    // The address names nothing: the connector does not look at it.
    let channel = Endpoint::from_static("http://in-process.invalid").connect_with_connector_lazy(connector);
    LocalServer { channel, task }
}
