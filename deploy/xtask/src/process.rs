//! Running programs: each with its name shown, its output kept in sight, and its failure told in a sentence.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// A step that is shown with its time when it ends.
pub struct Step {
    name: String,
    command: Command,
}

impl Step {
    /// `program` under a name for people.
    pub fn new(name: impl Into<String>, program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(crate::root()).stdin(Stdio::null());
        Self { name: name.into(), command }
    }

    /// Cargo, the one that runs this.
    pub fn cargo(name: impl Into<String>) -> Self {
        Self::new(name, std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    /// Where it runs.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Result<()> {
        println!("── {}", self.name);
        let begun = Instant::now();
        let program = self.command.get_program().to_string_lossy().into_owned();
        let status = self
            .command
            .status()
            .with_context(|| format!("{}: {program} could not be started; is it installed?", self.name))?;
        if !status.success() {
            bail!("{} failed ({status})", self.name);
        }
        println!("── {} ok, {:.0} s", self.name, begun.elapsed().as_secs_f64());
        Ok(())
    }
}

/// True when `program` is on the path, or there when it is a path itself.
pub fn is_here(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|folder| folder.join(program).is_file()))
}
