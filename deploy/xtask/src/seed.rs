//! A target folder for another checkout of these sources, with the dependencies that are built already.
//!
//! Two checkouts must not share one: cargo names what it builds of a workspace by its place within the workspace, and tells
//! by the age of files whether it is current, so that one checkout's crates would be taken for the other's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Copies what `from` has built of crates that are not ours and `to` does not have. What cargo does not want, it builds
/// anew.
pub fn seed(profile: &str, from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.join(profile), to.join(profile));
    if !from.is_dir() {
        return Ok(());
    }
    for folder in ["deps", ".fingerprint", "build"] {
        copy(&from.join(folder), &to.join(folder))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("{}", from.display()))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if !wanted(&name.to_string_lossy(), &path) {
            continue;
        }
        let there: PathBuf = to.join(&name);
        if there.exists() {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&path, &there)?;
        } else {
            fs::copy(&path, &there).with_context(|| format!("{}", path.display()))?;
            // Its age tells cargo whether it is current.
            let age = entry.metadata()?.modified()?;
            fs::File::options().write(true).open(&there)?.set_modified(age)?;
        }
    }
    Ok(())
}

/// Libraries and notes of dependencies; neither ours nor programs, which are large and made anew.
fn wanted(name: &str, path: &Path) -> bool {
    let ours = name.contains("trunkline") || name.starts_with("xtask");
    let library = ["rlib", "rmeta", "so", "d"].iter().any(|end| path.extension().is_some_and(|e| e == *end));
    !ours && (library || !path.parent().is_some_and(|parent| parent.ends_with("deps")))
}
