//! The journal in PostgreSQL against the contract, on a real server that the tests start, and what only a server can do
//! to a journal.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "postgres/contract.rs"]
mod contract;
#[path = "postgres/nodes.rs"]
mod nodes;
#[path = "postgres/outage.rs"]
mod outage;
#[path = "postgres/proxy.rs"]
mod proxy;
#[path = "postgres/support.rs"]
mod support;
