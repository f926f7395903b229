use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// With the kernel's default (208 KiB) a burst of a thousand calls a second loses thousands of datagrams.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// A socket with large buffers. The kernel may grant less than asked for (`net.core.rmem_max`).
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Never refused, but clamped to net.core.rmem_max (doubled by the kernel): say what it gave.
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    let granted = socket.recv_buffer_size()?;
    if granted < BUFFER_BYTES {
        tracing::info!(
            granted_bytes = granted,
            wanted_bytes = BUFFER_BYTES,
            "the UDP receive buffer is smaller than wanted: raise net.core.rmem_max for high call rates"
        );
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
