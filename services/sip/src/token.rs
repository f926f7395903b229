//! Branches, tags and Call-IDs. Entropy comes from the caller: equal input gives equal output.

use crate::via::BRANCH_COOKIE;

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn text(mut value: u128, digits: usize) -> String {
    let mut out = String::with_capacity(digits);
    for _ in 0..digits {
        out.push(char::from(DIGITS[(value & 31) as usize]));
        value >>= 5;
    }
    out
}

/// A Via branch with the magic cookie; `entropy` must be fresh for each transaction.
pub fn branch(entropy: u128) -> String {
    format!("{BRANCH_COOKIE}{}", text(entropy, 26))
}

/// A From or To tag of 64 bits (RFC 3261 section 19.3 asks for at least 32).
pub fn tag(entropy: u64) -> String {
    text(entropy.into(), 13)
}

/// A Call-ID, `{random}@{host}`; an empty or odd `host` is left out.
pub fn call_id(entropy: u128, host: &str) -> String {
    if crate::uri::host_is_valid(host.as_bytes()) {
        format!("{}@{host}", text(entropy, 26))
    } else {
        text(entropy, 26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_entropy_is_kept() {
        assert_ne!(branch(1 << 127), branch(0));
        assert_ne!(tag(1 << 63), tag(0));
        assert_eq!(call_id(7, "h\r\n").len(), 26);
        assert!(branch(u128::MAX).starts_with("z9hG4bK"));
    }
}
