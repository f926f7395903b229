//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

/// Measures a running Trunkline (--pid), or one that it starts itself (--spawn).
///
/// Build the server with `cargo build --release` first: a debug build measures the compiler. Compare figures at equal
/// load and on the same machine only; the generator takes processor time of its own.
#[derive(Parser)]
#[command(name = "trunkline-loadtest", version)]
pub struct Cli {
    /// The server
    #[command(flatten)]
    pub server: ServerArgs,
    /// What to do with it
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// Which server.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Start this `trunkline` with `dev`, free ports and the agents that are needed
    #[arg(long, global = true, value_name = "PATH", conflicts_with_all = ["pid", "sip", "http"])]
    pub spawn: Option<PathBuf>,

    /// The process to measure; without it only times are measured
    #[arg(long, global = true)]
    pub pid: Option<u32>,

    /// Where it takes SIP
    #[arg(long, global = true, default_value = "127.0.0.1:5060", value_name = "ADDRESS:PORT")]
    pub sip: SocketAddr,

    /// Where it serves agents
    #[arg(long, global = true, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub http: SocketAddr,

    /// UDP ports for RTP of a spawned server
    #[arg(long, global = true, default_value = "20000-31999", value_name = "FIRST-LAST")]
    pub rtp: String,

    /// The queue, as it is dialled
    #[arg(long, global = true, default_value = "support", value_name = "NAME")]
    pub to: String,

    /// Write the figures there
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A measurement.
#[derive(Subcommand, Clone, Debug)]
pub enum Scenario {
    /// Callers wait and nobody answers: memory of each, processor time of each per second
    Waiting {
        /// How many
        #[arg(long, default_value_t = 1_000)]
        callers: usize,
        /// New ones per second until all wait
        #[arg(long, default_value_t = 100.0)]
        rate: f64,
        /// Agents signed in beside them, not ready
        #[arg(long, default_value_t = 0)]
        agents: usize,
        /// Let them hear the music (otherwise they offer inactive media)
        #[arg(long)]
        media: bool,
        /// How long to measure
        #[arg(long, default_value = "20", value_parser = seconds)]
        seconds: Duration,
    },
    /// Calls come at a steady rate and are answered: processor time of each, INVITE to 180 and 200, order of service
    Queued {
        /// Calls per second
        #[arg(long, default_value_t = 50.0)]
        rate: f64,
        /// Agents
        #[arg(long, default_value_t = 200)]
        agents: usize,
        /// How long an agent talks
        #[arg(long, default_value = "2", value_parser = seconds)]
        talk: Duration,
        /// How long calls come
        #[arg(long, default_value = "30", value_parser = seconds)]
        seconds: Duration,
    },
    /// Callers wait, then agents become ready one after the other: ready to ring, order of service
    Dispatch {
        /// Callers who wait
        #[arg(long, default_value_t = 500)]
        callers: usize,
        /// Agents
        #[arg(long, default_value_t = 100)]
        agents: usize,
        /// Pause between two agents who become ready
        #[arg(long, default_value = "0.05", value_parser = seconds)]
        gap: Duration,
    },
    /// Callers hear music on hold: processor time of each packet
    Music {
        /// How many
        #[arg(long, default_value_t = 200)]
        callers: usize,
        /// They speak, too (50 packets a second each way)
        #[arg(long)]
        speak: bool,
        /// How long to measure
        #[arg(long, default_value = "20", value_parser = seconds)]
        seconds: Duration,
    },
}

impl Scenario {
    /// The agents that a spawned server must know.
    pub fn agents(&self) -> usize {
        match self {
            Self::Waiting { agents, .. } | Self::Queued { agents, .. } | Self::Dispatch { agents, .. } => {
                *agents
            }
            Self::Music { .. } => 0,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.001..=86_400.0).contains(&value) => Ok(Duration::from_secs_f64(value)),
        _ => Err("a number of seconds from 0.001 to 86400 is needed".into()),
    }
}
