//! The Via header (RFC 3261 sections 18.2 and 20.42, RFC 3581) and where a response goes.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::{
    header::HeaderName,
    message::Request,
    params::Params,
    text::{decode, is_token, split_outside, trim},
    uri::{host_is_valid, host_port},
};

/// The magic cookie that begins every RFC 3261 branch.
pub const BRANCH_COOKIE: &str = "z9hG4bK";

/// One Via value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Via {
    version: Box<str>,
    transport: Box<str>,
    host: Box<str>,
    /// Port of sent-by.
    pub port: Option<u16>,
    /// branch, received, rport, maddr, ttl and others.
    pub params: Params,
}

impl Via {
    /// Ours, `SIP/2.0/{transport} {host}[:{port}];branch={branch}`. `None` when transport is not a token or host is
    /// no host; brackets are put around IPv6.
    pub fn new(transport: &str, host: &str, port: Option<u16>, branch: &str) -> Option<Self> {
        let host =
            if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
        if !is_token(transport.as_bytes()) || !host_is_valid(host.as_bytes()) {
            return None;
        }
        let mut params = Params::default();
        params.set("branch", Some(branch));
        Some(Self { version: "SIP/2.0".into(), transport: transport.into(), host: host.into(), port, params })
    }

    /// Asks for the response at the source port (RFC 3581).
    pub fn with_rport(mut self) -> Self {
        self.params.set("rport", None);
        self
    }

    /// The same with another branch.
    pub fn with_branch(mut self, branch: &str) -> Self {
        self.params.set("branch", Some(branch));
        self
    }

    /// Reads one value: `SIP / 2.0 / UDP host [: port] ;params`, blanks allowed around the slashes and the colon.
    pub(crate) fn parse(value: &[u8]) -> Result<Self, &'static str> {
        let (protocol, rest) = {
            let mut slashes = value.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            let (Some(first), Some(second)) = (slashes.next(), slashes.next()) else {
                return Err("Via lacks SIP/2.0/transport");
            };
            ((trim(&value[..first]), trim(&value[first + 1..second])), trim(&value[second + 1..]))
        };
        let end = rest.iter().position(|b| matches!(b, b' ' | b'\t')).ok_or("Via lacks the sent-by")?;
        let (transport, rest) = (&rest[..end], trim(&rest[end..]));
        if ![protocol.0, protocol.1, transport].into_iter().all(is_token) {
            return Err("Via protocol is not made of tokens");
        }
        let (sent_by, params) = match rest.iter().position(|byte| *byte == b';') {
            Some(at) => {
                (&rest[..at], Params::parse_header(&rest[at + 1..]).ok_or("Via has a malformed parameter")?)
            }
            None => (rest, Params::default()),
        };
        let sent_by = join_at_colon(trim(sent_by));
        let (host, port) = host_port(&sent_by).map_err(|_| "Via has a malformed host or port")?;
        if params.get("branch").is_some_and(|branch| branch.eq_ignore_ascii_case(BRANCH_COOKIE.as_bytes())) {
            return Err("Via branch is only the magic cookie");
        }
        Ok(Self {
            version: format!("{}/{}", decode(protocol.0), decode(protocol.1)).into(),
            transport: decode(transport).into(),
            host: host.into(),
            port,
            params,
        })
    }

    /// Transport in upper case: UDP, TCP, TLS, WS, WSS or another token.
    pub fn transport(&self) -> String {
        self.transport.to_ascii_uppercase()
    }

    /// Host of sent-by as written; IPv6 in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The branch; may lack the cookie ([`Via::has_cookie`]) or be missing (RFC 2543 peers).
    pub fn branch(&self) -> Option<String> {
        self.params.text("branch")
    }

    /// The branch begins with the magic cookie, hence identifies the transaction.
    pub fn has_cookie(&self) -> bool {
        self.params
            .get("branch")
            .and_then(|b| b.get(..BRANCH_COOKIE.len()))
            .is_some_and(|b| b.eq_ignore_ascii_case(BRANCH_COOKIE.as_bytes()))
    }

    /// The `received` parameter, if it is an IP address.
    pub fn received(&self) -> Option<IpAddr> {
        self.params.text("received")?.trim_matches(['[', ']']).parse().ok()
    }

    /// `Some(None)`: asked for and not filled in; `Some(Some(port))`: filled in.
    pub fn rport(&self) -> Option<Option<u16>> {
        self.params.contains("rport").then(|| self.params.text("rport").and_then(|port| port.parse().ok()))
    }

    /// `host[:port]` in lower case, as far as transactions are told apart by it.
    pub(crate) fn sent_by_key(&self) -> String {
        let host = self.host.to_ascii_lowercase();
        self.port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
    }

    /// As a header value.
    pub fn to_value(&self) -> Bytes {
        let mut out = format!("{}/{} {}", self.version, self.transport, self.host).into_bytes();
        if let Some(port) = self.port {
            out.extend_from_slice(format!(":{port}").as_bytes());
        }
        self.params.write(&mut out);
        Bytes::from(out)
    }

    /// Writes where the request really came from: `rport` when asked for, `received` when asked for or when sent-by
    /// is not the source address (RFC 3261 section 18.2.1, RFC 3581 section 4). A `received` or filled `rport` that
    /// the peer itself sent is replaced: it would otherwise direct our responses at a third party.
    pub fn stamp(&mut self, source: SocketAddr) {
        let ip = source.ip().to_canonical();
        let same = self.host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|host| host == ip);
        let asked = self.params.contains("rport");
        if asked {
            self.params.set("rport", Some(&source.port().to_string()));
        }
        if asked || !same {
            self.params.set("received", Some(&ip.to_string()));
        } else {
            self.params.remove("received");
        }
    }
}

/// Removes the blanks that COLON allows around the colon of `host : port`; other blanks stay and fail later.
fn join_at_colon(sent_by: &[u8]) -> Vec<u8> {
    match sent_by.iter().rposition(|byte| *byte == b':') {
        Some(at) => [trim(&sent_by[..at]), b":", trim(&sent_by[at + 1..])].concat(),
        None => sent_by.to_vec(),
    }
}

/// Stamps the top Via of a request with its source ([`Via::stamp`]). A request without a readable Via is unchanged.
pub fn stamp_source(request: &mut Request, source: SocketAddr) {
    stamp_headers(&mut request.headers, source);
}

pub(crate) fn stamp_headers(headers: &mut crate::header::Headers, source: SocketAddr) {
    let Some(value) = headers.get(&HeaderName::Via).cloned() else { return };
    // The first of a comma-joined header is ours to change; the rest stays byte by byte.
    let Some(parts) = split_outside(&value, b',') else { return };
    let Some(Ok(mut via)) = parts.first().map(|first| Via::parse(trim(first))) else { return };
    via.stamp(source);
    let mut stamped = via.to_value().to_vec();
    if let Some(first) = parts.first()
        && first.len() < value.len()
    {
        stamped.extend_from_slice(&value[first.len()..]);
    }
    headers.replace_first(&HeaderName::Via, Bytes::from(stamped));
}

/// Where the response to a request with this (stamped) top Via goes, as host and port (RFC 3261 section 18.2.2,
/// RFC 3581 section 4). `reliable`: used only when the connection of the request is gone. The default port is 5061
/// for TLS and WSS, else 5060.
pub fn response_destination(via: &Via, reliable: bool) -> (String, u16) {
    let default = if matches!(via.transport().as_str(), "TLS" | "WSS") { 5_061 } else { 5_060 };
    let port = via.port.unwrap_or(default);
    let sent_by = || via.host.trim_matches(['[', ']']).to_owned();
    if !reliable && let Some(maddr) = via.params.text("maddr") {
        return (maddr, port);
    }
    match (via.received(), via.rport().flatten()) {
        (Some(received), Some(rport)) if !reliable => (received.to_string(), rport),
        (Some(received), _) => (received.to_string(), port),
        (None, _) => (sent_by(), port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_between_everything() {
        let via =
            Via::parse(b"SIP  /    2.0   / UDP  192.168.255.111 : 5061  ; branch=  z9hG4bK30239").unwrap();
        assert_eq!((via.transport().as_str(), via.host(), via.port), ("UDP", "192.168.255.111", Some(5061)));
        assert!(via.has_cookie());
        assert_eq!(via.to_value(), "SIP/2.0/UDP 192.168.255.111:5061;branch=z9hG4bK30239");
    }

    #[test]
    fn malformed_values() {
        for bad in [
            &b"SIP/2.0/UDP 192.0.2.15;;,;,,"[..],
            b"SIP/2.0/UDP",
            b"SIP/2.0 host",
            b"",
            b"SIP/2.0/UDP host:0",
            b"SIP/2.0/UDP h;branch=z9hG4bK",
            b"SIP/2.0/UDP a b",
        ] {
            assert!(Via::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn stamping_and_destinations() {
        let source: SocketAddr = "192.0.2.9:40000".parse().unwrap();
        let mut via = Via::parse(b"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;rport").unwrap();
        via.stamp(source);
        assert_eq!(response_destination(&via, false), ("192.0.2.9".into(), 40_000));
        let mut plain =
            Via::parse(b"SIP/2.0/UDP host.example:5070;branch=z9hG4bKx;received=203.0.113.1").unwrap();
        plain.stamp(source);
        assert_eq!(response_destination(&plain, false), ("192.0.2.9".into(), 5_070));
        let mut same = Via::parse(b"SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKx").unwrap();
        same.stamp(source);
        assert_eq!(
            (same.received(), response_destination(&same, false)),
            (None, ("192.0.2.9".into(), 5_060))
        );
    }
}
