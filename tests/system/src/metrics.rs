//! What every page of metrics has to be: taken by Prometheus' own judge without a word, named and explained, and without
//! labels that grow with calls, agents or numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Labels whose values are known to be few.
const LABELS: [&str; 33] = [
    "answer",
    "by",
    "cause",
    "certificate",
    "class",
    "code",
    "command",
    "destination",
    "direction",
    "from",
    "group",
    "kind",
    "lane",
    "le",
    "method",
    "missing",
    "origin",
    "outcome",
    "party",
    "phase",
    "queue",
    "reason",
    "receiver",
    "result",
    "role",
    "roles",
    "route",
    "stage",
    "state",
    "tenant",
    "transport",
    "trunk",
    "version",
];

/// Names with labels, without values.
pub fn series(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
}

/// A page in the text format.
///
/// # Errors
/// What is wrong with it.
pub fn sound(page: &str) -> Result<()> {
    named(page)?;
    bounded(&series(page))?;
    prometheus_takes(page)
}

fn named(page: &str) -> Result<()> {
    let helps = page.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let families: BTreeMap<&str, &str> = helps.filter_map(|rest| rest.split_once(' ')).collect();
    ensure!(!families.is_empty(), "no metrics: {page}");
    for (family, help) in families {
        ensure!(family.starts_with("trunkline_"), "{family}");
        ensure!(!help.is_empty(), "{family} has no help");
    }
    Ok(())
}

fn bounded(series: &BTreeSet<String>) -> Result<()> {
    for name in series {
        let Some((_, labels)) = name.split_once('{') else { continue };
        for pair in labels.trim_end_matches('}').split("\",") {
            let (label, value) = pair.split_once("=\"").with_context(|| name.clone())?;
            let value = value.trim_end_matches('"');
            ensure!(LABELS.contains(&label), "{name}: is {label} bounded?");
            let digits = value.bytes().filter(u8::is_ascii_digit).count();
            ensure!(label == "le" || digits < 6, "{name}: looks like an id or a number");
            ensure!(value.len() < 64 && !value.contains("-dev"), "{name}: {value}");
        }
    }
    Ok(())
}

fn prometheus_takes(page: &str) -> Result<()> {
    let said = promtool(&["check", "metrics"], &[], page)?;
    ensure!(said.trim().is_empty(), "promtool check metrics: {said}");
    Ok(())
}

/// Prometheus' own judge of rules, queries and pages; tells what it said.
///
/// # Errors
/// When it is not here, or does not agree.
pub fn promtool(arguments: &[&str], files: &[PathBuf], input: &str) -> Result<String> {
    let mut judge = Command::new("promtool")
        .args(arguments)
        .args(files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool could not be started: the Debian package prometheus has it")?;
    // It reads everything before it says anything.
    judge.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = judge.wait_with_output()?;
    let said =
        [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
    ensure!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_page_is_found() {
        let page = |name: &str, labels: &str| {
            format!("# HELP {name} What it is.\n# TYPE {name} counter\n{name}{{{labels}}} 1\n")
        };
        sound(&page("trunkline_x_total", "queue=\"support\"")).unwrap();
        let wrong = [
            (page("x_total", "queue=\"support\""), "x_total"),
            (page("trunkline_x_total", "caller=\"a\""), "is caller bounded?"),
            (page("trunkline_x_total", "queue=\"493012345\""), "looks like an id"),
            (page("trunkline_x", "queue=\"support\""), "promtool"),
            (String::new(), "no metrics"),
        ];
        for (page, reason) in wrong {
            let said = format!("{:#}", sound(&page).unwrap_err());
            assert!(said.contains(reason), "{reason}: {said}");
        }
    }
}
