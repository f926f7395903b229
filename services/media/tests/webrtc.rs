//! A browser's leg, with str0m as the browser: connection, audio both ways, keys, reload, disappearance.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod support;

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use str0m::change::SdpAnswer;
use str0m::config::DtlsVersion;
use str0m::format::{Codec as WireCodec, FormatParams};
use str0m::media::{Direction, Frequency, MediaKind};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event as RtcEvent, Input, Output, Rtc, RtcConfig};
use support::*;
use trunkline_media_core::codec::Codec;
use trunkline_proto::media::v1::{self as pb, media_command::Command, media_event::Event, program};

/// A browser: offers, speaks a tone, keeps what it hears.
struct Browser {
    offer: String,
    answer: SyncSender<String>,
    heard: Arc<Mutex<Vec<i16>>>,
    sequences: Arc<Mutex<Vec<u16>>>,
    closed: Arc<AtomicBool>,
    key: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.vanish();
    }
}

const NO_KEY: u32 = u32::MAX;

impl Browser {
    fn new(hz: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let address = socket.local_addr().unwrap();
        let mut config = RtcConfig::new()
            .set_rtp_mode(true)
            .set_dtls_version(DtlsVersion::Auto)
            .clear_codecs()
            .enable_pcmu(true, false)
            .enable_pcma(true, false);
        let events = FormatParams { telephone_event_max: Some(16), ..Default::default() };
        config.codec_config().add_config(
            126.into(),
            None,
            WireCodec::Tele,
            Frequency::EIGHT_KHZ,
            None,
            events,
        );
        let mut rtc = config.build(Instant::now());
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        let mut api = rtc.sdp_api();
        let mid = api.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let (offer, pending) = api.apply().unwrap();
        let (answer, answers) = sync_channel::<String>(1);
        let mut browser = Self {
            offer: offer.to_sdp_string(),
            answer,
            heard: Arc::default(),
            sequences: Arc::default(),
            closed: Arc::default(),
            key: Arc::new(AtomicU32::new(NO_KEY)),
            stop: Arc::default(),
            thread: None,
        };
        let run = Run {
            socket,
            address,
            hz,
            heard: browser.heard.clone(),
            sequences: browser.sequences.clone(),
            closed: browser.closed.clone(),
            key: browser.key.clone(),
            stop: browser.stop.clone(),
        };
        browser.thread = Some(std::thread::spawn(move || {
            let Ok(answer) = answers.recv() else { return };
            rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
            run.run(rtc, mid);
        }));
        browser
    }

    fn answered(&self, sdp: &[u8]) {
        self.answer.send(String::from_utf8(sdp.to_vec()).unwrap()).unwrap();
    }

    /// Stops without a word, as a browser that crashes.
    fn vanish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Ends the wait for an answer that never came.
        let (dead, _) = sync_channel(1);
        self.answer = dead;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    async fn hears(&self, hz: u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.heard.lock().clear();
            until("audio in the browser", || self.heard.lock().len() >= 2_400).await;
            let share = share(&self.heard.lock(), hz);
            if share > 0.8 {
                return;
            }
            assert!(Instant::now() < deadline, "{hz} Hz is not heard in the browser: {share}");
        }
    }
}

struct Run {
    socket: UdpSocket,
    address: SocketAddr,
    hz: u32,
    heard: Arc<Mutex<Vec<i16>>>,
    sequences: Arc<Mutex<Vec<u16>>>,
    closed: Arc<AtomicBool>,
    key: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Run {
    fn run(self, mut rtc: Rtc, mid: str0m::media::Mid) {
        let (mut connected, mut n, mut next) = (false, 0u64, Instant::now());
        let mut keys: VecDeque<(u32, [u8; 4])> = VecDeque::new();
        let mut sequence = 100u64;
        while !self.stop.load(Ordering::Relaxed) && rtc.is_alive() {
            loop {
                match rtc.poll_output().unwrap() {
                    Output::Timeout(_) => break,
                    Output::Transmit(t) => {
                        let _ = self.socket.send_to(&t.contents, t.destination);
                    }
                    Output::Event(RtcEvent::Connected) => connected = true,
                    Output::Event(RtcEvent::Closed) => self.closed.store(true, Ordering::Relaxed),
                    Output::Event(RtcEvent::RtpPacket(p)) => {
                        let codec = if *p.header.payload_type == 0 { Codec::Pcmu } else { Codec::Pcma };
                        self.heard.lock().extend(p.payload.iter().map(|b| codec.decode(*b)));
                        self.sequences.lock().push(p.header.sequence_number);
                    }
                    Output::Event(_) => {}
                }
            }
            let mut buffer = [0; 2_000];
            if let Ok((len, source)) = self.socket.recv_from(&mut buffer) {
                if let Ok(receive) = Receive::new(Protocol::Udp, source, self.address, &buffer[..len]) {
                    rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
                }
                continue;
            }
            rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
            if connected && Instant::now() >= next {
                next += Duration::from_millis(20);
                self.speak(&mut rtc, mid, &mut n, &mut sequence, &mut keys);
            }
        }
        self.closed.store(!rtc.is_alive() || self.closed.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn speak(
        &self,
        rtc: &mut Rtc,
        mid: str0m::media::Mid,
        n: &mut u64,
        sequence: &mut u64,
        keys: &mut VecDeque<(u32, [u8; 4])>,
    ) {
        let key = self.key.swap(NO_KEY, Ordering::Relaxed);
        if key != NO_KEY {
            let at = *n as u32;
            for step in 0..7u16 {
                let duration = ((step.min(4) + 1) * 160).to_be_bytes();
                keys.push_back((
                    at,
                    [key as u8, if step >= 4 { 0x8a } else { 0x0a }, duration[0], duration[1]],
                ));
            }
        }
        let media = rtc.media(mid).unwrap();
        let pt = |codec: WireCodec| {
            rtc.codec_config()
                .params()
                .iter()
                .find(|p| p.spec().codec == codec && media.remote_pts().contains(&p.pt()))
                .map(|p| p.pt())
        };
        let (pcmu, pcma, tele) = (pt(WireCodec::PCMU), pt(WireCodec::PCMA), pt(WireCodec::Tele));
        let (pt, time, payload) = match keys.pop_front() {
            Some((at, payload)) => (tele.unwrap(), at, payload.to_vec()),
            None => {
                let codec = if pcmu.is_some() { Codec::Pcmu } else { Codec::Pcma };
                let tone = |i: u64| {
                    ((i as f64 / 8_000.0 * f64::from(self.hz) * std::f64::consts::TAU).sin() * 8_000.0) as i16
                };
                (pcmu.or(pcma).unwrap(), *n as u32, (*n..*n + 160).map(|i| codec.encode(tone(i))).collect())
            }
        };
        *n += 160;
        *sequence += 1;
        let mut api = rtc.direct_api();
        let stream = api.stream_tx_by_mid(mid, None).unwrap();
        stream.write_rtp(RtpWrite::new(pt, (*sequence).into(), time, Instant::now(), payload.as_slice()));
        rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
    }
}

async fn connect(bench: &mut Bench, browser: &Browser, replace: bool) -> pb::MediaOk {
    let sdp = browser.offer.clone().into_bytes().into();
    let endpoint = "agent".to_owned();
    let command = if replace {
        Command::ReplaceWebrtc(pb::ReplaceWebRtc { endpoint, sdp, prefer: vec![] })
    } else {
        Command::CreateWebrtc(pb::CreateWebRtcEndpoint {
            endpoint,
            sdp,
            prefer: vec![pb::Codec::Pcma as i32],
        })
    };
    let ok = bench.ok(command).await;
    browser.answered(&ok.sdp);
    bench
        .event("connected", |e| matches!(e, Event::Connected(c) if c.endpoint == "agent").then_some(()))
        .await;
    ok
}

#[tokio::test]
async fn a_browser_talks_to_a_telephone_presses_keys_and_survives_a_reload() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcma).await;
    alice.tone(440);
    let browser = Browser::new(1_000);
    let ok = connect(&mut bench, &browser, false).await;
    assert_eq!(
        (ok.codec(), ok.telephone_event),
        (pb::Codec::Pcma, true),
        "the caller's codec: no transcoding"
    );
    assert_eq!(ok.direction(), pb::Direction::Sendrecv);
    assert!(browser.offer.contains("transport-wide-cc"), "{}", browser.offer);
    let answer = String::from_utf8(ok.sdp.to_vec()).unwrap();
    let extensions: Vec<_> = answer.lines().filter(|line| line.starts_with("a=extmap:")).collect();
    assert!(
        matches!(extensions[..], [mid] if mid.ends_with("sdes:mid")),
        "no feedback on every packet: {answer}"
    );
    bench.program("agent", program::Kind::Tone(pb::Tone { hz: 700 })).await;
    browser.hears(700).await;
    bench.ok(bridge("alice", "agent")).await;
    tokio::join!(browser.hears(440), alice.hears(1_000));
    browser.key.store(9, Ordering::Relaxed);
    let digit = bench
        .event("digit", |e| match e {
            Event::Digit(d) => Some(d.digit.clone()),
            _ => None,
        })
        .await;
    assert_eq!(digit, "9");

    // The page is loaded again: another connection, the same endpoint, PCMU this time (transcoded).
    let again = Browser::new(1_300);
    let ok = connect(&mut bench, &again, true).await;
    assert_eq!(ok.codec(), pb::Codec::Pcmu);
    tokio::join!(again.hears(440), alice.hears(1_300));
    until("the old page to be told", || browser.closed.load(Ordering::Relaxed)).await;
    let sequences = again.sequences.lock().clone();
    assert!(sequences.windows(2).all(|w| w[1] == w[0].wrapping_add(1)), "one stream");
    let digits = bench.others().into_iter().filter(|e| matches!(e.event, Some(Event::Digit(_)))).count();
    assert_eq!(digits, 0, "the key was counted once");
    bench.ok(Command::CloseSession(pb::CloseSession {})).await;
    until("the page to be told", || again.closed.load(Ordering::Relaxed)).await;
}

#[tokio::test]
async fn a_browser_that_vanishes_is_missed_by_its_audio_and_then_by_its_stun() {
    let folder = tempfile::tempdir().unwrap();
    let config = trunkline_media::Config { webrtc_stun_timeout_ms: 3_000, ..config(&folder) };
    let mut bench = Bench::with(folder, config);
    let mut browser = Browser::new(1_000);
    connect(&mut bench, &browser, false).await;
    bench.program("agent", program::Kind::Tone(pb::Tone { hz: 700 })).await;
    browser.hears(700).await;
    browser.vanish();
    let reason = |e: &Event| match e {
        Event::Disconnected(d) => Some(d.reason()),
        _ => None,
    };
    assert_eq!(bench.event("pause", reason).await, pb::disconnected::Reason::Paused);
    assert_eq!(bench.event("loss", reason).await, pb::disconnected::Reason::Ice);
}

#[tokio::test]
async fn an_offer_that_is_none_is_refused() {
    let bench = Bench::start();
    for (sdp, kind) in [
        ("hello", pb::media_failure::Kind::MalformedSdp),
        (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n",
            pb::media_failure::Kind::NoCommonCodec,
        ),
    ] {
        let command = Command::CreateWebrtc(pb::CreateWebRtcEndpoint {
            endpoint: "agent".into(),
            sdp: sdp.as_bytes().to_vec().into(),
            prefer: vec![],
        });
        assert_eq!(bench.refused(command).await, kind);
    }
}
