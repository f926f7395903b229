//! `trunkline doctor`: what is wrong, or will be, with this machine, its configuration and the cluster.
//!
//! Looks and measures; what it does to try something (a probe object in the recordings' store, a port that is bound for an
//! instant when nobody has it, a commit of nothing) no running node notices.

mod addresses;
mod certificates;
mod clock;
mod coordination;
mod database;
mod finding;
mod handshake;
mod limits;
mod members;
mod nat;
mod ports;
mod sockets;
mod storage;

use std::{future::Future, io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use tokio::time::timeout;
use trunkline_proto::cluster::v1::Overview;

pub use self::finding::{Area, Report};
use self::sockets::{Protocol, Sockets};
use super::http;
use crate::{
    cli::{DevRun, DoctorArgs, RunArgs},
    config::NodeConfig,
    node::advertise,
};

/// Looking for the address that peers are told takes no longer.
const SETTLE: Duration = Duration::from_secs(12);
/// No area takes longer.
const PATIENCE: Duration = Duration::from_secs(45);

/// What is examined.
pub struct Subject {
    pub config: NodeConfig,
    /// A node answers at metrics.listen.
    pub alive: bool,
    /// Its process, as far as this user may see it.
    pub pid: Option<u32>,
    /// Why no address could be found that peers can be told (`node.advertise`).
    pub nowhere: Option<String>,
}

impl Subject {
    /// The node of a configuration, running or not.
    pub async fn of(mut config: NodeConfig) -> Self {
        let waits = parking_lot::Mutex::new(None);
        let settling = advertise::settle(&mut config, |why| *waits.lock() = why);
        let nowhere = match timeout(SETTLE, Box::pin(settling)).await {
            Ok(()) => None,
            Err(_) => {
                Some(waits.into_inner().unwrap_or_else(|| format!("none within {} s", SETTLE.as_secs())))
            }
        };
        let mut listen = config.metrics.listen;
        if listen.ip().is_unspecified() {
            listen = SocketAddr::from(([127, 0, 0, 1], listen.port()));
        }
        let alive = http::get(listen, "/healthz", 1_024).await.is_ok_and(|body| body.trim() == "alive");
        let sockets = Sockets::read();
        let holder = sockets.holder(Protocol::Tcp, listen).flatten();
        let pid = holder.filter(|holder| holder.name == "trunkline").map(|holder| holder.pid);
        Self { config, alive, pid, nowhere }
    }
}

/// What came of an examination.
pub struct Examined {
    pub report: Report,
    /// The cluster as its members see it, when it was asked.
    pub overviews: Vec<Overview>,
}

/// Examines and tells.
pub async fn run(args: DoctorArgs) -> Result<ExitCode> {
    let config = match read(args.config.as_ref()) {
        Ok(config) => config,
        Err(error) => {
            let mut report = Report::default();
            report.take(unusable(&error));
            tell(&report, "", args.json);
            return Ok(report.exit_code());
        }
    };
    let subject = Subject::of(config).await;
    let given = args.config.is_some();
    let Examined { report, .. } = Box::pin(examine(&subject, given, args.cluster, &args.stun)).await;
    tell(&report, subject.config.node.name.as_str(), args.json);
    Ok(report.exit_code())
}

/// A configuration as `trunkline run` reads it; without a file the one of `trunkline dev`.
fn read(file: Option<&PathBuf>) -> Result<NodeConfig> {
    match file {
        Some(file) => NodeConfig::run(&RunArgs { config: file.clone(), roles: None, log: None }),
        None => NodeConfig::dev(&DevRun::default(), &std::env::temp_dir()),
    }
}

/// What is found when the configuration cannot be read.
pub fn unusable(error: &anyhow::Error) -> Area {
    let mut area = Area::new("configuration");
    let why = "the node cannot start, and nothing else can be examined";
    area.fail(
        "--config",
        format!("{error:#}"),
        why,
        "correct what is named; `trunkline config check` tells the same",
    );
    area
}

fn tell(report: &Report, node: &str, json: bool) {
    let text = if json { format!("{:#}\n", report.json(node)) } else { report.text() };
    // Whoever reads only the beginning (`| head`) has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Every area in turn, each within a bound. `given`: the configuration came from a file.
pub async fn examine(subject: &Subject, given: bool, cluster: bool, stun: &[String]) -> Examined {
    let mut report = Report::default();
    report.take(configuration(subject, given));
    report.take(ports::check(subject));
    report.take(bounded("addresses", addresses::check(subject)).await.unwrap_or_else(|late| late));
    report.take(bounded("nat", nat::check(subject, stun)).await.unwrap_or_else(|late| late));
    let etcd = match bounded("etcd", Box::pin(coordination::check(subject))).await {
        Ok((area, etcd)) => {
            area.into_iter().for_each(|area| report.take(area));
            etcd
        }
        Err(late) => {
            report.take(late);
            None
        }
    };
    let nodes = etcd.as_ref().map_or(1, |report| report.nodes.len().max(1));
    let mut offset = None;
    match bounded("postgresql", database::check(subject, nodes)).await {
        Ok((area, seen)) => {
            area.into_iter().for_each(|area| report.take(area));
            offset = seen;
        }
        Err(late) => report.take(late),
    }
    report.take(bounded("clock", clock::check(offset)).await.unwrap_or_else(|late| late));
    if given {
        match bounded("storage", storage::check(subject)).await {
            Ok(area) => area.into_iter().for_each(|area| report.take(area)),
            Err(late) => report.take(late),
        }
    }
    certificates::check(subject).into_iter().for_each(|area| report.take(area));
    report.take(limits::check(subject));
    let mut overviews = Vec::new();
    if cluster {
        match bounded("cluster", members::check(subject, etcd.as_ref())).await {
            Ok((area, seen)) => {
                report.take(area);
                overviews = seen;
            }
            Err(late) => report.take(late),
        }
    }
    Examined { report, overviews }
}

async fn bounded<T>(name: &'static str, check: impl Future<Output = T>) -> Result<T, Area> {
    timeout(PATIENCE, check).await.map_err(|_| {
        let mut area = Area::new(name);
        let why = "something that was asked neither answers nor refuses";
        area.fail(
            name,
            format!("not done after {} s", PATIENCE.as_secs()),
            why,
            "look for a firewall that drops packets in silence",
        );
        area
    })
}

fn configuration(subject: &Subject, given: bool) -> Area {
    let mut area = Area::new("configuration");
    let config = &subject.config;
    let roles: Vec<&str> = config.node.roles.iter().map(|role| role.as_str()).collect();
    let which = if given { "" } else { " (no --config: the defaults of `trunkline dev`)" };
    let runs = match (subject.pid, subject.alive) {
        (Some(pid), true) => format!("runs as pid {pid}"),
        (_, true) => "runs".to_owned(),
        _ => "does not run".to_owned(),
    };
    area.ok("node", format!("{} with {}{which}; {runs}", config.node.name, roles.join(", ")));
    if let Err(error) = config.media.validate() {
        area.fail("media", error.to_string(), "the node cannot start", "correct the key");
    }
    if let Err(error) = config.console.validate() {
        area.fail("console", error.to_string(), "the node cannot start", "correct the key");
    }
    area
}
