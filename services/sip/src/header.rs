//! Header names and the ordered list of headers of a message.

use std::{borrow::Cow, fmt};

use bytes::Bytes;

use crate::text::{decode, is_token, one_line};

macro_rules! names {
    ($($variant:ident = $name:literal $(/ $compact:literal)?;)*) => {
        /// A header name. Known names compare by kind and are written in full; others keep their spelling and compare
        /// without case.
        #[derive(Clone)]
        #[allow(missing_docs, reason = "the variants are the names of RFC headers")]
        pub enum HeaderName {
            $($variant,)*
            /// Any other; always a token.
            Other(OtherName),
        }

        impl HeaderName {
            /// As written.
            pub fn as_str(&self) -> &str {
                match self { $(Self::$variant => $name,)* Self::Other(other) => &other.0 }
            }

            fn known(name: &str) -> Option<Self> {
                $(if name.eq_ignore_ascii_case($name) $(|| name.eq_ignore_ascii_case($compact))? {
                    return Some(Self::$variant);
                })*
                None
            }

            fn kind(&self) -> u8 {
                match self { $(Self::$variant => Kind::$variant as u8,)* Self::Other(_) => u8::MAX }
            }
        }

        #[repr(u8)]
        enum Kind { $($variant,)* }
    };
}

names! {
    Via = "Via" / "v";
    From = "From" / "f";
    To = "To" / "t";
    CallId = "Call-ID" / "i";
    CSeq = "CSeq";
    Contact = "Contact" / "m";
    MaxForwards = "Max-Forwards";
    Route = "Route";
    RecordRoute = "Record-Route";
    ContentType = "Content-Type" / "c";
    ContentLength = "Content-Length" / "l";
    ContentEncoding = "Content-Encoding" / "e";
    ContentDisposition = "Content-Disposition";
    Accept = "Accept";
    AcceptEncoding = "Accept-Encoding";
    AcceptLanguage = "Accept-Language";
    Allow = "Allow";
    Supported = "Supported" / "k";
    Unsupported = "Unsupported";
    Require = "Require";
    ProxyRequire = "Proxy-Require";
    Expires = "Expires";
    MinExpires = "Min-Expires";
    SessionExpires = "Session-Expires" / "x";
    MinSe = "Min-SE";
    RetryAfter = "Retry-After";
    Reason = "Reason";
    Warning = "Warning";
    Date = "Date";
    Timestamp = "Timestamp";
    UserAgent = "User-Agent";
    Server = "Server";
    Subject = "Subject" / "s";
    Authorization = "Authorization";
    ProxyAuthorization = "Proxy-Authorization";
    WwwAuthenticate = "WWW-Authenticate";
    ProxyAuthenticate = "Proxy-Authenticate";
    AuthenticationInfo = "Authentication-Info";
    PAssertedIdentity = "P-Asserted-Identity";
    PPreferredIdentity = "P-Preferred-Identity";
    Privacy = "Privacy";
    RemotePartyId = "Remote-Party-ID";
    Diversion = "Diversion";
    HistoryInfo = "History-Info";
    Identity = "Identity" / "y";
    RAck = "RAck";
    RSeq = "RSeq";
    ReferTo = "Refer-To" / "r";
    ReferredBy = "Referred-By" / "b";
    Replaces = "Replaces";
    Event = "Event" / "o";
    SubscriptionState = "Subscription-State";
    InReplyTo = "In-Reply-To";
    AlertInfo = "Alert-Info";
    CallInfo = "Call-Info";
    Path = "Path";
    ServiceRoute = "Service-Route";
}

/// The spelling of an unlisted name. Private inside, so that it is a token wherever it goes.
#[derive(Clone)]
pub struct OtherName(Box<str>);

impl HeaderName {
    /// Reads a name, full or compact, in any case; `None` when it is not a token.
    pub fn parse(name: &str) -> Option<Self> {
        Self::known(name).or_else(|| is_token(name.as_bytes()).then(|| Self::Other(OtherName(name.into()))))
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Other(a), Self::Other(b)) => a.0.eq_ignore_ascii_case(&b.0),
            _ => self.kind() == other.kind(),
        }
    }
}

impl Eq for HeaderName {}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Headers in the order of the message, unknown ones included. A value is bytes, unfolded (each fold is one SP) and
/// trimmed, otherwise untouched; commas are not split until a typed accessor asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Headers(Vec<(HeaderName, Bytes)>);

impl Headers {
    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many header lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value of that name.
    pub fn get(&self, name: &HeaderName) -> Option<&Bytes> {
        self.all(name).next()
    }

    /// The first value as text (UTF-8, else Latin-1).
    pub fn get_str(&self, name: &HeaderName) -> Option<Cow<'_, str>> {
        self.get(name).map(|value| decode(value))
    }

    /// Every value of that name, in order.
    pub fn all<'a, 'n>(&'a self, name: &'n HeaderName) -> impl Iterator<Item = &'a Bytes> + use<'a, 'n> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value)
    }

    /// Lines of that name.
    pub fn count(&self, name: &HeaderName) -> usize {
        self.all(name).count()
    }

    /// A line of that name exists.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Every line in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &Bytes)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Appends. CR and LF in the value become SP: a value cannot become two lines.
    pub fn push(&mut self, name: HeaderName, value: impl Into<Bytes>) {
        self.0.push((name, safe(value.into())));
    }

    /// Prepends (a Via, a Record-Route); as [`Headers::push`].
    pub fn push_front(&mut self, name: HeaderName, value: impl Into<Bytes>) {
        self.0.insert(0, (name, safe(value.into())));
    }

    /// Replaces all lines of that name by one, at the place of the first; appends when there was none.
    pub fn set(&mut self, name: HeaderName, value: impl Into<Bytes>) {
        let value = safe(value.into());
        match self.0.iter().position(|(n, _)| *n == name) {
            Some(at) => {
                self.0[at].1 = value;
                let mut index = 0;
                self.0.retain(|(n, _)| {
                    index += 1;
                    index - 1 <= at || *n != name
                });
            }
            None => self.0.push((name, value)),
        }
    }

    /// Replaces the value of the first line of that name.
    pub(crate) fn replace_first(&mut self, name: &HeaderName, value: Bytes) {
        if let Some((_, old)) = self.0.iter_mut().find(|(n, _)| n == name) {
            *old = safe(value);
        }
    }

    /// Removes all lines of that name, however they were spelt or folded; how many there were.
    pub fn remove(&mut self, name: &HeaderName) -> usize {
        let before = self.0.len();
        self.0.retain(|(n, _)| n != name);
        before - self.0.len()
    }

    /// Appends every line of that name from another message.
    pub fn copy_from(&mut self, other: &Self, name: &HeaderName) {
        self.0.extend(other.0.iter().filter(|(n, _)| n == name).cloned());
    }

    /// Appends all lines of another list.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn safe(value: Bytes) -> Bytes {
    match one_line(&value) {
        Cow::Borrowed(_) => value,
        Cow::Owned(changed) => Bytes::from(changed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_case_and_compact() {
        for (text, name) in [
            ("v", HeaderName::Via),
            ("VIA", HeaderName::Via),
            ("I", HeaderName::CallId),
            ("mAx-fOrWaRdS", HeaderName::MaxForwards),
            ("k", HeaderName::Supported),
        ] {
            assert_eq!(HeaderName::parse(text), Some(name));
        }
        assert_eq!(HeaderName::parse("X-Foo"), HeaderName::parse("x-fOO"));
        assert_ne!(HeaderName::parse("X-Foo"), HeaderName::parse("X-Bar"));
        assert_eq!(HeaderName::parse("X-Foo").unwrap().as_str(), "X-Foo");
        assert_eq!(HeaderName::parse("a b"), None);
        assert_eq!(HeaderName::parse("a\r\nb"), None);
    }

    #[test]
    fn set_keeps_place_and_drops_repeats() {
        let mut headers = Headers::new();
        headers.push(HeaderName::Via, "1");
        headers.push(HeaderName::Subject, "a");
        headers.push(HeaderName::Via, "2");
        headers.set(HeaderName::Subject, "b\r\nEvil: 1");
        headers.push(HeaderName::Subject, "c");
        headers.set(HeaderName::Via, "3");
        let mut out = Vec::new();
        headers.write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "Via: 3\r\nSubject: b  Evil: 1\r\nSubject: c\r\n");
        assert_eq!(headers.remove(&HeaderName::Subject), 2);
    }
}
