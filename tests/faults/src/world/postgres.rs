//! A real PostgreSQL on a host of its own, made by initdb for this run.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use trunkline_system_tests::{process::Program, s, until};

use crate::net::{Network, SUBNET};

const HOST: &str = "postgres";
const PORT: u16 = 5432;
const READY_WITHIN: Duration = s(30);

/// The server.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    logs: PathBuf,
    address: Ipv4Addr,
    program: Option<Program>,
    starts: u32,
}

impl Postgres {
    /// Makes a cluster under `data`, starts it on the host `postgres` and makes the database.
    pub async fn start(network: &mut Network, data: &Path, logs: &Path) -> Result<Self> {
        let bin = binaries()?;
        let address = network.host(HOST)?;
        let data = data.join("postgres");
        fs::create_dir_all(&data).with_context(|| format!("{}", data.display()))?;
        run(Command::new("chown").arg("postgres:").arg(&data))?;
        let mut initdb = as_postgres(Command::new("setpriv"), &bin.join("initdb"));
        run(initdb
            .args(["--username", "trunkline", "--auth", "trust", "--encoding", "UTF8", "--no-locale"])
            .args(["--no-sync", "--pgdata"])
            .arg(&data))?;
        let mut rights = OpenOptions::new().append(true).open(data.join("pg_hba.conf"))?;
        writeln!(rights, "host all all {SUBNET} trust")?;
        let mut postgres = Self { bin, data, logs: logs.to_owned(), address, program: None, starts: 0 };
        postgres.start_again(network).await?;
        postgres.psql(network, "postgres", "create database trunkline")?;
        Ok(postgres)
    }

    /// What nodes are configured with.
    pub fn url(&self) -> String {
        format!("postgres://trunkline@{}:{PORT}/trunkline", self.address)
    }

    /// Process id of the postmaster, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.program.as_ref().map(Program::pid)
    }

    /// SIGKILL to the postmaster; its children follow by themselves.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut program) = self.program.take() {
            program.kill()?;
        }
        Ok(())
    }

    /// Starts on the same data and waits until it takes statements.
    pub async fn start_again(&mut self, network: &Network) -> Result<()> {
        let begun = tokio::time::Instant::now();
        loop {
            self.starts += 1;
            let name = format!("{HOST}-{}", self.starts);
            let command = network.command(HOST, "setpriv")?;
            let mut command = as_postgres(command, &self.bin.join("postgres"));
            command.args(["-c", "listen_addresses=*", "-c", &format!("port={PORT}")]);
            command.args(["-c", "max_connections=300", "-c", "fsync=on"]);
            // Nothing of it is left in /dev/shm after a kill.
            command.args(["-c", "dynamic_shared_memory_type=mmap"]);
            command.arg("-c").arg(format!("unix_socket_directories={}", self.data.display()));
            command.arg("-D").arg(&self.data);
            self.program = Some(Program::start(&name, &self.logs, &mut command)?);
            let ready = until("PostgreSQL takes statements", READY_WITHIN, || {
                let ended = self.program.as_mut().map(Program::poll).transpose();
                let ready = self.psql(network, "postgres", "select 1").is_ok();
                std::future::ready(match ended {
                    Ok(Some(Some(status))) => Err(anyhow::anyhow!("postgres ended: {status}")),
                    Ok(_) => Ok(ready.then_some(())),
                    Err(error) => Err(error),
                })
            })
            .await;
            // Children of a killed server may hold its memory for a moment: the next try succeeds.
            if ready.is_ok() || begun.elapsed() > READY_WITHIN {
                return ready;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Carries statements out.
    pub fn psql(&self, network: &Network, database: &str, statement: &str) -> Result<()> {
        let mut command = network.command(HOST, self.bin.join("psql"))?;
        command.args(["-q", "-h", &self.address.to_string(), "-p", &PORT.to_string(), "-U", "trunkline"]);
        run(command.args(["-d", database, "-c", statement]))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: it ends at once, and gives back what it has of the kernel, which SIGKILL would leave behind.
        if let Some(program) = &mut self.program {
            let _ = program.signal("-QUIT");
            let deadline = std::time::Instant::now() + s(3);
            while std::time::Instant::now() < deadline && matches!(program.poll(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Where Debian puts the newest version.
fn binaries() -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is missing: install postgresql-15")?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop().context("PostgreSQL is missing: install postgresql-15")
}

/// PostgreSQL refuses to be root.
fn as_postgres(mut command: Command, program: &Path) -> Command {
    command
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--pdeathsig", "KILL"])
        .arg(program)
        .current_dir("/");
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
