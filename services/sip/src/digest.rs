//! Digest access authentication (RFC 7616, and RFC 2617 peers without qop): MD5 and SHA-256, `auth` and no qop.
//!
//! Deviations: `auth-int`, `-sess` and `userhash` are not offered, and credentials that use them are not accepted.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use md5::{Digest as _, Md5};
use sha2::Sha256;
use trunkline_types::Timestamp;

use crate::{
    method::Method,
    text::{decode, is_token, quote, split_outside, trim, unquote},
};

/// Hash algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Algorithm {
    /// MD5, what RFC 2617 peers know; also meant when nothing is said.
    #[default]
    Md5,
    /// SHA-256 (RFC 7616; RFC 8760 for SIP).
    Sha256,
}

impl Algorithm {
    /// As in the header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    fn hex(self, text: &[u8]) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(&Sha256::digest(text)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// H(user:realm:password) in lower-case hexadecimal: what may be stored instead of the password.
pub fn ha1(algorithm: Algorithm, username: &str, realm: &str, password: &str) -> String {
    algorithm.hex(format!("{username}:{realm}:{password}").as_bytes())
}

/// What the two sides share.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// The password.
    Password(&'a str),
    /// [`ha1`] of the algorithm in use.
    Ha1(&'a str),
}

impl Secret<'_> {
    fn ha1(&self, algorithm: Algorithm, username: &str, realm: &str) -> String {
        match self {
            Self::Password(password) => ha1(algorithm, username, realm, password),
            Self::Ha1(hash) => hash.to_ascii_lowercase(),
        }
    }
}

/// Why credentials were refused, or a challenge cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The response does not fit the secret.
    #[error("digest response is wrong")]
    WrongResponse,
    /// The credentials name another user or realm than they were checked for.
    #[error("digest credentials are for another realm")]
    WrongRealm,
    /// qop without cnonce or nc, or a qop other than auth.
    #[error("digest qop is not auth, or cnonce and nc are missing")]
    Qop,
}

/// The value of WWW-Authenticate or Proxy-Authenticate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// Protection domain.
    pub realm: String,
    /// From [`Nonces::mint`], or of the peer.
    pub nonce: String,
    /// Returned as it is.
    pub opaque: Option<String>,
    /// Algorithm.
    pub algorithm: Algorithm,
    /// `qop` offers `auth`; without it the RFC 2069 form is used.
    pub qop_auth: bool,
    /// The nonce was stale, the secret may be right: try again without asking the user.
    pub stale: bool,
}

/// The value of Authorization or Proxy-Authorization.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Protection domain.
    pub realm: String,
    /// Nonce of the challenge.
    pub nonce: String,
    /// The Request-URI as the client had it.
    pub uri: String,
    /// Hexadecimal hash.
    pub response: String,
    /// Algorithm.
    pub algorithm: Algorithm,
    /// `auth` or nothing.
    pub qop: Option<String>,
    /// Client nonce.
    pub cnonce: Option<String>,
    /// Nonce count.
    pub nonce_count: Option<u32>,
    /// As in the challenge.
    pub opaque: Option<String>,
}

/// `Digest a=b, c="d"` → pairs with names in lower case, `None` for other schemes and malformed lists.
fn digest_pairs(value: &[u8]) -> Option<BTreeMap<String, String>> {
    let value = trim(value);
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t'))?;
    if !value[..end].eq_ignore_ascii_case(b"Digest") {
        return None;
    }
    let mut pairs = BTreeMap::new();
    for piece in split_outside(&value[end..], b',')? {
        let piece = trim(piece);
        if piece.is_empty() {
            continue;
        }
        let at = piece.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (trim(&piece[..at]), trim(&piece[at + 1..]));
        if !is_token(name) {
            return None;
        }
        let text = decode(&unquote(value)).into_owned();
        // A repeated parameter means two readers may see two values.
        if pairs.insert(decode(name).to_ascii_lowercase(), text).is_some() {
            return None;
        }
    }
    Some(pairs)
}

fn algorithm(pairs: &mut BTreeMap<String, String>) -> Option<Algorithm> {
    match pairs.remove("algorithm") {
        None => Some(Algorithm::Md5),
        Some(name) if name.eq_ignore_ascii_case("MD5") => Some(Algorithm::Md5),
        Some(name) if name.eq_ignore_ascii_case("SHA-256") => Some(Algorithm::Sha256),
        Some(_) => None,
    }
}

fn quoted(name: &str, value: &str) -> Vec<u8> {
    [name.as_bytes(), b"=", &quote(value.as_bytes())].concat()
}

impl Challenge {
    /// Reads a header value; `None` for other schemes and unknown algorithms.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut pairs = digest_pairs(value)?;
        let algorithm = algorithm(&mut pairs)?;
        let qop = pairs.remove("qop");
        let qop_auth =
            qop.as_deref().is_some_and(|q| q.split(',').any(|q| q.trim().eq_ignore_ascii_case("auth")));
        if qop.is_some() && !qop_auth {
            return None;
        }
        Some(Self {
            realm: pairs.remove("realm")?,
            nonce: pairs.remove("nonce")?,
            opaque: pairs.remove("opaque"),
            algorithm,
            qop_auth,
            stale: pairs.remove("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    /// As a header value.
    pub fn to_value(&self) -> Bytes {
        let mut parts = vec![quoted("realm", &self.realm), quoted("nonce", &self.nonce)];
        parts.extend(self.opaque.as_ref().map(|opaque| quoted("opaque", opaque)));
        parts.push(format!("algorithm={}", self.algorithm.as_str()).into_bytes());
        if self.qop_auth {
            parts.push(b"qop=\"auth\"".to_vec());
        }
        if self.stale {
            parts.push(b"stale=true".to_vec());
        }
        Bytes::from([b"Digest ", &parts.join(&b", "[..])[..]].concat())
    }

    /// Credentials for a request. `cnonce` is entropy as text, used with one `nonce_count` (from 1) only once.
    pub fn answer(
        &self,
        username: &str,
        secret: Secret<'_>,
        method: &Method,
        uri: &str,
        cnonce: &str,
        nonce_count: u32,
    ) -> Credentials {
        let mut credentials = Credentials {
            username: username.to_owned(),
            realm: self.realm.clone(),
            nonce: self.nonce.clone(),
            uri: uri.to_owned(),
            response: String::new(),
            algorithm: self.algorithm,
            qop: self.qop_auth.then(|| "auth".to_owned()),
            cnonce: self.qop_auth.then(|| cnonce.to_owned()),
            nonce_count: self.qop_auth.then_some(nonce_count),
            opaque: self.opaque.clone(),
        };
        credentials.response = credentials.expected(secret, method);
        credentials
    }
}

impl Credentials {
    /// Reads a header value; `None` for other schemes and unknown algorithms.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut pairs = digest_pairs(value)?;
        let nonce_count = match pairs.remove("nc") {
            Some(count) if count.len() == 8 => Some(u32::from_str_radix(&count, 16).ok()?),
            Some(_) => return None,
            None => None,
        };
        Some(Self {
            algorithm: algorithm(&mut pairs)?,
            username: pairs.remove("username")?,
            realm: pairs.remove("realm")?,
            nonce: pairs.remove("nonce")?,
            uri: pairs.remove("uri")?,
            response: pairs.remove("response")?,
            qop: pairs.remove("qop"),
            cnonce: pairs.remove("cnonce"),
            nonce_count,
            opaque: pairs.remove("opaque"),
        })
    }

    /// As a header value.
    pub fn to_value(&self) -> Bytes {
        let mut parts = vec![
            quoted("username", &self.username),
            quoted("realm", &self.realm),
            quoted("nonce", &self.nonce),
            quoted("uri", &self.uri),
            quoted("response", &self.response),
            format!("algorithm={}", self.algorithm.as_str()).into_bytes(),
        ];
        parts.extend(self.cnonce.as_ref().map(|cnonce| quoted("cnonce", cnonce)));
        parts.extend(self.opaque.as_ref().map(|opaque| quoted("opaque", opaque)));
        if self.qop.is_some() {
            parts.push(b"qop=auth".to_vec());
        }
        parts.extend(self.nonce_count.map(|count| format!("nc={count:08x}").into_bytes()));
        Bytes::from([b"Digest ", &parts.join(&b", "[..])[..]].concat())
    }

    fn expected(&self, secret: Secret<'_>, method: &Method) -> String {
        let ha1 = secret.ha1(self.algorithm, &self.username, &self.realm);
        let ha2 = self.algorithm.hex(format!("{method}:{}", self.uri).as_bytes());
        let text = match (&self.qop, self.nonce_count, &self.cnonce) {
            (Some(_), Some(count), Some(cnonce)) => {
                format!("{ha1}:{}:{count:08x}:{cnonce}:auth:{ha2}", self.nonce)
            }
            _ => format!("{ha1}:{}:{ha2}", self.nonce),
        };
        self.algorithm.hex(text.as_bytes())
    }

    /// Checks the response in constant time. The caller checks first that `nonce` is its own ([`Nonces::check`]), that
    /// `algorithm` is one it offered, and that `uri` means the Request-URI (proxies may have changed the text).
    ///
    /// # Errors
    /// [`DigestError::WrongRealm`], [`DigestError::Qop`], [`DigestError::WrongResponse`].
    pub fn verify(&self, realm: &str, secret: Secret<'_>, method: &Method) -> Result<(), DigestError> {
        let qop_ok = match self.qop.as_deref() {
            Some(qop) => {
                qop.eq_ignore_ascii_case("auth") && self.cnonce.is_some() && self.nonce_count.is_some()
            }
            None => true,
        };
        let expected = self.expected(secret, method);
        let same = constant_time_eq(expected.as_bytes(), self.response.to_ascii_lowercase().as_bytes());
        match (self.realm == realm, qop_ok, same) {
            (false, _, _) => Err(DigestError::WrongRealm),
            (_, false, _) => Err(DigestError::Qop),
            (_, _, false) => Err(DigestError::WrongResponse),
            _ => Ok(()),
        }
    }
}

/// Equality in a time that depends on the lengths only.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    let difference =
        a.iter().zip(b).fold(0u8, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    a.len() == b.len() && difference == 0
}

/// What a nonce turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Ours, alive, nonce count not seen before.
    Fresh,
    /// Ours and too old: challenge again with `stale=true`.
    Stale,
    /// Not ours: challenge again.
    Forged,
    /// Ours, but the nonce count does not rise: a replay (or a retransmission that lost its transaction).
    Replayed,
}

/// Mints and checks nonces. A nonce carries its time and a keyed hash, so that any edge with the key can check it;
/// nonce counts are remembered here, for at most [`Nonces::REMEMBERED`] nonces.
#[derive(Debug)]
pub struct Nonces {
    key: [u8; 32],
    life: Duration,
    /// Highest nonce count by (minted at, entropy), oldest first.
    counts: BTreeMap<(i64, u64), u32>,
}

impl Nonces {
    /// Most nonces whose count is remembered; the oldest is forgotten first, and is then refused as stale.
    pub const REMEMBERED: usize = 100_000;

    /// `key` from a random source, shared by the edges of a cluster. `life`: how long a nonce is good.
    pub fn new(key: [u8; 32], life: Duration) -> Self {
        Self { key, life, counts: BTreeMap::new() }
    }

    /// A new nonce; `entropy` must be fresh.
    pub fn mint(&self, now: Timestamp, entropy: u64) -> String {
        self.sign(now.as_micros(), entropy)
    }

    fn sign(&self, micros: i64, entropy: u64) -> String {
        let head = format!("{micros:016x}{entropy:016x}");
        let mac = hmac_sha256(&self.key, head.as_bytes());
        format!("{head}{}", hex(&mac[..16]))
    }

    /// Checks a nonce and notes its count. Without a count (RFC 2069 form) a nonce is good for its life.
    pub fn check(&mut self, now: Timestamp, nonce: &str, nonce_count: Option<u32>) -> Freshness {
        let field = |range| nonce.get(range).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let (Some(micros), Some(entropy)) = (field(0..16), field(16..32)) else { return Freshness::Forged };
        let micros = micros as i64;
        if !constant_time_eq(self.sign(micros, entropy).as_bytes(), nonce.as_bytes()) {
            return Freshness::Forged;
        }
        let minted = Timestamp::from_micros(micros);
        if now.since(minted) > self.life || minted.since(now) > self.life {
            return Freshness::Stale;
        }
        let Some(count) = nonce_count else { return Freshness::Fresh };
        let oldest_alive = now.minus(self.life).as_micros();
        while self.counts.first_key_value().is_some_and(|((at, _), _)| *at < oldest_alive) {
            self.counts.pop_first();
        }
        let key = (micros, entropy);
        if let Some(highest) = self.counts.get_mut(&key) {
            let replayed = count <= *highest;
            *highest = count.max(*highest);
            return if replayed { Freshness::Replayed } else { Freshness::Fresh };
        }
        if self.counts.len() >= Self::REMEMBERED {
            if self.counts.first_key_value().is_some_and(|(oldest, _)| key < *oldest) {
                return Freshness::Stale;
            }
            self.counts.pop_first();
        }
        self.counts.insert(key, count);
        Freshness::Fresh
    }
}

/// HMAC-SHA-256 (RFC 2104) for keys of at most 64 bytes.
pub(crate) fn hmac_sha256(key: &[u8; 32], text: &[u8]) -> [u8; 32] {
    let mut pads = ([0x36u8; 64], [0x5cu8; 64]);
    for (at, byte) in key.iter().enumerate() {
        pads.0[at] ^= byte;
        pads.1[at] ^= byte;
    }
    let inner = Sha256::new().chain_update(pads.0).chain_update(text).finalize();
    Sha256::new().chain_update(pads.1).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RFC7616: &str = "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", \
        nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
        cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth";
    const OPAQUE: &str = "opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";

    fn get() -> Method {
        Method::parse("GET").unwrap()
    }

    #[test]
    fn the_examples_of_rfc_7616() {
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let value = format!("{RFC7616}, algorithm={algorithm}, response=\"{response}\", {OPAQUE}");
            let credentials = Credentials::parse(value.as_bytes()).unwrap();
            let secret = Secret::Password("Circle of Life");
            assert_eq!(credentials.verify("http-auth@example.org", secret, &get()), Ok(()));
            assert_eq!(credentials.verify("x", secret, &get()), Err(DigestError::WrongRealm));
            let wrong = Secret::Password("circle of life");
            assert_eq!(
                credentials.verify("http-auth@example.org", wrong, &get()),
                Err(DigestError::WrongResponse)
            );
            assert_eq!(Credentials::parse(&credentials.to_value()).unwrap(), credentials);
        }
    }

    #[test]
    fn challenge_and_answer_fit_for_every_form() {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
            for qop_auth in [true, false] {
                let challenge = Challenge {
                    realm: "a \"b\"".into(),
                    nonce: "n".into(),
                    opaque: Some("o".into()),
                    algorithm,
                    qop_auth,
                    stale: false,
                };
                let read = Challenge::parse(&challenge.to_value()).unwrap();
                assert_eq!(read, challenge);
                let answer = read.answer("u", Secret::Password("p"), &Method::Invite, "sip:x", "c", 1);
                let sent = Credentials::parse(&answer.to_value()).unwrap();
                let stored = ha1(algorithm, "u", "a \"b\"", "p");
                assert_eq!(sent.verify("a \"b\"", Secret::Ha1(&stored), &Method::Invite), Ok(()));
                assert!(sent.verify("a \"b\"", Secret::Ha1(&stored), &Method::Bye).is_err());
            }
        }
    }

    #[test]
    fn other_schemes_and_repeats_are_not_credentials() {
        assert_eq!(Credentials::parse(b"NoOneKnowsThisScheme opaque-data=here"), None);
        assert_eq!(Credentials::parse(b"Digest"), None);
        assert_eq!(Credentials::parse(b"Digest username=\"a\", username=\"b\""), None);
        assert_eq!(Challenge::parse(b"Digest realm=\"a\", nonce=\"b\", qop=\"auth-int\""), None);
    }

    #[test]
    fn nonces_age_count_and_cannot_be_forged() {
        let mut nonces = Nonces::new([7; 32], Duration::from_secs(60));
        let now = Timestamp::from_millis(1_000_000);
        let nonce = nonces.mint(now, 5);
        assert_eq!(nonces.check(now, &nonce, Some(1)), Freshness::Fresh);
        assert_eq!(nonces.check(now, &nonce, Some(1)), Freshness::Replayed);
        assert_eq!(nonces.check(now, &nonce, Some(2)), Freshness::Fresh);
        assert_eq!(nonces.check(now + Duration::from_secs(61), &nonce, Some(3)), Freshness::Stale);
        assert_eq!(Nonces::new([8; 32], Duration::from_secs(60)).check(now, &nonce, None), Freshness::Forged);
        assert_eq!(
            nonces.check(now, "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}", None),
            Freshness::Forged
        );
    }

    #[test]
    fn hmac_of_rfc_4231_shape() {
        // RFC 4231 test case 2 has a 4-byte key; zero-padding it to 32 bytes is the same key by RFC 2104.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac_sha256(&key, b"what do ya want for nothing?");
        assert_eq!(hex(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
