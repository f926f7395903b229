//! Folds of the journal: pure, so that the same events give the same numbers wherever and whenever they are read.

mod agent;
pub mod contact;
mod counters;
mod timeline;

pub use agent::{AgentState, Conversation, Handled};
pub use counters::Counters;
