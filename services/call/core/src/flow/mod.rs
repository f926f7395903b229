//! Flows (IVR): what a caller hears and may key before a queue takes over.
//!
//! A flow is YAML text, described by [`FLOW_SCHEMA`] and read by [`Flow::parse`], which finds all mistakes at once and
//! names node and field of each. A version of a flow never changes; a call keeps the version that it began.
//!
//! ```yaml
//! flow: menu
//! start: greeting
//! nodes:
//!   greeting: { play: { prompts: [greeting], next: menu } }
//!   menu:
//!     menu:
//!       prompts: [menu]
//!       choices: { "1": support, "2": sales }
//!       tries: 3
//!       on_invalid: support
//!       on_timeout: bye
//!   support: { enqueue: { queue: support } }
//!   sales: { enqueue: { queue: sales } }
//!   bye: { hangup: { prompts: [goodbye] } }
//! ```

mod check;
mod model;
mod parse;
mod raw;
mod run;
mod value;

#[cfg(test)]
mod tests;

pub use model::{Branch, Collect, Enqueue, Flow, Hangup, Menu, Node, NodeId, NodeKind, Play, Set};
pub use parse::{FlowError, FlowProblem};
pub(crate) use run::FlowRun;
pub use value::{MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_VALUE, MAX_ATTRIBUTES, Text};

/// The JSON schema of a flow (2020-12), as published.
pub const FLOW_SCHEMA: &str = include_str!("flow.schema.json");
