//! What a connection between nodes runs over.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

/// A connection: TCP, TLS over it, or memory within the process.
pub(crate) struct NodeStream {
    over: Over,
    /// Counts it among the accepted ones.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

enum Over {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Memory(DuplexStream),
}

impl NodeStream {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        Self { over: Over::Tcp(stream), _place: None }
    }

    pub(crate) fn tls(stream: impl Into<TlsStream<TcpStream>>) -> Self {
        Self { over: Over::Tls(Box::new(stream.into())), _place: None }
    }

    pub(crate) fn memory(stream: DuplexStream) -> Self {
        Self { over: Over::Memory(stream), _place: None }
    }

    pub(crate) fn in_place(mut self, place: OwnedSemaphorePermit) -> Self {
        self._place = Some(Arc::new(place));
        self
    }
}

impl Connected for NodeStream {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

macro_rules! over {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().over {
            Over::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Over::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
            Over::Memory(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for NodeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        over!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for NodeStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        over!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        over!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        over!(self, stream => stream.poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        over!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.over {
            Over::Tcp(stream) => stream.is_write_vectored(),
            Over::Tls(stream) => stream.is_write_vectored(),
            Over::Memory(stream) => stream.is_write_vectored(),
        }
    }
}
