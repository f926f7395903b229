//! Actors: the thin shells in which the pure cores live. The only crate that imports actix.
//!
//! Owns the arbiters (one thread each; a shard is pinned to `shard mod n`), the process's clock ([`now`]), bounded
//! admission ([`Handle`]) and the journalled host of entities ([`Host`], [`Behaviour`]). Who calls it: the shells of calls,
//! queues and agents, and whoever delivers messages to them.
//!
//! What the host promises:
//! - **Commit, then act.** An actor advances its core, appends the events and goes on; effects wait, in order, until the
//!   events before them are committed. If a commit fails or is fenced, the actor ends and its state is discarded: nothing
//!   of it has been seen outside.
//! - **Recovery is replay.** An entity is rebuilt from its events with outputs muted, then takes over by
//!   [`trunkline_types::Machine::recovered`]. A panic in a core kills that entity only; it comes back from the journal.
//! - **Bounded.** Each entity admits a limited number of messages (waiting ones and those whose commit is under way); more
//!   are [`Refused`], for the caller to answer 503. actix's own mailbox capacity is no bound: each clone of an address has
//!   one guaranteed slot, and `do_send` ignores the capacity, which is why senders pass through our permits.
//! - **One epoch an activation.** An actor acts at the epoch at which its shard was sealed when it was started. When the
//!   shard is let go ([`Host::release`]) it commits what is under way and ends; when the shard comes back at a higher
//!   epoch, whatever is left of a former one is discarded.
//! - **Deadline order.** actix drains a mailbox before it runs timers, so each message first advances the core to now:
//!   decisions are in the order of their deadlines even when the timer itself was late. It is late on purpose, by less than
//!   100 ms, for deadlines more than 5 s away: they are met together with others'.
//!
//! It refuses per-packet work, SIP transaction timers, and requests that block an arbiter.

mod activation;
mod arbiters;
mod behaviour;
mod clock;
mod entity;
mod handle;
mod host;
mod metrics;
mod registry;
mod release;
mod tenure;

pub use arbiters::{ArbiterError, Arbiters};
pub use behaviour::{Behaviour, CommitClass, DecodeError};
pub use clock::{follow, now};
pub use handle::{Handle, Refused};
pub use host::{Activation, Host, HostBuilder, HostOptions, Lost, Undeliverable};
pub use metrics::ActorMetrics;
pub use trunkline_journal::EffectId;
