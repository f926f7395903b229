//! Values of headers as types.

use bytes::Bytes;
use trunkline_types::Timestamp;

use crate::{
    address::NameAddr,
    header::HeaderName,
    method::Method,
    params::Params,
    text::{decode, is_blank, is_token, number, quote, trim},
};

/// A header is missing or malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{header}: {problem}")]
pub struct HeaderError {
    /// Which header.
    pub header: HeaderName,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// CSeq: a number below 2^31 and the method.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CSeq {
    /// Sequence number (RFC 3261 section 8.1.1.5: below 2^31).
    pub number: u32,
    /// Method of the request.
    pub method: Method,
}

impl CSeq {
    pub(crate) fn parse(value: &[u8]) -> Result<Self, &'static str> {
        let end = value.iter().position(|b| is_blank(*b)).ok_or("CSeq is not a number and a method")?;
        let number = number(&value[..end], (1 << 31) - 1)
            .and_then(|number| u32::try_from(number).ok())
            .ok_or("CSeq number is not below 2^31")?;
        let method = Method::parse(&decode(trim(&value[end..]))).ok_or("CSeq method is not a token")?;
        Ok(Self { number, method })
    }

    /// As a header value.
    pub fn to_value(&self) -> Bytes {
        Bytes::from(format!("{} {}", self.number, self.method))
    }
}

/// Contact: `*` or addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contacts {
    /// `*`: all bindings (REGISTER with Expires 0 only).
    Star,
    /// In order; empty when there is no Contact.
    List(Vec<NameAddr>),
}

/// `type/subtype;params` of Content-Type and Accept, in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MediaType {
    /// `application`, or `*`.
    pub kind: String,
    /// `sdp`, or `*`.
    pub subtype: String,
    /// boundary, charset, q and others.
    pub params: Params,
}

impl MediaType {
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (essence, params) = match value.iter().position(|byte| *byte == b';') {
            Some(at) => (&value[..at], Params::parse_header(&value[at + 1..])?),
            None => (value, Params::default()),
        };
        let slash = essence.iter().position(|byte| *byte == b'/')?;
        let (kind, subtype) = (trim(&essence[..slash]), trim(&essence[slash + 1..]));
        (is_token(kind) && is_token(subtype)).then(|| Self {
            kind: decode(kind).to_ascii_lowercase(),
            subtype: decode(subtype).to_ascii_lowercase(),
            params,
        })
    }

    /// `type/subtype`.
    pub fn essence(&self) -> String {
        format!("{}/{}", self.kind, self.subtype)
    }

    /// As a range of Accept, covers `essence` (and is not refused by `q=0`).
    pub fn covers(&self, essence: &str) -> bool {
        let (kind, subtype) = essence.split_once('/').unwrap_or((essence, ""));
        let refused = self.params.text("q").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0));
        !refused
            && (self.kind == "*" || self.kind.eq_ignore_ascii_case(kind))
            && (self.subtype == "*" || self.subtype.eq_ignore_ascii_case(subtype))
    }
}

/// Reason (RFC 3326): why a request was sent or a response given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason {
    /// `SIP`, `Q.850` or another token.
    pub protocol: String,
    /// A SIP status or a Q.850 cause value.
    pub cause: Option<u16>,
    /// Free text.
    pub text: Option<String>,
}

impl Reason {
    /// A Q.850 cause.
    pub fn q850(cause: u8, text: &str) -> Self {
        Self { protocol: "Q.850".into(), cause: Some(cause.into()), text: Some(text.into()) }
    }

    /// A SIP status.
    pub fn sip(status: u16, text: &str) -> Self {
        Self { protocol: "SIP".into(), cause: Some(status), text: Some(text.into()) }
    }

    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (protocol, params) = match value.iter().position(|byte| *byte == b';') {
            Some(at) => (trim(&value[..at]), Params::parse_header(&value[at + 1..])?),
            None => (value, Params::default()),
        };
        is_token(protocol).then(|| Self {
            protocol: decode(protocol).into_owned(),
            cause: params.text("cause").and_then(|cause| cause.trim().parse().ok()),
            text: params.text("text"),
        })
    }

    /// As a header value; the text is always quoted.
    pub fn to_value(&self) -> Bytes {
        let protocol = if is_token(self.protocol.as_bytes()) { self.protocol.as_str() } else { "SIP" };
        let mut out = protocol.as_bytes().to_vec();
        if let Some(cause) = self.cause {
            out.extend_from_slice(format!(";cause={cause}").as_bytes());
        }
        if let Some(text) = &self.text {
            out.extend_from_slice(b";text=");
            out.extend_from_slice(&quote(text.as_bytes()));
        }
        Bytes::from(out)
    }
}

/// Who refreshes a session (RFC 4028).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refresher {
    /// The side that sent the request.
    Uac,
    /// The side that answers it.
    Uas,
}

/// Session-Expires (RFC 4028).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionExpires {
    /// Session interval, seconds.
    pub seconds: u32,
    /// Who refreshes, if said.
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (seconds, params) = seconds_and_params(value)?;
        let refresher = match params.text("refresher").map(|text| text.to_ascii_lowercase()).as_deref() {
            Some("uac") => Some(Refresher::Uac),
            Some("uas") => Some(Refresher::Uas),
            _ => None,
        };
        Some(Self { seconds, refresher })
    }

    /// As a header value.
    pub fn to_value(&self) -> Bytes {
        let refresher = match self.refresher {
            Some(Refresher::Uac) => ";refresher=uac",
            Some(Refresher::Uas) => ";refresher=uas",
            None => "",
        };
        Bytes::from(format!("{}{refresher}", self.seconds))
    }
}

/// `1800;params` with an optional `(comment)` after the number.
pub(crate) fn seconds_and_params(value: &[u8]) -> Option<(u32, Params)> {
    let end = value.iter().position(|b| matches!(b, b';' | b'(') || is_blank(*b)).unwrap_or(value.len());
    let seconds = u32::try_from(number(&value[..end], u32::MAX.into())?).ok()?;
    let rest = trim(&value[end..]);
    let rest = match rest {
        [b'(', inner @ ..] => trim(&inner[inner.iter().position(|byte| *byte == b')')? + 1..]),
        _ => rest,
    };
    match rest {
        [] => Some((seconds, Params::default())),
        [b';', params @ ..] => Some((seconds, Params::parse_header(params)?)),
        _ => None,
    }
}

/// `Sat, 13 Nov 2010 23:29:00 GMT` (RFC 1123 date; GMT only, RFC 3261 section 20.17).
pub(crate) fn parse_date(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?;
    let (_, rest) = text.split_once(',')?;
    let mut fields = rest.split_ascii_whitespace();
    let day: i64 = fields.next()?.parse().ok()?;
    let month = fields.next()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = i64::try_from(months.iter().position(|name| name.eq_ignore_ascii_case(month))?).ok()? + 1;
    let year: i64 = fields.next()?.parse().ok()?;
    let mut clock = fields.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let valid = (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && clock.next().is_none()
        && fields.next() == Some("GMT")
        && fields.next().is_none();
    if !valid {
        return None;
    }
    // Days since 1970-01-01 in the proleptic Gregorian calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(Timestamp::from_millis((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cseq_bounds() {
        assert_eq!(CSeq::parse(b"0009   INVITE").unwrap(), CSeq { number: 9, method: Method::Invite });
        for bad in [
            &b"36893488147419103232 REGISTER"[..],
            b"2147483648 INVITE",
            b"-1 INVITE",
            b"1",
            b"1 ",
            b"INVITE 1",
        ] {
            assert!(CSeq::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reasons_quote_their_text() {
        let reason = Reason::parse(b"Q.850 ;cause=16 ;text=\"Terminated\"").unwrap();
        assert_eq!(reason, Reason::q850(16, "Terminated"));
        assert_eq!(Reason::sip(200, "a\"b\r\nX: 1").to_value(), "SIP;cause=200;text=\"a\\\"b  X: 1\"");
    }

    #[test]
    fn dates() {
        let date = parse_date(b"Sat, 13 Nov 2010 23:29:00 GMT").unwrap();
        assert_eq!(date, Timestamp::from_millis(1_289_690_940_000));
        assert_eq!(parse_date(b"Fri, 01 Jan 2010 16:00:00 EST"), None);
        assert_eq!(parse_date(b"Fri, 99 Jan 2010 16:00:00 GMT"), None);
    }

    #[test]
    fn seconds_with_comment_and_refresher() {
        assert_eq!(seconds_and_params(b"18000 (busy);duration=3600").unwrap().0, 18_000);
        assert_eq!(seconds_and_params(b"949302838503028349304023988"), None);
        let session = SessionExpires::parse(b"1800;refresher=UAC").unwrap();
        assert_eq!(session.to_value(), "1800;refresher=uac");
    }

    #[test]
    fn media_ranges() {
        let covers = |range: &[u8], essence| MediaType::parse(range).unwrap().covers(essence);
        assert!(covers(b"application/*", "application/sdp") && covers(b"*/*;q=0.5", "application/sdp"));
        assert!(
            !covers(b"text/plain", "application/sdp") && !covers(b"application/sdp;q=0", "application/sdp")
        );
    }
}
