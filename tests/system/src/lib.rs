//! Drives the real binary `trunkline` from outside, with real peers: sipp and baresip as telephones, a headless
//! Chromium as the agent's browser, the reference recogniser.
//!
//! Owns: starting and ending these programs (always reaped, also when a test panics), addresses for them, a client for
//! the HTTP API and one for the agent protocol, and measuring who hears whom. Imports nothing of `services`: what a test
//! here sees is what a customer sees.
//!
//! Refuses: to build anything (`cargo xtask test` does), to skip a test because a program is missing, and to sleep:
//! every wait is for a condition and has a deadline.
//!
//! Every test keeps what its programs wrote in `target/system-tests/<test>/`.
//!
//! Environment: `TRUNKLINE_BIN` (default: beside the tests in the target folder), `TRUNKLINE_RECOGNISER_VENV`
//! (default: `target/recogniser`), `CHROMIUM` (default: `/usr/bin/chromium`).

pub mod agent;
pub mod api;
pub mod audio;
pub mod baresip;
pub mod browser;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod net;
pub mod otlp;
pub mod process;
pub mod recogniser;
pub mod rfc4475;
pub mod s3;
pub mod sip;
pub mod sipp;
pub mod system;
pub mod telephone;

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(15);

/// The repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The folder of this crate's files (scenarios, scripts, fixtures).
pub fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The cargo target folder, from where the running test lies (`target/debug/deps/test-…`).
pub fn target() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("the path of the running test")?;
    let target = exe.ancestors().nth(3).context("the test does not lie in a target folder")?;
    Ok(target.to_path_buf())
}

/// An empty folder for what the programs of one test write.
pub fn folder(test: &str) -> Result<PathBuf> {
    let folder = target()?.join("system-tests").join(test);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    Ok(folder)
}

/// Waits until `condition` gives a value. Its errors end the wait; after `limit` the wait fails and names `what`.
pub async fn until<T, F, R>(what: &str, limit: Duration, mut condition: F) -> Result<T>
where
    F: FnMut() -> R,
    R: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().await.with_context(|| format!("waiting for: {what}"))? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("not within {:.1} s: {what}", limit.as_secs_f64());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Seconds.
pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
