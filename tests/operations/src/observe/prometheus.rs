//! A real Prometheus that scrapes a cluster.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use trunkline_system_tests::{api::escape, http, process::Program, s, until};

use super::promql;

/// The label `job` of what it scrapes.
pub const JOB: &str = "trunkline";
const PORT: u16 = 9_099;

/// What it scrapes and computes.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Where it listens.
    pub address: Ipv4Addr,
    /// Names of nodes and where their metrics are.
    pub targets: Vec<(String, SocketAddr)>,
    /// Rule files; windows are shortened to [`promql::WINDOW`], waits to [`promql::WAIT`].
    pub rules: Vec<PathBuf>,
    /// Where its files go.
    pub folder: &'a Path,
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    program: Program,
    address: SocketAddr,
    begun: f64,
}

/// One series of an answer.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its values; those that are no numbers (0 ÷ 0) are left out.
    pub values: Vec<f64>,
}

impl Prometheus {
    /// Starts it; `command` runs the program `prometheus` where the nodes can be reached.
    pub async fn start(setup: &Setup<'_>, mut command: Command) -> Result<Self> {
        let config = setup.folder.join("prometheus.yml");
        fs::write(&config, setup.config()?)?;
        let address: SocketAddr = (setup.address, PORT).into();
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", setup.folder.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=exemplar-storage");
        let program = Program::start("prometheus", setup.folder, &mut command)
            .context("the Debian package prometheus has it")?;
        let mut prometheus = Self { program, address, begun: unix_s() };
        until("Prometheus is ready", s(60), || {
            let ended = prometheus.program.poll();
            let said = prometheus.program.stderr();
            async move {
                if let Some(status) = ended? {
                    bail!("Prometheus ended, {status}: {said}");
                }
                let answer = http::get(address, "/-/ready").await;
                Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
            }
        })
        .await?;
        Ok(prometheus)
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let answer = http::get(self.address, path).await?;
        let body = answer.json().with_context(|| path.to_owned())?;
        ensure!(body["status"] == "success", "{path}: {body}");
        Ok(body["data"].clone())
    }

    /// What a query has given, every two seconds since the start.
    pub async fn since_start(&self, query: &str) -> Result<Vec<Series>> {
        let (query, begun, now) = (escape(query), self.begun, unix_s());
        let path = format!("/api/v1/query_range?query={query}&start={begun}&end={now}&step=2");
        let data = self.get(&path).await?;
        let result = data["result"].as_array().context("no result")?;
        result.iter().map(series).collect()
    }

    /// What a query gives now.
    pub async fn now(&self, query: &str) -> Result<Vec<Series>> {
        let data = self.get(&format!("/api/v1/query?query={}", escape(query))).await?;
        let result = data["result"].as_array().context("no result")?;
        result.iter().map(series).collect()
    }

    /// The trace ids of the exemplars of a query's metrics since the start.
    pub async fn exemplars(&self, query: &str) -> Result<Vec<String>> {
        let (query, begun, now) = (escape(query), self.begun, unix_s());
        let data =
            self.get(&format!("/api/v1/query_exemplars?query={query}&start={begun}&end={now}")).await?;
        let all = data.as_array().context("no list")?.iter();
        let exemplars = all.filter_map(|series| series["exemplars"].as_array()).flatten();
        Ok(exemplars.filter_map(|e| e["labels"]["trace_id"].as_str().map(str::to_owned)).collect())
    }

    /// All names of metrics that it has seen.
    pub async fn names(&self) -> Result<Vec<String>> {
        let data = self.get("/api/v1/label/__name__/values").await?;
        let names = data.as_array().context("no list")?;
        Ok(names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
    }

    /// Alerts that fire: name and labels, and the annotations.
    pub async fn firing(&self) -> Result<Vec<Value>> {
        let data = self.get("/api/v1/alerts").await?;
        let alerts = data["alerts"].as_array().context("no alerts")?;
        Ok(alerts.iter().filter(|alert| alert["state"] == "firing").cloned().collect())
    }

    /// Problems of targets and rules; empty = everything is scraped and computed.
    pub async fn problems(&self) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let targets = self.get("/api/v1/targets").await?;
        for target in targets["activeTargets"].as_array().context("no targets")? {
            let error = target["lastError"].as_str().unwrap_or_default();
            if target["health"] != "up" {
                problems.push(format!("target {}: {error}", target["labels"]["instance"]));
            }
        }
        let groups = self.get("/api/v1/rules").await?;
        for group in groups["groups"].as_array().context("no groups")? {
            for rule in group["rules"].as_array().context("no rules")? {
                if rule["health"] != "ok" {
                    problems.push(format!("rule {}: {}", rule["name"], rule["lastError"]));
                }
            }
        }
        Ok(problems)
    }
}

impl Setup<'_> {
    fn config(&self) -> Result<String> {
        let mut text =
            String::from("global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files:\n");
        for rule in &self.rules {
            let name = rule.file_name().context("a rule file without a name")?;
            let copy = self.folder.join(name);
            fs::write(&copy, promql::shorten_rules(&fs::read_to_string(rule)?))?;
            text += &format!("  - {}\n", copy.display());
        }
        text += &format!("scrape_configs:\n  - job_name: {JOB}\n    static_configs:\n");
        for (name, address) in &self.targets {
            text += &format!("      - {{ targets: [\"{address}\"], labels: {{ instance: {name} }} }}\n");
        }
        Ok(text)
    }
}

fn series(value: &Value) -> Result<Series> {
    let labels = value["metric"].as_object().context("no labels")?;
    let labels = labels.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()));
    let samples = match (&value["values"], &value["value"]) {
        (Value::Array(many), _) => many.clone(),
        (_, one) => vec![one.clone()],
    };
    let numbers = samples.iter().filter_map(|sample| sample[1].as_str()?.parse::<f64>().ok());
    Ok(Series { labels: labels.collect(), values: numbers.filter(|number| number.is_finite()).collect() })
}

fn unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
