//! `trunkline dev` under test.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{api::Api, folder, net, process::Program, s, target};

/// A debug build on a busy machine.
const READY_WITHIN: Duration = s(60);
/// SIGTERM drains: ends what cannot go on, waits for what can.
const DRAINED_WITHIN: Duration = s(30);

/// How the system is started.
#[derive(Debug, Clone)]
pub struct Setup {
    folder: PathBuf,
    sip: SocketAddr,
    http: SocketAddr,
    metrics: SocketAddr,
    flags: Vec<[String; 2]>,
    environment: Vec<(&'static str, String)>,
    data: Arc<TempDir>,
    starts: u32,
}

impl Setup {
    /// On free addresses; what it writes goes to the folder of the test.
    pub fn new(test: &str) -> Result<Self> {
        let (sip, http, metrics) = (net::address()?, net::address()?, net::address()?);
        let flags = [
            ("--sip", sip.to_string()),
            ("--http", http.to_string()),
            ("--metrics", metrics.to_string()),
            ("--rtp", net::rtp_range()?),
        ];
        let flags = flags.map(|(name, value)| [name.to_owned(), value]).to_vec();
        Ok(Self {
            folder: folder(test)?,
            sip,
            http,
            metrics,
            flags,
            environment: Vec::new(),
            data: Arc::new(data_folder()?),
            starts: 0,
        })
    }

    /// With one more flag and its value, or with another value.
    pub fn flag(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.flags.retain(|[known, _]| known != name);
        self.flags.push([name.to_owned(), value.as_ref().to_owned()]);
        self
    }

    /// With a configuration file.
    pub fn config(self, yaml: &str) -> Result<Self> {
        let file = self.folder.join("trunkline.yaml");
        fs::write(&file, yaml).with_context(|| format!("{}", file.display()))?;
        Ok(self.flag("--config", file.display().to_string()))
    }

    /// With a folder for everything that survives a restart.
    pub fn data_dir(self) -> Self {
        let data = self.data_path().display().to_string();
        self.flag("--data-dir", data)
    }

    /// With more variables in its environment.
    pub fn environment(mut self, more: Vec<(&'static str, String)>) -> Self {
        self.environment.extend(more);
        self
    }

    /// The folder of the test.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `data_dir` names.
    pub fn data_path(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// The command line as it will be started.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(binary()?);
        // The configuration is read from the environment too: nothing of the test run's own may get there.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TRUNKLINE_"))
        {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().cloned());
        command.env("TMPDIR", self.data.path()).arg("dev").args(self.flags.iter().flatten());
        Ok(command)
    }

    /// Starts the system and waits for its line `ready`.
    pub async fn start(mut self) -> Result<System> {
        self.starts += 1;
        let name = format!("trunkline-{}", self.starts);
        let mut program = Program::start(&name, &self.folder, &mut self.command()?)?;
        program.line("the line `ready`", READY_WITHIN, |line| (line == "ready").then_some(())).await?;
        Ok(System { setup: self, program })
    }
}

/// A running system.
#[derive(Debug)]
pub struct System {
    // Dropped first: the folder of its data goes away with the set-up.
    program: Program,
    setup: Setup,
}

impl System {
    /// Starts with defaults.
    pub async fn start(test: &str) -> Result<Self> {
        Setup::new(test)?.start().await
    }

    /// Where it takes SIP.
    pub fn sip(&self) -> SocketAddr {
        self.setup.sip
    }

    /// Where it serves pages and the API.
    pub fn http(&self) -> SocketAddr {
        self.setup.http
    }

    /// Where it serves metrics.
    pub fn metrics(&self) -> SocketAddr {
        self.setup.metrics
    }

    /// The folder of the test.
    pub fn folder(&self) -> &Path {
        &self.setup.folder
    }

    /// The process.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Signed in as a supervisor.
    pub async fn supervisor(&self) -> Result<Api> {
        Api::sign_in(self.http(), "sue").await
    }

    /// Resident memory.
    pub fn memory_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.program.pid());
        let text = fs::read_to_string(&path).context(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.program.pid());
        Ok(fs::read_dir(&path).context(path)?.count())
    }

    /// SIGTERM: it must drain and exit 0.
    pub async fn stop(mut self) -> Result<Setup> {
        self.program.terminate()?;
        self.program.succeed(DRAINED_WITHIN).await.context("SIGTERM must drain and exit 0")?;
        Ok(self.setup)
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<(Setup, ExitStatus)> {
        let status = self.program.kill()?;
        Ok((self.setup, status))
    }
}

/// The binary under test.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("TRUNKLINE_BIN") {
        Some(path) => PathBuf::from(path),
        None => target()?.join("debug/trunkline"),
    };
    ensure!(path.is_file(), "{} is not there: `cargo build -p trunkline` makes it", path.display());
    Ok(path)
}

/// Where the system's data is: in memory when the machine has such a folder. A test run shares its disk with builds, and a
/// `fsync` that takes seconds there says nothing about the system; what a process that is killed leaves is the same.
fn data_folder() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("trunkline-test-");
    let made = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    made.context("a folder for the system's data")
}
