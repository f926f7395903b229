//! Where else a call can be seen: its trace, its log lines, a dashboard. Addresses are templates of the configuration,
//! filled by this server, so that a page needs to know nothing of the tools behind them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// What stays as it is in a query (RFC 3986 section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Looked at from a minute before the call until a minute after it.
const MARGIN_MS: i64 = 60_000;
/// Longest template, in bytes.
const MAX_TEMPLATE: usize = 2_048;

/// Addresses with `{call_id}`, `{trace_id}`, `{sip_call_id}`, and `{from_ms}` and `{to_ms}` (from a minute before the call
/// to a minute after it, milliseconds since 1970; `now` while it lasts). Values are percent-encoded. Empty = no link.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkTemplates {
    /// The call's trace, for instance
    /// `https://grafana.example.com/explore?left={"datasource":"tempo","queries":[{"query":"{trace_id}"}]}`.
    pub trace: String,
    /// The call's log lines.
    pub logs: String,
    /// A dashboard of one call.
    pub dashboard: String,
}

/// A call, as far as links name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linked<'a> {
    pub(crate) call_id: &'a str,
    pub(crate) trace_id: &'a str,
    pub(crate) sip_call_id: &'a str,
    pub(crate) started_ms: i64,
    pub(crate) ended_ms: Option<i64>,
}

const NAMES: [&str; 5] = ["call_id", "trace_id", "sip_call_id", "from_ms", "to_ms"];

impl LinkTemplates {
    /// Checks every template; the error names the key.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for (key, template) in
            [("links.trace", &self.trace), ("links.logs", &self.logs), ("links.dashboard", &self.dashboard)]
        {
            if template.is_empty() {
                continue;
            }
            if let Some(reason) = problem(template) {
                return Err(ConfigError::Link { key, reason });
            }
        }
        Ok(())
    }
}

fn problem(template: &str) -> Option<String> {
    if !template.starts_with("https://") && !template.starts_with("http://") {
        return Some("it has to begin with https:// or http://".to_owned());
    }
    if template.len() > MAX_TEMPLATE {
        return Some(format!("it is longer than {MAX_TEMPLATE} bytes"));
    }
    if template.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Some("it contains a blank: write %20".to_owned());
    }
    let names_call = NAMES[..3].iter().any(|name| template.contains(&format!("{{{name}}}")));
    (!names_call).then(|| "it names no call: use {call_id}, {trace_id} or {sip_call_id}".to_owned())
}

/// The address for a call; `None` when there is no template, or the call lacks what it names.
pub(crate) fn fill(template: &str, call: &Linked<'_>) -> Option<String> {
    if template.is_empty() {
        return None;
    }
    let from = (call.started_ms - MARGIN_MS).to_string();
    let to = call.ended_ms.map_or_else(|| "now".to_owned(), |ended| (ended + MARGIN_MS).to_string());
    let values = [call.call_id, call.trace_id, call.sip_call_id, &from, &to];
    let mut address = String::with_capacity(template.len() + 64);
    let mut rest = template;
    // From left to right, so that what a value contains is not taken for a name.
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        address.push_str(before);
        let named = NAMES
            .iter()
            .zip(values)
            .find(|(name, _)| after[1..].strip_prefix(**name).is_some_and(|end| end.starts_with('}')));
        rest = match named {
            Some((_, "")) => return None,
            Some((name, value)) => {
                address.extend(utf8_percent_encode(value, ENCODED));
                &after[name.len() + 2..]
            }
            None => {
                address.push('{');
                &after[1..]
            }
        };
    }
    address.push_str(rest);
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Linked<'_> = Linked {
        call_id: "c-1",
        trace_id: "0af7",
        sip_call_id: "a b{trace_id}&x=1@host",
        started_ms: 100_000,
        ended_ms: Some(200_000),
    };

    #[test]
    fn templates_are_filled_once_and_values_cannot_break_out() {
        let of = |template| fill(template, &CALL);
        assert_eq!(of("https://t/{trace_id}").as_deref(), Some("https://t/0af7"));
        assert_eq!(
            of("https://t/?q={call_id}&f={from_ms}&t={to_ms}").as_deref(),
            Some("https://t/?q=c-1&f=40000&t=260000")
        );
        let sip = of("https://t/?q={sip_call_id}").unwrap();
        assert_eq!(sip, "https://t/?q=a%20b%7Btrace_id%7D%26x%3D1%40host");
        assert_eq!(of("https://t/?j={\"a\":{call_id}}").as_deref(), Some("https://t/?j={\"a\":c-1}"));
        assert_eq!(of(""), None);
        let lasting = Linked { ended_ms: None, trace_id: "", ..CALL };
        assert_eq!(fill("https://t/{call_id}?t={to_ms}", &lasting).as_deref(), Some("https://t/c-1?t=now"));
        assert_eq!(fill("https://t/{trace_id}", &lasting), None, "a link to nothing helps nobody");
    }

    #[test]
    fn templates_that_cannot_work_are_refused_with_their_key() {
        for (bad, expected) in [
            ("javascript:alert({call_id})", "https://"),
            ("https://t/logs", "{call_id}"),
            ("https://t/{call_id} x", "%20"),
            ("https://t/{callid}", "{call_id}"),
        ] {
            let templates = LinkTemplates { logs: bad.to_owned(), ..LinkTemplates::default() };
            let text = templates.validate().unwrap_err().to_string();
            assert!(text.contains("console.links.logs") && text.contains(expected), "{text}");
        }
        assert_eq!(LinkTemplates::default().validate(), Ok(()));
    }
}
