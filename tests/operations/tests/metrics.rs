//! Proves what can be proved of rules, alerts and runbooks without a cluster: Prometheus takes the rules, every alert
//! fires when it should and does not when it should not, and has a page that tells what it is and what to do.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, ensure};
use trunkline_operations_tests::observe::{
    rules::{self, TestFile},
    runbooks,
};
use trunkline_system_tests::metrics::promtool;

#[test]
fn prometheus_takes_every_rule_and_every_alert_does_as_its_tests_say() -> Result<()> {
    promtool(&["check", "rules"], &rules::yaml_files(&rules::folder())?, "")?;
    promtool(&["test", "rules"], &rules::yaml_files(&rules::tests_folder())?, "").map(drop)
}

/// A test that only shows silence would pass for an alert that never fires, and the other way round.
#[test]
fn every_alert_is_tested_both_ways_and_nothing_else_is() -> Result<()> {
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for path in rules::yaml_files(&rules::tests_folder())? {
        let file: TestFile = serde_yaml_ng::from_str(&std::fs::read_to_string(&path)?)
            .with_context(|| path.display().to_string())?;
        for rule in &file.rule_files {
            let rule = rules::tests_folder().join(rule);
            ensure!(rule.is_file(), "{}: no such file {}", path.display(), rule.display());
        }
        for case in file.tests {
            ensure!(!case.promql_expr_test.is_empty(), "{}: {} expects nothing", path.display(), case.name);
            for expected in case.promql_expr_test {
                let alert =
                    expected.expr.split('"').nth(1).with_context(|| expected.expr.clone())?.to_owned();
                let asked = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
                ensure!(expected.expr == asked, "{}: asks {}", case.name, expected.expr);
                ensure!(case.name.starts_with(&alert), "{} asks for {alert}", case.name);
                let set = if expected.exp_samples.is_empty() { &mut quiet } else { &mut fires };
                set.insert(alert);
            }
        }
    }
    let alerts: BTreeSet<String> = rules::alerts()?.into_keys().collect();
    ensure!(fires == alerts, "never seen to fire: {:?}", fires.symmetric_difference(&alerts));
    ensure!(quiet == alerts, "never seen to be quiet: {:?}", quiet.symmetric_difference(&alerts));
    Ok(())
}

#[test]
fn every_alert_says_what_it_means_and_leads_to_its_page() -> Result<()> {
    const BASE: &str = "https://runbooks.trunkline.invalid";
    for (name, rule) in rules::alerts()? {
        let severity = rule.labels.get("severity").map(String::as_str);
        ensure!(matches!(severity, Some("critical" | "warning")), "{name}: severity {severity:?}");
        for annotation in ["summary", "description"] {
            let text =
                rule.annotations.get(annotation).with_context(|| format!("{name}: no {annotation}"))?;
            ensure!(text.len() > 12, "{name}: {annotation} says too little: {text}");
        }
        let command = rule.annotations.get("runbook").map(String::as_str);
        ensure!(command == Some(&*format!("trunkline runbook {name}")), "{name}: its page is by {command:?}");
        let leads = rule.annotations.get("runbook_url").with_context(|| format!("{name}: no runbook_url"))?;
        ensure!(*leads == format!("{BASE}/{name}.md"), "{name}: leads to {leads}");
        let summary = &rule.annotations["summary"];
        ensure!(!summary.contains("{{"), "{name}: a summary is the same for all: {summary}");
    }
    Ok(())
}

#[test]
fn every_alert_has_a_page_and_every_page_an_alert() -> Result<()> {
    let alerts = rules::alerts()?;
    let index = std::fs::read_to_string(runbooks::folder().join("README.md"))?;
    for (name, rule) in &alerts {
        let page = runbooks::page(name)?;
        ensure!(page.text.starts_with(&format!("# {name}\n")), "{name}: the page has another heading");
        let severity = &rule.labels["severity"];
        ensure!(
            page.text.contains(&format!("Severity: {severity}.")),
            "{name}: another severity than the rule"
        );
        let mut rest = page.text.as_str();
        for heading in runbooks::HEADINGS {
            let (_, after) =
                rest.split_once(heading).with_context(|| format!("{name}: no {heading} in place"))?;
            ensure!(after.trim_start().len() > 40, "{name}: {heading} says nothing");
            rest = after;
        }
        ensure!(rest.matches("\n- ").count() >= 2, "{name}: fewer than two remedies");
        leads_somewhere(&page.text, &runbooks::folder()).context(name.clone())?;
        let row = format!("| [{name}]({name}.md) | {severity} | {} |", rule.annotations["summary"]);
        ensure!(index.contains(&row), "README.md has no row {row}");
    }
    let pages: BTreeSet<String> = runbooks::names()?.into_iter().collect();
    let names: BTreeSet<String> = alerts.into_keys().collect();
    ensure!(pages == names, "pages without an alert: {:?}", pages.difference(&names));
    leads_somewhere(&index, &runbooks::folder())
}

/// Every link to a file leads to one.
fn leads_somewhere(text: &str, folder: &Path) -> Result<()> {
    for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        ensure!(folder.join(link).is_file(), "a link leads nowhere: {link}");
    }
    Ok(())
}
