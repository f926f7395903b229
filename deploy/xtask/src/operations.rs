//! The stage `operations` of `cargo xtask test`: what an operator does, done to real clusters (tests/operations).

use anyhow::Result;

use crate::{process::Step, root};

/// Builds the binary under test and walks through it. Needs root: clusters are in network namespaces.
pub fn stage() -> Result<()> {
    Step::cargo("the binary under test").args(["build", "--package", "trunkline", "--quiet"]).run()?;
    // Each test is a cluster of its own: on two processors no more than two at once.
    Step::cargo("operator's tests: doctor, support bundle, backup, metrics, dashboards, the README's chapter")
        .args(["test", "--package", "trunkline-operations-tests", "--", "--test-threads=2"])
        .env("TRUNKLINE_ROOT", root())
        .run()
}
