use std::{collections::VecDeque, sync::Arc};

use super::protocol::MAX_UNACKNOWLEDGED;

/// Bytes kept until they are acknowledged.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A frame without its number, which is given when it is sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    /// Type.
    pub(super) kind: &'static str,
    /// Id of the client's frame that it answers.
    pub(super) re: Option<Arc<str>>,
    /// Data as JSON text.
    pub(super) data: Arc<str>,
}

impl Frame {
    fn text(&self, seq: u64) -> String {
        let re = match &self.re {
            // A JSON string: ids are the client's and may hold anything.
            Some(re) => format!(r#","re":{}"#, serde_json::Value::from(re.as_ref())),
            None => String::new(),
        };
        format!(r#"{{"seq":{seq},"type":"{}","data":{}{re}}}"#, self.kind, self.data)
    }

    fn bytes(&self) -> usize {
        self.data.len() + 96
    }
}

/// Numbers frames without gaps and keeps them until they are acknowledged, within bounds. Frames are numbered by their
/// place: the first one kept has the number `first`.
#[derive(Debug)]
pub(super) struct Outbox {
    frames: VecDeque<Frame>,
    first: u64,
    /// How many of `frames`, from the front, the present socket has got.
    sent: usize,
    bytes: usize,
    overflowed: bool,
}

/// The client acknowledged what it cannot have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeverSent {
    /// The last number sent.
    pub(super) last: u64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { frames: VecDeque::new(), first: 1, sent: 0, bytes: 0, overflowed: false }
    }
}

impl Outbox {
    /// Adds a frame. False: there is no room; everything kept is dropped, and the session can only go on from a
    /// snapshot.
    pub(super) fn push(&mut self, frame: Frame) -> bool {
        if self.overflowed {
            return false;
        }
        if self.frames.len() >= MAX_UNACKNOWLEDGED || self.bytes + frame.bytes() > MAX_BYTES {
            *self = Self { overflowed: true, ..Self::default() };
            return false;
        }
        self.bytes += frame.bytes();
        self.frames.push_back(frame);
        true
    }

    /// At most `max` frames that the socket has not got yet.
    pub(super) fn take(&mut self, max: usize) -> Vec<String> {
        let from = self.sent;
        let until = self.frames.len().min(from + max);
        self.sent = until;
        self.frames.range(from..until).zip(from as u64..).map(|(f, at)| f.text(self.first + at)).collect()
    }

    /// Forgets frames up to `seq`.
    pub(super) fn acknowledge(&mut self, seq: u64) -> Result<(), NeverSent> {
        let last = self.first + self.sent as u64 - 1;
        if seq > last {
            return Err(NeverSent { last });
        }
        while self.first <= seq {
            if let Some(frame) = self.frames.pop_front() {
                self.bytes -= frame.bytes();
            }
            self.first += 1;
            self.sent -= 1;
        }
        Ok(())
    }

    /// Goes on after `last_seq` for a new socket: `welcome` gets the next number, what was not seen follows with new
    /// numbers. False: frames after `last_seq` are not all there, or were never sent.
    pub(super) fn resume(&mut self, last_seq: u64, welcome: Frame) -> bool {
        let known = !self.overflowed && last_seq + 1 >= self.first && self.acknowledge(last_seq).is_ok();
        if known {
            self.sent = 0;
            self.bytes += welcome.bytes();
            self.frames.push_front(welcome);
        }
        known
    }

    /// Begins again at 1.
    pub(super) fn restart(&mut self, welcome: Frame) {
        *self = Self::default();
        self.push(welcome);
    }

    /// Whether frames were dropped.
    pub(super) fn is_overflowed(&self) -> bool {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use serde_json::Value;

    use super::*;

    fn frame(n: u64) -> Frame {
        Frame { kind: "ring", re: None, data: format!("{n}").into() }
    }

    fn seq_and_data(text: &str) -> (u64, u64) {
        let value: Value = serde_json::from_str(text).unwrap();
        (value["seq"].as_u64().unwrap(), value["data"].as_u64().unwrap())
    }

    /// A client that loses its socket at random places sees numbers without gaps and each frame once, in order.
    #[test]
    fn nothing_is_lost_or_doubled_over_resumptions() {
        for seed in 0..2_000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut outbox = Outbox::default();
            let (mut pushed, mut seen, mut last_seq) = (0, Vec::new(), 0);
            for _ in 0..200 {
                match rng.random_range(0..10) {
                    0..4 => {
                        pushed += 1;
                        assert!(outbox.push(frame(pushed)));
                    }
                    4..7 => {
                        for text in outbox.take(rng.random_range(0..4)) {
                            // The socket may die with frames on the way.
                            if rng.random_bool(0.1) {
                                break;
                            }
                            let (seq, data) = seq_and_data(&text);
                            if seq == last_seq + 1 {
                                last_seq = seq;
                                seen.extend((data != 0).then_some(data));
                            }
                        }
                    }
                    7..9 => outbox.acknowledge(last_seq).unwrap(),
                    _ => assert!(outbox.resume(last_seq, frame(0)), "seed {seed}"),
                }
            }
            assert!(outbox.resume(last_seq, frame(0)));
            for text in outbox.take(1_000) {
                let (seq, data) = seq_and_data(&text);
                assert_eq!(seq, last_seq + 1, "seed {seed}");
                last_seq = seq;
                seen.extend((data != 0).then_some(data));
            }
            assert_eq!(seen, (1..=pushed).collect::<Vec<_>>(), "seed {seed}");
        }
    }

    #[test]
    fn an_overflow_is_noticed_and_ends_only_with_a_restart() {
        let mut outbox = Outbox::default();
        for n in 0..MAX_UNACKNOWLEDGED as u64 {
            assert!(outbox.push(frame(n)));
        }
        assert!(!outbox.push(frame(1)) && outbox.is_overflowed());
        assert!(!outbox.resume(0, frame(1)));
        outbox.restart(frame(7));
        assert_eq!(outbox.take(10).len(), 1);
    }

    #[test]
    fn what_was_not_sent_cannot_be_acknowledged() {
        let mut outbox = Outbox::default();
        outbox.push(frame(1));
        assert_eq!(outbox.acknowledge(1), Err(NeverSent { last: 0 }));
        outbox.take(1);
        assert_eq!(outbox.acknowledge(1), Ok(()));
        assert_eq!(outbox.acknowledge(1), Ok(()), "twice is fine");
        assert!(!outbox.resume(0, frame(1)), "acknowledged frames are gone");
        assert!(!outbox.resume(9, frame(1)), "the client is from another life");
    }

    #[test]
    fn ids_of_clients_are_escaped() {
        let frame = Frame { kind: "result", re: Some("\"}<script>".into()), data: "{}".into() };
        let value: Value = serde_json::from_str(&frame.text(1)).unwrap();
        assert_eq!(value["re"], "\"}<script>");
    }
}
