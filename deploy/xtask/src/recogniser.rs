//! The reference recogniser: a Python service with a virtual environment of its own under the target folder.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{
    process::{Step, is_here},
    root, target,
};

/// The virtual environment.
pub fn venv() -> PathBuf {
    target().join("recogniser")
}

/// Makes the environment (only what is missing).
pub fn set_up() -> Result<()> {
    if !is_here("python3") {
        bail!("python3 (3.11 or later, with venv) is missing: the reference recogniser is written in it");
    }
    Step::new("reference recogniser", root().join("deploy/recogniser/run"))
        .args(["--venv".as_ref(), venv().as_os_str(), "--setup-only".as_ref()])
        .run()
}

/// Runs it in the foreground.
pub fn run(listen: &str) -> Result<()> {
    set_up()?;
    Step::new(format!("recogniser on {listen}"), root().join("deploy/recogniser/run"))
        .args(["--venv".as_ref(), venv().as_os_str(), "--listen".as_ref(), listen.as_ref()])
        .run()
}
