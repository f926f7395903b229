//! The pages of the alerts.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use trunkline_system_tests::root;

/// Headings that every page has, in this order.
pub const HEADINGS: [&str; 4] = ["## Meaning", "## What people notice", "## Look at", "## Remedy"];

/// A page.
#[derive(Debug)]
pub struct Page {
    /// The alert.
    pub name: String,
    /// As written.
    pub text: String,
    /// PromQL, one a line.
    pub queries: Vec<String>,
    /// Commands, one a line.
    pub commands: Vec<String>,
}

/// Where the pages are.
pub fn folder() -> PathBuf {
    root().join("deploy/runbooks")
}

/// The page of an alert.
pub fn page(alert: &str) -> Result<Page> {
    let path = folder().join(format!("{alert}.md"));
    let text = fs::read_to_string(&path).with_context(|| format!("no page {}", path.display()))?;
    let page = Page {
        name: alert.to_owned(),
        queries: block(&text, "promql")?,
        commands: block(&text, "sh")?,
        text,
    };
    Ok(page)
}

/// The names of all pages but the index.
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".md").filter(|name| *name != "README").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The lines of the fenced block in this language.
fn block(text: &str, language: &str) -> Result<Vec<String>> {
    let fence = format!("```{language}\n");
    let (_, rest) = text.split_once(&fence).with_context(|| format!("no block of {language}"))?;
    let (block, _) = rest.split_once("```").with_context(|| format!("the block of {language} has no end"))?;
    let lines: Vec<String> = block.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    ensure!(!lines.is_empty(), "the block of {language} is empty");
    Ok(lines)
}
