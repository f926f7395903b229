use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{dev, dev_call};

/// Trunkline, a contact-centre cluster: calls, agents and queues as actors that survive the loss of a node.
#[derive(Parser)]
#[command(name = "trunkline", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every role on this machine, with embedded coordination, journal and sample data.
    Dev(DevArgs),
}

/// `trunkline dev`
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,

    #[command(flatten)]
    pub run: DevRun,
}

#[derive(Subcommand)]
enum DevCommand {
    /// Place real SIP calls with real RTP to a running system and say what happens to each.
    Call(dev_call::DevCallArgs),
}

/// What `trunkline dev` can be told. Flags win over the environment (TRUNKLINE_SIP__LISTEN, ...), which wins over the
/// file.
#[derive(Args, Clone, Debug)]
pub struct DevRun {
    /// Where SIP is taken, UDP and TCP [default: 127.0.0.1:5060]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub sip: Option<SocketAddr>,

    /// Where the web clients and the API are served [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<SocketAddr>,

    /// Where Prometheus finds the metrics [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,

    /// UDP ports for RTP [default: 40000-40999]
    #[arg(long, value_name = "FIRST-LAST")]
    pub rtp: Option<String>,

    /// Keep everything here and find it again after a restart; without it everything is temporary
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// A configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The recogniser that transcribes calls, for example the reference one: `cargo xtask recogniser`
    #[arg(long, value_name = "http://HOST:PORT")]
    pub recogniser: Option<String>,

    /// Add this many agents agent-001, agent-002, ... (password agent-001-dev, ...), for load tests
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2_000))]
    pub agents: u32,

    /// Send traces there by OTLP over gRPC
    #[arg(long, value_name = "http://HOST:PORT")]
    pub otlp: Option<String>,

    /// What is logged, as in RUST_LOG
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Does what was typed.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Dev(DevArgs { command: Some(DevCommand::Call(args)), .. }) => dev_call::run(args).await,
        Command::Dev(DevArgs { run, .. }) => dev::run(run).await,
    }
}
