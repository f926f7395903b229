//! `cargo xtask faults`: a real cluster under real faults (tests/faults), and two versions side by side.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use clap::Args;

use crate::{packages, process::Step, root, target, web};

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

    /// Tell the scenarios and end.
    #[arg(long)]
    list: bool,
}

/// Builds both sides and runs the scenarios.
pub fn run(options: &Options) -> Result<()> {
    packages::for_tests()?;
    web::build()?;
    let profile: &[&str] = if options.full { &["--release"] } else { &[] };
    Step::cargo("trunkline and the fault suite")
        .args(["build", "--package", "trunkline", "--package", "trunkline-faults"])
        .args(profile)
        .run()?;
    let bin = target().join(if options.full { "release" } else { "debug" });
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
    if let Some(previous) = previous(profile)? {
        suite = suite.args(["--previous"]).args([previous]);
    }
    suite.run()
}

/// The stage of `cargo xtask test`: the harness is proved by itself, then every scenario once.
pub fn stage() -> Result<()> {
    Step::cargo("the fault suite's own tests")
        .args(["test", "--package", "trunkline-faults", "--", "--test-threads=2"])
        .run()?;
    run(&Options::default())
}

/// The binary of the version before this one, built in a work tree of its own; None when there is none that forms
/// clusters.
fn previous(profile: &[&str]) -> Result<Option<PathBuf>> {
    let Some(revision) = previous_revision() else {
        println!("── no previous version that forms clusters: two versions side by side is not tested");
        return Ok(None);
    };
    let (tree, build) = (target().join("previous/tree"), target().join("previous/build"));
    if !tree.join(".git").exists() {
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
    Step::cargo("its binary")
        .args(["build", "--package", "trunkline"])
        .args(profile)
        .directory(&tree)
        .env("CARGO_TARGET_DIR", &build)
        .run()?;
    let folder = if profile.is_empty() { "debug" } else { "release" };
    Ok(Some(build.join(folder).join("trunkline")))
}

/// `TRUNKLINE_PREVIOUS`, or the newest release tag before HEAD, or what the remote has when that is older than HEAD.
fn previous_revision() -> Option<String> {
    let given = std::env::var("TRUNKLINE_PREVIOUS").ok().filter(|revision| !revision.is_empty());
    let tag = || git(&["describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^"]);
    let landed = || git(&["rev-parse", "--verify", "--quiet", "origin/HEAD"]);
    let head = git(&["rev-parse", "HEAD"])?;
    let forms_clusters = |revision: &String| {
        let commit = git(&["rev-parse", &format!("{revision}^{{commit}}")]);
        let run = git(&["cat-file", "-e", &format!("{revision}:services/daemon/src/run.rs")]);
        run.is_some() && commit.is_some_and(|commit| commit != head)
    };
    given.or_else(tag).filter(forms_clusters).or_else(|| landed().filter(forms_clusters))
}

/// What git says; None when it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(root()).output().context("git").ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
