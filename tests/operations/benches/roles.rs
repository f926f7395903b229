//! What a call, a conversation and a waiting caller cost in each role: a cluster of real processes with one role each,
//! beside etcd and PostgreSQL, under the load generator. Fills the table of `loadtest/CAPACITY.md`; `cargo xtask load
//! roles` builds both sides optimised and runs this.
//!
//! Hosts are network namespaces on this machine: a packet between them costs more than on loopback, and the generator has
//! the same cores. Data of etcd and PostgreSQL is in memory, so that processor time is measured and not the disk.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use trunkline_faults::net::Network;
use trunkline_loadtest::{
    args::{PlayArgs, ServerArgs},
    report::{Figure, Report, figure, note, publish},
    run,
    system::usage,
};
use trunkline_operations_tests::lab::{Ground, Lab, Roles, on_network};

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
const IDLE: Duration = Duration::from_secs(10);
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
    /// How long each is measured, seconds
    #[arg(long, default_value_t = 45.0)]
    seconds: f64,
    /// Only this part, where nothing is recorded
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
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.rate > 0.0 && args.seconds >= 5.0, "--rate is above 0, --seconds at least 5");
    on_network("roles", |network, folder| async move { measure(&args, network, &folder).await })
}

async fn measure(args: &Args, mut network: Network, folder: &Path) -> Result<()> {
    let mut figures = Vec::new();
    let wanted = |part| args.only.is_none_or(|only| only == part);
    for recorded in [false, true] {
        if recorded && args.only.is_some() {
            break;
        }
        let how = if recorded { "recorded" } else { "not recorded" };
        note(&format!("six nodes, {how}"));
        let environment = vec![("TRUNKLINE_DEV__NO_RECORDING".to_owned(), (!recorded).to_string())];
        let ground = Ground { environment, ..Ground::default() };
        let agents = args.agents.max(args.conversations);
        let mut lab = Lab::ground_on(ground, network, folder, NODES, agents).await?;
        lab.start_nodes().await?;
        let cluster = Cluster::of(&mut lab, folder).await?;
        if !recorded {
            figures.extend(cluster.idle());
            if wanted(Part::Waiting) {
                figures.extend(cluster.waiting(args).await.context("callers who wait")?);
            }
        }
        if wanted(Part::Calls) {
            figures.extend(cluster.calls(args, how).await.context("calls")?);
        }
        if wanted(Part::Conversations) {
            figures.extend(cluster.conversations(args, how).await.context("conversations")?);
        }
        network = lab.destroy()?;
    }
    let name = format!(
        "by role: {} calls/s with {} agents, {} conversations, {} waiting",
        args.rate, args.agents, args.conversations, args.waiting
    );
    publish(&name, &figures, args.json.as_deref())
}

/// A cluster that does nothing yet.
struct Cluster<'a> {
    server: ServerArgs,
    bind: String,
    folder: &'a Path,
    /// Share of a core by process.
    idle: BTreeMap<String, f64>,
}

impl<'a> Cluster<'a> {
    async fn of(lab: &mut Lab, folder: &'a Path) -> Result<Self> {
        let place = lab.place()?;
        let mut pid = lab.pids()?;
        pid.push(("PostgreSQL".into(), lab.postgres.pid().context("PostgreSQL does not run")?));
        pid.extend(lab.etcd.pids().into_iter().enumerate().map(|(n, pid)| (format!("etcd {}", n + 1), pid)));
        let spent = |pid: &[(String, u32)]| -> Result<BTreeMap<String, f64>> {
            pid.iter().map(|(name, pid)| Ok((name.clone(), usage(*pid)?.cpu.as_secs_f64()))).collect()
        };
        let before = spent(&pid)?;
        tokio::time::sleep(IDLE).await;
        let after = spent(&pid)?;
        let share = |(name, spent): (String, f64)| {
            let before = before.get(&name).copied().unwrap_or_default();
            (name, (spent - before) / IDLE.as_secs_f64())
        };
        let server = ServerArgs { pid, sip: vec![place.sip], http: place.consoles, ..ServerArgs::default() };
        Ok(Self {
            server,
            bind: place.bind.to_string(),
            folder,
            idle: after.into_iter().map(share).collect(),
        })
    }

    fn idle(&self) -> Vec<Figure> {
        let figures = self
            .idle
            .iter()
            .map(|(name, share)| figure(format!("nothing to do: {name}"), share * 100.0, "% of a core"));
        figures.collect()
    }

    async fn play(&self, name: &str, text: &str) -> Result<Report> {
        let args = PlayArgs { bind: self.bind.clone(), ..PlayArgs::default() };
        let played = Box::pin(run::play(text, name, self.folder, &args, &self.server)).await?;
        let report = Report::of(played);
        eprintln!("{}", report.text());
        let counts = &report.counts;
        ensure!(counts.refused_all() == 0 && counts.not_started == 0, "calls failed: {counts:?}");
        Ok(report)
    }

    /// What each process needed in these seconds above what it needs when idle, as a share of a core.
    fn busy(&self, report: &Report, from_s: f64, to_s: f64) -> Result<BTreeMap<String, f64>> {
        let mut busy = BTreeMap::new();
        for (name, process) in &report.processes {
            let samples = process.followed.samples.iter();
            let within: Vec<f64> = samples
                .filter(|sample| sample.at_s > from_s && sample.at_s <= to_s)
                .map(|sample| sample.cpu_percent / 100.0)
                .collect();
            ensure!(!within.is_empty(), "{name} was not seen from second {from_s} to {to_s}");
            let idle = self.idle.get(name).copied().unwrap_or_default();
            busy.insert(name.clone(), within.iter().sum::<f64>() / within.len() as f64 - idle);
        }
        Ok(busy)
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
        let busy = self.busy(&report, WARM_UP_S, end)?;
        let mut figures = Vec::new();
        for (name, share) in &busy {
            figures.push(figure(format!("call, {how}: {name}"), share * 1_000.0 / rate, "ms"));
        }
        let all = |nodes: bool| {
            let chosen = busy.iter().filter(|(name, _)| NODES.iter().any(|(node, _)| node == name) == nodes);
            chosen.map(|(_, share)| share * 1_000.0 / rate).sum::<f64>()
        };
        figures.push(figure(format!("call, {how}: all nodes"), all(true), "ms"));
        figures.push(figure(format!("call, {how}: PostgreSQL and etcd"), all(false), "ms"));
        Ok(figures)
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
