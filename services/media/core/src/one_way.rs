//! Whether a party's audio went one way only.

/// Fewer packets than this (2 s of them) tell nothing: whoever hangs up at once has sent none yet.
const TELLING: u64 = 100;
/// A party that reports to have lost so much of what it was sent hears nothing. In percent.
const DEAF: f64 = 95.0;

/// What went between a party and us.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Packets that it was sent.
    pub sent: u64,
    /// Packets that came from it and were believed.
    pub received: u64,
    /// What it has lost of ours by its last report, in percent.
    pub reported_loss: Option<f64>,
    /// It is to be sent audio.
    pub sends: bool,
    /// It is to send audio.
    pub receives: bool,
}

/// What was missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// It was sent audio, and nothing came from it.
    Received,
    /// Audio came from it, and nothing went to it or arrived there.
    Sent,
}

/// What was missing of a party whose audio was to go both ways; none: nothing, or there was too little to tell. A party
/// that is only to listen, or only to speak, by its own description misses nothing.
pub fn missing(traffic: &Traffic) -> Option<Missing> {
    let Traffic { sent, received, reported_loss, sends, receives } = *traffic;
    if !(sends && receives) {
        return None;
    }
    let deaf = reported_loss.is_some_and(|percent| percent >= DEAF);
    if received == 0 && sent >= TELLING {
        return Some(Missing::Received);
    }
    (received >= TELLING && (sent == 0 || deaf)).then_some(Missing::Sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Traffic =
        Traffic { sent: 500, received: 500, reported_loss: Some(0.5), sends: true, receives: true };

    #[test]
    fn audio_that_goes_one_way_is_told_by_the_way_that_is_missing() {
        assert_eq!(missing(&BOTH), None);
        assert_eq!(missing(&Traffic { received: 0, ..BOTH }), Some(Missing::Received));
        assert_eq!(missing(&Traffic { sent: 0, reported_loss: None, ..BOTH }), Some(Missing::Sent));
        assert_eq!(missing(&Traffic { reported_loss: Some(99.6), ..BOTH }), Some(Missing::Sent));
        assert_eq!(missing(&Traffic { reported_loss: Some(30.0), ..BOTH }), None, "bad is not silent");
    }

    #[test]
    fn what_was_not_meant_or_is_too_short_misses_nothing() {
        let silent = Traffic { received: 0, ..BOTH };
        assert_eq!(missing(&Traffic { receives: false, ..silent }), None, "it only listens");
        assert_eq!(missing(&Traffic { sends: false, sent: 0, ..BOTH }), None, "it only speaks");
        assert_eq!(missing(&Traffic { sent: TELLING - 1, ..silent }), None, "it hung up at once");
        assert_eq!(missing(&Traffic { sent: 0, ..silent }), None, "there was no audio at all");
    }
}
