//! `trunkline support-bundle`: what somebody elsewhere needs to find a fault, in one file.
//!
//! Bounded in time and size. Secrets and numbers are taken out of every part by [`scrub`]; what could not be had is said in
//! the manifest, with the reason, and is no failure.

mod archive;
mod call;
mod logs;
mod scrub;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use trunkline_config::Loader;
use trunkline_proto::cluster::v1::Overview;

use self::{archive::Archive, scrub::Scrubber};
use super::{cluster, doctor, http};
use crate::{
    cli::{BundleArgs, RunArgs},
    config::NodeConfig,
};

/// Everything together.
const PATIENCE: Duration = Duration::from_secs(300);
/// Metrics of one node.
const METRICS_BYTES: usize = 4 << 20;
/// Nodes whose metrics are asked for.
const NODES: usize = 200;

const README: &str = "A Trunkline support bundle.

manifest.json  versions, what is here and what is not, and why
config.json    the configuration of the node, secrets redacted
doctor.txt     what `trunkline doctor --cluster` found (doctor.json: the same for programs)
cluster.json   the cluster as each member sees it
system.txt     kernel, processors, memory
metrics/       each node's metrics at that moment
logs/          the ends of logs
call/          one call: its record with its decisions, and its events

Secrets are redacted; of numbers the last two digits are left; names, notes, transcripts, typed digits and session
descriptions of calls are left out.
";

/// Collects and writes.
pub async fn run(args: BundleArgs) -> Result<ExitCode> {
    let loader = Loader::new().file(&args.config)?.env("TRUNKLINE_", std::env::vars());
    let mut tree: Value = loader.load()?;
    let scrubber = Scrubber::redact(&mut tree);
    let time_s = u64::try_from(trunkline_actors::now().as_micros() / 1_000_000).unwrap_or(0);
    let archive =
        if is_standard(&args.out) { Archive::output(time_s)? } else { Archive::create(&args.out, time_s)? };
    let collected = timeout(PATIENCE, Box::pin(collect(&args, tree, &scrubber, archive))).await;
    let bytes = match collected {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            discard(&args);
            return Err(error);
        }
        Err(_) => {
            discard(&args);
            anyhow::bail!("not done after {} s", PATIENCE.as_secs());
        }
    };
    let name = if is_standard(&args.out) { "the bundle".into() } else { args.out.display().to_string() };
    eprintln!("{name}: {} KiB", bytes.div_ceil(1_024));
    eprintln!("secrets are redacted and numbers masked; look through it before you give it away");
    Ok(ExitCode::SUCCESS)
}

/// `-`: what a pipe brings or takes.
fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// Half a bundle is of no use.
fn discard(args: &BundleArgs) {
    if is_standard(&args.out) {
        return;
    }
    if let Err(error) = std::fs::remove_file(&args.out) {
        eprintln!("trunkline: {} could not be removed: {error}", args.out.display());
    }
}

/// Says what is being done.
fn step(text: &str) {
    eprintln!("  {text}");
}

async fn collect(args: &BundleArgs, tree: Value, scrubber: &Scrubber, mut archive: Archive) -> Result<u64> {
    let begun = Instant::now();
    archive.add("README.txt", README)?;
    step("configuration");
    archive.add("config.json", &scrubber.json(tree))?;
    archive.add("system.txt", &scrubber.metrics(&system()))?;
    let config = NodeConfig::run(&RunArgs { config: args.config.clone(), roles: None, log: None });
    let (mut overviews, mut node) = (Vec::new(), String::new());
    match config {
        Ok(config) => {
            node = config.node.name.to_string();
            step("doctor");
            let subject = doctor::Subject::of(config).await;
            let in_cluster = subject.config.cluster.is_some();
            let examined = Box::pin(doctor::examine(&subject, true, in_cluster, &[])).await;
            archive.add("doctor.txt", &scrubber.text(&examined.report.text()))?;
            archive.add("doctor.json", &scrubber.json(examined.report.json(&node)))?;
            overviews = examined.overviews;
            step("cluster");
            let seen: Vec<Value> = overviews.iter().map(cluster::to_json).collect();
            archive.add("cluster.json", &scrubber.json(Value::Array(seen)))?;
            metrics(&subject.config, &overviews, scrubber, &mut archive).await?;
            logs_of(args, scrubber, &mut archive).await?;
            if let Some(id) = &args.call {
                step(&format!("call {id}"));
                one_call(&subject.config, &overviews, id, scrubber, &mut archive).await?;
            }
        }
        Err(error) => {
            let mut report = doctor::Report::default();
            report.take(doctor::unusable(&error));
            archive.add("doctor.txt", &scrubber.text(&report.text()))?;
            logs_of(args, scrubber, &mut archive).await?;
        }
    }
    let versions: Vec<Value> = overviews
        .first()
        .map(|overview| {
            overview.members.iter().map(|m| json!({ "node": m.node, "version": m.version })).collect()
        })
        .unwrap_or_default();
    let manifest = json!({
        "program": env!("CARGO_PKG_VERSION"), "node": node, "at_us": trunkline_actors::now().as_micros(),
        "took_ms": u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), "nodes": versions,
        "contents": archive.notes.clone(),
    });
    archive.add("manifest.json", &scrubber.json(manifest))?;
    tokio::task::spawn_blocking(move || archive.finish()).await.context("the bundle's writer")?
}

/// The machine, from what every user may read.
fn system() -> String {
    let mut text = String::new();
    for file in [
        "/proc/version",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/net/snmp",
        "/proc/net/sockstat",
        "/etc/os-release",
    ] {
        let content = std::fs::read_to_string(file).unwrap_or_else(|error| format!("{error}\n"));
        text += &format!("== {file}\n{content}");
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    text + &format!("== processors\n{cores}\n")
}

/// Of each member, at the address that it tells; of this node at least.
async fn metrics(
    config: &NodeConfig,
    overviews: &[Overview],
    scrubber: &Scrubber,
    archive: &mut Archive,
) -> Result<()> {
    step("metrics");
    let mut nodes: BTreeSet<(String, String)> = overviews
        .iter()
        .flat_map(|overview| &overview.members)
        .filter_map(|member| Some((member.node.clone(), member.public_addresses.get("metrics")?.clone())))
        .collect();
    let own = (config.node.name.to_string(), config.metrics.listen.to_string());
    nodes.insert(own);
    let mut asked = JoinSet::new();
    for (node, address) in nodes.into_iter().take(NODES) {
        asked.spawn(async move {
            let text = match address.parse::<SocketAddr>() {
                Ok(address) => http::get(address, "/metrics", METRICS_BYTES).await,
                Err(error) => Err(anyhow::anyhow!("{address}: {error}")),
            };
            (node, text)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (node, text) in answers {
        let name = format!("metrics/{node}.txt");
        match text {
            Ok(text) => archive.add(&name, &scrubber.metrics(&text))?,
            Err(error) => archive.without(&name, &format!("{error:#}")),
        }
    }
    Ok(())
}

async fn logs_of(args: &BundleArgs, scrubber: &Scrubber, archive: &mut Archive) -> Result<()> {
    step("logs");
    for (n, path) in args.log_file.iter().enumerate() {
        let base = path.file_name().filter(|_| !is_standard(path));
        let base = base.map_or_else(|| "log".to_owned(), |name| name.to_string_lossy().into_owned());
        let name = format!("logs/{n}-{base}");
        let read = if is_standard(path) { logs::input().await } else { logs::file(path) };
        match read {
            Ok(text) => archive.add(&name, &scrubber.text(&text))?,
            Err(error) => archive.without(&name, &format!("{error:#}")),
        }
    }
    if args.log_file.is_empty() {
        match logs::journald(args.since).await {
            Ok(text) => archive.add("logs/journal.log", &scrubber.text(&text))?,
            Err(error) => archive.without("logs/journal.log", &format!("{error:#}")),
        }
    }
    Ok(())
}

async fn one_call(
    config: &NodeConfig,
    overviews: &[Overview],
    id: &str,
    scrubber: &Scrubber,
    archive: &mut Archive,
) -> Result<()> {
    let entities = match call::events(config, id).await {
        Ok((text, entities)) => {
            archive.add("call/events.txt", &scrubber.text(&text))?;
            entities
        }
        Err(error) => {
            archive.without("call/events.txt", &format!("{error:#}"));
            return Ok(());
        }
    };
    let Some(cluster) = &config.cluster else {
        archive.without(
            "call/record.txt",
            "this node is alone: GET /api/v1/contacts/{id} of its console has it",
        );
        return Ok(());
    };
    for entity in &entities {
        let name = format!("call/record-{}.txt", entity.tenant);
        match call::record(cluster, overviews, entity).await {
            Ok(text) => archive.add(&name, &scrubber.text(&text))?,
            Err(error) => archive.without(&name, &format!("{error:#}")),
        }
    }
    Ok(())
}
