//! What is measured: processes that are started here or given by their ids.

mod fleet;
mod process;
mod scrape;
mod usage;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

pub use fleet::Fleet;
pub use process::Process;
pub use scrape::{scrape, sum as scrape_sum};
pub use usage::{Usage, exact, family, threads, usage};

use crate::args::ServerArgs;

/// Where the system listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// SIP over UDP.
    pub sip: SocketAddr,
    /// HTTP and WebSocket.
    pub http: SocketAddr,
    /// Prometheus.
    pub metrics: Option<SocketAddr>,
}

/// One process with every role.
pub struct Server {
    /// Its process id; `None` = nothing can be measured about it.
    pub pid: Option<u32>,
    /// Where it listens.
    pub at: Addresses,
    _process: Option<Process>,
}

impl Server {
    /// The one that the command line names, with so many sample agents and these options of `dev` when it is started here.
    pub async fn of(args: &ServerArgs, agents: usize, options: &[String]) -> Result<Self> {
        let Some(program) = &args.spawn else {
            let at = Addresses { sip: args.sip(), http: args.http(), metrics: None };
            return Ok(Self { pid: args.pid.first().map(|(_, pid)| *pid), at, _process: None });
        };
        let mut process = Process::new("dev", program.clone(), dev(None, &args.rtp, agents, options));
        let at = addresses(&process.start().await?)?;
        Ok(Self { pid: process.pid(), at, _process: Some(process) })
    }

    /// Now, or `None` when no process was named.
    pub fn usage(&self) -> Result<Option<Usage>> {
        self.pid.map(usage).transpose()
    }
}

/// Arguments of `trunkline dev`; without addresses on free ports.
fn dev(at: Option<Addresses>, rtp: &str, agents: usize, options: &[String]) -> Vec<OsString> {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let (sip, http) = at.map_or((free, free), |at| (at.sip, at.http));
    let metrics = at.and_then(|at| at.metrics).unwrap_or(free);
    let mut arguments: Vec<OsString> = vec!["dev".into()];
    for (name, value) in [
        ("--sip", sip.to_string()),
        ("--http", http.to_string()),
        ("--metrics", metrics.to_string()),
        ("--log", "error".into()),
        ("--rtp", rtp.to_owned()),
        ("--agents", agents.to_string()),
    ] {
        if !options.iter().any(|option| option == name) {
            arguments.extend([OsString::from(name), value.into()]);
        }
    }
    arguments.extend(options.iter().map(OsString::from));
    arguments
}

/// Reads the addresses out of what `trunkline dev` says before it is ready.
fn addresses(lines: &[String]) -> Result<Addresses> {
    let (mut sip, mut http, mut metrics) = (None, None, None);
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let place = |address: &str| {
            let address = address.trim_start_matches("http://").split('/').next().unwrap_or_default();
            address.parse::<SocketAddr>().with_context(|| line.clone()).map(Some)
        };
        match words.as_slice() {
            ["SIP", address, ..] => sip = place(address)?,
            ["agents", address, ..] => http = place(address)?,
            ["metrics", address, ..] => metrics = place(address)?,
            _ => {}
        }
    }
    match (sip, http) {
        (Some(sip), Some(http)) => Ok(Addresses { sip, http, metrics }),
        _ => bail!("the server did not print its SIP and agent addresses"),
    }
}

/// The binary: the one that was named, or `trunkline` beside this program.
pub fn program(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let here = std::env::current_exe().context("where this program is")?;
    let beside = here.with_file_name("trunkline");
    if beside.is_file() {
        return Ok(beside);
    }
    bail!(
        "{} is not there: build it (cargo build --release -p trunkline) or name another with --program PATH",
        beside.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dev_says_tells_its_addresses() {
        let lines = [
            "  agents      http://127.0.0.1:8080/agent       sign in as alice",
            "  SIP         127.0.0.1:5060 (UDP and TCP): `support` is a queue",
            "  metrics     http://127.0.0.1:9090/metrics",
        ];
        let at = addresses(&lines.map(String::from)).unwrap();
        assert_eq!((at.sip.port(), at.http.port(), at.metrics.unwrap().port()), (5060, 8080, 9090));
        assert!(addresses(&["ready".to_owned()]).is_err());
    }

    #[test]
    fn options_of_a_scenario_win() {
        let given = dev(None, "1-2", 3, &["--agents".into(), "7".into()]);
        assert_eq!(given.iter().filter(|argument| *argument == "--agents").count(), 1);
        assert!(given.ends_with(&["--agents".into(), "7".into()]));
    }
}
