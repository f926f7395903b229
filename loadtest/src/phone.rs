//! A browser's audio: WebRTC that says one tone, listens for another, and measures pauses.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use str0m::{
    Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpPendingOffer},
    config::DtlsVersion,
    media::{Direction, MediaKind, Mid, Pt},
    net::{Protocol, Receive},
    rtp::RtpWrite,
};
use tokio::{
    net::UdpSocket,
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::rtp::{FRAME, Header, Heard, Voice, is_tone};

/// Payload type of PCMU (RFC 3551).
const PCMU: u8 = 0;
const SAMPLES: u32 = 160;
/// str0m is asked at least this often.
const IDLE: Duration = Duration::from_millis(200);

/// What an agent hears over all connections of one shift.
pub type Ear = Arc<Mutex<Heard>>;

/// The tones of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Tones {
    /// What agents say.
    pub says: u32,
    /// What agents listen for.
    pub hears: u32,
}

/// One peer connection.
#[derive(Debug)]
pub struct Phone {
    /// Its offer.
    pub offer: String,
    answer: Option<oneshot::Sender<String>>,
    broken: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Phone {
    /// Makes an offer.
    pub async fn new(bind: IpAddr, tones: Tones, ear: Ear) -> Result<Self> {
        let socket = UdpSocket::bind((bind, 0)).await?;
        let local = socket.local_addr()?;
        let mut rtc = RtcConfig::new()
            .set_rtp_mode(true)
            .set_dtls_version(DtlsVersion::Auto)
            .clear_codecs()
            .enable_pcmu(true, false)
            .build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp")?);
        let mut api = rtc.sdp_api();
        let mid = api.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let (offer, pending) = api.apply().context("an offer")?;
        let (answer, answers) = oneshot::channel();
        let (broke, broken) = watch::channel(false);
        let line = Line {
            rtc,
            mid,
            socket,
            local,
            ear,
            hears: f64::from(tones.hears),
            voice: Voice::tone(tones.says),
            connected: false,
            sequence: 1,
            time: 0,
        };
        let task = tokio::spawn(async move {
            // Nobody asks why: the page sees that it broke, and makes another.
            let _ = Box::pin(line.run(pending, answers)).await;
            broke.send_replace(true);
        });
        Ok(Self { offer: offer.to_sdp_string(), answer: Some(answer), broken, task })
    }

    /// The answer to the offer.
    pub fn answered(&mut self, sdp: &str) {
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(sdp.to_owned());
        }
    }

    /// Whether the answer has come.
    pub fn has_answer(&self) -> bool {
        self.answer.is_none()
    }

    /// Whether the connection is gone.
    pub fn is_broken(&self) -> bool {
        *self.broken.borrow()
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Line {
    rtc: Rtc,
    mid: Mid,
    socket: UdpSocket,
    local: SocketAddr,
    ear: Ear,
    hears: f64,
    voice: Voice,
    connected: bool,
    sequence: u64,
    time: u32,
}

impl Line {
    async fn run(mut self, pending: SdpPendingOffer, answer: oneshot::Receiver<String>) -> Result<()> {
        let answer = SdpAnswer::from_sdp_string(&answer.await?)?;
        self.rtc.sdp_api().accept_answer(pending, answer)?;
        let mut buffer = vec![0; 2_048];
        let mut frames = tokio::time::interval(FRAME);
        while self.rtc.is_alive() {
            let Some(wait) = self.poll()? else { return Ok(()) };
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    let (length, source) = received?;
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if let Ok(receive) = Receive::new(Protocol::Udp, source, self.local, bytes) {
                        self.rtc.handle_input(Input::Receive(Instant::now(), receive))?;
                    }
                }
                () = tokio::time::sleep_until(wait.into()) => {
                    self.rtc.handle_input(Input::Timeout(Instant::now()))?;
                }
                _ = frames.tick() => {
                    if self.connected {
                        self.speak();
                    }
                    self.rtc.handle_input(Input::Timeout(Instant::now()))?;
                }
            }
        }
        Ok(())
    }

    /// Does what str0m wants; returns until when it wants nothing. None = the connection is gone.
    fn poll(&mut self) -> Result<Option<Instant>> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(Some(at.min(Instant::now() + IDLE))),
                Output::Transmit(packet) => {
                    // A full buffer is loss like any other.
                    let _ = self.socket.try_send_to(&packet.contents, packet.destination);
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::Closed) => return Ok(None),
                Output::Event(Event::IceConnectionStateChange(IceConnectionState::Disconnected)) => {
                    return Ok(None);
                }
                Output::Event(Event::RtpPacket(packet)) => {
                    let header =
                        Header { sequence: packet.header.sequence_number, source: *packet.header.ssrc };
                    let tone = is_tone(&packet.payload, self.hears);
                    let mut ear = self.ear.lock().unwrap_or_else(PoisonError::into_inner);
                    ear.received(Instant::now(), header, tone);
                }
                Output::Event(_) => {}
            }
        }
    }

    fn speak(&mut self) {
        let payload = self.voice.payload().to_vec();
        self.time = self.time.wrapping_add(SAMPLES);
        self.sequence += 1;
        let mut api = self.rtc.direct_api();
        let Some(stream) = api.stream_tx_by_mid(self.mid, None) else { return };
        stream.write_rtp(RtpWrite::new(
            Pt::from(PCMU),
            self.sequence.into(),
            self.time,
            Instant::now(),
            payload.as_slice(),
        ));
    }
}
