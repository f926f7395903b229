//! The web clients.

use std::{fs, path::PathBuf, time::SystemTime};

use anyhow::Result;

use crate::{packages, process::Step, root};

fn folder() -> PathBuf {
    root().join("services/web")
}

/// Builds `services/web/dist` when a source is newer than it.
pub fn build() -> Result<()> {
    packages::node()?;
    install()?;
    if is_fresh() {
        println!("── web clients are up to date");
        return Ok(());
    }
    Step::new("web clients", "npm").args(["run", "--silent", "build"]).directory(folder()).run()
}

/// Installs exactly what the lock file names.
pub fn install() -> Result<()> {
    let marker = folder().join("node_modules/.package-lock.json");
    if modified(&marker) >= modified(&folder().join("package-lock.json")) && marker.exists() {
        return Ok(());
    }
    Step::new("web dependencies", "npm").args(["ci", "--no-audit", "--no-fund"]).directory(folder()).run()
}

/// Types, unit tests, budgets, accessibility, and the pages gone through against a console that is played.
pub fn test() -> Result<()> {
    for (name, script) in [
        ("web types", "check"),
        ("web unit tests", "test"),
        ("web budgets", "budget"),
        ("web accessibility", "axe"),
        ("web journeys", "e2e:mock"),
    ] {
        Step::new(name, "npm")
            .args(["run", "--silent", script])
            .directory(folder())
            .env("CI", "true")
            .run()?;
    }
    Ok(())
}

fn modified(path: &std::path::Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn is_fresh() -> bool {
    let Some(built) = modified(&folder().join("dist/agent.html")) else { return false };
    newest(&folder()).is_some_and(|source| source <= built)
}

fn newest(folder: &std::path::Path) -> Option<SystemTime> {
    let mut latest = None;
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.ends_with("node_modules") || path.ends_with("dist") {
            continue;
        }
        let time = if path.is_dir() { newest(&path) } else { modified(&path) };
        latest = latest.max(time);
    }
    latest
}
