//! `cargo xtask test`: what may land.

use std::{path::Path, thread};

use anyhow::{Result, bail};

use crate::{
    faults, fresh, kubernetes, operations, packages,
    process::Step,
    recogniser, root,
    suite::{Order, Suite},
    target, web,
};

const STAGES: &[&str] = &["lint", "unit", "web", "system", "faults", "operations", "kubernetes", "fresh"];

/// Runs the stages (all when `only` is empty) in an order in which cheap failures come first.
pub fn test(only: &[String]) -> Result<()> {
    if let Some(unknown) = only.iter().find(|stage| !STAGES.contains(&stage.as_str())) {
        bail!("--only: {unknown:?} is no stage; there are {}", STAGES.join(", "));
    }
    let wanted = |stage: &str| only.is_empty() || only.iter().any(|s| s == stage);
    if only != ["lint"] {
        packages::for_tests()?;
    }
    // helm and kube-apiserver, from source, beside all the rest.
    let tools = wanted("kubernetes").then(kubernetes::begin);
    // The console embeds the web clients: they come before everything that compiles it.
    web::build()?;
    if wanted("lint") {
        format()?;
    }
    // A newcomer's first build, and where nothing is built yet it is this one's too.
    let cold = !target().join("debug/trunkline").exists();
    if wanted("fresh") && cold {
        fresh::run(Some(&target()))?;
    }
    if wanted("lint") {
        lint()?;
    }
    let suite = Suite::build()?;
    if wanted("unit") {
        unit(&suite)?;
    }
    if wanted("web") {
        web::test()?;
    }
    if wanted("system") {
        recogniser::set_up()?;
        system(&suite)?;
    }
    if wanted("faults") {
        faults::stage(&suite)?;
    }
    if wanted("operations") {
        operations::stage(&suite)?;
    }
    if let Some(tools) = tools {
        tools.join().unwrap_or_else(|_| bail!("the thread that builds helm and kube-apiserver panicked"))?;
        kubernetes::stage(&suite)?;
    }
    if wanted("fresh") && !cold {
        fresh::run(None)?;
    }
    println!("── all checks passed");
    Ok(())
}

/// Formatting.
pub fn format() -> Result<()> {
    Step::cargo("rustfmt").args(["fmt", "--all", "--check"]).run()
}

/// Lints, licences.
pub fn lint() -> Result<()> {
    // The tool builds in its own folder, so both can go at once without waiting for each other's lock.
    let deny = thread::spawn(cargo_deny);
    let clippy = Step::cargo("clippy")
        .args(["clippy", "--workspace", "--all-targets", "--all-features", "--quiet", "--", "-D", "warnings"])
        .run();
    let deny = deny.join().unwrap_or_else(|_| bail!("the cargo-deny thread panicked"));
    clippy.and(deny)
}

/// Licences, sources and bans. Advisories need a database from the network: `cargo deny check advisories` where there
/// is one.
fn cargo_deny() -> Result<()> {
    let tools = target().join("tools");
    let binary = tools.join("bin/cargo-deny");
    if !binary.is_file() {
        Step::cargo("cargo-deny (built once)")
            .args(["install", "--locked", "--quiet", "--version", "0.20.2", "cargo-deny", "--root"])
            .args([&tools])
            .env("CARGO_TARGET_DIR", tools.join("build"))
            .run()?;
        // Its objects are of no further use.
        let _ = std::fs::remove_dir_all(tools.join("build"));
    }
    Step::new("licences and sources", binary).args(["check", "licenses", "bans", "sources"]).run()
}

/// Folders whose tests have a stage of their own.
const STAGED: &[&str] = &["tests/system", "tests/faults", "tests/operations", "tests/kubernetes"];

/// Those of more than ten seconds.
const UNIT: Order<'_> = Order {
    lanes: 2,
    long: &[
        "etcd",
        "cluster",
        "captures",
        "trunkline_loadtest",
        "trunkline",
        "recording",
        "postgres",
        "records",
        "takeover",
    ],
    alone: &[],
};

const SYSTEM: Order<'_> = Order {
    lanes: 2,
    long: &["sip_peers", "crash", "transcript", "queue_order", "telemetry", "conversation"],
    alone: &[],
};

/// Everything that needs no peer: unit tests, contract suites, simulation, tidy.
fn unit(suite: &Suite) -> Result<()> {
    let staged = |folder: &Path| STAGED.iter().any(|staged| folder == Path::new(staged));
    suite.run_in(
        UNIT,
        "unit tests, contract suites, simulation",
        |folder| !staged(folder),
        &["--quiet"],
        &[],
    )?;
    Step::cargo("examples in the documentation").args(["test", "--workspace", "--doc", "--quiet"]).run()
}

/// Real peers against the real binary.
fn system(suite: &Suite) -> Result<()> {
    suite.run_in(
        SYSTEM,
        "system tests with real peers",
        |folder| folder == Path::new("tests/system"),
        &["--test-threads=2"],
        &[("TRUNKLINE_RECOGNISER_VENV", recogniser::venv()), ("TRUNKLINE_ROOT", root())],
    )
}
