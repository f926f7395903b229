//! The seeded simulator: real cores on a virtual network and a virtual clock.
//!
//! Owns the schedules (loss, duplication, reordering, delays, pauses, crashes, commit latency, fenced zombies), small
//! models of what is around the cores (callers, humans at consoles) and a checker that knows promises only, nothing of
//! how they are kept. Refuses threads, real time and outside randomness: one seed is one schedule, for ever. Called by
//! its own tests; nothing that is shipped depends on it.
//!
//! A failing seed prints itself; `TRUNKLINE_SEED=n cargo test -p trunkline-simulation replay -- --nocapture` runs it
//! again with its trace.

pub mod acd;
pub mod cluster;
mod rng;
pub mod runner;

pub use rng::Rng;
