//! Offers and answers of ours over the life of one endpoint.

use std::net::{IpAddr, SocketAddr};

use sdp_types::{Connection, Media, Origin, Session, Time};

use super::remote::{self, MediaLine, Remote};
use super::{Direction, Negotiated, PayloadTypes, SdpError};
use crate::codec::Codec;

/// Payload type of telephone events in our offers.
const EVENT_PAYLOAD_TYPE: u8 = 101;

/// Our side: what is told to the party.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    /// Address and even port as the party can reach them.
    pub address: SocketAddr,
    /// `sess-id` of the origin line: unique for this endpoint, at most 2^63 − 1 (some peers keep it signed).
    pub session_id: u64,
}

/// The state of offer and answer of one endpoint.
#[derive(Clone, Debug)]
pub struct Negotiation {
    local: Local,
    prefer: Vec<Codec>,
    /// Of the dialog, when another node began it.
    origin: Option<Origin>,
    /// The numbers that this dialog gave codecs before, when another node began it.
    before: Option<PayloadTypes>,
    version: u64,
    /// What was sent last.
    last: Option<Vec<u8>>,
    /// The media lines of this dialog and the index of ours.
    lines: Vec<MediaLine>,
    index: usize,
    /// An offer of ours that waits for its answer: the numbers in it.
    offered: Option<PayloadTypes>,
    current: Option<Negotiated>,
}

impl Negotiation {
    /// `prefer` is our order of codecs; empty: PCMU, PCMA in offers, the party's order in answers.
    pub fn new(local: Local, mut prefer: Vec<Codec>) -> Self {
        if let [first, second, ..] = prefer[..] {
            prefer.truncate(if first == second { 1 } else { 2 });
        }
        Self {
            local,
            prefer,
            origin: None,
            before: None,
            version: 0,
            last: None,
            lines: Vec::new(),
            index: 0,
            offered: None,
            current: None,
        }
    }

    /// Goes on in a dialog that another node began: `former` is the last SDP that it gave. The origin stays with its
    /// version raised, the media lines keep their places and codecs their numbers (RFC 3264 section 8).
    ///
    /// # Errors
    /// [`SdpError`] when `former` is no SDP of ours.
    pub fn continuing(local: Local, prefer: Vec<Codec>, former: &[u8]) -> Result<Self, SdpError> {
        let (origin, lines, index, numbers) = remote::former(former)?;
        let version = origin.sess_version.saturating_add(1);
        let new = Self::new(local, prefer);
        Ok(Self { version, origin: Some(origin), before: Some(numbers), lines, index, ..new })
    }

    /// What stands.
    pub fn current(&self) -> Option<&Negotiated> {
        self.current.as_ref()
    }

    /// The last SDP given out.
    pub fn last_sdp(&self) -> &[u8] {
        self.last.as_deref().unwrap_or_default()
    }

    /// Answers an offer.
    ///
    /// # Errors
    /// [`SdpError`]; what stood before still stands.
    pub fn answer(&mut self, offer: &[u8]) -> Result<(Vec<u8>, Negotiated), SdpError> {
        let remote = remote::read(offer)?;
        let codec = self.choose(&remote.codecs);
        // The party's numbers are mirrored, so both sides send with the same ones.
        let numbers = only(codec, &remote.payload_types);
        let negotiated = agreed(&remote, codec, numbers, numbers);
        let answer_line = numbers.formats(&[codec]);
        let media = self.audio(
            &remote.lines[remote.index].proto,
            &answer_line,
            &[codec],
            numbers,
            negotiated.direction,
            remote.rtcp_mux,
            remote.ptime_ms.unwrap_or(20),
        );
        self.lines.clone_from(&remote.lines);
        self.index = remote.index;
        let sdp = self.publish(media);
        self.offered = None;
        self.current = Some(negotiated.clone());
        Ok((sdp, negotiated))
    }

    /// An offer of ours: both codecs, the standing direction reversed to what we want, which is both ways.
    pub fn offer(&mut self) -> Vec<u8> {
        let mut order = self.prefer.clone();
        order.extend(Codec::ALL.iter().filter(|c| !self.prefer.contains(c)));
        let standing = self.current.as_ref().map(|c| c.receive).or(self.before);
        let numbers = PayloadTypes {
            pcmu: Some(standing.and_then(|s| s.pcmu).unwrap_or(Codec::Pcmu.payload_type())),
            pcma: Some(standing.and_then(|s| s.pcma).unwrap_or(Codec::Pcma.payload_type())),
            event: Some(standing.and_then(|s| s.event).unwrap_or(EVENT_PAYLOAD_TYPE)),
        };
        if self.lines.is_empty() {
            self.lines =
                vec![MediaLine { media: "audio".into(), proto: "RTP/AVP".into(), fmt: String::new() }];
            self.index = 0;
        }
        let proto = self.lines[self.index].proto.clone();
        let media =
            self.audio(&proto, &numbers.formats(&order), &order, numbers, Direction::SendRecv, true, 20);
        let sdp = self.publish(media);
        self.offered = Some(numbers);
        sdp
    }

    /// The answer to our offer, or a further answer to the same one (18x, then 200; forked answers: the last stands).
    ///
    /// # Errors
    /// [`SdpError`]; what stood before still stands, and an offer still waits.
    pub fn accept(&mut self, answer: &[u8]) -> Result<Negotiated, SdpError> {
        let receive = self
            .offered
            .or_else(|| self.current.as_ref().map(|c| c.receive))
            .ok_or_else(|| SdpError::Mismatch("there is no offer that it could answer".into()))?;
        let remote = remote::read(answer)?;
        if remote.lines.len() != self.lines.len() || remote.index != self.index {
            return Err(SdpError::Mismatch(format!(
                "{} media lines were offered, {} are answered",
                self.lines.len(),
                remote.lines.len()
            )));
        }
        let codec = remote.codecs.first().copied().unwrap_or(Codec::Pcmu);
        let negotiated = agreed(&remote, codec, remote.payload_types, receive);
        self.current = Some(negotiated.clone());
        Ok(negotiated)
    }

    fn choose(&self, theirs: &[Codec]) -> Codec {
        let ours = self.prefer.iter().find(|c| theirs.contains(c));
        ours.or(theirs.first()).copied().unwrap_or(Codec::Pcmu)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one media description")]
    fn audio(
        &self,
        proto: &str,
        formats: &str,
        codecs: &[Codec],
        numbers: PayloadTypes,
        direction: Direction,
        rtcp_mux: bool,
        ptime_ms: u32,
    ) -> Media {
        let mut media = line("audio", self.local.address.port(), proto, formats);
        for codec in codecs {
            if let Some(number) = numbers.audio(*codec) {
                media.add_attribute_with_value("rtpmap", format!("{number} {}/8000", codec.name()));
            }
        }
        if let Some(event) = numbers.event {
            media.add_attribute_with_value("rtpmap", format!("{event} telephone-event/8000"));
            media.add_attribute_with_value("fmtp", format!("{event} 0-15"));
        }
        media.add_attribute_with_value("ptime", ptime_ms);
        media.add_attribute_from_str(direction.attribute());
        if rtcp_mux {
            media.add_attribute_from_str("rtcp-mux");
        }
        media
            .add_attribute_with_value("rtcp", self.local.address.port().saturating_add(u16::from(!rtcp_mux)));
        media
    }

    /// Puts our audio in its place among the refused media; raises the version when anything but it changed.
    fn publish(&mut self, audio: Media) -> Vec<u8> {
        let ip: IpAddr = self.local.address.ip();
        let origin = self.origin.clone();
        let origin = origin.unwrap_or_else(|| Origin::with_ip_addr(self.local.session_id, self.version, ip));
        let mut session = Session::new(origin, "-");
        session.set_connection(Connection::from_ip_addr(ip));
        session.add_time(Time { start_time: 0, stop_time: 0, repeats: Vec::new() });
        let mut audio = Some(audio);
        for (index, refused) in self.lines.iter().enumerate() {
            let media = if index == self.index { audio.take() } else { None };
            session.add_media(media.unwrap_or_else(|| {
                let first = refused.fmt.split_ascii_whitespace().next().unwrap_or("0");
                line(&refused.media, 0, &refused.proto, first)
            }));
        }
        let mut bytes = written(&mut session, self.version);
        if let Some(before) = &self.last {
            if *before == bytes {
                return bytes;
            }
            self.version += 1;
            bytes = written(&mut session, self.version);
        }
        self.last = Some(bytes.clone());
        bytes
    }
}

impl PayloadTypes {
    fn formats(&self, codecs: &[Codec]) -> String {
        let audio = codecs.iter().filter_map(|c| self.audio(*c));
        audio.chain(self.event).map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
    }
}

fn only(codec: Codec, theirs: &PayloadTypes) -> PayloadTypes {
    match codec {
        Codec::Pcmu => PayloadTypes { pcma: None, ..*theirs },
        Codec::Pcma => PayloadTypes { pcmu: None, ..*theirs },
    }
}

fn agreed(remote: &Remote, codec: Codec, send: PayloadTypes, receive: PayloadTypes) -> Negotiated {
    let send = PayloadTypes { event: send.event.filter(|_| receive.event.is_some()), ..send };
    Negotiated {
        codec,
        send,
        receive,
        remote: remote.address,
        remote_rtcp: remote.rtcp,
        rtcp_mux: remote.rtcp_mux,
        direction: remote.direction.reversed(),
        ptime_ms: remote.ptime_ms,
    }
}

fn line(media: &str, port: u16, proto: &str, fmt: &str) -> Media {
    Media {
        media: media.to_owned(),
        port,
        num_ports: None,
        proto: proto.to_owned(),
        fmt: fmt.to_owned(),
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}

fn written(session: &mut Session, version: u64) -> Vec<u8> {
    session.origin.sess_version = version;
    let mut bytes = Vec::with_capacity(512);
    // Writing into memory does not fail.
    let _ = session.write(&mut bytes);
    bytes.shrink_to_fit();
    bytes
}
