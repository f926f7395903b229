//! Compose's own judge of a file: `tools/compose`, on compose-go.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::tools;

/// The project that Compose loads from a file, with no variable in its environment: merge keys, paths, ports and durations are
/// resolved. An error when it complains, be it by a warning.
pub fn load(file: &Path) -> Result<Value> {
    let output = Command::new(tools::program("compose-config")?).arg(file).env_clear().output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && complaint.is_empty(), "{}: {complaint}", file.display());
    serde_json::from_slice(&output.stdout).with_context(|| format!("{}", file.display()))
}
