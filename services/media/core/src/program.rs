//! What a party hears: silence, music, a tone, prompts with something after them, or another party.

use std::ops::Range;
use std::sync::Arc;

use crate::clip::Clip;
use crate::codec::Codec;

/// Longest frame made at once: 60 ms.
pub const MAX_FRAME_SAMPLES: usize = 480;
/// Music under a prompt is lowered to this share (−14 dB).
const DUCK: (i32, i32) = (1, 5);
/// Most prompts in a row.
pub const MAX_PROMPTS: usize = 64;

/// What plays until something else is set. `P` names a party.
#[derive(Clone, Debug)]
pub enum Bed<P> {
    /// Silence.
    Silence,
    /// A clip in a loop without a seam, with the name by which it was asked for.
    Music(String, Arc<Clip>),
    /// A sine of this frequency.
    Tone(u32),
    /// Another party.
    Peer(P),
}

/// Prompts, then a bed.
#[derive(Clone, Debug)]
pub struct Announcement<P> {
    /// Played in this order; at least one.
    pub prompts: Vec<Arc<Clip>>,
    /// The names of the prompts.
    pub names: Vec<String>,
    /// What comes after.
    pub then: Bed<P>,
    /// Comes back with the end.
    pub token: String,
    /// Whether a digit ends it.
    pub interruptible: bool,
    /// Whether music that plays goes on below it.
    pub over_music: bool,
}

/// How an announcement ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Played to the end.
    Completed,
    /// By a digit.
    Interrupted,
    /// By another program.
    Replaced,
}

/// The end of an announcement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// As given.
    pub token: String,
    /// How.
    pub outcome: Outcome,
}

/// What [`Player::frame`] made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Audio is in the buffer.
    Audio,
    /// Another party is heard: nothing is made here.
    Relayed,
}

#[derive(Debug)]
struct Playing<P> {
    announcement: Announcement<P>,
    index: usize,
    position: usize,
}

impl<P> Playing<P> {
    fn remaining(&self) -> usize {
        let ahead = self.announcement.prompts.get(self.index..).unwrap_or_default();
        ahead.iter().map(|clip| clip.len()).sum::<usize>().saturating_sub(self.position)
    }

    /// Goes on by so many samples; gives how many of them are behind the end.
    fn pass(&mut self, mut samples: usize) -> usize {
        while let Some(clip) = self.announcement.prompts.get(self.index) {
            let take = (clip.len() - self.position).min(samples);
            (self.position, samples) = (self.position + take, samples - take);
            if self.position < clip.len() {
                break;
            }
            (self.index, self.position) = (self.index + 1, 0);
        }
        samples
    }
}

/// One party's program.
#[derive(Debug)]
pub struct Player<P> {
    bed: Bed<P>,
    playing: Option<Playing<P>>,
    music_position: usize,
    music_name: String,
    phase: u32,
}

impl<P> Default for Player<P> {
    fn default() -> Self {
        Self { bed: Bed::Silence, playing: None, music_position: 0, music_name: String::new(), phase: 0 }
    }
}

impl<P: Copy> Player<P> {
    /// Sets what plays; an announcement that was playing is replaced.
    pub fn set(&mut self, bed: Bed<P>) -> Option<Finished> {
        let ended = self.end(Outcome::Replaced);
        self.lay(bed);
        ended
    }

    /// Plays an announcement; one that was playing is replaced.
    pub fn announce(&mut self, announcement: Announcement<P>) -> Option<Finished> {
        let ended = self.end(Outcome::Replaced);
        self.playing = Some(Playing { announcement, index: 0, position: 0 });
        ended
    }

    /// A digit from the party.
    pub fn digit(&mut self) -> Option<Finished> {
        if self.playing.as_ref().is_some_and(|p| p.announcement.interruptible) {
            return self.finish(Outcome::Interrupted);
        }
        None
    }

    /// The announcement that plays, if any, ends with the endpoint.
    pub fn close(&mut self) -> Option<Finished> {
        self.end(Outcome::Replaced)
    }

    /// The party that is heard now; `None` while something is played here.
    #[inline]
    pub fn peer(&self) -> Option<P> {
        match (&self.playing, &self.bed) {
            (None, Bed::Peer(peer)) => Some(*peer),
            _ => None,
        }
    }

    /// What plays, or plays after the announcement.
    pub fn bed(&self) -> &Bed<P> {
        self.playing.as_ref().map_or(&self.bed, |p| &p.announcement.then)
    }

    /// The announcement that plays.
    pub fn announcement(&self) -> Option<&Announcement<P>> {
        self.playing.as_ref().map(|p| &p.announcement)
    }

    /// Replaces every mention of the party `gone` by silence, announcements' endings included.
    pub fn forget(&mut self, gone: impl Fn(P) -> bool) {
        if matches!(self.bed, Bed::Peer(peer) if gone(peer)) {
            self.bed = Bed::Silence;
        }
        if let Some(playing) = &mut self.playing
            && matches!(playing.announcement.then, Bed::Peer(peer) if gone(peer))
        {
            playing.announcement.then = Bed::Silence;
        }
    }

    fn lay(&mut self, bed: Bed<P>) {
        if let Bed::Music(name, _) = &bed
            && *name != self.music_name
        {
            self.music_name.clone_from(name);
            self.music_position = 0;
        }
        self.bed = bed;
    }

    fn end(&mut self, outcome: Outcome) -> Option<Finished> {
        self.playing.take().map(|p| Finished { token: p.announcement.token, outcome })
    }

    fn finish(&mut self, outcome: Outcome) -> Option<Finished> {
        let playing = self.playing.take()?;
        self.lay(playing.announcement.then);
        Some(Finished { token: playing.announcement.token, outcome })
    }

    /// Lets as many samples pass that nobody is sent; an announcement that ends within them is told.
    pub fn pass(&mut self, mut samples: usize) -> Option<Finished> {
        let mut finished = None;
        if let Some(playing) = &mut self.playing {
            if playing.announcement.over_music && matches!(self.bed, Bed::Music(..)) {
                self.music_position = self.music_position.wrapping_add(samples.min(playing.remaining()));
            }
            samples = playing.pass(samples);
            if playing.index < playing.announcement.prompts.len() {
                return None;
            }
            finished = self.finish(Outcome::Completed);
        }
        if let Bed::Music(..) = &self.bed {
            self.music_position = self.music_position.wrapping_add(samples);
        }
        finished
    }

    /// Samples until the end of the announcement that plays.
    pub fn remaining(&self) -> Option<usize> {
        self.playing.as_ref().map(Playing::remaining)
    }

    /// Makes the next frame, as long as `out` (at most [`MAX_FRAME_SAMPLES`]). An announcement that ends within it is
    /// told; the rest of the frame is what follows.
    #[inline]
    pub fn frame(&mut self, codec: Codec, out: &mut [u8]) -> (Frame, Option<Finished>) {
        let Some(playing) = &mut self.playing else {
            return (self.bed_frame(codec, out), None);
        };
        let over = playing.announcement.over_music && matches!(self.bed, Bed::Music(..));
        let mut filled = 0;
        while filled < out.len() {
            let Some(clip) = playing.announcement.prompts.get(playing.index) else { break };
            let take = (clip.len() - playing.position).min(out.len() - filled);
            let span = playing.position..playing.position + take;
            if over && let Bed::Music(_, music) = &self.bed {
                mix(
                    codec,
                    &clip.linear()[span],
                    music,
                    &mut self.music_position,
                    &mut out[filled..filled + take],
                );
            } else {
                out[filled..filled + take].copy_from_slice(&clip.law(codec)[span]);
            }
            filled += take;
            playing.position += take;
            if playing.position >= clip.len() {
                (playing.index, playing.position) = (playing.index + 1, 0);
            }
        }
        if playing.index < playing.announcement.prompts.len() {
            return (Frame::Audio, None);
        }
        let finished = self.finish(Outcome::Completed);
        if filled == 0 {
            return (self.bed_frame(codec, out), finished);
        }
        let rest = &mut out[filled..];
        if self.bed_frame(codec, rest) == Frame::Relayed {
            rest.fill(codec.silence());
        }
        (Frame::Audio, finished)
    }

    fn bed_frame(&mut self, codec: Codec, out: &mut [u8]) -> Frame {
        match &self.bed {
            Bed::Peer(_) => return Frame::Relayed,
            Bed::Silence => out.fill(codec.silence()),
            Bed::Tone(hz) => {
                let step = ((u64::from(*hz) << 32) / u64::from(crate::SAMPLE_RATE_HZ)) as u32;
                for byte in out {
                    *byte = codec.encode(sine(self.phase));
                    self.phase = self.phase.wrapping_add(step);
                }
            }
            Bed::Music(_, clip) => {
                let law = clip.law(codec);
                let mut filled = 0;
                looped(law.len(), &mut self.music_position, out.len(), |span| {
                    let to = filled + span.len();
                    out[filled..to].copy_from_slice(&law[span]);
                    filled = to;
                });
            }
        }
        Frame::Audio
    }
}

/// A prompt over lowered music.
fn mix(codec: Codec, prompt: &[i16], music: &Clip, position: &mut usize, out: &mut [u8]) {
    let music = music.linear();
    let mut filled = 0;
    looped(music.len(), position, out.len(), |span| {
        let to = filled + span.len();
        let both = prompt[filled..to].iter().zip(&music[span]);
        for (byte, (sample, below)) in out[filled..to].iter_mut().zip(both) {
            let sum = i32::from(*sample) + i32::from(*below) * DUCK.0 / DUCK.1;
            *byte = codec.encode(sum.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16);
        }
        filled = to;
    });
}

/// The next `count` samples of a loop of `len`, as pieces without its seam; moves the position on.
fn looped(len: usize, position: &mut usize, count: usize, mut piece: impl FnMut(Range<usize>)) {
    let mut left = count;
    while left > 0 {
        // A clip that was replaced by a shorter one may leave the position behind its end.
        let from = *position % len;
        let take = (len - from).min(left);
        piece(from..from + take);
        *position = (from + take) % len;
        left -= take;
    }
}

/// A sine of −10 dBFS; `phase` is a full turn in 2^32.
fn sine(phase: u32) -> i16 {
    let turn = f64::from(phase) / 4_294_967_296.0;
    ((turn * std::f64::consts::TAU).sin() * 10_000.0) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(samples: impl IntoIterator<Item = i16>) -> Arc<Clip> {
        Arc::new(Clip::new(samples.into_iter().collect()).unwrap())
    }

    fn announcement(prompts: Vec<Arc<Clip>>, then: Bed<u8>) -> Announcement<u8> {
        Announcement {
            names: vec![String::new(); prompts.len()],
            prompts,
            then,
            token: "t".into(),
            interruptible: true,
            over_music: false,
        }
    }

    #[test]
    fn music_loops_without_a_seam_and_goes_on_where_it_stopped() {
        let ramp = clip((0..250).map(|n| n * 100));
        let mut player = Player::<u8>::default();
        player.set(Bed::Music("hold".into(), ramp.clone()));
        let mut heard = Vec::new();
        for n in 0..10 {
            let mut out = [0u8; 160];
            assert_eq!(player.frame(Codec::Pcma, &mut out).0, Frame::Audio);
            heard.extend(out);
            if n == 4 {
                player.set(Bed::Peer(3));
                assert_eq!(player.frame(Codec::Pcma, &mut out).0, Frame::Relayed);
                player.set(Bed::Music("hold".into(), ramp.clone()));
            }
        }
        let law = ramp.law(Codec::Pcma);
        assert!(heard.iter().enumerate().all(|(n, b)| *b == law[n % 250]));
    }

    #[test]
    fn prompts_follow_each_other_to_the_sample_and_finish_once() {
        let mut player = Player::<u8>::default();
        player
            .announce(announcement(vec![clip(vec![1_000; 200]), clip(vec![-1_000; 100])], Bed::Tone(1_000)));
        let (mut heard, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let mut out = [0u8; 160];
            ends.extend(player.frame(Codec::Pcmu, &mut out).1);
            heard.extend(out.map(|b| Codec::Pcmu.decode(b)));
        }
        assert!(heard[..200].iter().all(|s| *s > 900) && heard[200..300].iter().all(|s| *s < -900));
        assert!(heard[300..].iter().any(|s| *s > 5_000), "the tone follows at once");
        assert_eq!(ends, [Finished { token: "t".into(), outcome: Outcome::Completed }]);
    }

    #[test]
    fn a_digit_interrupts_only_what_may_be_interrupted() {
        let mut player = Player::<u8>::default();
        player.announce(announcement(vec![clip(vec![1; 10_000])], Bed::Peer(9)));
        assert_eq!(player.peer(), None);
        assert_eq!(player.digit().map(|f| f.outcome), Some(Outcome::Interrupted));
        assert_eq!((player.peer(), player.digit()), (Some(9), None));
        player.announce(Announcement {
            interruptible: false,
            ..announcement(vec![clip(vec![1; 10])], Bed::Silence)
        });
        assert_eq!(player.digit(), None);
        assert_eq!(player.set(Bed::Silence).map(|f| f.outcome), Some(Outcome::Replaced));
    }

    #[test]
    fn a_prompt_over_music_leaves_the_music_audible_below() {
        let mut player = Player::<u8>::default();
        player.set(Bed::Music("m".into(), clip(vec![10_000; 160])));
        player.announce(Announcement {
            over_music: true,
            ..announcement(vec![clip(vec![8_000; 160])], Bed::Silence)
        });
        let mut out = [0u8; 160];
        player.frame(Codec::Pcmu, &mut out);
        let heard = Codec::Pcmu.decode(out[80]);
        assert!((9_600..10_400).contains(&heard), "{heard}");
    }

    #[test]
    fn what_nobody_is_sent_passes_as_if_it_had_been_made() {
        let music = clip((0..250).map(|n| n * 100));
        let started = || {
            let mut player = Player::<u8>::default();
            player.set(Bed::Music("hold".into(), music.clone()));
            player.announce(Announcement {
                over_music: true,
                ..announcement(
                    vec![clip(vec![1_000; 200]), clip(vec![-1_000; 130])],
                    Bed::Music("hold".into(), music.clone()),
                )
            });
            player
        };
        for passed in [0, 1, 199, 200, 329, 330, 331, 480, 900] {
            let (mut heard, mut unheard) = (started(), started());
            let mut told = Vec::new();
            for n in 0..passed {
                assert_eq!(heard.remaining().unwrap_or(0), 330usize.saturating_sub(n));
                told.extend(heard.frame(Codec::Pcmu, &mut [0]).1);
            }
            // The end is told with the first sample after the last, or with the last that is passed.
            let end = unheard.pass(passed);
            assert_eq!(end.is_some(), passed >= 330);
            assert!(told.is_empty() || told[0] == end.unwrap());
            let mut out = ([0; 160], [0; 160]);
            heard.frame(Codec::Pcmu, &mut out.0);
            unheard.frame(Codec::Pcmu, &mut out.1);
            assert_eq!(out.0, out.1, "after {passed}");
        }
    }

    #[test]
    fn a_party_that_is_gone_is_heard_no_more() {
        let mut player = Player::<u8>::default();
        player.announce(announcement(vec![clip(vec![1; 10])], Bed::Peer(4)));
        player.forget(|p| p == 4);
        assert!(matches!(player.bed(), Bed::Silence));
    }
}
