//! REGISTER (RFC 3261 section 10.3). There are no accounts for telephones yet: nobody is registered, and nothing is
//! called at a binding. So a request is challenged (section 22, RFC 7616), no credentials succeed, and known and unknown
//! users look alike by construction. A trunk may have its peers acknowledged instead, for those that will not call
//! before; credentials are challenged there too, since none are right.

use std::time::Duration;

use rand::Rng;
use trunkline_sip::{
    HeaderName, Request, Response,
    digest::{Algorithm, Challenge, Nonces},
};
use trunkline_types::Timestamp;

use crate::config::Registrations;

const NONCE_LIFE: Duration = Duration::from_secs(60);
const MAX_EXPIRES_S: u32 = 3_600;

pub(super) struct Challenger {
    nonces: Nonces,
}

impl Challenger {
    pub fn new(key: [u8; 32]) -> Self {
        Self { nonces: Nonces::new(key, NONCE_LIFE) }
    }

    /// The answer to a REGISTER outside a dialog.
    pub fn answer(
        &mut self,
        now: Timestamp,
        request: &Request,
        policy: Registrations,
        to_tag: &str,
    ) -> Response {
        let anonymous = !request.headers.contains(&HeaderName::Authorization);
        match policy {
            Registrations::Acknowledge if anonymous => acknowledge(request, to_tag),
            _ => self.challenge(now, request, to_tag),
        }
    }

    /// 401 with one challenge for each algorithm, the stronger one first (RFC 8760 section 2.4).
    fn challenge(&mut self, now: Timestamp, request: &Request, to_tag: &str) -> Response {
        let realm = match &request.uri {
            trunkline_sip::Uri::Sip(uri) => uri.host().to_owned(),
            _ => "trunkline".to_owned(),
        };
        let mut response = Response::to(request, 401).with_to_tag(to_tag);
        for algorithm in [Algorithm::Sha256, Algorithm::Md5] {
            let challenge = Challenge {
                realm: realm.clone(),
                nonce: self.nonces.mint(now, rand::rng().random()),
                opaque: None,
                algorithm,
                qop_auth: true,
                stale: false,
            };
            response = response.with_header(HeaderName::WwwAuthenticate, challenge.to_value());
        }
        response
    }
}

/// 200 with the contacts as they were given, for at most an hour; malformed ones are 400.
fn acknowledge(request: &Request, to_tag: &str) -> Response {
    let (Ok(_), Ok(expires)) = (request.headers.contacts(), request.headers.expires()) else {
        return Response::to(request, 400).with_to_tag(to_tag);
    };
    let mut response = Response::to(request, 200).with_to_tag(to_tag);
    for contact in request.headers.all(&HeaderName::Contact) {
        response.headers.push(HeaderName::Contact, contact.clone());
    }
    let seconds = expires.unwrap_or(MAX_EXPIRES_S).min(MAX_EXPIRES_S);
    response.with_header(HeaderName::Expires, seconds.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use trunkline_sip::{Message, parse_datagram};

    use super::*;

    fn register(more: &str) -> Request {
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\n\
             From: <sip:a@example.com>;tag=1\r\nTo: <sip:a@example.com>\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\n\
             Max-Forwards: 70\r\n{more}Content-Length: 0\r\n\r\n"
        );
        match parse_datagram(&Bytes::from(text)) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_trunk_that_says_so_acknowledges_and_never_credentials() {
        let mut challenger = Challenger::new([7; 32]);
        let now = Timestamp::from_millis(1_000);
        let contact = "Contact: <sip:a@127.0.0.1:5070>\r\nExpires: 300\r\n";
        let with_credentials = format!("{contact}Authorization: NoOneKnows opaque=1\r\n");
        let mut status = |more: &str, policy| challenger.answer(now, &register(more), policy, "t").status;
        assert_eq!(status(contact, Registrations::Challenge), 401);
        assert_eq!(status(contact, Registrations::Acknowledge), 200);
        assert_eq!(status(&with_credentials, Registrations::Acknowledge), 401);
        let answer = challenger.answer(now, &register(contact), Registrations::Acknowledge, "t");
        assert_eq!(answer.headers.expires().unwrap(), Some(300));
        assert_eq!(answer.headers.count(&HeaderName::Contact), 1);
    }
}
