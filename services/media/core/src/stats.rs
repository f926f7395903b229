//! What arrived, what is missing, how unevenly it came: RFC 3550 appendix A.1 (without its probation, which is the
//! latch's), A.3 and A.8.

use trunkline_types::Timestamp;

use crate::samples_in_micros;

/// A jump of this many packets is taken for a restart of the sender, not for loss (A.1: MAX_DROPOUT).
const MAX_DROPOUT: u16 = 3_000;

/// Statistics of everything one endpoint heard; a change of the source's SSRC begins a new stream within.
#[derive(Clone, Debug, Default)]
pub struct ReceiveStats {
    stream: Option<Stream>,
    /// Totals of streams that ended.
    past_received: u64,
    past_expected: u64,
    max_jitter: u32,
}

#[derive(Clone, Debug)]
struct Stream {
    ssrc: u32,
    base: u32,
    highest: u32,
    received: u64,
    transit: Option<i64>,
    /// Jitter in samples × 16 (A.8's integer form).
    jitter_16: u32,
    prior_expected: u64,
    prior_received: u64,
}

/// One RFC 3550 report block's worth of reception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The stream it is about.
    pub ssrc: u32,
    /// Lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the beginning, at most 2^23 − 1.
    pub cumulative_lost: u32,
    /// Highest sequence number with its cycles.
    pub extended_highest: u32,
    /// In samples.
    pub jitter: u32,
}

impl Stream {
    fn new(ssrc: u32, sequence: u16) -> Self {
        let base = u32::from(sequence);
        Self {
            ssrc,
            base,
            highest: base,
            received: 0,
            transit: None,
            jitter_16: 0,
            prior_expected: 0,
            prior_received: 0,
        }
    }

    fn expected(&self) -> u64 {
        u64::from(self.highest.wrapping_sub(self.base)) + 1
    }
}

impl ReceiveStats {
    /// Counts one packet of an accepted source. `timestamp` is `None` for packets whose timestamp stands still
    /// (telephone events): they count for loss, not for jitter.
    #[inline]
    pub fn packet(&mut self, now: Timestamp, ssrc: u32, sequence: u16, timestamp: Option<u32>) {
        let same = self.stream.as_ref().is_some_and(|s| {
            let ahead = sequence.wrapping_sub(s.highest as u16);
            s.ssrc == ssrc && !(MAX_DROPOUT..=u16::MAX - MAX_DROPOUT).contains(&ahead)
        });
        if !same {
            self.close_stream();
            self.stream = Some(Stream::new(ssrc, sequence));
        }
        let Some(stream) = &mut self.stream else { return };
        stream.received += 1;
        let ahead = sequence.wrapping_sub(stream.highest as u16);
        if ahead < MAX_DROPOUT {
            stream.highest = stream.highest.wrapping_add(u32::from(ahead));
        } else if u32::from(sequence.wrapping_sub(stream.base as u16)) > u32::from(u16::MAX - MAX_DROPOUT)
            && stream.highest.wrapping_sub(stream.base) < u32::from(MAX_DROPOUT)
        {
            // Older than the first one that was seen: the stream began before it.
            stream.base = stream.base.wrapping_sub(u32::from((stream.base as u16).wrapping_sub(sequence)));
        }
        if let Some(timestamp) = timestamp {
            let arrival = samples_in_micros(now.as_micros()) as i64;
            let transit = i64::from((arrival as u32).wrapping_sub(timestamp) as i32);
            if let Some(last) = stream.transit {
                // A jump of the sender's clock (a program switch at its side) is not jitter.
                let difference = (transit - last).unsigned_abs() as u32;
                if difference < crate::SAMPLE_RATE_HZ {
                    stream.jitter_16 =
                        (stream.jitter_16 + difference).saturating_sub((stream.jitter_16 + 8) >> 4);
                    self.max_jitter = self.max_jitter.max(stream.jitter_16 >> 4);
                }
            }
            stream.transit = Some(transit);
        }
    }

    fn close_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.past_received += stream.received;
            self.past_expected += stream.expected();
        }
    }

    /// Packets received, duplicates included.
    pub fn received(&self) -> u64 {
        self.past_received + self.stream.as_ref().map_or(0, |s| s.received)
    }

    /// Packets that should have been received.
    pub fn expected(&self) -> u64 {
        self.past_expected + self.stream.as_ref().map_or(0, Stream::expected)
    }

    /// Packets lost; duplicates hide loss, as in RFC 3550.
    pub fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received())
    }

    /// Share of packets lost, 0 to 100.
    pub fn loss_percent(&self) -> f64 {
        percent(self.lost(), self.expected())
    }

    /// Interarrival jitter now, in milliseconds.
    pub fn jitter_ms(&self) -> f64 {
        self.stream.as_ref().map_or(0.0, |s| f64::from(s.jitter_16 >> 4) / 8.0)
    }

    /// The highest it was, in milliseconds.
    pub fn max_jitter_ms(&self) -> f64 {
        f64::from(self.max_jitter) / 8.0
    }

    /// The report block for the next RTCP packet; begins the next interval. `None` before the first packet.
    pub fn report(&mut self) -> Option<Report> {
        let stream = self.stream.as_mut()?;
        let expected = stream.expected();
        let expected_interval = expected.saturating_sub(stream.prior_expected);
        let received_interval = stream.received.saturating_sub(stream.prior_received);
        let lost_interval = expected_interval.saturating_sub(received_interval);
        stream.prior_expected = expected;
        stream.prior_received = stream.received;
        let fraction = (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255);
        Some(Report {
            ssrc: stream.ssrc,
            fraction_lost: fraction as u8,
            cumulative_lost: expected.saturating_sub(stream.received).min(0x7f_ffff) as u32,
            extended_highest: stream.highest,
            jitter: stream.jitter_16 >> 4,
        })
    }
}

/// `part` of `whole` in percent; 0 of nothing is 0.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Reception within a span, from two readings of [`ReceiveStats`]: the MOS of "the last ten seconds".
#[derive(Clone, Copy, Debug, Default)]
pub struct Interval {
    received: u64,
    expected: u64,
}

impl Interval {
    /// Loss in percent since the last call, and the number of packets expected in that span.
    pub fn step(&mut self, stats: &ReceiveStats) -> (f64, u64) {
        let (received, expected) = (stats.received(), stats.expected());
        let span = expected.saturating_sub(self.expected);
        let got = received.saturating_sub(self.received);
        *self = Self { received, expected };
        (percent(span.saturating_sub(got), span), span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000 + ms)
    }

    #[test]
    fn loss_is_counted_across_the_wrap_of_the_sequence() {
        let mut stats = ReceiveStats::default();
        for n in 0u32..1_000 {
            if n % 10 != 3 {
                stats.packet(at(i64::from(n) * 20), 1, (65_000 + n) as u16, Some(n * 160));
            }
        }
        assert_eq!((stats.received(), stats.expected(), stats.lost()), (900, 1_000, 100));
        assert!(stats.jitter_ms() < 0.2);
        let report = stats.report().unwrap();
        assert_eq!((report.fraction_lost, report.cumulative_lost), (25, 100));
        assert_eq!(stats.report().unwrap().fraction_lost, 0);
    }

    #[test]
    fn uneven_arrival_is_jitter_and_a_new_ssrc_is_not_loss() {
        let mut stats = ReceiveStats::default();
        for n in 0u32..200 {
            let late = if n % 2 == 0 { 0 } else { 10 };
            stats.packet(at(i64::from(n) * 20 + late), 1, n as u16, Some(n * 160));
        }
        assert!((8.0..=10.5).contains(&stats.jitter_ms()), "{}", stats.jitter_ms());
        stats.packet(at(5_000), 2, 40_000, Some(7));
        assert_eq!((stats.received(), stats.lost()), (201, 0));
    }

    #[test]
    fn reordering_and_duplicates_do_no_harm() {
        let mut stats = ReceiveStats::default();
        for n in [5u16, 7, 6, 6, 9, 8, 4] {
            stats.packet(at(i64::from(n) * 20), 1, n, None);
        }
        assert_eq!((stats.expected(), stats.received(), stats.lost()), (6, 7, 0));
    }
}
