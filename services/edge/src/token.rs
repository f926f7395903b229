//! The token in Contact and in our tag: it names the call (and with it the shard), so that any edge of the cluster can
//! bring an in-dialog request to the call's owner, and carries an HMAC so that nobody else can make one up.
//!
//! Form of the Contact's user part: 16 digits MAC, 25 digits call id, then the tenant.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use trunkline_types::{CallId, EntityAddress, TenantId};

const MAC_BYTES: usize = 8;
const MAC_DIGITS: usize = 2 * MAC_BYTES;
const CALL_DIGITS: usize = 25;

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
        let mac: Vec<u8> = (0..MAC_BYTES)
            .map(|i| u8::from_str_radix(&mac[2 * i..2 * i + 2], 16))
            .collect::<Result<_, _>>()
            .ok()?;
        self.mac(name).verify_truncated_left(&mac).ok()?;
        let (call, tenant) = name.split_at(CALL_DIGITS);
        Some(EntityAddress::call(&tenant.parse().ok()?, call.parse().ok()?))
    }

    fn mac(&self, name: &str) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(name.as_bytes());
        mac
    }
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
        for strange in ["", "support", "+4930123", &"é".repeat(40), &"0".repeat(60)] {
            assert_eq!(ours.call(strange), None);
        }
    }
}
