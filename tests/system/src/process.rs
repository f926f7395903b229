//! A program that was started: its output goes to files, and it is ended and reaped with its owner.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::until;

/// A running program.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Program {
    /// Starts it; its output goes to `<folder>/<name>.out` and `.err`, its input is empty.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).with_context(|| format!("{}", stdout.display()))?)
            .stderr(File::create(&stderr).with_context(|| format!("{}", stderr.display()))?)
            .spawn()
            .with_context(|| {
                format!("{} could not be started: is it installed?", command.get_program().display())
            })?;
        Ok(Self { name: name.to_owned(), child, ended: None, stdout, stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for a complete line of standard output that `wanted` takes. Fails at once when the program ends.
    pub async fn line<T>(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let what = format!("{}: {what}", self.name);
        until(&what, limit, || {
            let ended = self.poll();
            let text = self.stdout();
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            let found = complete.lines().find_map(&wanted);
            let outcome = match (found, ended) {
                (Some(found), _) => Ok(Some(found)),
                (None, Ok(None)) => Ok(None),
                (None, Ok(Some(status))) => Err(self.failure(&format!("ended too early, {status}"))),
                (None, Err(error)) => Err(error),
            };
            std::future::ready(outcome)
        })
        .await
        .map_err(|error| error.context(tail(&self.stderr())))
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        until(&what, limit, || std::future::ready(self.poll()))
            .await
            .map_err(|e| e.context(tail(&self.stderr())))
    }

    /// How it ended, when it has.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| self.name.clone())?;
        }
        Ok(self.ended)
    }

    /// Sends SIGTERM to it.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal("-TERM")
    }

    /// Sends a signal (`-TERM`, `-STOP`) to it, unless it has ended.
    pub fn signal(&mut self, signal: &str) -> Result<()> {
        if self.poll()?.is_some() {
            return Ok(());
        }
        let pid = self.pid().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().context("kill")?;
        if status.success() { Ok(()) } else { bail!("{}: kill {signal} {pid}: {status}", self.name) }
    }

    /// Ends it without notice (SIGKILL) and reaps it.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if self.poll()?.is_none() {
            self.child.kill().with_context(|| self.name.clone())?;
            self.ended = Some(self.child.wait().with_context(|| self.name.clone())?);
        }
        self.ended.with_context(|| self.name.clone())
    }

    /// Waits for its end and fails unless it exits with 0.
    pub async fn succeed(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait(limit).await?;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            _ => Err(self.failure(&format!("{status}"))),
        }
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        anyhow::anyhow!("{} {what}\n{}\n{}", self.name, tail(&self.stdout()), tail(&self.stderr()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nothing of a test outlives it; an error here would hide the test's own.
        let _ = self.kill();
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
