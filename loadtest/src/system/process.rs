//! A process that this program starts, waits for, signals and ends.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

/// A cold start of a release build takes 1 s, with 10,000 agents some more.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// Whoever has not ended after SIGTERM by then is killed.
const END_WITHIN: Duration = Duration::from_secs(15);

/// A process, running or not.
#[derive(Debug)]
pub struct Process {
    /// What reports call it.
    pub name: String,
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What stands before the binary and becomes it.
    pub under: Vec<String>,
    /// Where its standard error goes, when not to this program's.
    pub log: Option<PathBuf>,
    child: Option<Child>,
    /// What it prints before it is ready.
    lines: Option<mpsc::Receiver<String>>,
}

impl Process {
    /// One that does not run yet.
    pub fn new(name: &str, program: PathBuf, arguments: Vec<OsString>) -> Self {
        let under = Vec::new();
        Self { name: name.to_owned(), program, arguments, under, log: None, child: None, lines: None }
    }

    /// Starts it and waits for its line `ready`; returns the lines before.
    pub async fn start(&mut self) -> Result<Vec<String>> {
        self.spawn()?;
        self.ready().await
    }

    /// Starts it.
    pub fn spawn(&mut self) -> Result<()> {
        if self.pid().is_some() {
            bail!("{} runs already", self.name);
        }
        let mut command = match self.under.split_first() {
            None => Command::new(&self.program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
        };
        if let Some(log) = &self.log {
            let file = OpenOptions::new().create(true).append(true).open(log);
            let file = file.with_context(|| format!("{}: {} cannot be written", self.name, log.display()))?;
            command.stderr(file);
        }
        let mut child = command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: {} cannot be started", self.name, self.program.display()))?;
        let output = child.stdout.take().context("no output")?;
        self.child = Some(child);
        let (sender, lines) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            // Read on after `ready`, so that the pipe never fills.
            while let Ok(Some(line)) = output.next_line().await {
                let _ = sender.try_send(line);
            }
        });
        self.lines = Some(lines);
        Ok(())
    }

    /// Waits for its line `ready`; returns the lines before.
    pub async fn ready(&mut self) -> Result<Vec<String>> {
        let mut lines = self.lines.take().with_context(|| format!("{} was not started", self.name))?;
        let mut before = Vec::new();
        let ready = async {
            while let Some(line) = lines.recv().await {
                if line == "ready" {
                    return true;
                }
                before.push(line);
            }
            false
        };
        match tokio::time::timeout(READY_WITHIN, ready).await {
            Ok(true) => Ok(before),
            Ok(false) => bail!("{} ended before it was ready; its own messages say why", self.name),
            Err(_) => bail!("{} did not say `ready` within {} s", self.name, READY_WITHIN.as_secs()),
        }
    }

    /// Its id, when it runs.
    pub fn pid(&mut self) -> Option<u32> {
        let child = self.child.as_mut()?;
        if matches!(child.try_wait(), Ok(Some(_))) {
            self.child = None;
            return None;
        }
        child.id()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("{}: the signal cannot be sent", self.name))
    }

    /// SIGKILL, and its end.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let ended = tokio::time::timeout(END_WITHIN, child.wait()).await;
        ended.with_context(|| format!("{} is not gone after SIGKILL", self.name))?.map(drop)?;
        Ok(())
    }

    /// SIGTERM and the end within `limit`; after it SIGKILL, which is an error.
    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Ok(status) = tokio::time::timeout(limit, child.wait()).await {
            let status = status.with_context(|| self.name.clone())?;
            anyhow::ensure!(status.success(), "{} ended with {status} after SIGTERM", self.name);
            return Ok(());
        }
        child.kill().await.with_context(|| format!("{} cannot be killed", self.name))?;
        bail!("{} did not end within {} s after SIGTERM and was killed", self.name, limit.as_secs())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.signal(Signal::CONT);
        let _ = self.signal(Signal::TERM);
        let Some(child) = &mut self.child else { return };
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = child.start_kill();
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::new("sh", "/bin/sh".into(), ["-c", script].map(OsString::from).to_vec())
    }

    #[tokio::test]
    async fn a_process_is_ready_stopped_and_started_again() {
        let mut process = shell("echo SIP 1; echo ready; exec sleep 60");
        assert_eq!(process.start().await.unwrap(), ["SIP 1"]);
        assert!(process.start().await.is_err(), "it runs already");
        process.kill().await.unwrap();
        assert!(process.kill().await.is_err(), "it does not run");
        // Under another program, and with its messages in a file: it is still the process that is signalled.
        let log = tempfile::NamedTempFile::new().unwrap();
        process.under = ["env", "TOLD=yes"].map(String::from).to_vec();
        process.arguments =
            ["-c", "echo $TOLD >&2; echo SIP 1; echo ready; exec sleep 60"].map(Into::into).to_vec();
        process.log = Some(log.path().to_owned());
        assert_eq!(process.start().await.unwrap(), ["SIP 1"]);
        assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "yes\n");
        let error = process.stop(Duration::from_secs(10)).await.unwrap_err();
        assert!(error.to_string().contains("signal"), "sleep does not drain: {error}");
    }

    #[tokio::test]
    async fn one_that_does_not_drain_is_killed_and_told() {
        let mut process = shell("trap '' TERM; echo ready; while true; do sleep 0.1; done");
        process.start().await.unwrap();
        let error = process.stop(Duration::from_millis(300)).await.unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
        assert_eq!(process.pid(), None);
    }

    #[tokio::test]
    async fn one_that_ends_early_is_told() {
        let error = shell("echo no").start().await.unwrap_err().to_string();
        assert!(error.contains("ended before it was ready"), "{error}");
    }
}
