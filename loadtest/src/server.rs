//! The process that is measured: started here or given by its id, read from /proc.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A cold start of a release build takes 1 s; hashing the passwords of 1,000 agents adds to it.
const START_LIMIT: Duration = Duration::from_secs(180);

/// Where the system listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// SIP over UDP.
    pub sip: SocketAddr,
    /// HTTP and WebSocket.
    pub http: SocketAddr,
}

/// The measured process.
pub struct Server {
    /// Its process id; `None` = nothing can be measured about it.
    pub pid: Option<u32>,
    /// Where it listens.
    pub at: Addresses,
    child: Option<Child>,
}

/// What the kernel says about a process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all threads, ended ones included.
    pub cpu: Duration,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Server {
    /// A running system.
    pub fn running(pid: Option<u32>, at: Addresses) -> Self {
        Self { pid, at, child: None }
    }

    /// Starts `trunkline dev` with free ports and waits for its line `ready`.
    pub fn spawn(program: &Path, agents: usize, rtp: &str) -> Result<Self> {
        let mut child = Command::new(program)
            .args([
                "dev",
                "--sip",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--metrics",
                "127.0.0.1:0",
                "--log",
                "error",
            ])
            .args(["--rtp", rtp, "--agents", &agents.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("--spawn {}: cannot be started", program.display()))?;
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::sync_channel(64);
        std::thread::spawn(move || {
            // Read on after `ready`, so that the pipe never fills.
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                let _ = sender.try_send(line);
            }
        });
        let mut server =
            Self { pid: Some(child.id()), at: Addresses { sip: unset(), http: unset() }, child: Some(child) };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).context("the server ended or did not say `ready` in time")?;
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["SIP", address, ..] => server.at.sip = address.parse().with_context(|| line.clone())?,
                ["agents", address, ..] => {
                    let address = address.trim_start_matches("http://").split('/').next().unwrap_or_default();
                    server.at.http = address.parse().with_context(|| line.clone())?;
                }
                ["ready"] => break,
                _ => {}
            }
        }
        if server.at.sip.port() == 0 || server.at.http.port() == 0 {
            bail!("the server did not print its SIP and agent addresses");
        }
        Ok(server)
    }

    /// Now, or `None` when no process was named.
    pub fn usage(&self) -> Result<Option<Usage>> {
        self.pid.map(usage).transpose()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // SIGTERM drains; the standard library has only SIGKILL.
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn unset() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn usage(pid: u32) -> Result<Usage> {
    let folder = format!("/proc/{pid}");
    let gone = || format!("--pid {pid}: no such process");
    let stat = std::fs::read_to_string(format!("{folder}/stat")).with_context(gone)?;
    let status = std::fs::read_to_string(format!("{folder}/status")).with_context(gone)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(Usage {
        cpu: cpu(&stat).with_context(|| format!("{folder}/stat is not as expected"))?,
        rss_bytes: field("VmRSS:") * 1_024,
        threads: field("Threads:"),
        descriptors: std::fs::read_dir(format!("{folder}/fd")).map_or(0, |entries| entries.count() as u64),
    })
}

/// utime and stime, fields 14 and 15 of proc(5), in ticks of 10 ms (USER_HZ is 100 on every Linux). The name in field 2
/// may contain anything, so counting begins after its closing bracket.
fn cpu(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_read_after_the_name_whatever_it_is() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 100 1 1 1";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("7 nonsense"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000 && usage.threads >= 1 && usage.descriptors >= 3);
    }
}
