use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use trunkline_proto::common::v1::Envelope;
use trunkline_types::{ShardId, Timestamp};

/// Where an envelope comes from, which says how far it may still go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From this node.
    Here,
    /// From another node that took this one for the owner: it may be passed on, once.
    Passed,
    /// Passed on already: it is taken here or lost.
    Last,
}

/// An envelope as it travels: encoded once, kept until it is acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    pub(crate) bytes: Bytes,
    /// The shard of the entity that it is for; `None` = a role of a node.
    pub(crate) shard: Option<ShardId>,
    /// By this node's clock: not worth sending afterwards.
    pub(crate) until: Timestamp,
    /// Whether another node may be tried when the shard has moved.
    pub(crate) origin: Origin,
}

impl Parcel {
    /// Encodes `envelope`.
    pub(crate) fn new(envelope: &Envelope, shard: Option<ShardId>, until: Timestamp, origin: Origin) -> Self {
        Self { bytes: envelope.encode_to_vec().into(), shard, until, origin }
    }

    /// What was encoded.
    pub(crate) fn open(&self) -> Option<Envelope> {
        Envelope::decode(self.bytes.clone()).ok()
    }
}

/// When an envelope is not worth anything any more: at its deadline, or after `longest` when it has none.
pub(crate) fn until(envelope: &Envelope, now: Timestamp, longest: Duration) -> Timestamp {
    match envelope.deadline_us {
        0 => now.plus(longest),
        deadline => Timestamp::from_micros(deadline),
    }
}
