//! The processes of a run: one with every role, or the nodes of a cluster, and others that are only watched.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{Process, addresses, dev, program, scrape, scrape_sum};
use crate::scenario::{Event, ReadyWhen, Scenario, SignalName, Target};

/// A command of an event may take this long.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// What [`ReadyWhen`] asks for comes about in this time.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(200);
/// UDP ports for RTP of a process that is started here.
const RTP: &str = "20000-31999";

/// Processes by name. Dropped, the ones that were started here are ended, then their data goes.
#[derive(Debug, Default)]
pub struct Fleet {
    processes: Vec<Process>,
    watched: Vec<(String, u32)>,
    /// What is run before a process is stopped, by its name.
    before_stop: BTreeMap<String, Vec<String>>,
    ready_when: Vec<ReadyWhen>,
    /// Where the system is.
    pub target: Target,
    _data: Option<TempDir>,
}

impl Fleet {
    /// Starts what the scenario asks for. `folder` is the scenario's, for paths in it; `named` the binary of the command
    /// line, `watched` further processes of it. What `target` of the command line names wins.
    pub async fn start(
        scenario: &Scenario,
        folder: &Path,
        named: Option<&Path>,
        watched: Vec<(String, u32)>,
        target: Target,
    ) -> Result<Self> {
        // An address on the command line means a system that runs already.
        let runs = !target.sip.is_empty();
        let mut fleet = Self { watched, target: target.or(&scenario.target), ..Self::default() };
        let Some(system) = scenario.system.as_ref().filter(|_| !runs) else {
            fleet.target.fill();
            return Ok(fleet);
        };
        fleet.watched.extend(system.watch.iter().map(|watch| (watch.name.clone(), watch.pid)));
        let binary = || program(named.or(system.program.as_deref()));
        if let Some(wanted) = &system.dev {
            let mut options = wanted.options.clone();
            if wanted.keep_data {
                let data = tempfile::Builder::new().prefix("trunkline-load-").tempdir()?;
                options.extend(["--data-dir".into(), data.path().display().to_string()]);
                fleet._data = Some(data);
            }
            let agents = scenario.agents.count;
            let mut process = Process::new("dev", binary()?, dev(None, RTP, agents, &options));
            let at = addresses(&process.start().await?)?;
            // Started again, it is where it was.
            process.arguments = dev(Some(at), RTP, agents, &options);
            let metrics = at.metrics.into_iter().collect();
            fleet.target = Target { sip: vec![at.sip], http: vec![at.http], metrics }.or(&fleet.target);
            fleet.processes.push(process);
        }
        for node in &system.nodes {
            let binary = node.program.clone().map_or_else(binary, Ok)?;
            let config = folder.join(&node.config);
            anyhow::ensure!(config.is_file(), "{}: {} is not there", node.name, config.display());
            let mut arguments = vec!["run".into(), "--config".into(), config.into_os_string()];
            if !node.roles.is_empty() {
                arguments.extend(["--roles".into(), node.roles.join(",").into()]);
            }
            let mut process = Process::new(&node.name, binary, arguments);
            process.under.clone_from(&node.under);
            process.log = node.log.as_ref().map(|log| folder.join(log));
            process.spawn()?;
            fleet.processes.push(process);
            if !node.before_stop.is_empty() {
                fleet.before_stop.insert(node.name.clone(), node.before_stop.clone());
            }
        }
        // None of them may be whole before the others are there.
        for process in fleet.processes.iter_mut().filter(|process| process.name != "dev") {
            process.ready().await?;
        }
        fleet.target.fill();
        fleet.ready_when.clone_from(&system.ready_when);
        fleet.settled().await?;
        Ok(fleet)
    }

    /// Waits until the metrics show together what the scenario wants.
    async fn settled(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        for wanted in &self.ready_when {
            loop {
                let mut shown = Vec::with_capacity(self.target.metrics.len());
                for at in &self.target.metrics {
                    // One that was killed shows nothing.
                    let page = scrape(*at).await.unwrap_or_default();
                    shown.push(scrape_sum(&page, &wanted.metric).unwrap_or(0.0));
                }
                if wanted.holds(&shown) {
                    break;
                }
                let (seconds, metric) = (SETTLED_WITHIN.as_secs(), &wanted.metric);
                ensure!(Instant::now() < deadline, "not ready within {seconds} s: {metric} is {shown:?}");
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Names and ids of all that run.
    pub fn pids(&mut self) -> Vec<(String, u32)> {
        let started = self.processes.iter_mut().filter_map(|p| Some((p.name.clone(), p.pid()?)));
        started.chain(self.watched.iter().cloned()).collect()
    }

    fn process(&mut self, name: &str) -> Result<&mut Process> {
        let process = self.processes.iter_mut().find(|process| process.name == name);
        process.with_context(|| format!("{name} was not started by this run"))
    }

    /// Does what an event says; for the nodes of a cluster, until they are ready again together.
    pub async fn perform(&mut self, event: &Event) -> Result<()> {
        if let Some(command) = &event.run {
            return run(command).await;
        }
        if let Some(wanted) = &event.signal {
            return self.process(&wanted.process)?.signal(signal(wanted.signal));
        }
        if let Some(name) = &event.kill {
            return self.process(name)?.kill().await;
        }
        if let Some(name) = &event.start {
            self.process(name)?.start().await?;
            return self.settled().await;
        }
        if let Some(wanted) = &event.restart {
            if let Some(command) = self.before_stop.get(&wanted.process) {
                run(command).await.with_context(|| format!("before {} is stopped", wanted.process))?;
            }
            let process = self.process(&wanted.process)?;
            let drained = process.stop(wanted.within.0).await;
            if let Some(program) = &wanted.program {
                process.program.clone_from(program);
            }
            process.start().await?;
            drained?;
            return self.settled().await;
        }
        Ok(())
    }
}

fn signal(name: SignalName) -> Signal {
    match name {
        SignalName::Kill => Signal::KILL,
        SignalName::Term => Signal::TERM,
        SignalName::Stop => Signal::STOP,
        SignalName::Cont => Signal::CONT,
        SignalName::Int => Signal::INT,
        SignalName::Hup => Signal::HUP,
        SignalName::Usr1 => Signal::USR1,
        SignalName::Usr2 => Signal::USR2,
    }
}

async fn run(command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let status = tokio::time::timeout(COMMAND_WITHIN, command.status())
        .await
        .with_context(|| format!("{program} took longer than {} s", COMMAND_WITHIN.as_secs()))?
        .with_context(|| format!("{program} cannot be started"))?;
    anyhow::ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}

impl Target {
    /// What is named here, and elsewhere what `other` names.
    fn or(self, other: &Self) -> Self {
        let choose =
            |own: Vec<SocketAddr>, other: &[SocketAddr]| if own.is_empty() { other.to_vec() } else { own };
        Self {
            sip: choose(self.sip, &other.sip),
            http: choose(self.http, &other.http),
            metrics: choose(self.metrics, &other.metrics),
        }
    }

    /// Where `trunkline dev` is when nobody says otherwise.
    fn fill(&mut self) {
        if self.sip.is_empty() {
            self.sip.push(([127, 0, 0, 1], 5060).into());
        }
        if self.http.is_empty() {
            self.http.push(([127, 0, 0, 1], 8080).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str = "name: x\ncallers: { phases: [ { for: 1s, rate: 1 } ] }\n\
        events:\n  - { at: 0s, run: [\"false\"] }\n  - { at: 0s, run: [\"true\"] }\n";

    /// A scenario without a system leaves the addresses to the command line and then to the defaults; events report what
    /// did not work.
    #[tokio::test]
    async fn addresses_and_events_without_a_system() {
        let scenario = Scenario::parse("x", SCENARIO).unwrap();
        let target = Target { sip: vec!["10.0.0.1:5070".parse().unwrap()], ..Target::default() };
        let mut fleet =
            Fleet::start(&scenario, Path::new("."), None, vec![("self".into(), 1)], target).await.unwrap();
        assert_eq!(fleet.target.sip, ["10.0.0.1:5070".parse().unwrap()]);
        assert_eq!(fleet.target.http, ["127.0.0.1:8080".parse().unwrap()]);
        assert_eq!(fleet.pids(), [("self".to_owned(), 1)]);
        let error = fleet.perform(&scenario.events[0]).await.unwrap_err();
        assert!(error.to_string().contains("false ended with"), "{error}");
        fleet.perform(&scenario.events[1]).await.unwrap();
    }
}
