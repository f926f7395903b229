//! Connections to other nodes' gRPC servers.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Tls, stream::NodeStream};

/// TCP and TLS handshake together.
const CONNECT: Duration = Duration::from_secs(2);
/// A peer that does not answer a ping is given up: a partition is noticed after both together.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(2);
pub(crate) const PING_ANSWER: Duration = Duration::from_secs(4);
/// Bytes in flight on one stream, and on all streams of one connection.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// An address that cannot be one of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a node's address: expected host:port, for example 10.0.0.1:7400")]
pub struct DialError(String);

/// A channel to the gRPC server at `address` (`host:port`), which connects at its first use and again when the connection
/// ends. For the command line; nodes go through [`crate::Channels`].
///
/// # Errors
/// When `address` is not `host:port`.
pub fn dial(address: &str, tls: Option<Tls>) -> Result<Channel, DialError> {
    split(address).ok_or_else(|| DialError(address.chars().take(80).collect()))?;
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move { connect(&address, tls.as_ref()).await.map(TokioIo::new) }
    });
    Ok(endpoint().connect_with_connector_lazy(connector))
}

/// Host (without brackets) and port.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

/// Options of every connection between nodes. The address names nothing: connectors do not look at it.
pub(crate) fn endpoint() -> Endpoint {
    Endpoint::from_static("http://node.invalid")
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// Connects within a bound.
pub(crate) async fn connect(address: &str, tls: Option<&Tls>) -> io::Result<NodeStream> {
    let connecting = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = tls else { return Ok(NodeStream::tcp(tcp)) };
        let host = split(address).map_or("", |(host, _)| host);
        // The name is only a hint for the server: certificates are checked against the authority, not by name.
        let name = ServerName::try_from(host.to_owned())
            .or_else(|_| ServerName::try_from("node.invalid"))
            .map_err(io::Error::other)?;
        let stream = TlsConnector::from(tls.client()).connect(name, tcp).await?;
        Ok(NodeStream::tls(tokio_rustls::TlsStream::from(stream)))
    };
    match timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(split("10.0.0.1:7400"), Some(("10.0.0.1", 7400)));
        assert_eq!(split("[fd00::1]:7400"), Some(("fd00::1", 7400)));
        for bad in ["10.0.0.1", ":7400", "n:0x1", "n:70000", ""] {
            assert_eq!(split(bad), None, "{bad}");
        }
        assert!(dial("nowhere", None).is_err());
    }
}
