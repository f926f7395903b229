//! `cargo xtask faults`: a real cluster under real faults (tests/faults), and two versions side by side.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{packages, process::Step, root, seed::seed, suite::Suite, target, web};

/// The scenario that wants the version before this one.
const SIDE_BY_SIDE: &str = "two-versions";
/// Names that version; [`NONE`] says that there is to be none.
const PREVIOUS: &str = "TRUNKLINE_PREVIOUS";
const NONE: &str = "none";

/// What the suite can be told.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Go on with new seeds until so many minutes have passed; without it every scenario runs once (about 10 minutes).
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,

    /// Only scenarios whose name contains this (several: separated by commas); `--list` tells the names.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// The first seed, to repeat a run.
    #[arg(long)]
    seed: Option<u64>,

    /// An optimised build and the sizes of the table of promises: 500 callers waiting, 200 conversations, 20 calls/s.
    #[arg(long)]
    full: bool,

    /// An optimised build with the sizes of the short form.
    #[arg(long)]
    release: bool,

    /// The deterministic simulation instead: the cores of placement, reservation and recovery over many seeds, optimised.
    #[arg(long, conflicts_with_all = ["minutes", "only", "full", "release", "list"])]
    simulate: bool,

    /// How many seeds, with `--simulate`.
    #[arg(long, value_name = "N", default_value_t = 100_000, requires = "simulate")]
    seeds: u64,

    /// Tell the scenarios and end.
    #[arg(long)]
    list: bool,
}

/// The long form of the simulation: it says how far it is, and which seed fails.
fn simulate(options: &Options) -> Result<()> {
    let mut step = Step::cargo("simulation")
        .args([
            "run",
            "--profile",
            "simulation",
            "--package",
            "trunkline-simulation",
            "--bin",
            "simulate",
            "--",
        ])
        .args(["--seeds", &options.seeds.to_string()]);
    if let Some(first) = options.seed {
        step = step.args(["--first", &first.to_string()]);
    }
    step.run()
}

/// Builds both sides and runs the scenarios.
pub fn run(options: &Options) -> Result<()> {
    if options.simulate {
        return simulate(options);
    }
    packages::for_tests()?;
    web::build()?;
    Step::cargo("trunkline and the fault suite")
        .args(["build", "--package", "trunkline", "--package", "trunkline-faults"])
        .args(options.profile())
        .run()?;
    scenarios(options)
}

impl Options {
    fn optimised(&self) -> bool {
        self.full || self.release
    }

    fn profile(&self) -> &'static [&'static str] {
        if self.optimised() { &["--release"] } else { &[] }
    }
}

/// Runs them with what is built.
fn scenarios(options: &Options) -> Result<()> {
    let side_by_side = options.only.is_empty() || options.only.iter().any(|part| SIDE_BY_SIDE.contains(part));
    let previous = if side_by_side && !options.list { previous(options.profile())? } else { None };
    let bin = target().join(if options.optimised() { "release" } else { "debug" });
    let mut suite = Step::new("fault suite", bin.join("trunkline-faults"));
    suite =
        suite.args(["--bin"]).args([bin.join("trunkline")]).args(["--out"]).args([target().join("faults")]);
    if let Some(minutes) = options.minutes {
        suite = suite.args(["--minutes", &minutes.to_string()]);
    }
    if let Some(seed) = options.seed {
        suite = suite.args(["--seed", &seed.to_string()]);
    }
    if !options.only.is_empty() {
        suite = suite.args(["--only", &options.only.join(",")]);
    }
    for (flag, on) in [("--full", options.full), ("--list", options.list)] {
        if on {
            suite = suite.args([flag]);
        }
    }
    if let Some(previous) = previous {
        suite = suite.args(["--previous"]).args([previous]);
    }
    suite.run()
}

/// The stage of `cargo xtask test`: the harness is proved by itself, then every scenario once.
pub fn stage(suite: &Suite) -> Result<()> {
    suite.run(
        "the fault suite's own tests",
        |folder| folder == Path::new("tests/faults"),
        &["--test-threads=2"],
        &[("TRUNKLINE_ROOT", root())],
    )?;
    scenarios(&Options::default())
}

/// The binary of the version before this one; None when there is none. Built once, in a folder of its own.
fn previous(profile: &[&str]) -> Result<Option<PathBuf>> {
    let Some(revision) = previous_revision()? else { return Ok(None) };
    let (folder, tree) = (target().join("previous"), target().join("previous/tree"));
    let kind = if profile.is_empty() { "debug" } else { "release" };
    let binary = folder.join(format!("trunkline-{kind}-{revision}"));
    if binary.is_file() {
        return Ok(Some(binary));
    }
    if !tree.join(".git").exists() {
        git(&["worktree", "prune"]);
        Step::new("work tree of the previous version", "git")
            .args(["worktree", "add", "--force", "--detach"])
            .args([&tree])
            .args([&revision])
            .run()?;
    }
    Step::new(format!("previous version {revision}"), "git")
        .args(["checkout", "--quiet", "--force", "--detach", &revision])
        .directory(&tree)
        .run()?;
    // The console embeds the web clients; those of this version do.
    let (ours, theirs) = (root().join("services/web/dist"), tree.join("services/web"));
    Step::new("its web clients", "cp").args(["-R"]).args([&ours, &theirs]).run()?;
    let build = folder.join("build");
    seed(kind, &target(), &build)?;
    Step::cargo("its binary")
        .args(["build", "--quiet", "--package", "trunkline"])
        .args(profile)
        .directory(&tree)
        .env("CARGO_TARGET_DIR", &build)
        .run()?;
    fs::copy(build.join(kind).join("trunkline"), &binary).with_context(|| format!("{}", binary.display()))?;
    // Its objects are of no further use.
    let _ = fs::remove_dir_all(&build);
    Ok(Some(binary))
}

/// `TRUNKLINE_PREVIOUS`, or the newest release tag before HEAD, or the version that was on main before
/// (`tests/faults/previous`). A shallow clone fetches what it lacks; where that cannot be had, it fails. None only when
/// `TRUNKLINE_PREVIOUS=none` asks for it: then `two-versions` does not run.
fn previous_revision() -> Result<Option<String>> {
    let given = std::env::var(PREVIOUS).ok().filter(|revision| !revision.is_empty());
    if given.as_deref() == Some(NONE) {
        println!("── {PREVIOUS}={NONE}: {SIDE_BY_SIDE} is not run");
        return Ok(None);
    }
    let tag = || git(&["describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^"]);
    let written = || {
        let text = fs::read_to_string(root().join("tests/faults/previous")).ok()?;
        text.lines().find(|line| !line.starts_with('#')).map(str::to_owned)
    };
    let Some(wanted) = given.or_else(tag).or_else(written) else {
        bail!("tests/faults/previous does not name the version before this one");
    };
    commit(&wanted, || {
        if git(&["rev-parse", "--is-shallow-repository"]).as_deref() == Some("true") {
            // Where the clone came from has the rest, if it can be reached.
            let _ = git(&["fetch", "--quiet", "--unshallow"]);
        }
    })
    .map(Some)
}

/// A revision's commit, which this clone has or which `fetch` brings.
fn commit(revision: &str, fetch: impl FnOnce()) -> Result<String> {
    let find = || git(&["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")]);
    let there = || {
        fetch();
        find()
    };
    find().or_else(there).with_context(|| {
        format!(
            "this clone does not have {revision}, the version before this one, which {SIDE_BY_SIDE} wants: `git fetch \
             --unshallow` brings it, {PREVIOUS} names another, {PREVIOUS}={NONE} leaves the scenario out"
        )
    })
}

/// What git says; None when it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(root()).output().context("git").ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version that is not here is no reason to pass.
    #[test]
    fn a_version_that_this_clone_lacks_is_a_failure_with_its_remedies() {
        assert_eq!(commit("HEAD", || ()).unwrap(), git(&["rev-parse", "HEAD"]).unwrap());
        let refused = commit("0123456789012345678901234567890123456789", || ()).unwrap_err().to_string();
        for part in ["0123456789", "--unshallow", "TRUNKLINE_PREVIOUS=none", SIDE_BY_SIDE] {
            assert!(refused.contains(part), "{refused}");
        }
    }
}
