//! What a call, a conversation and a waiting caller cost in each role: a cluster of real processes with one role each,
//! beside etcd and PostgreSQL, under the load generator. Fills the table of `loadtest/CAPACITY.md`; `cargo xtask load
//! roles` builds both sides optimised and runs this.
//!
//! Hosts are network namespaces on this machine: a packet between them costs more than on loopback, and the generator has
//! the same cores. Data of etcd and PostgreSQL is in memory, so that processor time is measured and not the disk.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod cluster;
mod features;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use trunkline_faults::{net::Network, world::CLIENTS};
use trunkline_loadtest::report::{Figure, figure, note, publish};
use trunkline_operations_tests::lab::{Ground, Lab, Roles, on_network};

use self::{
    cluster::{Cluster, each},
    features::{Sink, TELEPHONES, Way},
};

const NODES: &Roles = &[
    ("edge", "edge"),
    ("call", "call"),
    ("acd", "acd"),
    ("media", "media"),
    ("records", "records"),
    ("console", "console"),
];
/// Of the load before anything is counted: page caches and pools fill.
const WARM_UP_S: f64 = 15.0;
/// Conversations and waiting callers come within this time.
const COME_S: f64 = 20.0;
/// From the last one's coming to the first second that counts: transactions of INVITEs are gone (64·T1, RFC 3261
/// section 17), buffers have settled.
const SETTLE_S: f64 = 40.0;
/// Share of the packets that may be missing where a figure of a packet is told.
const MOST_LOST: f64 = 0.001;

/// Processor time by role.
#[derive(Parser, Debug)]
struct Args {
    /// Calls per second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Agents of these calls
    #[arg(long, default_value_t = 200)]
    agents: usize,
    /// Conversations at once, with audio both ways
    #[arg(long, default_value_t = 200)]
    conversations: usize,
    /// Callers who wait
    #[arg(long, default_value_t = 2_000)]
    waiting: usize,
    /// Telephones that register again, a second
    #[arg(long, default_value_t = 100.0)]
    registrations: f64,
    /// How long each is measured, seconds
    #[arg(long, default_value_t = 45.0)]
    seconds: f64,
    /// Only this part, where nothing is recorded; of features those too that need another cluster
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Write the figures there
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Waiting,
    Calls,
    Conversations,
    Features,
}

/// What the cluster is set up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    NotRecorded,
    Recorded,
    /// SIP and RTCP are copied to a collector.
    Captured,
    /// Recorded, and a recogniser hears it.
    Transcribed,
}

impl How {
    const ALL: [Self; 4] = [Self::NotRecorded, Self::Recorded, Self::Captured, Self::Transcribed];

    fn name(self) -> &'static str {
        match self {
            Self::NotRecorded => "not recorded",
            Self::Recorded => "recorded",
            Self::Captured => "captured",
            Self::Transcribed => "recorded and transcribed",
        }
    }

    /// What is measured on it. A stream to a recogniser is told by what a recorded conversation takes more with it.
    fn parts(self, only: Option<Part>) -> Vec<Part> {
        let all = match (self, only) {
            (Self::NotRecorded, _) => vec![Part::Waiting, Part::Calls, Part::Conversations, Part::Features],
            (Self::Recorded, None) => vec![Part::Calls, Part::Conversations],
            (Self::Recorded | Self::Transcribed, Some(Part::Features)) => return vec![Part::Conversations],
            (Self::Transcribed, None) => vec![Part::Conversations],
            (Self::Captured, None | Some(Part::Features)) => vec![Part::Features],
            (_, Some(_)) => Vec::new(),
        };
        all.into_iter().filter(|part| only.is_none_or(|only| only == *part)).collect()
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.rate > 0.0 && args.seconds >= 5.0, "--rate is above 0, --seconds at least 5");
    ensure!(args.registrations > 0.0, "--registrations is above 0");
    on_network("roles", |network, folder| async move { measure(&args, network, &folder).await })
}

async fn measure(args: &Args, mut network: Network, folder: &Path) -> Result<()> {
    let mut figures = Vec::new();
    for how in How::ALL {
        let parts = how.parts(args.only);
        if parts.is_empty() {
            continue;
        }
        note(&format!("six nodes, {}", how.name()));
        let bind = network.address(CLIENTS)?.into();
        let mut environment =
            vec![("DEV__NO_RECORDING", (how != How::Recorded && how != How::Transcribed).to_string())];
        environment.push(("DEV__TELEPHONES", TELEPHONES.to_string()));
        let sink = match how {
            How::NotRecorded | How::Recorded => None,
            How::Captured => Some(("HEP__TARGET", Sink::captures(bind).await?)),
            How::Transcribed => Some(("MEDIA__TRANSCRIPTION__ENDPOINT", Sink::recogniser(bind).await?)),
        };
        if let Some((name, sink)) = &sink {
            let scheme = if how == How::Transcribed { "http://" } else { "" };
            environment.push((name, format!("{scheme}{}", sink.at)));
        }
        let environment = environment.into_iter().map(|(name, value)| (format!("TRUNKLINE_{name}"), value));
        let ground = Ground { environment: environment.collect(), ..Ground::default() };
        let agents = args.agents.max(args.conversations);
        let mut lab = Lab::ground_on(ground, network, folder, NODES, agents).await?;
        lab.start_nodes().await?;
        let cluster = Cluster::of(&mut lab, folder).await?;
        if how == How::NotRecorded {
            figures.extend(cluster.idle());
        }
        for part in parts {
            figures.extend(cluster.part(args, how, part).await.with_context(|| format!("{part:?}"))?);
        }
        if let Some((name, sink)) = sink {
            let taken = sink.take();
            ensure!(taken > 0, "nothing came to what {name} names");
            figures.push(figure(format!("{}: came to the other side", how.name()), taken as f64, "messages"));
        }
        network = lab.destroy()?;
    }
    let name = format!(
        "by role: {} calls/s with {} agents, {} conversations, {} waiting, {} registrations/s",
        args.rate, args.agents, args.conversations, args.waiting, args.registrations
    );
    publish(&name, &figures, args.json.as_deref())
}

impl Cluster<'_> {
    async fn part(&self, args: &Args, how: How, part: Part) -> Result<Vec<Figure>> {
        match part {
            Part::Waiting => self.waiting(args).await,
            Part::Calls => self.calls(args, how.name()).await,
            Part::Conversations => self.conversations(args, how.name()).await,
            Part::Features if how == How::Captured => self.listened(args, "captured", Way::Queue).await,
            Part::Features => self.features(args).await,
        }
    }

    /// Milliseconds of each role for a queued and answered call.
    async fn calls(&self, args: &Args, how: &str) -> Result<Vec<Figure>> {
        let (rate, agents, end) = (args.rate, args.agents, WARM_UP_S + args.seconds);
        let text = format!(
            "name: calls\ncallers:\n  arrivals: constant\n  phases: [ {{ for: {end}s, rate: {rate} }} ]\n\
             agents: {{ count: {agents}, talk: 2s, wrap_up: 300ms }}\nwarm_up: {WARM_UP_S}s\nsettle: 20s\n"
        );
        let report = self.play(&format!("calls, {how}"), &text).await?;
        let counts = &report.counts;
        // One that is due at the end of the warm-up may be served after it.
        ensure!(counts.served >= counts.due, "not everybody was served: {counts:?}");
        Ok(each(&format!("call, {how}"), &self.busy(&report, WARM_UP_S, end)?, rate))
    }

    /// Microseconds of the media node for a packet, and conversations a core.
    async fn conversations(&self, args: &Args, how: &str) -> Result<Vec<Figure>> {
        let count = args.conversations;
        let (from, end) = (COME_S + SETTLE_S, COME_S + SETTLE_S + args.seconds);
        let text = format!(
            "name: conversations\ncallers:\n  arrivals: constant\n  media: tone\n  phases:\n    \
             - {{ for: {COME_S}s, rate: {rate} }}\n    - {{ for: {rest}s, rate: 0 }}\n\
             agents: {{ count: {count}, audio: webrtc, talk: {talk}s }}\nwarm_up: 1s\nsettle: 1s\n",
            rate = count as f64 / COME_S,
            rest = SETTLE_S + args.seconds,
            talk = end + 60.0,
        );
        let report = self.play(&format!("conversations, {how}"), &text).await?;
        let counts = &report.counts;
        ensure!(counts.lost_share() < MOST_LOST && counts.one_way == 0, "audio was lost: {counts:?}");
        let busy = self.busy(&report, from, end)?;
        let each = |name: &str| busy.get(name).map_or(0.0, |share| share / count as f64);
        let packet = each("media") / 100.0 * 1e6;
        Ok(vec![
            figure(format!("conversation, {how}: media, each packet that came in"), packet, "µs"),
            figure(format!("conversation, {how}: media"), each("media") * 1e3, "ms a second"),
            figure(format!("conversation, {how}: a core of media at 70 %"), 0.7 / each("media"), "at once"),
            figure(format!("conversation, {how}: console"), each("console") * 1e3, "ms a second"),
            figure(format!("conversation, {how}: records"), each("records") * 1e3, "ms a second"),
        ])
    }

    /// Microseconds and kilobytes of each role for a caller who waits without media.
    async fn waiting(&self, args: &Args) -> Result<Vec<Figure>> {
        let count = args.waiting;
        let (from, end) = (COME_S + SETTLE_S, COME_S + SETTLE_S + args.seconds);
        let text = format!(
            "name: waiting\ncallers:\n  arrivals: constant\n  phases:\n    - {{ for: {COME_S}s, rate: {rate} }}\n    \
             - {{ for: {rest}s, rate: 0 }}\nsettle: 1s\n",
            rate = count as f64 / COME_S,
            rest = SETTLE_S + args.seconds,
        );
        let report = self.play("waiting", &text).await?;
        let mut figures = Vec::new();
        for (name, share) in self.busy(&report, from, end)? {
            figures.push(figure(format!("waiting: {name}"), share / count as f64 * 1e6, "µs a second"));
            let samples = &report.processes.get(&name).context("a process is missing")?.followed.samples;
            let at = |second: f64| samples.iter().rfind(|sample| sample.at_s <= second).map(|s| s.rss_mb);
            let grown = at(end).unwrap_or_default() - at(1.0).unwrap_or_default();
            figures.push(figure(format!("waiting: {name}, memory"), grown * 1e3 / count as f64, "kB"));
        }
        Ok(figures)
    }
}
