//! Character classes and quoting of RFC 3261 section 25.1, over bytes. Everything here is linear in its input.

use std::borrow::Cow;

/// `token` characters: alphanum and `-.!%*_+`'~`.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// A non-empty `token`.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// `mark` and alphanum: what a URI carries without escaping.
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

/// SP or HTAB.
pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Without leading and trailing SP and HTAB.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_blank(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_blank(*last)
    {
        bytes = rest;
    }
    bytes
}

/// UTF-8 where it is UTF-8, else Latin-1: a byte is never lost and never makes a value unreadable.
pub(crate) fn decode(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// A decimal number that fits `max`. Leading zeros are allowed, a sign is not.
pub(crate) fn number(bytes: &[u8], max: u64) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit).filter(|value| *value <= max)
    })
}

/// Splits at `separator` outside quoted strings and `<…>`. `None` when a quote or a bracket is left open.
pub(crate) fn split_outside(value: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let (mut parts, mut start, mut quoted, mut escaped, mut bracket) = (Vec::new(), 0, false, false, false);
    for (at, byte) in value.iter().copied().enumerate() {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            // Inside <…> a quote is only a character: URIs have no quoted strings.
            b'"' if !bracket => quoted = true,
            b'<' => bracket = true,
            b'>' => bracket = false,
            _ if byte == separator && !bracket => {
                parts.push(&value[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&value[start..]);
    (!quoted && !bracket).then_some(parts)
}

/// Reads a quoted string at the beginning: its text without quotes and escapes, and what follows it.
pub(crate) fn take_quoted(value: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let rest = value.strip_prefix(b"\"")?;
    let (mut text, mut escaped) = (Vec::new(), false);
    for (at, byte) in rest.iter().copied().enumerate() {
        match byte {
            _ if escaped => {
                escaped = false;
                text.push(byte);
            }
            b'\\' => escaped = true,
            b'"' => return Some((text, &rest[at + 1..])),
            _ => text.push(byte),
        }
    }
    None
}

/// Writes a quoted string. CR and LF, which no quoted string can carry, become SP.
pub(crate) fn quote(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'"');
    for byte in text.iter().copied() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b'\r' | b'\n' => out.push(b' '),
            0..=8 | 11..=31 | 127 => out.extend([b'\\', byte]),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
    out
}

/// The text of a value that may be a quoted string.
pub(crate) fn unquote(value: &[u8]) -> Vec<u8> {
    take_quoted(value).map_or_else(|| value.to_vec(), |(text, _)| text)
}

/// Percent-escapes every byte that is neither unreserved nor in `also`.
pub(crate) fn escape(text: &[u8], also: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.iter().copied() {
        if is_unreserved(byte) || also.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// Undoes percent-escapes; `%00` is a byte like any other. A `%` without two hex digits stays as it is.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16)).map(|d| d as u8);
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4) | low);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// Every `%` is followed by two hex digits.
pub(crate) fn escapes_are_whole(text: &[u8]) -> bool {
    text.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        matches!((text.get(at + 1), text.get(at + 2)), (Some(a), Some(b)) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
    })
}

/// No CR or LF: whatever else a value holds, it stays one line.
pub(crate) fn one_line(value: &[u8]) -> Cow<'_, [u8]> {
    if value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        Cow::Owned(value.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }).collect())
    } else {
        Cow::Borrowed(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_respects_quotes_and_brackets() {
        let value = br#""a, \" b" <sip:x@y,z>;p="1,2", <sip:b@c>"#;
        let parts = split_outside(value, b',').unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(trim(parts[1]), b"<sip:b@c>");
        assert_eq!(split_outside(br#""open, <sip:b@c>"#, b','), None);
        assert_eq!(split_outside(b"<sip:b@c", b','), None);
    }

    #[test]
    fn quoting_reads_back_and_cannot_end_early() {
        for text in [&b"Joe"[..], b"a\"b\\c", b"\xe4\xf6 <sip:evil@x>", b"\x00\x07"] {
            let quoted = quote(text);
            assert_eq!(take_quoted(&quoted), Some((text.to_vec(), &b""[..])));
        }
        assert_eq!(quote(b"a\r\nEvil: 1"), b"\"a  Evil: 1\"");
    }

    #[test]
    fn escapes_keep_nul_and_broken_percent_signs() {
        assert_eq!(unescape("null-%00-%41%zz%4"), b"null-\0-A%zz%4");
        assert_eq!(escape(b"a b@c\0", b""), "a%20b%40c%00");
        assert!(!escapes_are_whole(b"%4") && escapes_are_whole(b"%4f"));
    }

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(number(b"0068", 255), Some(68));
        assert_eq!(number(b"256", 255), None);
        assert_eq!(number(b"-1", 255), None);
        assert_eq!(number(b"36893488147419103232", u64::MAX), None);
    }
}
