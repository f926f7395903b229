//! The little of SDP (RFC 4566, 3264) that a G.711 telephone with telephone-event needs.

use std::net::{IpAddr, SocketAddr};

use super::audio::Law;

/// Our payload type of telephone-event.
pub const EVENTS: u8 = 101;

/// Who may send, by the line in SDP of one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direction {
    /// Both.
    #[default]
    SendRecv,
    /// Only the writer of the SDP.
    SendOnly,
    /// Only the reader of the SDP.
    RecvOnly,
    /// Nobody.
    Inactive,
}

impl Direction {
    /// What the reader of the SDP answers when it wants all it can get.
    pub fn answer(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            both => both,
        }
    }

    /// As in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::SendRecv, Self::SendOnly, Self::RecvOnly, Self::Inactive]
            .into_iter()
            .find(|direction| direction.name() == name)
    }
}

/// What the other side wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Where to send.
    pub address: SocketAddr,
    /// The first codec of the list that we have.
    pub law: Law,
    /// Their payload type of telephone-event.
    pub events: Option<u8>,
    /// As the other side wrote it; an address of 0.0.0.0 is hold too (RFC 2543).
    pub direction: Direction,
}

impl Remote {
    /// On hold: the other side does not listen.
    pub fn holds(&self) -> bool {
        matches!(self.direction, Direction::SendOnly | Direction::Inactive)
    }
}

/// Ours, with its version.
#[derive(Clone, Debug)]
pub struct Local {
    address: SocketAddr,
    id: u64,
    version: u64,
    last: Option<(Vec<Law>, Direction)>,
}

impl Local {
    /// For a media socket with this address.
    pub fn new(address: SocketAddr, id: u64) -> Self {
        Self { address, id, version: 1, last: None }
    }

    /// An offer, or an answer with the one agreed codec. The version rises by one when something changed.
    pub fn write(&mut self, laws: &[Law], events: Option<u8>, direction: Direction) -> String {
        let now = (laws.to_vec(), direction);
        if self.last.as_ref().is_some_and(|last| *last != now) {
            self.version += 1;
        }
        self.last = Some(now);
        let (ip, port) = (self.address.ip(), self.address.port());
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        let mut types: Vec<String> = laws.iter().map(|law| law.payload_type().to_string()).collect();
        let mut maps: String = laws
            .iter()
            .map(|law| format!("a=rtpmap:{} {}/8000\r\n", law.payload_type(), law.name()))
            .collect();
        if let Some(events) = events {
            types.push(events.to_string());
            maps += &format!("a=rtpmap:{events} telephone-event/8000\r\na=fmtp:{events} 0-15\r\n");
        }
        format!(
            "v=0\r\no=- {} {} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP {}\r\n\
             {maps}a=ptime:20\r\na={}\r\n",
            self.id,
            self.version,
            types.join(" "),
            direction.name(),
        )
    }
}

/// Reads an offer or an answer.
///
/// # Errors
/// What is missing, in words.
pub fn read(body: &[u8]) -> Result<Remote, String> {
    let text = String::from_utf8_lossy(body);
    let (mut ip, mut direction, mut audio, mut in_audio) =
        (None::<IpAddr>, Direction::default(), None, false);
    let mut events = None;
    for line in text.lines() {
        let Some((kind, value)) = line.trim_end().split_once('=') else { continue };
        if kind == "m" {
            in_audio = audio.is_none() && value.starts_with("audio ");
            if in_audio {
                audio = Some(value.to_owned());
            }
            continue;
        }
        // Lines before the first m= are for the session, those of other media are not ours.
        if audio.is_some() && !in_audio {
            continue;
        }
        match (kind, value.split_once(' ')) {
            ("c", Some(("IN", rest))) => {
                let address = rest.split_whitespace().nth(1).unwrap_or_default();
                ip = address.split('/').next().and_then(|address| address.parse().ok()).or(ip);
            }
            ("a", Some((map, encoding)))
                if encoding.to_ascii_lowercase().starts_with("telephone-event/8000") =>
            {
                events = map.strip_prefix("rtpmap:").and_then(|number| number.parse().ok()).or(events);
            }
            ("a", _) => direction = Direction::parse(value).unwrap_or(direction),
            _ => {}
        }
    }
    let audio = audio.ok_or("no m=audio line")?;
    let mut words = audio.split_whitespace().skip(1);
    let port: u16 = words.next().and_then(|port| port.parse().ok()).ok_or("m=audio has no port")?;
    let law = words
        .skip(1)
        .find_map(|number| number.parse().ok().and_then(Law::of_payload_type))
        .ok_or("neither PCMU nor PCMA in m=audio")?;
    let ip = ip.ok_or("no address in a c= line")?;
    if port == 0 {
        return Err("audio refused (port 0)".into());
    }
    if ip.is_unspecified() {
        direction = if direction == Direction::Inactive { direction } else { Direction::SendOnly };
    }
    Ok(Remote { address: SocketAddr::new(ip, port), law, events, direction })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_offer_can_be_read() {
        let mut local = Local::new("127.0.0.1:4000".parse().unwrap(), 9);
        let offer = local.write(&[Law::A, Law::Mu], Some(EVENTS), Direction::SendRecv);
        let remote = read(offer.as_bytes()).unwrap();
        assert_eq!(
            remote,
            Remote {
                address: "127.0.0.1:4000".parse().unwrap(),
                law: Law::A,
                events: Some(EVENTS),
                direction: Direction::SendRecv
            }
        );
        assert!(offer.contains("o=- 9 1 IN"));
        assert!(local.write(&[Law::A, Law::Mu], Some(EVENTS), Direction::SendRecv).contains("o=- 9 1 IN"));
        assert!(local.write(&[Law::A], Some(EVENTS), Direction::RecvOnly).contains("o=- 9 2 IN"));
    }

    /// Hold by direction and by address; attributes of the session and of other media.
    #[test]
    fn hold_is_seen_in_all_its_forms() {
        let sdp = |c: &str, session: &str, media: &str| {
            format!(
                "v=0\r\nc=IN IP4 {c}\r\n{session}t=0 0\r\nm=audio 9 RTP/AVP 18 8 97\r\na=rtpmap:97 \
                 telephone-event/8000\r\n{media}m=video 11 RTP/AVP 96\r\na=sendrecv\r\nc=IN IP4 9.9.9.9\r\n"
            )
        };
        for (c, session, media, want) in [
            ("1.2.3.4", "", "a=sendonly\r\n", Direction::SendOnly),
            ("1.2.3.4", "a=inactive\r\n", "", Direction::Inactive),
            ("0.0.0.0", "", "", Direction::SendOnly),
            ("1.2.3.4", "a=inactive\r\n", "a=sendrecv\r\n", Direction::SendRecv),
        ] {
            let remote = read(sdp(c, session, media).as_bytes()).unwrap();
            assert_eq!((remote.direction, remote.law, remote.events), (want, Law::A, Some(97)));
            assert_eq!(remote.address.to_string(), format!("{c}:9"));
        }
        assert_eq!(Direction::SendOnly.answer(), Direction::RecvOnly);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (sdp, part) in [
            ("v=0\r\n", "m=audio"),
            ("m=audio 9 RTP/AVP 18\r\nc=IN IP4 1.1.1.1\r\n", "PCMU"),
            ("m=audio 9 RTP/AVP 0\r\n", "c="),
            ("c=IN IP4 1.1.1.1\r\nm=audio 0 RTP/AVP 0\r\n", "port 0"),
        ] {
            assert!(read(sdp.as_bytes()).unwrap_err().contains(part), "{sdp}");
        }
    }
}
