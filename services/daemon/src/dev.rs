//! `trunkline dev`: every role on this machine.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    cli::DevRun,
    config::NodeConfig,
    documents::{DEV_ACCOUNTS, DEV_TELEPHONES},
    node::Node,
    process,
};

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
    let config = NodeConfig::dev(&flags, &data.path)?;
    let recogniser = config.media.transcription.as_ref().map(|t| t.endpoint.clone());
    let told = |node: &Node| banner(node, &data, recogniser.as_deref());
    Box::pin(process::serve(config, &data.path, told)).await
}

fn banner(node: &Node, data: &DataDir, recogniser: Option<&str>) {
    let at = &node.addresses;
    // `dev` runs every role.
    let (Some(sip), Some(http)) = (at.sip, at.http) else { return };
    let agents: Vec<&str> =
        DEV_ACCOUNTS.iter().filter(|(.., role)| *role == "agent").map(|(name, ..)| *name).collect();
    let supervisors: Vec<&str> =
        DEV_ACCOUNTS.iter().filter(|(.., role)| *role != "agent").map(|(name, ..)| *name).collect();
    let default_sip = sip.to_string() == "127.0.0.1:5060";
    let call = if default_sip { String::new() } else { format!(" --sip {sip}") };
    let kept = match &data.temporary {
        Some(_) => "in a temporary folder (--data-dir keeps it)".to_owned(),
        None => data.path.display().to_string(),
    };
    println!("Trunkline {} runs every role on this machine.", env!("CARGO_PKG_VERSION"));
    println!();
    println!(
        "  agents      http://{}/agent       sign in as {} (password: the name and -dev)",
        http,
        agents.join(", ")
    );
    println!("  wallboard   http://{}/wallboard   sign in as {}", http, supervisors.join(", "));
    println!("  SIP         {} (UDP and TCP): `support` is a queue, `menu` a flow", sip);
    let telephones: Vec<&str> = DEV_TELEPHONES.iter().map(|(name, _)| *name).collect();
    println!("  telephones  register as {} at {sip} (password: the name and -dev)", telephones.join(" or "));
    println!("  metrics     http://{}/metrics", at.metrics);
    println!("  API         http://{}/api/v1/openapi.json", http);
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
