//! Audio on its way from a worker to a file or a recogniser: a wait-free ring for each, and what happens when it is full.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rtrb::{Consumer, Producer, RingBuffer};
use trunkline_media_core::{FRAME_SAMPLES, codec::Codec};
use trunkline_types::Timestamp;

/// Items in a ring: more than 2 s of two parties in packets of 20 ms.
const CAPACITY: usize = 256;
/// Marks that may wait for room; a call has a handful.
const MAX_PENDING: usize = 64;

/// The agent's channel.
const RIGHT: u8 = 1;

/// What travels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    /// Up to 20 ms of one party.
    Audio(Packet),
    /// Audio was lost between these.
    Gap { from: Timestamp, to: Timestamp },
    /// The caller's hold begins or ends.
    Hold { at: Timestamp, begins: bool },
    /// Silence on purpose begins or ends.
    Pause { at: Timestamp, begins: bool },
}

/// G.711 of one party.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) channel: u8,
    pub(crate) codec: Codec,
    pub(crate) len: u8,
    pub(crate) ssrc: u32,
    pub(crate) timestamp: u32,
    pub(crate) at: Timestamp,
    pub(crate) payload: [u8; FRAME_SAMPLES],
}

impl Packet {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.payload[..usize::from(self.len).min(FRAME_SAMPLES)]
    }
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Tap {
    ring: Producer<Item>,
    end: Arc<AtomicI64>,
    lost: Option<(Timestamp, Timestamp)>,
    pending: VecDeque<Item>,
    paused: bool,
    /// The caller is on hold: what the agent says then is nobody's business.
    pub(crate) held: bool,
    /// When a pause ends by itself.
    pub(crate) resume_at: Option<Timestamp>,
    /// Endpoints on the left and on the right.
    pub(crate) sides: [String; 2],
    /// Times that audio was lost, for the metrics.
    pub(crate) gaps: u64,
}

/// The other end. When the ring is abandoned and empty, [`TapReader::end`] tells when it ended.
#[derive(Debug)]
pub(crate) struct TapReader {
    ring: Consumer<Item>,
    end: Arc<AtomicI64>,
}

/// A ring for the endpoints named.
pub(crate) fn tap(left: &str, right: &str) -> (Tap, TapReader) {
    let (ring, consumer) = RingBuffer::new(CAPACITY);
    let end = Arc::new(AtomicI64::new(0));
    let tap = Tap {
        ring,
        end: end.clone(),
        lost: None,
        pending: VecDeque::new(),
        paused: false,
        held: false,
        resume_at: None,
        sides: [left.to_owned(), right.to_owned()],
        gaps: 0,
    };
    (tap, TapReader { ring: consumer, end })
}

impl Tap {
    /// Copies a packet's audio; longer packets go in pieces.
    #[inline]
    pub(crate) fn audio(
        &mut self,
        channel: u8,
        codec: Codec,
        ssrc: u32,
        timestamp: u32,
        at: Timestamp,
        payload: &[u8],
    ) {
        if self.paused || self.held && channel == RIGHT {
            return;
        }
        if !self.flush() {
            self.lose(at, payload.len());
            return;
        }
        for (n, piece) in payload.chunks(FRAME_SAMPLES).enumerate() {
            let offset = (n * FRAME_SAMPLES) as u32;
            let mut packet = Packet {
                channel,
                codec,
                len: piece.len() as u8,
                ssrc,
                timestamp: timestamp.wrapping_add(offset),
                at: Timestamp::from_micros(at.as_micros() + i64::from(offset) * 125),
                payload: [0; FRAME_SAMPLES],
            };
            packet.payload[..piece.len()].copy_from_slice(piece);
            if self.ring.push(Item::Audio(packet)).is_err() {
                self.lose(packet.at, piece.len());
            }
        }
    }

    fn lose(&mut self, at: Timestamp, samples: usize) {
        let until = Timestamp::from_micros(at.as_micros() + samples as i64 * 125);
        match &mut self.lost {
            Some((_, to)) => *to = until,
            lost => {
                *lost = Some((at, until));
                self.gaps += 1;
            }
        }
    }

    /// Puts into the ring what waits for room. `false`: there is still none.
    #[inline]
    pub(crate) fn flush(&mut self) -> bool {
        if self.pending.is_empty() && self.lost.is_none() {
            return true;
        }
        while let Some(item) = self.pending.front() {
            if self.ring.push(*item).is_err() {
                return false;
            }
            self.pending.pop_front();
        }
        if let Some((from, to)) = self.lost {
            // A gap is told once there is room for what follows it too.
            if self.ring.slots() < 8 || self.ring.push(Item::Gap { from, to }).is_err() {
                return false;
            }
            self.lost = None;
        }
        true
    }

    fn mark(&mut self, item: Item) {
        if self.pending.len() < MAX_PENDING {
            self.pending.push_back(item);
        }
        self.flush();
    }

    /// Takes effect here and now: the right channel is silent until the hold ends. Said twice is harmless.
    pub(crate) fn hold(&mut self, at: Timestamp, begins: bool) {
        if self.held != begins {
            self.held = begins;
            self.mark(Item::Hold { at, begins });
        }
    }

    /// Takes effect here and now, whether or not the reader keeps up.
    pub(crate) fn pause(&mut self, at: Timestamp, resume_at: Timestamp) {
        self.resume_at = Some(resume_at);
        if !self.paused {
            self.paused = true;
            self.mark(Item::Pause { at, begins: true });
        }
    }

    pub(crate) fn resume(&mut self, at: Timestamp) {
        self.resume_at = None;
        if self.paused {
            self.paused = false;
            self.mark(Item::Pause { at, begins: false });
        }
    }

    /// The last act: the reader sees the end when it has read everything.
    pub(crate) fn stop(mut self, at: Timestamp) {
        self.flush();
        self.end.store(at.as_micros(), Ordering::Release);
    }
}

impl TapReader {
    pub(crate) fn next(&mut self) -> Option<Item> {
        self.ring.pop().ok()
    }

    /// When the tap ended, once nothing is left to read. `fallback`: it vanished without saying.
    pub(crate) fn end(&self, fallback: Timestamp) -> Option<Timestamp> {
        if !self.ring.is_abandoned() || !self.ring.is_empty() {
            return None;
        }
        match self.end.load(Ordering::Acquire) {
            0 => Some(fallback),
            micros => Some(Timestamp::from_micros(micros)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_becomes_one_gap_and_never_waits() {
        let (mut tap, mut reader) = tap("a", "b");
        for n in 0..400u32 {
            tap.audio(0, Codec::Pcmu, 1, n * 160, Timestamp::from_millis(i64::from(n) * 20), &[1; 160]);
        }
        let mut read = 0;
        while let Some(Item::Audio(_)) = reader.next() {
            read += 1;
        }
        assert_eq!((read, tap.gaps), (CAPACITY, 1));
        tap.audio(0, Codec::Pcmu, 1, 0, Timestamp::from_millis(8_000), &[1; 160]);
        let Some(Item::Gap { from, to }) = reader.next() else { panic!("a gap") };
        assert_eq!((from.as_millis(), to.as_millis()), (5_120, 8_000));
        assert!(matches!(reader.next(), Some(Item::Audio(_))));
        tap.stop(Timestamp::from_millis(9_000));
        assert_eq!(reader.end(Timestamp::ZERO), Some(Timestamp::from_millis(9_000)));
    }

    #[test]
    fn an_agent_is_not_heard_while_the_caller_is_on_hold() {
        let (mut tap, mut reader) = tap("a", "b");
        let at = Timestamp::from_millis;
        tap.hold(at(1), true);
        tap.hold(at(2), true);
        tap.audio(1, Codec::Pcmu, 1, 0, at(3), &[4; 160]);
        tap.audio(0, Codec::Pcmu, 2, 0, at(3), &[4; 160]);
        tap.hold(at(4), false);
        tap.audio(1, Codec::Pcmu, 1, 160, at(5), &[4; 160]);
        assert!(matches!(reader.next(), Some(Item::Hold { begins: true, .. })));
        assert!(matches!(reader.next(), Some(Item::Audio(Packet { channel: 0, .. }))), "the caller still is");
        assert!(
            matches!(reader.next(), Some(Item::Hold { begins: false, .. })),
            "a repeated mark is no mark"
        );
        assert!(matches!(reader.next(), Some(Item::Audio(Packet { channel: 1, .. }))));
    }

    #[test]
    fn what_is_said_in_a_pause_never_enters_the_ring() {
        let (mut tap, mut reader) = tap("a", "b");
        tap.pause(Timestamp::from_millis(1), Timestamp::from_millis(100));
        tap.audio(0, Codec::Pcmu, 1, 0, Timestamp::from_millis(2), &[4; 160]);
        tap.resume(Timestamp::from_millis(3));
        assert!(matches!(reader.next(), Some(Item::Pause { begins: true, .. })));
        assert!(matches!(reader.next(), Some(Item::Pause { begins: false, .. })));
        assert!(reader.next().is_none());
    }
}
