//! The one writer: takes what waits, in order, and commits it in batches.
//!
//! A commit costs some 250 µs of CPU, nearly all of it the kernel's for the disk, whatever it carries; an event costs 4 µs.
//! While a commit is under way, arriving appends gather; that alone batches well on a slow disk. On a fast one each commit
//! would carry one append, so a busy writer starts commits at least `spacing` apart. An idle one commits at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::SqlitePool;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use trunkline_types::{EntityAddress, Epoch, SHARD_COUNT, ShardId, Timestamp};

use super::{
    insert,
    plan::Head,
    read,
    schema::DirLock,
    store::{Outcome, Store},
};
use crate::{Append, AppendError, Appended, DocumentKey, Fault, JournalError, JournalMetrics, Snapshot};

/// Busy = more than this many appends in the last [`BUSY_WINDOW`] (exponentially weighted); the set-up of one call is less.
const BUSY_APPENDS: f64 = 8.0;
const BUSY_WINDOW: Duration = Duration::from_millis(50);
/// Commands of one round, which bounds the time of a commit.
const ROUND: usize = 1_024;
/// A checkpoint after this many events keeps the write-ahead log at some 10 MB.
const CHECKPOINT_EVENTS: u64 = 4_000;

pub(super) type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

/// An append that waits.
pub(super) struct Queued {
    pub(super) append: Append,
    pub(super) reply: oneshot::Sender<Result<Appended, AppendError>>,
    pub(super) since: Instant,
}

/// What the writer is asked for.
pub(super) enum Command {
    Append(Queued),
    Seal {
        shards: Vec<ShardId>,
        seen: Option<Epoch>,
        owner: String,
        reply: Reply<Vec<(ShardId, Epoch)>>,
    },
    Snapshot {
        entity: EntityAddress,
        snapshot: Snapshot,
        reply: Reply<()>,
    },
    /// `body` `None` deletes.
    Document {
        key: DocumentKey,
        body: Option<String>,
        expected: Option<u64>,
        at: Timestamp,
        reply: Reply<u64>,
    },
    #[cfg_attr(not(feature = "contract"), allow(dead_code))]
    Fault(Fault),
    Close {
        reply: Reply<()>,
    },
}

/// The writer task's state.
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) waiting_bytes: Arc<AtomicUsize>,
    pub(super) committed: watch::Sender<u64>,
    pub(super) documents: watch::Sender<u64>,
    pub(super) metrics: JournalMetrics,
    pub(super) checkpoints: Checkpoints,
    /// Least time between the starts of two commits while the writer is busy.
    pub(super) spacing: Duration,
    /// Held until everything is closed; a temporary directory goes with it.
    pub(super) dir: (DirLock, Option<tempfile::TempDir>),
}

impl Writer {
    /// Runs until it is told to close or nobody can tell it anything any more.
    pub(super) async fn run(mut self) {
        let (mut round, mut load, mut last) = (Vec::new(), 0.0_f64, Instant::now() - BUSY_WINDOW);
        while let Some(first) = self.commands.recv().await {
            if load > BUSY_APPENDS && last.elapsed() < self.spacing {
                tokio::time::sleep_until(last + self.spacing).await;
            }
            round.push(first);
            while round.len() < ROUND {
                let Ok(next) = self.commands.try_recv() else { break };
                round.push(next);
            }
            load = load * 0.5_f64.powf(last.elapsed().as_secs_f64() / BUSY_WINDOW.as_secs_f64())
                + round.len() as f64;
            last = Instant::now();
            if let Some(reply) = self.round(&mut round).await {
                self.commands.close();
                let closed = self.store.close().await;
                drop(self.dir);
                let _ = reply.send(closed);
                return;
            }
        }
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the journal was not closed cleanly; nothing is lost");
        }
    }

    /// Works one round off in order. `Some` = it was told to close.
    async fn round(&mut self, round: &mut Vec<Command>) -> Option<Reply<()>> {
        let mut batch = Vec::new();
        for command in round.drain(..) {
            if let Command::Append(queued) = command {
                batch.push(queued);
                continue;
            }
            self.batch(std::mem::take(&mut batch)).await;
            match command {
                Command::Append(_) => {}
                Command::Seal { shards, seen, owner, reply } => {
                    let sealed = self.seal(&shards, seen, &owner).await;
                    self.store.doubt(&sealed);
                    let _ = reply.send(sealed);
                }
                Command::Snapshot { entity, snapshot, reply } => {
                    let _ = reply.send(self.snapshot(&entity, snapshot).await);
                }
                Command::Document { key, body, expected, at, reply } => {
                    let written = self.document(&key, body, expected, at).await;
                    self.store.doubt(&written);
                    let _ = reply.send(written);
                }
                Command::Fault(fault) => self.store.fault = Some(fault),
                Command::Close { reply } => return Some(reply),
            }
        }
        self.batch(batch).await;
        None
    }

    /// Commits appends together, and answers each.
    async fn batch(&mut self, batch: Vec<Queued>) {
        if batch.is_empty() {
            return;
        }
        let weight = batch.iter().map(|queued| queued.append.weight()).sum();
        self.waiting_bytes.fetch_sub(weight, Ordering::Relaxed);
        self.metrics.queue_depth.dec_by(i64::try_from(batch.len()).unwrap_or(i64::MAX));
        let started = Instant::now();
        let appends: Vec<&Append> = batch.iter().map(|queued| &queued.append).collect();
        let outcomes = self.commit(&appends).await;
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.batch_appends.observe(batch.len() as f64);
        if let Some(position) = self.store.position() {
            self.committed.send_if_modified(|known| std::mem::replace(known, position) != position);
        }
        for (queued, outcome) in batch.into_iter().zip(outcomes) {
            match &outcome {
                Ok(_) => _ = self.metrics.events.inc_by(queued.append.events.len() as u64),
                Err(error) => self.metrics.refuse(error),
            }
            self.metrics.append_seconds.observe(queued.since.elapsed().as_secs_f64());
            // Whoever no longer waits has ended meanwhile.
            let _ = queued.reply.send(outcome);
        }
        self.checkpoints.note(&mut self.store).await;
    }

    async fn commit(&mut self, appends: &[&Append]) -> Vec<Result<Appended, AppendError>> {
        let all = |error: AppendError| vec![Err(error); appends.len()];
        for careful in [false, true] {
            let planned = match self.store.look_up(appends, careful).await {
                Ok(()) => self.store.plan(appends).await,
                Err(error) => Err(error),
            };
            let plan = match planned {
                Ok(plan) if plan.is_empty() => return plan.outcomes,
                Ok(plan) => plan,
                Err(error) => return all(AppendError::Unavailable(error.to_string())),
            };
            match self.store.commit(&plan, appends).await {
                Outcome::Committed => {
                    self.checkpoints.events += plan.events.len() as u64;
                    return plan.outcomes;
                }
                Outcome::Stale => {}
                Outcome::Failed(why) => {
                    tracing::error!(
                        why,
                        appends = appends.len(),
                        "journal commit failed, nothing was written"
                    );
                    return refused(plan.outcomes, &AppendError::Unavailable(why));
                }
                Outcome::Ambiguous(why) => {
                    tracing::error!(why, appends = appends.len(), "journal commit: outcome unknown");
                    return refused(plan.outcomes, &AppendError::Ambiguous(why));
                }
            }
        }
        all(AppendError::Unavailable("entities changed while they were being looked up".to_owned()))
    }

    async fn seal(
        &mut self,
        shards: &[ShardId],
        seen: Option<Epoch>,
        owner: &str,
    ) -> Result<Vec<(ShardId, Epoch)>, JournalError> {
        if shards.len() > usize::from(SHARD_COUNT) {
            return Err(JournalError::Invalid(format!(
                "{} shards to seal: there are {SHARD_COUNT}",
                shards.len()
            )));
        }
        let (connection, state) = self.store.ready().await?;
        let mut heads: Vec<(ShardId, Head)> = Vec::with_capacity(shards.len());
        for shard in shards {
            let head = *state.head(*shard);
            if seen.is_some_and(|seen| seen.0 != head.epoch) {
                return Err(JournalError::Moved { current: Epoch(head.epoch) });
            }
            heads.push((*shard, Head { epoch: head.epoch + 1, seq: head.seq }));
        }
        let rows: Vec<_> = heads.iter().map(|(shard, head)| (shard.index(), head.epoch, head.seq)).collect();
        let mut transaction = sqlx::Connection::begin(connection).await?;
        insert::write_heads(&mut transaction, &rows, Some(owner)).await?;
        transaction.commit().await?;
        for (shard, head) in &heads {
            *state.head(*shard) = *head;
        }
        Ok(heads.into_iter().map(|(shard, head)| (shard, Epoch(head.epoch))).collect())
    }

    async fn snapshot(&mut self, entity: &EntityAddress, snapshot: Snapshot) -> Result<(), JournalError> {
        const SQL: &str = "INSERT INTO snapshot (entity, nth, version, body) VALUES (?, ?, ?, ?) ON CONFLICT (entity) DO \
                           UPDATE SET nth = excluded.nth, version = excluded.version, body = excluded.body \
                           WHERE excluded.nth > snapshot.nth";
        let (connection, _) = self.store.ready().await?;
        let Some(known) = read::known(connection, entity).await?.filter(|known| snapshot.nth <= known.count)
        else {
            return Err(JournalError::Invalid(format!(
                "snapshot of {entity} at {}: not committed yet",
                snapshot.nth
            )));
        };
        sqlx::query(SQL)
            .bind(known.id)
            .bind(i64::try_from(snapshot.nth).unwrap_or(i64::MAX))
            .bind(i64::from(snapshot.version))
            .bind(snapshot.body.to_vec())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn document(
        &mut self,
        key: &DocumentKey,
        body: Option<String>,
        expected: Option<u64>,
        at: Timestamp,
    ) -> Result<u64, JournalError> {
        const SQL: &str =
            "INSERT INTO document (tenant, kind, id, revision, at, body) VALUES (?, ?, ?, ?, ?, ?)";
        let (connection, state) = self.store.ready().await?;
        let current = read::document_at(&mut *connection, key, i64::MAX as u64)
            .await?
            .map_or(0, |found| found.revision);
        if expected.is_some_and(|expected| expected != current) {
            return Err(JournalError::RevisionConflict { current });
        }
        let revision = state.revision + 1;
        sqlx::query(SQL)
            .bind(key.tenant.as_str())
            .bind(key.kind.as_ref())
            .bind(key.id.as_str())
            .bind(i64::try_from(revision).unwrap_or(i64::MAX))
            .bind(at.as_micros())
            .bind(body)
            .execute(connection)
            .await?;
        state.revision = revision;
        self.documents.send_replace(revision);
        Ok(revision)
    }
}

/// The plan's refusals stay as they are; what it would have written shares the transaction's fate.
fn refused(
    outcomes: Vec<Result<Appended, AppendError>>,
    fate: &AppendError,
) -> Vec<Result<Appended, AppendError>> {
    outcomes.into_iter().map(|outcome| outcome.and_then(|_| Err(fate.clone()))).collect()
}

/// Copies the write-ahead log back into the file. The work is done beside the writer, on a connection of its own; the
/// writer itself then adds the small rest, which lets the log start from its beginning.
pub(super) struct Checkpoints {
    pool: SqlitePool,
    events: u64,
    running: bool,
    done: Arc<AtomicBool>,
}

const CHECKPOINT: &str = "PRAGMA wal_checkpoint(PASSIVE)";

impl Checkpoints {
    pub(super) fn new(pool: SqlitePool) -> Self {
        Self { pool, events: 0, running: false, done: Arc::new(AtomicBool::new(false)) }
    }

    async fn note(&mut self, store: &mut Store) {
        if self.running && self.done.load(Ordering::Acquire) {
            self.running = false;
            let result = match store.ready().await {
                Ok((connection, _)) => sqlx::query(CHECKPOINT).execute(connection).await.map(|_| ()),
                Err(_) => Ok(()),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "journal checkpoint failed; the write-ahead log grows until one succeeds");
            }
        } else if !self.running && self.events >= CHECKPOINT_EVENTS {
            (self.events, self.running) = (0, true);
            self.done.store(false, Ordering::Release);
            let (pool, done) = (self.pool.clone(), Arc::clone(&self.done));
            tokio::spawn(async move {
                if let Err(error) = sqlx::query(CHECKPOINT).execute(&pool).await {
                    tracing::warn!(%error, "journal checkpoint failed; the write-ahead log grows until one succeeds");
                }
                done.store(true, Ordering::Release);
            });
        }
    }
}
