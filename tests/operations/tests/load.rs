//! Proves that the load generator's scenarios for clusters hold on one of real processes that the generator itself starts,
//! kills and restarts: a control node that is killed under load, and an upgrade of every node, without a failed call and
//! without a caller with two agents.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_yaml_ng::{Value, from_str, to_string};
use trunkline_faults::world::{SIP_PORT, VIRTUAL_SIP};
use trunkline_loadtest::{
    args::{PlayArgs, ServerArgs},
    report::{self, Report},
    run,
    scenario::builtin,
};
use trunkline_operations_tests::lab::{Lab, on_network};
use trunkline_system_tests::system;

const NODES: [(&str, &str); 6] = [
    ("c1", "call,acd"),
    ("c2", "call,acd"),
    ("m1", "media"),
    ("m2", "media"),
    ("e1", "edge,console,records"),
    ("e2", "edge,console,records"),
];
const AGENTS: usize = 8;
/// Calls a second: debug builds, everything on one machine.
const RATE: f64 = 2.0;

/// Share of the calls that may have been shed while nothing was done to the cluster.
const MOST_SHED: f64 = 0.05;
/// What an event does to a call is seen within this time of it.
const AFTER_S: usize = 10;

/// What a shipped scenario leaves to its reader: where the nodes of this lab are, and how one gets there.
struct Place<'a> {
    lab: &'a Lab,
    folder: &'a Path,
}

impl Place<'_> {
    /// The scenario of this name with the lab's nodes in it; everything else is as it is shipped. Without `shares` a node is
    /// restarted as soon as the one before it says that it is ready, whether or not it has its share of the shards again.
    fn scenario(&self, name: &str, seconds: u64, shares: bool, next: Option<&Path>) -> Result<String> {
        let mut scenario: Value = from_str(builtin(name).with_context(|| format!("no scenario {name}"))?)?;
        let all = |addresses: Vec<std::net::SocketAddr>| {
            addresses.iter().map(|address| Value::from(address.to_string())).collect::<Vec<_>>()
        };
        scenario["target"]["sip"] = vec![Value::from(format!("{VIRTUAL_SIP}:{SIP_PORT}"))].into();
        scenario["target"]["http"] = all(self.lab.consoles()).into();
        scenario["target"]["metrics"] = all(self.lab.metrics()).into();
        let nodes = scenario["system"]["nodes"].as_sequence_mut().context("no nodes")?;
        ensure!(nodes.len() == NODES.len(), "the lab has other nodes than {name}");
        for node in nodes {
            let name = node["name"].as_str().context("a node without a name")?.to_owned();
            node["config"] = self.lab.config(&name).display().to_string().into();
            node["under"] = self.under(&name)?.into();
            node["log"] = format!("{name}.err").into();
            if let Some(before) = node.get_mut("before_stop") {
                let other = before[1].as_str().context("before_stop names the other edge")?.to_owned();
                *before = vec![Value::from(self.lead_callers_to(&other)?.display().to_string())].into();
            }
        }
        for event in scenario["events"].as_sequence_mut().into_iter().flatten() {
            if let (Some(restart), Some(next)) = (event.get_mut("restart"), next) {
                restart["program"] = next.display().to_string().into();
            }
        }
        if !shares {
            let ready = scenario["system"]["ready_when"].as_sequence_mut().context("no ready_when")?;
            ready.retain(|wanted| wanted.get("least").is_none());
        }
        let phases = scenario["callers"]["phases"].as_sequence_mut().context("no phases")?;
        ensure!(phases.len() == 1, "{name} has several phases");
        phases[0]["rate"] = RATE.into();
        phases[0]["for"] = format!("{seconds}s").into();
        // What a stall of this machine costs is judged here, see `nobody_failed`.
        scenario["expect"]["failed"] = MOST_SHED.into();
        Ok(to_string(&scenario)?)
    }

    /// What puts a program on a host.
    fn under(&self, host: &str) -> Result<Vec<String>> {
        let command = self.lab.network.command(host, "program")?;
        let mut words = vec![command.get_program().to_string_lossy().into_owned()];
        words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
        words.pop();
        Ok(words)
    }

    /// A program that moves the callers' SIP address, as a load balancer's would.
    fn lead_callers_to(&self, edge: &str) -> Result<PathBuf> {
        let lines = self.lab.network.take_address_lines(edge, VIRTUAL_SIP)?;
        program(&self.folder.join(format!("lead-callers-to-{edge}")), &format!("set -e\n{lines}"))
    }

    /// Another program that is a node: it writes down whom it was started as.
    fn next(&self) -> Result<PathBuf> {
        let (told, binary) = (self.folder.join("next.log"), system::binary()?);
        let text = format!("echo \"$*\" >> {}\nexec {} \"$@\"\n", told.display(), binary.display());
        program(&self.folder.join("next-trunkline"), &text)
    }
}

fn program(path: &Path, text: &str) -> Result<PathBuf> {
    fs::write(path, format!("#!/bin/sh\n{text}")).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_owned())
}

/// Plays a scenario on a lab whose nodes are the generator's own, and lets it judge.
async fn play(lab: &Lab, folder: &Path, text: &str, name: &str) -> Result<Report> {
    let server = ServerArgs { spawn: Some(system::binary()?), ..ServerArgs::default() };
    let bind = lab.place()?.bind.to_string();
    let args = PlayArgs { agents: Some(AGENTS), bind, ..PlayArgs::default() };
    let file = folder.join(format!("{name}.yaml"));
    fs::write(&file, text)?;
    let played = Box::pin(run::play(text, name, folder, &args, &server)).await?;
    let report = Report::of(played);
    report::publish_run(&report, Some(&folder.join("report.json")), Some(&folder.join("report.html")))?;
    ensure!(report.holds(), "{:?} {:?} {:?}", report.broken, report.events, report.notes);
    ensure!(report.expected, "the scenario expects nothing");
    ensure!(report.counts.due > 40 && report.counts.twice == 0, "{:?}", report.counts);
    nobody_failed(&report)?;
    Ok(report)
}

/// No call failed while something was done to the cluster, or in the time after it. Only at another time a call may have been
/// shed (503): an edge does that for a second when the machine has let its timers wait for 250 ms.
fn nobody_failed(report: &Report) -> Result<()> {
    let (first, last) =
        (report.events.first().context("no events")?, report.events.last().context("no events")?);
    let during = first.from_s.floor() as usize..=last.to_s.ceil() as usize + AFTER_S;
    let failed: u64 = during.clone().filter_map(|second| report.seconds.get(second)).map(|s| s.failed).sum();
    ensure!(failed == 0, "{failed} calls failed in the seconds {during:?}: {:?}", report.counts);
    let counts = &report.counts;
    ensure!(counts.not_started == 0 && counts.refused.keys().all(|status| *status == 503), "{counts:?}");
    Ok(())
}

#[test]
fn no_call_fails_when_a_control_node_is_killed_under_load() {
    on_network("load-fault", |network, folder| async move {
        let lab = Lab::ground(network, &folder, &NODES, AGENTS).await?;
        let place = Place { lab: &lab, folder: &folder };
        let report =
            play(&lab, &folder, &place.scenario("cluster-fault", 45, true, None)?, "cluster-fault").await?;
        let titles: Vec<&str> = report.events.iter().map(|event| event.title.as_str()).collect();
        ensure!(titles == ["kill -9 of c1", "start of c1"], "{titles:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn no_call_fails_in_an_upgrade_of_every_node_under_load() {
    on_network("load-upgrade", |network, folder| async move {
        let lab = Lab::ground(network, &folder, &NODES, AGENTS).await?;
        let place = Place { lab: &lab, folder: &folder };
        let next = place.next()?;
        let scenario = place.scenario("cluster-upgrade", 80, false, Some(&next))?;
        let report = play(&lab, &folder, &scenario, "cluster-upgrade").await?;
        ensure!(report.events.len() == NODES.len(), "{:?}", report.events);
        let started = fs::read_to_string(folder.join("next.log"))?;
        for (name, _) in NODES {
            let config = lab.config(name).display().to_string();
            let times = started.lines().filter(|line| line.contains(&config)).count();
            ensure!(times == 1, "{name} was started {times} times by the other program:\n{started}");
        }
        Ok(())
    })
    .unwrap();
}
