//! Prometheus' own judge of rules and queries: promtool.

use std::{fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};
use trunkline_system_tests::metrics::promtool;

/// A query and its answer after ten minutes; `None`: it has none.
#[derive(Debug)]
pub struct Answer {
    /// PromQL.
    pub query: String,
    /// Labels of the answer as PromQL writes them, and its value.
    pub is: Option<(String, f64)>,
}

/// Computes queries and rules over series that stay as they are (`series` and its value), with the groups of rules that
/// the chart renders.
pub fn compute(folder: &Path, groups: &[Value], series: &[(String, f64)], answers: &[Answer]) -> Result<()> {
    let rules = folder.join("rules.yaml");
    fs::write(&rules, json!({"groups": groups}).to_string())?;
    let series: Vec<Value> =
        series.iter().map(|(name, value)| json!({"series": name, "values": format!("{value}x20")})).collect();
    let asked: Vec<Value> = answers
        .iter()
        .map(|answer| {
            let samples = answer.is.iter().map(|(labels, value)| json!({"labels": labels, "value": value}));
            json!({"expr": answer.query, "eval_time": "10m", "exp_samples": samples.collect::<Vec<_>>()})
        })
        .collect();
    let test = folder.join("test.yaml");
    let case = json!({"interval": "1m", "input_series": series, "promql_expr_test": asked});
    let file = json!({"rule_files": [rules], "evaluation_interval": "1m", "tests": [case]});
    fs::write(&test, file.to_string())?;
    promtool(&["test", "rules"], &[test], "").map(drop)
}
