//! The token in Contact and in our tag: it names the call (and with it the shard), so that any edge of the cluster can
//! bring an in-dialog request to the call's owner, and carries an HMAC so that nobody else can make one up.
//!
//! Form of the Contact's user part: 16 digits MAC, 25 digits call id, then the tenant.
//!
//! The branch of a call's own requests names call and request in the same way, so that a response that reaches another edge
//! (edges may share an address) still finds its call, and so that another edge that sends the same request again under the
//! same address repeats it instead of sending a second one.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use trunkline_sip::BRANCH_COOKIE;
use trunkline_types::{CallId, EntityAddress, TenantId};

const MAC_BYTES: usize = 8;
const MAC_DIGITS: usize = 2 * MAC_BYTES;
const CALL_DIGITS: usize = 25;
/// Between the call and the name of its request in a branch; in no tenant and in no such name.
const BETWEEN: char = '+';
/// Longer names of requests do not go into branches.
const MAX_NAME: usize = 48;

/// The cluster's key for tokens.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl TokenKey {
    /// `secret` is the same on all edges of a cluster.
    pub fn new(secret: &[u8; 32]) -> Self {
        // HMAC takes keys of any length; the error type is only for other MACs.
        Self(Hmac::new_from_slice(secret).unwrap_or_else(|_| unreachable!("HMAC takes any key length")))
    }

    /// The user part of this call's Contact.
    pub fn user(&self, tenant: &TenantId, call: CallId) -> String {
        let name = format!("{call}{tenant}");
        let mac = self.mac(&name).finalize().into_bytes();
        let hex: String = mac[..MAC_BYTES].iter().map(|b| format!("{b:02x}")).collect();
        hex + &name
    }

    /// The call that a user part names; `None` when it is not one of our tokens or was tampered with.
    pub fn call(&self, user: &str) -> Option<EntityAddress> {
        if !user.is_ascii() || user.len() <= MAC_DIGITS + CALL_DIGITS {
            return None;
        }
        let (mac, name) = user.split_at(MAC_DIGITS);
        let mac = hex(mac)?;
        self.mac(name).verify_truncated_left(&mac).ok()?;
        let (call, tenant) = name.split_at(CALL_DIGITS);
        Some(EntityAddress::call(&tenant.parse().ok()?, call.parse().ok()?))
    }

    /// The branch of a call's request; `None` when the request's name cannot stand in one.
    pub fn branch(&self, call: &EntityAddress, name: &str) -> Option<String> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fits) {
            return None;
        }
        let named = format!("{}{}{BETWEEN}{name}", call.id, call.tenant);
        let digest = self.digest("branch", &[named.as_bytes()]);
        let hex: String = digest[..MAC_BYTES].iter().map(|b| format!("{b:02x}")).collect();
        Some(format!("{BRANCH_COOKIE}{hex}{named}"))
    }

    /// The call and the name of its request that a branch of ours tells.
    pub fn of_branch(&self, branch: &str) -> Option<(EntityAddress, String)> {
        let text = branch.strip_prefix(BRANCH_COOKIE).filter(|text| text.is_ascii())?;
        let named = text.get(MAC_DIGITS..).filter(|named| named.len() > CALL_DIGITS)?;
        let (address, name) = named.split_once(BETWEEN)?;
        let (call, tenant) = address.split_at_checked(CALL_DIGITS)?;
        let call = EntityAddress::call(&tenant.parse().ok()?, call.parse().ok()?);
        let mac = hex(text.get(..MAC_DIGITS)?)?;
        self.keyed("branch", &[named.as_bytes()]).verify_truncated_left(&mac).ok()?;
        Some((call, name.to_owned()))
    }

    /// A keyed hash of several parts, for one purpose.
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.keyed(purpose, parts).finalize().into_bytes().into()
    }

    fn keyed(&self, purpose: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        // No token begins with a zero byte, so no digest is the MAC of one.
        mac.update(&[0]);
        mac.update(purpose.as_bytes());
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    fn mac(&self, name: &str) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(name.as_bytes());
        mac
    }
}

/// The bytes of a MAC written in digits.
fn hex(digits: &str) -> Option<Vec<u8>> {
    let byte = |i: usize| u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok();
    (0..MAC_BYTES).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use trunkline_types::{ShardId, Timestamp};

    use super::*;

    #[test]
    fn only_our_own_untouched_tokens_lead_to_a_call() {
        let (ours, theirs) = (TokenKey::new(&[1; 32]), TokenKey::new(&[2; 32]));
        let tenant: TenantId = "default".parse().unwrap();
        let call = CallId::mint(ShardId::new(77).unwrap(), Timestamp::from_millis(1), 9);
        let user = ours.user(&tenant, call);
        assert_eq!(ours.call(&user), Some(EntityAddress::call(&tenant, call)));
        assert_eq!(theirs.call(&user), None);
        for at in 0..user.len() {
            let mut bytes = user.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(ours.call(&String::from_utf8(bytes).unwrap()), None, "byte {at}");
        }
        let address = EntityAddress::call(&tenant, call);
        let branch = ours.branch(&address, "bye-3").unwrap();
        assert_eq!(ours.of_branch(&branch), Some((address.clone(), "bye-3".to_owned())));
        assert_eq!(ours.branch(&address, "bye-3").unwrap(), branch, "the same on every edge");
        assert_eq!(theirs.of_branch(&branch), None);
        for at in 0..branch.len() {
            let mut bytes = branch.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(ours.of_branch(&String::from_utf8(bytes).unwrap()), None, "byte {at}");
            assert_eq!(ours.of_branch(&branch[..at]), None);
        }
        for name in ["", "a+b", "UPPER", "a b", &"x".repeat(49)] {
            assert_eq!(ours.branch(&address, name), None);
        }
        for strange in ["", "support", "+4930123", &"é".repeat(40), &"0".repeat(60)] {
            assert_eq!(ours.call(strange), None);
        }
    }
}
