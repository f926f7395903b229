//! Keys as telephone events (RFC 4733).

use std::collections::VecDeque;

/// Payload type that our offers give to telephone events.
pub const PAYLOAD_TYPE: u8 = 101;
/// A key is held for this many packets: 100 ms.
const HELD: u16 = 5;
/// The end is sent this often (section 2.5.1.4).
const ENDS: u16 = 3;
/// Packets between two keys.
const PAUSE: u16 = 5;
/// Samples of a packet.
const SAMPLES: u16 = 160;
/// Volume, dBm0 below zero.
const VOLUME: u8 = 10;

/// Keys that wait to be sent and the one that is being sent.
#[derive(Debug, Default)]
pub struct Keypad {
    waiting: VecDeque<u8>,
    now: Option<(u8, u16)>,
}

/// What a packet carries in place of audio.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// The first packet of a key.
    pub first: bool,
    /// Packets since the first: its timestamp is that of the first packet.
    pub since: u16,
    /// Event, flags and volume, duration.
    pub payload: [u8; 4],
}

impl Keypad {
    /// Presses keys one after the other; others than 0–9, *, # and A–D are passed over.
    pub fn press(&mut self, keys: &str) {
        self.waiting.extend(keys.chars().filter_map(code));
    }

    /// What the next packet carries; `None` = audio.
    pub fn packet(&mut self) -> Option<Event> {
        let (code, n) = match self.now {
            Some(now) => now,
            None => (self.waiting.pop_front()?, 0),
        };
        self.now = (n + 1 < HELD + ENDS + PAUSE).then_some((code, n + 1));
        if n >= HELD + ENDS {
            return None;
        }
        let end = n >= HELD;
        let [high, low] = ((n + 1).min(HELD) * SAMPLES).to_be_bytes();
        Some(Event { first: n == 0, since: n, payload: [code, u8::from(end) << 7 | VOLUME, high, low] })
    }
}

fn code(key: char) -> Option<u8> {
    let position = "0123456789*#ABCD".find(key)?;
    u8::try_from(position).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 4733 wants it: one timestamp, rising duration, the end three times with the last duration.
    #[test]
    fn a_key_is_held_and_its_end_is_repeated() {
        let mut keypad = Keypad::default();
        keypad.press("#x1");
        let packets: Vec<Option<Event>> = (0..30).map(|_| keypad.packet()).collect();
        let events: Vec<&Event> = packets.iter().flatten().collect();
        assert_eq!(events.len(), 16, "two keys of eight packets; x is none");
        assert!(events[..8].iter().all(|event| event.payload[0] == 11));
        assert!(events[8..].iter().all(|event| event.payload[0] == 1));
        assert_eq!(events.iter().filter(|event| event.first).count(), 2);
        let duration = |event: &Event| u16::from_be_bytes([event.payload[2], event.payload[3]]);
        assert_eq!(
            events[..8].iter().map(|e| duration(e)).collect::<Vec<_>>(),
            [160, 320, 480, 640, 800, 800, 800, 800]
        );
        assert_eq!(events[..8].iter().filter(|event| event.payload[1] & 0x80 != 0).count(), 3);
        assert!(packets[8..13].iter().all(Option::is_none), "a pause between two keys");
    }
}
