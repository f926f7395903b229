//! `trunkline restore`: after the standard tools have put the journal's database and the recordings back, looks whether both
//! are whole, and lets the cluster begin anew on them (deploy/backup/README.md).

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use object_store::{ObjectStore, ObjectStoreExt, path::Path as Key};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use trunkline_cluster::inspect_etcd;
use trunkline_journal::{PostgresInspector, StoredEvent, Verified};
use trunkline_proto::call::v1::{CallEvent, call_event};
use trunkline_types::EntityKind;

use super::doctor::{Area, Report};
use crate::{
    cli::{RestoreArgs, RunArgs},
    config::NodeConfig,
};

/// Objects that are asked for at the same time.
const AT_ONCE: usize = 16;
/// Recordings that are named one by one.
const NAMED: usize = 20;
/// Between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// A recording as the journal knows it.
struct Wanted {
    key: String,
    bytes: u64,
    sha256: String,
}

/// Verifies, and unless `--check` begins anew.
pub async fn run(args: RestoreArgs) -> Result<ExitCode> {
    let config = NodeConfig::run(&RunArgs { config: args.config.clone(), roles: None, log: None })?;
    let Some(postgres) = config.journal.as_ref().and_then(|journal| journal.postgres.as_ref()) else {
        bail!(
            "journal.postgres: not configured; a journal in SQLite is restored by copying journal.sqlite back while the node is stopped"
        );
    };
    let mut report = Report::default();
    if !args.check {
        Box::pin(nobody_runs(&config)).await?;
    }
    let inspector = PostgresInspector::connect(postgres).await?;
    let schema = inspector.report().await?.schema;
    if schema.is_none() {
        bail!("the database has no schema `trunkline`: restore the backup into it first (pg_restore)");
    }
    let mut progress = Progress::new("journal");
    let mut recordings = Vec::new();
    let verified = inspector
        .verify(|event| recordings.extend(recording(event)), |share| progress.share(share))
        .await
        .context("the journal could not be read to its end")?;
    let whole = verified.defect_count == 0;
    report.take(journal(&verified));
    report.take(objects(&config, recordings, args.deep).await);
    if !args.check && whole {
        let before = verified.epoch;
        inspector.begin_anew().await.context("the journal could not begin anew")?;
        let after = inspector.epochs().await?.iter().map(|seal| seal.epoch.0).max().unwrap_or(0);
        let mut area = Area::new("begin anew");
        area.ok(
            "epochs",
            format!("from {before} to {after}: nothing that outlived the lost cluster is taken for current"),
        );
        area.ok("positions", "above all that the lost server can have given out");
        area.ok("records", "every records node folds them anew from the restored journal when it starts");
        report.take(area);
    }
    if args.json {
        println!("{:#}", report.json(config.node.name.as_str()));
    } else {
        print!("{}", report.text());
        if !args.check && whole {
            println!(
                "start the nodes now; the first calls may come when `trunkline cluster` shows every shard active"
            );
        }
    }
    Ok(report.exit_code())
}

/// Nodes that still write would decide beside the restored journal.
async fn nobody_runs(config: &NodeConfig) -> Result<()> {
    let Some(cluster) = &config.cluster else { return Ok(()) };
    let etcd = Box::pin(inspect_etcd(cluster)).await.context("cluster.etcd")?;
    if let Err(problem) = &etcd.quorum {
        bail!("etcd does not tell whether nodes run ({problem}): start it first; an empty one is fine");
    }
    let names: Vec<&str> = etcd.nodes.iter().map(|node| node.identity.id.as_str()).collect();
    if !names.is_empty() {
        bail!(
            "{} still run: stop every node before the restore (a killed one leaves within cluster.lease_ttl)",
            names.join(", ")
        );
    }
    Ok(())
}

/// What the event says of a finished recording.
fn recording(event: &StoredEvent) -> Option<Wanted> {
    if event.entity.kind != EntityKind::Call || event.kind != "call.recording_finished" {
        return None;
    }
    match CallEvent::decode(&*event.payload).ok()?.event? {
        call_event::Event::RecordingFinished(finished) => Some(Wanted {
            key: finished.location,
            bytes: u64::try_from(finished.size_bytes).unwrap_or(0),
            sha256: finished.sha256,
        }),
        _ => None,
    }
}

fn journal(verified: &Verified) -> Area {
    let mut area = Area::new("journal");
    let found = format!(
        "{} events of {} queues, agents and calls, {} of them not ended, in {} shards",
        verified.events, verified.entities, verified.live, verified.shards
    );
    if verified.defect_count == 0 {
        area.ok("events", format!("{found}: whole"));
    } else {
        let why = "an entity whose history has holes cannot be rebuilt";
        area.fail(
            "events",
            format!("{found}: {} defects", verified.defect_count),
            why,
            "restore another backup; keep this database for those who look into it",
        );
    }
    for defect in &verified.defects {
        area.fail("defect", defect.clone(), "it is one of those that were counted", "as above");
    }
    area
}

async fn objects(config: &NodeConfig, wanted: Vec<Wanted>, deep: bool) -> Area {
    let mut area = Area::new("recordings");
    let all = wanted.len();
    let store = match config.media.recording.store.open() {
        Ok(store) => store,
        Err(error) => {
            let remedy = "give this machine the way and the rights to the store, and check again";
            area.fail("store", error, "whether the recordings are there is not known", remedy);
            return area;
        }
    };
    let mut progress = Progress::new("recordings");
    let (mut wrong, mut done) = (Vec::new(), 0);
    let mut asked = JoinSet::new();
    let mut rest = wanted.into_iter();
    loop {
        while asked.len() < AT_ONCE
            && let Some(wanted) = rest.next()
        {
            let store = store.clone();
            asked.spawn(async move { compare(&store, &wanted, deep).await.map_err(|why| (wanted.key, why)) });
        }
        let Some(compared) = asked.join_next().await else { break };
        done += 1;
        progress.share(f64::from(done) / all.max(1) as f64);
        if let Ok(Err(found)) = compared {
            wrong.push(found);
        }
    }
    let how = if deep { "every byte compared" } else { "sizes compared; --deep compares every byte" };
    if wrong.is_empty() {
        area.ok("objects", format!("{all}: all there ({how})"));
        return area;
    }
    wrong.sort();
    let why = "these recordings cannot be played; calls and records are whole all the same";
    area.warn(
        "objects",
        format!("{} of {all} are not as the journal says ({how})", wrong.len()),
        why,
        "copy them from the backup of the recordings' store and check again",
    );
    for (key, problem) in wrong.into_iter().take(NAMED) {
        area.warn(key, problem, "it is one of those that were counted", "as above");
    }
    area
}

async fn compare(store: &Arc<dyn ObjectStore>, wanted: &Wanted, deep: bool) -> Result<(), String> {
    let key = Key::parse(&wanted.key).map_err(|error| error.to_string())?;
    let told = |error: object_store::Error| match error {
        object_store::Error::NotFound { .. } => "missing".to_owned(),
        error => error.to_string(),
    };
    let size = store.head(&key).await.map_err(told)?.size;
    if size != wanted.bytes {
        return Err(format!("{size} bytes instead of {}", wanted.bytes));
    }
    if deep && !wanted.sha256.is_empty() {
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < size {
            let end = (at + (4 << 20)).min(size);
            hash.update(store.get_range(&key, at..end).await.map_err(told)?);
            at = end;
        }
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if hex != wanted.sha256 {
            return Err("its content is another one (SHA-256)".to_owned());
        }
    }
    Ok(())
}

/// Lines on standard error.
struct Progress {
    what: &'static str,
    told: Instant,
}

impl Progress {
    fn new(what: &'static str) -> Self {
        Self { what, told: Instant::now() }
    }

    fn share(&mut self, share: f64) {
        if self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let mut error = std::io::stderr();
        let end = if error.is_terminal() { "\r" } else { "\n" };
        // Nobody needs to read it.
        let _ = write!(error, "{}: {:.0} %{end}", self.what, share * 100.0);
        let _ = error.flush();
    }
}
