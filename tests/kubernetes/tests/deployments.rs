//! What else carries the program: compose, the Dockerfile, and the version that all of them say. No docker engine is needed:
//! Compose's own loader reads its file, the rest is checked by its parts with the tools that are here. (The image itself is built and run by `cargo xtask kubernetes`;
//! systemd has a file of its own.)

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use trunkline_kubernetes_tests::{compose, helm::read_values, objects::ROLES, root};
use trunkline_system_tests::{net, system, target};

/// What `trunkline config check` says of a file with an environment.
fn check(config: &Path, environment: &BTreeMap<String, String>) -> Result<String> {
    let binary = target()?.join("debug/trunkline");
    ensure!(binary.is_file(), "{}: `cargo build -p trunkline` makes it", binary.display());
    let output = Command::new(binary)
        .args(["config", "check", "--config"])
        .arg(config)
        .env_clear()
        .envs(environment)
        .output()?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}: {}", config.display(), said(&output.stderr));
    Ok(said(&output.stdout))
}

fn environment(service: &Value) -> BTreeMap<String, String> {
    let pairs = service["environment"].as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn laptop(file: &str) -> PathBuf {
    root().join("deploy/compose").join(file)
}

fn services(compose: &Value) -> Result<&Map<String, Value>> {
    compose["services"].as_object().context("services")
}

/// The seconds of a duration as Go writes it: `1m30s`.
fn seconds(duration: &str) -> Result<u64> {
    let (mut all, mut number) = (0, String::new());
    for letter in duration.chars() {
        let unit = match letter {
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            digit => {
                number.push(digit);
                continue;
            }
        };
        all += unit * std::mem::take(&mut number).parse::<u64>().with_context(|| duration.to_owned())?;
    }
    Ok(all)
}

/// Every node of the laptop cluster has a configuration that the program takes, an address of its own that the network
/// holds, and time to drain.
#[test]
fn the_laptop_cluster_fits_together() -> Result<()> {
    let (compose, config) = (compose::load(&laptop("compose.yaml"))?, laptop("node.yaml"));
    let drain = read_values(&config)?["node"]["drain_s"].as_u64().context("drain_s")?;
    let subnet = compose["networks"]["calls"]["ipam"]["config"][0]["subnet"].as_str().context("a subnet")?;
    let prefix = subnet.trim_end_matches("0/24");
    let mut nodes = 0;
    for (name, service) in services(&compose)?.iter().filter(|(_, service)| service["image"] == "trunkline") {
        nodes += 1;
        let said = check(&config, &environment(service)).with_context(|| name.clone())?;
        ensure!(said.contains(&format!("node     {name}")), "{name}:\n{said}");
        ensure!(ROLES.iter().all(|role| said.contains(role)), "{name} lacks a role:\n{said}");
        let address = service["networks"]["calls"]["ipv4_address"].as_str().context("an address")?;
        ensure!(address.starts_with(prefix), "{name}: {address} is not in {subnet}");
        for (variable, value) in environment(service) {
            let own = variable.ends_with("__NAME") || value.starts_with(address);
            ensure!(own, "{name}: {variable} is {value}, but the node is at {address}");
        }
        // The drain, the hand-over that may take as long again, and the flushes.
        let grace = seconds(service["stop_grace_period"].as_str().context("stop_grace_period")?)?;
        ensure!(grace >= 2 * drain + 30, "{name} is killed after {grace} s while it drains");
        ensure!(
            service["read_only"] == true && service["cap_drop"][0] == "ALL",
            "{name} has rights it needs not"
        );
        let [mounted] = service["volumes"].as_array().context("volumes")?.as_slice() else {
            bail!("{name} has more than its configuration")
        };
        let source = mounted["source"].as_str().context("a source")?;
        ensure!(mounted["type"] == "bind" && Path::new(source) == config, "{name} is given {mounted}");
        ensure!(mounted["read_only"] == true, "{name} may write its configuration");
        ensure!(mounted["target"] == service["command"][2], "{name} runs {}", service["command"]);
    }
    ensure!(nodes == 2, "{nodes} nodes");
    Ok(())
}

/// Each service of the laptop cluster is a version, is waited for by what Compose can see of it, and publishes its ports to
/// the laptop alone: each node its console, its telephones and its metrics.
#[test]
fn the_laptop_cluster_waits_for_its_stores_and_is_seen_from_the_laptop_only() -> Result<()> {
    let (compose, node) = (compose::load(&laptop("compose.yaml"))?, read_values(&laptop("node.yaml"))?);
    let services = services(&compose)?;
    let (mut awaited, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let stores: BTreeSet<_> =
        services.keys().filter(|name| services[*name]["image"] != "trunkline").collect();
    for (name, service) in services {
        let image = service["image"].as_str().with_context(|| format!("{name} has no image"))?;
        let pinned = !stores.contains(name) || image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest");
        ensure!(pinned, "{name}: {image} is not a version");
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            awaited.insert(other);
            let test = services[other]["healthcheck"]["test"][0].as_str();
            let asked = test.is_some_and(|kind| kind != "NONE");
            let wanted = if asked { "service_healthy" } else { "service_completed_successfully" };
            ensure!(how["condition"] == wanted, "{name} waits for {other}: {how}");
        }
        let mut open = BTreeSet::new();
        for port in service["ports"].as_array().into_iter().flatten() {
            ensure!(port["host_ip"] == "127.0.0.1", "{name}: {port} is open to the network of the laptop");
            let (outside, kind) = (port["published"].as_str(), port["protocol"].as_str().context("kind")?);
            let outside = outside.with_context(|| format!("{name}: {port} is anywhere"))?;
            ensure!(taken.insert((outside, kind)), "{name}: {port} is taken");
            open.insert(format!("{}/{kind}", port["target"]));
        }
        let mut listens = BTreeSet::new();
        if !stores.contains(name) {
            let sip = &service["environment"]["TRUNKLINE_SIP__LISTEN"];
            for (address, kind) in
                [(&node["console"]["listen"], "tcp"), (&node["metrics"]["listen"], "tcp"), (sip, "udp")]
            {
                let (_, port) =
                    address.as_str().and_then(|text| text.split_once(':')).context("an address")?;
                listens.insert(format!("{port}/{kind}"));
            }
        }
        ensure!(open == listens, "{name}: published are {open:?}, it listens to {listens:?}");
    }
    ensure!(awaited == stores, "{awaited:?} are waited for, there are {stores:?}");
    Ok(())
}

/// Compose refuses the laptop cluster's file when a part is wrong: what the other tests read of it has passed all of this.
#[test]
fn compose_refuses_what_is_wrong_in_the_laptop_cluster() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("compose.yaml");
    let text = fs::read_to_string(laptop("compose.yaml"))?;
    for (right, wrong, complaint) in [
        ("read_only: true", "read_onyl: true", "read_onyl"),
        ("    depends_on: { s3:", "    depends_on: { node1:", "dependency cycle detected"),
        ("bucket: { condition", "buckets: { condition", "depends on undefined service \"buckets\""),
        ("./node.yaml:", "nodes:", "refers to undefined volume nodes"),
        ("networks: [calls]", "networks: [call]", "refers to undefined network call"),
        ("condition: service_healthy", "condition: healthy", "must be one of 'service_started'"),
        ("[CMD, pg_isready", "[pg_isready", "healthcheck.test must start"),
        ("stop_grace_period: 90s", "stop_grace_period: 90x", "unknown unit"),
        ("127.0.0.1:8081:", "127.0.0.1:808l:", "Invalid hostPort: 808l"),
        ("image: trunkline", "image: ${IMAGE:?which}", "required variable IMAGE is missing a value: which"),
        ("POSTGRES_DB: trunkline", "POSTGRES_DB: $DATABASE", "variable is not set"),
    ] {
        ensure!(text.contains(right), "{right} is not there");
        fs::write(&path, text.replace(right, wrong))?;
        let Err(refused) = compose::load(&path) else { bail!("{wrong} is taken") };
        ensure!(format!("{refused:#}").contains(complaint), "{wrong}: {refused:#}");
    }
    fs::write(&path, &text)?;
    compose::load(&path).map(drop)
}

/// The nodes' health check is a call to the node itself: it fails before the node serves, and succeeds when it does, as
/// `up --wait` has it.
#[tokio::test]
async fn a_node_of_the_laptop_cluster_is_healthy_when_it_takes_calls() -> Result<()> {
    let compose = compose::load(&laptop("compose.yaml"))?;
    let mut checks = Vec::new();
    for (name, service) in services(&compose)? {
        let Some(address) = service["networks"]["calls"]["ipv4_address"].as_str() else { continue };
        let test = service["healthcheck"]["test"].as_array().context("a test of its health")?;
        let words: Vec<&str> = test.iter().filter_map(Value::as_str).collect();
        let ["CMD", "/trunkline", arguments @ ..] = words.as_slice() else {
            bail!("{name}: the image has only one program: {words:?}")
        };
        let own = format!("{address}:5060");
        ensure!(arguments.contains(&own.as_str()), "{name}: does not call itself: {arguments:?}");
        checks.push((own, arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()));
    }
    ensure!(checks.len() == 2, "{} nodes", checks.len());
    let run = |address: String| -> Result<Vec<bool>> {
        let healthy = |(own, arguments): &(String, Vec<String>)| {
            let words = arguments.iter().map(|word| if word == own { &address } else { word });
            Ok(Command::new(system::binary()?).args(words).env_clear().output()?.status.success())
        };
        checks.iter().map(healthy).collect()
    };
    ensure!(run(net::address()?.to_string())? == [false, false], "healthy although nobody is there");
    // Its sample centre is that of the compose file's nodes.
    let node = system::System::start("compose-health").await?;
    ensure!(run(node.sip().to_string())? == [true, true], "not healthy although it serves");
    node.stop().await.map(drop)
}

/// The Dockerfile copies what is there, and its image is the one that is built without a registry: the same user, entry
/// point and files.
#[test]
fn the_dockerfile_fits_the_repository_and_the_built_image() -> Result<()> {
    let text = fs::read_to_string(root().join("deploy/image/Dockerfile"))?;
    let xtask = fs::read_to_string(root().join("deploy/xtask/src/image.rs"))?;
    for line in text.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let Some((_, sources)) = words.split_last() else { continue };
        for source in sources {
            ensure!(root().join(source).exists(), "{line}: there is no {source}");
        }
    }
    for part in [
        "65532:65532",
        "etc/nsswitch.conf",
        "etc/ssl/certs",
        "usr/share/trunkline/sbom.cdx.json",
        "[\"/trunkline\"]",
    ] {
        let docker = text.contains(part) || text.contains(part.rsplit('/').next().unwrap_or(part));
        ensure!(docker && xtask.contains(part), "{part}: the two images differ");
    }
    ensure!(text.contains("FROM scratch") && xtask.contains("\"scratch\""), "the base is not empty");
    ensure!(!text.contains(":latest"), "a base image without a version");
    Ok(())
}

/// `.dockerignore` keeps from the build what is made or fetched here, and nothing that the repository has: `COPY . .` would
/// send all of it.
#[test]
fn the_build_gets_the_repository_and_nothing_that_was_made_of_it() -> Result<()> {
    let text = fs::read_to_string(root().join(".dockerignore"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let patterns: Vec<&str> = lines.collect();
    ensure!(
        patterns.iter().all(|pattern| !pattern.starts_with('!')),
        "an exception, which this does not know"
    );
    let left_out = |path: &str| patterns.iter().any(|pattern| matches(pattern, path));
    for made in [
        "target/debug/trunkline",
        "services/web/node_modules/vite/package.json",
        "services/web/dist/index.html",
        ".git/HEAD",
        "deploy/recogniser/.venv/bin/python",
    ] {
        ensure!(left_out(made), "{made} is sent to the build");
    }
    // Every folder but those: cargo reads the manifests of all members, and sources are compiled in from anywhere.
    let (mut folders, mut kept) = (vec![root()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root())?.to_str().context("a name")?.to_owned();
            let last = name.rsplit('/').next().unwrap_or_default();
            let made = ["target", ".git", "services/web/dist"].contains(&name.as_str())
                || ["node_modules", ".venv", "__pycache__"].contains(&last)
                || name.ends_with(".log");
            if made {
                continue;
            }
            ensure!(!left_out(&name), "{name} does not reach the build");
            kept += 1;
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    ensure!(kept > 500, "only {kept} files and folders were looked at");
    for needed in ["Cargo.lock", ".cargo/config.toml", "deploy/protoc", "rust-toolchain.toml"] {
        ensure!(root().join(needed).is_file() && !left_out(needed), "{needed} does not reach the build");
    }
    Ok(())
}

/// Whether a pattern of `.dockerignore` leaves out a path: it fits the path or a folder that the path is in. `*` stands for
/// anything but a slash, `**` for any folders.
fn matches(pattern: &str, path: &str) -> bool {
    fn folders(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], _) => true,
            (["**", rest @ ..], _) => (0..=path.len()).any(|skipped| folders(rest, &path[skipped..])),
            ([first, rest @ ..], [name, below @ ..]) => names(first, name) && folders(rest, below),
            (_, []) => false,
        }
    }
    fn names(pattern: &str, name: &str) -> bool {
        match pattern.split_once('*') {
            None => pattern == name,
            Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
                rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| names(after, &rest[at..]))
            }),
        }
    }
    folders(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
}

/// What the chart writes is a configuration that the program takes: each role of each set, with the files of its Secrets.
#[test]
fn the_program_takes_every_configuration_that_the_chart_writes() -> Result<()> {
    use trunkline_kubernetes_tests::{SETS, chart, helm::Helm, values};
    for set in SETS {
        let objects = Helm::new("helm3")?.template(&chart(), &[values(set)], &[])?;
        for role in ROLES {
            let folder = tempfile::tempdir()?;
            let text = objects.one("ConfigMap", role)?["data"]["node.yaml"].as_str().context("node.yaml")?;
            let path = folder.path().display().to_string();
            let text = text.replace("/etc/trunkline", &path).replace("/var/lib", &path);
            for (file, content) in
                [("postgresql/url", "postgres://trunkline:x@db/trunkline"), ("etcd-auth/password", "x")]
            {
                let file = folder.path().join(file);
                fs::create_dir_all(file.parent().context("a folder")?)?;
                fs::write(file, content)?;
            }
            certificates(&folder.path().join("node-tls"))?;
            let config = folder.path().join("node.yaml");
            fs::write(&config, text)?;
            let ip = if set == "ipv6" { "fd00::7" } else { "10.0.0.7" };
            let host = if set == "ipv6" { "[fd00::7]" } else { ip };
            let mut environment = BTreeMap::new();
            for variable in objects.container(role)?["env"].as_array().context("env")? {
                let name = variable["name"].as_str().context("name")?.to_owned();
                let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
                let value = match (variable["value"].as_str(), field) {
                    (Some(value), _) => value.replace("[$(POD_IP)]", host).replace("$(POD_IP)", ip),
                    (None, Some("status.podIP" | "status.hostIP")) => ip.to_owned(),
                    // Before Kubernetes 1.35 no label names the zone: the variable is empty.
                    (None, Some(field)) if field.contains("labels") => String::new(),
                    (None, Some("metadata.name")) => format!("tl-trunkline-{role}-0"),
                    _ => "worker-1".to_owned(),
                };
                environment.insert(name, value);
            }
            let said = check(&config, &environment).with_context(|| format!("{set}, {role}"))?;
            ensure!(said.contains(&format!("roles    {role}\n")), "{set}, {role}:\n{said}");
        }
    }
    Ok(())
}

fn certificates(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let authority = trunkline_faults::world::Authority::new("test")?;
    authority.write("node", std::net::Ipv4Addr::LOCALHOST, folder)?;
    for (from, to) in [("ca.pem", "ca.crt"), ("node.pem", "tls.crt"), ("node.key", "tls.key")] {
        fs::rename(folder.join(from), folder.join(to))?;
    }
    Ok(())
}

/// A new version of the chart brings a new program: its tag, the default of which is `appVersion`, is that of the program and
/// of no package before, or nodes that have an image of this tag would keep it.
#[test]
fn the_chart_s_default_tag_is_this_program_s_version() -> Result<()> {
    let chart = read_values(&root().join("helm/trunkline/Chart.yaml"))?;
    let version = env!("CARGO_PKG_VERSION");
    ensure!(
        chart["appVersion"] == version,
        "appVersion is {}, the program's version {version}",
        chart["appVersion"]
    );
    let mut packages = 0;
    for entry in fs::read_dir(root().join("tests/kubernetes/previous"))? {
        let package = entry?.path();
        let output = Command::new("tar").arg("-xzOf").arg(&package).arg("trunkline/Chart.yaml").output()?;
        ensure!(output.status.success(), "{}: no chart", package.display());
        let before: Value = serde_yaml_ng::from_slice(&output.stdout)?;
        for key in ["version", "appVersion"] {
            ensure!(before[key].is_string(), "{}: no {key}", package.display());
            ensure!(
                before[key] != chart[key],
                "{}: its {key} is {}, as the chart's now",
                package.display(),
                chart[key]
            );
        }
        packages += 1;
    }
    ensure!(packages > 0, "no package of an earlier version");
    Ok(())
}
