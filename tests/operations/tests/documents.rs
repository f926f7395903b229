//! Proves that a centre can be written in files: `trunkline documents` checks all of it before it writes the first, running
//! nodes learn of it at once, it reads back what it wrote, and nothing that is in use can be deleted.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use trunkline_faults::world::{CLIENTS, SIP_PORT, VIRTUAL_SIP};
use trunkline_operations_tests::lab::{Done, Lab, on_network};
use trunkline_system_tests::{http, root, s, until};

const NODES: [(&str, &str); 1] = [("n1", "edge,call,acd,media,records,console")];

/// A centre as its administrator writes it.
const CENTRE: &str = "\
# The orders' desk.
kind: number
id: '+49301234567'
body: { queue: orders }
---
kind: queue
id: orders
body: { display_name: Orders, max_waiting: 50 }
---
kind: agent
id: olga
body: { display_name: Olga Olsen, queues: [orders] }
---
kind: account
id: olga
body: { display_name: Olga Olsen, password: a-long-secret, roles: [agent], agent: olga }
---
kind: telephone
id: '2001'
body: { password: another-secret, agent: olga, may_dial: [orders] }
---
# The end of the file.
";

const TELEPHONE: (&str, &str) = ("telephone", "2001");

/// The administrator at the node's machine.
struct Desk<'a> {
    lab: &'a Lab,
    config: String,
    folder: &'a Path,
}

impl Desk<'_> {
    async fn documents(&self, words: &[&str]) -> Result<Done> {
        let (verb, rest) = words.split_first().context("no words")?;
        let all = [&["documents", verb, "--config", &self.config], rest].concat();
        self.lab.run("n1", &all).await
    }

    /// Applies a text.
    async fn apply(&self, text: &str, flags: &[&str]) -> Result<Done> {
        let file = self.folder.join("centre.yaml");
        fs::write(&file, text)?;
        let file = file.display().to_string();
        self.documents(&[&["apply"], flags, &[&file]].concat()).await
    }

    /// Applies a text that must be refused with a sentence that contains all of these; nothing of it is written.
    async fn refused(&self, text: &str, told: &[&str]) -> Result<()> {
        let before = self.list().await?;
        let done = self.apply(text, &[]).await?;
        expect_error(&done, told).with_context(|| text.to_owned())?;
        let now = self.list().await?;
        ensure!(now == before, "{text}\nwas refused, but not all of it:\n{before}\n{now}");
        Ok(())
    }

    async fn list(&self) -> Result<String> {
        Ok(self.documents(&["list"]).await?.success()?.stdout)
    }
}

fn expect_error(done: &Done, told: &[&str]) -> Result<()> {
    ensure!(done.code.is_some_and(|code| code != 0), "it was not refused: {}", done.stdout);
    ensure!(!done.stderr.contains("panicked"), "{}", done.stderr);
    for part in told {
        ensure!(done.stderr.contains(part), "{part:?} is not told: {}", done.stderr);
    }
    Ok(())
}

#[test]
fn a_centre_comes_from_files() {
    on_network("documents", |network, folder| async move {
        let lab = Lab::start(network, &folder, &NODES, 0).await?;
        let desk = Desk { lab: &lab, config: lab.config("n1").display().to_string(), folder: &folder };
        written(&desk).await?;
        wrong_ones(&desk).await?;
        deleted(&desk).await
    })
    .unwrap();
}

/// An empty database, before any node runs: what lacks its tenant is refused with the remedy, the sample makes a centre that
/// is called, and the README's telephone fits into it.
#[test]
fn the_first_documents_of_an_empty_database() {
    on_network("documents-first", |network, folder| async move {
        let mut lab = Lab::ground(network, &folder, &NODES, 0).await?;
        let file = lab.config("n1");
        let text = fs::read_to_string(&file)?;
        let own: Vec<&str> = text.lines().filter(|line| !line.starts_with("dev:")).collect();
        ensure!(own.len() + 1 == text.lines().count(), "the lab has its sample centre elsewhere: {text}");
        fs::write(&file, own.join("\n"))?;
        let desk = Desk { lab: &lab, config: file.display().to_string(), folder: &folder };
        desk.refused(CENTRE, &["document 1", "the tenant default does not exist: apply it too, or before"])
            .await?;
        let readme = fs::read_to_string(root().join("README.md"))?;
        let telephone = readme.split("```yaml\n").filter_map(|rest| rest.split("```").next());
        let telephone = telephone.into_iter().find(|block| block.contains("\nkind: telephone\n"));
        let telephone = telephone.context("the README shows no telephone")?;
        desk.refused(telephone, &["agent alice does not exist: apply it too, or before"]).await?;
        let sample = fs::read_to_string(root().join("deploy/samples/centre.yaml"))?;
        desk.refused(&sample, &["account alice", "password: write at least 8 characters"]).await?;
        let sample = sample.replace("password: \"\"", "password: a-long-secret");
        let applied = desk.apply(&sample, &[]).await?.success()?;
        ensure!(applied.stdout.contains("6 written, 0 the same as before"), "{}", applied.stdout);
        let applied = desk.apply(telephone, &[]).await?.success()?;
        ensure!(applied.stdout.contains("1 written, 0 the same as before"), "{}", applied.stdout);
        lab.start_nodes().await?;
        let target = format!("{VIRTUAL_SIP}:{SIP_PORT}");
        lab.run(CLIENTS, &["call", "--target", &target, "--to", "support"]).await?.success()?;
        let unknown = lab.run(CLIENTS, &["call", "--target", &target, "--to", "sales"]).await?;
        expect_error(&unknown, &["404", "no number `sales`", "documents apply"])
    })
    .unwrap();
}

/// Written while the node runs, and true a moment later: the number leads to the queue, the account signs in.
async fn written(desk: &Desk<'_>) -> Result<()> {
    let before = desk.list().await?;
    let tried = desk.apply(CENTRE, &["--dry-run"]).await?.success()?;
    ensure!(tried.stdout.contains("5 would be written, 0 the same as before"), "{}", tried.stdout);
    ensure!(desk.list().await? == before, "a trial wrote something");

    let applied = desk.apply(CENTRE, &[]).await?.success()?;
    ensure!(applied.stdout.contains("5 written, 0 the same as before"), "{}", applied.stdout);
    let shown = desk.documents(&["get", "account", "olga"]).await?.success()?.stdout;
    ensure!(shown.contains("password_hash: (kept)") && !shown.contains("argon2"), "{shown}");
    let all = desk.documents(&["get", "--secrets", "account", "olga"]).await?.success()?.stdout;
    ensure!(all.contains("$argon2id$") && !all.contains("a-long-secret"), "{all}");
    let shown = desk.documents(&["get", "telephone", "2001"]).await?.success()?.stdout;
    ensure!(shown.contains("ha1_sha256: (kept)") && shown.contains("ha1_md5: (kept)"), "{shown}");
    let all = desk.documents(&["get", "--secrets", "telephone", "2001"]).await?.success()?.stdout;
    ensure!(all.contains("ha1_sha256") && !all.contains("(kept)") && !all.contains("secret\n"), "{all}");
    let console = *desk.lab.consoles().first().context("no console")?;
    until("olga can sign in", s(10), || async {
        let body = json!({ "name": "olga", "password": "a-long-secret" });
        let answer = http::request(console, "POST", "/api/v1/session", &[], Some(&body)).await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await?;
    let target = format!("{VIRTUAL_SIP}:{SIP_PORT}");
    desk.lab.run(CLIENTS, &["call", "--target", &target, "--to", "+49301234567"]).await?.success()?;
    let offered = desk.lab.api().await?;
    offered.until_queue("orders", "the call was in it", s(10), |queue| queue["offered"] == 1).await?;

    // Again, and as it is read back: nothing changes.
    let again = desk.apply(CENTRE, &[]).await?.success()?;
    ensure!(again.stdout.contains("0 written, 5 the same as before"), "{}", again.stdout);
    let mut all = String::new();
    for (kind, id) in
        [("queue", "orders"), ("agent", "olga"), ("account", "olga"), ("number", "+49301234567"), TELEPHONE]
    {
        all += &desk.documents(&["get", kind, id]).await?.success()?.stdout;
        all += "---\n";
    }
    let back = desk.apply(&all, &[]).await?.success()?;
    ensure!(back.stdout.contains("0 written, 5 the same as before"), "{}", back.stdout);

    // The realm that it has anyway, written down.
    let explicit =
        "kind: telephone\nid: '2001'\nbody: { ha1_sha256: (kept), ha1_md5: (kept), realm: default }\n";
    let tried = desk.apply(explicit, &["--dry-run"]).await?.success()?;
    ensure!(tried.stdout.contains("1 would be written"), "{}", tried.stdout);

    let changed = CENTRE.replace("max_waiting: 50", "max_waiting: 60");
    let applied = desk.apply(&changed, &[]).await?.success()?;
    ensure!(applied.stdout.contains("changed  queue orders"), "{}", applied.stdout);
    ensure!(applied.stdout.contains("1 written, 4 the same as before"), "{}", applied.stdout);
    Ok(())
}

async fn wrong_ones(desk: &Desk<'_>) -> Result<()> {
    let good = "kind: queue\nid: fine\nbody: {}\n---\n";
    for (bad, told) in [
        (
            "kind: queue\nid: bad\nbody: { ring_time: 5 }",
            &["centre.yaml, document 2", "queue bad", "ring_time"],
        ),
        ("kind: queue\nid: bad\nbody: { max_waiting: -1 }", &["document 2", "queue bad", "-1"]),
        ("kind: que\nid: bad", &["document 2", "\"que\"", "queue"]),
        ("kind: queue\nid: bad\nbdy: {}", &["document 2", "bdy", "body"]),
        (
            "kind: number\nid: '7'\nbody: { queue: nowhere }",
            &["document 2", "number 7", "queue nowhere does not exist"],
        ),
        ("kind: queue\nid: fine", &["document 2", "queue fine", "twice"]),
        ("kind: account\nid: eve\nbody: { password: short }", &["document 2", "account eve", "8 characters"]),
        (
            "kind: telephone\nid: '2002'\nbody: { ha1_sha256: (kept) }",
            &["telephone 2002", "ha1_sha256", "none to keep; write `password`"],
        ),
        (
            "kind: telephone\nid: '2001'\nbody: { ha1_sha256: (kept), realm: other.example.com }",
            &["telephone 2001", "ha1_sha256", "former realm; write `password`"],
        ),
    ] {
        desk.refused(&format!("{good}{bad}\n"), told).await?;
    }
    expect_error(&desk.documents(&["get", "queue", "none"]).await?, &["no queue none"])?;
    expect_error(&desk.documents(&["list", "queues"]).await?, &["\"queues\"", "queue"])?;
    expect_error(&desk.documents(&["apply", "/nowhere/centre.yaml"]).await?, &["/nowhere/centre.yaml"])
}

/// From the outside in.
async fn deleted(desk: &Desk<'_>) -> Result<()> {
    let used = desk.documents(&["delete", "queue", "orders"]).await?;
    expect_error(&used, &["queue orders is used by", "agent olga", "number +49301234567"])?;
    for (kind, id) in
        [TELEPHONE, ("account", "olga"), ("agent", "olga"), ("number", "+49301234567"), ("queue", "orders")]
    {
        desk.documents(&["delete", kind, id]).await?.success()?;
        expect_error(&desk.documents(&["delete", kind, id]).await?, &["there is no"])?;
    }
    let console = *desk.lab.consoles().first().context("no console")?;
    let body = json!({ "name": "olga", "password": "a-long-secret" });
    until("olga cannot sign in any more", s(10), || async {
        let answer = http::request(console, "POST", "/api/v1/session", &[], Some(&body)).await?;
        Ok((answer.status == 401).then_some(()))
    })
    .await
}

/// `trunkline documents list | head -1`: who has read enough closes the pipe, and that is an end, not a defect.
#[test]
fn a_reader_who_has_read_enough_is_no_error() {
    on_network("documents-pipe", |network, folder| async move {
        let lab = Lab::start(network, &folder, &NODES, 0).await?;
        let config = lab.config("n1").display().to_string();
        let mut command = lab.trunkline("n1", &["documents", "list", "--config", &config])?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        drop(child.stdout.take());
        let limit = Duration::from_secs(60);
        let output = tokio::time::timeout(limit, child.wait_with_output()).await.context("it hangs")??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!said.contains("panicked") && output.status.success(), "{}: {said}", output.status);
        Ok(())
    })
    .unwrap();
}
