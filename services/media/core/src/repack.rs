//! Packets of another duration for parties that insist on one (`a=ptime` other than what the source sends).

use crate::program::MAX_FRAME_SAMPLES;

/// Collects payload and hands it out in frames of one size. Samples that are lost at the source leave no hole here; the
/// listener's clock is kept by the caller's timestamps.
#[derive(Clone, Debug)]
pub struct Repacketizer {
    frame: usize,
    filled: usize,
    buffer: [u8; MAX_FRAME_SAMPLES],
}

impl Repacketizer {
    /// Frames of `frame` samples, at most [`MAX_FRAME_SAMPLES`] and at least 1.
    pub fn new(frame: usize) -> Self {
        Self { frame: frame.clamp(1, MAX_FRAME_SAMPLES), filled: 0, buffer: [0; MAX_FRAME_SAMPLES] }
    }

    /// The frame size in samples.
    pub fn frame(&self) -> usize {
        self.frame
    }

    /// Adds payload; `out` gets each frame that becomes full.
    pub fn push(&mut self, mut payload: &[u8], mut out: impl FnMut(&[u8])) {
        while !payload.is_empty() {
            let take = (self.frame - self.filled).min(payload.len());
            let (now, rest) = payload.split_at(take);
            self.buffer[self.filled..self.filled + take].copy_from_slice(now);
            self.filled += take;
            payload = rest;
            if self.filled == self.frame {
                out(&self.buffer[..self.frame]);
                self.filled = 0;
            }
        }
    }

    /// Drops what waits, at a change of source.
    pub fn clear(&mut self) {
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_frames(
            frame in prop::sample::select(vec![80usize, 160, 240, 320, 480]),
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..20),
        ) {
            let mut repacketizer = Repacketizer::new(frame);
            let mut out = Vec::new();
            for packet in &packets {
                repacketizer.push(packet, |f| { assert_eq!(f.len(), frame); out.extend_from_slice(f); });
            }
            let all = packets.concat();
            prop_assert_eq!(&out[..], &all[..all.len() / frame * frame]);
        }
    }
}
