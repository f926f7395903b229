//! Proves that several workers of the load generator do one run together, as its README says: real processes, agents with
//! audio, callers of one worker with agents of another, one verdict; and that a run whose workers die or fall silent ends,
//! does not hold, and says which workers they were.

mod program;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trunkline_loadtest::{callers::index_of, run::CALLS_EACH};
use trunkline_system_tests::{
    net,
    process::Program,
    s,
    system::{Setup, System},
    until,
};

use program::generator;

/// Agents of all workers; not the same number each, so that callers and agents do not take turns in the same step.
const AGENTS: usize = 9;
/// Calls a second.
const RATE: f64 = 1.5;
const SECRET: &str = "of-these-workers";
/// Seconds after the last call was due in which the queue is served and conversations end.
const SETTLE: u64 = 30;
/// A worker that says nothing for so many seconds is gone.
const SILENT: u64 = 15;
/// Beside the load: sign-in, a debug build on a busy machine.
const MORE: u64 = 60;
const NOT_HELD: i32 = 2;

/// Calls come for so many seconds. Callers hang up 3 s after an agent took the call: their worker must have heard so, from
/// whichever worker the agent is of.
fn scenario(seconds: u64, agents_talk: &str) -> Value {
    let constant = |time: &str| json!({"kind": "constant", "value": time});
    json!({
        "name": "workers",
        "callers": {
            "arrivals": "constant",
            "phases": [{"for": format!("{seconds}s"), "rate": RATE}],
            "talk": constant("3s"),
            "media": "tone",
        },
        "agents": {
            "count": AGENTS,
            "audio": "webrtc",
            "talk": constant(agents_talk),
            "wrap_up": constant("200ms"),
        },
        "settle": format!("{SETTLE}s"),
        "expect": {"failed": 0, "twice": 0, "one_way": 0},
    })
}

/// A system, workers for it, and the coordinator that makes them one run.
struct Cast {
    system: System,
    workers: Vec<(SocketAddr, Program)>,
    coordinator: Program,
    report: PathBuf,
}

impl Cast {
    async fn start(test: &str, workers: usize, scenario: &Value) -> Result<Self> {
        let system = Setup::new(test)?.flag("--agents", AGENTS.to_string()).start().await?;
        let folder = system.folder().to_owned();
        let workers = (0..workers).map(|n| worker(n, &folder)).collect::<Result<Vec<_>>>()?;
        for (at, program) in &workers {
            let listens = format!("worker at {at}");
            until(&listens, s(20), || async { Ok(program.stderr().contains(&listens).then_some(())) })
                .await?;
        }
        let (file, report) = (folder.join("workers.yaml"), folder.join("report.json"));
        fs::write(&file, scenario.to_string())?;
        let mut command = generator()?;
        command.arg("run").arg(&file).args(["--secret", SECRET]).arg("--json").arg(&report);
        command.args(["--sip", &system.sip().to_string(), "--http", &system.http().to_string()]);
        for (at, _) in &workers {
            command.args(["--worker", &at.to_string()]);
        }
        let coordinator = Program::start("coordinator", &folder, &mut command)?;
        Ok(Self { system, workers, coordinator, report })
    }

    /// Exit code and report, of a run that ends in time.
    async fn end(&mut self, limit: u64) -> Result<(Option<i32>, Value)> {
        let status = self.coordinator.wait(s(limit)).await?;
        let report = fs::read_to_string(&self.report);
        let report = report.with_context(|| format!("{status}\n{}", self.coordinator.stderr()))?;
        Ok((status.code(), serde_json::from_str(&report)?))
    }

    /// The worker of an agent.
    fn of(&self, agent: &Value) -> Option<usize> {
        let number: usize = agent.as_str()?.strip_prefix("agent-")?.parse().ok()?;
        let workers = self.workers.len();
        (0..workers).find(|worker| number <= AGENTS * (worker + 1) / workers)
    }
}

fn worker(n: usize, folder: &Path) -> Result<(SocketAddr, Program)> {
    let at = net::address()?;
    let mut command = generator()?;
    command.args(["worker", "--once", "--secret", SECRET, "--listen", &at.to_string()]);
    Ok((at, Program::start(&format!("worker-{n}"), folder, &mut command)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_serve_one_load_together() -> Result<()> {
    const SECONDS: u64 = 12;
    const DUE: u64 = 18;
    // An agent whose caller's worker hears nothing serves nobody else in this run.
    let mut cast = Cast::start("workers", 2, &scenario(SECONDS, "10m")).await?;
    let (code, report) = cast.end(SECONDS + SETTLE + MORE).await?;
    ensure!(code == Some(0), "{code:?}: {} {}", report["broken"], report["notes"]);
    let counts = &report["counts"];
    for count in ["due", "answered", "over", "served"] {
        ensure!(counts[count] == DUE, "{count}: {counts}");
    }
    // One side tells of a conversation through one worker, the other side through the other.
    ensure!(
        counts["two_sided"].as_u64() >= Some(DUE / 2) && counts["packets"].as_u64() > Some(1_000),
        "{counts}"
    );
    let told = report["workers"].as_array().context("workers")?.iter().map(|worker| worker["at"].clone());
    ensure!(told.eq(cast.workers.iter().map(|(at, _)| json!(at))), "{}", report["workers"]);

    // The system's own records: who was with whom.
    let contacts = cast.system.supervisor().await?.contacts("queue=support").await?;
    let (mut callers, mut agents, mut both) = ([0, 0], [0, 0], 0);
    for contact in &contacts {
        ensure!(contact["outcome"] == "answered" && contact["cause"] == "caller_hangup", "{contact}");
        let index = contact["caller_number"].as_str().and_then(index_of).context("no caller of ours")?;
        let agent = cast.of(&contact["agent_id"]).context("no agent of ours")?;
        callers[index / CALLS_EACH] += 1;
        agents[agent] += 1;
        both += usize::from(index / CALLS_EACH != agent);
    }
    ensure!(callers == [DUE / 2; 2], "callers by worker: {callers:?}");
    ensure!(agents.iter().sum::<u64>() == DUE && agents.iter().all(|calls| *calls >= 4), "{agents:?}");
    ensure!(both > 0, "no caller of one worker was with an agent of the other");
    for (at, worker) in &mut cast.workers {
        worker.succeed(s(20)).await.with_context(|| format!("worker {at}"))?;
        ensure!(!worker.stderr().contains("closed the connection"), "{at}: {}", worker.stderr());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_workers_die_or_fall_silent_ends_and_names_them() -> Result<()> {
    const SECONDS: u64 = 20;
    // Callers of a dead worker do not hang up.
    let mut cast = Cast::start("workers-lost", 3, &scenario(SECONDS, "5s")).await?;
    let api = cast.system.supervisor().await?;
    until("agents of all workers have had calls", s(MORE), || async {
        let live = api.live().await?;
        let agents = live["agents"].as_array().context("agents")?;
        let had = agents.iter().filter(|agent| agent["handled"].as_u64() > Some(0));
        let had: BTreeSet<usize> = had.filter_map(|agent| cast.of(&agent["agent_id"])).collect();
        Ok((had.len() == 3).then_some(()))
    })
    .await?;
    cast.workers[1].1.kill()?;
    cast.workers[2].1.signal("-STOP")?;
    let (code, report) = cast.end(SECONDS + SILENT + SETTLE).await?;
    ensure!(code == Some(NOT_HELD), "{code:?}: {}", report["broken"]);
    let broken: Vec<&str> =
        report["broken"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let names =
        |at: &SocketAddr| broken.iter().filter(|line| line.contains(&at.to_string())).collect::<Vec<_>>();
    for ((at, _), why) in cast.workers[1..].iter().zip(["the connection", "silent for"]) {
        let named = names(at);
        ensure!(named.len() == 1 && named[0].contains(why), "{at}: {broken:?}");
        ensure!(cast.coordinator.stdout().contains(named[0]), "{}", cast.coordinator.stdout());
    }
    // What the third was to do went on.
    let lost = report["events"][0]["to_s"].as_f64().context("no event")? as usize;
    let seconds = report["seconds"].as_array().context("seconds")?;
    let after: u64 = seconds.iter().skip(lost + 2).filter_map(|second| second["served"].as_u64()).sum();
    ensure!(lost < SECONDS as usize && after > 0, "{after} served after {lost} s");
    let (at, left) = &mut cast.workers[0];
    ensure!(names(at).is_empty(), "{broken:?}");
    left.succeed(s(20)).await.with_context(|| format!("worker {at}"))
}
