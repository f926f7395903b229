//! Captures of messages for a collector, where they come from and go to the network; off unless configured.

use std::net::SocketAddr;

use bytes::Bytes;
use trunkline_actors::now;
use trunkline_telemetry::hep::{Carrier, Flow, Hep};

/// Captures the datagrams of the edge's socket.
pub(crate) struct Tap {
    hep: Hep,
    local: SocketAddr,
}

impl Tap {
    /// For a socket at `bound`; one that listens everywhere is told by the address that peers know.
    pub fn new(hep: Hep, bound: SocketAddr, advertised: SocketAddr) -> Self {
        let local = if bound.ip().is_unspecified() { advertised } else { bound };
        Self { hep, local }
    }

    pub fn received(&self, source: SocketAddr, message: &Bytes) {
        capture(&self.hep, Flow { source, destination: self.local, carrier: Carrier::Udp }, message);
    }

    pub fn sent(&self, destination: SocketAddr, message: &Bytes) {
        capture(&self.hep, Flow { source: self.local, destination, carrier: Carrier::Udp }, message);
    }
}

/// Captures the messages of one connection.
pub(crate) struct ConnectionTap {
    hep: Hep,
    local: SocketAddr,
    peer: SocketAddr,
}

impl ConnectionTap {
    pub fn new(hep: Hep, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { hep, local, peer }
    }

    /// `message` is asked for only when it is wanted: a stream is read into messages, not into their bytes.
    pub fn received(&self, message: impl FnOnce() -> Bytes) {
        if self.hep.wants_sip() {
            let flow = Flow { source: self.peer, destination: self.local, carrier: Carrier::Tcp };
            capture(&self.hep, flow, &message());
        }
    }

    pub fn sent(&self, message: &Bytes) {
        let flow = Flow { source: self.local, destination: self.peer, carrier: Carrier::Tcp };
        capture(&self.hep, flow, message);
    }
}

fn capture(hep: &Hep, flow: Flow, message: &Bytes) {
    if hep.wants_sip() {
        hep.sip(now(), flow, message);
    }
}
