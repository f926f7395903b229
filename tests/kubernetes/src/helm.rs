//! The real helm.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{objects::Objects, tools};

/// Names of both versions, for tests that go over them.
pub const BOTH: [&str; 2] = ["helm3", "helm4"];

/// A helm with a home of its own: nothing of the machine's configuration reaches it.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: TempDir,
    kubeconfig: Option<PathBuf>,
}

/// What a helm said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code was 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Its output, when it succeeded.
    pub fn expect(self) -> Result<String> {
        if self.ok { Ok(self.out) } else { bail!("helm failed:\n{}\n{}", self.out, self.err) }
    }

    /// Its complaint, when it failed as it should.
    pub fn expect_failure(self) -> Result<String> {
        if self.ok { bail!("helm succeeded, but should not have:\n{}", self.out) } else { Ok(self.err) }
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Helm {
    /// `helm3` or `helm4`, without a cluster.
    pub fn new(name: &str) -> Result<Self> {
        let home = tempfile::tempdir().context("a home for helm")?;
        Ok(Self { program: tools::program(name)?, home, kubeconfig: None })
    }

    /// The same for a cluster.
    pub fn on(name: &str, kubeconfig: &Path) -> Result<Self> {
        Ok(Self { kubeconfig: Some(kubeconfig.to_owned()), ..Self::new(name)? })
    }

    /// Runs it.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Said> {
        let home = self.home.path();
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home);
        for (name, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(name, home.join(folder));
        }
        // A path that is not there: no cluster of the developer's is ever reached.
        command.env("KUBECONFIG", self.kubeconfig.clone().unwrap_or_else(|| home.join("no-cluster")));
        let output = command.output().with_context(|| format!("{}", self.program.display()))?;
        Ok(output.into())
    }

    /// What `helm template` says of a chart with these values files and settings (`a.b=c`).
    pub fn try_template(&self, chart: &Path, files: &[PathBuf], settings: &[&str]) -> Result<Said> {
        let mut arguments: Vec<PathBuf> =
            ["template", "tl", "--namespace", "calls"].map(PathBuf::from).to_vec();
        arguments.push(chart.to_owned());
        for file in files {
            arguments.extend(["--values".into(), file.clone()]);
        }
        for setting in settings {
            arguments.extend(["--set-json".into(), PathBuf::from(setting)]);
        }
        self.run(arguments)
    }

    /// The objects that a chart renders with these values files and settings (JSON: `a.b="c"`).
    pub fn template(&self, chart: &Path, files: &[PathBuf], settings: &[&str]) -> Result<Objects> {
        Objects::parse(&self.try_template(chart, files, settings)?.expect()?)
    }
}

/// Values as JSON, from a file.
pub fn read_values(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    serde_yaml_ng::from_str(&text).with_context(|| format!("{}", file.display()))
}
