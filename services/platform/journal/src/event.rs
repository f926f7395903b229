use std::{borrow::Cow, fmt, str::FromStr, time::SystemTime};

use bytes::Bytes;
use trunkline_types::{EntityAddress, Epoch, ShardId, TenantId, Timestamp};

/// Events that one append may carry at most.
pub const MAX_EVENTS_PER_APPEND: usize = 1_024;
/// Bytes of payload that one append may carry at most.
pub const MAX_APPEND_BYTES: usize = 1 << 20;
/// Longest name of an event kind, in bytes.
pub const MAX_KIND_BYTES: usize = 64;

/// A decision to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Its kind, `room.past_participle` (`queue.committed`); at most [`MAX_KIND_BYTES`] bytes.
    pub kind: Cow<'static, str>,
    /// Version of the payload's schema; schemas only ever grow.
    pub version: u16,
    /// When the decision was made.
    pub at: Timestamp,
    /// The encoded event (protobuf in this project); opaque here.
    pub payload: Bytes,
    /// Whether it is the last event of its entity: start-up does not look at finished entities again.
    pub last: bool,
}

impl NewEvent {
    /// An event that does not end its entity.
    pub fn new(kind: &'static str, version: u16, at: Timestamp, payload: impl Into<Bytes>) -> Self {
        Self { kind: Cow::Borrowed(kind), version, at, payload: payload.into(), last: false }
    }
}

/// A committed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Place in the commit order of the whole journal: it rises, and does not go back when the store moves elsewhere. Not
    /// dense where several nodes write.
    pub position: u64,
    /// The entity's shard.
    pub shard: ShardId,
    /// Place within the shard, from 1, dense.
    pub seq: u64,
    /// The epoch at which the shard's owner wrote it.
    pub epoch: Epoch,
    /// The entity that decided; its tenant is inside.
    pub entity: EntityAddress,
    /// Place within the entity, from 1, dense.
    pub nth: u64,
    /// See [`NewEvent::kind`].
    pub kind: Cow<'static, str>,
    /// See [`NewEvent::version`].
    pub version: u16,
    /// See [`NewEvent::at`].
    pub at: Timestamp,
    /// See [`NewEvent::payload`].
    pub payload: Bytes,
    /// See [`NewEvent::last`].
    pub last: bool,
}

/// Events of one entity that are committed together or not at all.
#[derive(Debug, Clone)]
pub struct Append {
    /// Whose events; the shard follows from it.
    pub entity: EntityAddress,
    /// The epoch at which the writer owns the shard.
    pub epoch: Epoch,
    /// How many events of this entity the decisions build on. An append that was sent behind one that failed is
    /// refused by this, so that an entity's history never has a hole; so is a second writer of the same entity.
    pub after: u64,
    /// 1 to [`MAX_EVENTS_PER_APPEND`] events.
    pub events: Vec<NewEvent>,
}

impl Append {
    /// Why it cannot be stored, if so.
    pub(crate) fn defect(&self) -> Option<String> {
        let bytes: usize = self.events.iter().map(|event| event.payload.len()).sum();
        let ends_early = self.events.iter().rev().skip(1).any(|event| event.last);
        let bad_kind = self.events.iter().find(|e| e.kind.is_empty() || e.kind.len() > MAX_KIND_BYTES);
        if self.events.is_empty() || self.events.len() > MAX_EVENTS_PER_APPEND {
            Some(format!("events: {} given, 1 to {MAX_EVENTS_PER_APPEND} are allowed", self.events.len()))
        } else if bytes > MAX_APPEND_BYTES {
            Some(format!("payloads: {bytes} bytes together, {MAX_APPEND_BYTES} are allowed"))
        } else if let Some(event) = bad_kind {
            Some(format!("kind {:?}: 1 to {MAX_KIND_BYTES} bytes are allowed", event.kind))
        } else if self.entity.id.contains('\0') {
            Some("entity: its name contains the character NUL, which no store keeps".to_owned())
        } else if ends_early {
            Some("last: only the final event of an append may end its entity".to_owned())
        } else {
            None
        }
    }

    /// What it holds in memory while it waits, roughly, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.events.iter().map(|event| event.payload.len() + 96).sum::<usize>() + 256
    }
}

/// Where an append was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Place of its first event within the shard.
    pub first_seq: u64,
    /// Place of its last event within the shard.
    pub last_seq: u64,
    /// Place of its last event in the whole journal.
    pub position: u64,
}

/// Names one emission of an effect: which shard at which epoch, after which committed event (`seq`, 0 before the
/// first), and a counter that makes it unique. A retry of the emission carries the same id, so receivers can drop
/// duplicates of it. What a core sends again by its own decision (a time-out, a recovery) is a new emission: such
/// effects carry domain ids (offer, leg, command) besides, and receivers are idempotent on those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId {
    /// The emitting entity's shard.
    pub shard: ShardId,
    /// The emitter's epoch.
    pub epoch: Epoch,
    /// The last committed event of the entity before the effect, within the shard; 0 when there was none.
    pub seq: u64,
    /// Counts emissions of the process.
    pub i: u64,
}

impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.shard.index(), self.epoch.0, self.seq, self.i)
    }
}

/// A text is not `shard:epoch:seq:i`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("effect id {0:?} is malformed: expected shard:epoch:seq:i")]
pub struct EffectIdError(String);

impl FromStr for EffectId {
    type Err = EffectIdError;
    fn from_str(text: &str) -> Result<Self, EffectIdError> {
        let malformed = || EffectIdError(text.chars().take(80).collect());
        let mut parts = text.split(':').map(|part| part.parse::<u64>().ok());
        let mut next = || parts.next().flatten().ok_or_else(malformed);
        let shard = u16::try_from(next()?).ok().and_then(ShardId::new).ok_or_else(malformed)?;
        let id = Self { shard, epoch: Epoch(next()?), seq: next()?, i: next()? };
        if parts.next().is_some() { Err(malformed()) } else { Ok(id) }
    }
}

/// A core's state after its `nth` event, so that recovery need not replay all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// How many events of the entity are in it.
    pub nth: u64,
    /// Version of the body's schema.
    pub version: u16,
    /// The encoded state; opaque here.
    pub body: Bytes,
}

/// What recovery of one entity starts from.
#[derive(Debug, Clone, Default)]
pub struct EntityHistory {
    /// The newest snapshot, if there is one.
    pub snapshot: Option<Snapshot>,
    /// The events after the snapshot, in order.
    pub events: Vec<StoredEvent>,
    /// Events of the entity in all, those within the snapshot included: `after` of the next append. 0 = unknown entity.
    pub count: u64,
    /// The place of its last event within the shard; 0 for an unknown entity.
    pub last_seq: u64,
    /// Whether its last event ended it.
    pub finished: bool,
}

/// Names a versioned configuration document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// What it configures (`queue`, `agent`, `flow`, `trunk`).
    pub kind: Cow<'static, str>,
    /// Its name within tenant and kind.
    pub id: String,
}

impl DocumentKey {
    /// Puts the parts together.
    pub fn new(tenant: &TenantId, kind: impl Into<Cow<'static, str>>, id: impl Into<String>) -> Self {
        Self { tenant: tenant.clone(), kind: kind.into(), id: id.into() }
    }
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.kind, self.id)
    }
}

/// One immutable version of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Which document.
    pub key: DocumentKey,
    /// The journal-wide revision at which this version was written.
    pub revision: u64,
    /// When it was written.
    pub at: Timestamp,
    /// The content.
    pub body: serde_json::Value,
}

/// Document versions carry the time of writing for people; nothing is decided by it.
pub(crate) fn written_at() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effect_ids_read_back_what_they_print() {
        let id = EffectId { shard: ShardId::new(4_095).unwrap(), epoch: Epoch(3), seq: 17, i: u64::MAX };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1:2:3", "4096:1:1:1", "1:2:3:4:5", "a:b:c:d"] {
            assert!(bad.parse::<EffectId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_append_that_cannot_be_stored_says_which_part() {
        let entity = EntityAddress::queue(&"default".parse().unwrap(), &"q".parse().unwrap());
        let event = NewEvent::new("q.e", 1, Timestamp::ZERO, &b"x"[..]);
        let append = |events| Append { entity: entity.clone(), epoch: Epoch(1), after: 0, events };
        assert_eq!(append(vec![event.clone()]).defect(), None);
        assert!(append(vec![]).defect().unwrap().starts_with("events"));
        let early = NewEvent { last: true, ..event.clone() };
        assert!(append(vec![early, event.clone()]).defect().unwrap().starts_with("last"));
        let big = NewEvent { payload: vec![0; MAX_APPEND_BYTES + 1].into(), ..event.clone() };
        assert!(append(vec![big]).defect().unwrap().starts_with("payloads"));
        let nameless = NewEvent { kind: "".into(), ..event };
        assert!(append(vec![nameless]).defect().unwrap().starts_with("kind"));
    }
}
