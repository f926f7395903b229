//! How rooms reach each other: the bus that carries envelopes to actors and roles, channels to gRPC services, and the
//! one mapping of error kinds to gRPC and HTTP.
//!
//! Owns delivery: where an address lives (a role on this node, or an entity by its shard), deadlines, refusals. Refuses to wait: `send`
//! never blocks and never queues without bound; what cannot be taken is refused, and the sender's core sends it again
//! or tells the caller. Called by every shell; wired by the daemon.
//!
//! Between two actors of one node an envelope moves as it is; between nodes it is the same message on a stream.

mod address;
mod bus;
mod error;
mod local;
mod metrics;
mod trace;

pub use address::{AddressError, entity, from_proto, node, to_proto};
pub use bus::{Bus, Deliver, Refused};
pub use error::ErrorKind;
pub use local::{LocalServer, serve_in_process};
pub use metrics::BusMetrics;
pub use trace::{Traced, server_span};
