//! Proves that dashboards, rules and runbooks show something: a real Prometheus scrapes a loaded cluster that gets into trouble,
//! and every query of every panel and every recording rule gives data that is not zero all the time ([`QUIET`] names what may
//! be), every query of a runbook names metrics that exist, and exemplars
//! lead to traces that a collector has got.
//!
//! Windows of minutes and hours are replaced by 15 s in rules and queries (`observe::promql`), and everything is chosen
//! where a dashboard lets one choose.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_operations_tests::observe::{
    dashboards::{self, Dashboard, Kind, Source},
    lab::{self, Lab},
    prometheus::Prometheus,
    promql, rules, runbooks,
};
use trunkline_system_tests::{http, metrics, root, s, until};

/// `TRUNKLINE_WRITE=1` writes the files.
#[test]
fn the_files_are_what_the_source_says() -> Result<()> {
    let write = std::env::var_os("TRUNKLINE_WRITE").is_some();
    for dashboard in dashboards::all() {
        let path = dashboards::file(&dashboard);
        let text = serde_json::to_string_pretty(&dashboard.json())? + "\n";
        if write {
            std::fs::write(&path, &text)?;
        }
        let found = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(
            found == text,
            "{} is not what its source says: TRUNKLINE_WRITE=1 cargo test -p trunkline-operations-tests \
             --test dashboards the_files writes it",
            path.display()
        );
    }
    Ok(())
}

/// The README's lines for whoever takes the rules without the chart: afterwards every alert leads to its page on the console.
#[test]
fn rules_as_plain_files_lead_to_the_console() -> Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let chapter = readme.split_once("### Watching it\n").context("no chapter `Watching it`")?.1;
    let lines = chapter.split("```").nth(1).context("the chapter has no command lines")?;
    let folder = tempfile::tempdir()?;
    let typed = lines.replace("/etc/prometheus/rules", &folder.path().display().to_string());
    let done = Command::new("sh").args(["-ec", &typed]).current_dir(root()).output()?;
    ensure!(done.status.success(), "{typed}: {}", String::from_utf8_lossy(&done.stderr));
    let mut alerts = 0;
    for file in rules::yaml_files(folder.path())? {
        let read: rules::RuleFile = serde_yaml_ng::from_str(&std::fs::read_to_string(&file)?)?;
        for rule in read.groups.into_iter().flat_map(|group| group.rules) {
            let Some(alert) = rule.alert else { continue };
            let wanted = format!("https://console.example.com/runbooks/{alert}.md");
            ensure!(
                rule.annotations.get("runbook_url") == Some(&wanted),
                "{alert} does not lead to {wanted}"
            );
            alerts += 1;
        }
    }
    ensure!(alerts == rules::alerts()?.len(), "only {alerts} alerts came along");
    Ok(())
}

/// What Grafana would complain of, or show wrong.
#[test]
fn dashboards_are_sound() -> Result<()> {
    let mut uids = BTreeSet::new();
    for dashboard in dashboards::all() {
        ensure!(uids.insert(dashboard.uid), "two dashboards {}", dashboard.uid);
        let json = dashboard.json();
        let panels = json["panels"].as_array().context("no panels")?;
        let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
        ensure!(ids.len() == panels.len(), "{}: ids of panels are not unique", dashboard.uid);
        places_are_free(panels).context(dashboard.uid)?;
        let variables = json["templating"]["list"].as_array().context("no variables")?;
        let known: BTreeSet<&str> = variables.iter().filter_map(|v| v["name"].as_str()).collect();
        for (title, query) in dashboard.queries() {
            for name in variables_in(&query.text) {
                ensure!(known.contains(name), "{}: {title}: no variable ${name}", dashboard.uid);
            }
            ensure!(known.contains(query.source.name()), "{}: {title}: no data source", dashboard.uid);
            if query.source == Source::Loki {
                let all = |name| variables.iter().find(|v| v["name"] == name).map(|v| &v["allValue"]);
                let narrows = variables_in(&query.text).into_iter().any(|name| {
                    query.text.contains(&format!("=~\"${name}\"")) && all(name) == Some(&".+".into())
                });
                ensure!(narrows, "{}: {title}: Loki refuses it when everything is chosen", dashboard.uid);
            }
        }
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            let asks = panel.kind == Kind::Text || !panel.queries.is_empty();
            ensure!(asks, "{}: {} asks nothing", dashboard.uid, panel.title);
        }
    }
    Ok(())
}

fn places_are_free(panels: &[Value]) -> Result<()> {
    let mut taken = BTreeSet::new();
    for panel in panels {
        let of = |name: &str| panel["gridPos"][name].as_u64().with_context(|| format!("no {name}"));
        let (left, top, width, height) = (of("x")?, of("y")?, of("w")?, of("h")?);
        ensure!(left + width <= 24, "{} stands out of the grid", panel["title"]);
        for x in left..left + width {
            for y in top..top + height {
                ensure!(taken.insert((x, y)), "{} lies over another panel", panel["title"]);
            }
        }
    }
    Ok(())
}

/// `$name`, without Grafana's own.
fn variables_in(text: &str) -> Vec<&str> {
    let names = text.split('$').skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    });
    names.filter(|name| !name.starts_with("__")).collect()
}

#[test]
fn every_query_has_data_from_a_loaded_cluster() -> Result<()> {
    lab::inside(async |network| {
        let folder = trunkline_system_tests::folder("operations-dashboards")?;
        let mut lab = Lab::start(network, &folder).await?;
        lab.load(24).await?;
        lab.drain("c2", &folder).await?;
        lab.trouble(&folder).await?;
        lab.load(12).await?;
        until("everything is scraped and computed", s(30), async || {
            Ok(lab.prometheus.problems().await?.is_empty().then_some(()))
        })
        .await
        .with_context(|| "see the targets and rules of Prometheus")?;

        let mut failures = Vec::new();
        for dashboard in dashboards::all() {
            panels_have_data(&lab.prometheus, &dashboard, &mut failures).await?;
        }
        recording_rules_have_data(&lab.prometheus, &mut failures).await?;
        runbooks_name_what_exists(&lab.prometheus, &mut failures).await?;
        exemplars_lead_to_traces(&lab, &mut failures).await?;
        no_alert_says_nonsense(&lab.prometheus, &mut failures).await?;
        pages_are_sound(&lab, &mut failures).await?;
        ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    })
}

/// What nodes of a cluster show of etcd, PostgreSQL, links and shards is as sound as what one process shows.
async fn pages_are_sound(lab: &Lab, failures: &mut Vec<String>) -> Result<()> {
    ensure!(lab.pages.len() == 5, "{} nodes run", lab.pages.len());
    for (name, at) in &lab.pages {
        let page = http::get(*at, "/metrics").await?.expect(200)?.text();
        ensure!(page.contains("trunkline_cluster_members"), "{name}: no node of a cluster");
        if let Err(error) = metrics::sound(&page) {
            failures.push(format!("metrics of {name}: {error:#}"));
        }
    }
    Ok(())
}

/// What may be zero all the time, and why; everything else moves, or nobody would see that a query asks for the wrong thing.
const QUIET: [(&str, &str); 12] = [
    ("trunkline_cluster_shards_opening", "moments: shards are taken over between two scrapes"),
    ("trunkline_cluster_etcd_failures_total", "only a write that is under way when etcd goes away fails"),
    (
        "job_instance:trunkline_epochs_refused:rate5m",
        "an owner that stood still wants something late by chance only",
    ),
    ("trunkline_acd_epochs_refused_total", "the same"),
    (
        "trunkline_journal_refused_total",
        "only what is being written when the database goes away is refused, by chance",
    ),
    ("trunkline_sip_relayed_total", "wants two edges; the lab has one"),
    ("trunkline_media_one_way_audio_total", "wants more silence than the test has time for"),
    (
        "trunkline_media_packets_refused_total",
        "packets of strangers to a port of a call, which nobody sends here",
    ),
    ("trunkline_media_send_errors_total", "the kernel takes every packet"),
    ("trunkline_media_transcriptions_open", "the lab has no recogniser"),
    ("trunkline_media_recogniser_failures_total", "the same"),
    ("trunkline_media_tap_gaps_total", "the same"),
];

/// Whether what a query asks for may be zero.
fn quiet(query: &str) -> bool {
    promql::metrics_in(query).iter().any(|name| QUIET.iter().any(|(quiet, _)| quiet == name))
}

async fn panels_have_data(
    prometheus: &Prometheus,
    dashboard: &Dashboard,
    failures: &mut Vec<String>,
) -> Result<()> {
    for (title, query) in dashboard.queries().filter(|(_, query)| query.source == Source::Prometheus) {
        let asked = promql::with_everything_chosen(&query.text);
        let place = format!("{} / {title}: {asked}", dashboard.uid);
        let found = match prometheus.since_start(&asked).await {
            Ok(found) => found,
            Err(error) => {
                failures.push(format!("{place}: {error:#}"));
                continue;
            }
        };
        let full: Vec<_> = found.iter().filter(|series| !series.values.is_empty()).collect();
        let zero = full.iter().flat_map(|series| &series.values).all(|value| *value == 0.0);
        if full.is_empty() {
            failures.push(format!("{place}: no data"));
        } else if zero && !quiet(&asked) {
            failures.push(format!("{place}: zero all the time"));
        }
        for label in promql::labels_in(query.legend) {
            if !full.iter().any(|series| series.labels.contains_key(label)) {
                failures.push(format!("{place}: no series has the legend's label {label}"));
            }
        }
    }
    Ok(())
}

async fn recording_rules_have_data(prometheus: &Prometheus, failures: &mut Vec<String>) -> Result<()> {
    for name in rules::all()?.into_iter().filter_map(|rule| rule.record) {
        let found = prometheus.since_start(&name).await?;
        let mut values = found.iter().flat_map(|series| &series.values).peekable();
        let (empty, zero) = (values.peek().is_none(), values.all(|value| *value == 0.0));
        if empty {
            failures.push(format!("recording rule {name}: no data"));
        } else if zero && !quiet(&name) {
            failures.push(format!("recording rule {name}: zero all the time"));
        }
    }
    Ok(())
}

/// A query of a runbook may well be empty while all is well; what it names must exist all the same.
async fn runbooks_name_what_exists(prometheus: &Prometheus, failures: &mut Vec<String>) -> Result<()> {
    let names: BTreeSet<String> = prometheus.names().await?.into_iter().collect();
    let gone = QUIET.iter().filter(|(name, _)| !names.contains(*name));
    failures.extend(gone.map(|(name, _)| format!("what may be zero: there is no metric {name}")));
    for page in runbooks::names()? {
        for query in runbooks::page(&page)?.queries {
            if let Err(error) = prometheus.now(&promql::shorten(&query)).await {
                failures.push(format!("{page}: {query}: {error:#}"));
            }
            let unknown = promql::metrics_in(&query).into_iter().filter(|name| !names.contains(name));
            failures.extend(unknown.map(|name| format!("{page}: there is no metric {name}")));
        }
    }
    for (alert, rule) in rules::alerts()? {
        let unknown = promql::metrics_in(&rule.expr).into_iter().filter(|name| !names.contains(name));
        failures.extend(unknown.map(|name| format!("alert {alert}: there is no metric {name}")));
    }
    Ok(())
}

async fn exemplars_lead_to_traces(lab: &Lab, failures: &mut Vec<String>) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for dashboard in dashboards::all() {
        for (title, query) in dashboard.queries().filter(|(_, query)| query.exemplars) {
            let asked = promql::with_everything_chosen(&query.text);
            let found = lab.prometheus.exemplars(&asked).await?;
            if found.is_empty() {
                failures.push(format!("{} / {title}: no exemplars", dashboard.uid));
            }
            wanted.extend(found);
        }
    }
    // Spans are sent within seconds of their end.
    let arrived = until("every exemplar's trace is there", s(15), || {
        let traces: BTreeSet<String> = lab.collector.spans().into_iter().map(|span| span.trace).collect();
        std::future::ready(Ok(wanted.is_subset(&traces).then_some(())))
    });
    if arrived.await.is_err() {
        let traces: BTreeSet<String> = lab.collector.spans().into_iter().map(|span| span.trace).collect();
        let lost: Vec<&String> = wanted.difference(&traces).collect();
        failures.push(format!("exemplars of {} traces, no span of {lost:?}", wanted.len()));
    }
    Ok(())
}

/// Alerts that fire in so short a history are no fault; texts that cannot be filled are.
async fn no_alert_says_nonsense(prometheus: &Prometheus, failures: &mut Vec<String>) -> Result<()> {
    for alert in prometheus.firing().await? {
        let said = alert["annotations"].to_string();
        if said.contains("error") && said.contains("expanding") || said.contains("no value") {
            failures.push(format!("{}: {said}", alert["labels"]["alertname"]));
        }
    }
    Ok(())
}
