//! `name-addr` and `addr-spec` with header parameters: From, To, Contact, Route, P-Asserted-Identity and others.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    params::Params,
    text::{decode, is_blank, is_token_byte, quote, take_quoted, trim},
    uri::Uri,
};

/// A display name, a URI and parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameAddr {
    /// Without quotes and escapes, as bytes: UTF-8 by the standard, Latin-1 from many devices. Untrusted text.
    pub display: Option<Bytes>,
    /// The address.
    pub uri: Uri,
    /// Parameters of the header, not of the URI.
    pub params: Params,
}

impl NameAddr {
    /// Without display name and parameters.
    pub fn new(uri: impl Into<Uri>) -> Self {
        Self { display: None, uri: uri.into(), params: Params::default() }
    }

    /// With a display name; any text is safe, it is quoted when written.
    pub fn with_display(mut self, display: &str) -> Self {
        self.display = (!display.is_empty()).then(|| Bytes::copy_from_slice(display.as_bytes()));
        self
    }

    /// With a `tag`.
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.params.set("tag", Some(tag));
        self
    }

    /// The `tag` parameter.
    pub fn tag(&self) -> Option<String> {
        self.params.text("tag")
    }

    /// The display name as text (UTF-8, else Latin-1).
    pub fn display_text(&self) -> Option<Cow<'_, str>> {
        self.display.as_deref().map(decode)
    }

    /// Reads one value. The error names the problem.
    pub(crate) fn parse(value: &[u8]) -> Result<Self, &'static str> {
        let value = trim(value);
        if value.first() == Some(&b'"') {
            let (display, rest) = take_quoted(value).ok_or("display name has an open quote")?;
            return Self::bracketed(trim_start(rest), Some(Bytes::from(display)));
        }
        match value.iter().position(|byte| *byte == b'<') {
            Some(at) => {
                let display = trim(&value[..at]);
                // An unquoted display name is tokens and blanks; bytes beyond ASCII are let through.
                if !display.iter().all(|b| is_token_byte(*b) || is_blank(*b) || *b >= 0x80) {
                    return Err("display name has special characters and no quotes");
                }
                let display = (!display.is_empty()).then(|| Bytes::copy_from_slice(display));
                Self::bracketed(&value[at..], display)
            }
            None => Self::bare(value),
        }
    }

    fn bracketed(value: &[u8], display: Option<Bytes>) -> Result<Self, &'static str> {
        let rest = value.strip_prefix(b"<").ok_or("address lacks <")?;
        let end = rest.iter().position(|byte| *byte == b'>').ok_or("address lacks >")?;
        let uri = Uri::parse(&rest[..end]).map_err(|_| "address has a malformed URI")?;
        Ok(Self { display, uri, params: tail(trim(&rest[end + 1..]))? })
    }

    /// Without `<…>`, `;`, `?` and `,` belong to the header (RFC 3261 section 20): a `?` is therefore an error.
    fn bare(value: &[u8]) -> Result<Self, &'static str> {
        let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
        let address = trim(&value[..end]);
        if address.iter().any(|byte| matches!(byte, b'?' | b',')) {
            return Err("address with ? or , must be in <>");
        }
        let uri = Uri::parse(address).map_err(|_| "address has a malformed URI")?;
        Ok(Self { display: None, uri, params: tail(&value[end..])? })
    }

    /// As a header value: the display name always quoted, the URI always in `<…>`.
    pub fn to_value(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        if let Some(display) = &self.display {
            out = quote(display);
            out.push(b' ');
        }
        out.push(b'<');
        out.extend_from_slice(self.uri.to_string().as_bytes());
        out.push(b'>');
        self.params.write(&mut out);
        Bytes::from(out)
    }
}

fn trim_start(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|byte| !is_blank(*byte)).unwrap_or(value.len());
    &value[start..]
}

/// What follows the address: nothing or `;params`.
fn tail(value: &[u8]) -> Result<Params, &'static str> {
    match value {
        [] => Ok(Params::default()),
        [b';', params @ ..] => Params::parse_header(params).ok_or("address has a malformed parameter"),
        _ => Err("address is followed by something that is no parameter"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_an_address() {
        let parsed =
            NameAddr::parse(br#""J Rosenberg \\\""       <sip:jdrosen@example.com>   ;   tag = 98asjd8"#)
                .unwrap();
        assert_eq!(parsed.display_text().unwrap(), "J Rosenberg \\\"");
        assert_eq!(parsed.tag().unwrap(), "98asjd8");
        let bare = NameAddr::parse(b"sip:a@b;user=phone").unwrap();
        assert!(bare.params.contains("user") && bare.uri.as_sip().unwrap().params.is_empty());
        let inside = NameAddr::parse(b"caller<sip:a@b;user=phone>").unwrap();
        assert!(inside.params.is_empty() && inside.uri.as_sip().unwrap().params.contains("user"));
        for bad in [
            &b"Bell, Alexander <sip:a@b>;tag=43"[..],
            b"\"Mr. <sip:a@b>",
            b"<sip:a@b",
            b"<sip:a@b>x",
            b"sip:a@b?Route=%3C",
            b"< sip:a@b >",
            b"\"Joe\" <sip:a@b>;;;;",
            b"",
            b"<>",
            b"\"x\" sip:a@b",
        ] {
            assert!(NameAddr::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_display_name_cannot_spoof_the_address() {
        let spoof = "\" <sip:boss@bank.example>;tag=1, \"";
        let written = NameAddr::new("sip:mallory@x".parse::<Uri>().unwrap()).with_display(spoof).to_value();
        let read = NameAddr::parse(&written).unwrap();
        assert_eq!(
            (read.uri.to_string(), read.display_text().unwrap().into_owned()),
            ("sip:mallory@x".into(), spoof.into())
        );
        let quoted = NameAddr::parse(b"\"x\\\" <sip:boss@bank>\" <sip:mallory@x>").unwrap();
        assert_eq!(quoted.uri.to_string(), "sip:mallory@x");
    }

    #[test]
    fn latin1_display_names_survive() {
        let read = NameAddr::parse(b"\"M\xfcller\" <sip:a@b>").unwrap();
        assert_eq!(read.display_text().unwrap(), "Müller");
        assert_eq!(&read.to_value()[..], b"\"M\xfcller\" <sip:a@b>");
        assert_eq!(NameAddr::parse(b"M\xfcller <sip:a@b>").unwrap().display_text().unwrap(), "Müller");
    }
}
