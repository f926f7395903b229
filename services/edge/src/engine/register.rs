//! REGISTER is always challenged (RFC 3261 section 22, RFC 7616). There are no accounts for telephones yet, so no
//! credentials succeed, and known and unknown users look alike by construction.

use std::time::Duration;

use rand::Rng;
use trunkline_sip::{
    HeaderName, Request, Response,
    digest::{Algorithm, Challenge, Nonces},
};
use trunkline_types::Timestamp;

const NONCE_LIFE: Duration = Duration::from_secs(60);

pub(super) struct Challenger {
    nonces: Nonces,
}

impl Challenger {
    pub fn new(key: [u8; 32]) -> Self {
        Self { nonces: Nonces::new(key, NONCE_LIFE) }
    }

    /// 401 with one challenge for each algorithm, the stronger one first (RFC 8760 section 2.4).
    pub fn challenge(&mut self, now: Timestamp, request: &Request, to_tag: &str) -> Response {
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
