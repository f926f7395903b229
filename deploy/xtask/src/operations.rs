//! The stage `operations` of `cargo xtask test`: what an operator does, done to real clusters (tests/operations).

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};

use crate::{
    kubernetes,
    process::{Step, is_here},
    root,
    suite::{Order, Suite},
    target,
};

/// Tells which log lines a query of Loki selects.
const LOKI: &str = "loki-select";
/// What a Go program of ours is built from.
pub const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// They wait more than they compute. `load` judges calls that a late timer sheds.
const ORDER: Order<'_> = Order {
    lanes: 3,
    long: &["dashboards", "restore", "generator", "operator", "workers", "traces"],
    alone: &["load"],
};

/// Builds `loki-select` into `target/tools` when it is not there as its source says. Who comes while another builds it waits.
pub fn tools() -> Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_here("go") {
        bail!(
            "Go 1.26 or later is missing: it builds helm, kube-apiserver and {LOKI}; install it and run this again"
        );
    }
    let (folder, tools) = (root().join("tests/operations/tools/loki"), target().join("tools"));
    let mut source = String::new();
    for name in SOURCES {
        let path = folder.join(name);
        source += &fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    }
    for place in ["bin", "versions"] {
        let place = tools.join(place);
        fs::create_dir_all(&place).with_context(|| format!("{}", place.display()))?;
    }
    let (path, stamp) = (tools.join("bin").join(LOKI), tools.join("versions").join(LOKI));
    if path.is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == source) {
        return Ok(());
    }
    let step = Step::new(format!("{LOKI} (built once)"), "nice").env("CGO_ENABLED", "0");
    kubernetes::go_build(step, &folder, ".", "-s -w", &path)?;
    fs::write(&stamp, source).with_context(|| format!("{}", stamp.display()))
}

/// Walks through the binary under test. Needs root: clusters are in network namespaces.
pub fn stage(suite: &Suite) -> Result<()> {
    tools()?;
    suite.run_in(
        ORDER,
        "operator's tests: doctor, support bundle, backup, documents, metrics, dashboards, the README's chapter",
        |folder| folder == Path::new("tests/operations"),
        // Each test is a cluster of its own: of a program no more than two at once.
        &["--test-threads=2"],
        &[("TRUNKLINE_ROOT", root())],
    )
}
