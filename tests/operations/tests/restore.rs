//! Proves the documented way back (deploy/backup/README.md): a cluster that takes calls is backed up, everything of it is
//! deleted, and an empty cluster goes on from the backup: records, recordings and numbers are the same, new calls work, and
//! nothing of the lost cluster can pass for current.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_faults::scenario::Stage;
use trunkline_operations_tests::{
    lab::{Done, Ground, Lab, on_network, run},
    store::Keep,
};
use trunkline_system_tests::{api::Api, s, until};

const NODES: [(&str, &str); 3] = [("c1", "call,acd"), ("m1", "media"), ("e1", "edge,console,records")];
const SERVED: usize = 3;
const AGENTS: usize = 3;
/// More changes of owner than this a shard does not have between a backup and a loss.
const EPOCHS: u64 = 1_000_000;
/// Counters of a queue that the waiting call of the backup cannot change.
const NUMBERS: [&str; 6] =
    ["offered", "answered", "answered_in_target", "handled", "wait_answered_us", "missed"];

/// What the cluster told before it was lost.
struct Truth {
    /// Records of the calls that were over, by call.
    contacts: BTreeMap<String, Value>,
    /// The call that was waiting when the backup was made.
    waiting: String,
    /// Audio by recording.
    recordings: BTreeMap<String, Vec<u8>>,
    queue: Value,
    epoch: u64,
    position: u64,
}

async fn number(lab: &Lab, sql: &str) -> Result<u64> {
    Ok(lab.sql("trunkline", sql).await?.parse()?)
}

async fn epoch(lab: &Lab) -> Result<u64> {
    number(lab, "SELECT max(epoch) FROM trunkline.shard").await
}

async fn position(lab: &Lab) -> Result<u64> {
    number(lab, "SELECT max(position) FROM trunkline.event").await
}

/// Serves callers with audio until their records and recordings are whole.
async fn serve(stage: &mut Stage, count: usize) -> Result<()> {
    let who = stage.talk(count, s(30)).await?;
    // A recording worth its name: somebody was heard.
    until("every caller has heard an agent for a second", s(20), || {
        let heard = |caller| {
            let heard = stage.crowd.heard(caller);
            heard.first.zip(heard.tone).is_some_and(|(first, tone)| tone > first + s(1))
        };
        let heard = who.clone().all(heard);
        std::future::ready(Ok(heard.then_some(())))
    })
    .await?;
    stage.desk.order(|orders| {
        orders.hang_up += 1;
        orders.talk = Some(Duration::ZERO);
    });
    stage.crowd.over(who, s(30)).await?;
    stage.desk.order(|orders| orders.open = 0);
    stage.desk.until("every agent is free", s(30), &["not_ready"], AGENTS).await
}

/// All contacts, whole, once `enough` of them are over with their recordings stored.
async fn contacts(api: &Api, enough: usize) -> Result<BTreeMap<String, Value>> {
    until("records and recordings are whole", s(60), || async {
        let mut whole = BTreeMap::new();
        for contact in api.contacts("").await? {
            let id = contact["call_id"].as_str().context("no id")?;
            whole.insert(id.to_owned(), api.contact(id).await?);
        }
        let stored = |contact: &Value| {
            let recordings = contact["recordings"].as_array().map(Vec::as_slice).unwrap_or_default();
            contact["outcome"] == "answered"
                && !contact["ended_ms"].is_null()
                && !contact["disposition"].is_null()
                && !recordings.is_empty()
                && recordings.iter().all(|recording| recording["state"] == "available")
        };
        Ok((whole.values().filter(|contact| stored(contact)).count() >= enough).then_some(whole))
    })
    .await
}

async fn truth(lab: &Lab, api: &Api) -> Result<Truth> {
    let (mut all, waiting) = until("the records know who waits", s(20), || async {
        let all = contacts(api, SERVED).await?;
        let waiting = all.iter().find(|(_, contact)| contact["outcome"] == "in_progress");
        let waiting = waiting.map(|(id, _)| id.clone());
        Ok(waiting.map(|waiting| (all, waiting)))
    })
    .await?;
    all.remove(&waiting);
    let mut recordings = BTreeMap::new();
    for contact in all.values() {
        for recording in contact["recordings"].as_array().into_iter().flatten() {
            let id = recording["recording_id"].as_str().context("no id")?;
            recordings.insert(id.to_owned(), api.recording(id).await?);
        }
    }
    ensure!(recordings.len() == SERVED, "{} recordings of {SERVED} calls", recordings.len());
    // What waits is in the call's record before it is in the queue's numbers.
    let counted = |queue: &Value| queue["offered"] == SERVED + 1 && queue["waiting"] == 1;
    let queue = api.until_queue("support", "the one who waits is counted", s(20), counted).await?;
    Ok(Truth {
        contacts: all,
        waiting,
        recordings,
        queue,
        epoch: epoch(lab).await?,
        position: position(lab).await?,
    })
}

/// `pg_dump`, then a copy of the recordings.
async fn back_up(lab: &Lab, to: &Path) -> Result<()> {
    let dump = to.join("journal.dump");
    let file = format!("--file={}", dump.display());
    lab.on_database_host("pg_dump", &["--format=custom", "--schema=trunkline", &file, "trunkline"]).await?;
    lab.store().back_up(&to.join("recordings")).await
}

/// The files of the records node's fold, from one folder to another.
fn take_records(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let fold = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("records.sqlite");
    let mut taken = 0;
    for entry in fs::read_dir(from)?.flatten().filter(fold) {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
        taken += 1;
    }
    ensure!(taken > 0, "no records in {}", from.display());
    Ok(())
}

/// Puts the dump into an empty database of this name.
async fn restore_database(lab: &Lab, name: &str, backup: &Path) -> Result<()> {
    let dump = backup.join("journal.dump").display().to_string();
    if name != "trunkline" {
        lab.on_database_host("createdb", &["--encoding=UTF8", "--template=template0", name]).await?;
    }
    let into = format!("--dbname={name}");
    lab.on_database_host("pg_restore", &[&into, "--no-owner", "--exit-on-error", &dump]).await?;
    Ok(())
}

/// `trunkline restore` on a database of this name.
async fn restore(lab: &Lab, database: &str, flags: &[&str]) -> Result<(Done, Value)> {
    let config = lab.config("e1").display().to_string();
    let mut arguments = vec!["restore", "--json", "--config", &config];
    arguments.extend_from_slice(flags);
    let mut command = lab.trunkline("e1", &arguments)?;
    let address = lab.network.address("postgres")?;
    command
        .env("TRUNKLINE_JOURNAL__POSTGRES__URL", format!("postgres://trunkline@{address}:5432/{database}"));
    let done = run(command).await?;
    let report = serde_json::from_str(&done.stdout).unwrap_or(Value::Null);
    Ok((done, report))
}

#[test]
fn a_lost_cluster_comes_back_from_its_backup() {
    comes_back("restore", Keep::Folder).unwrap();
}

#[test]
fn so_does_one_whose_recordings_are_in_s3() {
    comes_back("restore-s3", Keep::S3).unwrap();
}

fn comes_back(test: &str, keep: Keep) -> Result<()> {
    on_network(test, move |network, folder| async move {
        let (backup, outlived) = (folder.join("backup"), folder.join("outlived"));
        fs::create_dir_all(&backup)?;

        let mut lab =
            Lab::ground_on(Ground { keep, ..Ground::default() }, network, &folder, &NODES, AGENTS).await?;
        lab.start_nodes().await?;
        let mut stage = lab.stage(AGENTS).await?;
        serve(&mut stage, SERVED).await?;
        // One call is up when the backup is made.
        stage.crowd.wait(1, 10.0, s(30)).await?;
        let truth = truth(&lab, &lab.api().await?).await?;
        back_up(&lab, &backup).await?;

        // The lost cluster goes on after its backup: calls come, epochs rise, positions are given out.
        lab.node("c1")?.kill()?;
        lab.start_nodes().await?;
        let (done, _) = restore(&lab, "trunkline", &[]).await?;
        ensure!(
            done.code == Some(1) && done.stderr.contains("still run"),
            "a restore under running nodes: {done:?}"
        );
        stage.crowd.wait(1, 10.0, s(60)).await?;
        let api = lab.api().await?;
        until("the records know the call that no backup has", s(20), || async {
            Ok((api.contacts("").await?.len() == SERVED + 2).then_some(()))
        })
        .await?;
        let (lost_epoch, lost_position) = (epoch(&lab).await?, position(&lab).await?);
        ensure!(lost_epoch > truth.epoch && lost_position > truth.position, "{lost_epoch}, {lost_position}");
        drop(stage);
        // The disk of the records node outlives the cluster.
        lab.node("e1")?.stop(s(60)).await?;
        take_records(&lab.folder_of("e1").join("data"), &outlived)?;
        let network = lab.destroy()?;

        let mut lab =
            Lab::ground_on(Ground { keep, ..Ground::default() }, network, &folder, &NODES, AGENTS).await?;
        restore_database(&lab, "trunkline", &backup).await?;
        lab.store().restore(&backup.join("recordings")).await?;
        take_records(&outlived, &lab.folder_of("e1").join("data"))?;
        let (done, report) = restore(&lab, "trunkline", &["--deep"]).await?;
        ensure!(done.code == Some(0), "{done:?}");
        let text = report.to_string();
        ensure!(text.contains("whole") && text.contains("every byte compared"), "{report:#}");
        let raised = epoch(&lab).await?;
        ensure!(raised >= truth.epoch + EPOCHS, "epochs went from {} to {raised}", truth.epoch);

        lab.start_nodes().await?;
        let rebuilt = lab.metric("trunkline_records_rebuilds_total", "").await;
        ensure!(rebuilt == 1.0, "the records of the lost cluster were thrown away {rebuilt} times");
        let api = lab.api().await?;
        same(&lab, &api, &truth).await?;
        new_calls(&lab, &api, &truth, (lost_epoch, lost_position)).await
    })
}

/// Records, recordings and numbers are what they were, and the call that was up ends.
async fn same(lab: &Lab, api: &Api, truth: &Truth) -> Result<()> {
    let ended = until("the call of the lost cluster ends", s(90), || async {
        let contact = api.contact(&truth.waiting).await?;
        Ok((!contact["ended_ms"].is_null()).then_some(contact))
    });
    let ended = ended.await?;
    ensure!(ended["outcome"] != "in_progress", "{ended:#}");
    let now = contacts(api, SERVED).await?;
    ensure!(
        now.len() == truth.contacts.len() + 1,
        "{} records, {} before",
        now.len(),
        truth.contacts.len() + 1
    );
    for (id, before) in &truth.contacts {
        ensure!(
            now.get(id) == Some(before),
            "the record of {id} was\n{before:#}\nand is\n{:#}",
            now.get(id).unwrap_or(&Value::Null)
        );
    }
    for (id, audio) in &truth.recordings {
        ensure!(api.recording(id).await? == *audio, "the recording {id} is another one");
        let path = format!("/api/v1/recordings/{id}/audio");
        let part = api.get(&path, &[("Range", "bytes=1000-1999")]).await?.expect(206)?;
        ensure!(part.body == audio[1_000..2_000], "a range of {id} is another one");
        ensure!(
            part.headers
                .get("content-range")
                .is_some_and(|r| r == &format!("bytes 1000-1999/{}", audio.len())),
            "{:?}",
            part.headers
        );
    }
    let queue = api.live_queue("support").await?;
    for name in NUMBERS {
        ensure!(queue[name] == truth.queue[name], "{name}: {} instead of {}", queue[name], truth.queue[name]);
    }
    ensure!(queue["waiting"] == 0, "a ghost waits: {queue}");
    let config = lab.config("e1").display().to_string();
    let done = lab.run("e1", &["doctor", "--cluster", "--json", "--config", &config]).await?;
    ensure!(done.json()?["fail"] == 0, "{}", done.stdout);
    Ok(())
}

/// Calls go on, at epochs and positions that the lost cluster never had.
async fn new_calls(lab: &Lab, api: &Api, truth: &Truth, lost: (u64, u64)) -> Result<()> {
    let mut stage = lab.stage(AGENTS).await?;
    serve(&mut stage, SERVED).await?;
    let now = contacts(api, 2 * SERVED).await?;
    ensure!(now.len() == truth.contacts.len() + 1 + SERVED, "{} records", now.len());
    let least =
        number(lab, &format!("SELECT min(epoch) FROM trunkline.event WHERE position > {}", truth.position))
            .await?;
    ensure!(
        least > lost.0 && least > EPOCHS,
        "an event has the epoch {least}; the lost cluster had {}",
        lost.0
    );
    let least = number(
        lab,
        &format!("SELECT min(position) FROM trunkline.event WHERE position > {}", truth.position),
    )
    .await?;
    ensure!(least > lost.1, "an event has the position {least}; the lost cluster had {}", lost.1);
    Ok(())
}

#[test]
fn a_backup_that_is_not_whole_is_refused_and_a_missing_recording_is_named() {
    on_network("restore-damaged", |network, folder| async move {
        let backup = folder.join("backup");
        fs::create_dir_all(&backup)?;
        let lab = Lab::start(network, &folder, &NODES, AGENTS).await?;
        let mut stage = lab.stage(AGENTS).await?;
        serve(&mut stage, 1).await?;
        contacts(&lab.api().await?, 1).await?;
        back_up(&lab, &backup).await?;

        // A check disturbs nobody: the cluster runs.
        let (done, report) = restore(&lab, "trunkline", &["--check", "--deep"]).await?;
        ensure!(done.code == Some(0), "{done:?}");
        let before = epoch(&lab).await?;
        ensure!(epoch(&lab).await? == before && report["fail"] == 0, "{report:#}");

        for (name, damage, told) in [
            ("hole", "DELETE FROM trunkline.event WHERE position = (SELECT max(position) FROM trunkline.event WHERE seq > 2 AND nth > 2)", "events"),
            ("body", "UPDATE trunkline.event SET body = '\\x07' WHERE position = (SELECT min(position) FROM trunkline.event)", "cannot be read"),
            ("epoch", "UPDATE trunkline.shard SET epoch = 0 WHERE seq > 0", "but it is at epoch 0"),
            ("finished", "UPDATE trunkline.entity SET finished = NOT finished WHERE kind = 'call'", "the events tell of"),
            ("stray", "DELETE FROM trunkline.entity WHERE kind = 'call'", "0 events of"),
        ] {
            restore_database(&lab, name, &backup).await?;
            let (done, _) = restore(&lab, name, &["--check"]).await?;
            ensure!(done.code == Some(0), "the copy {name} is whole: {done:?}");
            lab.sql(name, damage).await?;
            let (done, report) = restore(&lab, name, &["--check"]).await?;
            ensure!(done.code == Some(2) && report.to_string().contains(told), "{name}: {done:?}");
        }

        let recording = recording_in(&backup.join("recordings")).context("no recording in the backup")?;
        let kept = lab.recordings()?.join(&recording);
        let audio = fs::read(&kept)?;
        let key = recording.display().to_string();
        fs::write(&kept, &audio[..audio.len() - 1])?;
        let (done, report) = restore(&lab, "trunkline", &["--check"]).await?;
        ensure!(done.code == Some(1) && report.to_string().contains("bytes instead of") && report.to_string().contains(&key), "{done:?}");
        let mut other = audio.clone();
        other[100] ^= 1;
        fs::write(&kept, other)?;
        let (done, _) = restore(&lab, "trunkline", &["--check"]).await?;
        ensure!(done.code == Some(0), "sizes alone are compared: {done:?}");
        let (done, _) = restore(&lab, "trunkline", &["--check", "--deep"]).await?;
        ensure!(done.code == Some(1) && done.stdout.contains("SHA-256"), "{done:?}");
        fs::remove_file(&kept)?;
        let (done, _) = restore(&lab, "trunkline", &["--check"]).await?;
        ensure!(done.code == Some(1) && done.stdout.contains("missing"), "{done:?}");
        Ok(())
    })
    .unwrap();
}

/// The first recording below a folder, as its key.
fn recording_in(folder: &Path) -> Option<std::path::PathBuf> {
    let tenant = folder.join("default");
    let found = fs::read_dir(tenant)
        .ok()?
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|e| e == "wav"))?;
    Some(Path::new("default").join(found.file_name()))
}
