//! Proves the operator's part of the README as a new operator would go through it: check, start, call, lose a node, find the
//! alert and its runbook, drain, upgrade, roll back, back up, restore. Every command line of that part is one that was run
//! here.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_faults::world::{CLIENTS, SIP_PORT, VIRTUAL_SIP};
use trunkline_operations_tests::{
    lab::{Done, Lab, on_network},
    observe::{
        prometheus::{Prometheus, Setup},
        rules,
    },
};
use trunkline_system_tests::{http, root, s, system, until};

const ALL: &str = "edge,call,acd,media,records,console";
const NODES: [(&str, &str); 3] = [("n1", ALL), ("n2", ALL), ("n3", ALL)];
/// The chapter of the README.
const CHAPTER: &str = "## Operating\n";
/// What the README writes for the address that telephones know, and for the node that is worked on.
const SIP: &str = "10.0.0.1:5060";
const METRICS_PORT: u16 = 9_090;

/// The operator, who writes down what was typed.
struct Operator {
    lab: Lab,
    typed: BTreeSet<String>,
}

impl Operator {
    /// Types a line of the README on a node; `node.yaml` is that node's file.
    async fn types(&mut self, host: &str, line: &str) -> Result<Done> {
        self.typed.insert(line.to_owned());
        let config = self.lab.config(if host == CLIENTS { "n1" } else { host }).display().to_string();
        let sip = format!("{VIRTUAL_SIP}:{SIP_PORT}");
        let bundle = self.lab.folder().join("bundle.tar.gz").display().to_string();
        let words: Vec<&str> = line
            .split_whitespace()
            .map(|word| match word {
                "node.yaml" => config.as_str(),
                SIP => sip.as_str(),
                "bundle.tar.gz" => bundle.as_str(),
                word => word,
            })
            .collect();
        let (program, arguments) = words.split_first().context("an empty line")?;
        ensure!(*program == "trunkline", "{line}: not our program");
        self.lab.run(host, arguments).await
    }

    async fn calls(&mut self) -> Result<()> {
        self.types(CLIENTS, "trunkline call --target 10.0.0.1:5060 --to support").await?.success()?;
        Ok(())
    }

    /// The node as the cluster shows it.
    async fn member(&mut self, name: &str) -> Result<Value> {
        let done = self
            .lab
            .run("n1", &["cluster", "--json", "--config", &self.lab.config("n1").display().to_string()])
            .await?;
        let overview = done.success()?.json()?;
        let members = overview["members"].as_array().cloned().unwrap_or_default();
        members
            .into_iter()
            .find(|member| member["node"] == name)
            .with_context(|| format!("{name} is no member: {overview}"))
    }

    /// Takes a node out, puts another binary in its place and brings it back; a call is placed while it is away.
    async fn replace(&mut self, name: &str, binary: &Path) -> Result<()> {
        let from = if name == "n1" { "n2" } else { "n1" };
        // As a load balancer does with an edge that is not ready.
        self.lab.network.take_address(from, VIRTUAL_SIP)?;
        self.node_line(from, "drain", name).await?;
        let state = self.member(name).await?;
        ensure!(state["state"] == "drained" && state["shards_active"] == 0, "{state}");
        self.lab.node(name)?.stop(s(60)).await?;
        self.calls().await?;
        self.lab.node(name)?.binary = binary.to_owned();
        self.lab.start_node(name).await?;
        self.node_line(from, "undrain", name).await?;
        let state = self.member(name).await?;
        ensure!(state["state"] == "serving", "{state}");
        self.calls().await
    }

    /// `drain` and `undrain` are written for n2.
    async fn node_line(&mut self, host: &str, verb: &str, name: &str) -> Result<()> {
        self.typed.insert(format!("trunkline {verb} n2 --wait --config node.yaml"));
        let config = self.lab.config(host).display().to_string();
        self.lab.run(host, &[verb, name, "--wait", "--config", &config]).await?.success()?;
        Ok(())
    }

    /// The caller's records are there.
    async fn records(&self) -> Result<usize> {
        Ok(self.lab.api().await?.contacts("").await?.len())
    }
}

/// The command lines of the README's chapter, without their comments.
fn chapter() -> Result<(String, Vec<String>)> {
    let readme = fs::read_to_string(root().join("README.md"))?;
    let chapter = readme.split_once(CHAPTER).context("the README has no chapter `Operating`")?.1;
    let chapter = chapter.split("\n## ").next().unwrap_or(chapter).to_owned();
    let block = chapter.split("```").nth(1).context("the chapter has no command lines")?;
    let lines = block.lines().filter(|line| line.starts_with("trunkline "));
    let lines = lines.map(|line| line.split('#').next().unwrap_or(line).trim().to_owned()).collect();
    Ok((chapter, lines))
}

#[test]
fn the_operator_s_part_of_the_readme_is_walked() {
    let (chapter, lines) = chapter().unwrap();
    on_network("operator", |network, folder| async move {
        let lab = Lab::ground(network, &folder, &NODES, 0).await?;
        let mut operator = Operator { lab, typed: BTreeSet::new() };
        begin(&mut operator).await?;
        lose_a_node(&mut operator, &folder, &chapter).await?;
        upgrade_and_roll_back(&mut operator, &folder).await?;
        restore(&mut operator, &folder).await?;
        let missing: Vec<&String> = lines.iter().filter(|line| !operator.typed.contains(*line)).collect();
        ensure!(missing.is_empty(), "the README has lines that nobody walked: {missing:#?}");
        ensure!(lines.len() >= 10, "the README has lost lines: {lines:#?}");
        for page in relative_links(&chapter) {
            ensure!(root().join(&page).exists(), "the README leads to {page}, which is not there");
        }
        Ok(())
    })
    .unwrap();
}

fn relative_links(chapter: &str) -> Vec<String> {
    let links = chapter.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.contains("://")).map(str::to_owned).collect()
}

/// Checks, starts, calls.
async fn begin(operator: &mut Operator) -> Result<()> {
    for (name, _) in NODES {
        let checked = operator.types(name, "trunkline config check --config node.yaml").await?.success()?;
        ensure!(checked.stdout.contains(": fine"), "{}", checked.stdout);
        let examined = operator.types(name, "trunkline doctor --config node.yaml").await?;
        ensure!(examined.code.is_some_and(|code| code < 2), "{}", examined.stdout);
    }
    operator.typed.insert("trunkline run --config node.yaml".to_owned());
    operator.lab.start_nodes().await?;
    let shown = operator.types("n1", "trunkline cluster --config node.yaml").await?.success()?;
    for (name, _) in NODES {
        ensure!(
            shown.stdout.lines().any(|line| line.starts_with(name) && line.contains("serving")),
            "{}",
            shown.stdout
        );
    }
    ensure!(shown.stdout.contains("acd shards: 1024 of 1024 active"), "{}", shown.stdout);
    operator.calls().await?;
    let examined = operator.types("n2", "trunkline doctor --cluster --config node.yaml").await?;
    ensure!(examined.code.is_some_and(|code| code < 2), "{}", examined.stdout);
    let bundle = "trunkline support-bundle --config node.yaml --out bundle.tar.gz";
    operator.types("n1", bundle).await?.success()?;
    Ok(())
}

/// A node is killed: its alerts fire, each leads to its page, and the system serves without it and with it again.
async fn lose_a_node(operator: &mut Operator, folder: &Path, chapter: &str) -> Result<()> {
    let mut targets = Vec::new();
    for (name, _) in NODES {
        targets.push((name.to_owned(), (operator.lab.node(name)?.address, METRICS_PORT).into()));
    }
    let address = operator.lab.network.address(CLIENTS)?;
    let setup = Setup { address, targets, rules: rules::yaml_files(&rules::folder())?, folder };
    let prometheus = Prometheus::start(&setup, operator.lab.network.command(CLIENTS, "prometheus")?).await?;
    let alerts = rules::alerts()?;
    let fires = async |alert: &str| -> Result<bool> {
        let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        Ok(!prometheus.now(&firing).await?.is_empty())
    };
    until("every node is scraped", s(60), || async {
        let up = prometheus.now("sum(up) == 3 and max(trunkline_cluster_members) == 3").await?;
        Ok((!up.is_empty()).then_some(()))
    })
    .await?;
    for alert in ["TrunklineNodeAbsent", "TrunklineNotScraped"] {
        ensure!(chapter.contains(&format!("`{alert}`")), "the README does not name {alert}");
        ensure!(!fires(alert).await?, "{alert} fires before anything has happened");
    }
    operator.lab.node("n2")?.kill()?;
    for alert in ["TrunklineNodeAbsent", "TrunklineNotScraped"] {
        until(&format!("{alert} fires"), s(60), || async { Ok(fires(alert).await?.then_some(())) }).await?;
        let rule = alerts.get(alert).with_context(|| format!("no alert {alert}"))?;
        let url = rule.annotations.get("runbook_url").with_context(|| format!("{alert} has no runbook"))?;
        let page = url.rsplit('/').next().unwrap_or_default();
        // From a console that is left, and from the program.
        let (left, mut consoles) = (operator.lab.node("n1")?.address, operator.lab.consoles().into_iter());
        let console = consoles.find(|at| at.ip() == left).context("no console is left")?;
        let served = http::get(console, &format!("/runbooks/{page}")).await?.expect(200)?.text();
        ensure!(served.contains(&format!("<h1>{alert}</h1>")), "{url}: {served}");
        let text = operator.types("n1", &format!("trunkline runbook {alert}")).await?.success()?.stdout;
        ensure!(text.contains(alert) && text.contains("trunkline "), "{page} does not tell what to do");
    }
    operator.lab.settled().await?;
    operator.calls().await?;
    operator.lab.start_nodes().await?;
    until("nothing is wrong any more", s(60), || async {
        Ok((!fires("TrunklineNotScraped").await? && !fires("TrunklineNodeAbsent").await?).then_some(()))
    })
    .await?;
    Ok(())
}

/// Every node gets another binary, one after the other; one of them goes back.
async fn upgrade_and_roll_back(operator: &mut Operator, folder: &Path) -> Result<()> {
    let (old, new) = (system::binary()?, folder.join("trunkline-next"));
    // The same program by another name: that two versions fit is what the fault suite proves (two-versions).
    if fs::hard_link(&old, &new).is_err() {
        fs::copy(&old, &new)?;
    }
    for (name, _) in NODES {
        operator.replace(name, &new).await.with_context(|| format!("upgrade of {name}"))?;
    }
    operator.replace("n2", &old).await.context("n2 goes back")?;
    operator.lab.settled().await
}

/// Backed up, deleted, put back.
async fn restore(operator: &mut Operator, folder: &Path) -> Result<()> {
    let before = operator.records().await?;
    ensure!(before >= 6, "only {before} records");
    let dump = format!("--file={}", folder.join("journal.dump").display());
    operator
        .lab
        .on_database_host("pg_dump", &["--format=custom", "--schema=trunkline", &dump, "trunkline"])
        .await?;
    for (name, _) in NODES {
        operator.lab.node(name)?.stop(s(60)).await?;
    }
    operator.lab.on_database_host("dropdb", &["trunkline"]).await?;
    operator
        .lab
        .on_database_host("createdb", &["--encoding=UTF8", "--template=template0", "trunkline"])
        .await?;
    let file = folder.join("journal.dump").display().to_string();
    operator
        .lab
        .on_database_host("pg_restore", &["--dbname=trunkline", "--no-owner", "--exit-on-error", &file])
        .await?;
    operator.types("n1", "trunkline restore --config node.yaml").await?.success()?;
    operator.lab.start_nodes().await?;
    // What the nodes kept of the lost database they throw away themselves.
    let rebuilt = operator.lab.metric("trunkline_records_rebuilds_total", "").await;
    ensure!(rebuilt == NODES.len() as f64, "{rebuilt} nodes have folded their records anew");
    until("every record is there again", s(30), || async {
        let api = operator.lab.api().await?;
        Ok((api.contacts("").await?.len() == before).then_some(()))
    })
    .await?;
    operator.lab.network.take_address("n1", VIRTUAL_SIP)?;
    operator.calls().await
}
