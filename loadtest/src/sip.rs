//! As much SIP as a caller over UDP needs, as text. Written apart from the system that it measures.

use std::net::SocketAddr;

/// A received message, borrowed.
pub struct Message<'a> {
    /// Request or status line.
    pub start: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    /// Body.
    pub body: &'a str,
}

impl<'a> Message<'a> {
    /// Reads a datagram. Folded headers and compact names other than `i`, `f`, `t`, `v`, `m` are not expected.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next()?;
        let headers =
            lines.filter_map(|line| line.split_once(':')).map(|(n, v)| (n.trim(), v.trim())).collect();
        Some(Self { start, headers, body })
    }

    /// The status, if this is a response.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method of a request, or of the request that a response answers.
    pub fn method(&self) -> &'a str {
        match self.status() {
            Some(_) => {
                self.header("CSeq").and_then(|cseq| cseq.split_whitespace().nth(1)).unwrap_or_default()
            }
            None => self.start.split(' ').next().unwrap_or_default(),
        }
    }

    /// All values of a header, in order.
    pub fn all(&self, name: &'a str) -> impl Iterator<Item = &'a str> + '_ {
        let compact = match name {
            "Call-ID" => "i",
            "From" => "f",
            "To" => "t",
            "Via" => "v",
            "Contact" => "m",
            _ => "",
        };
        self.headers
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name) || n.eq_ignore_ascii_case(compact))
            .map(|(_, value)| *value)
    }

    /// The first value of a header.
    pub fn header(&self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// The URI in Contact.
    pub fn contact(&self) -> Option<&'a str> {
        let value = self.header("Contact")?;
        match value.split_once('<') {
            Some((_, rest)) => rest.split('>').next(),
            None => value.split(';').next(),
        }
    }

    /// 200 to a request within the dialog, with `sdp` when it asks for some.
    pub fn ok(&self, contact: &str, sdp: Option<&str>) -> String {
        let mut text = String::from("SIP/2.0 200 OK\r\n");
        for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
            for value in self.all(name) {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text += &format!("Contact: <{contact}>\r\n");
        with_body(text, sdp)
    }
}

/// Ends the headers and adds a body.
pub fn with_body(mut text: String, sdp: Option<&str>) -> String {
    match sdp {
        Some(sdp) => {
            text += &format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len())
        }
        None => text += "Content-Length: 0\r\n\r\n",
    }
    text
}

/// An offer of PCMU at this address. `direction` `inactive` makes a call without media.
pub fn offer(media: SocketAddr, direction: &str) -> String {
    let (ip, port) = (media.ip(), media.port());
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 101\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na={direction}\r\n"
    )
}

/// An answer made of what was offered before: the same line, with the direction that an offer asks for (RFC 3264
/// section 6.1). A request without an offer gets ours as it is.
pub fn answer(own: &str, offered: &str) -> String {
    let asks = |direction: &str| offered.lines().any(|line| line.trim() == format!("a={direction}"));
    let direction = if asks("sendonly") {
        "recvonly"
    } else if asks("inactive") {
        "inactive"
    } else {
        return own.to_owned();
    };
    own.replace("a=sendrecv", &format!("a={direction}"))
}

/// Address and port of the audio in an answer.
pub fn media_address(sdp: &str) -> Option<SocketAddr> {
    let ip = sdp.lines().find_map(|line| line.strip_prefix("c=IN IP4 "))?.trim();
    let port =
        sdp.lines().find_map(|line| line.strip_prefix("m=audio ")?.split(' ').next()?.parse::<u16>().ok())?;
    Some(SocketAddr::new(ip.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read() {
        let text = b"SIP/2.0 200 OK\r\nVia: a\r\nVia: b\r\ni: lt-7\r\nCSeq: 1 INVITE\r\nm: <sip:x@1.2.3.4:5;k=v>;q=1\r\n\r\nv=0\r\n";
        let message = Message::parse(text).unwrap();
        assert_eq!((message.status(), message.method()), (Some(200), "INVITE"));
        assert_eq!(
            (message.header("Call-ID"), message.contact()),
            (Some("lt-7"), Some("sip:x@1.2.3.4:5;k=v"))
        );
        assert_eq!(message.all("Via").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_answer_follows_the_direction_of_its_offer() {
        let own = offer("127.0.0.1:4000".parse().unwrap(), "sendrecv");
        assert!(answer(&own, "a=sendonly\r\n").contains("a=recvonly"));
        assert!(answer(&own, "a=inactive\r\n").contains("a=inactive"));
        assert_eq!(answer(&own, "a=sendrecv\r\n"), own);
        assert_eq!(answer(&own, ""), own);
    }

    #[test]
    fn our_offer_names_its_address() {
        let at = "127.0.0.1:4000".parse().unwrap();
        assert_eq!(media_address(&offer(at, "inactive")), Some(at));
    }
}
