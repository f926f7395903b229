//! What an operator does with Trunkline, done by tests: look at it, find what is wrong, save it, restore it.
//!
//! Owns: [`lab`] (a cluster of real processes on which this is done, with everything that can be taken away from it),
//! [`store`] (where its recordings are, and copies of them), and [`observe`] (what Prometheus, dashboards and traces show of a loaded system). Imports nothing of `services`: what is seen
//! here is what an operator sees.
//!
//! Refuses: to skip a test because a program is missing (it fails and names the program), and to sleep: every wait is
//! for a condition and has a deadline. The labs need root, for network namespaces.

pub mod lab;
pub mod observe;
pub mod store;
