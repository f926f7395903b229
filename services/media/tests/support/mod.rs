//! Telephones on loopback, a node under test, and ears.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use trunkline_media::{Config, MediaNode, RecordingConfig, StoreConfig};
use trunkline_media_core::codec::Codec;
use trunkline_media_core::rtp::{self, Header};
use trunkline_proto::media::v1::{
    self as pb, media_command::Command, media_event::Event, media_failure::Kind, media_reply, program,
};
use trunkline_telemetry::hep::Hep;
use trunkline_types::{CallId, ShardId, Timestamp};

/// Packets with their payload.
pub type Packets = Vec<(Header, Vec<u8>)>;

pub const PATIENCE: Duration = Duration::from_secs(10);

/// A node with a call on it.
pub struct Bench {
    pub node: MediaNode,
    pub registry: Registry,
    pub call: CallId,
    /// Of the owner who commands.
    pub epoch: u64,
    events: mpsc::Receiver<pb::MediaEvent>,
    seen: Vec<pb::MediaEvent>,
    next: AtomicU64,
    /// Takes events as calls do; off: the owner is away.
    pub acknowledges: bool,
    pub folder: tempfile::TempDir,
}

static NEXT_RANGE: AtomicU32 = AtomicU32::new(0);

/// A configuration with ports and folders of its own.
pub fn config(folder: &tempfile::TempDir) -> Config {
    // Different processes and tests use different ranges; a port that is taken is passed over besides.
    let n = std::process::id() % 50 * 400 + NEXT_RANGE.fetch_add(1, Ordering::Relaxed) * 40 % 400;
    let first = 20_000 + n;
    Config {
        rtp: format!("{first}-{}", first + 39).parse().unwrap(),
        workers: 1,
        recording: RecordingConfig {
            spool: folder.path().join("spool"),
            store: StoreConfig::Folder { path: folder.path().join("recordings") },
            ..RecordingConfig::default()
        },
        ..Config::default()
    }
}

impl Bench {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        Self::with(folder, config)
    }

    pub fn with(folder: tempfile::TempDir, config: Config) -> Self {
        Self::captured(folder, config, Hep::off())
    }

    /// One whose reports are captured.
    pub fn captured(folder: tempfile::TempDir, config: Config, hep: Hep) -> Self {
        let (sender, events) = mpsc::channel(1_024);
        let mut registry = Registry::with_prefix("trunkline_media");
        let node = MediaNode::start(config, &mut registry, sender, hep).unwrap();
        let call =
            CallId::mint(ShardId::new(7).unwrap(), Timestamp::from_millis(1_795_000_000_000), rand::random());
        Self {
            node,
            registry,
            call,
            epoch: 1,
            events,
            seen: Vec::new(),
            next: AtomicU64::new(1),
            acknowledges: true,
            folder,
        }
    }

    pub fn message(&self, command_id: u64, epoch: u64, command: Command) -> pb::MediaCommand {
        pb::MediaCommand {
            call_id: self.call.to_string(),
            shard: 7,
            epoch,
            command_id,
            acknowledges_events: true,
            tenant: "default".into(),
            command: Some(command),
        }
    }

    pub async fn reply(&self, command: Command) -> pb::MediaReply {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.node.command(self.message(id, self.epoch, command)).await
    }

    pub async fn ok(&self, command: Command) -> pb::MediaOk {
        match self.reply(command.clone()).await.result {
            Some(media_reply::Result::Ok(ok)) => ok,
            other => panic!("{command:?}: {other:?}"),
        }
    }

    pub async fn refused(&self, command: Command) -> Kind {
        failure(&self.reply(command).await)
    }

    /// The next event that fits; events before it are kept for later calls.
    pub async fn event<T>(&mut self, what: &str, mut fits: impl FnMut(&Event) -> Option<T>) -> T {
        for n in 0..self.seen.len() {
            if let Some(found) = self.seen[n].event.as_ref().and_then(&mut fits) {
                self.seen.remove(n);
                return found;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(Some(event)) = timeout(left, self.events.recv()).await else {
                panic!("no {what}; seen: {:#?}", self.seen);
            };
            self.acknowledge(&event).await;
            if let Some(found) = event.event.as_ref().and_then(&mut fits) {
                return found;
            }
            self.seen.push(event);
        }
    }

    /// The next event that fits, whole, and whether or not it came before. Not acknowledged.
    pub async fn told(
        &mut self,
        what: &str,
        mut fits: impl FnMut(&pb::MediaEvent) -> bool,
    ) -> pb::MediaEvent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(Some(event)) = timeout(left, self.events.recv()).await else {
                panic!("no {what}; seen: {:#?}", self.seen);
            };
            if fits(&event) {
                return event;
            }
            self.seen.push(event);
        }
    }

    /// The value of a metric, named without the room's prefix, with its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("trunkline_media_")?.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    /// As a call does after its commit.
    pub async fn acknowledge(&self, event: &pb::MediaEvent) {
        assert!(!event.tenant.is_empty(), "it finds its call: {event:?}");
        if self.acknowledges && event.acknowledge {
            let command =
                Command::AcknowledgeEvents(pb::AcknowledgeEvents { event_ids: vec![event.event_id] });
            let call_id = event.call_id.clone();
            let epoch = self.epoch;
            self.node.command(pb::MediaCommand { call_id, ..self.message(0, epoch, command) }).await;
        }
    }

    /// Waits for a condition, and takes what is told meanwhile, as a call does.
    pub async fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            if let Ok(Some(event)) = timeout(Duration::from_millis(5), self.events.recv()).await {
                self.acknowledge(&event).await;
            }
        }
    }

    /// Events that came and were not asked for.
    pub fn others(&mut self) -> Vec<pb::MediaEvent> {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event);
        }
        std::mem::take(&mut self.seen)
    }

    /// A telephone that is connected to the call as `endpoint`.
    pub async fn phone(&self, endpoint: &str, codec: Codec) -> Phone {
        let phone = Phone::new("127.0.0.1", codec).await;
        let ok = self.ok(create(endpoint, &phone.sdp(""))).await;
        phone.answer(&ok.sdp);
        phone
    }

    pub async fn program(&self, endpoint: &str, kind: program::Kind) {
        self.ok(set_program(endpoint, kind)).await;
    }
}

pub fn failure(reply: &pb::MediaReply) -> Kind {
    match &reply.result {
        Some(media_reply::Result::Failure(f)) => {
            assert!(!f.message.is_empty());
            f.kind()
        }
        other => panic!("{other:?}"),
    }
}

pub fn create(endpoint: &str, sdp: &str) -> Command {
    let sdp = sdp.as_bytes().to_vec().into();
    Command::CreateRtp(pb::CreateRtpEndpoint { endpoint: endpoint.into(), sdp, ..Default::default() })
}

pub fn set_program(endpoint: &str, kind: program::Kind) -> Command {
    Command::SetProgram(pb::SetProgram {
        endpoint: endpoint.into(),
        program: Some(pb::Program { kind: Some(kind) }),
    })
}

pub fn bridge(a: &str, b: &str) -> Command {
    Command::Bridge(pb::Bridge { a: a.into(), b: b.into() })
}

pub fn music() -> program::Kind {
    program::Kind::Music(pb::Music { name: "hold".into() })
}

/// A telephone: sends a tone every 20 ms once it knows where to, keeps what it hears.
pub struct Phone {
    pub socket: Arc<UdpSocket>,
    pub codec: Codec,
    pub heard: Arc<Mutex<Packets>>,
    remote: Arc<Mutex<Option<SocketAddr>>>,
    hz: Arc<AtomicU32>,
    silent: Arc<AtomicBool>,
    sequence: Arc<AtomicU32>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Phone {
    pub async fn new(ip: &str, codec: Codec) -> Self {
        let socket = Arc::new(UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).await.unwrap());
        let mut phone = Self {
            socket,
            codec,
            heard: Arc::default(),
            remote: Arc::default(),
            hz: Arc::new(AtomicU32::new(440)),
            silent: Arc::default(),
            sequence: Arc::new(AtomicU32::new(65_500)),
            tasks: Vec::new(),
        };
        phone.tasks.push(phone.listen());
        phone.tasks.push(phone.speak());
        phone
    }

    fn listen(&self) -> tokio::task::JoinHandle<()> {
        let (socket, heard) = (self.socket.clone(), self.heard.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 2_048];
            while let Ok((len, _)) = socket.recv_from(&mut buffer).await {
                if rtp::kind(&buffer[..len]) == rtp::Kind::Rtp
                    && let Some(header) = Header::read(&buffer[..len])
                {
                    let payload =
                        buffer[header.payload_offset..header.payload_offset + header.payload_len].to_vec();
                    heard.lock().push((header, payload));
                }
            }
        })
    }

    fn speak(&self) -> tokio::task::JoinHandle<()> {
        let (socket, remote, hz, silent) =
            (self.socket.clone(), self.remote.clone(), self.hz.clone(), self.silent.clone());
        let (sequence, codec) = (self.sequence.clone(), self.codec);
        tokio::spawn(async move {
            let mut turn = tokio::time::interval(Duration::from_millis(20));
            let mut n = 0u32;
            loop {
                turn.tick().await;
                let to = *remote.lock();
                let (Some(to), false) = (to, silent.load(Ordering::Relaxed)) else {
                    n += 160;
                    continue;
                };
                let mut packet = [0; 172];
                let sequence = sequence.fetch_add(1, Ordering::Relaxed) as u16;
                rtp::write_header(
                    packet.first_chunk_mut().unwrap(),
                    codec.payload_type(),
                    false,
                    sequence,
                    n,
                    4_711,
                );
                let hz = f64::from(hz.load(Ordering::Relaxed));
                for (i, byte) in packet[12..].iter_mut().enumerate() {
                    let t = (f64::from(n) + i as f64) / 8_000.0;
                    *byte = codec.encode(((t * hz * std::f64::consts::TAU).sin() * 8_000.0) as i16);
                }
                let _ = socket.send_to(&packet, to).await;
                n += 160;
            }
        })
    }

    pub fn tone(&self, hz: u32) {
        self.hz.store(hz, Ordering::Relaxed);
    }

    pub fn silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// An offer or answer of this telephone.
    pub fn sdp(&self, more: &str) -> String {
        let port = self.socket.local_addr().unwrap().port();
        let ip = self.socket.local_addr().unwrap().ip();
        let (pt, name) = (self.codec.payload_type(), self.codec.name());
        format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP {pt} 101\r\n\
             a=rtpmap:{pt} {name}/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n{more}"
        )
    }

    /// Sends to where the SDP says.
    pub fn answer(&self, sdp: &[u8]) {
        *self.remote.lock() = Some(media_address(sdp));
    }

    /// Sends raw bytes to the node.
    pub async fn send(&self, bytes: &[u8]) {
        let to = self.remote.lock().unwrap();
        self.socket.send_to(bytes, to).await.unwrap();
    }

    /// A key by RFC 4733: five packets, the end three times.
    pub async fn press(&self, code: u8, timestamp: u32) {
        for n in 0..7u16 {
            let duration = (n.min(4) + 1) * 160;
            let end = if n >= 4 { 0x80 } else { 0 };
            let mut packet = [0; 16];
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) as u16;
            rtp::write_header(packet.first_chunk_mut().unwrap(), 101, n == 0, sequence, timestamp, 4_711);
            packet[12..].copy_from_slice(&[code, end | 10, (duration >> 8) as u8, duration as u8]);
            self.send(&packet).await;
        }
    }

    /// Forgets what was heard.
    pub fn clear(&self) {
        self.heard.lock().clear();
    }

    /// Waits for `count` more audio packets and gives them with their headers.
    pub async fn listen_for(&self, count: usize) -> Packets {
        self.clear();
        let audio = |heard: &[(Header, Vec<u8>)]| heard.iter().filter(|(h, _)| h.payload_type < 96).count();
        until(&format!("{count} packets"), || audio(&self.heard.lock()) >= count).await;
        self.heard.lock().iter().filter(|(h, _)| h.payload_type < 96).cloned().collect()
    }

    /// Waits for `count` packets and decodes them.
    pub async fn samples(&self, count: usize) -> Vec<i16> {
        let packets = self.listen_for(count).await;
        packets.iter().flat_map(|(_, p)| p.iter().map(|b| self.codec.decode(*b))).collect()
    }

    /// Waits until the tone `hz` dominates in 300 ms of audio.
    pub async fn hears(&self, hz: u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let samples = self.samples(15).await;
            if share(&samples, hz) > 0.8 {
                return;
            }
            assert!(Instant::now() < deadline, "{hz} Hz is not heard: share {}", share(&samples, hz));
        }
    }
}

/// The address in an SDP's c= and m=audio lines.
pub fn media_address(sdp: &[u8]) -> SocketAddr {
    let text = std::str::from_utf8(sdp).unwrap();
    let line = |start: &str| {
        text.lines().find_map(|l| l.strip_prefix(start)).unwrap_or_else(|| panic!("{start} in {text}"))
    };
    let port = line("m=audio ").split(' ').next().unwrap().parse().unwrap();
    SocketAddr::new(line("c=IN IP4 ").parse().unwrap(), port)
}

/// Waits for a condition.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Share of the energy that is at `hz` (Goertzel), 0 to 1; 0 for silence.
pub fn share(samples: &[i16], hz: u32) -> f64 {
    let energy: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
    if energy < 1_000.0 * samples.len() as f64 {
        return 0.0;
    }
    let w = std::f64::consts::TAU * f64::from(hz) / 8_000.0;
    let (mut s1, mut s2) = (0.0, 0.0);
    for sample in samples {
        let s0 = f64::from(*sample) + 2.0 * w.cos() * s1 - s2;
        (s2, s1) = (s1, s0);
    }
    let power = s1 * s1 + s2 * s2 - 2.0 * w.cos() * s1 * s2;
    2.0 * power / (samples.len() as f64 * energy)
}

/// Mean absolute amplitude.
pub fn level(samples: &[i16]) -> f64 {
    samples.iter().map(|s| f64::from(s.unsigned_abs())).sum::<f64>() / samples.len().max(1) as f64
}

/// Every packet has the next sequence number and, within the clock's jitter, a timestamp that goes with the time.
pub fn assert_continuous(packets: &[(Header, Vec<u8>)]) {
    for pair in packets.windows(2) {
        let (a, b) = (&pair[0].0, &pair[1].0);
        assert_eq!(b.sequence, a.sequence.wrapping_add(1), "sequence");
        assert_eq!(b.ssrc, a.ssrc);
        let step = b.timestamp.wrapping_sub(a.timestamp);
        assert!((80..=1_600).contains(&step), "timestamp steps by {step}");
    }
}
