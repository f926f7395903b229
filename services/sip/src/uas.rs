//! What a user agent server checks before it acts on a request (RFC 3261 section 8.2), as functions.

use crate::{
    header::HeaderName,
    message::{Request, Response},
    method::Method,
    reject::{DropReason, Rejection},
    values::HeaderError,
};

/// What this user agent understands.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Methods that are served; sent as Allow.
    pub methods: Vec<Method>,
    /// Option tags that may be required; sent as Supported.
    pub extensions: Vec<String>,
    /// Bodies that are understood, `type/subtype` in lower case; sent as Accept.
    pub content_types: Vec<String>,
    /// Schemes of a Request-URI that are understood, lower case.
    pub schemes: Vec<String>,
}

impl Default for Capabilities {
    /// Calls with session timers over sip, sips and tel; SDP and DTMF in INFO.
    fn default() -> Self {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Self {
            methods: vec![
                Method::Invite,
                Method::Ack,
                Method::Bye,
                Method::Cancel,
                Method::Options,
                Method::Update,
                Method::Info,
            ],
            extensions: texts(&["timer"]),
            content_types: texts(&["application/sdp", "application/dtmf-relay", "application/dtmf"]),
            schemes: texts(&["sip", "sips", "tel"]),
        }
    }
}

impl Capabilities {
    /// The value of Allow.
    pub fn allow(&self) -> String {
        self.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
    }

    /// The value of Supported.
    pub fn supported(&self) -> String {
        self.extensions.join(", ")
    }

    /// The value of Accept.
    pub fn accept(&self) -> String {
        self.content_types.join(", ")
    }
}

/// Checks a parsed request in the order of RFC 3261 section 8.2: method, Request-URI, Require, content; and what the
/// answer may contain. Authentication, loops, dialogs (481) and whether the user exists (404) are the caller's.
///
/// ACK and CANCEL are never refused here: the one has no answer, the other needs no extension (section 8.2.2.3).
///
/// # Errors
/// The answer to give.
pub fn check_request(request: &Request, can: &Capabilities) -> Result<(), Box<Rejection>> {
    if matches!(request.method, Method::Ack | Method::Cancel) {
        return Ok(());
    }
    check_method(request, can)?;
    let schemes = |scheme: &str| can.schemes.iter().any(|known| known == scheme);
    if !schemes(&request.uri.scheme()) {
        return Err(reject(request, 416, ""));
    }
    // An address of record is a SIP URI (RFC 3261 section 10.3 step 5 compares it as one).
    if request.method == Method::Register && !request.headers.to().is_ok_and(|to| schemes(&to.uri.scheme())) {
        return Err(reject(request, 400, "To of a REGISTER is not a SIP URI"));
    }
    check_require(request, can)?;
    check_content(request, can)?;
    check_answer(request, can)
}

fn reject(request: &Request, status: u16, reason: &str) -> Box<Rejection> {
    Box::new(Rejection::of(request, status, reason))
}

fn malformed(request: &Request, error: &HeaderError) -> Box<Rejection> {
    reject(request, 400, &format!("Bad {error}"))
}

fn check_method(request: &Request, can: &Capabilities) -> Result<(), Box<Rejection>> {
    if can.methods.contains(&request.method) {
        return Ok(());
    }
    // 501: not recognised at all; 405: known but not allowed here (RFC 3261 sections 21.4.6 and 21.5.2).
    let status = if matches!(request.method, Method::Other(_)) { 501 } else { 405 };
    let rejection = Rejection::of(request, status, "");
    Err(Box::new(rejection.with_header(HeaderName::Allow, can.allow())))
}

fn check_require(request: &Request, can: &Capabilities) -> Result<(), Box<Rejection>> {
    let required = request.headers.require().map_err(|error| malformed(request, &error))?;
    let unknown: Vec<String> = required
        .into_iter()
        .filter(|tag| !can.extensions.iter().any(|known| known.eq_ignore_ascii_case(tag)))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let rejection = Rejection::of(request, 420, "")
        .with_header(HeaderName::Unsupported, unknown.join(", "))
        .with_header(HeaderName::Supported, can.supported());
    Err(Box::new(rejection))
}

/// Content-Encoding and Content-Type of a body. A body whose Content-Disposition says `handling=optional` passes.
fn check_content(request: &Request, can: &Capabilities) -> Result<(), Box<Rejection>> {
    let headers = &request.headers;
    let optional = headers
        .get_str(&HeaderName::ContentDisposition)
        .is_some_and(|value| value.to_ascii_lowercase().replace(' ', "").contains(";handling=optional"));
    if request.body.is_empty() || optional {
        return Ok(());
    }
    let encoded = headers
        .elements(&HeaderName::ContentEncoding)
        .map_err(|error| malformed(request, &error))?
        .iter()
        .any(|encoding| !encoding.eq_ignore_ascii_case(b"identity"));
    if encoded {
        let rejection = Rejection::of(request, 415, "").with_header(HeaderName::AcceptEncoding, "identity");
        return Err(Box::new(rejection.with_header(HeaderName::Accept, can.accept())));
    }
    let Some(content) = headers.content_type().map_err(|error| malformed(request, &error))? else {
        return Err(reject(request, 400, "Body without Content-Type"));
    };
    if can.content_types.contains(&content.essence()) {
        return Ok(());
    }
    Err(Box::new(Rejection::of(request, 415, "").with_header(HeaderName::Accept, can.accept())))
}

/// An INVITE or UPDATE must be able to accept SDP in the answer. Without Accept it does (RFC 3261 section 13.2.1).
fn check_answer(request: &Request, can: &Capabilities) -> Result<(), Box<Rejection>> {
    if !matches!(request.method, Method::Invite | Method::Update) {
        return Ok(());
    }
    let accept = request.headers.accept().map_err(|error| malformed(request, &error))?;
    match accept {
        Some(ranges) if !ranges.iter().any(|range| range.covers("application/sdp")) => {
            Err(Box::new(Rejection::of(request, 406, "").with_header(HeaderName::Accept, can.accept())))
        }
        _ => Ok(()),
    }
}

/// Checks a response as a user agent client. Whether it fits a transaction is the transaction layer's.
///
/// # Errors
/// More than one Via: it is for a proxy (RFC 3261 section 8.1.3.3).
pub fn check_response(response: &Response) -> Result<(), DropReason> {
    match response.headers.vias() {
        Ok(vias) if vias.len() == 1 => Ok(()),
        Ok(_) => Err(DropReason::ForeignVia),
        Err(_) => Err(DropReason::Malformed("Via")),
    }
}

/// The 200 to an OPTIONS: what this user agent understands (RFC 3261 section 11.2).
pub fn options_answer(request: &Request, can: &Capabilities, to_tag: &str) -> Response {
    Response::to(request, 200)
        .with_to_tag(to_tag)
        .with_header(HeaderName::Allow, can.allow())
        .with_header(HeaderName::Accept, can.accept())
        .with_header(HeaderName::AcceptEncoding, "identity")
        .with_header(HeaderName::AcceptLanguage, "en")
        .with_header(HeaderName::Supported, can.supported())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Message, parse_datagram};

    fn request(method: &str, more: &str, body: &str) -> Request {
        let text = format!(
            "{method} sip:c@d SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: sip:a@b;tag=1\r\nTo: sip:c@d\r\n\
             Call-ID: x\r\nCSeq: 1 {method}\r\n{more}\r\n{body}"
        );
        match parse_datagram(&Bytes::from(text)) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn status(method: &str, more: &str, body: &str) -> u16 {
        match check_request(&request(method, more, body), &Capabilities::default()) {
            Ok(()) => 0,
            Err(rejection) => rejection.status,
        }
    }

    #[test]
    fn every_check_has_its_status() {
        assert_eq!(status("INVITE", "Content-Type: application/sdp\r\n", "v=0"), 0);
        assert_eq!(status("FOO", "", ""), 501);
        assert_eq!(status("MESSAGE", "", ""), 405);
        assert_eq!(status("OPTIONS", "Require: timer, 100rel\r\n", ""), 420);
        assert_eq!(status("INVITE", "", "v=0"), 400);
        assert_eq!(status("INVITE", "Content-Type: text/html\r\n", "x"), 415);
        assert_eq!(
            status("INVITE", "Content-Type: text/html\r\nContent-Disposition: x; handling=optional\r\n", "x"),
            0
        );
        assert_eq!(status("INVITE", "Content-Type: application/sdp\r\nContent-Encoding: gzip\r\n", "x"), 415);
        assert_eq!(status("INVITE", "Accept: text/plain\r\n", ""), 406);
        assert_eq!(status("INVITE", "Accept: application/*, text/plain\r\n", ""), 0);
        assert_eq!(status("CANCEL", "Require: nonsense\r\n", ""), 0);
    }

    #[test]
    fn the_answer_says_what_to_do_about_it() {
        let rejection =
            check_request(&request("OPTIONS", "Require: a, timer, b\r\n", ""), &Capabilities::default());
        let response = rejection.unwrap_err().to_response("tag");
        assert_eq!(response.headers.unsupported().unwrap(), ["a", "b"]);
        assert_eq!(response.headers.to_tag().unwrap(), "tag");
        let options = options_answer(&request("OPTIONS", "", ""), &Capabilities::default(), "t");
        assert!(options.headers.allow().unwrap().contains(&Method::Update));
    }
}
