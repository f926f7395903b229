//! The decisions of the media room, without sockets, threads and clocks.
//!
//! Owns: G.711 and its transcoding ([`codec`]), reading and writing of RTP headers ([`rtp`]), what a listener is sent so
//! that sequence numbers and timestamps run on across program switches ([`outbound`]), reception statistics
//! ([`stats`]), MOS ([`emodel`]) and audio that goes one way ([`one_way`]), RTCP reports ([`rtcp`]), DTMF as telephone events ([`dtmf`]), which source is
//! believed ([`latch`]), programs of music and prompts ([`program`], [`clip`]), another packet duration than the
//! source's ([`repack`]), the stereo time line of a recording ([`timeline`], [`wav`]) and SDP offers and answers for
//! RTP/AVP ([`sdp`]).
//!
//! Refuses: I/O, clocks and randomness (the shell passes `now` and random seeds in), SRTP (the shell's WebRTC stack has
//! its own), video, T.38, codecs other than G.711.
//!
//! Called by `trunkline-media`. Everything that is called for each packet works in place: no allocation, no lock.
//!
//! RFC 3264 (offer/answer, but a single codec is answered), 3550 (sections 5, 6 and appendix A), 3551 (payload numbers
//! 0 and 8), 3605, 4733 (events 0 to 15; volume is ignored), 5761, 8866; ITU-T G.711, G.107.

pub mod clip;
pub mod codec;
pub mod dtmf;
pub mod emodel;
pub mod latch;
pub mod one_way;
pub mod outbound;
pub mod program;
pub mod repack;
pub mod rtcp;
pub mod rtp;
pub mod sdp;
pub mod stats;
pub mod timeline;
pub mod wav;

/// Samples a second of everything in this room.
pub const SAMPLE_RATE_HZ: u32 = 8_000;

/// Samples (and G.711 bytes) in the usual packet of 20 ms.
pub const FRAME_SAMPLES: usize = 160;

/// Samples in `micros` microseconds, rounded down; 0 for negative spans.
pub fn samples_in_micros(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0) / 125
}
