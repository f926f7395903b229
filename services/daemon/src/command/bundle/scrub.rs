//! Takes secrets and numbers out of what leaves the house.
//!
//! What is known to be secret (from the configuration) is taken out wherever it stands; what looks like a number that can
//! be dialled keeps its last two digits, as in the log.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;
use trunkline_types::mask_number;

const REDACTED: &str = "[redacted]";
/// Words in the names of keys whose values are secrets.
const SECRET_WORDS: [&str; 9] =
    ["password", "passwd", "secret", "token", "credential", "access_key", "api_key", "authorization", "ha1"];
/// Keys whose values are the paths of files with a secret.
const SECRET_FILES: [&str; 1] = ["auth_key_file"];
/// Secrets that are shorter are not looked for: they would be found everywhere.
const SHORTEST: usize = 4;
/// Counters and times: their values are no numbers that can be dialled.
const COUNTS: [&str; 14] = [
    "_us",
    "_ms",
    "_ns",
    "_s",
    "_bytes",
    "bytes",
    "position",
    "revision",
    "incarnation",
    "seq",
    "epoch",
    "pid",
    "count",
    "size",
];

/// Compiled once: the texts are constants, and a test compiles each.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

static URL_PASSWORD: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"([a-z][a-z0-9+.-]*://[^\s/:@]*):([^\s/@]+)@"));
static PRIVATE_KEY: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----"));
static BEARER: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?i)\b(bearer|basic|digest)\s+[A-Za-z0-9._~+/=-]{8,}"));
static NAMED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r#"(?i)([a-z0-9_.-]*(?:password|passwd|secret|token|credential|access_key|api_key|ha1)[a-z0-9_]*"?\s*[=:]\s*)("[^"]*"|[^\s,;}"]+)"#,
    )
});
/// With a plus, whatever separates its digits.
static INTERNATIONAL: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"\+[0-9](?:[ ()./-]{0,2}[0-9]){4,}"));
static URI: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"(?i)\b(sips?|tel):([^\s@;>,]+)"));
static DIGITS: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"[0-9]{7,15}"));

/// Knows the secrets of one configuration.
#[derive(Debug, Default)]
pub struct Scrubber {
    secrets: Vec<String>,
}

impl Scrubber {
    /// Redacts a configuration in place and remembers what it took out.
    pub fn redact(config: &mut Value) -> Self {
        let mut scrubber = Self::default();
        scrubber.walk("", config);
        // The longest first: one may be a part of another.
        scrubber.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        scrubber.secrets.dedup();
        scrubber
    }

    fn walk(&mut self, key: &str, value: &mut Value) {
        let key = key.to_lowercase();
        let is_secret = SECRET_WORDS.iter().any(|word| key.contains(word));
        match value {
            Value::Object(map) if is_secret && map.len() == 1 && map.contains_key("file") => {
                if let Some(text) = map.get("file").and_then(Value::as_str) {
                    self.remember(std::fs::read_to_string(text).unwrap_or_default().trim());
                }
            }
            // Named by its path, which is none.
            Value::String(path) if SECRET_FILES.contains(&key.as_str()) => {
                self.remember(std::fs::read_to_string(path).unwrap_or_default().trim());
            }
            Value::Object(map) => map.iter_mut().for_each(|(key, value)| self.walk(key, value)),
            Value::Array(list) => list.iter_mut().for_each(|value| self.walk(&key, value)),
            Value::Null => {}
            value if is_secret => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                self.remember(&text);
                *value = Value::String(REDACTED.to_owned());
            }
            Value::String(text) => {
                if let Some(found) = URL_PASSWORD.as_ref().and_then(|url| url.captures(text)) {
                    self.remember(&found[2]);
                    // As a URL writes it, and as it is used.
                    self.remember(&unescape(&found[2]));
                }
                *text = self.text(text);
            }
            _ => {}
        }
    }

    fn remember(&mut self, secret: &str) {
        if secret.len() >= SHORTEST && secret != REDACTED {
            self.secrets.push(secret.to_owned());
        }
    }

    /// A text without secrets and with numbers masked.
    pub fn text(&self, text: &str) -> String {
        numbers(&self.secrets(text))
    }

    /// A document for programs: its texts as [`Scrubber::text`], its figures as they are.
    pub fn json(&self, mut value: Value) -> String {
        self.strings(&mut value);
        format!("{value:#}\n")
    }

    fn strings(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(list) => list.iter_mut().for_each(|value| self.strings(value)),
            Value::Object(map) => map.values_mut().for_each(|value| self.strings(value)),
            _ => {}
        }
    }

    /// Metrics: their values are measured, so that only what stands in quotes is masked.
    pub fn metrics(&self, text: &str) -> String {
        let text = self.secrets(text);
        let parts = text.split('"').enumerate();
        let masked: Vec<String> =
            parts.map(|(n, part)| if n % 2 == 1 { numbers(part) } else { part.to_owned() }).collect();
        masked.join("\"")
    }

    fn secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REDACTED);
            }
        }
        for (pattern, with) in [
            (&PRIVATE_KEY, "[redacted private key]"),
            (&URL_PASSWORD, "$1:[redacted]@"),
            (&BEARER, "$1 [redacted]"),
        ] {
            if let Some(pattern) = pattern.as_ref() {
                text = pattern.replace_all(&text, with).into_owned();
            }
        }
        if let Some(pattern) = NAMED.as_ref() {
            let redacted = |found: &Captures<'_>| {
                let quote = if found[2].starts_with('"') { "\"" } else { "" };
                format!("{}{quote}{REDACTED}{quote}", &found[1])
            };
            text = pattern.replace_all(&text, redacted).into_owned();
        }
        text
    }
}

/// Masks what can be dialled.
fn numbers(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(pattern) = INTERNATIONAL.as_ref() {
        text = pattern.replace_all(&text, |found: &Captures<'_>| mask_number(&found[0])).into_owned();
    }
    if let Some(pattern) = URI.as_ref() {
        let masked = |found: &Captures<'_>| format!("{}:{}", &found[1], mask_number(&found[2]));
        text = pattern.replace_all(&text, masked).into_owned();
    }
    let Some(pattern) = DIGITS.as_ref() else { return text };
    let mut masked = String::with_capacity(text.len());
    let mut last = 0;
    for found in pattern.find_iter(&text) {
        masked.push_str(&text[last..found.start()]);
        let stands = dialled(&text[..found.start()], &text[found.end()..]);
        masked.push_str(&if stands { mask_number(found.as_str()) } else { found.as_str().to_owned() });
        last = found.end();
    }
    masked.push_str(&text[last..]);
    masked
}

/// Whether a run of digits stands by itself: not within an id, not behind a decimal point, and not the value of a counter.
fn dialled(before: &str, after: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = after.chars();
    let next = rest.next();
    if next.is_some_and(part) || (next == Some('.') && rest.next().is_some_and(|c| c.is_ascii_digit())) {
        return false;
    }
    let previous = before.chars().next_back();
    if previous.is_some_and(|c| part(c) || c == '.') {
        return false;
    }
    if let Some(rest) = before.strip_suffix('-') {
        return !rest.chars().next_back().is_some_and(|c| c.is_ascii_alphabetic());
    }
    let key = before.trim_end_matches([' ', '=', ':', '"']);
    let assigned = key.len() < before.len() && before.trim_end().ends_with(['=', ':']);
    let name = key.rsplit(|c: char| !part(c)).next().unwrap_or_default();
    !(assigned && COUNTS.iter().any(|count| name.ends_with(count)))
}

/// `%40` and the like.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                plain.push(code);
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_pattern_compiles() {
        let all = [&URL_PASSWORD, &PRIVATE_KEY, &BEARER, &NAMED, &INTERNATIONAL, &URI, &DIGITS];
        assert!(all.iter().all(|pattern| pattern.is_some()));
    }

    #[test]
    fn a_configuration_keeps_its_form_and_loses_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etcd-password");
        std::fs::write(&file, "from-a-file\n").unwrap();
        let key = dir.path().join("collector");
        std::fs::write(&key, "key-of-homer\n").unwrap();
        let mut config = json!({
            "node": { "name": "n1" },
            "cluster": { "etcd": { "user": "root", "password": { "file": file } }, "tls": { "key": "/etc/node.key" } },
            "journal": { "postgres": { "url": "postgres://trunk:p%40ss-word@db:5432/t" } },
            "media": { "recording": { "store": { "access_key_id": "AKIA123", "secret_access_key": 12345678 } } },
            "hep": { "target": "homer:9060", "auth_key_file": key },
            "dev": { "numbers": { "x": "+49 30 1234567" } },
        });
        let scrubber = Scrubber::redact(&mut config);
        let text = config.to_string();
        for gone in ["p%40ss-word", "AKIA123", "12345678", "1234567"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        for kept in ["n1", "/etc/node.key", "postgres://trunk:[redacted]@db:5432/t", "etcd-password"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        let log = "connected with p@ss-word and from-a-file as AKIA123, key-of-homer";
        assert_eq!(scrubber.text(log), "connected with [redacted] and [redacted] as [redacted], [redacted]");
    }

    #[test]
    fn numbers_are_masked_and_figures_are_not() {
        let scrubber = Scrubber::default();
        for (text, masked) in [
            ("caller +493012345678 rings", "caller +**********78 rings"),
            ("to=+49 (30) 1234-567", "to=+** (**) ****-*67"),
            ("From: <sip:4930123456@10.0.0.1>", "From: <sip:********56@10.0.0.1>"),
            ("number \"030 1234567\"", "number \"030 *****67\""),
            ("sip:support@10.0.0.1:5060", "sip:support@10.0.0.1:5060"),
            ("took_us=12345678 position: 1234567890", "took_us=12345678 position: 1234567890"),
            ("2026-11-22T10:32:08.1234567Z", "2026-11-22T10:32:08.1234567Z"),
            ("call 0h2k1234567890abc", "call 0h2k1234567890abc"),
            ("extension 4711", "extension 4711"),
        ] {
            assert_eq!(scrubber.text(text), masked);
        }
        let document = json!({ "caller": "+493012345678", "size": 12345678, "say": ["tel:4930123456"] });
        let scrubbed: Value = serde_json::from_str(&scrubber.json(document)).unwrap();
        assert_eq!(
            scrubbed,
            json!({ "caller": "+**********78", "size": 12345678, "say": ["tel:********56"] })
        );
        let metrics = "x_bytes{trunk=\"4930123456\"} 123456789\n";
        assert_eq!(scrubber.metrics(metrics), "x_bytes{trunk=\"********56\"} 123456789\n");
    }

    #[test]
    fn secrets_that_nobody_configured_are_taken_out_by_their_form() {
        let scrubber = Scrubber::default();
        for text in [
            "Authorization: Bearer abcdef0123456789",
            "password=hunter22",
            "ha1_sha256: hunter22",
            "{\"api_key\":\"hunter22\"}",
            "-----BEGIN PRIVATE KEY-----\nhunter22\n-----END PRIVATE KEY-----",
            "amqp://user:hunter22@host/",
        ] {
            let scrubbed = scrubber.text(text);
            assert!(!scrubbed.contains("hunter22") && !scrubbed.contains("abcdef"), "{scrubbed}");
        }
        assert_eq!(scrubber.text("{\"api_key\":\"hunter22\"}"), "{\"api_key\":\"[redacted]\"}");
    }
}
