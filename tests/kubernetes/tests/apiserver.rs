//! What a real API server says to everything that the chart renders, and to a life of a release with helm 3 and helm 4.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use trunkline_kubernetes_tests::{
    SETS,
    api::{ApiServer, Refusal},
    chart,
    helm::{BOTH, Helm, read_values},
    objects::{Objects, ROLES},
    root, values,
};

const NAMESPACE: &str = "calls";
/// Every Secret that the value sets name, with its keys.
const SECRETS: [(&str, &[&str]); 7] = [
    ("trunkline-postgresql", &["url"]),
    ("trunkline-postgresql-ca", &["ca.crt"]),
    ("trunkline-etcd", &["password"]),
    ("trunkline-etcd-tls", &["ca.crt", "tls.crt", "tls.key"]),
    ("trunkline-s3", &["accessKeyId", "secretAccessKey"]),
    ("phones-tls", &["ca.crt", "tls.crt", "tls.key"]),
    ("agents-tls", &["tls.crt", "tls.key"]),
];

async fn server(test: &str) -> Result<ApiServer> {
    ApiServer::start(&trunkline_system_tests::folder(&format!("kubernetes-{test}"))?).await
}

async fn refusals(api: &ApiServer, namespace: &str, objects: &Objects, dry: bool) -> Result<Vec<Refusal>> {
    let mut refused = Vec::new();
    for object in &objects.0 {
        let mut object = object.clone();
        if object["metadata"]["namespace"].is_string() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        if let Err(refusal) = api.apply(namespace, &object, dry).await? {
            refused.push(refusal);
        }
    }
    Ok(refused)
}

fn told(refused: &[Refusal]) -> String {
    refused.iter().map(|r| format!("\n  {}: {}", r.object, r.message)).collect()
}

/// Every object of every set of values, dry and for good, with strict validation; a warning counts as a refusal.
#[tokio::test]
async fn the_server_takes_everything_that_is_rendered() -> Result<()> {
    let api = server("everything").await?;
    for set in SETS {
        let namespace = format!("calls-{set}");
        // Pods in the host's network, and ports of the host, are what the standards are there to refuse.
        api.namespace(&namespace, "privileged").await?;
        for helm in BOTH {
            let objects = Helm::new(helm)?.template(&chart(), &[values(set)], &[])?;
            for dry in [true, false] {
                let refused = refusals(&api, &namespace, &objects, dry).await?;
                ensure!(refused.is_empty(), "{helm}, {set}, dry {dry}:{}", told(&refused));
            }
        }
    }
    Ok(())
}

/// A misspelt field must not pass: what the test above relies on.
#[tokio::test]
async fn the_server_refuses_a_field_that_it_does_not_know() -> Result<()> {
    let api = server("strict").await?;
    api.namespace(NAMESPACE, "privileged").await?;
    let mut objects = Helm::new("helm3")?.template(&chart(), &[values("full")], &[])?;
    for object in &mut objects.0 {
        object["spec"]["misspelt"] = json!(1);
    }
    let misspelt = ["StatefulSet", "Certificate", "PodMonitor", "HTTPRoute", "PrometheusRule"];
    let refused = refusals(&api, NAMESPACE, &objects, true).await?;
    for kind in misspelt {
        ensure!(
            refused.iter().any(|r| r.object.starts_with(kind) && r.message.contains("misspelt")),
            "{kind} with an unknown field was taken:{}",
            told(&refused)
        );
    }
    Ok(())
}

/// Pods are what Pod Security admission refuses (workloads are only warned about, which counts here too).
#[tokio::test]
async fn pods_pass_the_restricted_standard_unless_they_are_in_the_hosts_network() -> Result<()> {
    let api = server("restricted").await?;
    api.namespace(NAMESPACE, "restricted").await?;
    for (set, outside) in [("full", vec![]), ("dev", vec!["media"]), ("minimal", vec!["media"])] {
        let objects = Helm::new("helm4")?.template(&chart(), &[values(set)], &[])?;
        for (name, template) in objects.pods() {
            let pod_name = name.rsplit('-').next().unwrap_or_default().trim_matches('"').to_owned();
            let pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("try-{set}-{pod_name}"), "namespace": NAMESPACE}, "spec": template["spec"]});
            let mut pod = pod;
            // A StatefulSet's volume claims become volumes of its pods.
            complete_volumes(&mut pod);
            let outcome = api.apply(NAMESPACE, &pod, true).await?;
            if outside.iter().any(|role| name.contains(&format!("-{role}"))) {
                let refusal =
                    outcome.err().with_context(|| format!("{set}: {name} is restricted after all"))?;
                let violated = violations(&refusal.message)?;
                only_the_host_network(&violated).with_context(|| format!("{set}: {name}"))?;
                // The server names every violation, not the first: a pod with another one would not have passed.
                pod["spec"]["securityContext"]["seccompProfile"] = serde_json::Value::Null;
                let refusal = api.apply(NAMESPACE, &pod, true).await?.err().context("no seccomp profile")?;
                let violated = violations(&refusal.message)?;
                ensure!(violated.len() == 3 && only_the_host_network(&violated).is_err(), "{violated:?}");
            } else if let Err(refusal) = outcome {
                anyhow::bail!("{set}: {name}: {}", refusal.message);
            }
        }
    }
    Ok(())
}

/// What Pod Security admission complains of: the name of each violation and, in brackets, what violates.
fn violations(message: &str) -> Result<Vec<(String, String)>> {
    let list = message.split_once("violates PodSecurity \"restricted:latest\": ");
    let mut rest = list.with_context(|| format!("another refusal: {message}"))?.1;
    let mut found = Vec::new();
    while let Some((name, after)) = rest.split_once(" (") {
        let mut depth = 1;
        let end = after.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let end = end.with_context(|| format!("a bracket without end: {message}"))?;
        found.push((name.trim_start_matches(", ").to_owned(), after[..end].to_owned()));
        rest = &after[end + 1..];
    }
    ensure!(rest.is_empty() && !found.is_empty(), "{rest:?} is left of {message}");
    Ok(found)
}

/// The host's network, and the container's ports in it, are all that is beyond the standard.
fn only_the_host_network(violated: &[(String, String)]) -> Result<()> {
    let [(namespaces, which), (ports, whose)] = violated else { anyhow::bail!("{violated:?}") };
    ensure!(namespaces == "host namespaces" && which == "hostNetwork=true", "{violated:?}");
    ensure!(ports == "hostPort" && whose.starts_with("container \"media\" uses hostPorts "), "{violated:?}");
    Ok(())
}

fn complete_volumes(pod: &mut serde_json::Value) {
    if let Some(volumes) = pod["spec"]["volumes"].as_array_mut()
        && volumes.iter().all(|volume| volume["name"] != "data")
    {
        volumes.push(json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}));
    }
}

/// A missing Secret, and one without its key, end the installation with what to do; with it, the installation goes on.
#[tokio::test]
async fn a_missing_secret_fails_the_installation_with_what_to_create() -> Result<()> {
    let api = server("secrets").await?;
    for helm_name in BOTH {
        let (helm, namespace) = (Helm::on(helm_name, &api.kubeconfig())?, format!("calls-{helm_name}"));
        api.namespace(&namespace, "privileged").await?;
        let install = || helm.run(arguments("install", &namespace, &chart(), "full"));
        let problem = install()?.expect_failure()?;
        for (name, _) in SECRETS.iter().filter(|(name, _)| *name != "phones-tls") {
            let command = format!("kubectl create secret generic {name} --namespace {namespace}");
            ensure!(problem.contains(&command), "{helm_name}: no word of {command}:\n{problem}");
        }
        for (name, keys) in SECRETS {
            // One without its key.
            let keys = if name == "trunkline-etcd" { &["pass"] } else { keys };
            api.secret(&namespace, name, keys).await?;
        }
        let problem = install()?.expect_failure()?;
        ensure!(problem.contains("\"trunkline-etcd\" has no key \"password\""), "{helm_name}:\n{problem}");
        api.secret(&namespace, "trunkline-etcd", &["password"]).await?;
        install()?.expect().with_context(|| format!("{helm_name}, with all Secrets"))?;
    }
    Ok(())
}

fn arguments(what: &str, namespace: &str, chart: &std::path::Path, set: &str) -> Vec<PathBuf> {
    arguments_with(what, namespace, chart, &values(set))
}

fn arguments_with(
    what: &str,
    namespace: &str,
    chart: &std::path::Path,
    file: &std::path::Path,
) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = [what, "tl"].map(PathBuf::from).to_vec();
    all.push(chart.to_owned());
    all.extend(["--namespace", namespace, "--values"].map(PathBuf::from));
    all.push(file.to_owned());
    all
}

/// The chart's first release, kept as it was packaged, with every set of values; an upgrade from it, and the way back, by
/// helm 3 and helm 4 in turns, and by both with everything switched on.
#[tokio::test]
async fn a_release_is_upgraded_from_the_previous_chart_and_rolled_back() -> Result<()> {
    let api = server("upgrade").await?;
    let folder = tempfile::tempdir()?;
    let mut rounds: Vec<(&str, &str)> = SETS.into_iter().zip(BOTH.into_iter().cycle()).collect();
    for helm in BOTH {
        if !rounds.contains(&("full", helm)) {
            rounds.push(("full", helm));
        }
    }
    for (set, helm) in rounds {
        let earlier = earlier_values(set, folder.path())?;
        upgrade_and_roll_back(&api, helm, set, &earlier).await.with_context(|| format!("{helm}, {set}"))?;
    }
    Ok(())
}

async fn upgrade_and_roll_back(
    api: &ApiServer,
    helm_name: &str,
    set: &str,
    earlier: &std::path::Path,
) -> Result<()> {
    let (helm, namespace) = (Helm::on(helm_name, &api.kubeconfig())?, format!("calls-{set}-{helm_name}"));
    api.namespace(&namespace, "privileged").await?;
    for (name, keys) in SECRETS {
        api.secret(&namespace, name, keys).await?;
    }
    let upgrade = || helm.run(arguments("upgrade", &namespace, &chart(), set))?.expect();
    let install = arguments_with("install", &namespace, &previous_chart()?, earlier);
    helm.run(install)?.expect().context("install the previous chart")?;
    let before = workloads(api, &namespace).await?;
    let password = format!("/api/v1/namespaces/{namespace}/secrets/tl-trunkline-dev-postgresql");
    let password_before = api.get(&password).await?["data"].clone();
    ensure!(password_before.is_null() != (set == "dev"), "a trial's password");
    upgrade().context("upgrade")?;
    let after = workloads(api, &namespace).await?;
    // Fields that cannot change would have failed the upgrade; names must not, or pods lose their volumes.
    ensure!(before.keys().eq(after.keys()), "workloads changed their names");
    ensure!(before != after, "nothing is upgraded");
    ensure!(
        api.get(&password).await?["data"] == password_before,
        "the trial's database has another password"
    );
    let history = helm.run(["rollback", "tl", "1", "--namespace", namespace.as_str()])?;
    history.expect().context("rollback")?;
    let back = workloads(api, &namespace).await?;
    ensure!(back == before, "a rollback does not bring back what was there before");
    upgrade().context("upgrade again")?;
    helm.run(["uninstall", "tl", "--namespace", namespace.as_str()])?.expect()?;
    Ok(())
}

/// A set of values without the keys that the previous chart does not know yet: what was there before an upgrade.
fn earlier_values(set: &str, folder: &std::path::Path) -> Result<PathBuf> {
    const NEW: [(&str, &str); 1] = [("/console", "links")];
    let mut all = read_values(&values(set))?;
    for (section, key) in NEW {
        if let Some(section) = all.pointer_mut(section).and_then(serde_json::Value::as_object_mut) {
            section.remove(key);
        }
    }
    let file = folder.join(format!("{set}.yaml"));
    std::fs::write(&file, all.to_string())?;
    Ok(file)
}

/// Each workload's specification, by name.
async fn workloads(
    api: &ApiServer,
    namespace: &str,
) -> Result<std::collections::BTreeMap<String, serde_json::Value>> {
    let mut found = std::collections::BTreeMap::new();
    for plural in ["statefulsets", "deployments"] {
        let list = api.get(&format!("/apis/apps/v1/namespaces/{namespace}/{plural}")).await?;
        for item in list["items"].as_array().context("items")? {
            let name = item["metadata"]["name"].as_str().context("name")?.to_owned();
            found.insert(name, item["spec"].clone());
        }
    }
    for role in ROLES {
        let there = found.keys().filter(|name| name.ends_with(&format!("-{role}"))).count();
        ensure!(there == 1, "a workload for each role, but there are {:?}", found.keys());
    }
    Ok(found)
}

/// The newest package in `previous/`.
fn previous_chart() -> Result<PathBuf> {
    let folder = root().join("tests/kubernetes/previous");
    let mut packages: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("{}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .collect();
    packages.sort();
    packages.pop().with_context(|| format!("{}: no packaged chart of an earlier version", folder.display()))
}

/// With an autoscaler no object of the chart says how many replicas there are: after an upgrade the autoscaler's number
/// stands.
#[tokio::test]
async fn an_upgrade_leaves_the_autoscalers_number_alone() -> Result<()> {
    let api = server("scaling").await?;
    for helm_name in BOTH {
        let (helm, namespace) = (Helm::on(helm_name, &api.kubeconfig())?, format!("calls-{helm_name}"));
        api.namespace(&namespace, "privileged").await?;
        for (name, keys) in SECRETS {
            api.secret(&namespace, name, keys).await?;
        }
        helm.run(arguments("install", &namespace, &chart(), "full"))?.expect()?;
        let scaled = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "tl-trunkline-call", "namespace": namespace}, "spec": {"replicas": 7}});
        let patched = api.scale(&namespace, &scaled).await?;
        ensure!(patched["spec"]["replicas"] == 7, "scaling does not work: {patched}");
        let mut upgrade = arguments("upgrade", &namespace, &chart(), "full");
        upgrade.extend(["--set", "call.podAnnotations.changed=yes"].map(PathBuf::from));
        helm.run(upgrade)?.expect()?;
        let now = api.read(&namespace, &scaled).await?;
        ensure!(
            now["spec"]["replicas"] == 7,
            "{helm_name}: the upgrade set {} replicas",
            now["spec"]["replicas"]
        );
        ensure!(
            now["spec"]["template"]["metadata"]["annotations"]["changed"] == "yes",
            "{helm_name}: no upgrade"
        );
    }
    Ok(())
}
