//! The RTP stream towards one listener: one SSRC, sequence numbers without a jump and timestamps that follow the clock,
//! whatever is heard: music, prompts, digits, or another party whose own numbering shines through (so that its losses
//! and its order stay visible to the listener's jitter buffer).

use trunkline_types::Timestamp;

use crate::samples_in_micros;

/// A jump of the source beyond this many packets is a restart of the source.
const MAX_STEP: i64 = 3_000;
/// A generated frame that is later than this against the last one gets its timestamp from the clock.
const MAX_LATE_SAMPLES: u64 = 3 * 160;

/// Numbers for one packet to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Extended sequence number; the low 16 bits are for the header. Starts below 32,768.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Marker: the first packet after a change of source.
    pub marker: bool,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    None,
    Generated,
    Relayed { ssrc: u32, highest_in: u16, highest_out: u64, first_out: u64, timestamp_offset: u32 },
    Event { timestamp: u32, started: Timestamp },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Outbound {
    ssrc: u32,
    next: u64,
    timestamp: u32,
    samples: u32,
    at: Option<Timestamp>,
    source: Source,
    packets: u32,
    octets: u32,
}

impl Outbound {
    /// `seed` must be random: it gives the SSRC and the first sequence number and timestamp (RFC 3550 section 5.1).
    pub fn new(seed: u128) -> Self {
        Self {
            ssrc: seed as u32,
            next: ((seed >> 32) as u64) & 0x7fff,
            timestamp: (seed >> 64) as u32,
            samples: 0,
            at: None,
            source: Source::None,
            packets: 0,
            octets: 0,
        }
    }

    /// The stream's SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Uses another SSRC (another stack chose it) from now on.
    pub fn set_ssrc(&mut self, ssrc: u32) {
        self.ssrc = ssrc;
    }

    /// Packets and payload octets sent, for sender reports.
    pub fn sent(&self) -> (u32, u32) {
        (self.packets, self.octets)
    }

    /// When the last packet went out.
    pub fn last_sent(&self) -> Option<Timestamp> {
        self.at
    }

    /// The timestamp that a sample taken at `now` would have, for sender reports; `None` before the first packet.
    pub fn timestamp_at(&self, now: Timestamp) -> Option<u32> {
        self.at.map(|at| self.timestamp.wrapping_add(elapsed(at, now) as u32))
    }

    /// The next packet comes from somewhere else than the last: it is placed by the clock.
    pub fn detach(&mut self) {
        self.source = Source::None;
    }

    /// Places a packet of another party's stream. `None`: it is older than the moment at which that party began to be
    /// heard, and must not be sent.
    #[inline]
    pub fn relay(
        &mut self,
        now: Timestamp,
        ssrc: u32,
        sequence: u16,
        timestamp: u32,
        payload_len: usize,
    ) -> Option<Placed> {
        if let Source::Relayed { ssrc: known, highest_in, highest_out, first_out, timestamp_offset } =
            &mut self.source
            && *known == ssrc
        {
            let step = i64::from(sequence.wrapping_sub(*highest_in) as i16);
            if step.abs() < MAX_STEP {
                let out = highest_out.checked_add_signed(step).filter(|out| *out >= *first_out)?;
                let out_timestamp = timestamp.wrapping_add(*timestamp_offset);
                if step > 0 {
                    (*highest_in, *highest_out) = (sequence, out);
                    self.next = out + 1;
                    self.timestamp = out_timestamp;
                    self.samples = payload_len as u32;
                    self.at = Some(now);
                }
                self.count(payload_len);
                return Some(Placed { sequence: out, timestamp: out_timestamp, marker: false });
            }
        }
        let placed = self.place(now, payload_len as u32);
        self.source = Source::Relayed {
            ssrc,
            highest_in: sequence,
            highest_out: placed.sequence,
            first_out: placed.sequence,
            timestamp_offset: placed.timestamp.wrapping_sub(timestamp),
        };
        self.count(payload_len);
        Some(Placed { marker: true, ..placed })
    }

    /// Places a frame of `samples` made here.
    #[inline]
    pub fn generated(&mut self, now: Timestamp, samples: u32) -> Placed {
        let fresh = !matches!(self.source, Source::Generated);
        let late = self.at.map_or(0, |at| elapsed(at, now)) > u64::from(self.samples) + MAX_LATE_SAMPLES;
        let placed = if fresh || late {
            self.place(now, samples)
        } else {
            // Frame after frame: the timestamps step evenly even though the clock that wakes us does not.
            self.timestamp = self.timestamp.wrapping_add(self.samples);
            self.advance(now, samples)
        };
        self.source = Source::Generated;
        self.count(samples as usize);
        Placed { marker: fresh || late, ..placed }
    }

    /// Places a packet of a telephone event: `first` takes a new timestamp, the rest of the event keeps it.
    pub fn event(&mut self, now: Timestamp, first: bool, payload_len: usize) -> Placed {
        let (timestamp, started) = match self.source {
            Source::Event { timestamp, started } if !first => (timestamp, started),
            _ => (self.place_timestamp(now), now),
        };
        self.source = Source::Event { timestamp, started };
        let placed = Placed { sequence: self.next, timestamp, marker: first };
        self.next += 1;
        // What follows the event is placed after the time that it has taken.
        self.timestamp = timestamp.wrapping_add(elapsed(started, now) as u32);
        self.samples = 160;
        self.at = Some(now);
        self.count(payload_len);
        placed
    }

    fn place(&mut self, now: Timestamp, samples: u32) -> Placed {
        self.timestamp = self.place_timestamp(now);
        self.advance(now, samples)
    }

    /// After what was sent last, by the clock, and never before its end.
    fn place_timestamp(&self, now: Timestamp) -> u32 {
        let step = self.at.map_or(0, |at| elapsed(at, now).max(u64::from(self.samples)));
        self.timestamp.wrapping_add(step as u32)
    }

    fn advance(&mut self, now: Timestamp, samples: u32) -> Placed {
        let placed = Placed { sequence: self.next, timestamp: self.timestamp, marker: false };
        self.next += 1;
        self.samples = samples;
        self.at = Some(now);
        placed
    }

    fn count(&mut self, octets: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(octets as u32);
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> u64 {
    samples_in_micros(to.as_micros() - from.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn the_listener_sees_one_stream_across_music_a_party_digits_and_music_again() {
        let mut out = Outbound::new(0x1234_5678_9abc_def0_1111_2222_3333_4444);
        let mut placed = Vec::new();
        let mut now = 0;
        let mut push = |now: i64, p: Placed| placed.push((now, p));
        for _ in 0..50 {
            push(now, out.generated(at(now), 160));
            now += 20;
        }
        for n in 0..50u16 {
            push(
                now,
                out.relay(
                    at(now),
                    99,
                    65_520u16.wrapping_add(n),
                    4_000_000_000u32.wrapping_add(u32::from(n) * 160),
                    160,
                )
                .unwrap(),
            );
            now += 20;
        }
        let event_from = now;
        for n in 0..7 {
            push(now, out.event(at(now), n == 0, 4));
            now += 20;
        }
        for _ in 0..50 {
            push(now, out.generated(at(now), 160));
            now += 20;
        }
        for pair in placed.windows(2) {
            let ((_, a), (_, b)) = (pair[0], pair[1]);
            assert_eq!(b.sequence, a.sequence + 1);
        }
        let (_, first) = placed[0];
        for (now, p) in &placed {
            let due = (*now * 8) as u32;
            let is_event = (event_from..event_from + 140).contains(now);
            if !is_event {
                assert_eq!(p.timestamp.wrapping_sub(first.timestamp), due, "at {now}");
            }
        }
    }

    #[test]
    fn loss_and_order_of_the_source_shine_through() {
        let mut out = Outbound::new(7);
        let a = out.relay(at(0), 1, 100, 0, 160).unwrap();
        let c = out.relay(at(40), 1, 102, 320, 160).unwrap();
        let b = out.relay(at(41), 1, 101, 160, 160).unwrap();
        assert_eq!((b.sequence, c.sequence), (a.sequence + 1, a.sequence + 2));
        assert_eq!((b.timestamp - a.timestamp, c.timestamp - a.timestamp), (160, 320));
        assert_eq!(out.relay(at(60), 1, 99, 0, 160), None, "older than the beginning");
        let restart = out.relay(at(80), 2, 5, 5, 160).unwrap();
        assert!(restart.marker && restart.sequence == c.sequence + 1);
    }

    proptest! {
        #[test]
        fn no_sequence_number_is_used_twice(steps in proptest::collection::vec((0u8..3, 1i64..60, 0u16..8), 1..300)) {
            let mut out = Outbound::new(u128::from(steps.len() as u64) << 32);
            let (mut now, mut seq, mut used) = (0, 0u16, std::collections::HashSet::new());
            for (kind, wait, skip) in steps {
                now += wait;
                let placed = match kind {
                    0 => Some(out.generated(at(now), 160)),
                    1 => { seq = seq.wrapping_add(1 + skip); out.relay(at(now), 5, seq, (now * 8) as u32, 160) }
                    _ => Some(out.event(at(now), skip == 0, 4)),
                };
                if let Some(placed) = placed {
                    prop_assert!(used.insert(placed.sequence), "{placed:?}");
                }
            }
        }
    }
}
