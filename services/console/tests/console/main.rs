//! The console against real HTTP and WebSocket clients on loopback, with a fake agent port and an in-process records
//! role.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests say what they expect by panicking")]

mod cluster;
mod live;
mod people;
mod recordings;
mod rights;
mod server;
mod socket;
mod support;
