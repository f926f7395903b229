//! What one call hears: counts and levels by RFC 3550, and the recording.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    audio::{Law, level_dbfs},
    rtp::FRAME,
};

/// Samples that wait to be written: half a second, then the oldest go.
const PLAYOUT: usize = 4_000;
/// A longer gap in the sequence is a new stream rather than loss.
const GAP: u16 = 3_000;

/// The measurements of one call.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Audio packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
    /// Packets missing by sequence numbers; late ones are taken off again.
    pub lost: u64,
    /// Interarrival jitter in samples of 1/8,000 s (RFC 3550 section 6.4.1).
    pub jitter: f64,
    squares: f64,
    samples: u64,
    /// The recording, or why there is none.
    pub tape: Option<Result<PathBuf, String>>,
}

impl Heard {
    /// RMS level of everything heard, in dB relative to full scale.
    pub fn level_dbfs(&self) -> f64 {
        level_dbfs(self.squares, self.samples)
    }

    /// Jitter in milliseconds.
    pub fn jitter_ms(&self) -> f64 {
        self.jitter / 8.0
    }
}

#[derive(Clone, Copy)]
struct Stream {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    at: Instant,
}

/// Takes the packets of one call.
#[derive(Default)]
pub struct Listener {
    /// So far.
    pub heard: Heard,
    /// Payload type of telephone-event.
    pub events: Option<u8>,
    stream: Option<Stream>,
    last: Option<Instant>,
    key: Option<u32>,
    playout: VecDeque<i16>,
}

impl Listener {
    /// When the last packet came.
    pub fn last(&self) -> Option<Instant> {
        self.last
    }

    /// A datagram: `None` when it is no RTP, else the key that was pressed, once for each key.
    pub fn packet(&mut self, now: Instant, datagram: &[u8]) -> Option<Option<char>> {
        let (header, rest) = datagram.split_first_chunk::<12>()?;
        let payload_type = header[1] & 0x7f;
        // Version 2; types 64 to 95 are RTCP on the same port (RFC 5761).
        if header[0] >> 6 != 2 || (64..96).contains(&payload_type) {
            return None;
        }
        let mut payload = rest.get(usize::from(header[0] & 0x0f) * 4..)?;
        if header[0] & 0x10 != 0 {
            let words = u16::from_be_bytes([*payload.get(2)?, *payload.get(3)?]);
            payload = payload.get(4 + usize::from(words) * 4..)?;
        }
        let number =
            |at: usize| header.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let (timestamp, ssrc) = (number(4), number(8));
        let sequence = u16::from_be_bytes([header[2], header[3]]);
        let is_key = Some(payload_type) == self.events;
        let missing = self.count(Stream { ssrc, sequence, timestamp, at: now }, is_key);
        self.last = Some(now);
        if is_key {
            return Some(self.key(timestamp, payload));
        }
        if let Some(law) = Law::of_payload_type(payload_type) {
            let silence = usize::from(missing).min(25) * FRAME;
            self.playout.extend(std::iter::repeat_n(0, silence));
            for octet in payload {
                let sample = law.decode(*octet);
                self.heard.squares += f64::from(sample).powi(2);
                self.playout.push_back(sample);
            }
            self.heard.samples += payload.len() as u64;
            let over = self.playout.len().saturating_sub(PLAYOUT);
            self.playout.drain(..over);
        }
        Some(None)
    }

    /// Counts a packet; returns how many are missing just before it.
    fn count(&mut self, new: Stream, is_key: bool) -> u16 {
        self.heard.received += 1;
        let Some(old) = self.stream.filter(|old| old.ssrc == new.ssrc) else {
            self.stream = Some(new);
            return 0;
        };
        let ahead = new.sequence.wrapping_sub(old.sequence);
        if ahead == 0 || ahead > u16::MAX - GAP {
            // Late or twice: it was counted as lost when the gap was seen.
            self.heard.lost = self.heard.lost.saturating_sub(u64::from(ahead != 0));
            return 0;
        }
        let missing = if ahead > GAP { 0 } else { ahead - 1 };
        self.heard.lost += u64::from(missing);
        // Packets of a key repeat the time stamp of its beginning and say nothing about jitter.
        if !is_key && ahead <= GAP {
            let arrival = (new.at - old.at).as_secs_f64() * 8_000.0;
            let transit = arrival - f64::from(new.timestamp.wrapping_sub(old.timestamp) as i32);
            // A pause of the sender (silence, hold) is no jitter.
            if transit.abs() < 8_000.0 {
                self.heard.jitter += (transit.abs() - self.heard.jitter) / 16.0;
            }
        }
        self.stream = Some(if is_key { Stream { timestamp: old.timestamp, at: old.at, ..new } } else { new });
        missing
    }

    fn key(&mut self, timestamp: u32, payload: &[u8]) -> Option<char> {
        let key = "0123456789*#ABCD".chars().nth(usize::from(*payload.first()?))?;
        (self.key.replace(timestamp) != Some(timestamp)).then_some(key)
    }

    /// The next 20 ms for the recording.
    pub fn play(&mut self) -> [i16; FRAME] {
        std::array::from_fn(|_| self.playout.pop_front().unwrap_or(0))
    }
}

/// A recording: left what was said, right what was heard.
pub struct Tape {
    path: PathBuf,
    writer: Result<hound::WavWriter<std::io::BufWriter<std::fs::File>>, String>,
}

impl Tape {
    /// Opens the file. A failure is kept for [`Tape::finish`]: it must not end the call.
    pub fn create(path: &Path) -> Self {
        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: 8_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let writer = hound::WavWriter::create(path, spec).map_err(|error| error.to_string());
        Self { path: path.to_owned(), writer }
    }

    /// 20 ms of both.
    pub fn frame(&mut self, said: &[i16; FRAME], heard: [i16; FRAME]) {
        let Ok(writer) = &mut self.writer else { return };
        let both = said.iter().copied().zip(heard);
        let written = both.into_iter().try_for_each(|(said, heard)| {
            writer.write_sample(said)?;
            writer.write_sample(heard)
        });
        if let Err(error) = written {
            self.writer = Err(error.to_string());
        }
    }

    /// Closes the file.
    ///
    /// # Errors
    /// What went wrong since the beginning.
    pub fn finish(self) -> Result<PathBuf, String> {
        let told = |error: String| format!("{}: {error}", self.path.display());
        self.writer.map_err(told)?.finalize().map_err(|error| told(error.to_string()))?;
        Ok(self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn packet(payload_type: u8, sequence: u16, timestamp: u32, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x80, payload_type];
        packet.extend(sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(7u32.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// Across the wrap of the sequence: two are lost, one of them comes late.
    #[test]
    fn loss_is_counted_over_the_wrap_and_late_packets_are_taken_off() {
        let (mut listener, start) = (Listener::default(), Instant::now());
        for (n, sequence) in [65_534u16, 65_535, 0, 3, 1].into_iter().enumerate() {
            let at = start + Duration::from_millis(20 * n as u64);
            let time = u32::from(sequence.wrapping_sub(65_534)) * 160;
            assert!(listener.packet(at, &packet(0, sequence, time, &[0xff; 160])).is_some());
        }
        assert_eq!((listener.heard.received, listener.heard.lost), (5, 1));
        assert_eq!(listener.heard.level_dbfs(), -96.0);
    }

    #[test]
    fn a_steady_stream_has_no_jitter_and_a_key_counts_once() {
        let (mut listener, start) = (Listener { events: Some(101), ..Listener::default() }, Instant::now());
        let mut keys = Vec::new();
        for n in 0..50u16 {
            let at = start + Duration::from_millis(20 * u64::from(n));
            let key = (20..30).contains(&n);
            let time = if key { 20 * 160 } else { u32::from(n) * 160 };
            let datagram =
                if key { packet(101, n, time, &[5, 0x8a, 0, 160]) } else { packet(8, n, time, &[0x2a; 160]) };
            keys.extend(listener.packet(at, &datagram).unwrap());
        }
        assert_eq!(keys, ['5']);
        assert!(listener.heard.jitter_ms() < 0.1 && listener.heard.lost == 0);
        assert!((listener.heard.level_dbfs() + 0.137).abs() < 0.01, "full scale of A-law");
    }

    #[test]
    fn what_is_no_rtp_is_ignored() {
        let mut listener = Listener::default();
        for datagram in [&b"x"[..], &[0; 20], &packet(72, 1, 1, &[0; 8]), &[0x9f; 14]] {
            assert!(listener.packet(Instant::now(), datagram).is_none());
        }
        assert_eq!(listener.heard.received, 0);
    }
}
