//! Reading the other side's SDP.

use std::net::{IpAddr, SocketAddr};

use sdp_types::{Media, Origin, Session};

use super::{Direction, PayloadTypes, SdpError};
use crate::codec::Codec;

/// Longest SDP that is read.
pub const MAX_BYTES: usize = 16_384;
/// Most media that are answered.
pub const MAX_MEDIA: usize = 32;
/// Longest packet duration that is honoured, in milliseconds.
const MAX_PTIME_MS: u32 = 60;

/// One medium of the other side, as far as it has to be repeated in an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MediaLine {
    pub media: String,
    pub proto: String,
    pub fmt: String,
}

/// The other side's SDP, reduced to what matters.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub lines: Vec<MediaLine>,
    /// Index of the audio that is taken.
    pub index: usize,
    pub codecs: Vec<Codec>,
    pub payload_types: PayloadTypes,
    pub address: Option<SocketAddr>,
    pub rtcp: Option<SocketAddr>,
    pub rtcp_mux: bool,
    /// As the other side sees it.
    pub direction: Direction,
    pub ptime_ms: Option<u32>,
}

fn parse(sdp: &[u8]) -> Result<Session, SdpError> {
    let malformed = |what: String| SdpError::Malformed(what);
    if sdp.len() > MAX_BYTES {
        return Err(malformed(format!("{} bytes, at most {MAX_BYTES} are read", sdp.len())));
    }
    let session = Session::parse(sdp).map_err(|e| malformed(e.to_string()))?;
    if session.medias.len() > MAX_MEDIA {
        return Err(malformed(format!(
            "{} media lines, at most {MAX_MEDIA} are answered",
            session.medias.len()
        )));
    }
    Ok(session)
}

pub(super) fn offered_codecs(sdp: &[u8]) -> Result<Vec<Codec>, SdpError> {
    let session = parse(sdp)?;
    let audio = session.medias.iter().find(|m| m.media.eq_ignore_ascii_case("audio") && m.port != 0);
    let audio = audio.ok_or_else(|| SdpError::Unsupported("no m=audio line with a port".into()))?;
    let (codecs, _, names) = codecs(audio)?;
    if codecs.is_empty() { Err(SdpError::NoCommonCodec(names.join(", "))) } else { Ok(codecs) }
}

pub(super) fn read(sdp: &[u8]) -> Result<Remote, SdpError> {
    let session = parse(sdp)?;
    let lines = session
        .medias
        .iter()
        .map(|m| MediaLine { media: m.media.clone(), proto: m.proto.clone(), fmt: m.fmt.clone() })
        .collect();
    let mut unsupported = String::from("no m=audio line with a port");
    let mut named = Vec::new();
    for (index, media) in session.medias.iter().enumerate() {
        if !media.media.eq_ignore_ascii_case("audio") || media.port == 0 {
            continue;
        }
        if !["RTP/AVP", "RTP/AVPF"].iter().any(|p| media.proto.eq_ignore_ascii_case(p)) {
            unsupported = format!("its transport is {:?}", media.proto);
            continue;
        }
        let (codecs, payload_types, names) = codecs(media)?;
        named.extend(names);
        if codecs.is_empty() {
            continue;
        }
        return audio(
            &session,
            media,
            Remote {
                lines,
                index,
                codecs,
                payload_types,
                address: None,
                rtcp: None,
                rtcp_mux: false,
                direction: Direction::SendRecv,
                ptime_ms: None,
            },
        );
    }
    Err(if named.is_empty() {
        SdpError::Unsupported(unsupported)
    } else {
        SdpError::NoCommonCodec(named.join(", "))
    })
}

/// The last SDP that another node of ours gave in this dialog: its origin, its media lines, which of them is the audio in
/// use, and the numbers of the codecs there.
pub(super) fn former(sdp: &[u8]) -> Result<(Origin, Vec<MediaLine>, usize, PayloadTypes), SdpError> {
    let session = parse(sdp)?;
    let audio = |m: &Media| m.media.eq_ignore_ascii_case("audio") && m.port != 0;
    let index = session.medias.iter().position(audio);
    let index = index.ok_or_else(|| SdpError::Unsupported("no m=audio line with a port".into()))?;
    let (_, numbers, _) = codecs(&session.medias[index])?;
    let lines = session
        .medias
        .iter()
        .map(|m| MediaLine { media: m.media.clone(), proto: m.proto.clone(), fmt: m.fmt.clone() })
        .collect();
    Ok((session.origin, lines, index, numbers))
}

/// Codecs in the party's order, its payload types, and all names for the error text.
fn codecs(media: &Media) -> Result<(Vec<Codec>, PayloadTypes, Vec<String>), SdpError> {
    let (mut found, mut types, mut names) = (Vec::new(), PayloadTypes::default(), Vec::new());
    for fmt in media.fmt.split_ascii_whitespace() {
        let payload_type =
            fmt.parse::<u8>().ok().filter(|pt| *pt < 128).ok_or_else(|| {
                SdpError::Malformed(format!("payload type {fmt:?} of m=audio is not 0 to 127"))
            })?;
        let mapped = rtpmap(media, payload_type);
        let name = mapped.clone().unwrap_or_else(|| static_name(payload_type).to_owned());
        let codec = match name.to_ascii_uppercase().as_str() {
            "PCMU/8000" | "PCMU/8000/1" => Some(Codec::Pcmu),
            "PCMA/8000" | "PCMA/8000/1" => Some(Codec::Pcma),
            "TELEPHONE-EVENT/8000" | "TELEPHONE-EVENT/8000/1" => {
                types.event.get_or_insert(payload_type);
                None
            }
            _ => None,
        };
        if let Some(codec) = codec {
            let slot = if codec == Codec::Pcmu { &mut types.pcmu } else { &mut types.pcma };
            if slot.is_none() {
                *slot = Some(payload_type);
                found.push(codec);
            }
        }
        if names.len() < 16 {
            names.push(name);
        }
    }
    Ok((found, types, names))
}

fn rtpmap(media: &Media, payload_type: u8) -> Option<String> {
    media.get_attribute_values("rtpmap").flatten().find_map(|value| {
        let (pt, name) = value.trim().split_once(' ')?;
        (pt.parse() == Ok(payload_type)).then(|| name.trim().to_owned())
    })
}

fn static_name(payload_type: u8) -> &'static str {
    match payload_type {
        0 => "PCMU/8000",
        8 => "PCMA/8000",
        3 => "GSM/8000",
        4 => "G723/8000",
        9 => "G722/8000",
        18 => "G729/8000",
        _ => "unnamed",
    }
}

fn audio(session: &Session, media: &Media, mut remote: Remote) -> Result<Remote, SdpError> {
    let connection = media.connections.first().or(session.connection.as_ref());
    let ip = match connection {
        Some(connection) => address(&connection.connection_address)?,
        None => return Err(SdpError::Malformed("m=audio has no c= line, and the session has none".into())),
    };
    // 0.0.0.0 is the hold of RFC 2543: the party neither wants nor has a place for audio.
    let held_by_address = ip.is_unspecified();
    remote.address = (!held_by_address).then(|| SocketAddr::new(ip, media.port));
    remote.rtcp_mux = media.has_attribute("rtcp-mux");
    remote.rtcp = match (remote.address, remote.rtcp_mux) {
        (None, _) => None,
        (address, true) => address,
        (Some(address), false) => Some(rtcp(media, address)?),
    };
    let direction = direction(media.attributes.iter()).or_else(|| direction(session.attributes.iter()));
    let direction = direction.unwrap_or(Direction::SendRecv);
    remote.direction = if held_by_address { Direction::new(direction.sends(), false) } else { direction };
    remote.ptime_ms = ptime(media);
    Ok(remote)
}

fn address(text: &str) -> Result<IpAddr, SdpError> {
    // A name instead of an address would need a resolver: nobody sends one.
    let ip = text.split('/').next().unwrap_or(text);
    let ip: IpAddr = ip.parse().map_err(|_| {
        SdpError::Malformed(format!(
            "c= has {:?}, an IP address is needed",
            ip.chars().take(64).collect::<String>()
        ))
    })?;
    if ip.is_multicast() {
        return Err(SdpError::Malformed("c= has a multicast address".into()));
    }
    Ok(ip)
}

/// RFC 3605, or the port above.
fn rtcp(media: &Media, rtp: SocketAddr) -> Result<SocketAddr, SdpError> {
    let default = SocketAddr::new(rtp.ip(), rtp.port().saturating_add(1));
    let Some(value) = media.get_first_attribute_value("rtcp").flatten() else { return Ok(default) };
    let mut parts = value.split_ascii_whitespace();
    let port = parts
        .next()
        .and_then(|p| p.parse().ok())
        .ok_or_else(|| SdpError::Malformed("a=rtcp has no port".into()))?;
    // port, optionally followed by nettype, addrtype, address.
    let ip = parts.nth(2).and_then(|ip| ip.parse().ok()).unwrap_or(rtp.ip());
    Ok(SocketAddr::new(ip, port))
}

fn direction<'a>(attributes: impl Iterator<Item = &'a sdp_types::Attribute>) -> Option<Direction> {
    attributes
        .filter_map(|a| match a.attribute.to_ascii_lowercase().as_str() {
            "sendrecv" => Some(Direction::SendRecv),
            "sendonly" => Some(Direction::SendOnly),
            "recvonly" => Some(Direction::RecvOnly),
            "inactive" => Some(Direction::Inactive),
            _ => None,
        })
        .last()
}

/// What the party asks for, within what can be made: tens of milliseconds up to 60; `maxptime` caps it.
fn ptime(media: &Media) -> Option<u32> {
    let number = |name: &str| {
        let value = media.get_first_attribute_value(name).flatten()?;
        value.trim().split('.').next()?.parse::<u32>().ok()
    };
    let (wanted, most) = (number("ptime"), number("maxptime"));
    let ptime = match (wanted, most) {
        (Some(wanted), Some(most)) => wanted.min(most),
        (Some(wanted), None) => wanted,
        (None, Some(most)) if most < 20 => most,
        _ => return None,
    };
    Some((ptime.clamp(10, MAX_PTIME_MS) / 10) * 10)
}
