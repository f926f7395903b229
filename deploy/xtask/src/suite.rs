//! The tests of the workspace: all are built once, with the same features, and then run folder by folder.
//!
//! `cargo test --package …` would build what a package depends on anew whenever that package wants other features of it
//! than the whole workspace does: minutes for nothing, and another binary than the one that the stage before has tested.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process::Step, root};

/// Test programs that are built.
pub struct Suite(Vec<Test>);

struct Test {
    /// Of its package, from the top.
    folder: PathBuf,
    name: String,
    program: PathBuf,
}

impl Suite {
    /// Builds everything: programs, tests, benches, examples.
    pub fn build() -> Result<Self> {
        Step::cargo("build").args(["build", "--workspace", "--all-targets", "--quiet"]).run()?;
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["test", "--workspace", "--no-run", "--quiet", "--message-format=json-render-diagnostics"])
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = cargo.spawn().context("cargo could not be started")?;
        let told = child.stdout.take().context("cargo has no output")?;
        let mut tests = Vec::new();
        for line in BufReader::new(told).lines() {
            tests.extend(test(&line?, &root()));
        }
        let ended = child.wait()?;
        if !ended.success() {
            bail!("the tests could not be built ({ended})");
        }
        tests.sort_by(|one, other| (&one.folder, &one.name).cmp(&(&other.folder, &other.name)));
        Ok(Self(tests))
    }

    /// Runs the tests of the packages in the folders that are wanted, each to its end; what fails first hides nothing.
    pub fn run(
        &self,
        step: &str,
        wanted: impl Fn(&Path) -> bool,
        arguments: &[&str],
        environment: &[(&str, PathBuf)],
    ) -> Result<()> {
        println!("── {step}");
        let (begun, mut ran, mut failed) = (Instant::now(), 0, Vec::new());
        for test in self.0.iter().filter(|test| wanted(&test.folder)) {
            println!("   {} {}", test.folder.display(), test.name);
            let folder = root().join(&test.folder);
            let status = Command::new(&test.program)
                .args(arguments)
                .current_dir(&folder)
                .env("CARGO_MANIFEST_DIR", &folder)
                .envs(environment.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::null())
                .status()
                .with_context(|| format!("{} could not be started", test.program.display()))?;
            ran += 1;
            if !status.success() {
                failed.push(format!("{} {} ({status})", test.folder.display(), test.name));
            }
        }
        if ran == 0 {
            bail!("{step}: there is no test");
        }
        if !failed.is_empty() {
            bail!("{step} failed: {}", failed.join(", "));
        }
        println!("── {step} ok, {ran} programs, {:.0} s", begun.elapsed().as_secs_f64());
        Ok(())
    }
}

/// The test program of a line that cargo writes.
fn test(line: &str, top: &Path) -> Option<Test> {
    let told: Value = serde_json::from_str(line).ok()?;
    let built = told["reason"] == "compiler-artifact" && told["profile"]["test"] == true;
    let program = told["executable"].as_str().filter(|_| built)?;
    let manifest = Path::new(told["manifest_path"].as_str()?);
    Some(Test {
        folder: manifest.parent()?.strip_prefix(top).ok()?.to_owned(),
        name: told["target"]["name"].as_str()?.to_owned(),
        program: program.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_told_from_the_rest() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/top/tests/faults/Cargo.toml",
            "target":{"name":"trunkline_faults","kind":["lib"]},"profile":{"test":true},"executable":"/t/faults-1"}"#
            .replace('\n', "");
        let found = test(&line, Path::new("/top")).unwrap();
        assert_eq!((found.folder.as_path(), &*found.name), (Path::new("tests/faults"), "trunkline_faults"));
        let library = line.replace(r#""test":true"#, r#""test":false"#);
        assert!(test(&library, Path::new("/top")).is_none());
        assert!(test(r#"{"reason":"build-finished","success":true}"#, Path::new("/top")).is_none());
        assert!(test("no JSON", Path::new("/top")).is_none());
    }
}
