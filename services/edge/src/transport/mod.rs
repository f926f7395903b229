//! Sockets. UDP is read by the engine itself; each TCP connection has a task that frames, with limits and time-outs,
//! and hands whole messages over. The engine never waits for a peer: what a peer does not take is dropped (UDP) or
//! closes its connection (TCP).

pub(crate) mod tap;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::net::SocketAddr;

/// Where a message goes: what the transaction layer carries along as its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Path {
    /// A datagram to this address.
    Udp(SocketAddr),
    /// This connection.
    Tcp {
        /// Number of the connection on this edge.
        connection: u64,
        /// The other end.
        peer: SocketAddr,
        /// Where to connect when the connection is gone (RFC 3261 section 18.2.2): the source address with the port of
        /// the Via for answers, the peer itself for requests.
        back: SocketAddr,
    },
}

impl Path {
    pub fn peer(self) -> SocketAddr {
        match self {
            Self::Udp(peer) | Self::Tcp { peer, .. } => peer,
        }
    }

    pub fn reliable(self) -> bool {
        matches!(self, Self::Tcp { .. })
    }

    /// As in the `transport` fields of `trunkline.edge.v1`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp(_) => "udp",
            Self::Tcp { .. } => "tcp",
        }
    }

    /// As in a Via.
    pub fn via_transport(self) -> &'static str {
        match self {
            Self::Udp(_) => "UDP",
            Self::Tcp { .. } => "TCP",
        }
    }
}
