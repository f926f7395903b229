//! Keys in SIP INFO: `application/dtmf-relay` (`Signal=5`) and `application/dtmf` (`5`).

use trunkline_sip::Request;

/// What an INFO carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InfoBody {
    /// Nothing: a keep-alive.
    Empty,
    /// A key.
    Key(char),
    /// A DTMF body without a key in it.
    Malformed,
    /// Something else: 415.
    Unsupported,
}

/// The value of Accept in a 415.
pub(crate) const ACCEPT: &str = "application/dtmf-relay, application/dtmf";

/// Reads an INFO.
pub(crate) fn read(request: &Request) -> InfoBody {
    if request.body.is_empty() {
        return InfoBody::Empty;
    }
    let Ok(Some(kind)) = request.headers.content_type() else { return InfoBody::Unsupported };
    let text = String::from_utf8_lossy(request.body.get(..request.body.len().min(256)).unwrap_or_default());
    let key = match (kind.kind.as_str(), kind.subtype.as_str()) {
        ("application", "dtmf-relay") => text.lines().find_map(|line| {
            let (name, value) = line.split_once('=').or_else(|| line.split_once(':'))?;
            name.trim().eq_ignore_ascii_case("signal").then(|| key(value)).flatten()
        }),
        ("application", "dtmf") => key(&text),
        _ => return InfoBody::Unsupported,
    };
    key.map_or(InfoBody::Malformed, InfoBody::Key)
}

/// A key by its sign, or by its event number of RFC 4733 (10 = `*`, 11 = `#`, 12 to 15 = A to D).
fn key(text: &str) -> Option<char> {
    let text = text.trim().trim_matches('"');
    if let Ok(number @ 10..=15) = text.parse::<usize>() {
        return "*#ABCD".chars().nth(number - 10);
    }
    let mut signs = text.chars();
    match (signs.next().map(|sign| sign.to_ascii_uppercase()), signs.next()) {
        (Some(sign), None) if is_key(sign) => Some(sign),
        _ => None,
    }
}

/// `0-9 * # A-D`.
pub(crate) fn is_key(sign: char) -> bool {
    matches!(sign, '0'..='9' | '*' | '#' | 'A'..='D')
}

/// The body of an INFO of ours.
pub(crate) fn relay_body(key: char) -> String {
    format!("Signal={key}\r\nDuration=160\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_sip::{Method, Uri};

    fn info(kind: &str, body: &str) -> InfoBody {
        read(&Request::new(Method::Info, "sip:a@b".parse::<Uri>().unwrap()).with_body(kind, body.to_owned()))
    }

    #[test]
    fn both_forms_of_info_give_the_key() {
        assert_eq!(info("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n"), InfoBody::Key('5'));
        assert_eq!(info("application/dtmf-relay", "Duration=160\r\nsignal= # \r\n"), InfoBody::Key('#'));
        assert_eq!(info("application/dtmf", "*"), InfoBody::Key('*'));
        assert_eq!(info("application/dtmf", "11\r\n"), InfoBody::Key('#'));
        assert_eq!(info("application/dtmf", "a"), InfoBody::Key('A'));
        assert_eq!(info("application/dtmf", "55"), InfoBody::Malformed);
        assert_eq!(info("application/dtmf-relay", "Duration=160"), InfoBody::Malformed);
        assert_eq!(info("text/plain", "5"), InfoBody::Unsupported);
    }
}
