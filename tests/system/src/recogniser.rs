//! The reference recogniser.

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::{process::Program, root, s, target};

/// A running recogniser.
#[derive(Debug)]
pub struct Recogniser {
    _program: Program,
    address: SocketAddr,
}

impl Recogniser {
    /// Starts it in the environment that `cargo xtask test` has set up.
    pub async fn start(folder: &Path) -> Result<Self> {
        let venv = match std::env::var_os("TRUNKLINE_RECOGNISER_VENV") {
            Some(path) => path.into(),
            None => target()?.join("recogniser"),
        };
        let run = root().join("deploy/recogniser/run");
        ensure!(
            venv.is_dir(),
            "the recogniser is not set up: {} --venv {} --setup-only",
            run.display(),
            venv.display()
        );
        let mut command = Command::new(run);
        command.arg("--venv").arg(&venv).args(["--listen", "127.0.0.1:0"]);
        let mut program = Program::start("recogniser", folder, &mut command)?;
        let address = program
            .line("its address", s(60), |line| line.strip_prefix("listening on ")?.trim().parse().ok())
            .await?;
        Ok(Self { _program: program, address })
    }

    /// Its address as the system is told.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
