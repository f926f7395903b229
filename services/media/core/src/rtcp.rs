//! RTCP: sender and receiver reports out, the other side's view in (RFC 3550 section 6).

use std::time::Duration;

use rtcp_types::{
    Bye, Compound, ReceiverReport, ReportBlock, RtcpPacketWriterExt, Sdes, SdesChunk, SdesItem, SenderReport,
};
use trunkline_types::Timestamp;

use crate::outbound::Outbound;
use crate::stats::{ReceiveStats, Report};

/// Seconds from 1900 to 1970.
const NTP_EPOCH: u64 = 2_208_988_800;
/// Enough for SR, SDES with a name of 64 and BYE.
pub const MAX_BYTES: usize = 256;

/// A report without news (nothing was sent or received since the last one: somebody was put on hold) is for a NAT's binding
/// and for not being taken for gone, which happens after five periods of at least 5 s (RFC 3550 section 6.3.5).
const QUIET_PERIOD: Duration = Duration::from_secs(15);

/// What the last report told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reported {
    sent: u32,
    received: u64,
    at: Timestamp,
}

impl Reported {
    /// Whether a report with these numbers of packets is worth its own packet; if so, it counts as told.
    pub fn is_due(&mut self, now: Timestamp, sent: u32, received: u64) -> bool {
        let is_news = (sent, received) != (self.sent, self.received);
        let is_due = is_news || now.since(self.at) >= QUIET_PERIOD;
        if is_due {
            *self = Self { sent, received, at: now };
        }
        is_due
    }
}

/// What the other side tells about how it hears us.
#[derive(Clone, Debug, Default)]
pub struct RemoteView {
    last_sr: Option<(u32, Timestamp)>,
    loss_percent: Option<f64>,
    rtt_ms: Option<f64>,
}

impl RemoteView {
    /// Loss in percent in its last report.
    pub fn loss_percent(&self) -> Option<f64> {
        self.loss_percent
    }

    /// Round-trip time by its last report.
    pub fn rtt_ms(&self) -> Option<f64> {
        self.rtt_ms
    }

    /// Takes these from a stack that has its own RTCP.
    pub fn set(&mut self, loss_percent: Option<f64>, rtt_ms: Option<f64>) {
        self.loss_percent = loss_percent.or(self.loss_percent);
        self.rtt_ms = rtt_ms.or(self.rtt_ms);
    }

    /// Reads a compound packet; malformed parts are passed over. `true`: the other side said BYE.
    pub fn read(&mut self, now: Timestamp, datagram: &[u8], our_ssrc: u32) -> bool {
        let Ok(compound) = Compound::parse(datagram) else { return false };
        let mut bye = false;
        for packet in compound.flatten() {
            match packet {
                rtcp_types::Packet::Sr(sr) => {
                    self.last_sr = Some(((sr.ntp_timestamp() >> 16) as u32, now));
                    self.blocks(now, sr.report_blocks(), our_ssrc);
                }
                rtcp_types::Packet::Rr(rr) => self.blocks(now, rr.report_blocks(), our_ssrc),
                rtcp_types::Packet::Bye(_) => bye = true,
                _ => {}
            }
        }
        bye
    }

    fn blocks<'a>(&mut self, now: Timestamp, blocks: impl Iterator<Item = ReportBlock<'a>>, our_ssrc: u32) {
        for block in blocks.filter(|b| b.ssrc() == our_ssrc) {
            self.loss_percent = Some(f64::from(block.fraction_lost()) * 100.0 / 256.0);
            let (last, delay) =
                (block.last_sender_report_timestamp(), block.delay_since_last_sender_report_timestamp());
            if last != 0 {
                // RFC 3550 section 6.4.1: A − LSR − DLSR, in 1/65536 s.
                let rtt = ((ntp(now) >> 16) as u32).wrapping_sub(last).wrapping_sub(delay) as i32;
                if rtt >= 0 {
                    self.rtt_ms = Some(f64::from(rtt) * 1_000.0 / 65_536.0);
                }
            }
        }
    }
}

/// The 64-bit NTP time of `now`.
pub fn ntp(now: Timestamp) -> u64 {
    let micros = u64::try_from(now.as_micros()).unwrap_or(0);
    let fraction = ((micros % 1_000_000) << 32) / 1_000_000;
    ((micros / 1_000_000 + NTP_EPOCH) << 32) | fraction
}

/// Writes the report that is due (a sender report once something was sent) with the name of the source, and BYE when
/// `bye`. Gives the bytes used; 0 when it does not fit `out` (it fits [`MAX_BYTES`]).
pub fn write(
    now: Timestamp,
    outbound: &Outbound,
    stats: &mut ReceiveStats,
    remote: &RemoteView,
    cname: &str,
    bye: bool,
    out: &mut [u8],
) -> usize {
    let block = stats.report().map(|report| block(now, &report, remote));
    let item = SdesItem::builder(SdesItem::CNAME, cname);
    let sdes = Sdes::builder().add_chunk(SdesChunk::builder(outbound.ssrc()).add_item(item));
    let mut compound = Compound::builder();
    if let Some(timestamp) = outbound.timestamp_at(now) {
        let (packets, octets) = outbound.sent();
        let mut sr = SenderReport::builder(outbound.ssrc())
            .ntp_timestamp(ntp(now))
            .rtp_timestamp(timestamp)
            .packet_count(packets)
            .octet_count(octets);
        if let Some(block) = block {
            sr = sr.add_report_block(block);
        }
        compound = compound.add_packet(sr);
    } else {
        let mut rr = ReceiverReport::builder(outbound.ssrc());
        if let Some(block) = block {
            rr = rr.add_report_block(block);
        }
        compound = compound.add_packet(rr);
    }
    compound = compound.add_packet(sdes);
    if bye {
        compound = compound.add_packet(Bye::builder().add_source(outbound.ssrc()));
    }
    compound.write_into(out).unwrap_or(0)
}

fn block(now: Timestamp, report: &Report, remote: &RemoteView) -> rtcp_types::ReportBlockBuilder {
    let (last, delay) = remote.last_sr.map_or((0, 0), |(ntp_middle, at)| {
        let delay = now.since(at).as_micros() * 65_536 / 1_000_000;
        (ntp_middle, u32::try_from(delay).unwrap_or(u32::MAX))
    });
    ReportBlock::builder(report.ssrc)
        .fraction_lost(report.fraction_lost)
        .cumulative_lost(report.cumulative_lost)
        .extended_sequence_number(report.extended_highest)
        .interarrival_jitter(report.jitter)
        .last_sender_report_timestamp(last)
        .delay_since_last_sender_report_timestamp(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 5 s with news, every 15 s without, and at once when audio goes on.
    #[test]
    fn reports_without_news_are_fewer() {
        let at = |s: u64| Timestamp::from_micros(1_000_000_000).plus(Duration::from_secs(s));
        let mut reported = Reported::default();
        let mut due = |s, sent, received| reported.is_due(at(s), sent, received);
        assert!(due(0, 0, 0), "the first one opens the way");
        assert_eq!([5, 10, 15, 20, 25, 30].map(|s| due(s, 0, 0)), [false, false, true, false, false, true]);
        assert_eq!([due(35, 1, 0), due(40, 1, 1), due(45, 1, 1)], [true, true, false]);
    }

    #[test]
    fn two_sides_measure_the_round_trip_and_the_loss() {
        let t = |ms: i64| Timestamp::from_millis(1_795_000_000_000 + ms);
        let (mut a, mut b) = (Outbound::new(1), Outbound::new(2));
        let (mut a_heard, mut b_heard) = (ReceiveStats::default(), ReceiveStats::default());
        let (mut a_view, mut b_view) = (RemoteView::default(), RemoteView::default());
        for n in 0..100i64 {
            let p = a.generated(t(n * 20), 160);
            if n % 4 != 0 {
                b_heard.packet(t(n * 20 + 30), a.ssrc(), p.sequence as u16, Some(p.timestamp));
            }
            b.generated(t(n * 20), 160);
        }
        let mut buffer = [0; MAX_BYTES];
        let n = write(t(2_000), &a, &mut a_heard, &a_view, "a@node", false, &mut buffer);
        assert!(n > 0 && !b_view.read(t(2_030), &buffer[..n], b.ssrc()));
        let n = write(t(2_530), &b, &mut b_heard, &b_view, "b@node", true, &mut buffer);
        assert!(a_view.read(t(2_560), &buffer[..n], a.ssrc()), "BYE is seen");
        assert!((a_view.rtt_ms().unwrap() - 60.0).abs() < 1.0, "{:?}", a_view.rtt_ms());
        assert!((a_view.loss_percent().unwrap() - 25.0).abs() < 2.0, "{:?}", a_view.loss_percent());
    }

    #[test]
    fn noise_is_passed_over() {
        let mut view = RemoteView::default();
        assert!(!view.read(Timestamp::ZERO, &[0x80, 200, 0, 50, 1, 2], 1));
        assert!(!view.read(Timestamp::ZERO, &[], 1));
    }
}
