//! Loki's own packages judge a query: `tests/operations/tools/loki`, which `cargo xtask` builds into `target/tools`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use trunkline_system_tests::{process::Program, s, target};

const NAME: &str = "loki-select";
/// What it has to be built from.
const SOURCES: [&str; 3] = [
    include_str!("../../tools/loki/go.mod"),
    include_str!("../../tools/loki/go.sum"),
    include_str!("../../tools/loki/main.go"),
];

/// A log line in its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Of the stream.
    pub labels: BTreeMap<&'static str, String>,
    /// As it was written.
    pub line: String,
}

impl Line {
    /// A line of a node of an installation.
    pub fn new(job: &str, instance: &str, line: &str) -> Self {
        let labels = [("job", job.to_owned()), ("instance", instance.to_owned())];
        Self { labels: labels.into(), line: line.to_owned() }
    }
}

/// The lines that a query selects, in their order; an error when Loki refuses it.
pub async fn select<'a>(folder: &Path, query: &str, lines: &'a [Line]) -> Result<Vec<&'a Line>> {
    let path = folder.join("loki.json");
    let mut file = BufWriter::new(File::create(&path)?);
    writeln!(file, "{}", serde_json::json!({ "query": query }))?;
    for line in lines {
        writeln!(file, "{}", serde_json::to_string(line)?)?;
    }
    file.flush()?;
    let mut selecting = Program::start(NAME, folder, Command::new(program()?).arg(&path))?;
    selecting.succeed(s(60)).await.with_context(|| query.to_owned())?;
    let numbers = selecting.stdout();
    let numbered = |number: &str| lines.get(number.parse::<usize>().ok()?);
    numbers.lines().map(|number| numbered(number).with_context(|| number.to_owned())).collect()
}

fn program() -> Result<PathBuf> {
    let tools = target()?.join("tools");
    let path = tools.join("bin").join(NAME);
    let built = fs::read_to_string(tools.join("versions").join(NAME)).unwrap_or_default();
    ensure!(
        path.is_file() && built == SOURCES.concat(),
        "{NAME} is missing, or not as its source says: `cargo xtask kubernetes --tools` builds it (it needs Go)"
    );
    Ok(path)
}
