//! The stereo time line of a recording: packets of two parties, in whatever order and with whatever losses they come,
//! become one run of left and right samples in step with the clock. What is missing is silence.
//!
//! The first packet of a source stands where it arrived, the next ones where their timestamps put them relative to it,
//! so that network jitter does not become gaps. A source that drifts from the clock by more than [`MAX_DRIFT_SAMPLES`]
//! (or jumps) is put where it arrives again.

use trunkline_types::Timestamp;

use crate::samples_in_micros;

/// Left (the caller) and right (the agent).
pub const CHANNELS: usize = 2;
/// The right one.
const AGENT: usize = 1;
/// What is held back for packets that come late: 400 ms.
pub const HOLD_BACK_SAMPLES: u64 = 3_200;
/// Drift of a source against the clock that is let be: 200 ms.
pub const MAX_DRIFT_SAMPLES: u64 = 1_600;
/// The window, a power of two: about 2 s.
const WINDOW: usize = 16_384;
/// Gaps no further apart than a packet are one.
const TOUCHING_MS: u64 = 20;
/// Spans kept; beyond it the last one of a kind is stretched.
const MAX_SPANS: usize = 1_000;

/// What a span of a recording is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanKind {
    /// The caller was on hold.
    Hold,
    /// Paused on purpose (card data); silence.
    Paused,
    /// Audio was lost on the way to the file; silence.
    Gap,
}

/// A span in milliseconds from the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// What it is.
    pub kind: SpanKind,
    /// Beginning.
    pub start_ms: u64,
    /// End, not before the beginning.
    pub end_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Anchor {
    ssrc: u32,
    timestamp: u32,
    position: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Timeline {
    start: Timestamp,
    window: Box<[[i16; CHANNELS]]>,
    /// Samples given out so far; the window holds `flushed .. flushed + WINDOW`.
    flushed: u64,
    anchors: [Option<Anchor>; CHANNELS],
    paused_since: Option<u64>,
    hold_since: Option<u64>,
    /// What comes late and belongs before this is not heard: it was said in a pause or a hold.
    silent_until: [u64; CHANNELS],
    spans: Vec<Span>,
    late_samples: u64,
}

impl Timeline {
    /// Begins at `start`.
    pub fn new(start: Timestamp) -> Self {
        Self {
            start,
            window: vec![[0; CHANNELS]; WINDOW].into_boxed_slice(),
            flushed: 0,
            anchors: [None; CHANNELS],
            paused_since: None,
            hold_since: None,
            silent_until: [0; CHANNELS],
            spans: Vec::new(),
            late_samples: 0,
        }
    }

    /// When it began.
    pub fn start(&self) -> Timestamp {
        self.start
    }

    /// Samples given out.
    pub fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Samples that came too late for the window and are missing.
    pub fn late_samples(&self) -> u64 {
        self.late_samples
    }

    /// Spans that are complete so far, in the order in which they ended.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Spans that have begun and not ended: their kinds, and where they began in milliseconds.
    pub fn open_spans(&self) -> impl Iterator<Item = (SpanKind, u64)> + use<> {
        let open = [(SpanKind::Paused, self.paused_since), (SpanKind::Hold, self.hold_since)];
        open.into_iter().filter_map(|(kind, since)| Some((kind, since? / 8)))
    }

    /// Nothing before `at` is given out: the line begins there, on the same axis.
    pub fn skip_to(&mut self, at: Timestamp) {
        self.flushed = self.flushed.max(self.position(at));
    }

    /// The position of an instant, in samples.
    pub fn position(&self, at: Timestamp) -> u64 {
        samples_in_micros(at.as_micros().saturating_sub(self.start.as_micros()))
    }

    /// Puts a packet's samples on channel 0 (left) or 1 (right). `at` is its arrival. Samples beyond the window are
    /// dropped: call [`Timeline::drain`] up to `at` before.
    pub fn push(&mut self, channel: usize, at: Timestamp, ssrc: u32, timestamp: u32, samples: &[i16]) {
        let arrived = self.position(at);
        let Some(slot) = self.anchors.get_mut(channel) else { return };
        let placed = slot.filter(|a| a.ssrc == ssrc).and_then(|a| {
            let position =
                a.position.checked_add_signed(i64::from(timestamp.wrapping_sub(a.timestamp) as i32))?;
            (position.abs_diff(arrived) <= MAX_DRIFT_SAMPLES).then_some(position)
        });
        let position = placed.unwrap_or(arrived);
        // Anchored anew at each packet: the offset stays, and a timestamp never lies 2^31 behind its anchor.
        *slot = Some(Anchor { ssrc, timestamp, position });
        if self.paused_since.is_some() || self.hold_since.is_some() && channel == AGENT {
            return;
        }
        for (n, sample) in samples.iter().enumerate() {
            let position = position + n as u64;
            if position < self.flushed {
                self.late_samples += 1;
            } else if position >= self.silent_until[channel] && position < self.flushed + WINDOW as u64 {
                self.window[position as usize % WINDOW][channel] = *sample;
            }
        }
    }

    /// Gives out everything that is older than `now` by [`HOLD_BACK_SAMPLES`], in runs of whole moments.
    pub fn drain(&mut self, now: Timestamp, out: impl FnMut(&[[i16; CHANNELS]])) {
        let until = self.position(now).saturating_sub(HOLD_BACK_SAMPLES);
        self.give(until, out);
    }

    /// Gives out everything up to `end` and closes open spans; the length is then `position(end)` exactly.
    pub fn finish(&mut self, end: Timestamp, out: impl FnMut(&[[i16; CHANNELS]])) -> Vec<Span> {
        self.hold_ended(end);
        self.resume(end);
        let until = self.position(end);
        self.give(until, out);
        let mut spans = std::mem::take(&mut self.spans);
        spans.sort_by_key(|s| (s.start_ms, s.end_ms));
        spans
    }

    fn give(&mut self, until: u64, mut out: impl FnMut(&[[i16; CHANNELS]])) {
        while self.flushed < until {
            let from = self.flushed as usize % WINDOW;
            let count = (until - self.flushed).min((WINDOW - from) as u64) as usize;
            let run = &mut self.window[from..from + count];
            out(run);
            run.fill([0; CHANNELS]);
            self.flushed += count as u64;
        }
    }

    /// From here on silence (card data). What was said before stays, to the sample of the clock.
    pub fn pause(&mut self, at: Timestamp) {
        let position = self.position(at);
        if self.paused_since.is_none() {
            self.paused_since = Some(position);
            // Audio that is ahead of the clock belongs to the pause.
            for ahead in position.max(self.flushed)..self.flushed + WINDOW as u64 {
                self.window[ahead as usize % WINDOW] = [0; CHANNELS];
            }
        }
    }

    /// Audio again.
    pub fn resume(&mut self, at: Timestamp) {
        if let Some(since) = self.paused_since.take() {
            let position = self.position(at);
            self.silent_until = [position; CHANNELS];
            self.span(SpanKind::Paused, since, position);
        }
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    /// The caller's hold begins: the agent's channel is silent from here on.
    pub fn hold_started(&mut self, at: Timestamp) {
        let position = self.position(at);
        if self.hold_since.is_none() {
            self.hold_since = Some(position);
            // Audio that is ahead of the clock belongs to the hold.
            for ahead in position.max(self.flushed)..self.flushed + WINDOW as u64 {
                self.window[ahead as usize % WINDOW][AGENT] = 0;
            }
        }
    }

    /// The hold ends.
    pub fn hold_ended(&mut self, at: Timestamp) {
        if let Some(since) = self.hold_since.take() {
            let position = self.position(at);
            self.silent_until[AGENT] = self.silent_until[AGENT].max(position);
            self.span(SpanKind::Hold, since, position);
        }
    }

    /// Audio of this span was lost on the way here.
    pub fn gap(&mut self, from: Timestamp, to: Timestamp) {
        self.span(SpanKind::Gap, self.position(from), self.position(to));
    }

    fn span(&mut self, kind: SpanKind, from: u64, to: u64) {
        let (start_ms, end_ms) = (from / 8, to.max(from).div_ceil(8));
        if let Some(last) = self.spans.iter_mut().rev().find(|s| s.kind == kind)
            && kind == SpanKind::Gap
            && start_ms <= last.end_ms + TOUCHING_MS
        {
            last.end_ms = last.end_ms.max(end_ms);
            return;
        }
        if self.spans.len() < MAX_SPANS {
            self.spans.push(Span { kind, start_ms, end_ms });
        } else if let Some(last) = self.spans.iter_mut().rev().find(|s| s.kind == kind) {
            last.end_ms = last.end_ms.max(end_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000 + ms)
    }

    fn collect(line: &mut Timeline, end_ms: i64) -> (Vec<[i16; 2]>, Vec<Span>) {
        let mut all = Vec::new();
        let spans = line.finish(at(end_ms), |run| all.extend_from_slice(run));
        (all, spans)
    }

    #[test]
    fn two_parties_are_aligned_by_the_clock_and_jitter_leaves_no_gaps() {
        let mut line = Timeline::new(at(0));
        for n in 0..50i64 {
            let jitter = [0, 15, 3, 19, 7][n as usize % 5];
            line.push(0, at(100 + n * 20 + jitter), 1, 5_000 + n as u32 * 160, &[100; 160]);
            line.push(1, at(500 + n * 20), 2, 77 + n as u32 * 160, &[-100; 160]);
        }
        let (all, _) = collect(&mut line, 2_000);
        assert_eq!(all.len(), 16_000);
        assert!(all[..800].iter().all(|m| m[0] == 0) && all[800..8_800].iter().all(|m| m[0] == 100));
        assert!(all[..4_000].iter().all(|m| m[1] == 0) && all[4_000..12_000].iter().all(|m| m[1] == -100));
    }

    #[test]
    fn a_pause_is_silent_to_the_sample_and_marked() {
        let mut line = Timeline::new(at(0));
        for n in 0..50i64 {
            if n == 20 {
                line.pause(at(400));
            }
            if n == 30 {
                line.resume(at(600));
            }
            line.push(0, at(n * 20), 1, n as u32 * 160, &[9; 160]);
        }
        line.hold_started(at(700));
        let (all, spans) = collect(&mut line, 1_000);
        assert!(all[3_200..4_800].iter().all(|m| m[0] == 0) && all[..3_200].iter().all(|m| m[0] == 9));
        assert!(all[4_800..].iter().all(|m| m[0] == 9));
        assert_eq!(
            spans,
            [
                Span { kind: SpanKind::Paused, start_ms: 400, end_ms: 600 },
                Span { kind: SpanKind::Hold, start_ms: 700, end_ms: 1_000 },
            ]
        );
    }

    #[test]
    fn the_agent_is_silent_to_the_sample_while_the_caller_is_on_hold() {
        let mut line = Timeline::new(at(0));
        for n in 0..50i64 {
            if n == 20 {
                line.hold_started(at(395));
                assert_eq!(line.open_spans().collect::<Vec<_>>(), [(SpanKind::Hold, 395)]);
            }
            if n == 30 {
                line.hold_ended(at(605));
            }
            line.push(0, at(n * 20), 1, n as u32 * 160, &[9; 160]);
            line.push(1, at(n * 20), 2, n as u32 * 160, &[7; 160]);
        }
        let (all, spans) = collect(&mut line, 1_000);
        assert!(all[3_160..4_840].iter().all(|m| *m == [9, 0]), "the caller is heard, the agent is not");
        assert!(all[..3_160].iter().chain(&all[4_840..]).all(|m| *m == [9, 7]));
        assert_eq!(spans, [Span { kind: SpanKind::Hold, start_ms: 395, end_ms: 605 }]);
    }

    #[test]
    fn a_source_that_jumps_is_put_where_it_arrives() {
        let mut line = Timeline::new(at(0));
        line.push(0, at(0), 1, 0, &[1; 160]);
        line.push(0, at(1_000), 1, 4_000_000_000, &[2; 160]);
        let (all, _) = collect(&mut line, 1_500);
        assert!(all[8_000..8_160].iter().all(|m| m[0] == 2));
    }

    proptest! {
        #[test]
        fn the_length_is_the_clock_whatever_arrives(
            packets in proptest::collection::vec((0usize..3, 0i64..5_000, any::<u32>(), any::<u32>(), 0usize..400), 0..60),
            end in 5_000i64..9_000,
        ) {
            let mut line = Timeline::new(at(0));
            let mut got = 0usize;
            let mut sorted = packets;
            sorted.sort_by_key(|p| p.1);
            for (channel, ms, ssrc, timestamp, len) in sorted {
                line.drain(at(ms), |run| got += run.len());
                line.push(channel, at(ms), ssrc % 3, timestamp, &vec![1; len]);
            }
            line.finish(at(end), |run| got += run.len());
            prop_assert_eq!(got as u64, line.position(at(end)));
        }
    }
}
