//! Proves that a support bundle has what finds a fault, and nothing of what it must not have: every secret and number that
//! is planted is looked for in every file of it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use trunkline_loadtest::callers::number_of;
use trunkline_operations_tests::lab::{Lab, on_network};
use trunkline_system_tests::s;

const NODES: [(&str, &str); 2] = [("c1", "call,acd"), ("e1", "edge,media,records,console")];
/// Secrets of the configuration.
const IN_CONFIG: [&str; 3] = ["pg-hush-4711-x", "AKIAPLANTED0815", "s3-hush-0815/+x"];
/// What may stand in a log: never written by a node, but by whatever else writes there.
const IN_LOG: [&str; 6] =
    ["log-hush-1", "eyJhbGciOiJIUzI1NiJ9", "+49 170 1234567", "4915112345678", "0301234567", "amqp-hush"];
const LOG: &str = "INFO password=log-hush-1 Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.x.y\n\
                   INFO from +49 170 1234567 to <sip:4915112345678@203.0.113.7> by \"0301234567\"\n\
                   INFO amqp://user:amqp-hush@broker/ took_us=12345678 shard=17 epoch=4\n";
/// The least of a log that is cut: 16 MiB and a little.
const LONG_LOG_LINES: usize = 1_100_000;

/// Every file in a bundle.
fn unpack(bundle: &Path, into: &Path) -> Result<BTreeMap<String, String>> {
    fs::create_dir_all(into)?;
    let status = Command::new("tar").arg("-xzf").arg(bundle).arg("-C").arg(into).status().context("tar")?;
    ensure!(status.success(), "tar: {status}");
    let mut files = BTreeMap::new();
    let mut folders = vec![into.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(into)?.display().to_string();
                files.insert(
                    name.trim_start_matches("trunkline-support/").to_owned(),
                    fs::read_to_string(&path)?,
                );
            }
        }
    }
    Ok(files)
}

/// No file has any of these.
fn nowhere<'a>(files: &BTreeMap<String, String>, planted: impl IntoIterator<Item = &'a str>) -> Result<()> {
    for secret in planted {
        ensure!(secret.len() >= 4, "{secret:?} is no secret");
        for (name, text) in files {
            if let Some(line) = text.lines().find(|line| line.contains(secret)) {
                anyhow::bail!("{name} has {secret:?}: {line}");
            }
        }
    }
    Ok(())
}

fn has(files: &BTreeMap<String, String>, name: &str, wanted: &[&str]) -> Result<()> {
    let text = files.get(name).with_context(|| format!("no {name}; there are {:?}", files.keys()))?;
    for wanted in wanted {
        ensure!(text.contains(wanted), "{name} has no {wanted:?}:\n{}", &text[..text.len().min(4_000)]);
    }
    Ok(())
}

/// The configuration of a node with secrets in it that change nothing: PostgreSQL trusts this network, and the store that
/// is named is nowhere.
fn with_secrets(lab: &Lab, node: &str) -> Result<PathBuf> {
    let config = lab.config(node);
    let text = fs::read_to_string(&config)?;
    let store = format!("store: {{ kind: folder, path: \"{}\" }}", lab.recordings()?.display());
    ensure!(text.contains(&store) && text.contains("postgres://trunkline@"), "{text}");
    let secret_store = format!(
        "store: {{ kind: s3, bucket: b, endpoint: \"http://10.77.0.1:9\", allow_http: true, access_key_id: {}, secret_access_key: \"{}\" }}",
        IN_CONFIG[1], IN_CONFIG[2]
    );
    let text = text
        .replace("postgres://trunkline@", &format!("postgres://trunkline:{}@", IN_CONFIG[0]))
        .replace(&store, &secret_store);
    let path = config.with_file_name("secret.yaml");
    fs::write(&path, text)?;
    Ok(path)
}

/// The keys and password hashes that the journal keeps.
async fn in_journal(lab: &Lab) -> Result<Vec<String>> {
    let bodies = lab
        .sql(
            "trunkline",
            "SELECT body FROM trunkline.document WHERE kind IN ('secret', 'account') AND body IS NOT NULL",
        )
        .await?;
    let mut secrets = Vec::new();
    for line in bodies.lines() {
        let body: serde_json::Value = serde_json::from_str(line)?;
        let found =
            body["key"].as_str().or(body["password_hash"].as_str()).context("a document without a secret")?;
        secrets.push(found.to_owned());
    }
    ensure!(secrets.len() >= 3, "the journal has only {} secrets", secrets.len());
    Ok(secrets)
}

#[test]
fn a_bundle_tells_what_happened_and_no_secret_and_no_number() {
    on_network("bundle", |network, folder| async move {
        let lab = Lab::start(network, &folder, &NODES, 2).await?;
        let stage = lab.stage(2).await?;
        let who = stage.talk(2, s(30)).await?;
        let api = lab.api().await?;
        let contacts = api.contacts("").await?;
        let contact = contacts.first().context("no record of a call")?;
        let (call, number) = (
            contact["call_id"].as_str().context("no id")?,
            contact["caller_number"].as_str().unwrap_or_default(),
        );
        ensure!(who.clone().any(|caller| number == number_of(caller)), "{number} is no number of the test");

        let config = with_secrets(&lab, "e1")?;
        let log = folder.join("node.log");
        fs::write(&log, LOG)?;
        let out = folder.join("bundle.tar.gz");
        let text = |path: &Path| path.display().to_string();
        let (config, out, planted) = (text(&config), text(&out), text(&log));
        let (c1, e1) = (text(&folder.join("c1-1.err")), text(&folder.join("e1-1.err")));
        let arguments = [
            "support-bundle",
            "--config",
            &config,
            "--out",
            &out,
            "--call",
            call,
            "--log-file",
            &planted,
            "--log-file",
            &c1,
            "--log-file",
            &e1,
        ];
        let done = lab.run("e1", &arguments).await?.success()?;
        ensure!(
            done.stderr.contains("doctor\n") && done.stderr.contains("look through it"),
            "{}",
            done.stderr
        );
        ensure!(fs::metadata(&out)?.permissions().mode() & 0o077 == 0, "others may read the bundle");
        let files = unpack(Path::new(&out), &folder.join("unpacked"))?;

        has(
            &files,
            "config.json",
            &[
                "\"name\": \"e1\"",
                "postgres://trunkline:[redacted]@",
                "\"secret_access_key\": \"[redacted]\"",
            ],
        )?;
        has(&files, "doctor.txt", &["c1: answers", "S3 bucket b", "remedy"])?;
        has(&files, "doctor.json", &["\"level\": \"fail\""])?;
        has(&files, "cluster.json", &["\"coordinator\": \"", "\"node\": \"c1\""])?;
        has(&files, "metrics/c1.txt", &["trunkline_cluster_shards_held"])?;
        has(&files, "metrics/e1.txt", &["trunkline_media_"])?;
        has(&files, "logs/0-node.log", &["took_us=12345678 shard=17 epoch=4", "password=[redacted]"])?;
        has(&files, "call/events.txt", &["call.started", "epoch 1", "caller_number: \"+*"])?;
        has(
            &files,
            "call/record-default.txt",
            &[call, "decisions: [", "explanation: Some(", "timeline: [", "caller_name: [left out]"],
        )?;
        has(&files, "manifest.json", &["\"call/events.txt: ", "\"version\": \""])?;

        for name in ["config.json", "doctor.json", "cluster.json", "manifest.json"] {
            serde_json::from_str::<serde_json::Value>(&files[name])
                .with_context(|| format!("{name} is no JSON"))?;
        }
        let tokens = [api.token.as_str()];
        let numbers: Vec<String> = who.clone().map(number_of).collect();
        let digits: Vec<&str> = numbers.iter().map(|number| number.trim_start_matches('+')).collect();
        let names: Vec<String> = who.clone().map(|caller| format!("Caller {caller}\"")).collect();
        let key = fs::read_to_string(lab.folder_of("e1").join("node.key"))?;
        let key: Vec<&str> = key.lines().filter(|line| line.len() > 20 && !line.starts_with("---")).collect();
        let journal = in_journal(&lab).await?;
        nowhere(&files, IN_CONFIG.into_iter().chain(IN_LOG).chain(tokens).chain(digits))?;
        nowhere(&files, names.iter().chain(&journal).map(String::as_str).chain(key))?;

        // What is there is not replaced, and what is too long is cut.
        let again = lab.run("e1", &arguments).await?;
        ensure!(again.code == Some(1) && again.stderr.contains("is not replaced"), "{again:?}");
        fs::write(&log, "a line of sixteen\n".repeat(LONG_LOG_LINES))?;
        let out = text(&folder.join("long.tar.gz"));
        lab.run("e1", &["support-bundle", "--config", &config, "--out", &out, "--log-file", &planted])
            .await?
            .success()?;
        let files = unpack(Path::new(&out), &folder.join("long"))?;
        let cut = files.get("logs/0-node.log").context("no log")?;
        ensure!(cut.len() <= 16 << 20 && cut.starts_with("a line"), "{} bytes", cut.len());
        ensure!(stage.crowd.present().len() == who.len(), "the bundle ended a call");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_node_that_cannot_start_has_a_bundle_too() {
    on_network("bundle-broken", |network, folder| async move {
        let lab = Lab::ground(network, &folder, &NODES[..1], 0).await?;
        let config = lab.config("c1");
        let broken = fs::read_to_string(&config)?.replace("lease_ttl:", "lease_tll:");
        let path = config.with_file_name("broken.yaml");
        fs::write(&path, broken)?;
        let (path, out) = (path.display().to_string(), folder.join("broken.tar.gz").display().to_string());
        lab.run("c1", &["support-bundle", "--config", &path, "--out", &out]).await?.success()?;
        let files = unpack(Path::new(&out), &folder.join("unpacked"))?;
        has(&files, "doctor.txt", &["FAIL", "lease_tll"])?;
        has(&files, "manifest.json", &["\"logs/journal.log: not here", "kubectl logs POD"])?;

        // As in a container that has neither tar nor a journal: logs come by a pipe, and the bundle goes by one.
        let (log, piped) = (folder.join("pod.log"), folder.join("piped.tar.gz"));
        fs::write(&log, LOG)?;
        let arguments = ["support-bundle", "--config", &path, "--log-file", "-", "--out", "-"];
        let mut command = tokio::process::Command::from(lab.trunkline("c1", &arguments)?);
        command.stdin(fs::File::open(&log)?).stdout(fs::File::create(&piped)?).kill_on_drop(true);
        let status = tokio::time::timeout(s(120), command.status()).await.context("no end")??;
        ensure!(status.success(), "{status}");
        let files = unpack(&piped, &folder.join("piped"))?;
        has(&files, "doctor.txt", &["FAIL", "lease_tll"])?;
        has(&files, "logs/0-log", &["took_us=12345678 shard=17 epoch=4", "password=[redacted]"])?;
        nowhere(&files, IN_LOG)
    })
    .unwrap();
}
