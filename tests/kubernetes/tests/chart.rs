//! What helm 3, helm 4 and helm-unittest say of the chart, without a cluster.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trunkline_kubernetes_tests::{
    SETS, chart,
    helm::{BOTH, Helm, read_values},
    tools, values,
};

#[test]
fn helm_lint_is_strict_and_silent() -> Result<()> {
    for helm in BOTH {
        for set in SETS {
            let (chart, values) = (chart(), values(set));
            let arguments =
                [Path::new("lint"), Path::new("--strict"), &chart, Path::new("--values"), &values];
            let said = Helm::new(helm)?.run(arguments)?.expect().with_context(|| format!("{helm}, {set}"))?;
            ensure!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{helm}, {set}:\n{said}");
        }
    }
    Ok(())
}

/// Both helms render the same: what is tested with one holds for the other.
#[test]
fn both_helms_render_the_same() -> Result<()> {
    for set in SETS.iter().filter(|set| **set != "dev") {
        let [three, four] = BOTH.map(|helm| Helm::new(helm)?.template(&chart(), &[values(set)], &[]));
        let sorted = |objects: trunkline_kubernetes_tests::objects::Objects| {
            let mut texts: Vec<String> = objects.0.iter().map(Value::to_string).collect();
            texts.sort();
            texts
        };
        ensure!(sorted(three?) == sorted(four?), "{set}: they differ");
    }
    Ok(())
}

/// Each mapping of the values, from the top to the last leaf, refuses a key that it does not know; mappings that are the
/// user's own (labels, resources, …) are named here.
#[test]
fn every_mapping_of_the_values_is_closed() -> Result<()> {
    const OPEN: [&str; 15] = [
        "affinity",
        "annotations",
        "labels",
        "podLabels",
        "podAnnotations",
        "nodeSelector",
        "config",
        "requests",
        "limits",
        "addresses",
        "prometheusRule.labels",
        "podMonitor.labels",
        "dashboards.labels",
        "issuerRef",
        "extraEnv",
    ];
    let helm = Helm::new("helm3")?;
    let all = read_values(&chart().join("values.yaml"))?;
    let mut paths = vec![String::new()];
    mappings("", &all, &mut paths);
    let mut tried = 0;
    for path in paths {
        if OPEN.iter().any(|open| path == *open || path.ends_with(&format!(".{open}"))) {
            continue;
        }
        let key = if path.is_empty() { "misspelt".to_owned() } else { format!("{path}.misspelt") };
        let said = helm.try_template(&chart(), &[values("minimal")], &[&format!("{key}=1")])?;
        let problem = said.expect_failure().with_context(|| format!("{key} was taken"))?;
        ensure!(problem.contains("'misspelt' not allowed"), "{key}: {problem}");
        tried += 1;
    }
    ensure!(tried > 40, "only {tried} mappings were tried");
    Ok(())
}

fn mappings(path: &str, value: &Value, found: &mut Vec<String>) {
    let Some(mapping) = value.as_object() else { return };
    for (key, inner) in mapping {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if inner.is_object() {
            found.push(below.clone());
        }
        mappings(&below, inner, found);
    }
}

/// Every value that is wrong in its form is refused by name, by both.
#[test]
fn wrong_values_are_refused_by_name() -> Result<()> {
    for helm in BOTH {
        let helm = Helm::new(helm)?;
        for (setting, named) in [
            ("media.network.mode=\"bridge\"", "/media/network/mode"),
            ("edge.terminationGracePeriodSeconds=30", "/edge/terminationGracePeriodSeconds"),
            ("edge.network.address=\"sip.example.com\"", "/edge/network/address"),
            ("leaseTtl=\"1s\"", "/leaseTtl"),
            ("etcd.endpoints=[\"etcd:2379\"]", "/etcd/endpoints/0"),
            ("call.autoscaling.utilisation=1.5", "/call/autoscaling/utilisation"),
            ("trunks=[{\"name\":\"x\"}]", "/trunks/0"),
            ("recordings.s3.credentials=\"keys\"", "/recordings/s3/credentials"),
            ("security.runAsUser=0", "/security/runAsUser"),
        ] {
            let problem = helm.try_template(&chart(), &[values("minimal")], &[setting])?.expect_failure()?;
            ensure!(problem.contains(named), "{setting}: {problem}");
        }
    }
    Ok(())
}

/// What is missing is told at once, each with a remedy.
#[test]
fn what_is_missing_is_told_with_what_to_do() -> Result<()> {
    for helm in BOTH {
        let helm = Helm::new(helm)?;
        let problem = helm.try_template(&chart(), &[], &[])?.expect_failure()?;
        for sentence in [
            "postgresql.existingSecret is not set: create a Secret",
            "kubectl create secret generic trunkline-postgresql --namespace calls --from-literal=url=",
            "etcd.endpoints is empty: name the members of an etcd",
            "recordings.s3.bucket is not set",
            "edge.network.address is not set: reserve an address",
        ] {
            ensure!(problem.contains(sentence), "no word of {sentence:?}:\n{problem}");
        }
        for (setting, sentence) in [
            ("tls.mode=\"existingSecret\"", "tls.existingSecret is not set: create a Secret with ca.crt"),
            ("etcd.auth.user=\"u\"", "etcd.auth.existingSecret is not set: create a Secret"),
            ("media.network.mode=\"hostPort\"", "ports are too many for media.network.mode=hostPort"),
            ("media.network.mode=\"loadBalancer\"", "media.network.addresses is empty"),
            ("console.httpRoute.enabled=true", "console.httpRoute.parentRefs is empty: name the Gateway"),
            ("console.ingress.enabled=true", "console.ingress.hosts is empty"),
            (
                "recordings.s3.credentials=\"webIdentity\"",
                "serviceAccount.annotations has no eks.amazonaws.com/role-arn",
            ),
            (
                "recordings.s3={\"bucket\":\"b\",\"existingSecret\":\"keys\",\"credentials\":\"instance\"}",
                "recordings.s3.credentials is instance, but recordings.s3.existingSecret names keys",
            ),
            ("call.autoscaling.kind=\"keda\"", "call.autoscaling.prometheus is not set"),
            (
                "call.extraEnv=[{\"name\":\"TRUNKLINE_NODE__NAME\",\"value\":\"x\"}]",
                "call.extraEnv: TRUNKLINE_NODE__NAME is set already",
            ),
        ] {
            let problem = helm.try_template(&chart(), &[values("minimal")], &[setting])?.expect_failure()?;
            ensure!(problem.contains(sentence), "{setting}: no word of {sentence:?}:\n{problem}");
        }
    }
    Ok(())
}

/// The chart's own unit tests, in helm/trunkline/tests.
#[test]
fn helm_unittest_passes() -> Result<()> {
    let output = Command::new(tools::program("helm-unittest")?)
        .args(["--strict", "--color=false"])
        .arg(chart())
        .output()
        .context("helm-unittest")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(!said.contains("Tests:       0 passed"), "there are no unit tests:\n{said}");
    Ok(())
}

/// The package that users install holds neither the chart's tests nor anything else that is not the chart's.
#[test]
fn the_package_holds_the_chart_and_nothing_else() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (chart, helm) = (chart(), Helm::new("helm4")?);
    let arguments = [Path::new("package"), &chart, Path::new("--destination"), folder.path()];
    helm.run(arguments)?.expect()?;
    let packages: Vec<_> = std::fs::read_dir(folder.path())?.filter_map(Result::ok).collect();
    let [package] = packages.as_slice() else { anyhow::bail!("not one package: {packages:?}") };
    let listed = Command::new("tar").arg("tzf").arg(package.path()).output()?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    for wanted in [
        "Chart.yaml",
        "values.yaml",
        "values.schema.json",
        "README.md",
        "templates/edge.yaml",
        "templates/NOTES.txt",
        "files/rules/",
    ] {
        ensure!(names.contains(&format!("trunkline/{wanted}")), "{wanted} is missing:\n{names}");
    }
    ensure!(!names.contains("trunkline/tests/"), "the unit tests are packaged:\n{names}");
    let rendered = helm.template(&package.path(), &[values("minimal")], &[])?;
    let unpacked = helm.template(&chart, &[values("minimal")], &[])?;
    ensure!(json!(rendered.names()) == json!(unpacked.names()), "the package renders something else");
    Ok(())
}
