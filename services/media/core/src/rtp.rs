//! RTP headers: read from what came, written over what goes out.

use rtp_rs::RtpReader;

/// Length of the header this room writes: no contributing sources, no extension.
pub const HEADER_BYTES: usize = 12;

/// The fields of a received RTP packet and where its payload lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Payload type, 0 to 127.
    pub payload_type: u8,
    /// Marker: beginning of a talk spurt or of an event.
    pub marker: bool,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp in samples.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// First payload byte in the datagram; at least [`HEADER_BYTES`].
    pub payload_offset: usize,
    /// Payload bytes without padding.
    pub payload_len: usize,
}

/// What a datagram on an RTP port is, told from its first two bytes (RFC 7983 and 5761 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// RTP.
    Rtp,
    /// RTCP.
    Rtcp,
    /// Something else (STUN, DTLS, noise).
    Other,
}

/// Classifies a datagram without parsing it.
#[inline]
pub fn kind(datagram: &[u8]) -> Kind {
    match datagram {
        [first, second, ..] if first >> 6 == 2 => {
            if (192..=223).contains(second) {
                Kind::Rtcp
            } else {
                Kind::Rtp
            }
        }
        _ => Kind::Other,
    }
}

impl Header {
    /// Reads a packet; `None` for anything that is not whole RTP version 2.
    #[inline]
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let reader = RtpReader::new(datagram).ok()?;
        let payload_offset = reader.payload_offset();
        let padding = usize::from(reader.padding().unwrap_or(0));
        let payload_len = datagram.len().checked_sub(payload_offset)?.checked_sub(padding)?;
        Some(Self {
            payload_type: reader.payload_type(),
            marker: reader.mark(),
            sequence: reader.sequence_number().into(),
            timestamp: reader.timestamp(),
            ssrc: reader.ssrc(),
            payload_offset,
            payload_len,
        })
    }
}

/// Writes a plain header into the first [`HEADER_BYTES`] of `out`.
#[inline]
pub fn write_header(
    out: &mut [u8; HEADER_BYTES],
    payload_type: u8,
    marker: bool,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
) {
    out[0] = 0x80;
    out[1] = (payload_type & 0x7f) | if marker { 0x80 } else { 0 };
    out[2..4].copy_from_slice(&sequence.to_be_bytes());
    out[4..8].copy_from_slice(&timestamp.to_be_bytes());
    out[8..12].copy_from_slice(&ssrc.to_be_bytes());
}

/// Puts a fresh header directly before the payload of a received packet and gives the datagram to send: contributing
/// sources, extensions and padding of the source are left behind. `None` if `header` does not belong to `datagram`.
#[inline]
pub fn rewrite<'a>(
    datagram: &'a mut [u8],
    header: &Header,
    payload_type: u8,
    marker: bool,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
) -> Option<&'a [u8]> {
    let start = header.payload_offset.checked_sub(HEADER_BYTES)?;
    let packet = datagram.get_mut(start..header.payload_offset + header.payload_len)?;
    let (head, _) = packet.split_first_chunk_mut::<HEADER_BYTES>()?;
    write_header(head, payload_type, marker, sequence, timestamp, ssrc);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn extension_sources_and_padding_are_left_behind() {
        let mut packet = vec![0xb1, 0x80, 0, 7, 0, 0, 0, 9, 0, 0, 0, 1];
        packet.extend([0, 0, 0, 5]); // one contributing source
        packet.extend([0xbe, 0xde, 0, 1, 1, 2, 3, 4]); // one extension word
        packet.extend([0xaa; 10]);
        packet.extend([0, 0, 3]); // padding
        let header = Header::read(&packet).unwrap();
        assert_eq!(
            (header.payload_offset, header.payload_len, header.sequence, header.marker),
            (24, 10, 7, true)
        );
        let sent = rewrite(&mut packet, &header, 8, false, 99, 1_000, 77).unwrap().to_vec();
        let again = Header::read(&sent).unwrap();
        assert_eq!((again.payload_type, again.sequence, again.timestamp, again.ssrc), (8, 99, 1_000, 77));
        assert_eq!((sent.len(), &sent[12..]), (22, &[0xaa; 10][..]));
    }

    #[test]
    fn rtcp_stun_and_dtls_are_told_apart() {
        assert_eq!(kind(&[0x80, 200, 0, 0]), Kind::Rtcp);
        assert_eq!(kind(&[0x80, 0x80, 0, 0]), Kind::Rtp);
        assert_eq!(kind(&[0x00, 0x01]), Kind::Other);
        assert_eq!(kind(&[22, 254]), Kind::Other);
        assert_eq!(kind(&[0x80]), Kind::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(header) = Header::read(&bytes) {
                let mut copy = bytes.clone();
                prop_assert!(header.payload_offset + header.payload_len <= bytes.len());
                prop_assert!(rewrite(&mut copy, &header, 0, false, 0, 0, 0).is_some());
            }
        }
    }
}
