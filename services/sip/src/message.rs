//! Requests and responses, and how they are written.

use bytes::Bytes;

use crate::{
    header::{HeaderName, Headers},
    method::Method,
    text::one_line,
    uri::Uri,
    values::HeaderError,
};

/// A SIP message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A request.
    Request(Request),
    /// A response.
    Response(Response),
}

impl Message {
    /// Its headers.
    pub fn headers(&self) -> &Headers {
        match self {
            Self::Request(request) => &request.headers,
            Self::Response(response) => &response.headers,
        }
    }

    /// As on the wire.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Request(request) => request.to_bytes(),
            Self::Response(response) => response.to_bytes(),
        }
    }
}

/// A request. Its version is SIP/2.0: others are rejected with 505 by the parser.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Request-URI.
    pub uri: Uri,
    /// Headers in order.
    pub headers: Headers,
    /// Body, empty when there is none.
    pub body: Bytes,
}

/// A response of SIP/2.0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// 100 to 699.
    pub status: u16,
    /// Reason phrase as it came; may be empty.
    pub reason: Bytes,
    /// Headers in order.
    pub headers: Headers,
    /// Body, empty when there is none.
    pub body: Bytes,
}

impl Request {
    /// Without headers.
    pub fn new(method: Method, uri: impl Into<Uri>) -> Self {
        Self { method, uri: uri.into(), headers: Headers::new(), body: Bytes::new() }
    }

    /// With a header appended.
    pub fn with_header(mut self, name: HeaderName, value: impl Into<Bytes>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// With a body and its Content-Type.
    pub fn with_body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.headers.set(HeaderName::ContentType, content_type.to_owned());
        self.body = body.into();
        self
    }

    /// To has a tag: the request belongs to a dialog.
    pub fn is_in_dialog(&self) -> bool {
        self.headers.to_tag().is_some()
    }

    /// As on the wire; Content-Length is written from the body.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(512 + self.body.len());
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.uri.to_string().as_bytes());
        out.extend_from_slice(b" SIP/2.0\r\n");
        finish(out, &self.headers, &self.body)
    }
}

impl Response {
    /// An answer to `request` with what every response copies from it (RFC 3261 section 8.2.6.2): Via, From, To,
    /// Call-ID, CSeq; Record-Route where a dialog may begin; Timestamp into a 100. The reason is the usual one.
    pub fn to(request: &Request, status: u16) -> Self {
        let mut headers = Headers::new();
        for name in [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq]
        {
            headers.copy_from(&request.headers, &name);
        }
        if (101..=299).contains(&status) {
            headers.copy_from(&request.headers, &HeaderName::RecordRoute);
        }
        if status == 100 {
            headers.copy_from(&request.headers, &HeaderName::Timestamp);
        }
        Self {
            status,
            reason: Bytes::from_static(default_reason(status).as_bytes()),
            headers,
            body: Bytes::new(),
        }
    }

    /// With a To tag, unless To has one.
    pub fn with_to_tag(mut self, tag: &str) -> Self {
        add_to_tag(&mut self.headers, tag);
        self
    }

    /// With another reason phrase; CR and LF become SP.
    pub fn with_reason(mut self, reason: &str) -> Self {
        self.reason = Bytes::copy_from_slice(&one_line(reason.as_bytes()));
        self
    }

    /// With a header appended.
    pub fn with_header(mut self, name: HeaderName, value: impl Into<Bytes>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// With a body and its Content-Type.
    pub fn with_body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.headers.set(HeaderName::ContentType, content_type.to_owned());
        self.body = body.into();
        self
    }

    /// 100 to 199.
    pub fn is_provisional(&self) -> bool {
        self.status < 200
    }

    /// 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The method that it answers.
    ///
    /// # Errors
    /// CSeq missing or malformed.
    pub fn method(&self) -> Result<Method, HeaderError> {
        self.headers.cseq().map(|cseq| cseq.method)
    }

    /// As on the wire; Content-Length is written from the body.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(512 + self.body.len());
        out.extend_from_slice(format!("SIP/2.0 {:03} ", self.status).as_bytes());
        out.extend_from_slice(&one_line(&self.reason));
        out.extend_from_slice(b"\r\n");
        finish(out, &self.headers, &self.body)
    }
}

/// Appends `;tag=` to To when it has none; also to a To that cannot be parsed, since the answer must still match.
pub(crate) fn add_to_tag(headers: &mut Headers, tag: &str) {
    let Some(to) = headers.get(&HeaderName::To) else { return };
    let tagged = match crate::address::NameAddr::parse(to) {
        Ok(address) => address.params.contains("tag"),
        Err(_) => to.to_ascii_lowercase().windows(5).any(|window| window == b";tag="),
    };
    if !tagged && crate::text::is_token(tag.as_bytes()) {
        let value = [&to[..], b";tag=", tag.as_bytes()].concat();
        headers.replace_first(&HeaderName::To, Bytes::from(value));
    }
}

fn finish(mut out: Vec<u8>, headers: &Headers, body: &Bytes) -> Bytes {
    let length = Bytes::from(body.len().to_string());
    let right = headers.count(&HeaderName::ContentLength) == 1
        && headers.get(&HeaderName::ContentLength) == Some(&length);
    if right {
        headers.write(&mut out);
    } else {
        let mut headers = headers.clone();
        headers.set(HeaderName::ContentLength, length);
        headers.write(&mut out);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    Bytes::from(out)
}

/// The reason phrase that RFC 3261 section 21 (and later RFCs) give to a status; empty for an unknown one.
pub fn default_reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        433 => "Anonymity Disallowed",
        436 => "Bad Identity-Info",
        437 => "Unsupported Certificate",
        438 => "Invalid Identity Header",
        469 => "Bad Info Package",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::new(Method::Invite, "sip:a@b".parse::<Uri>().unwrap())
            .with_header(HeaderName::Via, "SIP/2.0/UDP h;branch=z9hG4bK1")
            .with_header(HeaderName::To, "sip:a@b")
            .with_header(HeaderName::From, "sip:c@d;tag=1")
            .with_header(HeaderName::CallId, "x")
            .with_header(HeaderName::CSeq, "1 INVITE")
    }

    #[test]
    fn nothing_is_injected_through_a_reason_or_a_header() {
        let response = Response::to(&request(), 404)
            .with_reason("No\r\nEvil: 1\r\n\r\n")
            .with_header(HeaderName::Server, "x\r\nEvil: 1")
            .with_to_tag("t");
        let text = String::from_utf8(response.to_bytes().to_vec()).unwrap();
        assert!(!text.contains("\nEvil"), "{text}");
        assert!(text.starts_with("SIP/2.0 404 No  Evil: 1"));
        assert!(text.contains("To: sip:a@b;tag=t\r\n"));
    }

    #[test]
    fn the_reason_field_itself_cannot_inject() {
        let mut response = Response::to(&request(), 200);
        response.reason = Bytes::from_static(b"OK\r\nEvil: 1");
        assert!(response.to_bytes().starts_with(b"SIP/2.0 200 OK  Evil: 1\r\n"));
    }

    #[test]
    fn content_length_is_always_true() {
        let request = request().with_header(HeaderName::ContentLength, "999").with_body("text/plain", "abc");
        let text = String::from_utf8(request.to_bytes().to_vec()).unwrap();
        assert!(
            text.contains("Content-Length: 3\r\n") && !text.contains("999") && text.ends_with("\r\n\r\nabc")
        );
    }

    #[test]
    fn a_tag_is_added_once() {
        let response = Response::to(&request(), 180).with_to_tag("a").with_to_tag("b");
        assert_eq!(response.headers.to_tag().unwrap(), "a");
    }
}
