//! The life of a process that is a node: telemetry, start, signals, stop.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use trunkline_telemetry::{LogFormat, OtlpConfig, TelemetryConfig};

use crate::{config::NodeConfig, node::Node};

/// Starts the node, tells `ready` of it when every role serves, and drains it at SIGTERM or Ctrl-C.
pub async fn serve(config: NodeConfig, dir: &Path, ready: impl FnOnce(&Node)) -> Result<ExitCode> {
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
    let node = tokio::select! {
        node = Node::start(config, dir) => node?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    ready(&node);
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
