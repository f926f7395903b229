//! What a REGISTER asks for.

use std::time::Duration;

use trunkline_sip::{Contacts, HeaderName, NameAddr, Request as SipRequest, Uri};

/// Contacts in one request, at most.
const MAX_CONTACTS: usize = 64;
/// Longest text of a contact, a Call-ID, a proxy's address.
const MAX_TEXT: usize = 512;
const MAX_INSTANCE: usize = 128;
const MAX_PATH: usize = 8;
const MAX_AGENT_CHARS: usize = 96;

/// Why a request means nothing; the text is for the reason phrase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A contact as the telephone wants it bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedContact {
    /// Where.
    pub uri: Uri,
    /// For how long; `None` = as long as the registrar likes. Zero removes it.
    pub expires: Option<Duration>,
    /// Preference, thousandths.
    pub q: Option<u16>,
    /// `+sip.instance`; empty = none.
    pub instance: String,
    /// `reg-id`; 0 = none.
    pub reg_id: u32,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: tell what is bound.
    Query,
    /// `*`: remove everything.
    RemoveAll,
    /// Add, refresh or remove these.
    Contacts(Vec<WantedContact>),
}

/// The part of a REGISTER that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Call-ID.
    pub call_id: String,
    /// Number of CSeq.
    pub cseq: u32,
    /// What is to be done.
    pub wanted: Wanted,
    /// Proxies between.
    pub path: Vec<String>,
    /// What the telephone calls itself.
    pub user_agent: String,
}

impl Request {
    /// Reads a REGISTER.
    ///
    /// # Errors
    /// When it has to be answered 400.
    pub fn read(request: &SipRequest) -> Result<Self, Malformed> {
        let headers = &request.headers;
        let call_id = headers.call_id().map_err(|_| Malformed("Bad Call-ID"))?;
        let cseq = headers.cseq().map_err(|_| Malformed("Bad CSeq"))?.number;
        if call_id.len() > MAX_TEXT {
            return Err(Malformed("Call-ID Too Long"));
        }
        // A malformed one counts as none (RFC 3261 section 10.3 step 7).
        let expires = headers.expires().ok().flatten();
        let wanted = match headers.contacts().map_err(|_| Malformed("Bad Contact"))? {
            Contacts::Star if expires == Some(0) => Wanted::RemoveAll,
            Contacts::Star => return Err(Malformed("Contact * Needs Expires 0")),
            Contacts::List(list) if list.is_empty() => Wanted::Query,
            Contacts::List(list) if list.len() > MAX_CONTACTS => {
                return Err(Malformed("Too Many Contacts In One Request"));
            }
            Contacts::List(list) => {
                Wanted::Contacts(list.into_iter().map(|one| contact(one, expires)).collect::<Result<_, _>>()?)
            }
        };
        Ok(Self {
            call_id: call_id.to_owned(),
            cseq,
            wanted,
            path: path(request)?,
            user_agent: agent(request),
        })
    }
}

fn contact(contact: NameAddr, expires: Option<u32>) -> Result<WantedContact, Malformed> {
    let NameAddr { uri, params, .. } = contact;
    // A proxy that adds headers of the telephone's choosing to a call would be a tool in the hands of others.
    let Uri::Sip(sip) = uri else { return Err(Malformed("Contact Is Not A SIP URI")) };
    let uri = Uri::Sip(sip.without_headers());
    if uri.to_string().len() > MAX_TEXT {
        return Err(Malformed("Contact Too Long"));
    }
    let own = params.text("expires").map(|text| seconds(&text));
    let wanted = match own {
        Some(own) => own,
        None => expires,
    };
    let instance = params.text("+sip.instance").unwrap_or_default();
    if instance.len() > MAX_INSTANCE || instance.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
        return Err(Malformed("Bad Contact Instance"));
    }
    let reg_id = params.text("reg-id").and_then(|text| text.parse().ok()).unwrap_or(0);
    let q = match params.text("q") {
        None => None,
        Some(text) => Some(thousandths(&text).ok_or(Malformed("Bad Contact q"))?),
    };
    Ok(WantedContact { uri, expires: wanted.map(|s| Duration::from_secs(s.into())), q, instance, reg_id })
}

/// Delta-seconds; more than 32 bits hold are as many as they hold. `None`: malformed.
fn seconds(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

/// `0`, `0.7`, `1.000`.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1") || part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    let value = if whole == "1" { 1_000 } else { 0 } + part;
    (value <= 1_000).then_some(value)
}

fn path(request: &SipRequest) -> Result<Vec<String>, Malformed> {
    let elements = request.headers.elements(&HeaderName::Path).map_err(|_| Malformed("Bad Path"))?;
    if elements.len() > MAX_PATH || elements.iter().any(|element| element.len() > MAX_TEXT) {
        return Err(Malformed("Path Too Long"));
    }
    let text =
        |element: &&[u8]| std::str::from_utf8(element).map(str::to_owned).map_err(|_| Malformed("Bad Path"));
    elements.iter().map(text).collect()
}

fn agent(request: &SipRequest) -> String {
    let text = request.headers.get_str(&HeaderName::UserAgent).unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(MAX_AGENT_CHARS).collect()
}
