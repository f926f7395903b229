use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CallId, TenantId};

/// Number of virtual shards, fixed for the life of a cluster.
pub const SHARD_COUNT: u16 = 4_096;

/// One of the [`SHARD_COUNT`] virtual shards: the unit of ownership, fencing and recovery.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(u16);

impl ShardId {
    /// `None` when `index` is not below [`SHARD_COUNT`].
    pub const fn new(index: u16) -> Option<Self> {
        if index < SHARD_COUNT { Some(Self(index)) } else { None }
    }

    /// The index, `0..SHARD_COUNT`.
    pub const fn index(self) -> u16 {
        self.0
    }

    /// All shards in ascending order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARD_COUNT).map(Self)
    }

    /// The group, which says what kind of entity lives in this shard and which role may own it.
    pub const fn group(self) -> ShardGroup {
        if self.0 < ACD_SHARDS { ShardGroup::Acd } else { ShardGroup::Call }
    }

    /// `hash(kind, tenant, id)` modulo the size of the kind's group, by 64-bit FNV-1a, which is stable across versions and
    /// machines.
    pub fn of(kind: EntityKind, tenant: &TenantId, id: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |bytes: &[u8]| {
            for byte in bytes.iter().chain(&[0xff]) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        eat(kind.as_str().as_bytes());
        eat(tenant.as_str().as_bytes());
        eat(id.as_bytes());
        // FNV's low bits mix poorly for short keys: fold the high half in.
        let folded = hash ^ (hash >> 32);
        let (first, count) = kind.group().range();
        Self(first + (folded % u64::from(count)) as u16)
    }
}

/// Shards of [`ShardGroup::Acd`]; the rest are of [`ShardGroup::Call`].
pub const ACD_SHARDS: u16 = 1_024;

/// Which role may own a shard. Nodes with one of the two roles only own shards of that group, so that each shard has one
/// owner and one epoch whatever roles the nodes have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardGroup {
    /// Queues, agents and telephones: shards below [`ACD_SHARDS`].
    Acd,
    /// Calls: the other shards.
    Call,
}

impl ShardGroup {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Acd, Self::Call];

    /// The first shard's index and how many there are.
    pub const fn range(self) -> (u16, u16) {
        match self {
            Self::Acd => (0, ACD_SHARDS),
            Self::Call => (ACD_SHARDS, SHARD_COUNT - ACD_SHARDS),
        }
    }

    /// Its shards in ascending order.
    pub fn shards(self) -> impl Iterator<Item = ShardId> {
        let (first, count) = self.range();
        (first..first + count).map(ShardId)
    }

    /// The name in keys, in metrics and on pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acd => "acd",
            Self::Call => "call",
        }
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The generation of a shard's ownership. Raised by the journal each time a new owner seals the shard; every write
/// and every command carries it, and lower ones are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// What kinds of entity are placed by shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityKind {
    /// A call, end to end.
    Call,
    /// A queue: the authority on its queued calls.
    Queue,
    /// A human agent: the authority on the agent's slot.
    Agent,
    /// A telephone's account: the authority on where it can be reached.
    Telephone,
}

impl EntityKind {
    /// The name used in addresses, in the journal and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Queue => "queue",
            Self::Agent => "agent",
            Self::Telephone => "telephone",
        }
    }

    /// The group of shards that entities of this kind live in.
    pub const fn group(self) -> ShardGroup {
        match self {
            Self::Call => ShardGroup::Call,
            Self::Queue | Self::Agent | Self::Telephone => ShardGroup::Acd,
        }
    }

    /// The inverse of [`EntityKind::as_str`].
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "call" => Some(Self::Call),
            "queue" => Some(Self::Queue),
            "agent" => Some(Self::Agent),
            "telephone" => Some(Self::Telephone),
            _ => None,
        }
    }
}

/// Where an entity lives: its kind, tenant and id; the shard follows from them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EntityAddress {
    /// Kind of entity.
    pub kind: EntityKind,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Id within kind and tenant, in its text form.
    pub id: String,
}

impl EntityAddress {
    /// Address of a call.
    pub fn call(tenant: &TenantId, id: CallId) -> Self {
        Self { kind: EntityKind::Call, tenant: tenant.clone(), id: id.to_string() }
    }

    /// Address of a queue.
    pub fn queue(tenant: &TenantId, id: &crate::QueueId) -> Self {
        Self { kind: EntityKind::Queue, tenant: tenant.clone(), id: id.to_string() }
    }

    /// Address of an agent.
    pub fn agent(tenant: &TenantId, id: &crate::AgentId) -> Self {
        Self { kind: EntityKind::Agent, tenant: tenant.clone(), id: id.to_string() }
    }

    /// Address of a telephone's account.
    pub fn telephone(tenant: &TenantId, id: &crate::TelephoneId) -> Self {
        Self { kind: EntityKind::Telephone, tenant: tenant.clone(), id: id.to_string() }
    }

    /// The shard: inside the id for calls, by hash for the rest.
    pub fn shard(&self) -> ShardId {
        match self.kind {
            EntityKind::Call => match self.id.parse::<CallId>() {
                Ok(call) => call.shard(),
                Err(_) => ShardId::of(self.kind, &self.tenant, &self.id),
            },
            _ => ShardId::of(self.kind, &self.tenant, &self.id),
        }
    }
}

impl fmt::Display for EntityAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.as_str(), self.tenant, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_same_for_ever() {
        let tenant: TenantId = "default".parse().unwrap();
        assert_eq!(
            ShardId::of(EntityKind::Queue, &tenant, "support"),
            ShardId::of(EntityKind::Queue, &tenant, "support")
        );
        assert_ne!(
            ShardId::of(EntityKind::Queue, &tenant, "support"),
            ShardId::of(EntityKind::Agent, &tenant, "support")
        );
    }

    #[test]
    fn shards_of_a_group_are_used_evenly() {
        let tenant: TenantId = "default".parse().unwrap();
        for (kind, group) in [(EntityKind::Agent, ShardGroup::Acd), (EntityKind::Call, ShardGroup::Call)] {
            let (first, count) = group.range();
            let mut counts = vec![0u32; usize::from(SHARD_COUNT)];
            for n in 0..100 * u32::from(count) {
                let shard = ShardId::of(kind, &tenant, &format!("entity-{n}"));
                assert_eq!(shard.group(), group);
                counts[usize::from(shard.index())] += 1;
            }
            // Mean 100, standard deviation 10: six deviations either side.
            let used = &counts[usize::from(first)..usize::from(first + count)];
            assert!(
                used.iter().all(|c| (40..=160).contains(c)),
                "{:?}",
                (used.iter().min(), used.iter().max())
            );
        }
    }

    #[test]
    fn groups_cover_all_shards_once() {
        let grouped: Vec<ShardId> = ShardGroup::ALL.into_iter().flat_map(ShardGroup::shards).collect();
        assert_eq!(grouped, ShardId::all().collect::<Vec<_>>());
    }
}
