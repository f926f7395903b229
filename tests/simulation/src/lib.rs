//! The seeded simulator: real cores on a virtual network and a virtual clock.
//!
//! Owns the schedules (loss, duplication, reordering, delays, pauses, crashes, commit latency, fenced zombies), small
//! models of what is around the cores (callers, humans at consoles) and a checker that knows promises only, nothing of
//! how they are kept. Refuses real time, outside randomness and threads within a schedule: one seed is one schedule, for
//! ever. Called by its own tests and by `simulate`; nothing that is shipped depends on it.
//!
//! `cargo run --profile simulation -p trunkline-simulation --bin simulate` is the long form (100,000 seeds on all
//! processors). A failing seed prints itself; `TRUNKLINE_SEED=n cargo test -p trunkline-simulation replay -- --nocapture`
//! runs it again with its trace.

pub mod acd;
pub mod cluster;
mod rng;
pub mod runner;

pub use rng::Rng;
