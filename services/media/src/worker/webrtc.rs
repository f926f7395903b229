//! A browser's leg: str0m in RTP mode, ICE-lite, with one G.711 codec and telephone events.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use str0m::change::SdpOffer;
use str0m::config::DtlsVersion;
use str0m::format::{Codec as WireCodec, FormatParams};
use str0m::media::{Direction as WireDirection, Frequency, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, RtpPacket, RtpWrite, Ssrc};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use trunkline_media_core::codec::Codec;
use trunkline_media_core::outbound::Placed;
use trunkline_media_core::rtcp::RemoteView;
use trunkline_media_core::sdp::{self, Direction, PayloadTypes};
use trunkline_proto::media::v1::media_failure::Kind;
use trunkline_types::Timestamp;

use crate::clock::Now;
use crate::failure::Failure;
use crate::slab::Key;
use crate::worker::dtls;

/// Payload type at which telephone events are configured; the browser's own number replaces it when answering.
const EVENT_PAYLOAD_TYPE: u8 = 110;
/// Number of the header extension that names the media section (RFC 8843 section 15); the browser's own replaces it.
const MID_EXTENSION: u8 = 4;
/// Source addresses remembered for one browser: its candidates.
const MAX_ADDRESSES: usize = 8;
/// Outputs taken in one go; str0m never has so many.
const MAX_OUTPUTS: usize = 4_096;

/// What str0m told that matters outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    Connected,
    Closed,
    Failed,
}

/// One peer connection.
pub(crate) struct Peer {
    rtc: Rtc,
    ssrc: Ssrc,
    candidate: SocketAddr,
    deadline: Instant,
    pub(crate) ufrag: String,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) stun_at: Timestamp,
    pub(crate) connected: bool,
    pub(crate) answer: Vec<u8>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("ufrag", &self.ufrag)
            .field("connected", &self.connected)
            .finish_non_exhaustive()
    }
}

/// A connection that is ready to be put into a session.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) peer: Box<Peer>,
    pub(crate) codec: Codec,
    pub(crate) payload_types: PayloadTypes,
    pub(crate) direction: Direction,
}

/// Answers a browser's offer. Takes milliseconds (keys are made): not on a worker thread.
pub(crate) fn prepare(
    offer: &[u8],
    prefer: &[Codec],
    candidate: SocketAddr,
    now: Now,
) -> Result<Prepared, Failure> {
    let malformed = |e: &dyn std::fmt::Display| Failure::new(Kind::MalformedSdp, format!("sdp: {e}"));
    let offered = sdp::offered_codecs(offer)?;
    let order = if prefer.is_empty() { &Codec::ALL } else { prefer };
    let codec =
        order.iter().find(|c| offered.contains(c)).or(offered.first()).copied().unwrap_or(Codec::Pcmu);
    let text = std::str::from_utf8(offer).map_err(|e| malformed(&e))?;
    let offer = SdpOffer::from_sdp_string(text).map_err(|e| malformed(&e))?;
    let mut rtc = dtls::shared(config(codec), now.instant).build(now.instant);
    let host = Candidate::host(candidate, "udp").map_err(|e| Failure::new(Kind::Internal, e.to_string()))?;
    // Before the offer is accepted: otherwise the answer has no candidate.
    rtc.add_local_candidate(host);
    let answer = rtc.sdp_api().accept_offer(offer).map_err(|e| malformed(&e))?;
    let answer = answer.to_sdp_string();
    // Not from an event: str0m tells of media only once the connection stands.
    let no_audio =
        || Failure::new(Kind::UnsupportedTransport, "sdp: the offer has no audio that can be answered");
    let mid = audio_mid(&answer).ok_or_else(no_audio)?;
    let mut deadline = now.instant;
    for _ in 0..MAX_OUTPUTS {
        if let Output::Timeout(at) = rtc.poll_output().map_err(|e| malformed(&e))? {
            deadline = at;
            break;
        }
    }
    let (payload_types, direction) = negotiated(&rtc, mid);
    if payload_types.audio(codec).is_none() {
        return Err(Failure::new(
            Kind::NoCommonCodec,
            "sdp: neither PCMU nor PCMA was agreed with the browser",
        ));
    }
    let ssrc = rtc.direct_api().stream_tx_by_mid(mid, None).map(|stream| stream.ssrc());
    let ssrc = ssrc.ok_or_else(|| Failure::new(Kind::Internal, "no stream towards the browser"))?;
    let ufrag = rtc.direct_api().local_ice_credentials().ufrag;
    let answer = answer.into_bytes();
    let peer = Peer {
        rtc,
        ssrc,
        candidate,
        deadline,
        ufrag,
        addresses: Vec::new(),
        stun_at: now.at,
        connected: false,
        answer,
    };
    Ok(Prepared { peer: Box::new(peer), codec, payload_types, direction })
}

fn config(codec: Codec) -> RtcConfig {
    let mut config = RtcConfig::new()
        .set_rtp_mode(true)
        .set_ice_lite(true)
        .set_dtls_version(DtlsVersion::Auto)
        .set_stats_interval(Some(Duration::from_secs(5)))
        // G.711 has one rate: no transport-wide feedback, which is ten more packets a second each way and tells nothing that
        // the reports do not tell.
        .clear_extension_map()
        .set_extension(MID_EXTENSION, Extension::RtpMid)
        .clear_codecs()
        .enable_pcmu(codec == Codec::Pcmu, false)
        .enable_pcma(codec == Codec::Pcma, false);
    let events = FormatParams { telephone_event_max: Some(15), ..FormatParams::default() };
    config.codec_config().add_config(
        EVENT_PAYLOAD_TYPE.into(),
        None,
        WireCodec::Tele,
        Frequency::EIGHT_KHZ,
        None,
        events,
    );
    config
}

/// The mid of the audio that was accepted.
fn audio_mid(answer: &str) -> Option<Mid> {
    let mut in_audio = false;
    for line in answer.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            in_audio = media.starts_with("audio ") && !media.starts_with("audio 0 ");
        }
        if let Some(mid) = line.strip_prefix("a=mid:").filter(|_| in_audio) {
            return Some(Mid::from(mid.trim()));
        }
    }
    None
}

/// The browser's numbers and the direction: read after the answer, since it renumbers what was configured.
fn negotiated(rtc: &Rtc, mid: Mid) -> (PayloadTypes, Direction) {
    let Some(media) = rtc.media(mid) else { return (PayloadTypes::default(), Direction::Inactive) };
    let mut types = PayloadTypes::default();
    for params in rtc.codec_config().params() {
        if !media.remote_pts().contains(&params.pt()) {
            continue;
        }
        let slot = match params.spec().codec {
            WireCodec::PCMU => &mut types.pcmu,
            WireCodec::PCMA => &mut types.pcma,
            WireCodec::Tele if params.spec().clock_rate == Frequency::EIGHT_KHZ => &mut types.event,
            _ => continue,
        };
        slot.get_or_insert(*params.pt());
    }
    let direction = match media.direction() {
        WireDirection::SendRecv => Direction::SendRecv,
        WireDirection::SendOnly => Direction::SendOnly,
        WireDirection::RecvOnly => Direction::RecvOnly,
        WireDirection::Inactive => Direction::Inactive,
    };
    (types, direction)
}

/// The first connection of a process takes ten times as long as the others: have it at the start.
pub(crate) fn warm_up(now: Instant) {
    let mut rtc = config(Codec::Pcmu).build(now);
    let _ = rtc.poll_output();
}

impl Peer {
    /// The SSRC that str0m sends with.
    pub(crate) fn ssrc(&self) -> u32 {
        *self.ssrc
    }

    /// Feeds a datagram; `false`: it is not for this connection.
    pub(crate) fn receive(&mut self, now: Now, source: SocketAddr, datagram: &[u8]) -> bool {
        let Ok(receive) = Receive::new(Protocol::Udp, source, self.candidate, datagram) else { return false };
        let input = Input::Receive(now.instant, receive);
        if !self.rtc.accepts(&input) {
            return false;
        }
        if datagram.first().is_some_and(|b| *b < 2) {
            self.stun_at = now.at;
        }
        // An error here is told by the next output.
        let _ = self.rtc.handle_input(input);
        true
    }

    /// A path that was given up is alive again: STUN has come back without a new connection.
    pub(crate) fn revive(&mut self) -> bool {
        let back = !self.connected && self.rtc.is_alive() && self.rtc.is_connected();
        self.connected |= back;
        back
    }

    /// Whether `source` is new and may be remembered.
    pub(crate) fn learn(&mut self, source: SocketAddr) -> bool {
        let new = !self.addresses.contains(&source) && self.addresses.len() < MAX_ADDRESSES;
        if new {
            self.addresses.push(source);
        }
        new
    }

    /// Queues a packet; [`Peer::pump`] sends it.
    pub(crate) fn write(&mut self, now: Now, payload_type: u8, placed: &Placed, payload: &[u8]) {
        let mut api = self.rtc.direct_api();
        let Some(stream) = api.stream_tx(&self.ssrc) else { return };
        let packet = RtpWrite::new(
            payload_type.into(),
            placed.sequence.into(),
            placed.timestamp,
            now.instant,
            payload,
        );
        stream.write_rtp(packet.marker(placed.marker));
        let _ = self.rtc.handle_input(Input::Timeout(now.instant));
    }

    /// Whether time has to be fed.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    /// Feeds time.
    pub(crate) fn advance(&mut self, now: Instant) {
        let _ = self.rtc.handle_input(Input::Timeout(now));
    }

    /// Begins an orderly end: BYE and close_notify; [`Peer::pump`] sends them.
    pub(crate) fn close(&mut self) {
        let _ = self.rtc.close();
    }

    /// Sends and hands out everything there is, until str0m waits.
    pub(crate) fn pump(
        &mut self,
        key: Key,
        socket: &UdpSocket,
        inbox: &mut VecDeque<(Key, RtpPacket)>,
        view: &mut RemoteView,
    ) -> Option<Note> {
        let mut note = None;
        for _ in 0..MAX_OUTPUTS {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.deadline = at;
                    break;
                }
                Ok(Output::Transmit(t)) => {
                    let _ = socket.send_to(&t.contents, t.destination);
                }
                Ok(Output::Event(event)) => match event {
                    Event::RtpPacket(packet) => inbox.push_back((key, packet)),
                    Event::Connected => {
                        self.connected = true;
                        note = Some(Note::Connected);
                    }
                    Event::Closed => {
                        self.connected = false;
                        note = Some(Note::Closed);
                    }
                    Event::MediaEgressStats(stats) => {
                        view.set(
                            stats.loss.map(|l| f64::from(l) * 100.0),
                            stats.rtt.map(|r| r.as_secs_f64() * 1_000.0),
                        );
                    }
                    _ => {}
                },
                Err(_) => {
                    self.connected = false;
                    self.deadline += Duration::from_secs(1);
                    return Some(Note::Failed);
                }
            }
        }
        note
    }
}
