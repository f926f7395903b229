//! `trunkline dev`: every role on this machine.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use trunkline_telemetry::{LogFormat, OtlpConfig, TelemetryConfig};

use crate::{cli::DevRun, config::NodeConfig, documents::DEV_ACCOUNTS, node::Node};

/// Where the data is: the folder that was named, or one that goes away with the process.
struct DataDir {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl DataDir {
    fn new(named: Option<&PathBuf>) -> Result<Self> {
        if let Some(path) = named {
            std::fs::create_dir_all(path)
                .with_context(|| format!("--data-dir {}: the folder cannot be made", path.display()))?;
            return Ok(Self { path: path.clone(), temporary: None });
        }
        let folder =
            tempfile::Builder::new().prefix("trunkline-").tempdir().context("no temporary folder")?;
        Ok(Self { path: folder.path().to_owned(), temporary: Some(folder) })
    }
}

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(flags: DevRun) -> Result<ExitCode> {
    let data = DataDir::new(flags.data_dir.as_ref())?;
    let config = NodeConfig::load(&flags, &data.path)?;
    let telemetry = trunkline_telemetry::init(TelemetryConfig {
        service: "trunkline".to_owned(),
        node: config.node.name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        log: config.node.log_format.parse::<LogFormat>().context("node.log_format")?,
        filter: config.node.log.clone(),
        otlp: config
            .node
            .otlp
            .clone()
            .map(|endpoint| OtlpConfig { endpoint, sample_ratio: config.node.otlp_ratio }),
    })?;
    // Before the node starts: a signal during the start must not be lost.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let recogniser = config.media.transcription.as_ref().map(|t| t.endpoint.clone());
    let node = tokio::select! {
        node = Node::start(config, &data.path) => node?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    banner(&node, &data, recogniser.as_deref());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("trunkline: stopping; a second Ctrl-C ends at once");
    let stopped = tokio::select! {
        stopped = node.stop() => stopped,
        _ = interrupt.recv() => return Ok(ExitCode::FAILURE),
    };
    telemetry.shutdown();
    stopped?;
    Ok(ExitCode::SUCCESS)
}

fn banner(node: &Node, data: &DataDir, recogniser: Option<&str>) {
    let at = &node.addresses;
    let agents: Vec<&str> =
        DEV_ACCOUNTS.iter().filter(|(.., role)| *role == "agent").map(|(name, ..)| *name).collect();
    let supervisors: Vec<&str> =
        DEV_ACCOUNTS.iter().filter(|(.., role)| *role != "agent").map(|(name, ..)| *name).collect();
    let default_sip = at.sip.to_string() == "127.0.0.1:5060";
    let call = if default_sip { String::new() } else { format!(" --sip {}", at.sip) };
    let kept = match &data.temporary {
        Some(_) => "in a temporary folder (--data-dir keeps it)".to_owned(),
        None => data.path.display().to_string(),
    };
    println!("Trunkline {} runs every role on this machine.", env!("CARGO_PKG_VERSION"));
    println!();
    println!(
        "  agents      http://{}/agent       sign in as {} (password: the name and -dev)",
        at.http,
        agents.join(", ")
    );
    println!("  wallboard   http://{}/wallboard   sign in as {}", at.http, supervisors.join(", "));
    println!("  SIP         {} (UDP and TCP): `support` is a queue, `menu` a flow", at.sip);
    println!("  metrics     http://{}/metrics", at.metrics);
    println!("  API         http://{}/api/v1/openapi.json", at.http);
    println!(
        "  recogniser  {}",
        recogniser.unwrap_or("none (start one with `cargo xtask recogniser`, then --recogniser)")
    );
    println!("  data        {kept}");
    println!();
    println!("Next: sign in as alice, go ready, and in another terminal type");
    println!("  target/debug/trunkline dev call{call}");
    println!("ready");
}
