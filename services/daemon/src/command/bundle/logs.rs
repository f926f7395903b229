//! The ends of logs: files that are named, else what systemd's journal has.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use super::archive::{LARGEST, end};

const PATIENCE: Duration = Duration::from_secs(20);
/// Lines of the journal.
const LINES: &str = "50000";
/// There when systemd runs the machine.
const SYSTEMD: &str = "/run/systemd/system";

/// The end of a file.
pub fn file(path: &PathBuf) -> Result<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let skipped = length.saturating_sub(LARGEST as u64);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.take(LARGEST as u64).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        // What was skipped ends within a line.
        let whole = if skipped > 0 { text.split_once('\n').map_or("", |(_, lines)| lines) } else { &text };
        Ok(whole.to_owned())
    };
    read().with_context(|| path.display().to_string())
}

/// What systemd's journal has of our processes.
pub async fn journald(minutes: u32) -> Result<String> {
    if !Path::new(SYSTEMD).exists() {
        bail!(
            "systemd does not run this machine: the node's log is where its standard error goes; --log-file names a file"
        );
    }
    let mut command = Command::new("journalctl");
    command
        .args(["_COMM=trunkline", "--no-pager", "--output=short-iso-precise", "--lines", LINES])
        .args(["--since", &format!("-{minutes}min")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let read = async {
        let mut child = command.spawn().context("journalctl")?;
        let mut bytes = Vec::new();
        let mut output = child.stdout.take().context("journalctl")?.take(4 * LARGEST as u64);
        output.read_to_end(&mut bytes).await?;
        anyhow::Ok(bytes)
    };
    let bytes = timeout(PATIENCE, read).await.context("journalctl gave no end")??;
    Ok(end(&String::from_utf8_lossy(&bytes), LARGEST).to_owned())
}
