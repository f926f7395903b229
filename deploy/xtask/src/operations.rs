//! The stage `operations` of `cargo xtask test`: what an operator does, done to real clusters (tests/operations).

use std::path::Path;

use anyhow::Result;

use crate::{root, suite::Suite};

/// Walks through the binary under test. Needs root: clusters are in network namespaces.
pub fn stage(suite: &Suite) -> Result<()> {
    suite.run(
        "operator's tests: doctor, support bundle, backup, documents, metrics, dashboards, the README's chapter",
        |folder| folder == Path::new("tests/operations"),
        // Each test is a cluster of its own: on two processors no more than two at once.
        &["--test-threads=2"],
        &[("TRUNKLINE_ROOT", root())],
    )
}
