//! Load on a contact centre from outside: callers over SIP, agents over the agent protocol, and what the server process
//! spends on them.
//!
//! Imports nothing of the system: its SIP and its agents are written apart, so that they are one more peer. It refuses
//! to be a telephone: one codec, no authentication, UDP and IPv4 on loopback. Memory and processor time are read from
//! /proc, so it runs on Linux, beside the server.

mod agents;
mod args;
mod callers;
mod report;
mod scenario;
mod server;
mod sip;

use anyhow::Result;
use clap::Parser;

#[tokio::main]
async fn main() -> Result<()> {
    let cli = args::Cli::parse();
    scenario::run(cli).await
}
