use std::{collections::HashMap, fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ports::Account;

/// Form of the token; a new one gets a new number.
const PREFIX: &str = "tl1";
/// Form of a ticket: it opens the agents' WebSocket of another console, and nothing else.
const TICKET: &str = "tw1";
/// Of the MAC in the name of a session.
const MARK_BYTES: usize = 11;
/// Longer ones are not looked at.
const MAX_TOKEN: usize = 1_024;
/// Signed-out tokens remembered.
const MAX_REVOKED: usize = 65_536;

/// Why a set of keys is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key.
    #[error("no signing key: give at least one of 32 bytes")]
    None,
    /// The same key twice.
    #[error("signing key {0} is there twice: each key has to be another one")]
    Twice(usize),
}

/// Keys of the session tokens, 32 bytes each. The first signs, all verify: put a new key in front, and drop the old one
/// when its tokens have expired (12 h).
#[derive(Clone)]
pub struct SigningKeys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    mac: Hmac<Sha256>,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} signing keys", self.0.len())
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// Names the token, for sign-out.
    #[serde(rename = "i")]
    pub(super) id: String,
    #[serde(rename = "n")]
    pub(super) name: String,
    #[serde(rename = "t")]
    pub(super) tenant: String,
    #[serde(rename = "e")]
    pub(super) expires_ms: i64,
    /// Of the password's hash: a new password ends the sessions.
    #[serde(rename = "f")]
    pub(super) fingerprint: String,
}

impl SigningKeys {
    /// From the newest to the oldest.
    pub fn new(keys: impl IntoIterator<Item = [u8; 32]>) -> Result<Self, KeyError> {
        let mut known: Vec<Key> = Vec::new();
        for (index, bytes) in keys.into_iter().enumerate() {
            let id = BASE64.encode(&Sha256::digest(bytes)[..6]);
            if known.iter().any(|key| key.id == id) {
                return Err(KeyError::Twice(index));
            }
            // HMAC takes keys of any length.
            let Ok(mac) = Hmac::<Sha256>::new_from_slice(&bytes) else { continue };
            known.push(Key { id, mac });
        }
        if known.is_empty() { Err(KeyError::None) } else { Ok(Self(known)) }
    }

    /// A token for an account, and when it expires (milliseconds since the Unix epoch).
    pub(super) fn issue(&self, account: &Account, now_ms: i64, lifetime: Duration) -> (String, i64) {
        let expires_ms = now_ms.saturating_add(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX));
        let claims = Claims {
            id: random_id(),
            name: account.name.clone(),
            tenant: account.tenant.to_string(),
            expires_ms,
            fingerprint: fingerprint(&account.password_hash),
        };
        (self.seal(PREFIX, &claims), expires_ms)
    }

    /// A ticket with these claims.
    pub(super) fn ticket(&self, claims: &Claims) -> String {
        self.seal(TICKET, claims)
    }

    /// The claims of a ticket, as those of a token.
    pub(super) fn open_ticket(&self, ticket: &str, now_ms: i64) -> Option<Claims> {
        self.open_as(TICKET, ticket, now_ms)
    }

    /// A random name with a MAC over it and `owner`; 38 characters, URL-safe.
    pub(super) fn name_session(&self, owner: &str) -> String {
        let name = random_id();
        let mark = self.0.first().map(|key| BASE64.encode(&key.mark(&name, owner)[..MARK_BYTES]));
        format!("{name}.{}", mark.unwrap_or_default())
    }

    /// Whether one of the keys made this name for this owner.
    pub(super) fn is_session_of(&self, owner: &str, name: &str) -> bool {
        let parts = name.split_once('.').filter(|_| name.len() <= MAX_TOKEN);
        let Some((name, Ok(mark))) = parts.map(|(name, mark)| (name, BASE64.decode(mark))) else {
            return false;
        };
        mark.len() == MARK_BYTES && self.0.iter().any(|key| key.is_mark(&mark, name, owner))
    }

    fn seal(&self, form: &str, claims: &Claims) -> String {
        let Some(key) = self.0.first() else { return String::new() };
        let body = BASE64.encode(serde_json::to_vec(claims).unwrap_or_default());
        let signed = format!("{form}.{}.{body}", key.id);
        let mac = key.mac.clone().chain_update(signed.as_bytes()).finalize().into_bytes();
        format!("{signed}.{}", BASE64.encode(mac))
    }

    /// The claims of a token that one of the keys signed and that has not expired.
    pub(super) fn open(&self, token: &str, now_ms: i64) -> Option<Claims> {
        self.open_as(PREFIX, token, now_ms)
    }

    fn open_as(&self, form: &str, token: &str, now_ms: i64) -> Option<Claims> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, mac) = token.rsplit_once('.')?;
        let mut parts = signed.splitn(3, '.');
        let (prefix, id, body) = (parts.next()?, parts.next()?, parts.next()?);
        let key = self.0.iter().find(|key| key.id == id).filter(|_| prefix == form)?;
        // Compares in constant time.
        key.mac.clone().chain_update(signed.as_bytes()).verify_slice(&BASE64.decode(mac).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64.decode(body).ok()?).ok()?;
        (claims.expires_ms > now_ms).then_some(claims)
    }
}

impl Key {
    fn marking(&self, name: &str, owner: &str) -> Hmac<Sha256> {
        // Tokens are never like this: they begin with their form.
        self.mac.clone().chain_update(format!("session\n{name}\n{owner}"))
    }

    fn mark(&self, name: &str, owner: &str) -> Vec<u8> {
        self.marking(name, owner).finalize().into_bytes().to_vec()
    }

    fn is_mark(&self, mark: &[u8], name: &str, owner: &str) -> bool {
        self.marking(name, owner).verify_truncated_left(mark).is_ok()
    }
}

/// 128 random bits, URL-safe.
pub(super) fn random_id() -> String {
    BASE64.encode(rand::random::<[u8; 16]>())
}

/// A short digest of a password's hash, to notice that it changed.
pub(super) fn fingerprint(password_hash: &str) -> String {
    BASE64.encode(&Sha256::digest(password_hash.as_bytes())[..9])
}

/// Ids of tokens that were signed out before they expired. Bounded; when full, the one that would have expired first
/// is forgotten. Kept on this node: another node honours the token until it expires.
#[derive(Default)]
pub(super) struct Revocations(Mutex<HashMap<String, i64>>);

impl Revocations {
    pub(super) fn add(&self, id: &str, expires_ms: i64, now_ms: i64) {
        let mut ids = self.0.lock();
        if ids.len() >= MAX_REVOKED {
            ids.retain(|_, expires| *expires > now_ms);
            if ids.len() >= MAX_REVOKED
                && let Some(first) = ids.iter().min_by_key(|(_, expires)| **expires).map(|(id, _)| id.clone())
            {
                ids.remove(&first);
            }
        }
        ids.insert(id.to_owned(), expires_ms);
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.lock().contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            name: "alice".into(),
            display_name: "Alice".into(),
            password_hash: "$argon2id$x".into(),
            roles: vec![],
            tenant: "default".parse().unwrap(),
            agent: None,
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_holds_until_it_expires_and_not_when_a_bit_is_changed() {
        let keys = SigningKeys::new([[1; 32]]).unwrap();
        let (token, expires) = keys.issue(&account(), 1_000, HOUR);
        assert_eq!(expires, 3_601_000);
        assert_eq!(keys.open(&token, 2_000).unwrap().name, "alice");
        assert_eq!(keys.open(&token, expires), None);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character of the MAC carries 4 unused bits; the decoder refuses those too.
            assert_eq!(keys.open(&changed, 2_000), None, "changed at {at}");
        }
    }

    #[test]
    fn an_old_key_verifies_until_it_is_dropped() {
        let old = SigningKeys::new([[1; 32]]).unwrap();
        let (token, _) = old.issue(&account(), 0, HOUR);
        assert!(SigningKeys::new([[2; 32], [1; 32]]).unwrap().open(&token, 1).is_some());
        assert!(SigningKeys::new([[2; 32]]).unwrap().open(&token, 1).is_none());
        assert_eq!(SigningKeys::new([]).unwrap_err(), KeyError::None);
        assert_eq!(SigningKeys::new([[1; 32], [1; 32]]).unwrap_err(), KeyError::Twice(1));
    }

    #[test]
    fn a_ticket_is_no_token_and_a_token_no_ticket() {
        let keys = SigningKeys::new([[1; 32]]).unwrap();
        let (token, _) = keys.issue(&account(), 0, HOUR);
        let claims = keys.open(&token, 1).unwrap();
        let ticket = keys.ticket(&claims);
        assert_eq!(keys.open_ticket(&ticket, 1), Some(claims));
        assert_eq!((keys.open(&ticket, 1), keys.open_ticket(&token, 1)), (None, None));
        assert_eq!(keys.open_ticket(&ticket, 3_600_001), None, "it ends with the token");
    }

    #[test]
    fn a_session_is_its_owners() {
        let (keys, others) = (SigningKeys::new([[1; 32]]).unwrap(), SigningKeys::new([[2; 32]]).unwrap());
        let name = keys.name_session("alice");
        assert!(name.len() <= 64 && keys.is_session_of("alice", &name));
        assert!(SigningKeys::new([[3; 32], [1; 32]]).unwrap().is_session_of("alice", &name), "an old key");
        assert!(!keys.is_session_of("bob", &name) && !others.is_session_of("alice", &name));
        for bad in ["", ".", "x", &name[..name.len() - 1], &format!("{name}A"), &name.replace('.', "")] {
            assert!(!keys.is_session_of("alice", bad), "{bad}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        let keys = SigningKeys::new([[1; 32]]).unwrap();
        for bad in ["", ".", "tl1", "tl1.a.b", "tl1.a.b.c", &"x".repeat(5_000), "tl1....", "é.é.é.é"] {
            assert_eq!(keys.open(bad, 0), None, "{bad}");
        }
    }

    #[test]
    fn signed_out_tokens_are_remembered_within_bounds() {
        let revoked = Revocations::default();
        for n in 0..MAX_REVOKED as i64 + 10 {
            revoked.add(&n.to_string(), 1_000 + n, 0);
        }
        assert_eq!(revoked.0.lock().len(), MAX_REVOKED);
        assert!(revoked.contains(&(MAX_REVOKED + 9).to_string()));
        assert!(!revoked.contains("0"));
    }
}
