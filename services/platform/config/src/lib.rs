//! Configuration: files, environment and flags become one tree, from which each role takes its section as a typed struct.
//!
//! Owns the merge ([`Loader`]), the errors that lead to the mistake (file and line, key, nearest known key), and the value
//! types that configuration is written in ([`Secret`], [`Span`], [`PortRange`], [`Listen`], [`HostPort`]). Each role owns
//! its `Config` struct (`#[serde(default, deny_unknown_fields)]`, defaults documented) and validates it further itself.
//! Used by `daemon`; queues, agents, flows and trunks are not configuration in this sense but documents in the journal.
//!
//! Later layers win: files in the order given, then `TRUNKLINE_…` variables, then flags. A variable names a key by its path
//! with two underscores between the parts: `TRUNKLINE_MEDIA__RTP_PORTS` is `media.rtp_ports`, `TRUNKLINE__LOG` the top-level
//! `log`. Variables without two underscores are not ours (Kubernetes injects `TRUNKLINE_EDGE_SERVICE_HOST` and the like).
//!
//! It refuses unknown keys and never prints a secret.

mod error;
mod line;
mod loader;
mod value;

pub use error::{ConfigError, Origin};
pub use loader::Loader;
pub use value::{HostPort, Listen, PortRange, Secret, Span, Transport, ValueError};
