//! The audio of a call on its way to the recogniser: from the ring over the time line into chunks, and what is missing.

use std::collections::VecDeque;

use trunkline_media_core::FRAME_SAMPLES;
use trunkline_media_core::timeline::{HOLD_BACK_SAMPLES, Timeline};
use trunkline_proto::transcription::v1 as wire;
use trunkline_types::Timestamp;

use super::Order;
use crate::clock::Clock;
use crate::tap::{Item, TapReader};

/// Audio in one message.
const CHUNK_SAMPLES: usize = 800;
pub(super) const CHUNK_MS: u64 = 100;
/// Gaps that wait to be told; beyond it the last one is stretched.
const MAX_GAPS: usize = 64;

/// Why audio did not reach the recogniser.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    Slow,
    Disconnected,
    Paused,
}

impl Why {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Slow => "recogniser slow",
            Self::Disconnected => "recogniser unreachable",
            Self::Paused => "paused",
        }
    }

    pub(super) fn wire(self) -> wire::GapReason {
        match self {
            Self::Slow => wire::GapReason::BackPressure,
            Self::Disconnected => wire::GapReason::Disconnected,
            Self::Paused => wire::GapReason::Paused,
        }
    }
}

/// Audio that will not be sent, in milliseconds on the call's axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Missing {
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
    pub(super) why: Why,
}

/// 100 ms of both channels, linear.
pub(super) struct Chunk {
    pub(super) start_ms: u64,
    pub(super) audio: [Vec<u8>; 2],
    pub(super) paused: bool,
}

/// The gaps that nobody has been told of yet, in order.
#[derive(Debug, Default)]
pub(super) struct Gaps(VecDeque<Missing>);

impl Gaps {
    /// Adds to the last gap when it touches and has the same reason.
    pub(super) fn add(&mut self, start_ms: u64, end_ms: u64, why: Why) {
        let full = self.0.len() >= MAX_GAPS;
        if let Some(last) = self.0.back_mut()
            && (full || last.why == why && start_ms <= last.end_ms)
        {
            last.end_ms = last.end_ms.max(end_ms);
            return;
        }
        let start_ms = self.0.back().map_or(start_ms, |last| start_ms.max(last.end_ms));
        if start_ms < end_ms {
            self.0.push_back(Missing { start_ms, end_ms, why });
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn take(&mut self) -> Option<Missing> {
        self.0.pop_front()
    }
}

/// The audio of one call.
pub(super) struct Feed {
    reader: TapReader,
    clock: Clock,
    timeline: Timeline,
    chunk: [Vec<u8>; 2],
    chunk_at: u64,
    paused: bool,
    /// The call is over and everything has been read.
    pub(super) ended: bool,
    pub(super) gaps: Gaps,
}

impl Feed {
    pub(super) fn new(order: &Order, reader: TapReader, clock: Clock) -> Self {
        let mut timeline = Timeline::new(order.axis);
        timeline.skip_to(order.started_at);
        let chunk_at = timeline.flushed();
        Self {
            reader,
            clock,
            timeline,
            chunk: [Vec::new(), Vec::new()],
            chunk_at,
            paused: false,
            ended: false,
            gaps: Gaps::default(),
        }
    }

    /// Where the audio given out so far ends, in milliseconds.
    pub(super) fn end_ms(&self) -> u64 {
        self.timeline.flushed() / 8
    }

    /// Empties the ring into the time line and gives what is complete.
    pub(super) fn read(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        while let Some(item) = self.reader.next() {
            self.take(item, &mut chunks);
        }
        let now = self.clock.timestamp();
        match self.reader.end(now) {
            None => self.drain(now, &mut chunks),
            Some(end) => {
                self.ended = true;
                let hold_back = std::time::Duration::from_micros(HOLD_BACK_SAMPLES * 125);
                self.drain(end + hold_back, &mut chunks);
            }
        }
        chunks
    }

    fn take(&mut self, item: Item, chunks: &mut Vec<Chunk>) {
        match item {
            Item::Audio(packet) => {
                let mut samples = [0; FRAME_SAMPLES];
                let bytes = packet.bytes();
                packet.codec.decode_into(bytes, &mut samples);
                self.drain(packet.at, chunks);
                let (channel, samples) = (usize::from(packet.channel), &samples[..bytes.len()]);
                self.timeline.push(channel, packet.at, packet.ssrc, packet.timestamp, samples);
            }
            Item::Gap { from, to } => {
                let (from, to) = (self.timeline.position(from) / 8, self.timeline.position(to).div_ceil(8));
                self.gaps.add(from, to, Why::Slow);
            }
            Item::Pause { at, begins } => {
                self.drain(at, chunks);
                if begins {
                    self.timeline.pause(at);
                } else {
                    self.timeline.resume(at);
                }
                self.paused = begins;
            }
            Item::Hold { .. } => {}
        }
    }

    fn drain(&mut self, until: Timestamp, chunks: &mut Vec<Chunk>) {
        let (chunk, chunk_at, paused) = (&mut self.chunk, &mut self.chunk_at, self.paused);
        self.timeline.drain(until, |run| {
            for moment in run {
                for (bytes, sample) in chunk.iter_mut().zip(moment) {
                    bytes.extend_from_slice(&sample.to_le_bytes());
                }
                if chunk[0].len() >= CHUNK_SAMPLES * 2 {
                    let audio = [std::mem::take(&mut chunk[0]), std::mem::take(&mut chunk[1])];
                    chunks.push(Chunk { start_ms: *chunk_at / 8, audio, paused });
                    *chunk_at += CHUNK_SAMPLES as u64;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_that_touch_are_one_and_others_stay_in_order_without_overlap() {
        let mut gaps = Gaps::default();
        gaps.add(0, 100, Why::Slow);
        gaps.add(100, 200, Why::Slow);
        gaps.add(150, 300, Why::Paused);
        gaps.add(500, 600, Why::Paused);
        let told: Vec<_> =
            std::iter::from_fn(|| gaps.take()).map(|g| (g.start_ms, g.end_ms, g.why)).collect();
        assert_eq!(told, [(0, 200, Why::Slow), (200, 300, Why::Paused), (500, 600, Why::Paused)]);
    }

    #[test]
    fn more_gaps_than_are_kept_stretch_the_last() {
        let mut gaps = Gaps::default();
        for n in 0..200u64 {
            gaps.add(n * 1_000, n * 1_000 + 100, Why::Slow);
        }
        assert_eq!(gaps.len(), MAX_GAPS);
        assert_eq!(std::iter::from_fn(|| gaps.take()).last().map(|g| g.end_ms), Some(199_100));
    }
}
