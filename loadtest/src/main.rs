//! The command line of the load generator.

use std::process::ExitCode;

use clap::Parser;
use trunkline_loadtest::{args::Cli, command, report};

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(command::run(Cli::parse())).await {
        Ok(code) => code,
        Err(error) => {
            report::note(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
