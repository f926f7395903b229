//! The load generator as a program.

use std::process::Command;

use anyhow::{Result, ensure};
use trunkline_system_tests::target;

/// It, as it was built with the tests.
pub fn generator() -> Result<Command> {
    let path = target()?.join("debug/trunkline-load");
    ensure!(path.is_file(), "{} is not there: `cargo build -p trunkline-loadtest` makes it", path.display());
    let mut command = Command::new(path);
    command.env_remove("TRUNKLINE_LOAD_SECRET");
    Ok(command)
}
