//! The voice of one call: sends speech and keys, measures what is heard.
//!
//! One task for each call owns the socket. It sends a packet every 20 ms once it knows where to, keeps sequence numbers
//! and time stamps through holds (RFC 3550 section 5.1), and tells its call about what the caller would notice.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use super::{
    audio::{Law, Speech},
    listen::{Heard, Listener, Tape},
};

/// Samples in a packet of 20 ms.
pub const FRAME: usize = 160;
/// Pause before speech is repeated: 2 s.
const REPEAT_PAUSE: usize = 100;
/// Frames that one pressed key lasts (160 ms), and the silence after it (100 ms).
const KEY_FRAMES: u16 = 8;
const KEY_PAUSE: u16 = 5;
/// Without a packet for so long, the caller hears nothing.
const DEAF: Duration = Duration::from_secs(2);

/// What to send and where; changed by offers and answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// Where to.
    pub remote: SocketAddr,
    /// Codec.
    pub law: Law,
    /// Payload type of telephone-event, if the other side has it.
    pub events: Option<u8>,
    /// The payload type that we gave telephone-event.
    pub our_events: u8,
    /// The other side listens.
    pub send: bool,
    /// The call is answered: speech and keys may begin.
    pub talk: bool,
}

/// What the caller notices.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Noticed {
    /// The first audio packet.
    Audio,
    /// No packet for two seconds.
    Quiet,
    /// Packets again after so long.
    Back(Duration),
    /// A key was received (RFC 4733).
    Key(char),
    /// All keys are sent.
    DigitsSent,
    /// The other side has no telephone-event: keys cannot be sent.
    DigitsImpossible,
    /// Everything that was to be said is said, and keys are sent.
    Said,
}

/// What a call says.
#[derive(Clone, Debug)]
pub struct Script {
    /// Speech.
    pub speech: Speech,
    /// Once, or again and again.
    pub once: bool,
    /// Keys, with commas.
    pub digits: String,
    /// Where to write what was said and heard.
    pub record: Option<PathBuf>,
}

/// Telephone events by RFC 4733 section 3.2.
pub fn event_of(key: char) -> Option<u8> {
    "0123456789*#ABCD".find(key.to_ascii_uppercase()).and_then(|index| u8::try_from(index).ok())
}

/// The task of one call's voice. Ends when `session` is dropped.
pub async fn run(
    socket: UdpSocket,
    script: Script,
    mut session: watch::Receiver<Option<Session>>,
    noticed: mpsc::Sender<Noticed>,
) -> Heard {
    let mut tape = script.record.as_deref().map(Tape::create);
    let mut voice = Voice::new(&script);
    let mut listener = Listener::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut buffer, mut quiet) = ([0u8; 2_048], false);
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, _)) = received else { continue };
                let (last, now) = (listener.last(), Instant::now());
                let Some(packet) = listener.packet(now, buffer.get(..length).unwrap_or_default()) else { continue };
                match last {
                    None => tell(&noticed, Noticed::Audio),
                    Some(last) if quiet => tell(&noticed, Noticed::Back(now - last)),
                    Some(_) => {}
                }
                quiet = false;
                if let Some(key) = packet {
                    tell(&noticed, Noticed::Key(key));
                }
            }
            _ = ticks.tick() => {
                let now = *session.borrow();
                let packet = now.and_then(|now| voice.packet(now, &noticed));
                if let (Some(packet), Some(now)) = (&packet, now)
                    && socket.try_send_to(packet, now.remote).is_ok()
                {
                    listener.heard.sent += 1;
                }
                if let Some(tape) = &mut tape {
                    tape.frame(&voice.said, listener.play());
                }
                if !quiet && listener.last().is_some_and(|last| last.elapsed() > DEAF) {
                    quiet = true;
                    tell(&noticed, Noticed::Quiet);
                }
            }
            changed = session.changed() => {
                if changed.is_err() {
                    break;
                }
                listener.events = session.borrow().map(|now| now.our_events).or(listener.events);
            }
        }
    }
    listener.heard.tape = tape.map(Tape::finish);
    listener.heard
}

/// A call that does not look loses a progress line, nothing else.
fn tell(noticed: &mpsc::Sender<Noticed>, what: Noticed) {
    let _ = noticed.try_send(what);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    /// This many frames of pause are left.
    Pause(u16),
    /// Sending frame `0..` of this event, which began at this time stamp; three end packets, then a pause.
    Press { event: u8, frame: u16, began: u32 },
}

/// What goes out, frame by frame.
struct Voice<'a> {
    script: &'a Script,
    said: [i16; FRAME],
    position: usize,
    pause: usize,
    keys: std::str::Chars<'a>,
    key: Option<Key>,
    digits_done: bool,
    told_said: bool,
    spoke: bool,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
}

impl<'a> Voice<'a> {
    fn new(script: &'a Script) -> Self {
        Self {
            script,
            said: [0; FRAME],
            position: 0,
            pause: 0,
            keys: script.digits.chars(),
            key: None,
            digits_done: script.digits.is_empty(),
            told_said: false,
            spoke: false,
            ssrc: rand::random(),
            sequence: rand::random(),
            timestamp: rand::random(),
        }
    }

    /// The packet of this tick. Time passes in any case; what is to be said waits while nobody listens.
    fn packet(&mut self, now: Session, noticed: &mpsc::Sender<Noticed>) -> Option<Vec<u8>> {
        self.timestamp = self.timestamp.wrapping_add(FRAME as u32);
        self.said = [0; FRAME];
        if !now.send {
            self.spoke = false;
            return None;
        }
        if now.talk {
            if let Some(packet) = self.keys(now, noticed) {
                return Some(packet);
            }
            self.speak();
            if self.digits_done && self.is_said() && !self.told_said {
                self.told_said = true;
                tell(noticed, Noticed::Said);
            }
        }
        let mut packet = self.header(now.law.payload_type(), !self.spoke, self.timestamp);
        packet.extend(self.said.iter().map(|sample| now.law.encode(*sample)));
        self.spoke = true;
        Some(packet)
    }

    fn is_said(&self) -> bool {
        self.script.once && self.position >= self.script.speech.samples.len()
    }

    fn speak(&mut self) {
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        let rest = self.script.speech.samples.get(self.position..).unwrap_or_default();
        for (said, sample) in self.said.iter_mut().zip(rest) {
            *said = *sample;
        }
        self.position += FRAME;
        if self.position >= self.script.speech.samples.len() && !self.script.once {
            (self.position, self.pause) = (0, REPEAT_PAUSE);
        }
    }

    /// A packet of a pressed key, which replaces audio (RFC 4733 section 2.5.1.2).
    fn keys(&mut self, now: Session, noticed: &mpsc::Sender<Noticed>) -> Option<Vec<u8>> {
        if self.digits_done {
            return None;
        }
        let Some(events) = now.events else {
            self.digits_done = true;
            tell(noticed, Noticed::DigitsImpossible);
            return None;
        };
        match self.key {
            None => {
                self.key = match self.keys.next() {
                    Some(',') => Some(Key::Pause(50)),
                    Some(key) => {
                        event_of(key).map(|event| Key::Press { event, frame: 0, began: self.timestamp })
                    }
                    None => {
                        self.digits_done = true;
                        tell(noticed, Noticed::DigitsSent);
                        None
                    }
                };
                if matches!(self.key, Some(Key::Press { .. })) { self.keys(now, noticed) } else { None }
            }
            Some(Key::Pause(left)) => {
                self.key = left.checked_sub(1).filter(|left| *left > 0).map(Key::Pause);
                None
            }
            Some(Key::Press { event, frame, began }) => {
                let end = frame + 1 >= KEY_FRAMES;
                let duration = (frame + 1).min(KEY_FRAMES) * FRAME as u16;
                let mut packet = self.header(events, frame == 0, began);
                packet.extend([event, if end { 0x80 | 10 } else { 10 }]);
                packet.extend(duration.to_be_bytes());
                // The end is sent three times, for a network that loses packets.
                self.key = Some(if frame + 1 >= KEY_FRAMES + 2 {
                    self.spoke = false;
                    Key::Pause(KEY_PAUSE)
                } else {
                    Key::Press { event, frame: frame + 1, began }
                });
                Some(packet)
            }
        }
    }

    fn header(&mut self, payload_type: u8, marker: bool, timestamp: u32) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = Vec::with_capacity(12 + FRAME);
        packet.extend([0x80, payload_type | if marker { 0x80 } else { 0 }]);
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(events: Option<u8>) -> Session {
        Session {
            remote: ([127, 0, 0, 1], 9).into(),
            law: Law::Mu,
            events,
            our_events: 101,
            send: true,
            talk: true,
        }
    }

    fn script(samples: usize, once: bool, digits: &str) -> Script {
        let speech = Speech { name: "x".into(), samples: vec![1_000; samples].into() };
        Script { speech, once, digits: digits.into(), record: None }
    }

    /// Two keys with a second between: each one event with one time stamp, three end packets, rising duration.
    #[test]
    fn keys_are_telephone_events_with_three_ends() {
        let script = script(8_000, false, "1,#");
        let (sender, mut noticed) = mpsc::channel(8);
        let mut voice = Voice::new(&script);
        let packets: Vec<_> = (0..150).filter_map(|_| voice.packet(session(Some(101)), &sender)).collect();
        let events: Vec<_> = packets.iter().filter(|packet| packet[1] & 0x7f == 101).collect();
        assert_eq!(events.len(), 20, "two keys of eight frames, the last three times");
        let (one, hash) = events.split_at(10);
        for (key, event) in [(one, 1), (hash, 11)] {
            assert!(key.iter().all(|packet| packet[12] == event && packet[4..8] == key[0][4..8]));
            assert_eq!(key.iter().filter(|packet| packet[13] & 0x80 != 0).count(), 3);
            assert_eq!(key.iter().map(|packet| packet[1] >> 7).sum::<u8>(), 1, "one marker");
            assert_eq!(&key[9][14..16], &1_280u16.to_be_bytes());
        }
        let numbers: Vec<u16> =
            packets.iter().map(|packet| u16::from_be_bytes([packet[2], packet[3]])).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "no gap in sequence");
        assert_eq!(noticed.try_recv().unwrap(), Noticed::DigitsSent);
    }

    #[test]
    fn speech_is_said_once_or_repeated_after_a_pause() {
        let (sender, mut noticed) = mpsc::channel(8);
        let once = script(320, true, "");
        let mut voice = Voice::new(&once);
        let loud = |voice: &mut Voice<'_>| {
            let packet = voice.packet(session(None), &sender).unwrap();
            packet[12..].iter().any(|octet| *octet != 0xff)
        };
        let heard: Vec<bool> = (0..4).map(|_| loud(&mut voice)).collect();
        assert_eq!(heard, [true, true, false, false]);
        assert_eq!(noticed.try_recv().unwrap(), Noticed::Said);
        let again = script(160, false, "");
        let mut voice = Voice::new(&again);
        let heard = (0..=REPEAT_PAUSE + 1).filter(|_| loud(&mut voice)).count();
        assert_eq!(heard, 2);
    }

    /// While the other side holds, nothing is sent, the clock runs on, and the sequence has no gap.
    #[test]
    fn hold_pauses_the_speech_and_keeps_the_numbers() {
        let (sender, _noticed) = mpsc::channel(8);
        let script = script(8_000, true, "");
        let mut voice = Voice::new(&script);
        let first = voice.packet(session(None), &sender).unwrap();
        for _ in 0..9 {
            assert!(voice.packet(Session { send: false, ..session(None) }, &sender).is_none());
        }
        let next = voice.packet(session(None), &sender).unwrap();
        let number = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
        let time = |packet: &[u8]| u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        assert_eq!(number(&next), number(&first).wrapping_add(1));
        assert_eq!(time(&next), time(&first).wrapping_add(1_600));
        assert_eq!((next[1] >> 7, voice.position), (1, 2 * FRAME));
    }
}
