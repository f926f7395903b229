//! RTCP as the JSON that captagent and heplify send and Homer reads: what a sender tells of itself, and its report blocks.

use std::fmt::Write;

use rtcp_types::{Compound, Packet, ReportBlock};

/// The first report in `datagram`; `None` when there is none in it.
pub(super) fn json(datagram: &[u8]) -> Option<String> {
    let compound = Compound::parse(datagram).ok()?;
    for packet in compound.flatten() {
        let mut out = String::with_capacity(512);
        match packet {
            Packet::Sr(sr) => {
                let ntp = sr.ntp_timestamp();
                // Both parts as they are on the wire: the second in units of 2⁻³² s, whatever its name says.
                write!(
                    out,
                    "{{\"sender_information\":{{\"ntp_timestamp_sec\":{},\"ntp_timestamp_usec\":{},\
                     \"rtp_timestamp\":{},\"packets\":{},\"octets\":{}}},",
                    ntp >> 32,
                    ntp & 0xffff_ffff,
                    sr.rtp_timestamp(),
                    sr.packet_count(),
                    sr.octet_count(),
                )
                .ok()?;
                report(&mut out, sr.ssrc(), 200, sr.report_blocks())?;
            }
            Packet::Rr(rr) => {
                out.push('{');
                report(&mut out, rr.ssrc(), 201, rr.report_blocks())?;
            }
            _ => continue,
        }
        return Some(out);
    }
    None
}

fn report<'a>(
    out: &mut String,
    ssrc: u32,
    kind: u8,
    blocks: impl Iterator<Item = ReportBlock<'a>>,
) -> Option<()> {
    let blocks: Vec<ReportBlock<'a>> = blocks.collect();
    write!(out, "\"ssrc\":{ssrc},\"type\":{kind},\"report_count\":{},\"report_blocks\":[", blocks.len())
        .ok()?;
    for (n, block) in blocks.iter().enumerate() {
        write!(
            out,
            "{}{{\"source_ssrc\":{},\"fraction_lost\":{},\"packets_lost\":{},\"highest_seq_no\":{},\
             \"ia_jitter\":{},\"lsr\":{},\"dlsr\":{}}}",
            if n > 0 { "," } else { "" },
            block.ssrc(),
            block.fraction_lost(),
            block.cumulative_lost(),
            block.extended_sequence_number(),
            block.interarrival_jitter(),
            block.last_sender_report_timestamp(),
            block.delay_since_last_sender_report_timestamp(),
        )
        .ok()?;
    }
    out.push_str("]}");
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    /// A sender report with one block, by RFC 3550 section 6.4.1.
    #[rustfmt::skip]
    pub(crate) const SENDER_REPORT: [u8; 52] = [
        0x81, 200, 0, 12,
        0, 0, 0, 1,
        0xe8, 0, 0, 2,  0x80, 0, 0, 0,
        0, 0, 0, 3,
        0, 0, 0, 4,
        0, 0, 0, 5,
        0, 0, 0, 6,
        64, 0, 0, 7,
        0, 1, 0, 8,
        0, 0, 0, 9,
        0, 0, 0, 10,
        0, 0, 0, 11,
    ];

    #[test]
    fn a_sender_report_has_the_keys_that_homer_reads() {
        let read: Value = serde_json::from_str(&super::json(&SENDER_REPORT).unwrap()).unwrap();
        let wanted = json!({
            "sender_information": {
                "ntp_timestamp_sec": 0xe800_0002_u32, "ntp_timestamp_usec": 0x8000_0000_u32,
                "rtp_timestamp": 3, "packets": 4, "octets": 5,
            },
            "ssrc": 1, "type": 200, "report_count": 1,
            "report_blocks": [{
                "source_ssrc": 6, "fraction_lost": 64, "packets_lost": 7, "highest_seq_no": 65_544,
                "ia_jitter": 9, "lsr": 10, "dlsr": 11,
            }],
        });
        assert_eq!(read, wanted);
    }

    #[test]
    fn a_receiver_report_without_blocks_is_one_and_noise_is_not() {
        let read: Value =
            serde_json::from_str(&super::json(&[0x80, 201, 0, 1, 0, 0, 0, 1]).unwrap()).unwrap();
        assert_eq!(read, json!({ "ssrc": 1, "type": 201, "report_count": 0, "report_blocks": [] }));
        for noise in [&[][..], &[0x80, 200, 0, 50, 1, 2], b"not a report"] {
            assert_eq!(super::json(noise), None);
        }
    }
}
