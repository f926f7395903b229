//! What the chart's README gives to copy: the values that it installs are a set that every other test goes over, the image
//! that it pushes is the one that pods run, and the rule for the adapter asks what the autoscaler wants to know.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trunkline_kubernetes_tests::{
    chart,
    helm::Helm,
    objects::{Objects, ROLES},
    values,
};

/// The release of the tests.
const RELEASE: &str = "tl";

fn readme() -> Result<String> {
    std::fs::read_to_string(chart().join("README.md")).context("README.md")
}

/// The block of YAML that begins with this line.
fn block(readme: &str, first: &str) -> Result<String> {
    let mut blocks = readme.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let found = blocks.find_map(|(block, _)| block.starts_with(&format!("{first}\n")).then_some(block));
    Ok(found.with_context(|| format!("no block begins with {first}"))?.to_owned())
}

fn phones(files: &[std::path::PathBuf], settings: &[&str]) -> Result<Objects> {
    let files: Vec<_> = [values("phones")].into_iter().chain(files.iter().cloned()).collect();
    Helm::new("helm4")?.template(&chart(), &files, settings)
}

#[test]
fn the_values_that_it_installs_are_tested_and_name_the_image_that_it_pushes() -> Result<()> {
    let readme = readme()?;
    let shown = block(&readme, "# phones.yaml")?;
    let tested = std::fs::read_to_string(values("phones"))?;
    let below = |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned());
    ensure!(
        below(&shown) == below(&tested),
        "README.md:\n{shown}\ntests/kubernetes/values/phones.yaml:\n{tested}"
    );
    let words = |command: &str| -> Result<Vec<&str>> {
        let mut lines = readme.lines().filter(|line| line.starts_with(command));
        Ok(lines.next().with_context(|| format!("no {command}"))?.split_whitespace().collect())
    };
    let (build, push) = (words("docker build ")?, words("docker push ")?);
    let ["docker", "build", "--file", file, "--tag", image, "."] = build[..] else {
        anyhow::bail!("other words: {build:?}")
    };
    ensure!(trunkline_kubernetes_tests::root().join(file).is_file(), "there is no {file}");
    ensure!(push == ["docker", "push", image], "{push:?}");
    let objects = phones(&[], &[])?;
    for role in ROLES {
        let runs = &objects.container(role)?["image"];
        ensure!(*runs == image, "{role} runs {runs}, pushed is {image}");
    }
    // Without a tag in the values the chart's version names the image: the README pushes no other.
    let untagged = phones(&[], &["image.tag=\"\""])?;
    ensure!(untagged.container("call")?["image"] == image, "the chart is of another version than {image}");
    Ok(())
}

#[test]
fn its_links_are_taken() -> Result<()> {
    let text = block(&readme()?, "console:")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("links.yaml");
    std::fs::write(&file, &text)?;
    let links = phones(&[file], &[])?.node_config("console")?["console"]["links"].clone();
    let given: Value = serde_yaml_ng::from_str(&text)?;
    ensure!(
        links == given["console"]["links"] && links.as_object().is_some_and(|all| all.len() == 3),
        "{links}"
    );
    Ok(())
}

/// What prometheus-adapter makes of the rule (it puts what the autoscaler selects by in the place of the names) is the query
/// of the autoscaler's annotation, under the autoscaler's name for it.
#[test]
fn the_adapters_rule_asks_what_the_autoscaler_wants_to_know() -> Result<()> {
    let rules: Value = serde_yaml_ng::from_str(&block(&readme()?, "rules:")?)?;
    let [rule] = rules["rules"]["external"].as_array().context("rules")?.as_slice() else {
        anyhow::bail!("{rules}")
    };
    let objects = phones(&[], &["media.autoscaling.kind=\"hpa\""])?;
    let scaler = objects.one("HorizontalPodAutoscaler", "media")?;
    let metric = &scaler["spec"]["metrics"][0]["external"]["metric"];
    ensure!(rule["name"]["as"] == metric["name"], "{} and {}", rule["name"], metric["name"]);
    let selected = &metric["selector"]["matchLabels"];
    ensure!(*selected == json!({"namespace": "calls", "release": RELEASE}), "{selected}");
    let mut query = rule["metricsQuery"].as_str().context("metricsQuery")?.to_owned();
    for (label, value) in selected.as_object().context("a selector")? {
        query = query.replace(&format!("<<.LabelValuesByName.{label}>>"), value.as_str().context("a value")?);
    }
    let wanted = scaler["metadata"]["annotations"]["trunkline.dev/query"].as_str().context("a query")?;
    ensure!(query == wanted, "the README's rule asks {query}, wanted is {wanted}");
    // Series are found by name before they are asked for.
    let series =
        rule["seriesQuery"].as_str().and_then(|query| query.split_once('{')).context("seriesQuery")?;
    ensure!(wanted.starts_with(&format!("sum({}{{", series.0)), "{series:?} are not what {wanted} sums");
    Ok(())
}
