//! Tools under `target/tools`, which `cargo xtask kubernetes` builds.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Name and version of each, one a line.
const VERSIONS: &str = include_str!("../tools/versions");

/// What a program of our own has to be built from, as it is noted below its version.
const OWN: [(&str, &str); 1] = [(
    "compose-config",
    concat!(
        "\n",
        include_str!("../tools/compose/go.mod"),
        include_str!("../tools/compose/go.sum"),
        include_str!("../tools/compose/main.go")
    ),
)];

/// The version that is wanted of a tool.
pub fn version(name: &str) -> Result<&'static str> {
    let lines = VERSIONS.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find_map(|(tool, version)| (tool == name).then(|| version.trim()))
        .with_context(|| format!("tests/kubernetes/tools/versions does not name {name}"))
}

fn folder() -> Result<PathBuf> {
    Ok(trunkline_system_tests::target()?.join("tools"))
}

/// The program `name`, in the version that is wanted.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = folder()?.join("bin").join(name);
    found(name, &path)?;
    Ok(path)
}

/// The custom resource definitions of a project.
pub fn definitions(project: &str) -> Result<PathBuf> {
    let path = folder()?.join("crds").join(format!("{project}.yaml"));
    found(project, &path)?;
    Ok(path)
}

fn found(name: &str, path: &std::path::Path) -> Result<()> {
    let wanted = version(name)?;
    ensure!(
        path.is_file(),
        "{name} {wanted} is missing: `cargo xtask kubernetes --tools` builds it (it needs Go)"
    );
    let stamp = folder()?.join("versions").join(name);
    let there = fs::read_to_string(&stamp).unwrap_or_default();
    let own = OWN.iter().find(|(tool, _)| *tool == name).map_or("", |(_, source)| source);
    if there != format!("{wanted}{own}") {
        let there = there.lines().next().unwrap_or_default();
        bail!(
            "{name} is {there:?}, but {wanted} of today's source is wanted: `cargo xtask kubernetes --tools` builds it"
        );
    }
    Ok(())
}
