//! How rooms reach each other: the bus that carries envelopes to actors and roles on any node, the node's gRPC server,
//! channels to other nodes' services, and the one mapping of error kinds to gRPC and HTTP.
//!
//! Owns delivery: where an address lives (a role on a node, or an entity by its shard), links between nodes, deadlines,
//! refusals, and the certificates between nodes. Refuses to wait: `send` never blocks and never queues without bound; what
//! cannot be taken is refused, and the sender's core sends it again or tells the caller. Called by every shell; wired by
//! the daemon.
//!
//! Between two actors of one node an envelope moves as it is; between nodes it is the same message on a link. What a link
//! promises:
//! - **In order, once.** Each pair of nodes has one link for each lane and direction. Envelopes are numbered and kept until
//!   they are acknowledged; after a reconnect they are sent again and the receiver drops what it has. (Over the loss of a
//!   node, delivery is at least once: what a vanished owner has not acknowledged goes to its successor.)
//! - **Where the map says.** When a shard moves, what waits for it goes to the new owner; a former owner passes on, once,
//!   what still comes, and tells the sender. While nobody owns a shard, envelopes for it wait for some seconds.
//! - **Bounded.** Queues are limited by number and bytes, envelopes by their deadlines; what is dropped is counted.
//! - **Clocks may disagree.** Deadlines are moved by the difference that the sender's clock shows.
//!
//! Nothing is delivered for certain: whoever needs an answer sends again until it has one.

mod address;
mod bus;
mod channels;
mod dial;
mod error;
mod lane;
mod link;
mod local;
mod metrics;
mod peers;
mod route;
mod server;
mod stream;
mod tls;
mod trace;

pub use address::{AddressError, entity, from_proto, node, to_proto};
pub use bus::{Bus, Deliver, Refused};
pub use channels::{Channels, NoSuchNode};
pub use dial::{DialError, dial};
pub use error::ErrorKind;
pub use link::LinkOptions;
pub use local::{LocalServer, serve_in_process};
pub use metrics::{BusMetrics, TlsMetrics};
pub use peers::Peers;
pub use server::{InProcess, NodeServer};
pub use tls::{Tls, TlsConfig, TlsError};
pub use trace::{Traced, server_span};
