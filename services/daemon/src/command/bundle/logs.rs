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
/// Logs of a cluster come from far away.
const INPUT: Duration = Duration::from_secs(120);
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

/// The end of what standard input brings.
pub async fn input() -> Result<String> {
    let read = tokio::task::spawn_blocking(|| last(std::io::stdin().lock()));
    let text = timeout(INPUT, read).await.context("--log-file -: standard input has no end")?;
    text.context("--log-file -")?.context("--log-file -")
}

/// The last of it, from the beginning of a line on.
fn last(mut from: impl Read) -> std::io::Result<String> {
    let (mut held, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match from.read(&mut chunk)? {
            0 => break,
            read => held.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
        if held.len() > 2 * LARGEST {
            held.drain(..held.len() - LARGEST - 1);
        }
    }
    Ok(end(&String::from_utf8_lossy(&held), LARGEST).to_owned())
}

/// What systemd's journal has of our processes.
pub async fn journald(minutes: u32) -> Result<String> {
    if !Path::new(SYSTEMD).exists() {
        bail!(
            "systemd does not run this machine: the node's log is where its standard error goes; --log-file names a file, or \
             - for what a pipe brings (kubectl logs POD | kubectl exec -i POD -- trunkline support-bundle --log-file - ...)"
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a long log the end is kept, in whole lines; a short one stays as it is.
    #[test]
    fn of_what_a_pipe_brings_the_end_is_kept() {
        assert_eq!(last(&b"one\ntwo\n"[..]).unwrap(), "one\ntwo\n");
        let lines = 4 * LARGEST / 10;
        let long: String = (0..lines).map(|n| format!("{n:09}\n")).collect();
        let kept = last(long.as_bytes()).unwrap();
        assert!(kept.len() <= LARGEST && kept.len() > LARGEST - 11, "{}", kept.len());
        assert!(long.ends_with(&kept) && kept.ends_with(&format!("{:09}\n", lines - 1)));
    }
}
