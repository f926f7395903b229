//! What users of comparable charts complain about, row by row: each row is a check of what is rendered.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_kubernetes_tests::{
    SETS, chart,
    helm::{Helm, read_values},
    objects::{Objects, ROLES},
    values,
};

fn rendered(set: &str) -> Result<Objects> {
    Helm::new("helm4")?.template(&chart(), &[values(set)], &[])
}

fn with(set: &str, settings: &[&str]) -> Result<Objects> {
    Helm::new("helm4")?.template(&chart(), &[values(set)], settings)
}

fn env(container: &Value) -> Vec<&str> {
    let list = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|variable| variable["name"].as_str()).collect()
}

/// "secrets only in values, default passwords, bundled databases"
#[test]
fn no_secret_and_no_database_of_the_charts_own() -> Result<()> {
    for set in SETS.iter().filter(|set| **set != "dev") {
        let objects = rendered(set)?;
        ensure!(objects.kind("Secret").count() == 0, "{set}: a Secret is rendered");
        let text = serde_json::to_string(&objects.0)?;
        ensure!(!text.contains("postgres://"), "{set}: a database address is in plain sight");
        let given = read_values(&values(set))?;
        let own = given["image"]["repository"].as_str().unwrap_or("trunkline");
        for (name, pod) in objects.pods() {
            let containers = pod["spec"]["containers"].as_array().context("containers")?;
            ensure!(containers.len() == 1, "{set}: {name} has other containers");
            let image = containers[0]["image"].as_str().unwrap_or_default();
            ensure!(image.starts_with(&format!("{own}:")), "{set}: {name} runs {image}");
        }
    }
    let manifest = read_values(&chart().join("Chart.yaml"))?;
    ensure!(manifest["dependencies"].is_null(), "the chart has sub-charts");
    ensure!(manifest["apiVersion"] == "v2", "the chart is not of apiVersion v2");
    no_password_in(&read_values(&chart().join("values.yaml"))?, "")
}

fn no_password_in(value: &Value, path: &str) -> Result<()> {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let below = format!("{path}.{key}");
        let secretive = ["password", "secretAccessKey", "token"].iter().any(|word| key.contains(word));
        let names_a_key = key.ends_with("Key");
        ensure!(!secretive || names_a_key, "values{below} takes a secret: it belongs into a Secret");
        no_password_in(inner, &below)?;
    }
    Ok(())
}

/// The trial's database has a password made at random, and only the trial has a database.
#[test]
fn the_trials_password_is_made_at_random() -> Result<()> {
    let url = |objects: &Objects| -> Result<String> {
        let secret = objects.one("Secret", "dev-postgresql")?;
        Ok(secret["data"]["url"].as_str().context("url")?.to_owned())
    };
    ensure!(url(&rendered("dev")?)? != url(&rendered("dev")?)?, "two trials have one password");
    Ok(())
}

/// "pods with live calls killed after 30 s"
#[test]
fn pods_with_calls_have_hours_and_the_others_two_minutes() -> Result<()> {
    for set in SETS {
        let objects = rendered(set)?;
        for role in ROLES {
            let (workload, pod) = (objects.workload(role)?, objects.pod(role)?);
            let carries_calls = ["edge", "media"].contains(&role);
            let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().context("grace")?;
            ensure!(grace == if carries_calls { 14_400 } else { 120 }, "{set}: {role} has {grace} s");
            let strategy = workload["spec"]["updateStrategy"]["type"].as_str();
            ensure!((strategy == Some("OnDelete")) == carries_calls, "{set}: {role} updates by {strategy:?}");
            let budget = objects.one("PodDisruptionBudget", role)?;
            ensure!(budget["spec"]["maxUnavailable"] == 1, "{set}: {role}'s budget");
            let selector = &budget["spec"]["selector"]["matchLabels"];
            for (label, value) in selector.as_object().context("a selector")? {
                ensure!(pod["metadata"]["labels"][label] == *value, "{set}: {role}'s budget selects others");
            }
        }
    }
    Ok(())
}

/// What a stop takes in the daemon (pre-stop, drain, hand-over, flushes) fits into the grace period, so that a pod ends
/// by itself and is never killed while it has calls.
#[test]
fn the_drain_ends_before_the_grace_period() -> Result<()> {
    /// Bounds of `Node::stop`: the flushes of its rooms, one after the other.
    const FLUSHES_S: u64 = 30;
    for set in SETS {
        let objects = rendered(set)?;
        for role in ROLES {
            let pod = objects.pod(role)?;
            let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().context("grace")?;
            let before = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
            let before = before.context("a pre-stop pause")?;
            let drain = objects.node_config(role)?["node"]["drain_s"].as_u64().context("drain_s")?;
            // Whoever owns shards hands them over after the drain, for as long again at most; edges and media own none.
            let hand_over = if ["call", "acd"].contains(&role) { drain.max(30) } else { 0 };
            ensure!(
                before + drain + hand_over + FLUSHES_S <= grace,
                "{set}: {role} may take {before} + {drain} + {hand_over} + {FLUSHES_S} s of {grace}"
            );
            let calls = ["edge", "media"].contains(&role);
            ensure!(!calls || drain > grace - 120, "{set}: {role} ends its calls {} s early", grace - drain);
        }
    }
    Ok(())
}

/// "scale-in takes a busy pod"
#[test]
fn nothing_scales_in_unless_asked_and_autoscalers_keep_off_busy_pods() -> Result<()> {
    for (set, kind, behaviour) in [
        ("full", "HorizontalPodAutoscaler", "/spec/behavior"),
        ("keda", "ScaledObject", "/spec/advanced/horizontalPodAutoscalerConfig/behavior"),
    ] {
        let objects = rendered(set)?;
        for scaler in objects.kind(kind) {
            let name = scaler["metadata"]["name"].as_str().context("name")?;
            let down = &scaler.pointer(behaviour).context("a behaviour")?["scaleDown"];
            let asked = name.ends_with("-call");
            ensure!((down["selectPolicy"] == "Disabled") != asked, "{set}: {name} scales in: {down}");
            let target = scaler["spec"]["scaleTargetRef"]["name"].as_str().context("a target")?;
            let target_kind = scaler["spec"]["scaleTargetRef"]["kind"].as_str().context("a kind")?;
            let workload = objects.one(target_kind, target)?;
            ensure!(
                workload["spec"]["replicas"].is_null(),
                "{set}: {target} has replicas beside an autoscaler"
            );
        }
        ensure!(objects.kind(kind).count() >= 2, "{set}: no {kind}");
    }
    for set in SETS {
        let objects = rendered(set)?;
        for role in ["edge", "media"] {
            let annotations = &objects.pod(role)?["metadata"]["annotations"];
            for (name, value) in [
                ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
                ("karpenter.sh/do-not-disrupt", "true"),
            ] {
                ensure!(annotations[name] == value, "{set}: {role} lacks {name}");
            }
        }
    }
    Ok(())
}

/// "wrong advertised media address": the order is in the node (services/daemon, node.advertise); the chart hands it what
/// it can know, and never a pod's address.
#[test]
fn the_advertised_address_has_an_order_and_is_never_a_pods() -> Result<()> {
    for set in SETS {
        let objects = rendered(set)?;
        for role in ["edge", "media"] {
            let (container, pod) = (objects.container(role)?, objects.pod(role)?);
            let names = env(container);
            let host = pod["spec"]["hostNetwork"] == true;
            let inside = role == "edge" && ["host-ports", "dev"].contains(&set);
            ensure!(!names.iter().any(|name| name.ends_with("__ADVERTISED")), "{set}: {role}: {names:?}");
            ensure!(
                names.contains(&"TRUNKLINE_NODE__ADVERTISE__HOST") != inside,
                "{set}: {role} cannot tell which machine it is on: {names:?}"
            );
            let host_ip = names.contains(&"TRUNKLINE_NODE__ADVERTISE__HOST_IP");
            ensure!(!host || host_ip, "{set}: {role} in the host's network does not know the host's address");
            let config = objects.node_config(role)?;
            if host && config["node"]["advertise"]["kubernetes"] == true {
                let mounts = container["volumeMounts"].to_string();
                ensure!(
                    mounts.contains("kubernetes.io/serviceaccount"),
                    "{set}: {role} has no token to ask with"
                );
                ensure!(objects.kind("ClusterRole").count() == 1, "{set}: no right to ask for nodes");
            }
        }
    }
    Ok(())
}

/// "hostPort without hostNetwork impossible"
#[test]
fn media_has_three_kinds_of_network() -> Result<()> {
    let host_ports = |objects: &Objects| -> Result<usize> {
        let ports = objects.container("media")?["ports"].as_array().context("ports")?.clone();
        Ok(ports.iter().filter(|port| port["hostPort"].is_u64()).count())
    };
    let objects = rendered("minimal")?;
    ensure!(objects.pod("media")?["spec"]["hostNetwork"] == true, "hostNetwork is not the default");
    ensure!(host_ports(&objects)? == 0, "ports are mapped in the host's network");
    let objects = rendered("host-ports")?;
    ensure!(objects.pod("media")?["spec"]["hostNetwork"].is_null(), "hostPort is in the host's network");
    ensure!(host_ports(&objects)? == 202, "every RTP and WebRTC port is mapped: {}", host_ports(&objects)?);
    let objects = rendered("full")?;
    let behind: Vec<&Value> =
        objects.kind("Service").filter(|s| s["spec"]["type"] == "LoadBalancer").collect();
    ensure!(behind.len() == 3, "one Service for SIP and one for each media pod, not {}", behind.len());
    Ok(())
}

/// "no NetworkPolicy, PrometheusRule, topology spread"
#[test]
fn pods_are_confined_and_spread() -> Result<()> {
    for set in SETS {
        let objects = rendered(set)?;
        for (name, pod) in objects.pods() {
            let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
            let security = &container["securityContext"];
            ensure!(spec["securityContext"]["runAsNonRoot"] == true, "{set}: {name} may be root");
            ensure!(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "{set}: {name}");
            ensure!(security["readOnlyRootFilesystem"] == true, "{set}: {name} may write its root");
            ensure!(security["allowPrivilegeEscalation"] == false, "{set}: {name} may gain rights");
            ensure!(
                security["capabilities"] == serde_json::json!({"drop": ["ALL"]}),
                "{set}: {name} keeps capabilities"
            );
            ensure!(spec["automountServiceAccountToken"] == false, "{set}: {name} has an account's token");
            ensure!(
                container["resources"]["limits"]["memory"].is_string(),
                "{set}: {name} has no memory limit"
            );
            let names = env(container);
            let unique: BTreeSet<&&str> = names.iter().collect();
            ensure!(unique.len() == names.len(), "{set}: {name} has a variable twice: {names:?}");
        }
        for role in ROLES {
            let spec = &objects.pod(role)?["spec"];
            ensure!(
                spec["topologySpreadConstraints"].as_array().is_some_and(|c| !c.is_empty()),
                "{set}: {role}"
            );
            ensure!(spec["affinity"]["podAntiAffinity"].is_object(), "{set}: {role} has no anti-affinity");
            let governed = objects.one("NetworkPolicy", role).is_ok();
            let host = spec["hostNetwork"] == true;
            ensure!(governed != (host || set == "private"), "{set}: {role}'s NetworkPolicy");
        }
    }
    let full = rendered("full")?;
    for kind in ["PodMonitor", "PrometheusRule", "HTTPRoute", "Ingress", "Certificate"] {
        ensure!(full.kind(kind).count() > 0, "full: no {kind}");
    }
    Ok(())
}

/// "a chart test that checks a port"
#[test]
fn helm_test_places_a_call_and_listens() -> Result<()> {
    for set in SETS {
        let objects = rendered(set)?;
        let pod = objects.one("Pod", "test-call")?;
        ensure!(pod["metadata"]["annotations"]["helm.sh/hook"] == "test", "{set}: no test hook");
        let arguments = pod["spec"]["containers"][0]["args"].to_string();
        ensure!(arguments.contains("\"call\"") && arguments.contains("--target="), "{set}: {arguments}");
        ensure!(pod["spec"]["activeDeadlineSeconds"].is_u64(), "{set}: the test may hang");
    }
    // Its call is a trunk's like any other.
    let sip = with("minimal", &["test.podCidrs=[\"10.244.0.0/16\"]"])?.node_config("edge")?;
    ensure!(sip["sip"]["trunks"].to_string().contains("10.244.0.0/16"), "{sip}");
    ensure!(
        rendered("minimal")?.node_config("edge")?["sip"]["trunks"] == serde_json::json!([]),
        "an open door"
    );
    Ok(())
}

/// "Liveness never depends on etcd or the database; readiness does."
#[test]
fn alive_and_ready_are_asked_apart() -> Result<()> {
    for set in SETS {
        let objects = rendered(set)?;
        for role in ROLES {
            let container = objects.container(role)?;
            let path = |probe: &str| container[probe]["httpGet"]["path"].as_str().map(str::to_owned);
            ensure!(
                path("livenessProbe").as_deref() == Some("/healthz"),
                "{set}: {role} lives by {:?}",
                path("livenessProbe")
            );
            ensure!(path("startupProbe").as_deref() == Some("/healthz"), "{set}: {role}");
            ensure!(path("readinessProbe").as_deref() == Some("/readyz"), "{set}: {role}");
            let every = container["readinessProbe"]["periodSeconds"].as_u64().context("period")?;
            let failures = container["readinessProbe"]["failureThreshold"].as_u64().context("failures")?;
            let pause = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().context("pause")?;
            ensure!(every * failures <= pause, "{set}: {role} drains before the others know");
        }
    }
    Ok(())
}

/// A change of the configuration restarts the pods that may be restarted.
#[test]
fn a_changed_configuration_changes_the_pods() -> Result<()> {
    let sum = |objects: &Objects| -> Result<Value> {
        Ok(objects.pod("call")?["metadata"]["annotations"]["checksum/config"].clone())
    };
    ensure!(
        sum(&rendered("minimal")?)? != sum(&with("minimal", &["call.maxCalls=7"])?)?,
        "the same checksum"
    );
    Ok(())
}

/// From the page of a call one gets to its trace, its log lines and its dashboard, where the values say how.
#[test]
fn the_console_links_to_where_else_a_call_is_seen() -> Result<()> {
    let links = |objects: &Objects| -> Result<Value> {
        Ok(objects.node_config("console")?["console"]["links"].clone())
    };
    let given = read_values(&values("full"))?["console"]["links"].clone();
    ensure!(given.as_object().is_some_and(|links| links.len() == 3), "full: {given}");
    ensure!(links(&rendered("full")?)? == given, "{}", links(&rendered("full")?)?);
    ensure!(links(&rendered("minimal")?)?.is_null(), "a link that nobody asked for");
    let one = with("minimal", &[r#"console.links.trace="https://t/{trace_id}""#])?;
    ensure!(links(&one)? == serde_json::json!({"trace": "https://t/{trace_id}"}), "{}", links(&one)?);
    for wrong in ["https://t/", "t/{call_id}", "https://t/{call}", "https://t/?q= {call_id}"] {
        let setting = format!("console.links.trace={}", Value::from(wrong));
        let said = Helm::new("helm4")?.try_template(&chart(), &[values("minimal")], &[&setting])?;
        let problem = said.expect_failure().with_context(|| wrong.to_owned())?;
        ensure!(problem.contains("/console/links/trace"), "{wrong}: {problem}");
    }
    Ok(())
}
