//! The pod in which a restored cluster is verified, made as the chart's README says: its line's own filter, run by the real
//! jq over the workload as a real API server has it, gives a pod that the server takes.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trunkline_kubernetes_tests::{
    SETS,
    api::ApiServer,
    chart,
    helm::{Helm, read_values},
    values,
};

/// The README's release, and that of the tests.
const RELEASES: (&str, &str) = ("phones-", "tl-");
/// What the program is told.
const ARGUMENTS: [&str; 3] = ["restore", "--config", "/etc/trunkline/node.yaml"];
/// What only pods that serve have.
const OF_SERVERS: [&str; 4] = ["startupProbe", "livenessProbe", "readinessProbe", "lifecycle"];

/// The README's command: the workload that is asked for, the filter, and the words between.
struct Line {
    workload: String,
    filter: String,
}

impl Line {
    fn read() -> Result<Self> {
        let readme = std::fs::read_to_string(chart().join("README.md"))?;
        let begin = readme.find("kubectl get statefulset ").context("README.md no longer makes a pod")?;
        let (get, rest) = readme[begin..].split_once(" | jq '").context("no filter")?;
        let (filter, rest) = rest.split_once('\'').context("a filter without end")?;
        let words: Vec<&str> = get.split_whitespace().collect();
        let ["kubectl", "get", "statefulset", workload, "--namespace", "calls", "--output", "json"] =
            words[..]
        else {
            anyhow::bail!("other words: {get}")
        };
        ensure!(rest.starts_with(" | kubectl create --namespace calls --filename -\n"), "{rest}");
        Ok(Self { workload: workload.replacen(RELEASES.0, RELEASES.1, 1), filter: filter.to_owned() })
    }

    /// What jq makes of an object.
    fn pod(&self, object: &Value) -> Result<Value> {
        let mut jq = Command::new("jq");
        let jq = jq.arg(&self.filter).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut jq = jq.spawn().context("jq is missing: install Debian's package jq")?;
        // It reads all before it writes.
        jq.stdin.take().context("no input")?.write_all(object.to_string().as_bytes())?;
        let output = jq.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("jq makes something else than one object")
    }
}

/// With every set of values: with and without a volume of its own, in a namespace of the restricted standard.
#[tokio::test]
async fn the_pod_for_restoring_is_made_as_the_readme_says() -> Result<()> {
    let line = Line::read()?;
    let api = ApiServer::start(&trunkline_system_tests::folder("kubernetes-restore")?).await?;
    for (set, helm) in SETS.into_iter().zip(["helm3", "helm4"].into_iter().cycle()) {
        let namespace = format!("calls-{set}");
        api.namespace(&namespace, "restricted").await?;
        let objects = Helm::new(helm)?.template(&chart(), &[values(set)], &[])?;
        let mut workload = objects.workload("records")?.clone();
        let (name, named) = (&workload["metadata"]["name"], &read_values(&values(set))?["fullnameOverride"]);
        ensure!(*name == line.workload || named.is_string(), "{set}: {name}");
        workload["metadata"]["namespace"] = json!(namespace);
        taken(&api, &namespace, &workload).await.with_context(|| set)?;
        let stored = api.read(&namespace, &workload).await?;
        let pod = line.pod(&stored).with_context(|| set)?;
        taken(&api, &namespace, &pod).await.with_context(|| format!("{set}: {pod}"))?;
        restores(&stored, &api.read(&namespace, &pod).await?).with_context(|| set)?;
    }
    Ok(())
}

/// The server's strict validation finds nothing to refuse or to warn of.
async fn taken(api: &ApiServer, namespace: &str, object: &Value) -> Result<()> {
    let taken = api.apply(namespace, object, false).await?;
    taken.map(drop).map_err(|refusal| anyhow::anyhow!("{}: {}", refusal.object, refusal.message))
}

/// The pod restores, once, as the workload's own would: image, settings, Secrets and files are theirs; it takes no part in
/// the cluster and has no volume of theirs.
fn restores(workload: &Value, pod: &Value) -> Result<()> {
    let (template, spec) = (&workload["spec"]["template"]["spec"], &pod["spec"]);
    ensure!(pod["kind"] == "Pod" && pod["metadata"]["name"] == "restore", "{}", pod["metadata"]);
    ensure!(pod["metadata"]["labels"].is_null(), "Services would select it: {}", pod["metadata"]);
    ensure!(spec["restartPolicy"] == "Never", "{}", spec["restartPolicy"]);
    let ([container], [theirs]) = (
        spec["containers"].as_array().context("containers")?.as_slice(),
        template["containers"].as_array().context("containers")?.as_slice(),
    ) else {
        anyhow::bail!("one container each: {spec}")
    };
    ensure!(container["args"] == json!(ARGUMENTS), "{}", container["args"]);
    for part in OF_SERVERS {
        ensure!(container[part].is_null() && !theirs[part].is_null(), "{part}: {container}");
    }
    let other = |part: &&String| *part != "args" && !OF_SERVERS.contains(&part.as_str());
    for part in theirs.as_object().context("a container")?.keys().filter(other) {
        ensure!(container[part] == theirs[part], "{part}: {} {}", container[part], theirs[part]);
    }
    let volumes = |spec: &Value| -> Vec<Value> {
        let volumes = spec["volumes"].as_array().into_iter().flatten();
        volumes.filter(|volume| volume["name"] != "data").cloned().collect()
    };
    ensure!(volumes(spec) == volumes(template), "{} {}", spec["volumes"], template["volumes"]);
    let all = spec["volumes"].as_array().context("volumes")?;
    let data: Vec<&Value> = all.iter().filter(|volume| volume["name"] == "data").collect();
    ensure!(data == [&json!({"name": "data", "emptyDir": {}})], "{data:?}");
    for part in ["serviceAccountName", "securityContext"] {
        ensure!(spec[part] == template[part] && !spec[part].is_null(), "{part}: {}", spec[part]);
    }
    Ok(())
}
