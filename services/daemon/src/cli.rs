use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{command, config::NodeSection, dev, dev_call, run};

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
    Dev(Box<DevArgs>),
    /// Run a node: alone, or as a member of a cluster when the configuration has a `cluster` section.
    Run(RunArgs),
    /// Show the cluster: members, shards, epochs, drains, moves.
    Cluster(ClusterArgs),
    /// Empty a node: it takes no new calls, its shards move to others. It keeps running until it is stopped.
    Drain(DrainArgs),
    /// Let a drained node work again.
    Undrain(DrainArgs),
    /// Place one call to a running system and listen: fails unless it is answered and heard.
    Call(command::call::CallArgs),
    /// Look at configuration files.
    Config(ConfigArgs),
    /// Show which telephones are registered: where each is, through which edge, until when.
    Telephones(TelephonesArgs),
    /// Write and read queues, agents, accounts, telephones, numbers and flows.
    Documents(command::documents::DocumentsArgs),
    /// Look for what is wrong with this machine, its configuration and the cluster, with a remedy for each finding.
    Doctor(DoctorArgs),
    /// Collect what support needs to find a fault, without secrets and with numbers masked.
    SupportBundle(BundleArgs),
    /// Show what to do when an alert fires; without a name, list the pages.
    Runbook(RunbookArgs),
    /// Verify a restored journal and its recordings, and let the cluster begin anew on them.
    Restore(RestoreArgs),
}

/// `trunkline doctor`
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// A node's configuration file; without it the defaults of `trunkline dev` are examined
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Ask every member of the cluster too
    #[arg(long, requires = "config")]
    pub cluster: bool,

    /// Ask this STUN server how the world sees this machine (may be given twice, to tell how ports are translated)
    #[arg(long, value_name = "HOST:PORT")]
    pub stun: Vec<String>,

    /// Tell it as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// `trunkline support-bundle`
#[derive(Args, Clone, Debug)]
pub struct BundleArgs {
    /// A node's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Where the bundle goes; must not be there yet. `-` is standard output: `kubectl exec ... > bundle.tar.gz`
    #[arg(long, value_name = "FILE.tar.gz")]
    pub out: PathBuf,

    /// Add the record, the events and the decisions of this call
    #[arg(long, value_name = "ID")]
    pub call: Option<String>,

    /// Add the end of this log file (may be repeated), `-` is standard input; without it the journal of systemd is asked
    #[arg(long, value_name = "FILE")]
    pub log_file: Vec<PathBuf>,

    /// Logs of the last so many minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    pub since: u32,
}

/// `trunkline runbook`
#[derive(Args, Clone, Debug)]
pub struct RunbookArgs {
    /// The alert's name
    #[arg(value_name = "ALERT")]
    pub name: Option<String>,
}

/// `trunkline restore`
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The configuration file of a node of the cluster that will run on the restored data
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Only verify; change nothing
    #[arg(long)]
    pub check: bool,

    /// Read every recording and compare its SHA-256, instead of its size alone
    #[arg(long)]
    pub deep: bool,

    /// Tell what was found as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// `trunkline run`
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The configuration file (YAML). The environment (TRUNKLINE_NODE__NAME, ...) wins over it
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// What this node does, out of edge, call, acd, media, records, console [default: node.roles, else all]
    #[arg(long, value_name = "ROLE,...")]
    pub roles: Option<String>,

    /// What is logged, as in RUST_LOG
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// How the command line reaches a node.
#[derive(Args, Clone, Debug)]
pub struct NodeAt {
    /// The address of any node of the cluster (cluster.listen) [default: cluster.advertise of the file, else 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT")]
    pub node: Option<String>,

    /// A configuration file of a node: its `cluster` section says where the node is and which certificates to use
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `trunkline cluster`
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    #[command(flatten)]
    pub at: NodeAt,

    /// Show every range of shards with its owner, phase and epoch
    #[arg(long)]
    pub shards: bool,

    /// Show the last moves of shards
    #[arg(long)]
    pub moves: bool,

    /// Show it as JSON, complete, for programs
    #[arg(long)]
    pub json: bool,

    /// Show it again every second until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
}

/// `trunkline telephones`
#[derive(Args, Clone, Debug)]
pub struct TelephonesArgs {
    #[command(flatten)]
    pub at: NodeAt,

    /// Only this account
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// Only of this tenant
    #[arg(long, value_name = "ID")]
    pub tenant: Option<String>,

    /// Show it as JSON, complete, for programs
    #[arg(long)]
    pub json: bool,
}

/// `trunkline drain` and `trunkline undrain`
#[derive(Args, Clone, Debug)]
pub struct DrainArgs {
    /// The node's name, as `trunkline cluster` shows it
    #[arg(value_name = "NODE")]
    pub name: String,

    #[command(flatten)]
    pub at: NodeAt,

    /// Return when the node is empty (or full again), with progress; fail after this many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300")]
    pub wait: Option<u64>,
}

/// `trunkline config`
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// Read a configuration as `trunkline run` would and say what is wrong with it; starts nothing.
    Check(RunArgs),
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
#[derive(Args, Clone, Debug, Default)]
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
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub agents: u32,

    /// Do not record the conversations of the sample queues (asked when they are made: at the first start with a folder)
    #[arg(long)]
    pub no_recording: bool,

    /// Serve beyond this machine, although everybody knows the passwords of the sample accounts
    #[arg(long)]
    pub open: bool,

    /// Send traces there by OTLP over gRPC
    #[arg(long, value_name = "http://HOST:PORT")]
    pub otlp: Option<String>,

    /// What is logged, as in RUST_LOG
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

impl Cli {
    /// How many threads the runtime has for it; `None` = as many as the machine has cores. A configuration that cannot be
    /// read is told of when the command reads it.
    pub fn runtime_threads(&self) -> Option<usize> {
        let node = match &self.command {
            Command::Dev(args) if args.command.is_none() => {
                NodeSection::before(args.run.config.as_deref(), None)
            }
            Command::Run(args) => NodeSection::before(Some(&args.config), args.roles.as_deref()),
            _ => return None,
        };
        node.ok().map(|node| node.runtime_threads())
    }
}

/// Does what was typed.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Dev(args) => match *args {
            DevArgs { command: Some(DevCommand::Call(args)), .. } => dev_call::run(args).await,
            DevArgs { run, .. } => Box::pin(dev::run(run)).await,
        },
        Command::Run(args) => Box::pin(run::run(args)).await,
        Command::Cluster(args) => command::cluster::run(args).await,
        Command::Drain(args) => command::drain::run(args, true).await,
        Command::Undrain(args) => command::drain::run(args, false).await,
        Command::Call(args) => command::call::run(args).await,
        Command::Config(ConfigArgs { command: ConfigCommand::Check(args) }) => command::config::check(&args),
        Command::Telephones(args) => command::telephones::run(args).await,
        Command::Documents(args) => Box::pin(command::documents::run(args)).await,
        Command::Doctor(args) => Box::pin(command::doctor::run(args)).await,
        Command::SupportBundle(args) => Box::pin(command::bundle::run(args)).await,
        Command::Runbook(args) => command::runbook::run(&args),
        Command::Restore(args) => Box::pin(command::restore::run(args)).await,
    }
}
