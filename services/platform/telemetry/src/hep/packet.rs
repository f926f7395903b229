//! HEP version 3, as Homer, heplify-server and captagent write and read it: "HEP3", the length of the whole, then chunks,
//! each with vendor, type, its own length (these six bytes included) and value; big-endian.

use std::net::{IpAddr, SocketAddr};

use trunkline_types::Timestamp;

const MAGIC: &[u8; 4] = b"HEP3";
/// Magic and length.
const HEAD_BYTES: usize = 6;
const CHUNK_HEAD_BYTES: usize = 6;
/// Of all chunks here: the generic ones.
const VENDOR: u16 = 0;

/// The types of chunks.
mod chunk {
    pub(super) const FAMILY: u16 = 0x0001;
    pub(super) const PROTOCOL: u16 = 0x0002;
    pub(super) const SOURCE_V4: u16 = 0x0003;
    pub(super) const DESTINATION_V4: u16 = 0x0004;
    pub(super) const SOURCE_V6: u16 = 0x0005;
    pub(super) const DESTINATION_V6: u16 = 0x0006;
    pub(super) const SOURCE_PORT: u16 = 0x0007;
    pub(super) const DESTINATION_PORT: u16 = 0x0008;
    pub(super) const SECONDS: u16 = 0x0009;
    pub(super) const MICROSECONDS: u16 = 0x000a;
    pub(super) const KIND: u16 = 0x000b;
    pub(super) const CAPTURE_ID: u16 = 0x000c;
    pub(super) const AUTH_KEY: u16 = 0x000e;
    pub(super) const PAYLOAD: u16 = 0x000f;
    pub(super) const CORRELATION: u16 = 0x0011;
}

/// How the captured message travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// From where to where a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who sent it.
    pub source: SocketAddr,
    /// Who received it.
    pub destination: SocketAddr,
    /// How.
    pub carrier: Carrier,
}

/// What the payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A SIP message as on the wire.
    Sip,
    /// An RTCP report as JSON.
    Rtcp,
}

/// One captured message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) flow: Flow,
    pub(super) at: Timestamp,
    pub(super) kind: Kind,
    pub(super) capture_id: u32,
    pub(super) auth_key: Option<&'a [u8]>,
    /// Which call it belongs to.
    pub(super) correlation: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
}

/// Its length does not fit the two bytes that the format has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Packet<'_> {
    /// Appends it to `out`; when it is too large, `out` is as it was.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let start = out.len();
        let written = self.append(out, start);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn append(&self, out: &mut Vec<u8>, start: usize) -> Result<(), TooLarge> {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0, 0]);
        self.addresses(out)?;
        let micros = self.at.as_micros().max(0).unsigned_abs();
        // Seconds are 32 bits in the format: enough until 2106.
        let seconds = u32::try_from(micros / 1_000_000).unwrap_or(u32::MAX);
        put(out, chunk::SECONDS, &seconds.to_be_bytes())?;
        put(out, chunk::MICROSECONDS, &((micros % 1_000_000) as u32).to_be_bytes())?;
        let kind = match self.kind {
            Kind::Sip => 1,
            Kind::Rtcp => 5,
        };
        put(out, chunk::KIND, &[kind])?;
        put(out, chunk::CAPTURE_ID, &self.capture_id.to_be_bytes())?;
        if let Some(key) = self.auth_key {
            put(out, chunk::AUTH_KEY, key)?;
        }
        if let Some(correlation) = self.correlation {
            put(out, chunk::CORRELATION, correlation)?;
        }
        put(out, chunk::PAYLOAD, self.payload)?;
        let length = u16::try_from(out.len() - start).map_err(|_| TooLarge)?;
        if let Some(place) = out.get_mut(start + MAGIC.len()..start + HEAD_BYTES) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    fn addresses(&self, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let protocol = match self.flow.carrier {
            Carrier::Udp => 17,
            Carrier::Tcp => 6,
        };
        // A socket for both families writes addresses of IPv4 as those of IPv6.
        let (source, destination) =
            (self.flow.source.ip().to_canonical(), self.flow.destination.ip().to_canonical());
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                put(out, chunk::FAMILY, &[2])?;
                put(out, chunk::PROTOCOL, &[protocol])?;
                put(out, chunk::SOURCE_V4, &source.octets())?;
                put(out, chunk::DESTINATION_V4, &destination.octets())?;
            }
            (source, destination) => {
                put(out, chunk::FAMILY, &[10])?;
                put(out, chunk::PROTOCOL, &[protocol])?;
                put(out, chunk::SOURCE_V6, &v6(source))?;
                put(out, chunk::DESTINATION_V6, &v6(destination))?;
            }
        }
        put(out, chunk::SOURCE_PORT, &self.flow.source.port().to_be_bytes())?;
        put(out, chunk::DESTINATION_PORT, &self.flow.destination.port().to_be_bytes())
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) -> Result<(), TooLarge> {
    let length = u16::try_from(value.len() + CHUNK_HEAD_BYTES).map_err(|_| TooLarge)?;
    out.extend_from_slice(&VENDOR.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The chunks of one packet by their type, read by the format and nothing of the writer, and what comes after it.
    pub(crate) fn read(bytes: &[u8]) -> (BTreeMap<u16, Vec<u8>>, &[u8]) {
        assert_eq!(&bytes[..4], b"HEP3");
        let two = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (end, mut at, mut chunks) = (usize::from(two(4)), 6, BTreeMap::new());
        while at < end {
            let (vendor, kind, length) = (two(at), two(at + 2), usize::from(two(at + 4)));
            assert!(vendor == 0 && length >= 6 && at + length <= end, "{vendor} {kind} {length} at {at}");
            let twice = chunks.insert(kind, bytes[at + 6..at + length].to_vec());
            assert_eq!(twice, None, "chunk {kind} twice");
            at += length;
        }
        assert_eq!(at, end);
        (chunks, &bytes[end..])
    }

    fn packet(source: &str, destination: &str) -> Packet<'static> {
        Packet {
            flow: Flow {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                carrier: Carrier::Udp,
            },
            at: Timestamp::from_micros(1_700_000_000_000_007),
            kind: Kind::Sip,
            capture_id: 2_001,
            auth_key: Some(b"key"),
            correlation: Some(b"c@x"),
            payload: b"SIP",
        }
    }

    #[test]
    fn a_packet_has_the_bytes_of_the_published_format() {
        let mut out = Vec::new();
        packet("192.0.2.1:5060", "198.51.100.2:5080").write(&mut out).unwrap();
        #[rustfmt::skip]
        let by_hand: &[u8] = &[
            b'H', b'E', b'P', b'3', 0x00, 0x78,
            0x00, 0x00, 0x00, 0x01, 0x00, 0x07, 0x02,
            0x00, 0x00, 0x00, 0x02, 0x00, 0x07, 0x11,
            0x00, 0x00, 0x00, 0x03, 0x00, 0x0a, 192, 0, 2, 1,
            0x00, 0x00, 0x00, 0x04, 0x00, 0x0a, 198, 51, 100, 2,
            0x00, 0x00, 0x00, 0x07, 0x00, 0x08, 0x13, 0xc4,
            0x00, 0x00, 0x00, 0x08, 0x00, 0x08, 0x13, 0xd8,
            0x00, 0x00, 0x00, 0x09, 0x00, 0x0a, 0x65, 0x53, 0xf1, 0x00,
            0x00, 0x00, 0x00, 0x0a, 0x00, 0x0a, 0x00, 0x00, 0x00, 0x07,
            0x00, 0x00, 0x00, 0x0b, 0x00, 0x07, 0x01,
            0x00, 0x00, 0x00, 0x0c, 0x00, 0x0a, 0x00, 0x00, 0x07, 0xd1,
            0x00, 0x00, 0x00, 0x0e, 0x00, 0x09, b'k', b'e', b'y',
            0x00, 0x00, 0x00, 0x11, 0x00, 0x09, b'c', b'@', b'x',
            0x00, 0x00, 0x00, 0x0f, 0x00, 0x09, b'S', b'I', b'P',
        ];
        assert_eq!(out, by_hand);
    }

    #[test]
    fn addresses_of_both_families_and_mapped_ones_are_told() {
        let mut out = Vec::new();
        let plain = Packet { auth_key: None, correlation: None, ..packet("[2001:db8::1]:1", "[::1]:2") };
        let rtcp = Packet { flow: Flow { carrier: Carrier::Tcp, ..plain.flow }, kind: Kind::Rtcp, ..plain };
        rtcp.write(&mut out).unwrap();
        packet("[::ffff:192.0.2.1]:1", "192.0.2.2:2").write(&mut out).unwrap();
        let (first, rest) = read(&out);
        assert_eq!((&first[&1][..], &first[&2][..], &first[&11][..]), (&[10][..], &[6][..], &[5][..]));
        assert_eq!((first[&5][..4].to_vec(), first[&6][15]), (vec![0x20, 0x01, 0x0d, 0xb8], 1));
        assert!(!first.contains_key(&14) && !first.contains_key(&17) && !first.contains_key(&3));
        let (second, rest) = read(rest);
        assert_eq!((&second[&1][..], &second[&3][..]), (&[2][..], &[192, 0, 2, 1][..]));
        assert!(rest.is_empty());
    }

    #[test]
    fn what_the_format_has_no_room_for_is_refused_and_leaves_nothing() {
        let mut out = b"before".to_vec();
        for length in [65_500, 65_535, 70_000] {
            let large = vec![b'x'; length];
            let packet = Packet { payload: &large, ..packet("192.0.2.1:1", "192.0.2.2:2") };
            assert_eq!(packet.write(&mut out), Err(TooLarge), "{length}");
            assert_eq!(out, b"before");
        }
    }
}
