//! SIP, SIPS and tel URIs (RFC 3261 section 19.1, RFC 3966); every other absolute URI is kept as it is.

use std::{fmt, str::FromStr};

use crate::{
    params::Params,
    text::{decode, escape, escapes_are_whole, is_unreserved, number, unescape},
};

/// Why a text is not a URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No `scheme:`, or an impossible scheme.
    #[error("URI has no scheme: begin with sip:, sips: or tel:")]
    Scheme,
    /// A character that no URI can carry unescaped.
    #[error("URI has a character that must be percent-escaped, or a broken escape")]
    Character,
    /// Host missing or malformed.
    #[error("URI has no valid host: use a domain name, an IPv4 address or an [IPv6] address")]
    Host,
    /// Port is not 1 to 65535.
    #[error("URI port is not a number from 1 to 65535")]
    Port,
    /// A parameter is empty or malformed.
    #[error("URI parameter is empty or malformed")]
    Parameter,
}

/// A URI. Text is kept as it came (escapes included), so it is written as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Uri {
    /// `sip:` and `sips:`.
    Sip(SipUri),
    /// `tel:`.
    Tel(TelUri),
    /// Any other scheme, raw.
    Other(OtherUri),
}

/// An absolute URI of another scheme. Private inside: checked to be free of blanks, brackets and controls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherUri(Box<str>);

/// `sip:user:password@host:port;params?headers`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SipUri {
    /// `sips:`.
    pub secure: bool,
    user: Option<Box<str>>,
    password: Option<Box<str>>,
    host: Box<str>,
    /// 1 to 65535.
    pub port: Option<u16>,
    /// Transport, user, maddr, lr and others.
    pub params: Params,
    headers: Option<Box<str>>,
}

/// `tel:number;params`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TelUri {
    number: Box<str>,
    /// phone-context, isub, ext and others.
    pub params: Params,
}

impl Uri {
    /// Reads a URI. Beyond ASCII, bytes are percent-escaped, which is what their sender should have done.
    pub fn parse(bytes: &[u8]) -> Result<Self, UriError> {
        if bytes.iter().any(|byte| *byte >= 0x80) {
            let ascii = bytes.iter().fold(Vec::with_capacity(bytes.len() + 16), |mut out, byte| {
                match byte {
                    0x80.. => out.extend_from_slice(escape(&[*byte], b"").as_bytes()),
                    _ => out.push(*byte),
                }
                out
            });
            return Self::parse(&ascii);
        }
        let colon = bytes.iter().position(|byte| *byte == b':').ok_or(UriError::Scheme)?;
        let (scheme, rest) = (&bytes[..colon], &bytes[colon + 1..]);
        let scheme_ok = scheme.first().is_some_and(u8::is_ascii_alphabetic)
            && scheme.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !scheme_ok {
            return Err(UriError::Scheme);
        }
        if bytes.iter().any(|b| !(b'!'..=b'~').contains(b) || matches!(b, b'<' | b'>' | b'"')) {
            return Err(UriError::Character);
        }
        match scheme {
            s if s.eq_ignore_ascii_case(b"sip") => SipUri::parse(rest, false).map(Self::Sip),
            s if s.eq_ignore_ascii_case(b"sips") => SipUri::parse(rest, true).map(Self::Sip),
            s if s.eq_ignore_ascii_case(b"tel") => TelUri::parse(rest).map(Self::Tel),
            _ => Ok(Self::Other(OtherUri(decode(bytes).into()))),
        }
    }

    /// The scheme, in lower case.
    pub fn scheme(&self) -> String {
        match self {
            Self::Sip(uri) => if uri.secure { "sips" } else { "sip" }.to_owned(),
            Self::Tel(_) => "tel".to_owned(),
            Self::Other(uri) => uri.0.split(':').next().unwrap_or_default().to_ascii_lowercase(),
        }
    }

    /// The SIP form, if it is one.
    pub fn as_sip(&self) -> Option<&SipUri> {
        match self {
            Self::Sip(uri) => Some(uri),
            _ => None,
        }
    }

    /// The dialled or calling number or name: the unescaped user of a SIP URI, the number of a tel URI.
    pub fn user(&self) -> Option<String> {
        match self {
            Self::Sip(uri) => uri.user(),
            Self::Tel(uri) => Some(uri.number().to_owned()),
            Self::Other(_) => None,
        }
    }

    /// Equality by RFC 3261 section 19.1.4 (SIP), RFC 3966 section 4 (tel) or by text (others).
    pub fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sip(a), Self::Sip(b)) => a.matches(b),
            (Self::Tel(a), Self::Tel(b)) => a.matches(b),
            (Self::Other(a), Self::Other(b)) => a == b,
            _ => false,
        }
    }
}

/// A domain name, an IPv4 address or a bracketed IPv6 address.
pub(crate) fn host_is_valid(host: &[u8]) -> bool {
    if let Some(inner) = host.strip_prefix(b"[") {
        return inner.strip_suffix(b"]").is_some_and(|v6| {
            (2..=45).contains(&v6.len())
                && v6.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        });
    }
    // Underscores are not in the grammar but are in many private domain names.
    (1..=255).contains(&host.len())
        && host.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// Splits `host[:port]`; brackets hold colons of IPv6.
pub(crate) fn host_port(value: &[u8]) -> Result<(&str, Option<u16>), UriError> {
    let host_end = match value.first() {
        Some(b'[') => value.iter().position(|byte| *byte == b']').ok_or(UriError::Host)? + 1,
        _ => value.iter().position(|byte| *byte == b':').unwrap_or(value.len()),
    };
    let (host, rest) = value.split_at(host_end);
    if !host_is_valid(host) {
        return Err(UriError::Host);
    }
    let port = match rest {
        [] => None,
        [b':', digits @ ..] => {
            let port = number(digits, 65_535).filter(|port| *port > 0).ok_or(UriError::Port)?;
            Some(u16::try_from(port).map_err(|_| UriError::Port)?)
        }
        _ => return Err(UriError::Host),
    };
    Ok((std::str::from_utf8(host).map_err(|_| UriError::Host)?, port))
}

const USER_RESERVED: &[u8] = b"&=+$,;?/";

impl SipUri {
    /// `sip:[user@]host`; `user` is plain text and escaped here.
    pub fn new(user: Option<&str>, host: &str) -> Result<Self, UriError> {
        let host =
            if host.contains(':') && !host.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok() {
                format!("[{host}]")
            } else {
                host.to_owned()
            };
        if !host_is_valid(host.as_bytes()) {
            return Err(UriError::Host);
        }
        let user = user.filter(|user| !user.is_empty()).map(|user| escape(user.as_bytes(), b"&=+$,").into());
        Ok(Self {
            secure: false,
            user,
            password: None,
            host: host.into(),
            port: None,
            params: Params::default(),
            headers: None,
        })
    }

    /// The same with a port.
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = Some(port).filter(|port| *port > 0);
        self
    }

    /// The same with a URI parameter.
    pub fn with_param(mut self, name: &str, value: Option<&str>) -> Self {
        self.params.set_escaped(name, value);
        self
    }

    fn parse(rest: &[u8], secure: bool) -> Result<Self, UriError> {
        let at = rest.iter().position(|byte| *byte == b'@');
        let (userinfo, rest) = match at {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let (user, password) = match userinfo {
            Some(info) => {
                let colon = info.iter().position(|byte| *byte == b':');
                let (user, password) = match colon {
                    Some(colon) => (&info[..colon], Some(&info[colon + 1..])),
                    None => (info, None),
                };
                let allowed = |text: &[u8], more: &[u8]| {
                    text.iter().all(|b| {
                        is_unreserved(*b) || *b == b'%' || USER_RESERVED.contains(b) || more.contains(b)
                    }) && escapes_are_whole(text)
                };
                // '#' is not in the grammar; keypads and feature codes send it unescaped.
                if user.is_empty() || !allowed(user, b"#") || !password.is_none_or(|p| allowed(p, b":")) {
                    return Err(UriError::Character);
                }
                (Some(decode(user).into()), password.map(|p| decode(p).into()))
            }
            None => (None, None),
        };
        let (rest, headers) = match rest.iter().position(|byte| *byte == b'?') {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        if headers.is_some_and(|h| h.is_empty() || h.contains(&b'@') || !escapes_are_whole(h)) {
            return Err(UriError::Character);
        }
        let (hostport, params) = match rest.iter().position(|byte| *byte == b';') {
            Some(at) => {
                let params = &rest[at + 1..];
                if !escapes_are_whole(params) {
                    return Err(UriError::Character);
                }
                (&rest[..at], Params::parse_uri(params).ok_or(UriError::Parameter)?)
            }
            None => (rest, Params::default()),
        };
        let (host, port) = host_port(hostport)?;
        let headers = headers.map(|headers| decode(headers).into());
        Ok(Self { secure, user, password, host: host.into(), port, params, headers })
    }

    /// The user as unescaped text (UTF-8, else Latin-1); may hold NUL and any other character.
    pub fn user(&self) -> Option<String> {
        self.user_bytes().map(|user| decode(&user).into_owned())
    }

    /// The user as unescaped bytes.
    pub fn user_bytes(&self) -> Option<Vec<u8>> {
        self.user.as_deref().map(unescape)
    }

    /// The user as written.
    pub fn raw_user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Host as written; IPv6 in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The part after `?`, escaped. Never act on it from the network (RFC 3261 section 19.1.5).
    pub fn raw_headers(&self) -> Option<&str> {
        self.headers.as_deref()
    }

    /// Without the part after `?`.
    pub fn without_headers(mut self) -> Self {
        self.headers = None;
        self
    }

    /// The `transport` parameter in lower case.
    pub fn transport(&self) -> Option<String> {
        self.params.text("transport").map(|transport| transport.to_ascii_lowercase())
    }

    /// Has `lr`: the hop it names is a loose router.
    pub fn is_loose_router(&self) -> bool {
        self.params.contains("lr")
    }

    fn matches(&self, other: &Self) -> bool {
        let user = |uri: &Self| (uri.user_bytes(), uri.password.as_deref().map(unescape));
        let significant = ["user", "ttl", "method", "maddr", "transport"];
        let value = |params: &Params, name: &str| {
            params.get(name).map(|value| unescape(&decode(value)).to_ascii_lowercase())
        };
        let params_match = |a: &Params, b: &Params| {
            a.iter().all(|(name, _)| match b.contains(name) {
                true => value(a, name) == value(b, name),
                false => !significant.iter().any(|s| s.eq_ignore_ascii_case(name)),
            })
        };
        let headers = |uri: &Self| {
            let mut headers: Vec<Vec<u8>> =
                uri.headers.as_deref().unwrap_or_default().split('&').map(unescape).collect();
            headers.sort_unstable();
            headers
        };
        self.secure == other.secure
            && user(self) == user(other)
            && self.host.eq_ignore_ascii_case(&other.host)
            && self.port == other.port
            && params_match(&self.params, &other.params)
            && params_match(&other.params, &self.params)
            && headers(self) == headers(other)
    }
}

impl TelUri {
    /// A tel URI; `number` may have visual separators. A local number (no `+`) should get a `phone-context`.
    pub fn new(number: &str) -> Result<Self, UriError> {
        Self::parse(number.as_bytes())
    }

    fn parse(rest: &[u8]) -> Result<Self, UriError> {
        let (number, params) = match rest.iter().position(|byte| *byte == b';') {
            Some(at) => (&rest[..at], Params::parse_uri(&rest[at + 1..]).ok_or(UriError::Parameter)?),
            None => (rest, Params::default()),
        };
        let digits = number.strip_prefix(b"+").unwrap_or(number);
        let allowed =
            |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b'*' | b'#' | b'-' | b'.' | b'(' | b')');
        if digits.is_empty() || !digits.iter().all(allowed) {
            return Err(UriError::Character);
        }
        Ok(Self { number: decode(number).into(), params })
    }

    /// The number as written, with `+` and visual separators.
    pub fn number(&self) -> &str {
        &self.number
    }

    fn matches(&self, other: &Self) -> bool {
        let bare = |uri: &Self| -> String {
            uri.number
                .chars()
                .filter(|c| !matches!(c, '-' | '.' | '(' | ')'))
                .map(|c| c.to_ascii_lowercase())
                .collect()
        };
        let context = |uri: &Self| uri.params.text("phone-context").map(|text| text.to_ascii_lowercase());
        bare(self) == bare(other) && context(self) == context(other)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sip(uri) => uri.fmt(f),
            Self::Tel(uri) => write!(f, "tel:{}{}", uri.number, ParamsText(&uri.params)),
            Self::Other(uri) => f.write_str(&uri.0),
        }
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            f.write_str(user)?;
            if let Some(password) = &self.password {
                write!(f, ":{password}")?;
            }
            f.write_str("@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", ParamsText(&self.params))?;
        if let Some(headers) = &self.headers {
            write!(f, "?{headers}")?;
        }
        Ok(())
    }
}

struct ParamsText<'a>(&'a Params);

impl fmt::Display for ParamsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        self.0.write(&mut out);
        f.write_str(&decode(&out))
    }
}

impl FromStr for Uri {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text.as_bytes())
    }
}

impl From<SipUri> for Uri {
    fn from(uri: SipUri) -> Self {
        Self::Sip(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn uris_read_back_as_written() {
        for text in [
            "sip:alice@atlanta.com",
            "sip:alice:secret@atlanta.com:5061;transport=tcp;lr?subject=x&Route=%3Csip:a%3E",
            "sips:1212@gateway.com",
            "sip:[2001:db8::10]:5070",
            "sip:user;par=u%40example.net@example.com",
            "sip:%00@host5.example.com",
            "tel:+1-201-555-0123;phone-context=example.com",
            "isbn:2983792873",
            "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
        ] {
            assert_eq!(uri(text).to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "sip",
            "sip:",
            ":x",
            "sip:a b@c",
            "sip:a@",
            "sip:@b",
            "sip:a@b:0",
            "sip:a@b:70000",
            "sip:a@b;",
            "sip:a@b;;c",
            "sip:a%4@b",
            "sip:a@b@c",
            "<sip:a@b>",
            "sip:a@[::1",
            "tel:",
            "tel:hello",
            "sip:a@b?",
            "sip:a\r\nb@c",
        ] {
            assert!(text.parse::<Uri>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn nul_does_not_cut_a_user() {
        assert_eq!(uri("sip:null-%00-null@example.com").user().unwrap(), "null-\0-null");
    }

    #[test]
    fn latin1_in_a_uri_becomes_escaped() {
        assert_eq!(Uri::parse(b"sip:m\xfcller@x").unwrap().to_string(), "sip:m%FCller@x");
    }

    #[test]
    fn builders_escape_what_could_end_the_uri() {
        let built = SipUri::new(Some("a>;b@c\r\n"), "example.com").unwrap().with_param("x", Some("1;lr"));
        assert_eq!(built.to_string(), "sip:a%3E%3Bb%40c%0D%0A@example.com;x=1%3Blr");
        assert_eq!(Uri::from(built.clone()).user().unwrap(), "a>;b@c\r\n");
        assert!(SipUri::new(None, "a b").is_err());
        assert_eq!(SipUri::new(None, "::1").unwrap().to_string(), "sip:[::1]");
    }

    #[test]
    fn comparison_of_rfc_3261_19_1_4() {
        let equal = [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            ("tel:+1-201-555-0123", "tel:+12015550123"),
        ];
        for (a, b) in equal {
            assert!(uri(a).matches(&uri(b)) && uri(b).matches(&uri(a)), "{a} {b}");
        }
        let different = [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:carol@chicago.com?Subject=a", "sip:carol@chicago.com"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:a@b", "sips:a@b"),
        ];
        for (a, b) in different {
            assert!(!uri(a).matches(&uri(b)) && !uri(b).matches(&uri(a)), "{a} {b}");
        }
    }
}
