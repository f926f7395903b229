//! `;name=value` lists, of URIs and of header values.

use bytes::Bytes;

use crate::text::{decode, is_token_byte, quote, split_outside, trim, unquote};

/// One parameter. The value is as it came, a quoted string still in its quotes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Param {
    name: Box<str>,
    value: Option<Bytes>,
}

/// Parameters in order; names compare without case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Params(Vec<Param>);

impl Params {
    /// Reads `name[=value]` pieces separated by `;`, without the leading `;`. Spaces around `;` and `=` are allowed
    /// (RFC 3261 section 25.1, SEMI and EQUAL). `None` on an empty or malformed piece.
    pub(crate) fn parse_header(value: &[u8]) -> Option<Self> {
        Self::parse(value, |byte| is_token_byte(byte) || matches!(byte, b'[' | b']' | b':'))
    }

    /// As [`Params::parse_header`] with the characters that URI parameters may have, and no spaces.
    pub(crate) fn parse_uri(value: &[u8]) -> Option<Self> {
        let allowed = |byte: u8| {
            is_token_byte(byte)
                || matches!(byte, b'[' | b']' | b'/' | b':' | b'&' | b'+' | b'$' | b'(' | b')' | b',')
        };
        if value.iter().any(|byte| matches!(byte, b'"' | b' ' | b'\t')) {
            return None;
        }
        Self::parse(value, allowed)
    }

    fn parse(value: &[u8], allowed: impl Fn(u8) -> bool) -> Option<Self> {
        let mut params = Vec::new();
        for piece in split_outside(value, b';')? {
            let (name, value) = match piece.iter().position(|byte| *byte == b'=') {
                Some(at) => (trim(&piece[..at]), Some(trim(&piece[at + 1..]))),
                None => (trim(piece), None),
            };
            let name_ok = !name.is_empty() && name.iter().copied().all(&allowed);
            // Beyond ASCII a value is taken as it is: devices send UTF-8 and Latin-1 unquoted.
            let value_ok = value.is_none_or(|value| match value.first() {
                Some(b'"') => crate::text::take_quoted(value).is_some_and(|(_, rest)| rest.is_empty()),
                _ => value.iter().all(|byte| allowed(*byte) || *byte >= 0x80),
            });
            if !name_ok || !value_ok {
                return None;
            }
            params.push(Param { name: decode(name).into(), value: value.map(Bytes::copy_from_slice) });
        }
        Some(Self(params))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first parameter of that name exists, with or without a value.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&Param> {
        self.0.iter().find(|param| param.name.eq_ignore_ascii_case(name))
    }

    /// The value as it came; `None` when the parameter is missing or has no value.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.find(name)?.value.as_deref()
    }

    /// The value as text without quotes (UTF-8, else Latin-1).
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| decode(&unquote(value)).into_owned())
    }

    /// Names and raw values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.0.iter().map(|param| (&*param.name, param.value.as_deref()))
    }

    /// Sets or appends a parameter of a header value. A name that is not a token is refused silently (names are ours,
    /// not the network's); a value that is not a token is quoted, so it cannot add parameters or lines.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        if !crate::text::is_token(name.as_bytes()) {
            return;
        }
        let value = value.map(|value| {
            let plain = !value.is_empty()
                && value.bytes().all(|byte| is_token_byte(byte) || matches!(byte, b'[' | b']' | b':'));
            if plain {
                Bytes::copy_from_slice(value.as_bytes())
            } else {
                Bytes::from(quote(value.as_bytes()))
            }
        });
        match self.0.iter_mut().find(|param| param.name.eq_ignore_ascii_case(name)) {
            Some(param) => param.value = value,
            None => self.0.push(Param { name: name.into(), value }),
        }
    }

    /// Sets or appends a parameter of a URI: what a URI cannot carry is percent-escaped.
    pub fn set_escaped(&mut self, name: &str, value: Option<&str>) {
        let value = value.map(|value| crate::text::escape(value.as_bytes(), b"[]/:&+$"));
        let name = crate::text::escape(name.as_bytes(), b"[]/:&+$");
        self.remove(&name);
        if !name.is_empty() {
            self.0.push(Param { name: name.into(), value: value.map(Bytes::from) });
        }
    }

    /// Removes every parameter of that name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|param| !param.name.eq_ignore_ascii_case(name));
    }

    /// Appends `;name=value` for each.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for param in &self.0 {
            out.push(b';');
            out.extend_from_slice(param.name.as_bytes());
            if let Some(value) = &param.value {
                out.push(b'=');
                out.extend_from_slice(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_quotes_and_valueless_parameters() {
        let params = Params::parse_header(b" tag\t= 98asjd8 ;lr; x=\"a;\\\"b\" ").unwrap();
        assert_eq!(params.get("TAG"), Some(&b"98asjd8"[..]));
        assert!(params.contains("lr") && params.get("lr").is_none());
        assert_eq!(params.text("x").unwrap(), "a;\"b");
        for bad in [&b";;"[..], b"a=b;;c", b"=x", b"a=b c", b"a=\"x", b"a=\"x\"y"] {
            assert_eq!(Params::parse_header(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_value_cannot_add_a_parameter() {
        let mut params = Params::default();
        params.set("x", Some("1;evil=2\r\nEvil: 3"));
        let mut out = Vec::new();
        params.write(&mut out);
        assert_eq!(out, b";x=\"1;evil=2  Evil: 3\"");
        params.set_escaped("y", Some("a;b>"));
        assert_eq!(params.get("y"), Some(&b"a%3Bb%3E"[..]));
    }
}
