//! What callers hear and say: RTP of many calls on one socket, told apart by where it comes from.
//!
//! PCMU only. Sequence numbers, pauses and one tone are watched for each call, so that a test can say who heard what and
//! for how long nobody was heard.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::net::UdpSocket;

use crate::dtmf::{self, Keypad};

/// One packet is 20 ms.
pub const FRAME: Duration = Duration::from_millis(20);
/// Callers speak in turns within a frame, so that a crowd is no burst.
const TURNS: u32 = 4;
const SAMPLES: usize = 160;
/// A pause is at least this long: less is jitter of a busy machine.
const PAUSE: Duration = Duration::from_millis(200);
/// Pauses kept for each call; later ones only count for the longest.
const PAUSES: usize = 256;
/// A tone with this share of a packet's energy is heard.
const SHARE: f64 = 0.5;

/// What one party has heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Packets.
    pub packets: u64,
    /// Sequence numbers that never came, within one synchronisation source.
    pub lost: u64,
    /// Packets that came twice or too late.
    pub repeated: u64,
    /// Synchronisation sources, one after the other.
    pub sources: u32,
    /// The first packet.
    pub first: Option<Instant>,
    /// The last packet.
    pub last: Option<Instant>,
    /// The last packet with the tone.
    pub tone: Option<Instant>,
    /// Times without any packet.
    pub pauses: Vec<Pause>,
    /// Times without the tone after it was heard.
    pub tone_pauses: Vec<Pause>,
    source: u32,
    next: u16,
}

/// A time without something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The last packet before it.
    pub from: Instant,
    /// The first packet after it.
    pub to: Instant,
}

impl Pause {
    /// How long.
    pub fn length(&self) -> Duration {
        self.to - self.from
    }
}

impl Heard {
    /// Takes a packet; `hz` is the tone to listen for.
    pub fn packet(&mut self, now: Instant, packet: &[u8], hz: f64) {
        let Some((header, payload)) = header(packet) else { return };
        self.received(now, header, is_tone(payload, hz));
    }

    /// Takes a packet whose header has been read already.
    pub fn received(&mut self, now: Instant, header: Header, tone: bool) {
        self.packets += 1;
        self.first.get_or_insert(now);
        if self.sources == 0 || self.source != header.source {
            self.sources += 1;
            self.source = header.source;
        } else {
            let ahead = header.sequence.wrapping_sub(self.next);
            if ahead >= 0x8000 {
                self.repeated += 1;
                return;
            }
            self.lost += u64::from(ahead);
        }
        self.next = header.sequence.wrapping_add(1);
        note_pause(&mut self.pauses, self.last, now);
        self.last = Some(now);
        if tone {
            note_pause(&mut self.tone_pauses, self.tone, now);
            self.tone = Some(now);
        }
    }

    /// The longest time without a packet that ends after `since`, one that lasts until `now` included.
    pub fn longest(&self, since: Instant, now: Instant) -> Duration {
        longest(&self.pauses, self.last, since, now)
    }

    /// The same for the tone.
    pub fn longest_without_tone(&self, since: Instant, now: Instant) -> Duration {
        longest(&self.tone_pauses, self.tone, since, now)
    }
}

fn note_pause(pauses: &mut Vec<Pause>, last: Option<Instant>, now: Instant) {
    let Some(from) = last.filter(|last| now - *last >= PAUSE) else { return };
    if pauses.len() < PAUSES {
        pauses.push(Pause { from, to: now });
    }
}

fn longest(pauses: &[Pause], last: Option<Instant>, since: Instant, now: Instant) -> Duration {
    let ended = pauses.iter().filter(|pause| pause.to > since).map(Pause::length).max().unwrap_or_default();
    // Never heard at all: as long as it was waited for.
    let open = now.saturating_duration_since(last.unwrap_or(since));
    ended.max(open)
}

/// As much of an RTP header as is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sequence number.
    pub sequence: u16,
    /// Synchronisation source.
    pub source: u32,
}

/// Reads a packet without padding and extension; RTCP and others are none.
fn header(packet: &[u8]) -> Option<(Header, &[u8])> {
    let (head, payload) = packet.split_at_checked(12)?;
    let [first, second, s0, s1, _, _, _, _, c0, c1, c2, c3] = <[u8; 12]>::try_from(head).ok()?;
    let rtcp = (200..=207).contains(&second);
    if first >> 6 != 2 || rtcp {
        return None;
    }
    let header =
        Header { sequence: u16::from_be_bytes([s0, s1]), source: u32::from_be_bytes([c0, c1, c2, c3]) };
    Some((header, payload))
}

/// Whether most of a PCMU packet's energy is at `hz` (Goertzel).
pub fn is_tone(payload: &[u8], hz: f64) -> bool {
    if payload.len() < SAMPLES / 2 {
        return false;
    }
    let factor = 2.0 * (std::f64::consts::TAU * hz / 8_000.0).cos();
    let (mut one, mut two, mut energy) = (0.0_f64, 0.0_f64, 0.0_f64);
    for byte in payload {
        let sample = f64::from(expand(*byte));
        energy += sample * sample;
        (two, one) = (one, sample + factor * one - two);
    }
    let power = one * one + two * two - factor * one * two;
    let n = payload.len() as f64;
    // Of a pure tone, power is energy × n ÷ 2. Silence has no tone.
    energy / n > 10_000.0 && power > SHARE * energy * n / 2.0
}

/// ITU-T G.711 µ-law to linear.
fn expand(byte: u8) -> i32 {
    let byte = !byte;
    let magnitude = ((i32::from(byte & 0x0f) << 3) + 0x84) << ((byte & 0x70) >> 4);
    if byte & 0x80 == 0 { magnitude - 0x84 } else { 0x84 - magnitude }
}

/// Linear to ITU-T G.711 µ-law.
fn compress(sample: i16) -> u8 {
    let magnitude = (i32::from(sample).abs() + 0x84).min(0x7fff);
    let exponent = (7..=14).rev().find(|bit| magnitude & (1 << bit) != 0).unwrap_or(7) - 7;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
    let sign = if sample < 0 { 0x80 } else { 0 };
    !(sign | (exponent << 4) as u8 | mantissa as u8)
}

/// The packets of a tone, over and over.
#[derive(Debug)]
pub struct Voice {
    samples: Arc<[u8]>,
    at: usize,
    sequence: u16,
    time: u32,
    source: u32,
}

impl Voice {
    /// A tone; a whole number of its periods fits one second.
    pub fn tone(hz: u32) -> Self {
        Self { samples: samples(hz), at: 0, sequence: 0, time: 0, source: rand::random() }
    }

    /// The next 20 ms, without a header.
    pub fn payload(&mut self) -> &[u8] {
        let from = self.at;
        self.at = (self.at + SAMPLES) % self.samples.len();
        self.samples.get(from..from + SAMPLES).unwrap_or_default()
    }

    /// The next packet.
    pub fn packet(&mut self) -> Vec<u8> {
        let mut packet = self.header(0, self.time);
        packet.extend_from_slice(self.payload());
        packet
    }

    /// A packet's time without a packet: the clock goes on, the sequence does not (RFC 3550 section 5.1).
    fn pass(&mut self) {
        self.time = self.time.wrapping_add(SAMPLES as u32);
    }

    /// The next packet, with a key instead of the tone.
    fn key(&mut self, event: &dtmf::Event) -> Vec<u8> {
        let begun = self.time.wrapping_sub(u32::from(event.since) * SAMPLES as u32);
        let mut packet = self.header(u8::from(event.first) << 7 | dtmf::PAYLOAD_TYPE, begun);
        packet.extend(event.payload);
        packet
    }

    fn header(&mut self, marker_and_type: u8, time: u32) -> Vec<u8> {
        let mut packet = Vec::with_capacity(12 + SAMPLES);
        packet.extend([0x80, marker_and_type]);
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(time.to_be_bytes());
        packet.extend(self.source.to_be_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        self.time = self.time.wrapping_add(SAMPLES as u32);
        packet
    }
}

/// One second of a tone; a crowd shares it.
fn samples(hz: u32) -> Arc<[u8]> {
    static MADE: Mutex<BTreeMap<u32, Arc<[u8]>>> = Mutex::new(BTreeMap::new());
    let sample = |n: u32| {
        let phase = f64::from(n * hz % 8_000) / 8_000.0 * std::f64::consts::TAU;
        compress((phase.sin() * 8_000.0) as i16)
    };
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(made.entry(hz % 8_000).or_insert_with(|| (0..8_000).map(sample).collect()))
}

struct Party {
    to: SocketAddr,
    voice: Voice,
    speaks: bool,
    keypad: Keypad,
    heard: Heard,
}

#[derive(Default)]
struct Parties {
    by_index: HashMap<usize, Party>,
    by_source: HashMap<SocketAddr, usize>,
    /// What parties that are gone had heard.
    past: HashMap<usize, Heard>,
}

/// The ears and mouths of all callers.
pub struct Ears {
    socket: UdpSocket,
    local: SocketAddr,
    says: Vec<u32>,
    listens_for: f64,
    parties: Mutex<Parties>,
}

/// The tone of caller `index` when callers take turns in `tones`.
pub fn tone_of(tones: &[u32], index: usize) -> Option<u32> {
    tones.get(index.checked_rem(tones.len())?).copied()
}

impl Ears {
    /// Opens the socket. Callers say `says` Hz (None: they are silent) and listen for `listens_for` Hz.
    pub fn start(bind: IpAddr, says: Option<u32>, listens_for: u32) -> Result<Arc<Self>> {
        Self::crowd(bind, says.as_slice(), listens_for)
    }

    /// The same with several tones, which callers take in turns: who hears another caller's tone is connected to the
    /// wrong one. No tones: they are silent.
    pub fn crowd(bind: IpAddr, says: &[u32], listens_for: u32) -> Result<Arc<Self>> {
        let socket = crate::callers::socket(bind)?;
        let local = socket.local_addr()?;
        let ears = Self {
            socket,
            local,
            says: says.to_vec(),
            listens_for: f64::from(listens_for),
            parties: Mutex::default(),
        };
        let ears = Arc::new(ears);
        tokio::spawn(Self::run(Arc::downgrade(&ears)));
        Ok(ears)
    }

    /// Where they hear.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What a caller has heard so far.
    pub fn heard(&self, index: usize) -> Heard {
        let parties = self.parties();
        let heard = parties.by_index.get(&index).map(|party| &party.heard).or(parties.past.get(&index));
        heard.cloned().unwrap_or_default()
    }

    /// What a caller whose call is over had heard; it is forgotten.
    pub fn take(&self, index: usize) -> Heard {
        self.parties().past.remove(&index).unwrap_or_default()
    }

    /// A caller presses keys.
    pub fn press(&self, index: usize, keys: &str) {
        if let Some(party) = self.parties().by_index.get_mut(&index) {
            party.keypad.press(keys);
        }
    }

    /// A call's media is there now.
    pub fn listen(&self, index: usize, to: SocketAddr) {
        let mut parties = self.parties();
        let tone = tone_of(&self.says, index);
        let party = parties.by_index.entry(index).or_insert_with(|| Party {
            to,
            voice: Voice::tone(tone.unwrap_or_default()),
            speaks: tone.is_some(),
            keypad: Keypad::default(),
            heard: Heard::default(),
        });
        let old = std::mem::replace(&mut party.to, to);
        parties.by_source.remove(&old);
        parties.by_source.insert(to, index);
    }

    /// A call is over.
    pub fn leave(&self, index: usize) {
        let mut parties = self.parties();
        if let Some(party) = parties.by_index.remove(&index) {
            parties.by_source.remove(&party.to);
            parties.past.insert(index, party.heard);
        }
    }

    fn parties(&self) -> MutexGuard<'_, Parties> {
        self.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(ears: std::sync::Weak<Self>) {
        let mut ticks = tokio::time::interval(FRAME / TURNS);
        let mut turn = 0;
        let mut buffer = vec![0; 2_048];
        loop {
            let Some(ears) = ears.upgrade() else { return };
            tokio::select! {
                received = ears.socket.recv_from(&mut buffer) => if let Ok((length, source)) = received {
                    ears.receive(buffer.get(..length).unwrap_or_default(), source);
                },
                _ = ticks.tick() => {
                    ears.speak(turn);
                    turn = (turn + 1) % TURNS as usize;
                }
            }
        }
    }

    fn receive(&self, packet: &[u8], source: SocketAddr) {
        let mut parties = self.parties();
        let Some(index) = parties.by_source.get(&source).copied() else { return };
        if let Some(party) = parties.by_index.get_mut(&index) {
            party.heard.packet(Instant::now(), packet, self.listens_for);
        }
    }

    fn speak(&self, turn: usize) {
        for (index, party) in &mut self.parties().by_index {
            if index % TURNS as usize != turn {
                continue;
            }
            let packet = match party.keypad.packet() {
                Some(event) => party.voice.key(&event),
                None if party.speaks => party.voice.packet(),
                None => {
                    party.voice.pass();
                    continue;
                }
            };
            // A full buffer is loss like any other.
            let _ = self.socket.try_send_to(&packet, party.to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_heard_and_no_other() {
        let mut voice = Voice::tone(1_000);
        let packet = voice.packet();
        assert!(is_tone(&packet[12..], 1_000.0));
        assert!(!is_tone(&packet[12..], 600.0));
        assert!(!is_tone(&[0xff; 160], 1_000.0), "silence");
    }

    #[test]
    fn compression_loses_little() {
        for sample in [-30_000_i16, -1_000, -10, 0, 10, 500, 8_000, 30_000] {
            let back = expand(compress(sample));
            assert!((back - i32::from(sample)).abs() <= 8 + i32::from(sample).abs() / 16, "{sample}: {back}");
        }
    }

    #[test]
    fn loss_repeats_and_pauses_are_noticed() {
        let (mut heard, mut voice, start) = (Heard::default(), Voice::tone(1_000), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let packets: Vec<_> = (0..6).map(|_| voice.packet()).collect();
        for (ms, n) in [(0, 0), (20, 1), (40, 1), (60, 3), (1_000, 4), (1_020, 5)] {
            heard.packet(at(ms), &packets[n], 1_000.0);
        }
        assert_eq!((heard.packets, heard.lost, heard.repeated, heard.sources), (6, 1, 1, 1));
        assert_eq!(heard.pauses, [Pause { from: at(60), to: at(1_000) }]);
        assert_eq!(heard.longest(at(0), at(1_020)), Duration::from_millis(940));
        assert_eq!(heard.longest(at(1_001), at(3_020)), Duration::from_millis(2_000), "it lasts still");
        heard.packet(at(1_040), &Voice::tone(1_000).packet(), 1_000.0);
        assert_eq!((heard.sources, heard.lost), (2, 1), "a new source counts anew");
    }

    /// Silent callers press keys too; the packets say telephone-event and end.
    #[tokio::test]
    async fn a_key_is_sent_to_where_the_media_is() {
        let ears = Ears::crowd([127, 0, 0, 1].into(), &[], 1_000).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        ears.listen(3, peer.local_addr().unwrap());
        ears.press(3, "7");
        let mut buffer = [0; 2_000];
        let mut flags = Vec::new();
        for _ in 0..8 {
            let (length, _) = peer.recv_from(&mut buffer).await.unwrap();
            assert_eq!((length, buffer[1] & 0x7f, buffer[12]), (16, 101, 7));
            flags.push((buffer[1] >> 7, buffer[13] >> 7));
        }
        assert_eq!(flags.first(), Some(&(1, 0)), "marker on the first");
        assert_eq!(flags.last(), Some(&(0, 1)), "the end");
    }

    #[test]
    fn callers_take_turns_in_tones() {
        assert_eq!([0, 1, 2].map(|index| tone_of(&[500, 600], index)), [Some(500), Some(600), Some(500)]);
        assert_eq!(tone_of(&[], 1), None);
    }

    #[tokio::test]
    async fn callers_on_one_socket_are_told_apart() {
        let ears = Ears::start([127, 0, 0, 1].into(), Some(600), 1_000).unwrap();
        let peers =
            [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
        for (index, peer) in peers.iter().enumerate() {
            ears.listen(index, peer.local_addr().unwrap());
        }
        peers[1].send_to(&Voice::tone(1_000).packet(), ears.local()).await.unwrap();
        let mut buffer = [0; 2_000];
        let (length, _) = peers[0].recv_from(&mut buffer).await.unwrap();
        assert!(is_tone(&buffer[12..length], 600.0), "callers speak");
        let deadline = Instant::now() + Duration::from_secs(5);
        while ears.heard(1).packets == 0 && Instant::now() < deadline {
            peers[0].recv_from(&mut buffer).await.unwrap();
        }
        assert_eq!((ears.heard(0).packets, ears.heard(1).packets), (0, 1));
        assert!(ears.heard(1).tone.is_some());
        ears.leave(1);
        assert_eq!(ears.heard(1).packets, 1, "what was heard is known afterwards");
    }
}
