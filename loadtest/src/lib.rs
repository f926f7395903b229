//! Load on a contact centre from outside: callers over SIP, agents over the agent protocol, and what the server process
//! spends on them.
//!
//! Imports nothing of the system: its SIP and its agents are written apart, so that they are one more peer. It refuses
//! to be a telephone: one codec, no authentication, UDP and IPv4. Memory and processor time are read from /proc, so it runs
//! on Linux, beside the server. The fault suite uses its callers as a library.

pub mod agents;
pub mod args;
pub mod callee;
pub mod callers;
pub mod command;
pub mod dtmf;
pub mod load;
pub mod measure;
pub mod phone;
pub mod report;
pub mod rtp;
pub mod run;
pub mod scenario;
pub mod sip;
pub mod system;
