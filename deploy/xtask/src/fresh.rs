//! The README's first command as a newcomer types it: from a fresh clone, an empty target, a bare environment.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{process::Step, root, seed::seed, target};

/// A cold build of everything on a small machine.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// Clones HEAD, starts `cargo xtask dev` there and waits for its line `ready`, then ends it by SIGTERM. What it has built of
/// dependencies goes to the target folder `heir`, so that a machine where nothing is built yet does not build them twice.
pub fn run(heir: Option<&Path>) -> Result<()> {
    let folder = target().join("fresh");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("the old clone could not be removed")?;
    }
    Step::new("fresh clone", "git")
        .args(["clone", "--quiet", "--no-hardlinks"])
        .args([&root(), &folder])
        .run()?;
    println!("── cargo xtask dev in the fresh clone");
    let begun = Instant::now();
    let mut child = start(&folder)?;
    let outcome = wait_for_ready(&mut child);
    let ended = end(&mut child);
    if let (Ok(()), Some(heir)) = (&outcome, heir) {
        seed("debug", &folder.join("target"), heir)?;
    }
    let _ = fs::remove_dir_all(&folder);
    outcome?;
    ended?;
    println!("── cargo xtask dev in the fresh clone ok, {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn start(folder: &Path) -> Result<Child> {
    let mut command = Command::new("cargo");
    command
        .args([
            "xtask",
            "dev",
            "--",
            "--sip",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
        ])
        .args(["--rtp", "46000-46199"])
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for kept in ["PATH", "HOME", "RUSTUP_HOME", "CARGO_HOME"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.spawn().context("cargo could not be started in the fresh clone")
}

fn wait_for_ready(child: &mut Child) -> Result<()> {
    let stdout = child.stdout.take().context("no standard output")?;
    let (lines_in, lines) = mpsc::sync_channel(1_024);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines_in.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) if line == "ready" => return Ok(()),
            Ok(line) => println!("   {line}"),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("no line `ready` within {} s", LIMIT.as_secs()),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("it ended without the line `ready`"),
        }
    }
}

/// SIGTERM must drain and exit with 0.
fn end(child: &mut Child) -> Result<()> {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            bail!("after SIGTERM it ended with {status}");
        }
        if Instant::now() > deadline {
            child.kill()?;
            bail!("it did not end within 30 s after SIGTERM");
        }
        thread::sleep(Duration::from_millis(50));
    }
}
