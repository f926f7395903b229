//! Typed access to headers, parsed when asked for.

use bytes::Bytes;
use trunkline_types::Timestamp;

use crate::{
    address::NameAddr,
    digest::{Challenge, Credentials},
    header::{HeaderName, Headers},
    method::Method,
    text::{decode, is_token, number, split_outside, trim},
    values::{
        CSeq, Contacts, HeaderError, MediaType, Reason, SessionExpires, parse_date, seconds_and_params,
    },
    via::Via,
};

type Result<T> = std::result::Result<T, HeaderError>;

fn wrong(header: &HeaderName, problem: &'static str) -> HeaderError {
    HeaderError { header: header.clone(), problem }
}

impl Headers {
    /// The one value of a header that must be there exactly once.
    fn single(&self, name: &HeaderName) -> Result<&Bytes> {
        self.optional(name)?.ok_or_else(|| wrong(name, "header is missing"))
    }

    /// The one value of a header that may be there once.
    fn optional(&self, name: &HeaderName) -> Result<Option<&Bytes>> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(wrong(name, "header is there more than once")),
            (value, None) => Ok(value),
        }
    }

    /// Comma-joined and repeated values, in order, trimmed; empty elements between commas are left out.
    pub fn elements(&self, name: &HeaderName) -> Result<Vec<&[u8]>> {
        let mut elements = Vec::new();
        for value in self.all(name) {
            let parts = split_outside(value, b',').ok_or_else(|| wrong(name, "open quote or bracket"))?;
            elements.extend(parts.into_iter().map(trim).filter(|part| !part.is_empty()));
        }
        Ok(elements)
    }

    fn addresses(&self, name: &HeaderName) -> Result<Vec<NameAddr>> {
        self.elements(name)?
            .into_iter()
            .map(|value| NameAddr::parse(value).map_err(|problem| wrong(name, problem)))
            .collect()
    }

    fn tokens(&self, name: &HeaderName) -> Result<Vec<String>> {
        self.elements(name)?
            .into_iter()
            .map(|value| {
                if is_token(value) {
                    Ok(decode(value).into_owned())
                } else {
                    Err(wrong(name, "not a list of tokens"))
                }
            })
            .collect()
    }

    /// The topmost Via.
    ///
    /// # Errors
    /// Missing or malformed; only the first value is read.
    pub fn top_via(&self) -> Result<Via> {
        let name = HeaderName::Via;
        let value = self.get(&name).ok_or_else(|| wrong(&name, "header is missing"))?;
        let parts = split_outside(value, b',').ok_or_else(|| wrong(&name, "open quote or bracket"))?;
        Via::parse(trim(parts.first().copied().unwrap_or_default())).map_err(|problem| wrong(&name, problem))
    }

    /// Every Via, topmost first.
    pub fn vias(&self) -> Result<Vec<Via>> {
        let name = HeaderName::Via;
        // Not `elements`: an empty element is an error here.
        let mut vias = Vec::new();
        for value in self.all(&name) {
            for part in split_outside(value, b',').ok_or_else(|| wrong(&name, "open quote or bracket"))? {
                vias.push(Via::parse(trim(part)).map_err(|problem| wrong(&name, problem))?);
            }
        }
        Ok(vias)
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr> {
        NameAddr::parse(self.single(&HeaderName::From)?).map_err(|problem| wrong(&HeaderName::From, problem))
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr> {
        NameAddr::parse(self.single(&HeaderName::To)?).map_err(|problem| wrong(&HeaderName::To, problem))
    }

    /// The tag of From; `None` also when From cannot be read.
    pub fn from_tag(&self) -> Option<String> {
        self.from().ok()?.tag()
    }

    /// The tag of To; `None` also when To cannot be read.
    pub fn to_tag(&self) -> Option<String> {
        self.to().ok()?.tag()
    }

    /// Contact.
    pub fn contacts(&self) -> Result<Contacts> {
        let elements = self.elements(&HeaderName::Contact)?;
        match elements.as_slice() {
            [b"*"] => Ok(Contacts::Star),
            _ => self.addresses(&HeaderName::Contact).map(Contacts::List),
        }
    }

    /// The first Contact address (the remote target of a dialog).
    pub fn contact(&self) -> Result<Option<NameAddr>> {
        Ok(match self.contacts()? {
            Contacts::Star => None,
            Contacts::List(list) => list.into_iter().next(),
        })
    }

    /// Call-ID.
    pub fn call_id(&self) -> Result<&str> {
        let name = HeaderName::CallId;
        let value = self.single(&name)?;
        let ok = !value.is_empty() && value.iter().all(|byte| (b'!'..=b'~').contains(byte));
        match std::str::from_utf8(value) {
            Ok(text) if ok => Ok(text),
            _ => Err(wrong(&name, "not one word of printable ASCII")),
        }
    }

    /// CSeq.
    pub fn cseq(&self) -> Result<CSeq> {
        CSeq::parse(self.single(&HeaderName::CSeq)?).map_err(|problem| wrong(&HeaderName::CSeq, problem))
    }

    /// Max-Forwards, 0 to 255.
    pub fn max_forwards(&self) -> Result<Option<u8>> {
        let name = HeaderName::MaxForwards;
        let Some(value) = self.optional(&name)? else { return Ok(None) };
        let hops = number(value, 255).and_then(|hops| u8::try_from(hops).ok());
        hops.map(Some).ok_or_else(|| wrong(&name, "not a number from 0 to 255"))
    }

    /// Content-Length, bytes. Repeats are an error even when equal: they are how messages are smuggled.
    pub fn content_length(&self) -> Result<Option<usize>> {
        let name = HeaderName::ContentLength;
        let Some(value) = self.optional(&name)? else { return Ok(None) };
        let length = number(value, u32::MAX.into()).and_then(|length| usize::try_from(length).ok());
        length.map(Some).ok_or_else(|| wrong(&name, "not a number of bytes"))
    }

    /// Content-Type.
    pub fn content_type(&self) -> Result<Option<MediaType>> {
        let name = HeaderName::ContentType;
        let Some(value) = self.optional(&name)? else { return Ok(None) };
        MediaType::parse(value).map(Some).ok_or_else(|| wrong(&name, "not type/subtype"))
    }

    /// Accept; `None` when there is no such header, an empty list when it is empty (RFC 3261 section 20.1).
    pub fn accept(&self) -> Result<Option<Vec<MediaType>>> {
        let name = HeaderName::Accept;
        if !self.contains(&name) {
            return Ok(None);
        }
        self.elements(&name)?
            .into_iter()
            .map(|value| MediaType::parse(value).ok_or_else(|| wrong(&name, "not a list of type/subtype")))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// Route.
    pub fn route(&self) -> Result<Vec<NameAddr>> {
        self.addresses(&HeaderName::Route)
    }

    /// Record-Route.
    pub fn record_route(&self) -> Result<Vec<NameAddr>> {
        self.addresses(&HeaderName::RecordRoute)
    }

    /// Option tags of Require.
    pub fn require(&self) -> Result<Vec<String>> {
        self.tokens(&HeaderName::Require)
    }

    /// Option tags of Proxy-Require.
    pub fn proxy_require(&self) -> Result<Vec<String>> {
        self.tokens(&HeaderName::ProxyRequire)
    }

    /// Option tags of Supported.
    pub fn supported(&self) -> Result<Vec<String>> {
        self.tokens(&HeaderName::Supported)
    }

    /// Option tags of Unsupported.
    pub fn unsupported(&self) -> Result<Vec<String>> {
        self.tokens(&HeaderName::Unsupported)
    }

    /// Methods of Allow.
    pub fn allow(&self) -> Result<Vec<Method>> {
        let tokens = self.tokens(&HeaderName::Allow)?;
        Ok(tokens.iter().filter_map(|token| Method::parse(token)).collect())
    }

    /// Retry-After, seconds.
    pub fn retry_after(&self) -> Result<Option<u32>> {
        self.seconds(&HeaderName::RetryAfter)
    }

    /// Expires, seconds.
    pub fn expires(&self) -> Result<Option<u32>> {
        self.seconds(&HeaderName::Expires)
    }

    /// Min-SE, seconds (RFC 4028).
    pub fn min_se(&self) -> Result<Option<u32>> {
        self.seconds(&HeaderName::MinSe)
    }

    fn seconds(&self, name: &HeaderName) -> Result<Option<u32>> {
        let Some(value) = self.optional(name)? else { return Ok(None) };
        seconds_and_params(value)
            .map(|(seconds, _)| Some(seconds))
            .ok_or_else(|| wrong(name, "not a number of seconds below 2^32"))
    }

    /// Session-Expires (RFC 4028).
    pub fn session_expires(&self) -> Result<Option<SessionExpires>> {
        let name = HeaderName::SessionExpires;
        let Some(value) = self.optional(&name)? else { return Ok(None) };
        SessionExpires::parse(value).map(Some).ok_or_else(|| wrong(&name, "not a number of seconds"))
    }

    /// Reasons (RFC 3326); malformed ones are left out, they only inform.
    pub fn reasons(&self) -> Vec<Reason> {
        self.elements(&HeaderName::Reason).unwrap_or_default().into_iter().filter_map(Reason::parse).collect()
    }

    /// P-Asserted-Identity (RFC 3325). Believe it from trusted trunks only.
    pub fn asserted_identities(&self) -> Result<Vec<NameAddr>> {
        self.addresses(&HeaderName::PAssertedIdentity)
    }

    /// Values of Privacy (RFC 3323), separated by `;`, in lower case.
    pub fn privacy(&self) -> Vec<String> {
        self.all(&HeaderName::Privacy)
            .flat_map(|value| value.split(|byte| matches!(byte, b';' | b',')))
            .map(|value| decode(trim(value)).to_ascii_lowercase())
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// Date.
    pub fn date(&self) -> Result<Option<Timestamp>> {
        let name = HeaderName::Date;
        let Some(value) = self.optional(&name)? else { return Ok(None) };
        parse_date(value).map(Some).ok_or_else(|| wrong(&name, "not an RFC 1123 date in GMT"))
    }

    /// Digest challenges of WWW-Authenticate or Proxy-Authenticate; other schemes are left out. One a line: commas
    /// separate the parameters of a challenge (RFC 3261 section 20.44).
    pub fn challenges(&self, name: &HeaderName) -> Vec<Challenge> {
        self.all(name).filter_map(|value| Challenge::parse(value)).collect()
    }

    /// Digest credentials of Authorization or Proxy-Authorization; other schemes are left out.
    pub fn credentials(&self, name: &HeaderName) -> Vec<Credentials> {
        self.all(name).filter_map(|value| Credentials::parse(value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &'static str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in lines {
            headers.push(HeaderName::parse(name).unwrap(), *value);
        }
        headers
    }

    #[test]
    fn repeated_and_joined_values_are_one_list() {
        let headers = headers(&[
            ("Via", "SIP/2.0/UDP a;branch=z9hG4bK1, SIP/2.0/TCP b;branch=z9hG4bK2"),
            ("v", "SIP/2.0/TLS c;branch=z9hG4bK3"),
            ("Contact", "\"a, b\" <sip:x@y?a=1,2>;q=1, <sip:z@y>"),
        ]);
        let hosts: Vec<String> = headers.vias().unwrap().iter().map(|via| via.host().to_owned()).collect();
        assert_eq!(hosts, ["a", "b", "c"]);
        assert!(matches!(headers.contacts().unwrap(), Contacts::List(list) if list.len() == 2));
    }

    #[test]
    fn what_may_be_there_once_is_refused_twice() {
        let headers = headers(&[("l", "5"), ("Content-Length", "5"), ("To", "sip:a@b"), ("t", "sip:a@b")]);
        assert!(headers.content_length().is_err() && headers.to().is_err());
        let missing = headers.cseq().unwrap_err();
        assert_eq!(missing.to_string(), "CSeq: header is missing");
    }

    #[test]
    fn privacy_and_reason() {
        let headers = headers(&[
            ("Privacy", "id; Critical"),
            ("Reason", "SIP;cause=487, Q.850;cause=16;text=\"a, b\""),
        ]);
        assert_eq!(headers.privacy(), ["id", "critical"]);
        let reasons = headers.reasons();
        assert_eq!((reasons.len(), reasons[1].text.as_deref()), (2, Some("a, b")));
    }
}
