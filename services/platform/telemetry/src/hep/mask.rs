//! Takes out of a SIP message what a capture must not hold: credentials, digits that were pressed, keys of the media.
//!
//! It works on the lines of whatever came, so that what no parser takes is masked too, and changes letters in place: the
//! message keeps its length, its Content-Length and its form. Where it is in doubt it masks too much.

/// What stands in a secret's place; no digit, no base64 of anything.
const MASK: u8 = b'x';
/// Headers whose values are or answer credentials.
const CREDENTIALS: [&[u8]; 6] = [
    b"authorization",
    b"proxy-authorization",
    b"www-authenticate",
    b"proxy-authenticate",
    b"authentication-info",
    b"proxy-authentication-info",
];
/// Parts of content types whose bodies tell digits: application/dtmf-relay, application/dtmf, telephone-event, KPML, and
/// what some telephones send instead.
const DIGITS: [&[u8]; 4] = [b"dtmf", b"telephone-event", b"digits", b"kpml"];
/// Lines of SDP that have keys in them.
const KEYS: [&[u8]; 3] = [b"a=crypto:", b"a=key-mgmt:", b"k="];

/// What the head says of the body.
#[derive(Default)]
struct Head {
    is_info: bool,
    typed: bool,
    /// Digits, or nothing that can be looked into.
    hide_body: bool,
    multipart: bool,
}

/// Masks `message` in place and gives its Call-ID.
pub(super) fn mask(message: &mut [u8]) -> Option<Vec<u8>> {
    let mut head = Head::default();
    let mut call_id = None;
    let mut first = true;
    let mut secret = false;
    let mut rest = message;
    let body = loop {
        let Some((line, after)) = next_line(std::mem::take(&mut rest)) else { break None };
        rest = after;
        let content = trimmed(line);
        if first {
            // Empty lines before a message are allowed (RFC 3261 section 7.5).
            first = content.is_empty();
            head.is_info = starts_with(content, b"info ");
            continue;
        }
        if content.is_empty() {
            break Some(rest);
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            // A header that goes on: of the kind that it is.
            if secret {
                hide(line);
            } else {
                head.content_type(line);
            }
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            secret = false;
            continue;
        };
        let (name, value) = line.split_at_mut(colon + 1);
        let name = name.get(..colon).unwrap_or_default().trim_ascii();
        secret = CREDENTIALS.iter().any(|known| name.eq_ignore_ascii_case(known));
        if secret {
            hide(value);
        } else if is(name, b"content-type", b"c") {
            head.typed = true;
            head.content_type(value);
        } else if is(name, b"content-encoding", b"e") {
            head.hide_body |= !value.trim_ascii().eq_ignore_ascii_case(b"identity");
        } else if is(name, b"call-id", b"i") && call_id.is_none() {
            call_id = Some(value.trim_ascii().to_vec());
        }
    };
    if let Some(body) = body {
        head.mask_body(body);
    }
    call_id
}

impl Head {
    fn content_type(&mut self, value: &[u8]) {
        self.hide_body |= DIGITS.iter().any(|sign| contains(value, sign));
        self.multipart |= contains(value, b"multipart/");
    }

    fn mask_body(&self, body: &mut [u8]) {
        // An INFO that does not say what it carries carries digits.
        let hidden = self.hide_body
            || (self.is_info && !self.typed)
            || (self.multipart && DIGITS.iter().any(|sign| contains(body, sign)));
        let mut secret = false;
        let mut rest = body;
        while let Some((line, after)) = next_line(std::mem::take(&mut rest)) {
            rest = after;
            let content = trimmed(line);
            let folded = matches!(line.first(), Some(b' ' | b'\t'));
            if hidden {
                hide_digits(line);
            } else if let Some(key) = KEYS.iter().find(|key| starts_with(content, key)) {
                let start = line.len() - line.trim_ascii_start().len() + key.len();
                hide(line.get_mut(start..).unwrap_or_default());
                secret = false;
            } else if folded {
                // Bodies may be messages themselves (message/sip, message/sipfrag).
                if secret {
                    hide(line);
                }
            } else if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                let name = line.get(..colon).unwrap_or_default().trim_ascii();
                secret = CREDENTIALS.iter().any(|known| name.eq_ignore_ascii_case(known));
                if secret {
                    hide(line.get_mut(colon + 1..).unwrap_or_default());
                }
            } else {
                secret = false;
            }
        }
    }
}

/// The next line with its end (LF, CR LF, or CR alone), and what follows.
fn next_line(text: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let end = text.iter().position(|byte| matches!(byte, b'\r' | b'\n')).map(|at| {
        let pair = text.get(at) == Some(&b'\r') && text.get(at + 1) == Some(&b'\n');
        at + 1 + usize::from(pair)
    });
    let length = end.unwrap_or(text.len());
    (length > 0).then(|| text.split_at_mut(length))
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.trim_ascii()
}

fn is(name: &[u8], long: &[u8], compact: &[u8]) -> bool {
    name.eq_ignore_ascii_case(long) || name.eq_ignore_ascii_case(compact)
}

fn starts_with(line: &[u8], prefix: &[u8]) -> bool {
    line.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

/// All but white space.
fn hide(value: &mut [u8]) {
    value.iter_mut().filter(|byte| !byte.is_ascii_whitespace()).for_each(|byte| *byte = MASK);
}

/// A line that tells a digit; what it tells (`Signal=`, `Duration=`) stays.
fn hide_digits(line: &mut [u8]) {
    let kept = [&b"signal"[..], b"duration"].into_iter().find_map(|key| {
        let equals = line.iter().position(|byte| *byte == b'=')?;
        line.get(..equals)?.trim_ascii().eq_ignore_ascii_case(key).then_some(equals + 1)
    });
    // Whitespace that is no line break says nothing; zero bytes and the like of binary bodies do.
    line.get_mut(kept.unwrap_or(0)..)
        .unwrap_or_default()
        .iter_mut()
        .filter(|byte| !matches!(byte, b'\r' | b'\n' | b' '))
        .for_each(|byte| *byte = MASK);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        mask(&mut bytes);
        assert_eq!(bytes.len(), text.len(), "Content-Length stays right");
        String::from_utf8(bytes).unwrap()
    }

    fn request(method: &str, headers: &str, body: &str) -> String {
        format!(
            "{method} sip:a@x SIP/2.0\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK1\r\n{headers}Call-ID: c1@x\r\nCSeq: 1 {method}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn each_header_with_credentials_loses_its_value_and_no_other_does() {
        for name in [
            "Authorization",
            "Proxy-Authorization",
            "WWW-Authenticate",
            "Proxy-Authenticate",
            "AUTHORIZATION",
            "authorization ",
        ] {
            let line = format!(
                "{name}: Digest username=\"bob\",\r\n\tresponse=\"hunter22\"\r\nX-Kept: hunter-x\r\n"
            );
            let text = masked(&request("INVITE", &line, ""));
            for gone in ["bob", "hunter22", "username", "Digest"] {
                assert!(!text.contains(gone), "{name}: {text}");
            }
            assert!(
                text.contains(&format!("{name}: xxxxxx ")) && text.contains("X-Kept: hunter-x"),
                "{text}"
            );
        }
        let plain = request("INVITE", "Contact: <sip:b@y>\r\nSubject: Authorization\r\n", "v=0\r\n");
        assert_eq!(masked(&plain), plain);
    }

    #[test]
    fn digits_of_every_kind_of_info_are_gone() {
        let relay =
            request("INFO", "Content-Type: application/dtmf-relay\r\n", "Signal=5\r\nDuration=160\r\n");
        assert!(masked(&relay).ends_with("\r\n\r\nSignal=x\r\nDuration=xxx\r\n"), "{}", masked(&relay));
        let plain = request("INFO", "c: application/DTMF\r\n", "5");
        assert!(masked(&plain).ends_with("\r\n\r\nx"));
        let event = request("INFO", "Content-Type:\r\n audio/telephone-event\r\n", "\u{5}\u{a}\u{0}\u{a0}");
        assert!(masked(&event).ends_with("\r\n\r\nx\nxxx"), "{:?}", masked(&event));
        let untyped = request("INFO", "", "Signal= 5");
        assert!(masked(&untyped).ends_with("Signal= x"));
        let multipart = request(
            "INFO",
            "Content-Type: multipart/mixed;boundary=b\r\n",
            "--b\r\nContent-Type: application/dtmf-relay\r\n\r\nSignal=7\r\n--b--\r\n",
        );
        assert!(!masked(&multipart).contains('7'), "{}", masked(&multipart));
        let packed = request("INFO", "Content-Type: application/x\r\nContent-Encoding: gzip\r\n", "\u{1f}7");
        assert!(masked(&packed).ends_with("\r\n\r\nxx"));
        let other = request("INFO", "Content-Type: application/media_control+xml\r\n", "<fast/>5");
        assert_eq!(masked(&other), other);
    }

    #[test]
    fn keys_of_the_media_are_gone_and_the_rest_of_the_description_stays() {
        let sdp = "v=0\r\nk=clear:secret\r\nm=audio 7000 RTP/SAVP 0\r\n\
                   a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:secret\r\n\
                   a=key-mgmt:mikey secret\r\nA=CRYPTO:2 secret\r\na=sendrecv\r\n";
        let text = masked(&request("INVITE", "Content-Type: application/sdp\r\n", sdp));
        assert!(!text.contains("secret"), "{text}");
        for kept in ["m=audio 7000 RTP/SAVP 0\r\n", "a=crypto:x ", "a=key-mgmt:xxxxx ", "a=sendrecv\r\n"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    #[test]
    fn messages_within_messages_and_strange_line_ends_are_masked_too() {
        let inner = "SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest nonce=\"secret\"\r\n";
        let notify = request("NOTIFY", "Content-Type: message/sipfrag\r\n", inner);
        assert!(!masked(&notify).contains("secret"), "{}", masked(&notify));
        for end in ["\n", "\r"] {
            let text = request("INFO", "Authorization: secret\r\nc: application/dtmf\r\n", "7");
            let text = masked(&format!("\r\n{text}").replace("\r\n", end));
            assert!(!text.contains("secret") && text.ends_with(&format!("{end}{end}x")), "{text:?}");
        }
    }

    #[test]
    fn the_call_id_is_found_in_both_forms() {
        for (headers, wanted) in [("", Some("c1@x")), ("i:  short \r\n", Some("short"))] {
            let found = mask(&mut request("BYE", headers, "").into_bytes());
            assert_eq!(found.as_deref(), wanted.map(str::as_bytes));
        }
        for noise in ["", "\r\n\r\n", "x", "\0\0:\0"] {
            assert_eq!(mask(&mut noise.as_bytes().to_vec()), None);
        }
    }
}
