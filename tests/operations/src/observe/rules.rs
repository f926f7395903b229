//! The rules and their tests, as files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use trunkline_system_tests::root;

/// A file of rules.
#[derive(Debug, Deserialize)]
pub struct RuleFile {
    /// Its groups.
    pub groups: Vec<Group>,
}

/// Rules that are computed together.
#[derive(Debug, Deserialize)]
pub struct Group {
    /// Unique over all files.
    pub name: String,
    /// In order.
    pub rules: Vec<Rule>,
}

/// A recording rule or an alert.
#[derive(Debug, Clone, Deserialize)]
pub struct Rule {
    /// The series it makes.
    pub record: Option<String>,
    /// The alert's name.
    pub alert: Option<String>,
    /// PromQL.
    pub expr: String,
    /// Labels that it adds.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is said to people.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A file for `promtool test rules`.
#[derive(Debug, Deserialize)]
pub struct TestFile {
    /// Rules that it is about.
    pub rule_files: Vec<String>,
    /// Its cases.
    pub tests: Vec<Case>,
}

/// A history and what follows from it.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// In words.
    pub name: String,
    /// What is asked.
    #[serde(default)]
    pub promql_expr_test: Vec<Expectation>,
}

/// A query and its answer.
#[derive(Debug, Deserialize)]
pub struct Expectation {
    /// PromQL.
    pub expr: String,
    /// The answer.
    #[serde(default)]
    pub exp_samples: Vec<serde_yaml_ng::Value>,
}

/// Where the chart has the rules.
pub fn folder() -> PathBuf {
    root().join("helm/trunkline/files/rules")
}

/// Where the rules' tests are.
pub fn tests_folder() -> PathBuf {
    root().join("tests/operations/rules")
}

/// The YAML files of a folder, in order.
pub fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Every rule.
pub fn all() -> Result<Vec<Rule>> {
    let mut all = Vec::new();
    for path in yaml_files(&folder())? {
        let text = fs::read_to_string(&path)?;
        let file: RuleFile = serde_yaml_ng::from_str(&text).with_context(|| path.display().to_string())?;
        all.extend(file.groups.into_iter().flat_map(|group| group.rules));
    }
    Ok(all)
}

/// Every alert by name.
pub fn alerts() -> Result<BTreeMap<String, Rule>> {
    let alerts = all()?.into_iter().filter_map(|rule| Some((rule.alert.clone()?, rule)));
    Ok(alerts.collect())
}
