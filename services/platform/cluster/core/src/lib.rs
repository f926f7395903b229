//! The coordination of a cluster as a machine: who owns which shard, who is dead, and what this node has to do about it.
//!
//! Owns the assignment table and its form in the store, the coordinator's planning, the judgement on lost nodes, and a
//! node's way from "the table names me" to "I act" and back. [`Machine::handle`] takes what has happened and the time since
//! the start, and says what is to be done; `trunkline-cluster` carries it out against etcd, the journal and the other
//! nodes, and tests run many machines against a model of all three. No I/O, no clock, no randomness.
//!
//! What is kept where:
//! - A *life* of a node ([`NodeIdentity`]) is one process. A lost lease ends a registration, not a life: the process
//!   registers again and keeps what nobody took meanwhile. That is why an outage of the store moves nothing.
//! - The *table* says who should own a shard ([`Assignment`]), written by the coordinator alone. Each change of owner is a
//!   *turn*. Its writes compare its election and the revision of the block.
//! - *Holdings* say what an owner has sealed and rebuilt, and at which epoch, written by that node alone under its lease: one
//!   write a node, however many blocks its shards are in, and no writer ever waits for another.
//! - Neither is a lock. A shard's owner is who sealed it last in the journal.
//!
//! When a lease is lost, the node is dead only when it is not reached directly either. When more than a fifth of the members
//! (and at least two) are lost together, only after a further life of a lease. A node that two observers do not reach is
//! taken out before its lease ends.

mod codec;
mod coordinator;
mod holder;
mod machine;
mod map;
mod members;
mod message;
mod moves;
mod node;
mod observer;
mod plan;
mod policy;
mod table;

pub use codec::CodecError;
pub use machine::Machine;
pub use map::{Map, Seen};
pub use members::{Members, Presence};
pub use message::{Effect, Holding, Input};
pub use moves::Move;
pub use node::{Incarnation, MapRevision, NodeIdentity, NodeInfo, NodeRecord, Owner, Role, RoleError};
pub use plan::{Candidate, Change, Limits, Placed, Reason, Standing, plan, score};
pub use policy::Policy;
pub use table::{
    Assignment, BLOCK_SHARDS, BLOCKS, Block, HeldShard, Holdings, block_of, place_of, shards_of,
};
