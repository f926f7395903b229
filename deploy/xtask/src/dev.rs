//! `cargo xtask dev`.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Result, bail};

use crate::{process::Step, target, web};

/// Builds the web clients and the binary, then becomes `trunkline dev`.
pub fn run(release: bool, arguments: &[String]) -> Result<()> {
    web::build()?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    Step::cargo("trunkline (the first build takes some minutes)")
        .args(["build", "--package", "trunkline"])
        .args(profile)
        .run()?;
    let binary = target().join(if release { "release" } else { "debug" }).join("trunkline");
    let error = Command::new(&binary).arg("dev").args(arguments).exec();
    bail!("{} could not be started: {error}", binary.display())
}
