//! The chart's pods as processes: what `helm test` does works against them, probes tell the truth, and an upgrade of all
//! of them costs no call.
//!
//! Needs root (network namespaces), etcd, PostgreSQL and nftables.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use trunkline_faults::{
    history::What,
    net::Network,
    scenario::{Place, Stage, traffic},
    world::CLIENTS,
};
use trunkline_kubernetes_tests::{
    chart,
    lab::{Lab, SIP},
    objects::{Objects, ROLES},
};
use trunkline_system_tests::{folder, process::Program, root, s, target, until};

/// Conversations with audio both ways, and callers who hear music meanwhile: 50 calls.
const TALKING: usize = 10;
const WAITING: usize = 40;
/// Further callers a second while pods go.
const COMING: f64 = 0.5;
/// What nobody may be without sound for while pods go: the promise for a control node that dies is 2 s.
const LONGEST_SILENCE: Duration = s(2);
/// A pod with calls to move goes within this here, far below its grace period.
const GONE_WITHIN: Duration = s(120);

/// Where the chart mounts a node's configuration.
const CONFIG: &str = "/etc/trunkline/node.yaml";

/// Two clusters at once are more than two cores carry.
static ONE_CLUSTER: Mutex<()> = Mutex::new(());

/// Runs a test in the callers' place of a new cluster, with the sample centre and so many agents more, or with nothing in it.
fn in_a_cluster<F>(name: &str, agents: Option<usize>, test: impl FnOnce(Lab, PathBuf) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let _one = ONE_CLUSTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (logs, binary) = (folder(&format!("kubernetes-{name}"))?, target()?.join("debug/trunkline"));
    let mut network = Network::new()?;
    network.host(CLIENTS)?;
    // Threads inherit it: callers and agents are there.
    network.enter(CLIENTS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let lab = Lab::start(network, agents, &binary, &logs).await?;
        test(lab, logs).await
    })
}

/// The command of the chart's test pod, at the Service's address instead of its name.
async fn helm_test(lab: &Lab, chart: &Objects, logs: &Path, name: &str) -> Result<(bool, String)> {
    let pod = chart.one("Pod", "test-call")?;
    let arguments = pod["spec"]["containers"][0]["args"].as_array().context("args")?;
    let mut command = lab.on_clients()?;
    for argument in arguments {
        let text = argument.as_str().context("an argument")?;
        if text.starts_with("--target=") {
            ensure!(text == "--target=tl-trunkline-sip.calls.svc:5060", "{text}");
            command.arg(format!("--target={SIP}:5060"));
        } else {
            command.arg(text);
        }
    }
    let mut program = Program::start(name, logs, &mut command)?;
    let status = program.wait(s(90)).await?;
    Ok((status.success(), program.stdout() + &program.stderr()))
}

#[test]
fn helm_test_hears_the_cluster_and_probes_tell_the_truth() -> Result<()> {
    in_a_cluster("helm-test", Some(0), |mut lab, logs| async move {
        let chart = lab.install(&[])?;
        let (ok, said) = helm_test(&lab, &chart, &logs, "helm-test").await?;
        ensure!(ok && said.contains("heard"), "the test of a healthy cluster fails:\n{said}");
        probes(&mut lab).await?;
        drained(&mut lab, &chart, &logs).await?;
        // Without the trunk for its call it fails and says what to set.
        let chart = lab.install(&["test.podCidrs=[]"])?;
        for edge in lab.of("edge") {
            lab.pod(&edge)?.terminate().await?;
            lab.start_pod(&edge).await?;
        }
        lab.balance("tl-trunkline-edge-1")?;
        let (ok, said) = helm_test(&lab, &chart, &logs, "helm-test-refused").await?;
        ensure!(!ok && said.contains("test.podCidrs"), "a refused call passes for heard:\n{said}");
        // A cluster that nobody answers for: no sound, no success.
        for edge in lab.of("edge") {
            lab.pod(&edge)?.kill()?;
        }
        let (ok, said) = helm_test(&lab, &chart, &logs, "helm-test-dead").await?;
        ensure!(!ok, "a dead cluster passes the test:\n{said}");
        Ok(())
    })
}

/// A pod that an operator drains is not ready, so that nobody sends to it, and refuses whoever does all the same; undrained
/// it serves again.
async fn drained(lab: &mut Lab, chart: &Objects, logs: &Path) -> Result<()> {
    let edge = "tl-trunkline-edge-0";
    let mut drain = lab.exec(edge, &["drain", edge, "--wait", "60", "--config", CONFIG])?;
    Program::start("drain", logs, &mut drain)?.succeed(s(90)).await?;
    let pod = lab.pod(edge)?;
    until("a drained edge is not ready", s(20), || async { Ok((!pod.ready().await?).then_some(())) }).await?;
    ensure!(pod.alive().await?, "a drained edge would be killed");
    let (ok, said) = helm_test(lab, chart, logs, "helm-test-drained").await?;
    ensure!(!ok && said.contains("503"), "a drained edge takes a call:\n{said}");
    let mut undrain = lab.exec(edge, &["undrain", edge, "--wait", "60", "--config", CONFIG])?;
    Program::start("undrain", logs, &mut undrain)?.succeed(s(90)).await?;
    let pod = lab.pod(edge)?;
    until("an edge is ready again", s(20), || async { Ok(pod.ready().await?.then_some(())) }).await?;
    let (ok, said) = helm_test(lab, chart, logs, "helm-test-undrained").await?;
    ensure!(ok, "an edge that is back takes no call:\n{said}");
    Ok(())
}

/// What the chart's README tells operators to type into pods, in its order: each line does what the README says of it.
#[test]
fn the_operators_part_of_the_charts_readme_is_walked() -> Result<()> {
    in_a_cluster("readme", None, |mut lab, logs| async move {
        let readme = std::fs::read_to_string(chart().join("README.md"))?;
        let chart = lab.install(&[])?;
        // Nothing is there to be called: the test tells what to do, and not what helps against another refusal.
        let (ok, said) = helm_test(&lab, &chart, &logs, "helm-test-empty").await?;
        ensure!(!ok && said.contains("404") && said.contains("documents apply"), "an empty cluster: {said}");
        ensure!(!said.contains("podCidrs"), "an empty cluster has another remedy: {said}");
        let mut walked = BTreeSet::new();
        for line in readme.lines().filter(|line| line.starts_with("kubectl exec ")) {
            let line = line.split(" #").next().unwrap_or(line).split(['<', '>']).next().unwrap_or(line);
            let (at, typed) = line.split_once(" -- /trunkline ").with_context(|| line.to_owned())?;
            let pod = at.split_whitespace().nth(2).context("a pod")?;
            // The README's release is called `phones`, and any pod of a Deployment will do.
            let pod = match pod.strip_prefix("deploy/") {
                Some(deployment) => format!("{}-0", deployment.replace("phones-", "tl-")),
                None => pod.replace("phones-", "tl-"),
            };
            let typed = typed.replace("phones-", "tl-");
            let words: Vec<&str> = typed.split_whitespace().collect();
            if words[0] == "documents" {
                centre(&lab, &pod, &words).await.with_context(|| line.to_owned())?;
                until("the test hears the new centre", s(60), || async {
                    let (ok, _) = helm_test(&lab, &chart, &logs, "helm-test-new").await?;
                    Ok(ok.then_some(()))
                })
                .await?;
            } else {
                types(&mut lab, &logs, &pod, &words).await.with_context(|| line.to_owned())?;
            }
            walked.insert(words[0].to_owned());
        }
        let all = ["cluster", "doctor", "documents", "drain", "runbook", "support-bundle", "undrain"];
        ensure!(walked.iter().eq(all.iter()), "walked: {walked:?}");
        restored(&mut lab, &logs, &readme).await
    })
}

/// The centre that the chart's README begins with, as a pod reads it from its input: refused as it is shipped, taken with
/// passwords.
async fn centre(lab: &Lab, pod: &str, words: &[&str]) -> Result<()> {
    let apply = async |text: &str| -> Result<(bool, String)> {
        let file = lab.folder().join("centre.yaml");
        std::fs::write(&file, text)?;
        let mut command = tokio::process::Command::from(lab.exec(pod, words)?);
        command.kill_on_drop(true).stdin(std::fs::File::open(&file)?);
        let done = tokio::time::timeout(s(60), command.output()).await.context("it does not end")??;
        let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((done.status.success(), said.concat()))
    };
    let shipped = std::fs::read_to_string(root().join("deploy/samples/centre.yaml"))?;
    let (ok, said) = apply(&shipped).await?;
    ensure!(!ok && said.contains("password: write at least 8 characters"), "as it is shipped: {said}");
    let own = shipped.replace("password: \"\"", "password: a-long-secret");
    let (ok, said) = apply(&own).await?;
    ensure!(ok && said.contains("6 written, 0 the same as before"), "with passwords: {said}");
    Ok(())
}

/// One line, typed into a pod.
async fn types(lab: &mut Lab, logs: &Path, pod: &str, words: &[&str]) -> Result<()> {
    if words[0] == "undrain" {
        // It was deleted meanwhile, and has come back as it went.
        lab.pod(pod)?.terminate().await?;
        lab.launch_pod(pod).await?;
        let member = async |lab: &Lab| -> Result<bool> {
            let mut asked = lab.exec(pod, &["cluster", "--config", CONFIG])?;
            let mut program = Program::start("member", logs, &mut asked)?;
            let shown = program.wait(s(30)).await?.success();
            Ok(shown
                && program.stdout().lines().any(|line| line.starts_with(pod) && line.contains("drained")))
        };
        until("it is a member, drained", s(60), || async { Ok(member(lab).await?.then_some(())) }).await?;
        ensure!(!lab.pod(pod)?.ready().await?, "{pod} is ready although it is drained");
    }
    let mut program = Program::start(words[0], logs, &mut lab.exec(pod, words)?)?;
    let code = program.wait(s(120)).await?.code();
    let said = program.stdout();
    let told = || format!("{code:?}\n{said}\n{}", program.stderr());
    if words[0] == "doctor" {
        ensure!(code.is_some_and(|code| code <= 2) && said.contains(" to look at, "), "{}", told());
        // How fast the disk is, is this machine's affair.
        let failed: Vec<&str> = said.lines().filter(|line| line.trim_start().starts_with("FAIL")).collect();
        ensure!(failed.iter().all(|line| line.contains("commit: ")), "{}", told());
    } else {
        ensure!(code == Some(0), "{}", told());
    }
    let every = words.contains(&"--cluster") || words[0] == "cluster";
    for name in lab.pods.keys().filter(|_| every) {
        ensure!(said.contains(name), "no word of {name}: {}", told());
    }
    match words[0] {
        "runbook" => ensure!(said.starts_with(&format!("# {}\n", words[1])), "{}", told()),
        "support-bundle" => {
            let bundle = std::fs::read(logs.join("support-bundle.out"))?;
            ensure!(
                bundle.starts_with(&[0x1f, 0x8b]) && bundle.len() > 1_000,
                "no archive of {}",
                bundle.len()
            );
        }
        "drain" => {
            until("it is not ready", s(20), || async { Ok((!lab.pods[pod].ready().await?).then_some(())) })
                .await?;
        }
        "undrain" => {
            until("it is ready", s(30), || async { Ok(lab.pods[pod].ready().await?.then_some(())) }).await?;
        }
        _ => {}
    }
    Ok(())
}

/// What is restored is verified in a pod like those of records, when no other runs any more: that role's configuration and
/// Secrets are enough for it.
async fn restored(lab: &mut Lab, logs: &Path, readme: &str) -> Result<()> {
    let words = ["restore", "--config", CONFIG];
    ensure!(
        readme.contains(&format!(".args = {}", serde_json::json!(words)).replace(',', ", ")),
        "other words"
    );
    let restore = async |lab: &Lab, name: &str| -> Result<String> {
        let mut program = Program::start(name, logs, &mut lab.exec("tl-trunkline-records-0", &words)?)?;
        program.wait(s(60)).await?;
        Ok(program.stdout() + &program.stderr())
    };
    const DONE: &str = "start the nodes now";
    ensure!(readme.contains(DONE), "the README tells another end of a restore");
    let said = restore(lab, "restore-refused").await?;
    ensure!(said.contains("still run") && !said.contains(DONE), "it restores below running nodes: {said}");
    for pod in lab.pods.values_mut() {
        pod.kill()?;
    }
    until("it is restored when the leases of all nodes have ended", s(60), || async {
        let said = restore(lab, "restore").await?;
        ensure!(said.contains(DONE) || said.contains("still run"), "{said}");
        Ok(said.contains(DONE).then_some(()))
    })
    .await
}

/// Without etcd, and without PostgreSQL, pods live on and are not ready; with both they are again.
async fn probes(lab: &mut Lab) -> Result<()> {
    all_are(lab, true, "in a healthy cluster").await?;
    lab.etcd.pause(3)?;
    all_are(lab, false, "without etcd").await?;
    lab.etcd.go_on()?;
    all_are(lab, true, "with etcd again").await?;
    lab.postgres.kill()?;
    all_are(lab, false, "without PostgreSQL").await?;
    lab.postgres.start_again(&lab.network).await?;
    all_are(lab, true, "with PostgreSQL again").await
}

/// Waits until a pod of each role is ready or is not; alive they are all the time.
async fn all_are(lab: &Lab, ready: bool, when: &str) -> Result<()> {
    for role in ROLES {
        let pod = lab.pods.values().find(|pod| pod.role == role).context(role)?;
        let what = if ready { "is ready" } else { "is not ready" };
        until(&format!("{role} {what} {when}"), s(60), || async {
            Ok((pod.ready().await? == ready).then_some(()))
        })
        .await?;
        ensure!(pod.alive().await?, "{role} would be killed {when}");
    }
    Ok(())
}

/// Every pod goes and comes back as Kubernetes does it, by the numbers of the rendered chart, under 50 calls and while others
/// come: none is lost, nobody is without sound for long, and who comes is let in (but for what an edge sheds while the machine
/// lets its timers wait).
#[test]
fn an_upgrade_of_all_pods_costs_no_call() -> Result<()> {
    in_a_cluster("upgrade", Some(TALKING), |mut lab, logs| async move {
        let place = Place {
            bind: lab.network.address(CLIENTS)?.into(),
            sip: (SIP, 5060).into(),
            consoles: lab.consoles(),
        };
        let stage = Stage::build(place, &logs, TALKING, true).await?;
        let talking = stage.talk(TALKING, s(60)).await?;
        let waiting = stage.crowd.wait(WAITING, 10.0, s(60)).await?;
        let begun = std::time::Instant::now();
        // The next version: another template for every role, so that every pod goes.
        let changed: Vec<String> =
            ROLES.iter().map(|role| format!(r#"{role}.podAnnotations={{"version":"next"}}"#)).collect();
        lab.install(&changed.iter().map(String::as_str).collect::<Vec<_>>())?;
        let from = stage.history.len();
        traffic::during(&stage, COMING, s(0), replace_all(&mut lab)).await?;
        let count = |kind: fn(&What) -> bool| stage.history.count(from, kind);
        let came = count(|what| matches!(what, What::Calls { .. }));
        let refused = count(|what| matches!(what, What::Refused { .. }));
        ensure!(came >= 20 && refused * 20 <= came, "{refused} of {came} new callers were refused");
        let present = stage.crowd.present();
        for caller in talking.clone().chain(waiting.clone()) {
            ensure!(present.contains(&caller), "caller {caller} was dropped by the upgrade");
        }
        let silence = stage.crowd.longest_silence(talking.chain(waiting), begun);
        ensure!(silence <= LONGEST_SILENCE, "somebody heard nothing for {silence:?}");
        let verdict = stage.close().await?;
        ensure!(verdict.violations.is_empty(), "{:?}", verdict.violations);
        Ok(())
    })
}

async fn replace_all(lab: &mut Lab) -> Result<()> {
    for role in ["call", "acd", "console", "records", "media", "edge"] {
        for name in lab.of(role) {
            let took = replace(lab, &name).await.with_context(|| name.clone())?;
            ensure!(took < GONE_WITHIN, "{name} took {took:?} to go");
        }
    }
    Ok(())
}

/// One pod: taken out of the Service, terminated, started with the new template, waited for.
async fn replace(lab: &mut Lab, name: &str) -> Result<Duration> {
    let role = lab.pod(name)?.role.clone();
    if role == "edge" {
        // A terminating pod is no endpoint any more; those who still send to it are what the pre-stop pause is for.
        let other = lab.of("edge").into_iter().find(|edge| edge != name).context("a second edge")?;
        lab.balance(&other)?;
    }
    let took = lab.pod(name)?.terminate().await?;
    lab.start_pod(name).await?;
    Ok(took)
}
