//! The rules of the house that a compiler does not know: which room may see which, how large a file may be, what
//! stands at the top. The tests in `tests/` enforce them; here are the readers that they share.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// The top of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// For each crate of the workspace: its folder, and the workspace crates it depends on (not for tests).
pub struct Crates(pub BTreeMap<String, (String, BTreeSet<String>)>);

impl Crates {
    /// Reads them from cargo.
    pub fn read() -> Result<Self> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .current_dir(root())
            .output()
            .context("cargo metadata")?;
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let top = root().canonicalize()?;
        let mut crates = BTreeMap::new();
        for package in metadata["packages"].as_array().context("packages")? {
            let name = package["name"].as_str().context("name")?.to_owned();
            let manifest = Path::new(package["manifest_path"].as_str().context("manifest")?);
            let folder = manifest.parent().context("folder")?.strip_prefix(&top)?.display().to_string();
            let dependencies = package["dependencies"]
                .as_array()
                .context("dependencies")?
                .iter()
                .filter(|d| d["kind"].is_null() && !d["path"].is_null())
                .filter_map(|d| d["name"].as_str().map(str::to_owned))
                .collect();
            crates.insert(name, (folder, dependencies));
        }
        Ok(Self(crates))
    }
}

/// Files that git tracks or would track.
pub fn files() -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("git ls-files")?;
    let mut files: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    files.retain(|file| root().join(file).is_file());
    Ok(files)
}

/// Lines of a Rust file without its test module and without comments and blank lines at its end.
pub fn code_lines(text: &str) -> usize {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text).lines().count()
}

/// The functions of a Rust file (test module excluded) with their lengths in lines. Reads the layout that rustfmt
/// gives: a function ends at the first line that is a closing brace with the indentation of its `fn`.
pub fn functions(text: &str) -> Vec<(String, usize)> {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    let mut found = Vec::new();
    let mut open: Vec<(String, usize, usize)> = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let trimmed = line.trim_start();
        if let Some(name) = function_name(trimmed) {
            open.push((name, indent, number));
        }
        if trimmed == "}" && open.last().is_some_and(|(_, at, _)| *at == indent) {
            if let Some((name, _, begun)) = open.pop() {
                found.push((name, number - begun + 1));
            }
        } else if (trimmed.ends_with('}') || trimmed.ends_with(';'))
            && open.last().is_some_and(|(_, at, begun)| *at == indent && *begun == number)
        {
            open.pop();
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line;
    loop {
        let (word, after) = rest.split_once(' ')?;
        match word {
            "fn" => return Some(after.split(['(', '<']).next()?.to_owned()),
            "pub" | "const" | "async" | "unsafe" | "extern" | "pub(crate)" | "pub(super)" | "\"C\"" => {
                rest = after
            }
            _ => return None,
        }
    }
}
