//! The command line of the fault suite; `cargo xtask faults` builds everything and calls it.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use rand::{SeedableRng, rngs::StdRng};
use trunkline_faults::{
    net::Network,
    report::{self, Outcome, note},
    scenario::{self, Run, Scenario, Size},
    world::{CLIENTS, Plan, World},
};

/// What is told of one failure at most.
const REASONS: usize = 20;

/// Injects faults into a real cluster and checks that it keeps its promises.
///
/// Needs root, network namespaces, etcd, PostgreSQL, nftables and faketime. Everything happens in network namespaces of
/// its own; nothing is left behind.
#[derive(Parser)]
#[command(name = "trunkline-faults", version)]
struct Cli {
    /// The binary under test
    #[arg(long, value_name = "PATH", default_value = "target/debug/trunkline")]
    bin: PathBuf,

    /// Only scenarios whose name contains this (several: separated by commas)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// Go round through the scenarios with new seeds until so many minutes have passed; without it once
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,

    /// The first seed [default: by chance]
    #[arg(long)]
    seed: Option<u64>,

    /// The sizes of the table of promises (500 callers, 200 conversations, 20 calls/s), for a machine that carries them
    #[arg(long)]
    full: bool,

    /// Where logs, histories and results go
    #[arg(long, value_name = "DIR", default_value = "target/faults")]
    out: PathBuf,

    /// The binary of the version before this one, to run beside it
    #[arg(long, value_name = "PATH")]
    previous: Option<PathBuf>,

    /// Tell the scenarios and end
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            note(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let chosen = chosen(&cli.only)?;
    if cli.list {
        for scenario in chosen {
            note(&format!("{:<20} {}: {}", scenario.name, scenario.fault, scenario.holds));
        }
        return Ok(true);
    }
    let mut network = Network::new()?;
    network.host(CLIENTS)?;
    // Threads inherit it: from here on this process is where callers and agents are.
    network.enter(CLIENTS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcomes = runtime.block_on(rounds(cli, &chosen, network))?;
    runtime.shutdown_timeout(Duration::from_secs(2));
    note(&format!("\n\n{}", report::table(&outcomes)));
    let results = cli.out.join("results.json");
    report::write(&results, &outcomes)?;
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.passed()).collect();
    let not_run = outcomes.iter().filter(|outcome| outcome.not_run.is_some()).count();
    let counts = format!("{} runs, {} failed, {not_run} not run", outcomes.len(), failed.len());
    note(&format!("{counts}; {}", results.display()));
    // Last, where the end of a long log shows it.
    for outcome in &failed {
        note(&format!("again: {} (--only {} --seed {})", outcome.scenario, outcome.scenario, outcome.seed));
        outcome.reasons().take(REASONS).for_each(|reason| note(&format!("   {reason}")));
    }
    Ok(failed.is_empty())
}

fn chosen(only: &[String]) -> Result<Vec<Scenario>> {
    if only.is_empty() {
        return Ok(scenario::ALL.to_vec());
    }
    let mut chosen = Vec::new();
    for name in only {
        let found = scenario::named(name);
        if found.is_empty() {
            let names: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
            bail!("--only {name}: no such scenario; there are {}", names.join(", "));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

async fn rounds(cli: &Cli, chosen: &[Scenario], network: Network) -> Result<Vec<Outcome>> {
    let size = if cli.full { Size::FULL } else { Size::SHORT };
    let end = cli.minutes.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let mut seed = cli.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    note(&format!("seed {seed}; {size:?}"));
    let plan = Plan::standard(cli.bin.canonicalize().context("--bin")?, size.agents());
    let (mut spare, mut world, mut outcomes, mut clusters) = (Some(network), None::<World>, Vec::new(), 0);
    loop {
        for scenario in chosen {
            let folder = cli.out.join(format!("{}-{seed}", scenario.name));
            std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
            // Before an upgrade there is nothing that the version before could not read.
            if scenario.alone
                && let Some(former) = world.take()
            {
                spare = Some(former.end()?);
            }
            if world.is_none() {
                let network = spare.take().context("the network is in use")?;
                let begun = Instant::now();
                clusters += 1;
                let logs = cli.out.join(format!("cluster-{clusters}"));
                match World::start(network, &plan, &logs).await {
                    Ok(started) => world = Some(started),
                    Err(error) => {
                        let error = format!("the cluster does not start: {error:#}");
                        outcomes.push(failed(scenario, seed, error, begun));
                        return Ok(outcomes);
                    }
                }
                let took = begun.elapsed().as_secs_f64();
                note(&format!("the cluster is ready after {took:.1} s; it writes to {}", logs.display()));
            }
            let Some(mut running) = world.take() else { continue };
            let outcome = one(scenario, seed, (size, cli.previous.clone()), &mut running, &folder).await;
            say(scenario, &outcome);
            let passed = outcome.passed();
            outcomes.push(outcome);
            // What failed may have left anything behind: the next one gets a new cluster.
            if passed && running.mend().await.is_ok() {
                world = Some(running);
            } else {
                spare = Some(running.end()?);
            }
        }
        if end.is_none_or(|end| Instant::now() >= end) {
            return Ok(outcomes);
        }
        seed += 1;
    }
}

fn failed(scenario: &Scenario, seed: u64, error: String, begun: Instant) -> Outcome {
    let outcome = Outcome {
        scenario: scenario.name.to_owned(),
        seed,
        measured: Vec::new(),
        violations: Vec::new(),
        error: Some(error),
        not_run: None,
        seconds: begun.elapsed().as_secs_f64(),
    };
    say(scenario, &outcome);
    outcome
}

async fn one(
    scenario: &Scenario,
    seed: u64,
    (size, previous): (Size, Option<PathBuf>),
    world: &mut World,
    folder: &Path,
) -> Outcome {
    note(&format!("── {} (seed {seed}): {}", scenario.name, scenario.fault));
    let begun = Instant::now();
    let random = StdRng::seed_from_u64(seed);
    let mut run = Run { world, random, size, folder: folder.to_owned(), previous };
    let limit = Duration::from_secs(300) + (size.outage + size.trouble) * 4;
    let ended = tokio::time::timeout(limit, (scenario.run)(&mut run)).await;
    let (verdict, error) = match ended {
        Ok(Ok(verdict)) => (verdict, None),
        Ok(Err(error)) => (scenario::Verdict::default(), Some(format!("{error:#}"))),
        Err(_) => (scenario::Verdict::default(), Some(format!("not done within {limit:?}"))),
    };
    Outcome {
        scenario: scenario.name.to_owned(),
        seed,
        measured: verdict.measured,
        violations: verdict.violations,
        error,
        not_run: verdict.not_run,
        seconds: begun.elapsed().as_secs_f64(),
    }
}

fn say(scenario: &Scenario, outcome: &Outcome) {
    for measured in &outcome.measured {
        let verdict = if measured.holds() { "" } else { "  ← not kept" };
        note(&format!("   {} {:.2} {}{verdict}", measured.name, measured.value, measured.unit));
    }
    outcome.reasons().take(REASONS).for_each(|reason| note(&format!("   {reason}")));
    let verdict = match outcome.not_run {
        Some(why) => format!("NOT RUN: {why}"),
        None if outcome.passed() => "holds".to_owned(),
        None => "FAILS".to_owned(),
    };
    note(&format!("── {} {verdict}, {:.0} s", scenario.name, outcome.seconds));
}
