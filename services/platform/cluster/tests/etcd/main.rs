//! Proves placement against real etcd: three members as processes of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod contract;
mod faults;
mod gate;
mod life;
mod nodes;
mod secure;
