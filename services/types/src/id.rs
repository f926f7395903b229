use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Epoch, ShardId, Timestamp};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A name has a character outside `a-z 0-9 - _ .`, or is empty or longer than 64.
    #[error(
        "{what} {text:?} is not a name: use 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"
    )]
    Name {
        /// Which kind of id.
        what: &'static str,
        /// What was given (cut at 80 characters).
        text: String,
    },
    /// A structured id (call, leg, offer, recording) does not have its form.
    #[error("{what} {text:?} is malformed")]
    Form {
        /// Which kind of id.
        what: &'static str,
        /// What was given (cut at 80 characters).
        text: String,
    },
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The text form: 1 to 64 of `a-z 0-9 - _ .`, beginning with a letter or digit.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let ok = (1..=64).contains(&text.len())
                    && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
                    && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
                if ok { Ok(Self(text.into())) } else { Err(IdError::Name { what: $what, text: cut(text) }) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, "/{}"), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

name_id!(
    /// A tenant: every object and id belongs to one. `dev` has `default`.
    TenantId,
    "tenant"
);
name_id!(
    /// A queue within a tenant.
    QueueId,
    "queue"
);
name_id!(
    /// A human agent within a tenant (SIP's is a user agent).
    AgentId,
    "agent"
);
name_id!(
    /// A telephone's account within a tenant: the user part of its address of record.
    TelephoneId,
    "telephone"
);
name_id!(
    /// A flow (IVR) within a tenant.
    FlowId,
    "flow"
);
name_id!(
    /// A node of the cluster.
    NodeId,
    "node"
);

const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn base32(value: u128, digits: usize) -> String {
    (0..digits).rev().map(|i| BASE32[((value >> (5 * i)) & 31) as usize] as char).collect()
}

fn unbase32(text: &str, digits: usize) -> Option<u128> {
    if text.len() != digits {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = BASE32.iter().position(|b| *b == byte)? as u128;
        value.checked_mul(32).map(|v| v | digit)
    })
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// A call, end to end. Carries its shard: 12 bits shard, 48 bits milliseconds of creation, 65 bits entropy, so ids
/// sort by shard, then by time. Text form: 25 digits of Crockford base 32, lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u128);

impl CallId {
    const DIGITS: usize = 25;
    const ENTROPY_BITS: u32 = 65;

    /// Mints an id in `shard`; `entropy` must come from a random source that no other mint shares.
    pub fn mint(shard: ShardId, now: Timestamp, entropy: u128) -> Self {
        let millis = (now.as_millis().max(0) as u128) & ((1 << 48) - 1);
        let random = entropy & ((1 << Self::ENTROPY_BITS) - 1);
        Self((u128::from(shard.index()) << 113) | (millis << Self::ENTROPY_BITS) | random)
    }

    /// The shard in which the call was minted and lives.
    pub fn shard(self) -> ShardId {
        // 12 bits by construction and by `from_str`.
        ShardId::new((self.0 >> 113) as u16).unwrap_or_else(|| unreachable!("12-bit shard"))
    }

    /// When it was minted, to the millisecond.
    pub fn minted_at(self) -> Timestamp {
        Timestamp::from_millis(((self.0 >> Self::ENTROPY_BITS) & ((1 << 48) - 1)) as i64)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(self.0, Self::DIGITS))
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call/{self}")
    }
}

impl FromStr for CallId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        unbase32(text, Self::DIGITS)
            .filter(|value| value >> 125 == 0)
            .map(Self)
            .ok_or_else(|| IdError::Form { what: "call", text: cut(text) })
    }
}

text_serde!(CallId);

/// A leg of a call: `{call}.{n}`, n counting from 0 (the caller's leg) in order of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LegId {
    /// The call it belongs to.
    pub call: CallId,
    /// Order of creation within the call, 0 = caller.
    pub index: u16,
}

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.call, self.index)
    }
}

impl FromStr for LegId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::Form { what: "leg", text: cut(text) };
        let (call, index) = text.split_once('.').ok_or_else(malformed)?;
        Ok(Self { call: call.parse()?, index: index.parse().map_err(|_| malformed())? })
    }
}

text_serde!(LegId);

/// One offer of a queued call to an agent (a reservation). Used once: minted by the queue from its shard's epoch and a
/// counter that starts anew with each epoch, hence never twice. Text form: `{queue}:{epoch}:{n}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OfferId {
    /// The queue that makes the offer.
    pub queue: QueueId,
    /// The queue shard's epoch at the time.
    pub epoch: Epoch,
    /// Counts within the epoch, from 1.
    pub n: u64,
}

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.queue, self.epoch.0, self.n)
    }
}

impl FromStr for OfferId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::Form { what: "offer", text: cut(text) };
        let mut parts = text.rsplitn(3, ':');
        let n = parts.next().and_then(|p| p.parse().ok()).ok_or_else(malformed)?;
        let epoch = parts.next().and_then(|p| p.parse().ok()).ok_or_else(malformed)?;
        Ok(Self { queue: parts.next().ok_or_else(malformed)?.parse()?, epoch: Epoch(epoch), n })
    }
}

text_serde!(OfferId);

/// A recording of a call: `{call}-r{n}`, n counting from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordingId {
    /// The recorded call.
    pub call: CallId,
    /// Order within the call.
    pub index: u16,
}

impl fmt::Display for RecordingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-r{}", self.call, self.index)
    }
}

impl FromStr for RecordingId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::Form { what: "recording", text: cut(text) };
        let (call, index) = text.split_once("-r").ok_or_else(malformed)?;
        Ok(Self { call: call.parse()?, index: index.parse().map_err(|_| malformed())? })
    }
}

text_serde!(RecordingId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_carries_its_shard_and_its_time() {
        let shard = ShardId::new(4_095).unwrap();
        let now = Timestamp::from_millis(1_795_000_000_123);
        let id = CallId::mint(shard, now, u128::MAX);
        assert_eq!((id.shard(), id.minted_at()), (shard, now));
        assert_eq!(id.to_string().parse::<CallId>(), Ok(id));
    }

    #[test]
    fn ids_read_back_what_they_print() {
        let call = CallId::mint(ShardId::new(7).unwrap(), Timestamp::from_millis(1), 2);
        let leg = LegId { call, index: 3 };
        assert_eq!(leg.to_string().parse(), Ok(leg));
        let recording = RecordingId { call, index: 1 };
        assert_eq!(recording.to_string().parse(), Ok(recording));
        let offer = OfferId { queue: "support".parse().unwrap(), epoch: Epoch(9), n: 11 };
        assert_eq!(offer.to_string().parse(), Ok(offer));
    }

    #[test]
    fn names_that_could_break_a_key_or_a_page_are_refused() {
        for bad in ["", "Support", "a b", "-x", "a/b", "<b>", "a:b", &"x".repeat(65)] {
            assert!(bad.parse::<QueueId>().is_err(), "{bad:?}");
        }
        for malformed in ["", "0", "zzzzzzzzzzzzzzzzzzzzzzzzzz", "ilou0000000000000000000000"] {
            assert!(malformed.parse::<CallId>().is_err(), "{malformed:?}");
        }
    }
}
