//! The command line of the load generator.

use anyhow::Result;
use clap::Parser;
use trunkline_loadtest::{args::Cli, scenario};

#[tokio::main]
async fn main() -> Result<()> {
    scenario::run(Cli::parse()).await
}
