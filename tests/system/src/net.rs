//! Addresses for the programs under test, below the range from which the kernel takes ports of its own accord.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    ops::Range,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Result, bail};

const PORTS: Range<u16> = 7_000..12_000;
const RTP: Range<u16> = 12_000..32_000;
const RTP_SPAN: u16 = 1_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
static NEXT_RTP: AtomicU16 = AtomicU16::new(0);

/// An address on loopback that is free for UDP and TCP, and whose next port is free too (media of sipp: RTP, RTCP).
/// Never given twice in this process; two processes begin at different places.
pub fn address() -> Result<SocketAddr> {
    let span = PORTS.end - PORTS.start;
    let begin = (std::process::id() * 101 % u32::from(span)) as u16;
    for _ in 0..span / 4 {
        let step = NEXT_PORT.fetch_add(4, Ordering::Relaxed);
        let port = PORTS.start + (begin + step % span) % span / 4 * 4;
        if free(port) && free(port + 1) {
            return Ok(loopback(port));
        }
    }
    bail!("no free port from {} to {}", PORTS.start, PORTS.end)
}

/// A range of RTP ports, `FIRST-LAST`, that no other test of this process has.
pub fn rtp_range() -> Result<String> {
    let slots = (RTP.end - RTP.start) / RTP_SPAN;
    let begin = (std::process::id() % u32::from(slots)) as u16;
    for _ in 0..slots {
        let slot = (begin + NEXT_RTP.fetch_add(1, Ordering::Relaxed)) % slots;
        let first = RTP.start + slot * RTP_SPAN;
        if free(first) && free(first + RTP_SPAN / 2) {
            return Ok(format!("{first}-{}", first + RTP_SPAN - 1));
        }
    }
    bail!("no free range of RTP ports from {} to {}", RTP.start, RTP.end)
}

/// An address on loopback.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn free(port: u16) -> bool {
    UdpSocket::bind(loopback(port)).is_ok() && TcpListener::bind(loopback(port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_once() {
        let one = address().unwrap();
        let two = address().unwrap();
        assert_ne!(one, two);
        assert!(PORTS.contains(&one.port()) && free(two.port()));
        assert_ne!(rtp_range().unwrap(), rtp_range().unwrap());
    }
}
