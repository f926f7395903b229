//! What was measured: figures as a table beside the peers', runs as text, JSON and one HTML page.

mod html;
mod outcome;
mod svg;
mod text;

use std::{io::Write as _, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

pub use outcome::{Machine, Metric, Process, Quantiles, Report, Stopped};
pub use svg::{Plot, Series};

/// One measured figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// The project's goal, in words.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub goal: &'static str,
    /// Asterisk 22.10 with app_queue at the same work.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub asterisk: &'static str,
    /// FreeSWITCH 1.10.12 with mod_callcenter at the same work.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub freeswitch: &'static str,
}

/// A figure without peers.
pub fn figure(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure { name: name.into(), value, unit, goal: "", asterisk: "", freeswitch: "" }
}

impl Figure {
    /// The goal and the peers' figures (measured on a 2-core EPYC machine; compare ratios, not seconds).
    pub fn beside(mut self, goal: &'static str, asterisk: &'static str, freeswitch: &'static str) -> Self {
        (self.goal, self.asterisk, self.freeswitch) = (goal, asterisk, freeswitch);
        self
    }
}

/// Median, 99th percentile and most of times, in milliseconds.
pub fn times(name: &str, mut times: Vec<Duration>) -> Vec<Figure> {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
    };
    if times.is_empty() {
        return vec![figure(format!("{name}: none"), 0.0, "samples")];
    }
    [("p50", 0.5), ("p99", 0.99), ("most", 1.0)]
        .into_iter()
        .map(|(label, share)| figure(format!("{name}, {label}"), at(share), "ms"))
        .collect()
}

/// Prints the table and writes the JSON.
pub fn publish(scenario: &str, figures: &[Figure], json: Option<&Path>) -> Result<()> {
    let mut rows = vec![["figure", "measured", "unit", "goal", "Asterisk", "FreeSWITCH"].map(str::to_owned)];
    rows.extend(figures.iter().map(|figure| {
        [
            figure.name.clone(),
            number(figure.value),
            figure.unit.to_owned(),
            figure.goal.to_owned(),
            figure.asterisk.to_owned(),
            figure.freeswitch.to_owned(),
        ]
    }));
    let width =
        |column: usize| rows.iter().map(|row| row.get(column).map_or(0, |cell| cell.chars().count())).max();
    let widths: Vec<usize> = (0..6).filter_map(width).collect();
    let mut text = format!("\n{scenario}\n\n");
    for (n, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if n == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text += &format!("| {} |\n", rules.join(" | "));
        }
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    if let Some(path) = json {
        let value = serde_json::json!({ "scenario": scenario, "figures": figures });
        std::fs::write(path, serde_json::to_string_pretty(&value)? + "\n")
            .with_context(|| format!("--json {}: cannot be written", path.display()))?;
    }
    Ok(())
}

/// Prints a report and writes it where it is wanted.
pub fn publish_run(report: &Report, json: Option<&Path>, html: Option<&Path>) -> Result<()> {
    std::io::stdout().lock().write_all(report.text().as_bytes())?;
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(report)? + "\n")
            .with_context(|| format!("--json {}: cannot be written", path.display()))?;
    }
    if let Some(path) = html {
        std::fs::write(path, report.html())
            .with_context(|| format!("--html {}: cannot be written", path.display()))?;
        note(&format!("report: {}", path.display()));
    }
    Ok(())
}

fn number(value: f64) -> String {
    match value.abs() {
        most if most >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        most if most >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A line about progress or trouble, on standard error. A closed terminal stops nothing.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "trunkline-load: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let figures = times("x", (1..=100).rev().map(Duration::from_millis).collect());
        let values: Vec<f64> = figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [51.0, 100.0, 100.0]);
        assert_eq!(times("x", Vec::new()).len(), 1);
    }
}
