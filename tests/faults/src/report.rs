//! What a run found: a table for people, JSON for machines.

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::checker::Violation;

/// One run of one scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The scenario.
    pub scenario: String,
    /// Decides whom the fault hits and when.
    pub seed: u64,
    /// What was measured.
    pub measured: Vec<Measured>,
    /// Promises that were not kept.
    pub violations: Vec<Violation>,
    /// Why it could not be carried out, or what else went wrong.
    pub error: Option<String>,
    /// Why nothing was tried: it neither holds nor fails.
    pub not_run: Option<&'static str>,
    /// How long it took.
    pub seconds: f64,
}

impl Outcome {
    /// Whether nothing went wrong.
    pub fn passed(&self) -> bool {
        self.error.is_none() && self.violations.is_empty() && self.measured.iter().all(Measured::holds)
    }

    /// Why it did not pass, besides figures out of bounds: each promise that was not kept, and what else went wrong.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        let violated = self.violations.iter().map(|violation| format!("VIOLATED {violation}"));
        violated.chain(self.error.iter().map(|error| format!("FAILED {error}")))
    }
}

/// A figure with the bound that it has to keep.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// What.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// At most this. None: it is only told.
    pub at_most: Option<f64>,
    /// At least this.
    pub at_least: Option<f64>,
}

impl Measured {
    /// Whether it keeps its bounds.
    pub fn holds(&self) -> bool {
        self.at_most.is_none_or(|most| self.value <= most)
            && self.at_least.is_none_or(|least| self.value >= least)
    }

    fn bound(&self) -> String {
        match (self.at_least, self.at_most) {
            (Some(least), _) => format!("≥ {}", number(least)),
            (None, Some(most)) => format!("≤ {}", number(most)),
            (None, None) => String::new(),
        }
    }
}

/// A time in seconds that is at most `bound`.
pub fn seconds(name: &'static str, value: Duration, bound: Option<Duration>) -> Measured {
    let at_most = bound.map(|bound| bound.as_secs_f64());
    Measured { name, value: value.as_secs_f64(), unit: "s", at_most, at_least: None }
}

/// A count that is at most `bound`.
pub fn count(name: &'static str, value: usize, at_most: Option<usize>) -> Measured {
    Measured { name, value: value as f64, unit: "", at_most: at_most.map(|most| most as f64), at_least: None }
}

/// A figure that is at least `bound`.
pub fn at_least(name: &'static str, value: f64, unit: &'static str, bound: f64) -> Measured {
    Measured { name, value, unit, at_most: None, at_least: Some(bound) }
}

/// A value of the sorted ones: `share` 0.5 is the median.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The table of all runs, one line for each figure.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut rows = vec![["fault", "figure", "p50", "p99", "bound", "runs", "verdict"].map(str::to_owned)];
    let mut scenarios: Vec<&str> = outcomes.iter().map(|outcome| outcome.scenario.as_str()).collect();
    scenarios.dedup();
    for scenario in scenarios {
        let runs: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.scenario == scenario).collect();
        let passed = runs.iter().filter(|run| run.passed()).count();
        let verdict = match runs.len() - passed {
            0 if runs.iter().any(|run| run.not_run.is_some()) => "NOT RUN".to_owned(),
            0 => "holds".to_owned(),
            failed => format!("FAILS {failed}"),
        };
        rows.push([
            scenario.to_owned(),
            "promises".into(),
            String::new(),
            String::new(),
            String::new(),
            runs.len().to_string(),
            verdict,
        ]);
        let mut names: Vec<&'static str> = Vec::new();
        for measured in runs.iter().flat_map(|run| &run.measured) {
            if !names.contains(&measured.name) {
                names.push(measured.name);
            }
        }
        for name in names {
            let all: Vec<&Measured> =
                runs.iter().flat_map(|run| &run.measured).filter(|m| m.name == name).collect();
            let Some(first) = all.first() else { continue };
            let mut values: Vec<f64> = all.iter().map(|m| m.value).collect();
            let show = |value: f64| format!("{} {}", number(value), first.unit).trim().to_owned();
            rows.push([
                String::new(),
                name.to_owned(),
                show(percentile(&mut values, 0.5)),
                show(percentile(&mut values, 0.99)),
                first.bound(),
                String::new(),
                if all.iter().all(|m| m.holds()) { String::new() } else { "FAILS".into() },
            ]);
        }
    }
    render(&rows)
}

fn render(rows: &[[String; 7]]) -> String {
    let mut widths = [0; 7];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if n == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text += &format!("| {} |\n", rules.join(" | "));
        }
    }
    text
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Writes all runs as JSON.
pub fn write(path: &Path, outcomes: &[Outcome]) -> Result<()> {
    let text = serde_json::to_string_pretty(outcomes)? + "\n";
    std::fs::write(path, text).with_context(|| format!("{}", path.display()))
}

/// A line about progress, on standard error. A closed terminal stops nothing.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "faults: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(seed: u64, gap: f64) -> Outcome {
        let gap = seconds("gap", Duration::from_secs_f64(gap), Some(Duration::from_secs(2)));
        let (scenario, violations) = ("kill-control".to_owned(), Vec::new());
        Outcome { scenario, seed, measured: vec![gap], violations, error: None, not_run: None, seconds: 1.0 }
    }

    #[test]
    fn a_bound_that_is_not_kept_fails_the_scenario() {
        let good = [outcome(1, 0.5), outcome(2, 1.5)];
        assert!(good.iter().all(Outcome::passed));
        let text = table(&good);
        assert!(text.contains("holds") && text.contains("0.50 s") && text.contains("1.50 s"), "{text}");
        let bad = [outcome(1, 0.5), outcome(2, 2.5)];
        assert!(!bad[1].passed());
        assert!(table(&bad).contains("FAILS 1"));
    }

    /// What was not tried does not hold; a reader of the table sees it.
    #[test]
    fn what_was_not_run_is_told() {
        let not_run = Outcome { measured: Vec::new(), not_run: Some("no binary"), ..outcome(1, 0.0) };
        let text = table(&[not_run]);
        assert!(text.contains("NOT RUN") && !text.contains("holds"), "{text}");
    }

    #[test]
    fn reasons_tell_what_was_violated_and_what_went_wrong() {
        let text = "caller 3 was lost".to_owned();
        let violation = Violation { promise: crate::checker::Promise::NobodyStuck, text };
        let error = Some("the cluster fell over".to_owned());
        let bad = Outcome { violations: vec![violation], error, ..outcome(1, 0.5) };
        let reasons: Vec<String> = bad.reasons().collect();
        assert!(!bad.passed() && reasons.len() == 2, "{reasons:?}");
        assert!(reasons[0].starts_with("VIOLATED ") && reasons[0].contains("caller 3 was lost"));
        assert_eq!(reasons[1], "FAILED the cluster fell over");
        assert_eq!(outcome(1, 0.5).reasons().count(), 0);
    }

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let mut values = [3.0, 1.0, 2.0, 4.0];
        assert_eq!((percentile(&mut values, 0.5), percentile(&mut values, 0.99)), (2.0, 4.0));
        assert!(percentile(&mut [], 0.5).is_nan());
    }
}
