//! What becomes of a message that is not accepted.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::{
    header::{HeaderName, Headers},
    message::{Request, Response, add_to_tag, default_reason},
    method::Method,
    via::{Via, stamp_headers},
};

/// A message that goes no further.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unacceptable {
    /// A request that can be answered with an error.
    #[error("{0}")]
    Reject(Box<Rejection>),
    /// Nothing can or should be answered.
    #[error("dropped: {0}")]
    Drop(DropReason),
}

/// Why a message is dropped without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DropReason {
    /// Only CR, LF or NUL: a keep-alive (RFC 5626 section 3.5.1 on datagrams needs no answer).
    #[error("keep-alive")]
    KeepAlive,
    /// Neither a request nor a response of SIP.
    #[error("not SIP")]
    NotSip,
    /// A malformed response, or a malformed ACK, which is never answered.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A malformed request without any Via: there is no transaction to answer in.
    #[error("no Via")]
    NoVia,
    /// A response with more than one Via: it is not for a user agent (RFC 3261 section 8.1.3.3).
    #[error("response for another element")]
    ForeignVia,
    /// Over a limit of size or number, and not answerable.
    #[error("over a limit: {0}")]
    Limit(&'static str),
}

/// A request refused with `status`; holds what an answer copies from the request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{status} {reason}")]
pub struct Rejection {
    /// 400 to 699.
    pub status: u16,
    /// Reason phrase, which names the problem.
    pub reason: String,
    /// The method, when it could be read.
    pub method: Option<Method>,
    /// Via, From, To, Call-ID and CSeq of the request, as they were and as far as present.
    pub headers: Headers,
    /// What the answer adds: Allow, Accept, Unsupported and others.
    pub extra: Headers,
}

impl Rejection {
    /// Refuses a parsed request. An empty reason stands for the usual one.
    pub fn of(request: &Request, status: u16, reason: &str) -> Self {
        Self::from_parts(&request.headers, Some(request.method.clone()), status, reason)
    }

    pub(crate) fn from_parts(headers: &Headers, method: Option<Method>, status: u16, reason: &str) -> Self {
        let mut copied = Headers::new();
        copied.copy_from(headers, &HeaderName::Via);
        for name in [HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq] {
            // Of a repeated header the first: the answer itself must be well-formed.
            if let Some(value) = headers.get(&name) {
                copied.push(name, value.clone());
            }
        }
        let reason = if reason.is_empty() { default_reason(status) } else { reason };
        Self { status, reason: reason.to_owned(), method, headers: copied, extra: Headers::new() }
    }

    /// With a header in the answer.
    pub fn with_header(mut self, name: HeaderName, value: impl Into<Bytes>) -> Self {
        self.extra.push(name, value);
        self
    }

    /// The topmost Via, if readable. When it is not, the answer goes to where the request came from.
    pub fn top_via(&self) -> Option<Via> {
        self.headers.top_via().ok()
    }

    /// As [`crate::stamp_source`].
    pub fn stamp_source(&mut self, source: SocketAddr) {
        stamp_headers(&mut self.headers, source);
    }

    /// The answer. `to_tag` comes from the caller and should be the same for retransmissions of the request.
    pub fn to_response(&self, to_tag: &str) -> Response {
        let mut headers = self.headers.clone();
        add_to_tag(&mut headers, to_tag);
        headers.extend(self.extra.clone());
        let reason = Bytes::copy_from_slice(&crate::text::one_line(self.reason.as_bytes()));
        Response { status: self.status, reason, headers, body: Bytes::new() }
    }
}
