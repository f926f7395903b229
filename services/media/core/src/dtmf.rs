//! DTMF as telephone events (RFC 4733), both ways. Events 0 to 15 only; volume is ignored.

use std::collections::VecDeque;
use std::time::Duration;

use crate::SAMPLE_RATE_HZ;

/// Bytes of an event payload.
pub const PAYLOAD_BYTES: usize = 4;
/// Longest text of digits taken at once.
pub const MAX_DIGITS: usize = 64;
/// Most digits and pauses that may wait to be sent.
const MAX_QUEUED: usize = 4 * MAX_DIGITS;
/// What `,` stands for.
const PAUSE: Duration = Duration::from_secs(1);
/// Volume sent, in −dBm0.
const VOLUME: u8 = 10;
/// How often the end of an event is sent (RFC 4733 section 2.5.1.4).
const END_PACKETS: u8 = 3;

/// A key, by its event code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digit(u8);

impl Digit {
    const KEYS: &'static [u8; 16] = b"0123456789*#ABCD";

    /// The event code, 0 to 15.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// From an event code.
    pub fn from_code(code: u8) -> Option<Self> {
        (code < 16).then_some(Self(code))
    }

    /// From `0-9 * # A-D` (or `a-d`).
    pub fn from_char(key: char) -> Option<Self> {
        let upper = u8::try_from(key).ok()?.to_ascii_uppercase();
        Self::KEYS.iter().position(|k| *k == upper).map(|code| Self(code as u8))
    }

    /// `0-9 * # A-D`.
    pub fn as_char(self) -> char {
        char::from(Self::KEYS[usize::from(self.0 & 15)])
    }
}

/// The content of one event packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Event {
    code: u8,
    end: bool,
    duration: u16,
}

impl Event {
    fn read(payload: &[u8]) -> Option<Self> {
        match payload {
            [code, flags, high, low, ..] => Some(Self {
                code: *code,
                end: flags & 0x80 != 0,
                duration: u16::from_be_bytes([*high, *low]),
            }),
            _ => None,
        }
    }

    fn write(self) -> [u8; PAYLOAD_BYTES] {
        let [high, low] = self.duration.to_be_bytes();
        [self.code, if self.end { 0x80 | VOLUME } else { VOLUME }, high, low]
    }
}

/// A key press that has just been noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pressed {
    /// Which key.
    pub digit: Digit,
    /// Its duration as far as the packet that was noticed tells.
    pub duration: Duration,
}

/// Counts each event once, by its timestamp, whichever of its packets arrive.
#[derive(Clone, Debug, Default)]
pub struct Receiver {
    last: Option<(u32, u32)>,
}

impl Receiver {
    /// Takes one packet of the negotiated event payload type; gives the key at the first packet of each event.
    pub fn packet(&mut self, ssrc: u32, timestamp: u32, payload: &[u8]) -> Option<Pressed> {
        let event = Event::read(payload)?;
        let digit = Digit::from_code(event.code)?;
        if let Some((last_ssrc, last_timestamp)) = self.last {
            // The same event again, or a late packet of one before it.
            let ahead = timestamp.wrapping_sub(last_timestamp) as i32;
            if last_ssrc == ssrc && (ahead == 0 || (ahead < 0 && ahead > -(60 * SAMPLE_RATE_HZ as i32))) {
                return None;
            }
        }
        self.last = Some((ssrc, timestamp));
        let duration = Duration::from_micros(u64::from(event.duration) * 125);
        Some(Pressed { digit, duration })
    }
}

#[derive(Clone, Copy, Debug)]
enum Item {
    Press {
        code: u8,
        samples: u32,
        gap: u32,
    },
    Pause {
        samples: u32,
    },
    /// All digits of one command are out.
    Done {
        token: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Pressing { code: u8, total: u32, sent: u32, gap: u32, ends: u8 },
    Waiting { left: u32 },
}

/// What the sender wants to happen in this packet interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing to send: the program goes on.
    Idle,
    /// Between digits: the program may be heard.
    Gap,
    /// An event packet. `first`: take a new timestamp and set the marker; otherwise the event's timestamp stays.
    /// `last`: the event is over after this one.
    Packet {
        /// The payload.
        payload: [u8; PAYLOAD_BYTES],
        /// First packet of the event.
        first: bool,
        /// Last packet of the event.
        last: bool,
        /// Samples the event has lasted.
        duration: u16,
    },
    /// All digits of the command with this token are out; ask again.
    Done(u64),
}

/// Why digits were not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DigitsError {
    /// A character that is no key.
    #[error("digits has {0:?}: use 0-9, *, #, A-D, and ',' for a pause")]
    NotAKey(char),
    /// Nothing, or too much at once.
    #[error("digits must have 1 to {MAX_DIGITS} characters")]
    Length,
    /// Too much waits already.
    #[error("more than {MAX_QUEUED} digits are waiting: send them after digits_sent")]
    Full,
    /// Duration or gap out of bounds.
    #[error("duration_ms must be 40 to 6000 and gap_ms 30 to 6000 (0 = default)")]
    Bounds,
}

/// Sends digits, one packet per packet interval.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: VecDeque<Item>,
    state: State,
}

impl Default for Sender {
    fn default() -> Self {
        Self { queue: VecDeque::new(), state: State::Idle }
    }
}

impl Sender {
    /// Queues `digits`, all or none. Zero durations stand for 100 ms and 60 ms.
    ///
    /// # Errors
    /// [`DigitsError`], naming what to change.
    pub fn push(
        &mut self,
        digits: &str,
        duration_ms: u32,
        gap_ms: u32,
        token: u64,
    ) -> Result<(), DigitsError> {
        let duration_ms = if duration_ms == 0 { 100 } else { duration_ms };
        let gap_ms = if gap_ms == 0 { 60 } else { gap_ms };
        if !(40..=6_000).contains(&duration_ms) || !(30..=6_000).contains(&gap_ms) {
            return Err(DigitsError::Bounds);
        }
        if digits.is_empty() || digits.len() > MAX_DIGITS {
            return Err(DigitsError::Length);
        }
        if self.queue.len() + digits.len() >= MAX_QUEUED {
            return Err(DigitsError::Full);
        }
        if let Some(bad) = digits.chars().find(|c| *c != ',' && Digit::from_char(*c).is_none()) {
            return Err(DigitsError::NotAKey(bad));
        }
        for key in digits.chars() {
            self.queue.push_back(match Digit::from_char(key) {
                Some(digit) => Item::Press { code: digit.code(), samples: duration_ms * 8, gap: gap_ms * 8 },
                None => Item::Pause { samples: (PAUSE.as_millis() as u32) * 8 },
            });
        }
        self.queue.push_back(Item::Done { token });
        Ok(())
    }

    /// Whether [`Sender::step`] would give [`Step::Idle`].
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle) && self.queue.is_empty()
    }

    /// Advances by one packet of `samples`.
    pub fn step(&mut self, samples: u32) -> Step {
        loop {
            match &mut self.state {
                State::Pressing { code, total, sent, gap, ends } => {
                    let first = *sent == 0;
                    *sent = (*sent + samples).min(*total);
                    let end = *sent >= *total;
                    if end {
                        *ends += 1;
                    }
                    let duration = u16::try_from(*sent).unwrap_or(u16::MAX);
                    let payload = Event { code: *code, end, duration }.write();
                    let last = *ends >= END_PACKETS;
                    if last {
                        // The repeated ends have taken time of the gap already.
                        let left = gap.saturating_sub(u32::from(END_PACKETS - 1) * samples);
                        self.state = State::Waiting { left };
                    }
                    return Step::Packet { payload, first, last, duration };
                }
                State::Waiting { left } if *left > 0 => {
                    *left = left.saturating_sub(samples);
                    return Step::Gap;
                }
                State::Waiting { .. } => self.state = State::Idle,
                State::Idle => match self.queue.pop_front() {
                    None => return Step::Idle,
                    Some(Item::Done { token }) => return Step::Done(token),
                    Some(Item::Pause { samples }) => self.state = State::Waiting { left: samples },
                    Some(Item::Press { code, samples, gap }) => {
                        self.state = State::Pressing { code, total: samples, sent: 0, gap, ends: 0 };
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(sender: &mut Sender) -> Vec<Step> {
        let mut steps = Vec::new();
        while steps.len() < 10_000 {
            match sender.step(160) {
                Step::Idle => break,
                step => steps.push(step),
            }
        }
        steps
    }

    #[test]
    fn a_digit_is_five_packets_of_20_ms_the_last_of_them_three_times() {
        let mut sender = Sender::default();
        sender.push("5", 100, 60, 42).unwrap();
        let steps = drain(&mut sender);
        let packets: Vec<_> = steps
            .iter()
            .filter_map(|s| match s {
                Step::Packet { payload, first, last, duration } => {
                    Some((payload[1] & 0x80 != 0, *first, *last, *duration))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            packets,
            [
                (false, true, false, 160),
                (false, false, false, 320),
                (false, false, false, 480),
                (false, false, false, 640),
                (true, false, false, 800),
                (true, false, false, 800),
                (true, false, true, 800),
            ]
        );
        assert_eq!(steps.last(), Some(&Step::Done(42)));
        assert!(sender.is_idle());
    }

    #[test]
    fn end_packets_count_once_and_a_lost_beginning_does_not_lose_the_digit() {
        let mut receiver = Receiver::default();
        let end = Event { code: 7, end: true, duration: 800 }.write();
        let pressed = receiver.packet(1, 1_000, &end).unwrap();
        assert_eq!((pressed.digit.as_char(), pressed.duration), ('7', Duration::from_millis(100)));
        assert_eq!(receiver.packet(1, 1_000, &end), None);
        assert_eq!(receiver.packet(1, 840, &end), None, "late packet of an older event");
        assert!(receiver.packet(1, 3_000, &end).is_some(), "the same key again");
        assert!(receiver.packet(2, 1, &end).is_some(), "another source");
        assert_eq!(receiver.packet(2, 9_000, &[16, 0, 0, 0]), None, "flash is no key");
        assert_eq!(receiver.packet(2, 9_000, &[1, 0]), None, "cut");
    }

    #[test]
    fn what_is_no_digit_is_refused_with_the_reason() {
        let mut sender = Sender::default();
        assert_eq!(sender.push("12x", 0, 0, 1), Err(DigitsError::NotAKey('x')));
        assert_eq!(sender.push("", 0, 0, 1), Err(DigitsError::Length));
        assert_eq!(sender.push("1", 10, 0, 1), Err(DigitsError::Bounds));
        assert!(sender.is_idle());
        while sender.push(&"1".repeat(60), 0, 0, 1).is_ok() {}
        assert_eq!(sender.push(&"1".repeat(60), 0, 0, 1), Err(DigitsError::Full));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received_whatever_packets_are_lost(
            digits in "[0-9*#A-D,]{1,20}",
            lost in proptest::collection::vec(any::<bool>(), 400),
        ) {
            let mut sender = Sender::default();
            sender.push(&digits, 80, 40, 1).unwrap();
            let mut receiver = Receiver::default();
            let (mut heard, mut timestamp, mut event_timestamp) = (String::new(), 0u32, 0u32);
            let mut run = 0;
            for (n, step) in drain(&mut sender).into_iter().enumerate() {
                if let Step::Packet { payload, first, .. } = step {
                    if first { event_timestamp = timestamp; run = 0; }
                    // Not more than five of the (six) packets of an event in a row.
                    let drop = lost[n % lost.len()] && run < 5;
                    run += 1;
                    if !drop && let Some(p) = receiver.packet(9, event_timestamp, &payload) { heard.push(p.digit.as_char()); }
                }
                timestamp = timestamp.wrapping_add(160);
            }
            prop_assert_eq!(heard, digits.replace(',', ""));
        }
    }
}
