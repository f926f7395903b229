//! `trunkline run`: a node of a cluster, or one that is alone.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{cli::RunArgs, config::NodeConfig, node::Node, process};

/// Runs until SIGTERM or Ctrl-C, then drains.
pub async fn run(flags: RunArgs) -> Result<ExitCode> {
    let config = NodeConfig::run(&flags)?;
    let dir = config.node.data_dir.clone().context("node.data_dir is required")?;
    std::fs::create_dir_all(&dir)
        .with_context(|| format!("node.data_dir {}: the folder cannot be made", dir.display()))?;
    Box::pin(process::serve(config, &dir, banner)).await
}

fn banner(node: &Node) {
    println!("Trunkline {}: node {}", env!("CARGO_PKG_VERSION"), node.name());
    println!("  roles       {}", node.roles().join(", "));
    let at = &node.addresses;
    for (what, address) in
        [("cluster", at.cluster), ("SIP", at.sip), ("HTTP", at.http), ("metrics", Some(at.metrics))]
    {
        if let Some(address) = address {
            println!("  {what:<11} {address}");
        }
    }
    println!("ready");
}
