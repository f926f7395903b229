//! The command line.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::scenario::Target;

/// Offers load to a Trunkline and measures it: callers over SIP and RTP, agents over the agent protocol and WebRTC.
///
/// `run` plays a scenario (a file, or one that comes with the program: see `scenarios`) and reports as text, JSON and one
/// HTML page. Load is open loop: callers come when they are due, however slow the system is, and every time counts from
/// the moment at which something was meant to happen.
///
/// Build the system with `cargo build --release` first: a debug build measures the compiler. Compare figures at equal
/// load and on the same machine only; the generator takes processor time of its own.
#[derive(Parser, Debug)]
#[command(name = "trunkline-load", version, after_help = EXAMPLES)]
pub struct Cli {
    /// The system
    #[command(flatten)]
    pub server: ServerArgs,
    /// What to do with it
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  trunkline-load scenarios                                   # what comes with the program
  trunkline-load run steady --html steady.html               # starts `trunkline dev` beside this program
  trunkline-load run mine.yaml --sip 10.0.0.1:5060 --http 10.0.0.1:8080 --pid edge=4711
  trunkline-load worker --listen 10.0.0.8:7500 --secret S    # on each further machine, then:
  trunkline-load run mine.yaml --worker 10.0.0.8:7500 --worker 10.0.0.9:7500 --secret S --sip 10.0.0.1:5060 --http 10.0.0.1:8080
  trunkline-load queued --rate 50 --agents 200 --spawn target/release/trunkline";

/// Which system.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// Start this `trunkline`; `run` starts what its scenario asks for with it (default there: the one beside this
    /// program)
    #[arg(long, global = true, value_name = "PATH", visible_alias = "program", conflicts_with_all = ["sip", "http"])]
    pub spawn: Option<PathBuf>,

    /// A running process to measure with its descendants, `NAME=PID` or `PID`; may be repeated
    #[arg(long, global = true, value_name = "[NAME=]PID", value_parser = process)]
    pub pid: Vec<(String, u32)>,

    /// Where a running system takes SIP; may be repeated, calls take turns [default: 127.0.0.1:5060]
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = address)]
    pub sip: Vec<SocketAddr>,

    /// Where it serves agents; may be repeated [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = address)]
    pub http: Vec<SocketAddr>,

    /// Where it shows metrics; may be repeated
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = address)]
    pub metrics: Vec<SocketAddr>,

    /// UDP ports for RTP of a system that is started
    #[arg(long, global = true, default_value = "20000-31999", value_name = "FIRST-LAST")]
    pub rtp: String,

    /// What is dialled: a queue, a flow or a number [default: support, or what the scenario says]
    #[arg(long, global = true, value_name = "NAME")]
    pub to: Option<String>,

    /// Write the figures there
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl ServerArgs {
    /// Where SIP is taken.
    pub fn sip(&self) -> SocketAddr {
        self.sip.first().copied().unwrap_or(([127, 0, 0, 1], 5060).into())
    }

    /// Where agents are served.
    pub fn http(&self) -> SocketAddr {
        self.http.first().copied().unwrap_or(([127, 0, 0, 1], 8080).into())
    }

    /// The queue.
    pub fn to(&self) -> String {
        self.to.clone().unwrap_or_else(|| "support".into())
    }

    /// All addresses.
    pub fn target(&self) -> Target {
        Target { sip: self.sip.clone(), http: self.http.clone(), metrics: self.metrics.clone() }
    }
}

/// What this program can do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Play a scenario and report
    Run(RunArgs),
    /// Check a scenario file: what is wrong with it, by line and key; starts nothing
    Check {
        /// The file, or the name of one that comes with the program
        scenario: String,
    },
    /// The scenarios that come with the program; with a name, its text to start from
    Scenarios {
        /// Which
        name: Option<String>,
    },
    /// Generate load for a coordinator on another machine
    Worker(WorkerArgs),
    /// Half an hour at a steady rate, after twenty minutes of warm-up: growth of memory, descriptors and lag, with confidence
    /// intervals. The rate is 20 calls a second; half of what your system bears comes with --rate-factor
    Soak {
        /// How many minutes count, from 2 on
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..))]
        minutes: u32,
        /// The rest
        #[command(flatten)]
        run: SoakArgs,
    },
    /// Cost of a served call with more and more callers waiting, and with more and more agents; the exponent of growth
    Growth(GrowthArgs),
    /// Kamailio (stateful proxy) and rtpengine (user space) at the same offered load, as yardsticks, and our relay
    Peers(PeersArgs),
    /// Our media node by itself (relay, recording, music) beside a bare relay: processor time of each packet
    Relay(RelayArgs),
    /// One thread that receives and sends, as its input says; ends with it
    #[command(hide = true)]
    BareRelay,
    /// One measurement
    #[command(flatten)]
    Measure(Measure),
}

/// How a scenario is played.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The file, or the name of one that comes with the program
    pub scenario: String,
    /// How
    #[command(flatten)]
    pub play: PlayArgs,
}

/// What can be changed about a scenario, and where the report goes.
#[derive(Args, Clone, Debug, Default)]
pub struct PlayArgs {
    /// Write the report as one HTML page there
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// A machine that generates load (`trunkline-load worker` runs there); may be repeated. Without any this process does
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub worker: Vec<SocketAddr>,

    /// What the workers were told with --secret
    #[arg(long, env = "TRUNKLINE_LOAD_SECRET", hide_env_values = true, default_value = "")]
    pub secret: String,

    /// Another seed than the scenario's
    #[arg(long)]
    pub seed: Option<u64>,

    /// Multiply all rates
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub rate_factor: Option<f64>,

    /// Multiply the lengths of the phases and the moments of events
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub time_factor: Option<f64>,

    /// Another number of agents than the scenario's
    #[arg(long)]
    pub agents: Option<usize>,

    /// This side's address for callers and agents
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub bind: String,
}

/// How the soak is played.
#[derive(Args, Clone, Debug)]
pub struct SoakArgs {
    /// How
    #[command(flatten)]
    pub play: PlayArgs,
}

/// A generator on a machine of its own.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Where coordinators come to
    #[arg(long, default_value = "127.0.0.1:7500", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// Only a coordinator that says the same may use this worker; needed beyond loopback
    #[arg(long, env = "TRUNKLINE_LOAD_SECRET", hide_env_values = true, default_value = "")]
    pub secret: String,

    /// This machine's address for callers and agents
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<std::net::IpAddr>,

    /// End after one run
    #[arg(long)]
    pub once: bool,
}

/// How growth is measured.
#[derive(Args, Clone, Debug)]
pub struct GrowthArgs {
    /// Waiting callers
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,5000")]
    pub callers: Vec<usize>,

    /// Agents
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    pub agents: Vec<usize>,

    /// Calls that are served at each size
    #[arg(long, default_value_t = 200)]
    pub served: usize,

    /// Calls served per second
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
}

/// How the yardsticks are measured.
#[derive(Args, Clone, Debug)]
pub struct PeersArgs {
    /// Calls per second through Kamailio
    #[arg(long, default_value_t = 50.0)]
    pub rate: f64,

    /// Through rtpengine and ours
    #[command(flatten)]
    pub relay: RelayArgs,

    /// The binary
    #[arg(long, default_value = "kamailio", value_name = "PATH")]
    pub kamailio: PathBuf,

    /// The binary
    #[arg(long, default_value = "rtpengine", value_name = "PATH")]
    pub rtpengine: PathBuf,
}

/// How relays are measured.
#[derive(Args, Clone, Debug)]
pub struct RelayArgs {
    /// Conversations through each relay, 100 packets a second each
    #[arg(long, default_value_t = 100)]
    pub conversations: usize,

    /// How long each is measured
    #[arg(long, default_value = "20", value_parser = seconds)]
    pub seconds: Duration,

    /// The program that hosts our media node [default: examples/media-node beside this program]
    #[arg(long, value_name = "PATH")]
    pub media_node: Option<PathBuf>,
}

/// A measurement.
#[derive(Subcommand, Clone, Debug)]
pub enum Measure {
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
        /// How long to measure; within a minute everybody's place is checked and a comfort announcement comes
        #[arg(long, default_value = "60", value_parser = seconds)]
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
        /// Conversations are not recorded, by a system that is started
        #[arg(long, requires = "spawn")]
        no_recording: bool,
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

impl Measure {
    /// The agents that a started system must know.
    pub fn agents(&self) -> usize {
        match self {
            Self::Waiting { agents, .. } | Self::Queued { agents, .. } | Self::Dispatch { agents, .. } => {
                *agents
            }
            Self::Music { .. } => 0,
        }
    }

    /// Options of a system that is started for it.
    pub fn options(&self) -> Vec<String> {
        let unrecorded = matches!(self, Self::Queued { no_recording: true, .. });
        unrecorded.then(|| "--no-recording".to_owned()).into_iter().collect()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.001..=86_400.0).contains(&value) => Ok(Duration::from_secs_f64(value)),
        _ => Err("a number of seconds from 0.001 to 86400 is needed".into()),
    }
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.001..=1_000.0).contains(&value) => Ok(value),
        _ => Err("a number from 0.001 to 1000 is needed".into()),
    }
}

/// An address, or a name that leads to one: IPv4 before IPv6.
fn address(text: &str) -> Result<SocketAddr, String> {
    let found: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| {
            format!("an address or a host name with a port is needed, like 10.0.0.1:5060 ({error})")
        })?
        .collect();
    let first = found.iter().find(|at| at.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| "the name leads to no address".to_owned())
}

fn process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').unwrap_or(("system", text));
    match pid.parse() {
        Ok(pid) if !name.is_empty() && pid > 0 => Ok((name.to_owned(), pid)),
        _ => Err("a process id is needed, with a name before it when there are several: edge=4711".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn systems_have_names_or_addresses() {
        assert_eq!(address("10.0.0.1:5060").unwrap().to_string(), "10.0.0.1:5060");
        assert_eq!(address("localhost:8080").unwrap().to_string(), "127.0.0.1:8080");
        assert!(address("10.0.0.1").unwrap_err().starts_with("an address or a host name with a port"));
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from([
            "x",
            "run",
            "steady",
            "--sip",
            "10.0.0.1:5060",
            "--pid",
            "edge=7",
            "--pid",
            "8",
        ]);
        assert_eq!(cli.server.pid, [("edge".to_owned(), 7), ("system".to_owned(), 8)]);
        assert!(Cli::try_parse_from(["x", "run", "steady", "--pid", "edge="]).is_err());
        assert!(Cli::try_parse_from(["x", "run", "steady", "--rate-factor", "0"]).is_err());
    }
}
