//! Proves the operator's part of the README as a new operator would go through it: make the database and certificates, write
//! the nodes' files, check, start, write a centre, call, lose a node, find the alert and its runbook, drain, upgrade, roll
//! back, back up, restore. Every command line of that part is one that was run here, on the files that are shown there:
//! nothing is there that a reader does not have.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trunkline_faults::{
    net::SUBNET,
    world::{CLIENTS, SIP_PORT},
};
use trunkline_operations_tests::{
    lab::{Done, Ground, Lab, on_network, run},
    observe::{
        prometheus::{Prometheus, Setup},
        rules,
    },
    store::{Keep, Store},
};
use trunkline_system_tests::{api::Api, http, root, s, s3, system, until};

const ALL: &str = "edge,call,acd,media,records,console";
const NODES: [(&str, &str); 3] = [("n1", ALL), ("n2", ALL), ("n3", ALL)];
/// The chapters of the README.
const SETTING_UP: &str = "## Many nodes\n";
const OPERATING: &str = "## Operating\n";
/// What the README writes for a node that is called.
const SIP: &str = "10.0.0.1:5060";
const METRICS_PORT: u16 = 9_090;
/// What a centre's administrator writes where the sample has nothing.
const PASSWORD: &str = "a-long-secret";

/// The operator, who writes down what was typed.
struct Operator {
    lab: Lab,
    typed: BTreeSet<String>,
    /// The node that is called.
    edge: &'static str,
    centre: PathBuf,
}

impl Operator {
    /// Types a line of the README on a node; `node.yaml` is that node's file.
    async fn types(&mut self, host: &str, line: &str) -> Result<Done> {
        self.typed.insert(line.to_owned());
        let config = self.lab.config(if host == CLIENTS { "n1" } else { host }).display().to_string();
        let sip = format!("{}:{SIP_PORT}", self.lab.node(self.edge)?.address);
        let centre = self.centre.display().to_string();
        let bundle = self.lab.folder().join("bundle.tar.gz").display().to_string();
        let words: Vec<&str> = line
            .split_whitespace()
            .map(|word| match word {
                "node.yaml" => config.as_str(),
                SIP => sip.as_str(),
                "bundle.tar.gz" => bundle.as_str(),
                "centre.yaml" => centre.as_str(),
                word => word,
            })
            .collect();
        let (program, arguments) = words.split_first().context("an empty line")?;
        ensure!(*program == "trunkline", "{line}: not our program");
        self.lab.run(host, arguments).await
    }

    /// What the README shows, as it is at a node: its name, its addresses, and what it stands on.
    fn at(&mut self, name: &str, shown: &str) -> Result<String> {
        let address = self.lab.node(name)?.address.to_string();
        let etcd = self.lab.etcd.endpoints().into_iter().next().context("no etcd")?;
        let Store::S3(store) = self.lab.store() else { anyhow::bail!("recordings are in no bucket") };
        let text = shown
            .replace("http://10.0.0.9:9000", &store.endpoint())
            .replace("change-me-please", s3::SECRET)
            .replace("http://10.0.0.9:2379", &etcd)
            .replace("10.0.0.9", &self.lab.network.address("postgres")?.to_string())
            .replace("10.0.0.0/24", SUBNET)
            .replace("10.0.0.1", &address)
            .replace("n1", name)
            .replace("/var/lib/trunkline", &self.lab.folder_of(name).join("var").display().to_string())
            .replace("/etc/trunkline", &self.etc().display().to_string());
        ensure!(!text.contains("10.0.0."), "the README has an address that is nobody's: {text}");
        Ok(text)
    }

    /// Stands for `/etc/trunkline` of all nodes.
    fn etc(&self) -> PathBuf {
        self.lab.folder_of("etc")
    }

    async fn calls(&mut self, edge: &'static str) -> Result<()> {
        self.edge = edge;
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
        self.node_line(from, "drain", name).await?;
        let state = self.member(name).await?;
        ensure!(state["state"] == "drained" && state["shards_active"] == 0, "{state}");
        self.lab.node(name)?.stop(s(60)).await?;
        self.calls(from).await?;
        self.lab.node(name)?.binary = binary.to_owned();
        self.lab.start_node(name).await?;
        self.node_line(from, "undrain", name).await?;
        let state = self.member(name).await?;
        ensure!(state["state"] == "serving", "{state}");
        self.calls(from).await
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
        Ok(self.administrator().await?.contacts("").await?.len())
    }

    /// Signed in as the centre's administrator, at the first console that is there.
    async fn administrator(&self) -> Result<Api> {
        until("a console signs the administrator in", s(30), || async {
            for console in self.lab.consoles() {
                if let Ok(Ok(api)) = tokio::time::timeout(s(3), sign_in(console, "admin")).await {
                    return Ok(Some(api));
                }
            }
            Ok(None)
        })
        .await
    }
}

async fn sign_in(address: std::net::SocketAddr, name: &str) -> Result<Api> {
    let body = json!({ "name": name, "password": PASSWORD });
    let answer = http::request(address, "POST", "/api/v1/session", &[], Some(&body)).await?;
    let answer = answer.expect(200).with_context(|| format!("sign-in as {name}"))?.json()?;
    Ok(Api { address, token: answer["token"].as_str().context("no token")?.to_owned() })
}

/// A chapter of the README.
fn chapter(title: &str) -> Result<String> {
    let readme = fs::read_to_string(root().join("README.md"))?;
    let chapter = readme.split_once(title).with_context(|| format!("the README has no chapter {title}"))?.1;
    Ok(chapter.split("\n## ").next().unwrap_or(chapter).to_owned())
}

/// Its blocks of a language, `` = command lines.
fn blocks(chapter: &str, language: &str) -> Vec<String> {
    let fenced = chapter.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    fenced.filter(|(of, _)| *of == language).map(|(_, text)| text.to_owned()).collect()
}

/// Its command lines that are ours, without their comments.
fn lines(chapter: &str) -> Vec<String> {
    let all = blocks(chapter, "").concat();
    let ours = all.lines().filter(|line| line.starts_with("trunkline "));
    ours.map(|line| line.split('#').next().unwrap_or(line).trim().to_owned()).collect()
}

#[test]
fn the_operator_s_part_of_the_readme_is_walked() {
    let (setting_up, operating) = (chapter(SETTING_UP).unwrap(), chapter(OPERATING).unwrap());
    on_network("operator", |network, folder| async move {
        let ground = Ground { keep: Keep::S3, ..Ground::default() };
        let lab = Lab::ground_on(ground, network, &folder, &NODES, 0).await?;
        let centre = lab.folder().join("centre.yaml");
        let mut operator = Operator { lab, typed: BTreeSet::new(), edge: "n1", centre };
        set_up(&mut operator, &setting_up).await?;
        begin(&mut operator).await?;
        lose_a_node(&mut operator, &folder, &operating).await?;
        upgrade_and_roll_back(&mut operator, &folder).await?;
        restore(&mut operator, &folder).await?;
        for (chapter, least) in [(setting_up, 5), (operating, 11)] {
            let lines = lines(&chapter);
            let missing: Vec<&String> = lines.iter().filter(|line| !operator.typed.contains(*line)).collect();
            ensure!(missing.is_empty(), "the README has lines that nobody walked: {missing:#?}");
            ensure!(lines.len() >= least, "the README has lost lines: {lines:#?}");
            for page in relative_links(&chapter) {
                ensure!(root().join(&page).exists(), "the README leads to {page}, which is not there");
            }
        }
        Ok(())
    })
    .unwrap();
}

fn relative_links(chapter: &str) -> Vec<String> {
    let links = chapter.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.contains("://")).map(str::to_owned).collect()
}

/// The database, the certificates and the nodes' files as the README has them.
async fn set_up(operator: &mut Operator, chapter: &str) -> Result<()> {
    fs::create_dir_all(operator.etc())?;
    operator.lab.on_database_host("dropdb", &["trunkline"]).await?;
    let commands = blocks(chapter, "").into_iter().next().context("no commands")?.replace("\\\n", "");
    let mut made = (0, 0);
    for line in commands.lines() {
        if line.starts_with("createdb ") {
            let line = operator.at("n1", line)?;
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            operator.lab.on_database_host("createdb", &words).await?;
            made.0 += 1;
            continue;
        }
        ensure!(line.starts_with("openssl "), "{line}: nobody walks it");
        let nodes = if line.contains("n1") { &NODES[..] } else { &NODES[..1] };
        for (name, _) in nodes {
            let mut shell = Command::new("sh");
            shell.arg("-ec").arg(operator.at(name, line)?).current_dir(operator.etc());
            run(shell).await?.success().with_context(|| line.to_owned())?;
        }
        made.1 += 1;
    }
    ensure!(made == (1, 3), "the README makes no database or not all certificates: {made:?}");
    let file = blocks(chapter, "yaml").into_iter().next().context("the README shows no node.yaml")?;
    for (name, _) in NODES {
        let text = operator.at(name, &file)?;
        fs::write(operator.lab.config(name), text)?;
    }
    Ok(())
}

/// The centre that the README leads to: refused as it is shipped, taken with passwords, and every node knows of it.
async fn centre(operator: &mut Operator) -> Result<()> {
    let apply = "trunkline documents apply --config node.yaml centre.yaml";
    let shipped = fs::read_to_string(root().join("deploy/samples/centre.yaml"))?;
    fs::write(&operator.centre, &shipped)?;
    let refused = operator.types("n1", apply).await?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("password: write at least 8 characters"),
        "as it is shipped: {refused:?}"
    );
    fs::write(&operator.centre, shipped.replace("password: \"\"", &format!("password: {PASSWORD}")))?;
    let taken = operator.types("n1", apply).await?.success()?;
    ensure!(taken.stdout.contains("6 written, 0 the same as before"), "{}", taken.stdout);
    for console in operator.lab.consoles() {
        until("the agent can sign in", s(10), || async {
            Ok(sign_in(console, "alice").await.is_ok().then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Checks, starts, writes a centre, calls.
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
    operator.types("n1", "trunkline telephones --config node.yaml").await?.success()?;
    centre(operator).await?;
    for (name, _) in NODES {
        operator.calls(name).await?;
    }
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
    operator.calls("n1").await?;
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
        Ok((operator.records().await? == before).then_some(()))
    })
    .await?;
    operator.calls("n1").await
}
