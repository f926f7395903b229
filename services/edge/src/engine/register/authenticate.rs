//! Who a telephone is: digest authentication (RFC 3261 section 22, RFC 7616, RFC 8760) of REGISTER and of calls.
//!
//! Nonces carry their time and a keyed hash, so that any edge of the cluster checks those of any other: a telephone whose
//! edge has died is let in by the next one with the credentials that it would have sent to the first. Their counts are
//! remembered here for requests that came here; for REGISTER, the account knows those of the whole cluster. Calls, for which
//! nobody remembers, have nonces that are good for a minute.
//!
//! Known and unknown users, right and wrong passwords take the same way: an account that is not there is compared with one
//! that nobody can know.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rand::Rng;
use trunkline_sip::{
    HeaderName, Request, Response, Uri,
    digest::{Algorithm, Challenge, Credentials, Freshness, Nonces, Secret},
};
use trunkline_types::Timestamp;

use super::throttle::Throttle;
use crate::{Accounts, TelephoneAccount, TokenKey};

/// A telephone refreshes with the nonce it has: one a working day's quarter, not one each time.
const REGISTER_NONCE: Duration = Duration::from_secs(3_600);
const CALL_NONCE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Purpose {
    /// 401, Authorization.
    Register,
    /// 407, Proxy-Authorization.
    Call,
}

/// Who asks, as far as credentials say.
#[derive(Debug)]
pub(in crate::engine) enum Verdict {
    /// This account, by a nonce (its hash) and count that are used up with it.
    Is { account: Arc<TelephoneAccount>, nonce: u64, count: u32 },
    /// Nobody yet: to be challenged. `stale`: the password need not be asked for again.
    Challenge { stale: bool, why: &'static str },
    /// Not listened to at present.
    Locked,
}

pub(in crate::engine) struct Authenticator {
    key: TokenKey,
    registers: Nonces,
    calls: Nonces,
    throttle: Throttle,
    /// The preferred one first.
    algorithms: Vec<Algorithm>,
    /// Compared with when there is no account.
    nobody: String,
}

impl Authenticator {
    /// `key` is the cluster's: all its edges check each other's nonces.
    pub fn new(key: &TokenKey, algorithms: Vec<Algorithm>) -> Self {
        Self {
            registers: Nonces::new(key.digest("nonces", &[b"register"]), REGISTER_NONCE),
            calls: Nonces::new(key.digest("nonces", &[b"call"]), CALL_NONCE),
            throttle: Throttle::default(),
            algorithms,
            nobody: rand::rng().random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect(),
            key: key.clone(),
        }
    }

    /// Checks the credentials of a request.
    pub fn verify(
        &mut self,
        now: Timestamp,
        request: &Request,
        purpose: Purpose,
        source: IpAddr,
        realm: &str,
        accounts: &dyn Accounts,
    ) -> Verdict {
        let Some(credentials) = best(request, purpose, realm, &self.algorithms) else {
            return Verdict::Challenge { stale: false, why: "challenged" };
        };
        let nonces = match purpose {
            Purpose::Register => &mut self.registers,
            Purpose::Call => &mut self.calls,
        };
        if matches!(nonces.check(now, &credentials.nonce, None), Freshness::Stale | Freshness::Forged) {
            return Verdict::Challenge { stale: true, why: "stale" };
        }
        let user = hash(&self.key, "user", &[realm.as_bytes(), credentials.username.as_bytes()]);
        if self.throttle.is_locked(now, source, user) {
            return Verdict::Locked;
        }
        let account = accounts.telephone(realm, &credentials.username);
        let known = account.as_ref().and_then(|account| match credentials.algorithm {
            Algorithm::Sha256 => Some(&account.ha1_sha256),
            Algorithm::Md5 => account.ha1_md5.as_ref(),
        });
        let (is_known, secret) = (known.is_some(), Secret::Ha1(known.unwrap_or(&self.nobody)));
        let fits = credentials.verify(realm, secret, &request.method).is_ok();
        let count = credentials.nonce_count.filter(|count| *count > 0 && credentials.qop.is_some());
        let (Some(account), Some(count), true) = (account.filter(|_| is_known), count, fits) else {
            self.throttle.failed(now, source, user);
            return Verdict::Challenge { stale: false, why: "denied" };
        };
        if !is_for(&credentials, request) {
            self.throttle.failed(now, source, user);
            return Verdict::Challenge { stale: false, why: "denied" };
        }
        self.throttle.succeeded(now, source, user);
        if nonces.check(now, &credentials.nonce, Some(count)) != Freshness::Fresh {
            return Verdict::Challenge { stale: true, why: "replayed" };
        }
        let nonce = hash(&self.key, "nonce", &[credentials.nonce.as_bytes()]);
        Verdict::Is { account, nonce, count }
    }

    /// 401 or 407 with one challenge for each algorithm, the preferred one first (RFC 8760 section 2.4).
    pub fn challenge(
        &self,
        now: Timestamp,
        request: &Request,
        purpose: Purpose,
        realm: &str,
        stale: bool,
        to_tag: &str,
    ) -> Response {
        let (status, header, nonces) = match purpose {
            Purpose::Register => (401, HeaderName::WwwAuthenticate, &self.registers),
            Purpose::Call => (407, HeaderName::ProxyAuthenticate, &self.calls),
        };
        let mut response = Response::to(request, status).with_to_tag(to_tag);
        for algorithm in self.algorithms.iter().copied() {
            let challenge = Challenge {
                realm: realm.to_owned(),
                nonce: nonces.mint(now, rand::rng().random()),
                opaque: None,
                algorithm,
                qop_auth: true,
                stale,
            };
            response = response.with_header(header.clone(), challenge.to_value());
        }
        response
    }

    /// A number that is the same for the same request on every edge, evenly spread over requests.
    pub fn draw(&self, parts: &[&[u8]]) -> u32 {
        (hash(&self.key, "expiry", parts) >> 32) as u32
    }
}

fn hash(key: &TokenKey, purpose: &str, parts: &[&[u8]]) -> u64 {
    key.digest(purpose, parts)[..8].iter().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// Those for our realm, by the algorithm that we prefer when there are several.
fn best(request: &Request, purpose: Purpose, realm: &str, algorithms: &[Algorithm]) -> Option<Credentials> {
    let header = match purpose {
        Purpose::Register => HeaderName::Authorization,
        Purpose::Call => HeaderName::ProxyAuthorization,
    };
    let ours = request.headers.credentials(&header).into_iter().filter(|one| one.realm == realm);
    let rank = |one: &Credentials| algorithms.iter().position(|offered| *offered == one.algorithm);
    ours.filter(|one| rank(one).is_some()).min_by_key(rank)
}

/// Whether the `uri` that was signed means the Request-URI. Parameters may have been added on the way.
fn is_for(credentials: &Credentials, request: &Request) -> bool {
    match (Uri::parse(credentials.uri.as_bytes()), &request.uri) {
        (Ok(Uri::Sip(signed)), Uri::Sip(uri)) => {
            signed.user() == uri.user() && signed.host().eq_ignore_ascii_case(uri.host())
        }
        (Ok(signed), uri) => signed.matches(uri),
        (Err(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use trunkline_sip::{Message, digest::ha1, parse_datagram};

    use super::*;

    const REALM: &str = "example.com";

    struct One(Option<&'static str>);

    impl Accounts for One {
        fn any(&self) -> bool {
            true
        }

        fn has_realm(&self, realm: &str) -> bool {
            realm == REALM
        }

        fn telephone(&self, realm: &str, user: &str) -> Option<Arc<TelephoneAccount>> {
            let hash = |algorithm| ha1(algorithm, user, realm, "right");
            (Some(user) == self.0).then(|| {
                Arc::new(TelephoneAccount {
                    tenant: "default".parse().unwrap(),
                    name: user.parse().unwrap(),
                    ha1_sha256: hash(Algorithm::Sha256),
                    ha1_md5: None,
                    caller_number: String::new(),
                    caller_name: String::new(),
                    may_dial: Vec::new(),
                    max_contacts: 1,
                })
            })
        }
    }

    fn request(more: &str) -> Request {
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
             From: <sip:1001@example.com>;tag=1\r\nTo: <sip:1001@example.com>\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\n\
             Max-Forwards: 70\r\n{more}Content-Length: 0\r\n\r\n"
        );
        match parse_datagram(&Bytes::from(text)) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    struct Edge(Authenticator);

    impl Edge {
        fn new() -> Self {
            Self::with(3, &[Algorithm::Sha256, Algorithm::Md5])
        }

        fn with(key: u8, algorithms: &[Algorithm]) -> Self {
            Self(Authenticator::new(&TokenKey::new(&[key; 32]), algorithms.to_vec()))
        }

        fn challenge(&self, now: Timestamp, algorithm: Algorithm) -> Challenge {
            let answer = self.0.challenge(now, &request(""), Purpose::Register, REALM, false, "t");
            let challenges = answer.headers.challenges(&HeaderName::WwwAuthenticate);
            challenges.into_iter().find(|one| one.algorithm == algorithm).unwrap()
        }

        fn told(&mut self, now: Timestamp, challenge: &Challenge, password: &str, count: u32) -> String {
            let uri = "sip:example.com";
            let register = request("").method;
            let credentials =
                challenge.answer("1001", Secret::Password(password), &register, uri, "c", count);
            let value = String::from_utf8(credentials.to_value().to_vec()).unwrap();
            self.says(now, &value)
        }

        fn says(&mut self, now: Timestamp, value: &str) -> String {
            let request = request(&format!("Authorization: {value}\r\n"));
            let source = "192.0.2.1".parse().unwrap();
            match self.0.verify(now, &request, Purpose::Register, source, REALM, &One(Some("1001"))) {
                Verdict::Is { account, count, .. } => format!("{} {count}", account.name),
                Verdict::Challenge { stale, why } => format!("{why} {stale}"),
                Verdict::Locked => "locked".to_owned(),
            }
        }
    }

    #[test]
    fn any_edge_takes_the_nonce_of_any_other() {
        let (first, mut second) = (Edge::new(), Edge::new());
        let challenge = first.challenge(at(0), Algorithm::Sha256);
        assert_eq!(second.told(at(9), &challenge, "right", 1), "1001 1");
        assert_eq!(second.told(at(9), &challenge, "right", 2), "1001 2");
        assert_eq!(second.told(at(9), &challenge, "right", 2), "replayed true");
        assert_eq!(second.told(at(9), &challenge, "right", 0), "denied false");
        assert_eq!(second.told(at(3_601), &challenge, "right", 3), "stale true");
        let stranger = Edge::with(4, &[Algorithm::Sha256]);
        assert_eq!(
            second.told(at(0), &stranger.challenge(at(0), Algorithm::Sha256), "right", 1),
            "stale true"
        );
    }

    #[test]
    fn what_does_not_fit_is_denied_and_in_the_end_not_looked_at() {
        let mut edge = Edge::new();
        let md5 = edge.challenge(at(0), Algorithm::Md5);
        assert_eq!(edge.told(at(0), &md5, "right", 1), "denied false", "this account has no MD5");
        let challenge = edge.challenge(at(0), Algorithm::Sha256);
        assert_eq!(edge.says(at(0), "Basic abc"), "challenged false");
        for _ in 1..10 {
            assert_eq!(edge.told(at(0), &challenge, "wrong", 1), "denied false");
        }
        assert_eq!(edge.told(at(0), &challenge, "wrong", 1), "locked");
        assert_eq!(edge.told(at(0), &challenge, "right", 1), "locked");
        assert_eq!(edge.told(at(61), &challenge, "right", 1), "1001 1", "failures used no count up");
    }

    #[test]
    fn what_is_not_offered_is_not_taken_and_the_order_is_the_configured_one() {
        let order = |algorithms: &[Algorithm]| {
            let edge = Edge::with(3, algorithms);
            let answer = edge.0.challenge(at(0), &request(""), Purpose::Call, REALM, false, "t");
            let challenges = answer.headers.challenges(&HeaderName::ProxyAuthenticate);
            challenges.iter().map(|one| one.algorithm).collect::<Vec<_>>()
        };
        use Algorithm::{Md5, Sha256};
        assert_eq!(order(&[Sha256, Md5]), [Sha256, Md5]);
        assert_eq!(order(&[Md5, Sha256]), [Md5, Sha256]);
        let mut strict = Edge::with(3, &[Md5]);
        let challenge = Edge::new().challenge(at(0), Algorithm::Sha256);
        assert_eq!(strict.told(at(0), &challenge, "right", 1), "challenged false");
    }

    #[test]
    fn credentials_are_for_one_request_uri_and_have_a_count() {
        let mut edge = Edge::new();
        let challenge = edge.challenge(at(0), Algorithm::Sha256);
        let answer = |uri: &str| {
            let credentials =
                challenge.answer("1001", Secret::Password("right"), &request("").method, uri, "c", 1);
            String::from_utf8(credentials.to_value().to_vec()).unwrap()
        };
        assert_eq!(edge.says(at(0), &answer("sip:other.example")), "denied false");
        let plain = Challenge { qop_auth: false, ..challenge.clone() };
        let credentials =
            plain.answer("1001", Secret::Password("right"), &request("").method, "sip:example.com", "c", 1);
        let plain = String::from_utf8(credentials.to_value().to_vec()).unwrap();
        assert_eq!(edge.says(at(0), &plain), "denied false", "without a count it could be played again");
        assert_eq!(edge.says(at(0), &answer("sip:example.com;transport=udp")), "1001 1");
    }
}
