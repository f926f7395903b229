//! The words every room shares: ids, addresses, time, numbers, release causes and the shape of a state machine.
//!
//! Owns nothing that decides. Refuses I/O, clocks and randomness: whoever mints an id passes time and entropy in.
//! Used by every crate of the workspace; depends on none of them.

mod cause;
mod feature;
mod id;
mod machine;
mod number;
mod shard;
mod time;

pub use cause::{Fault, ReleaseCause};
pub use feature::Feature;
pub use id::{
    AgentId, CallId, FlowId, IdError, LegId, NodeId, OfferId, QueueId, RecordingId, TelephoneId, TenantId,
};
pub use machine::{Machine, Outbox, Output};
pub use number::{DialString, E164, NumberError, mask_number};
pub use shard::{ACD_SHARDS, EntityAddress, EntityKind, Epoch, SHARD_COUNT, ShardGroup, ShardId};
pub use time::Timestamp;
