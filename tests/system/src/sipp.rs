//! sipp: its own scenarios and those in `sipp/`.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{here, net, process::Program, s};

/// sipp with a scenario against a target.
#[derive(Debug, Clone)]
pub struct Sipp {
    name: String,
    scenario: [String; 2],
    target: SocketAddr,
    service: String,
    calls: u32,
    rate: u32,
    tcp: bool,
    local: IpAddr,
    keys: Vec<(String, String)>,
    limit: Duration,
    more: Vec<String>,
}

impl Sipp {
    /// A scenario that sipp brings along (`uac`).
    pub fn built_in(scenario: &str, target: SocketAddr) -> Self {
        Self::new(scenario, ["-sn".into(), scenario.into()], target)
    }

    /// A scenario of ours: `sipp/<scenario>.xml`.
    pub fn own(scenario: &str, target: SocketAddr) -> Self {
        let path = here().join("sipp").join(format!("{scenario}.xml"));
        Self::new(scenario, ["-sf".into(), path.display().to_string()], target)
    }

    fn new(name: &str, scenario: [String; 2], target: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            scenario,
            target,
            service: "support".to_owned(),
            calls: 1,
            rate: 10,
            tcp: false,
            local: Ipv4Addr::LOCALHOST.into(),
            keys: Vec::new(),
            limit: s(60),
            more: Vec::new(),
        }
    }

    /// Whom to call.
    pub fn service(mut self, service: &str) -> Self {
        self.service = service.to_owned();
        self
    }

    /// Another name for its files.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// How many calls, and how many are begun in a second.
    pub fn calls(mut self, calls: u32, rate: u32) -> Self {
        (self.calls, self.rate) = (calls, rate);
        self
    }

    /// Over one TCP connection instead of UDP.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self.name.push_str("-tcp");
        self
    }

    /// From another address than 127.0.0.1.
    pub fn from_address(mut self, local: IpAddr) -> Self {
        self.local = local;
        self
    }

    /// The value of `[name]` in the scenario.
    pub fn key(mut self, name: &str, value: &str) -> Self {
        self.keys.push((name.to_owned(), value.to_owned()));
        self
    }

    /// After this long it gives up and fails.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// One more argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.more.push(argument.to_owned());
        self
    }

    /// Starts it in a folder of its own under `folder`.
    pub fn start(&self, folder: &Path) -> Result<Calling> {
        let folder = folder.join(format!("sipp-{}", self.name));
        fs::create_dir_all(&folder)?;
        pcap_link(&folder)?;
        let (signalling, media) = (net::address()?, net::address()?);
        let mut command = Command::new("sipp");
        command
            .current_dir(&folder)
            .env("TERM", "dumb")
            .args(&self.scenario)
            .args([
                "-i",
                &self.local.to_string(),
                "-p",
                &signalling.port().to_string(),
                "-mp",
                &media.port().to_string(),
            ])
            .args(["-s", &self.service, "-m", &self.calls.to_string(), "-r", &self.rate.to_string()])
            .args(["-l", &self.calls.to_string()])
            .args(["-t", if self.tcp { "t1" } else { "u1" }])
            .args(["-timeout", &format!("{}s", self.limit.as_secs()), "-timeout_error"])
            .args(["-trace_err", "-error_file", "errors.log", "-trace_msg", "-message_file", "messages.log"])
            .args(["-trace_stat", "-stf", "statistics.csv", "-fd", "1", "-nostdin"]);
        for (name, value) in &self.keys {
            command.args(["-key", name, value]);
        }
        command.args(&self.more).arg(self.target.to_string());
        let program = Program::start("sipp", &folder, &mut command)?;
        Ok(Calling { name: self.name.clone(), calls: self.calls, limit: self.limit, folder, program })
    }

    /// Starts it and waits until every call has gone as the scenario says.
    pub async fn run(&self, folder: &Path) -> Result<Finished> {
        self.start(folder)?.succeed().await
    }
}

/// sipp at work.
#[derive(Debug)]
pub struct Calling {
    name: String,
    calls: u32,
    limit: Duration,
    folder: PathBuf,
    program: Program,
}

impl Calling {
    /// Waits for the end; every call must have gone as the scenario says.
    pub async fn succeed(self) -> Result<Finished> {
        let name = self.name.clone();
        let calls = self.calls;
        let finished = self.finish().await?;
        let statistics = &finished.statistics;
        ensure!(
            finished.code == Some(0) && statistics.successful == calls && statistics.failed == 0,
            "sipp {name}: exit code {:?}, {} of {calls} calls as the scenario says, {} failed\n{}",
            finished.code,
            statistics.successful,
            statistics.failed,
            finished.errors(),
        );
        Ok(finished)
    }

    /// Waits for the end, however it is.
    pub async fn finish(mut self) -> Result<Finished> {
        let status =
            self.program.wait(self.limit + s(10)).await.with_context(|| format!("sipp {}", self.name))?;
        let statistics = Statistics::read(&self.folder.join("statistics.csv"))
            .with_context(|| format!("sipp {}: {}", self.name, self.program.stderr()))?;
        Ok(Finished { code: status.code(), statistics, folder: self.folder.clone() })
    }

    /// Ends it at once: its callers vanish without a word.
    pub fn kill(mut self) -> Result<()> {
        self.program.kill().map(drop)
    }

    /// Its numbers so far (written every second).
    pub fn statistics(&self) -> Result<Statistics> {
        Statistics::read(&self.folder.join("statistics.csv"))
    }
}

/// sipp has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code.
    pub code: Option<i32>,
    /// Its numbers.
    pub statistics: Statistics,
    folder: PathBuf,
}

impl Finished {
    /// What it found wrong.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.join("errors.log")).unwrap_or_default()
    }

    /// Every message that was received, in order.
    pub fn received(&self) -> Result<Vec<String>> {
        let path = self.folder.join("messages.log");
        let log = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let rule = "-----------------------------------------------";
        Ok(log
            .split(rule)
            .filter_map(|entry| entry.split_once("message received"))
            .filter_map(|(_, rest)| rest.split_once("\n\n").or_else(|| rest.split_once("\r\n\r\n")))
            .map(|(_, message)| message.trim().to_owned())
            .collect())
    }
}

/// Totals of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Calls begun.
    pub created: u32,
    /// Calls that went as the scenario says.
    pub successful: u32,
    /// Calls that did not.
    pub failed: u32,
    /// Requests that had to be sent again.
    pub retransmissions: u32,
}

impl Statistics {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let names: Vec<&str> = lines.next().context("no statistics")?.split(';').collect();
        let Some(last) = lines.next_back() else { return Ok(Self::default()) };
        let values: Vec<&str> = last.split(';').collect();
        let value = |name: &str| {
            let at = names.iter().position(|n| *n == name).with_context(|| format!("no column {name}"))?;
            values.get(at).context("a line cut short")?.parse::<u32>().context(name.to_owned())
        };
        Ok(Self {
            created: value("TotalCallCreated")?,
            successful: value("SuccessfulCall(C)")?,
            failed: value("FailedCall(C)")?,
            retransmissions: value("Retransmissions(C)")?,
        })
    }
}

/// The scenario `uac_pcap` looks for its captures in a folder `pcap`.
fn pcap_link(folder: &Path) -> Result<()> {
    let link = folder.join("pcap");
    if link.exists() {
        return Ok(());
    }
    std::os::unix::fs::symlink("/usr/share/sip-tester", &link).with_context(|| format!("{}", link.display()))
}
