//! The ports of a plain RTP endpoint.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use trunkline_media_core::sdp::{Local, Negotiated, Negotiation};

/// Receive and send buffers of one party's port: a second of packets with their overhead in the kernel.
const PORT_BUFFER_BYTES: usize = 128 * 1024;
/// Of the browsers' common socket.
const SHARED_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// The even ports of this worker. Used ones go to the end of the queue, so that late packets of an ended call do not
/// reach the next one.
#[derive(Debug)]
pub(crate) struct Ports {
    bind: IpAddr,
    free: VecDeque<u16>,
}

impl Ports {
    pub(crate) fn new(bind: IpAddr, free: VecDeque<u16>) -> Self {
        Self { bind, free }
    }

    /// Binds the next even port that the system lets us have.
    pub(crate) fn open(&mut self) -> io::Result<UdpSocket> {
        for _ in 0..self.free.len() {
            let Some(port) = self.free.pop_front() else { break };
            match bind(SocketAddr::new(self.bind, port), PORT_BUFFER_BYTES) {
                Ok(socket) => return Ok(socket),
                // Somebody else's: try it again much later.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => self.free.push_back(port),
                Err(error) => {
                    self.free.push_back(port);
                    return Err(error);
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "every RTP port is in use"))
    }

    pub(crate) fn close(&mut self, port: u16) {
        self.free.push_back(port);
    }
}

fn bind(address: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The system caps these by its own limits.
    let _ = socket.set_recv_buffer_size(buffer_bytes);
    let _ = socket.set_send_buffer_size(buffer_bytes);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The socket for all browsers of a worker.
pub(crate) fn shared(address: SocketAddr) -> io::Result<UdpSocket> {
    bind(address, SHARED_BUFFER_BYTES)
}

/// A plain RTP endpoint's transport.
#[derive(Debug)]
pub(crate) struct RtpPort {
    pub(crate) socket: UdpSocket,
    pub(crate) port: u16,
    /// Opened when the party does not multiplex.
    pub(crate) rtcp: Option<UdpSocket>,
    pub(crate) remote_rtcp: Option<SocketAddr>,
    pub(crate) negotiation: Negotiation,
}

impl RtpPort {
    pub(crate) fn new(socket: UdpSocket, negotiation: Negotiation) -> io::Result<Self> {
        let port = socket.local_addr()?.port();
        Ok(Self { socket, port, rtcp: None, remote_rtcp: None, negotiation })
    }

    /// Follows what was negotiated. Gives back the RTCP socket when it was opened just now.
    pub(crate) fn follow(&mut self, negotiated: &Negotiated) -> io::Result<Option<&UdpSocket>> {
        self.remote_rtcp = negotiated.remote_rtcp;
        if negotiated.rtcp_mux {
            self.rtcp = None;
            return Ok(None);
        }
        if self.rtcp.is_some() {
            return Ok(None);
        }
        let mut address = self.socket.local_addr()?;
        address.set_port(self.port.saturating_add(1));
        self.rtcp = Some(bind(address, PORT_BUFFER_BYTES)?);
        Ok(self.rtcp.as_ref())
    }

    /// The port that reports come to and go from.
    pub(crate) fn rtcp_port(&self) -> u16 {
        self.port.saturating_add(u16::from(self.rtcp.is_some()))
    }

    /// Sends a report where the party wants it; `latched` is where its RTP comes from. Gives where it went.
    pub(crate) fn send_rtcp(&self, report: &[u8], latched: Option<SocketAddr>) -> Option<SocketAddr> {
        let (socket, to) = match (&self.rtcp, self.remote_rtcp, latched) {
            (Some(socket), Some(remote), _) => (socket, remote),
            (None, Some(_), Some(latched)) => (&self.socket, latched),
            (None, Some(remote), None) => (&self.socket, remote),
            _ => return None,
        };
        socket.send_to(report, to).ok().map(|_| to)
    }
}

pub(crate) fn local(advertised: IpAddr, socket: &UdpSocket, session_id: u64) -> io::Result<Local> {
    Ok(Local { address: SocketAddr::new(advertised, socket.local_addr()?.port()), session_id })
}
