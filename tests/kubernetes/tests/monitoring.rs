//! What Prometheus gets from the chart: alerts that lead to their pages, jobs that the rules know, and queries by which
//! autoscalers add pods; rules and queries are computed by promtool.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_kubernetes_tests::{
    SETS, chart,
    helm::Helm,
    objects::Objects,
    promtool::{self, Answer},
    root, values,
};

const MONITORED: [&str; 2] = ["monitoring.podMonitor.enabled=true", "monitoring.prometheusRule.enabled=true"];

fn monitored(set: &str, settings: &[&str]) -> Result<Objects> {
    Helm::new("helm4")?.template(&chart(), &[values(set)], &[&MONITORED[..], settings].concat())
}

/// The groups of all rules.
fn groups(objects: &Objects) -> Vec<Value> {
    let all = objects.kind("PrometheusRule").filter_map(|rule| rule["spec"]["groups"].as_array());
    all.flatten().cloned().collect()
}

/// Every alert with its annotations.
fn alerts(objects: &Objects) -> Vec<(String, Value)> {
    let groups = groups(objects);
    let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
    rules.filter_map(|rule| Some((rule["alert"].as_str()?.to_owned(), rule["annotations"].clone()))).collect()
}

/// What the values tell of addresses, and where the pages of the alerts are then.
const BASES: [(&[&str], Option<&str>); 8] = [
    (&[], None),
    (&["monitoring.runbookBase=\"https://pages.example.com/r/\""], Some("https://pages.example.com/r")),
    (&[ROUTE, "console.httpRoute.hostnames=[\"a.example.com\"]"], Some("https://a.example.com/runbooks")),
    (
        &["console.ingress.enabled=true", "console.ingress.hosts=[\"*.example.com\",\"b.example.com\"]"],
        Some("https://b.example.com/runbooks"),
    ),
    (
        &[
            ROUTE,
            "console.httpRoute.hostnames=[\"a.example.com\"]",
            "monitoring.runbookBase=\"http://pages.example.com\"",
        ],
        Some("http://pages.example.com"),
    ),
    // A gateway with hosts of its own, any host, and a route that is switched off tell none.
    (&[ROUTE], None),
    (&[ROUTE, "console.httpRoute.hostnames=[\"*.example.com\"]"], None),
    (&["console.httpRoute.hostnames=[\"a.example.com\"]"], None),
];
const ROUTE: &str = "console.httpRoute={\"enabled\":true,\"parentRefs\":[{\"name\":\"public\"}]}";

/// A link of an alert leads to where its page is served; where that is not known there is none, and the command that
/// prints the page is told all the same.
#[test]
fn every_alert_leads_to_its_page() -> Result<()> {
    let folder = root().join("deploy/runbooks");
    let pages: BTreeSet<String> = std::fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".md")?.to_owned()))
        .filter(|name| name != "README")
        .collect();
    ensure!(pages.len() >= 30, "only {} pages", pages.len());
    for (settings, base) in BASES {
        let objects = monitored("minimal", settings)?;
        ensure!(!serde_json::to_string(&objects.0)?.contains(".invalid"), "{settings:?}: a dead link");
        let alerts = alerts(&objects);
        let names: BTreeSet<String> = alerts.iter().map(|(name, _)| name.clone()).collect();
        ensure!(names == pages, "{settings:?}: {:?}", names.symmetric_difference(&pages));
        for (name, said) in alerts {
            let link = base.map(|base| format!("{base}/{name}.md"));
            ensure!(said["runbook_url"].as_str() == link.as_deref(), "{settings:?}: {name}: {said}");
            ensure!(said["runbook"] == format!("trunkline runbook {name}"), "{settings:?}: {name}: {said}");
            ensure!(said["summary"].is_string() && said["description"].is_string(), "{name}: {said}");
        }
        notes_tell(settings, base)?;
    }
    for set in SETS {
        let text = serde_json::to_string(&monitored(set, &[])?.0)?;
        ensure!(!text.contains(".invalid"), "{set}: a dead link");
    }
    Ok(())
}

/// Who installs the chart is told where the pages are, or what to set. (Helm 3 shows notes to those with a cluster only.)
fn notes_tell(settings: &[&str], base: Option<&str>) -> Result<()> {
    let (chart, file) = (chart().display().to_string(), values("minimal").display().to_string());
    let mut arguments = vec!["install", "tl", &chart, "--namespace", "calls", "--values", &file];
    for setting in MONITORED.iter().chain(settings) {
        arguments.extend(["--set-json", setting]);
    }
    arguments.push("--dry-run=client");
    let said = Helm::new("helm4")?.run(arguments)?.expect()?;
    let notes = said.split_once("\nNOTES:\n").context("no notes")?.1;
    let told = base.map_or("monitoring.runbookBase".to_owned(), |base| format!("its page at {base}/\n"));
    ensure!(notes.contains(&told), "{settings:?}: no word of {told}:\n{notes}");
    ensure!(notes.contains("-- /trunkline runbook Trunkline"), "{settings:?}:\n{notes}");
    Ok(())
}

/// The label `job` of what a PodMonitor has scraped: the operator's own (NAMESPACE/NAME) unless the monitor sets another.
fn job(objects: &Objects) -> Result<String> {
    let monitor = objects.kind("PodMonitor").next().context("no PodMonitor")?;
    let name = |field: &str| monitor["metadata"][field].as_str().with_context(|| format!("no {field}"));
    let mut job = format!("{}/{}", name("namespace")?, name("name")?);
    ensure!(
        monitor["spec"]["jobLabel"].is_null(),
        "the job is a label of the pods, which this does not know"
    );
    let endpoints = monitor["spec"]["podMetricsEndpoints"].as_array().context("endpoints")?;
    let [endpoint] = endpoints.as_slice() else { anyhow::bail!("{} endpoints", endpoints.len()) };
    let relabelings = endpoint["relabelings"].as_array().into_iter().flatten();
    for rule in relabelings.filter(|rule| rule["targetLabel"] == "job") {
        let keys: Vec<&String> = rule.as_object().context("a relabeling")?.keys().collect();
        ensure!(keys == ["replacement", "targetLabel"], "a relabeling that this does not know: {rule}");
        job = rule["replacement"].as_str().context("replacement")?.to_owned();
    }
    // An alert's `instance` is what an operator gives to kubectl.
    let pod = serde_json::json!({"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"});
    ensure!(endpoint["relabelings"].as_array().is_some_and(|all| all.contains(&pod)), "{endpoint}");
    Ok(job)
}

/// Matchers of `job` with a value of their own: `=~"…"`, `="…"` and the like.
fn matchers(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("job") {
        let (before, after) = (&text[..at], &text[at + 3..]);
        let label = before.ends_with(['{', ',', ' ']);
        let operator =
            ["=~\"", "!~\"", "!=\"", "=\""].into_iter().find(|operator| after.starts_with(operator));
        if let (true, Some(operator)) = (label, operator) {
            let value = after[operator.len()..].split('"').next().unwrap_or_default();
            found.insert(format!("{operator}{value}\""));
        }
    }
    found
}

/// Whatever a release is called: its PodMonitor gives its pods a job that the rules and dashboards mean, no other release
/// has the same, and a pod that cannot be scraped is told of.
#[test]
fn the_rules_know_the_job_of_a_release_with_any_name() -> Result<()> {
    let mut jobs = BTreeSet::new();
    let releases: [(&str, &[&str]); 4] = [
        ("minimal", &[]),
        ("private", &[]),
        ("minimal", &["fullnameOverride=\"a\""]),
        ("minimal", &["nameOverride=\"pbx\""]),
    ];
    for (set, settings) in releases {
        let settings = [settings, &["monitoring.dashboards.enabled=true"]].concat();
        let objects = monitored(set, &settings)?;
        let job = job(&objects)?;
        let selector = &objects.kind("PodMonitor").next().context("no PodMonitor")?["spec"]["selector"];
        for (label, value) in selector["matchLabels"].as_object().context("a selector")? {
            let labels = &objects.pod("media")?["metadata"]["labels"];
            ensure!(labels[label] == *value, "{set}, {settings:?}: the PodMonitor selects others");
        }
        let mut matchers_of_all = BTreeSet::new();
        for rule in groups(&objects).iter().filter_map(|group| group["rules"].as_array()).flatten() {
            matchers_of_all.extend(matchers(rule["expr"].as_str().context("expr")?));
        }
        for board in objects.kind("ConfigMap").filter_map(|map| map["data"].as_object()).flatten() {
            if board.0.ends_with(".json") {
                matchers_of_all
                    .extend(matchers(&board.1.as_str().context("a dashboard")?.replace("\\\"", "\"")));
            }
        }
        // What is chosen in a dashboard is one of the jobs that are there.
        ensure!(matchers_of_all.remove("=~\"$job\""), "no dashboard lets one choose: {matchers_of_all:?}");
        ensure!(!matchers_of_all.is_empty(), "no rule names a job");
        let mut answers: Vec<Answer> = matchers_of_all
            .iter()
            .map(|matcher| Answer {
                query: format!("count(up{{job{matcher}}})"),
                is: Some(("{}".to_owned(), 1.0)),
            })
            .collect();
        let firing = "alertname=\"TrunklineNotScraped\",alertstate=\"firing\"";
        let labels =
            format!("ALERTS{{{firing},job=\"{job}\",instance=\"10.0.0.7:9090\",severity=\"warning\"}}");
        answers.push(Answer { query: format!("ALERTS{{{firing}}}"), is: Some((labels, 1.0)) });
        let series = [(format!("up{{job=\"{job}\",instance=\"10.0.0.7:9090\"}}"), 0.0)];
        let folder = tempfile::tempdir()?;
        promtool::compute(folder.path(), &groups(&objects), &series, &answers)
            .with_context(|| format!("{set}, {settings:?}: job {job}"))?;
        ensure!(jobs.insert(job.clone()), "two releases have the job {job}");
    }
    Ok(())
}

/// What autoscalers ask, and what they make of the answer.
struct Scaler {
    query: String,
    /// Thousandths of a pod's capacity.
    target: u64,
}

fn scaler(objects: &Objects, kind: &str, role: &str) -> Result<Scaler> {
    let object = objects.one(kind, role)?;
    if kind == "HorizontalPodAutoscaler" {
        let query = object["metadata"]["annotations"]["trunkline.dev/query"].as_str().context("no query")?;
        let target = &object["spec"]["metrics"][0]["external"]["target"];
        ensure!(target["type"] == "AverageValue", "{role}: {target}");
        let average = target["averageValue"].as_str().and_then(|text| text.strip_suffix('m'));
        return Ok(Scaler { query: query.to_owned(), target: average.context("averageValue")?.parse()? });
    }
    let trigger = &object["spec"]["triggers"][0];
    ensure!(trigger["metricType"] == "AverageValue", "{role}: {trigger}");
    let asked = &trigger["metadata"];
    ensure!(asked["ignoreNullValues"] == "false", "{role}: no answer counts as no calls");
    let threshold: f64 = asked["threshold"].as_str().context("threshold")?.parse()?;
    let query = asked["query"].as_str().context("query")?.to_owned();
    Ok(Scaler { query, target: (threshold * 1000.0).round() as u64 })
}

/// Calls over what one pod is meant to carry, of all pods of the role, those that drain among them, and of no others: so
/// many pods' worth of calls there is, and so many pods the autoscaler wants.
#[test]
fn the_load_is_calls_over_capacity() -> Result<()> {
    const CAPACITIES: [&str; 3] = ["edge.capacity=4000", "call.maxCalls=1000", "media.maxSessions=500"];
    let media = |pod: &str, calls: f64| {
        let of = format!("namespace=\"calls\",pod=\"{pod}\"");
        (format!("trunkline_media_sessions{{{of}}}"), calls)
    };
    let call = |pod: &str, phase: &str, calls: f64| {
        let of = format!("namespace=\"calls\",pod=\"{pod}\",phase=\"{phase}\"");
        (format!("trunkline_call_active{{{of}}}"), calls)
    };
    let strangers = [
        media("other-trunkline-media-0", 7_000.0),
        call("other-trunkline-call-5f-a", "talking", 7_000.0),
        ("trunkline_media_sessions{namespace=\"others\",pod=\"tl-trunkline-media-0\"}".to_owned(), 7_000.0),
        (
            "trunkline_call_active{namespace=\"others\",pod=\"tl-trunkline-call-5f-a\",phase=\"talking\"}"
                .to_owned(),
            7_000.0,
        ),
    ];
    let own = [
        media("tl-trunkline-media-0", 300.0),
        media("tl-trunkline-media-1", 200.0),
        ("trunkline_media_draining{namespace=\"calls\",pod=\"tl-trunkline-media-1\"}".to_owned(), 1.0),
        media("tl-trunkline-media-2", 100.0),
        call("tl-trunkline-call-5f-a", "talking", 500.0),
        call("tl-trunkline-call-5f-a", "queued", 250.0),
        call("tl-trunkline-call-5f-a", "ended", 7_000.0),
        call("tl-trunkline-call-5f-b", "talking", 150.0),
    ];
    let recorded = std::fs::read_to_string(chart().join("files/rules/recording.yaml"))?;
    for (kind, name) in [("HorizontalPodAutoscaler", "hpa"), ("ScaledObject", "keda")] {
        let mut settings: Vec<String> = CAPACITIES.map(str::to_owned).to_vec();
        for role in ["edge", "call", "media"] {
            settings.push(format!("{role}.autoscaling.kind=\"{name}\""));
            settings.push(format!("{role}.autoscaling.prometheus=\"http://prometheus:9090\""));
        }
        settings.push("media.autoscaling.utilisation=0.45".to_owned());
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let objects = monitored("minimal", &settings)?;
        let taken = (
            &objects.node_config("call")?["call"]["max_calls"],
            &objects.node_config("media")?["media"]["max_sessions"],
        );
        ensure!(*taken.0 == 1_000 && *taken.1 == 500, "{name}: the pods take {taken:?}");
        for (role, load, target, pods) in
            [("edge", 0.225, 600, 1), ("call", 0.9, 600, 2), ("media", 1.2, 450, 3)]
        {
            let scaler = scaler(&objects, kind, role)?;
            ensure!(scaler.target == target, "{name}: {role} is full at {}", scaler.target);
            // As the controller computes it: in thousandths, upwards.
            let wanted = ((load * 1000.0_f64).round() as u64).div_ceil(scaler.target);
            ensure!(wanted == pods, "{name}: {role} gets {wanted} pods");
            let metric = scaler.query.split(['(', '{']).nth(1).context("a metric")?;
            ensure!(recorded.contains(metric), "{metric} is in no recording rule, whose data is proved");
            let answer = |is| [Answer { query: scaler.query.clone(), is }];
            let folder = tempfile::tempdir()?;
            let all = [&own[..], &strangers[..]].concat();
            promtool::compute(folder.path(), &[], &all, &answer(Some(("{}".to_owned(), load))))
                .with_context(|| format!("{name}: {role} asks {}", scaler.query))?;
            promtool::compute(folder.path(), &[], &strangers, &answer(None))
                .with_context(|| format!("{name}: {role}, of which nothing is known"))?;
        }
    }
    Ok(())
}
