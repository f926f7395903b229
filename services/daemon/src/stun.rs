//! A client of STUN (RFC 8489): at which address the outside sees a socket of this machine.
//!
//! Binding requests over UDP without credentials, which is all that public servers ask. It sends again as section 6.2.1
//! says, gives up within [`PATIENCE`], and takes only an answer of the server it asked with the transaction id it chose.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    net::{UdpSocket, lookup_host},
    time::{Instant, timeout, timeout_at},
};

/// The whole exchange takes no longer.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// The first wait before the request is sent again; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const HEADER: usize = 20;

/// The address and port at which `server` (`host:port`) sees a socket bound to `local`.
///
/// # Errors
/// The server's name leads nowhere, the socket does not work, or nobody answers; each names the server.
pub async fn mapped(server: &str, local: SocketAddr) -> Result<SocketAddr> {
    let until = Instant::now() + PATIENCE;
    let named = || {
        format!(
            "STUN server {server}: the name cannot be resolved; write host:port of a server that this machine reaches"
        )
    };
    let mut found = timeout(PATIENCE, lookup_host(server)).await.with_context(named)?.with_context(named)?;
    let peer = found.find(|peer| peer.is_ipv4() == local.is_ipv4()).with_context(named)?;
    let broken = || format!("STUN server {server}");
    let socket = UdpSocket::bind(local).await.with_context(broken)?;
    socket.connect(peer).await.with_context(broken)?;
    let id: [u8; 12] = rand::random();
    let (mut wait, mut buffer) = (FIRST_WAIT, [0; 1500]);
    while Instant::now() < until {
        socket.send(&request(id)).await.with_context(broken)?;
        let resend = (Instant::now() + wait).min(until);
        while let Ok(received) = timeout_at(resend, socket.recv(&mut buffer)).await {
            let length = received.with_context(broken)?;
            if let Some(mapped) = answer(buffer.get(..length).unwrap_or_default(), id) {
                return Ok(mapped);
            }
        }
        wait *= 2;
    }
    bail!("STUN server {server} did not answer within {PATIENCE:?}; does a firewall drop UDP to it?")
}

fn request(id: [u8; 12]) -> [u8; HEADER] {
    let mut packet = [0; HEADER];
    packet[..2].copy_from_slice(&BINDING_REQUEST.to_be_bytes());
    packet[4..8].copy_from_slice(&MAGIC);
    packet[8..].copy_from_slice(&id);
    packet
}

/// The mapped address out of a success response to our transaction.
fn answer(packet: &[u8], id: [u8; 12]) -> Option<SocketAddr> {
    let (header, body) = packet.split_first_chunk::<HEADER>()?;
    let (kind, length) = (be16(header, 0)?, usize::from(be16(header, 2)?));
    if kind != BINDING_SUCCESS || header[4..8] != MAGIC || header[8..] != id {
        return None;
    }
    let mut rest = body.get(..length)?;
    while rest.len() >= 4 {
        let (attribute, length) = (be16(rest, 0)?, usize::from(be16(rest, 2)?));
        let value = rest.get(4..4 + length)?;
        if attribute == XOR_MAPPED_ADDRESS {
            return unmask(value, id);
        }
        // Attributes are padded to four octets.
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
    None
}

fn unmask(value: &[u8], id: [u8; 12]) -> Option<SocketAddr> {
    let port = be16(value, 2)? ^ u16::from_be_bytes([MAGIC[0], MAGIC[1]]);
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC);
    mask[4..].copy_from_slice(&id);
    let ip: IpAddr = match (*value.get(1)?, value.get(4..)?) {
        (1, octets) => {
            let octets: [u8; 4] = octets.try_into().ok()?;
            Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| octets[i] ^ mask[i])).into()
        }
        (2, octets) => {
            let octets: [u8; 16] = octets.try_into().ok()?;
            Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| octets[i] ^ mask[i])).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A server that loses the first requests and answers those after from what it sees.
    pub(crate) async fn server(loses: usize) -> SocketAddr {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            for n in 0.. {
                let (_, peer) = server.recv_from(&mut buffer).await.unwrap();
                let SocketAddr::V4(v4) = peer else { panic!("IPv4") };
                let mut packet = vec![0x01, 0x01, 0x00, 0x0c];
                packet.extend(&buffer[4..20]);
                packet.extend([0x00, 0x20, 0x00, 0x08, 0x00, 0x01]);
                packet.extend((v4.port() ^ 0x2112).to_be_bytes());
                packet.extend(v4.ip().octets().iter().zip(MAGIC).map(|(a, b)| a ^ b));
                if n >= loses {
                    server.send_to(&packet, peer).await.unwrap();
                }
            }
        });
        address
    }

    const ID: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    /// The response of RFC 5769 section 2.2 (IPv4), without its integrity attributes.
    fn response() -> Vec<u8> {
        let mut packet = vec![0x01, 0x01, 0x00, 0x1c];
        packet.extend(MAGIC);
        packet.extend(ID);
        packet.extend([0x80, 0x22, 0x00, 0x0b]);
        packet.extend(b"test vector ");
        packet.extend([0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        packet
    }

    #[test]
    fn the_rfc_s_own_response_is_read() {
        assert_eq!(answer(&response(), ID), Some("192.0.2.1:32853".parse().unwrap()));
    }

    #[test]
    fn another_transaction_and_every_cut_are_refused() {
        assert_eq!(answer(&response(), [0; 12]), None);
        for length in 0..response().len() {
            assert_eq!(answer(&response()[..length], ID), None, "cut at {length}");
        }
        let mut endless = response();
        endless[22..24].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(answer(&endless, ID), None);
    }

    #[tokio::test]
    async fn a_lost_request_is_sent_again() {
        let address = server(1).await.to_string();
        let seen = mapped(&address, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert!(seen.ip().is_loopback() && seen.port() != 0, "{seen}");
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_by_name() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        let begun = Instant::now();
        let error = mapped(&address, "127.0.0.1:0".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
        assert!(begun.elapsed() < PATIENCE + Duration::from_secs(1));
    }
}
