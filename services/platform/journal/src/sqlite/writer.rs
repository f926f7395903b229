//! The one writer: takes what waits, in order, and commits it in batches.
//!
//! It is a thread of its own that waits for the disk itself: handing each statement from a task to a thread and its answer
//! back costs more than the statement. A commit costs as much again as all of its statements in the kernel, whatever it
//! carries; see `pace.rs` for when one starts.

use std::{sync::Arc, thread};

use rusqlite::params;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use trunkline_types::{EntityAddress, Epoch, SHARD_COUNT, ShardId, Timestamp};

use super::{
    checkpoint::Checkpoints,
    known::{self, signed},
    plan::Head,
    ring::Ring,
    schema::DirLock,
    store::{Outcome, Store},
};
use crate::{
    Append, AppendError, Appended, DocumentKey, Fault, JournalError, Snapshot,
    gate::{Gate, Queued},
    pace::Pace,
};

/// Commands of one round, which bounds the time of a commit.
const ROUND: usize = 1_024;

pub(super) type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

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

/// The writer thread's state.
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) gate: Arc<Gate>,
    pub(super) ring: Arc<Ring>,
    pub(super) committed: watch::Sender<u64>,
    pub(super) documents: watch::Sender<u64>,
    pub(super) checkpoints: Checkpoints,
    pub(super) pace: Pace,
    /// Held until everything is closed; a temporary directory goes with it.
    pub(super) dir: (DirLock, Option<tempfile::TempDir>),
}

impl Writer {
    /// Runs until it is told to close or nobody can tell it anything any more.
    pub(super) fn run(mut self) {
        let mut round = Vec::new();
        while let Some(first) = self.commands.blocking_recv() {
            if let Some(until) = self.pace.wait(Instant::now()) {
                // Not woken by those who arrive meanwhile.
                thread::sleep(until.saturating_duration_since(Instant::now()));
            }
            round.push(first);
            while round.len() < ROUND {
                let Ok(next) = self.commands.try_recv() else { break };
                round.push(next);
            }
            self.pace.started(Instant::now(), round.len());
            if let Some(reply) = self.round(&mut round) {
                self.commands.close();
                let closed = self.store.close();
                drop((self.checkpoints, self.dir));
                let _ = reply.send(closed);
                return;
            }
        }
        if let Err(error) = self.store.close() {
            tracing::warn!(%error, "the journal was not closed cleanly; nothing is lost");
        }
    }

    /// Works one round off in order. `Some` = it was told to close.
    fn round(&mut self, round: &mut Vec<Command>) -> Option<Reply<()>> {
        let mut batch = Vec::new();
        for command in round.drain(..) {
            if let Command::Append(queued) = command {
                batch.push(queued);
                continue;
            }
            self.batch(std::mem::take(&mut batch));
            match command {
                Command::Append(_) => {}
                Command::Seal { shards, seen, owner, reply } => {
                    let sealed = self.seal(&shards, seen, &owner);
                    self.store.doubt(&sealed);
                    let _ = reply.send(sealed);
                }
                Command::Snapshot { entity, snapshot, reply } => {
                    let _ = reply.send(self.snapshot(&entity, &snapshot));
                }
                Command::Document { key, body, expected, at, reply } => {
                    let written = self.document(&key, body, expected, at);
                    self.store.doubt(&written);
                    let _ = reply.send(written);
                }
                Command::Fault(fault) => self.store.fault = Some(fault),
                Command::Close { reply } => return Some(reply),
            }
        }
        self.batch(batch);
        None
    }

    /// Commits appends together, and answers each.
    fn batch(&mut self, batch: Vec<Queued>) {
        let Some(first) = batch.first() else { return };
        self.gate.set_oldest(Some(first.since));
        let started = Instant::now();
        let appends: Vec<&Append> = batch.iter().map(|queued| &*queued.append).collect();
        let outcomes = self.commit(&appends);
        self.gate.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        self.gate.metrics.batch_appends.observe(batch.len() as f64);
        self.show(&batch, &outcomes);
        if let Some(position) = self.store.position() {
            self.committed.send_if_modified(|known| std::mem::replace(known, position) != position);
        }
        for (queued, outcome) in batch.into_iter().zip(outcomes) {
            queued.answer(outcome);
        }
        self.gate.set_oldest(None);
    }

    /// Shows followers what was committed; before anybody is told that it was.
    fn show(&self, batch: &[Queued], outcomes: &[Result<Appended, AppendError>]) {
        if outcomes.iter().any(|outcome| matches!(outcome, Err(AppendError::Ambiguous(_)))) {
            self.ring.lost_sight();
        }
        let pairs = batch.iter().zip(outcomes);
        self.ring
            .committed(pairs.filter_map(|(queued, outcome)| Some((&queued.append, *outcome.as_ref().ok()?))));
    }

    fn commit(&mut self, appends: &[&Append]) -> Vec<Result<Appended, AppendError>> {
        let all = |error: AppendError| vec![Err(error); appends.len()];
        for careful in [false, true] {
            let looked_up = self.store.look_up(appends, careful);
            let plan = match looked_up.and_then(|()| self.store.plan(appends)) {
                Ok(plan) if plan.is_empty() => return plan.outcomes,
                Ok(plan) => plan,
                Err(error) => return all(AppendError::Unavailable(error.to_string())),
            };
            match self.store.commit(&plan, appends) {
                Outcome::Committed => {
                    let events = appends.iter().map(|append| append.events.len() as u64).sum();
                    self.checkpoints.note(events, &mut self.store);
                    return plan.outcomes;
                }
                Outcome::Stale => {}
                Outcome::Failed(why) => {
                    let appends = appends.len();
                    tracing::error!(why, appends, "journal commit failed, nothing was written");
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

    fn seal(
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
        let (_, state) = self.store.ready()?;
        let mut heads: Vec<(ShardId, Head)> = Vec::with_capacity(shards.len());
        for shard in shards {
            let head = *state.head(*shard);
            if seen.is_some_and(|seen| seen.0 != head.epoch) {
                return Err(JournalError::Moved { current: Epoch(head.epoch) });
            }
            heads.push((*shard, Head { epoch: head.epoch + 1, seq: head.seq }));
        }
        let rows: Vec<_> = heads.iter().map(|(shard, head)| (shard.index(), head.epoch, head.seq)).collect();
        self.store.seal(&rows, owner)?;
        let (_, state) = self.store.ready()?;
        for (shard, head) in &heads {
            *state.head(*shard) = *head;
        }
        Ok(heads.into_iter().map(|(shard, head)| (shard, Epoch(head.epoch))).collect())
    }

    fn snapshot(&mut self, entity: &EntityAddress, snapshot: &Snapshot) -> Result<(), JournalError> {
        const SQL: &str = "INSERT INTO snapshot (entity, nth, version, body) VALUES (?, ?, ?, ?) ON CONFLICT (entity) DO \
                           UPDATE SET nth = excluded.nth, version = excluded.version, body = excluded.body \
                           WHERE excluded.nth > snapshot.nth";
        let (connection, _) = self.store.ready()?;
        let Some(known) = known::entity(connection, entity)?.filter(|known| snapshot.nth <= known.count)
        else {
            return Err(JournalError::Invalid(format!(
                "snapshot of {entity} at {}: not committed yet",
                snapshot.nth
            )));
        };
        let row = params![known.id, signed(snapshot.nth), snapshot.version, &snapshot.body[..]];
        connection.prepare_cached(SQL)?.execute(row)?;
        Ok(())
    }

    fn document(
        &mut self,
        key: &DocumentKey,
        body: Option<String>,
        expected: Option<u64>,
        at: Timestamp,
    ) -> Result<u64, JournalError> {
        const SQL: &str =
            "INSERT INTO document (tenant, kind, id, revision, at, body) VALUES (?, ?, ?, ?, ?, ?)";
        let (connection, state) = self.store.ready()?;
        let current = known::revision(connection, key)?;
        if expected.is_some_and(|expected| expected != current) {
            return Err(JournalError::RevisionConflict { current });
        }
        let revision = state.revision + 1;
        let row =
            params![key.tenant.as_str(), key.kind.as_ref(), key.id, signed(revision), at.as_micros(), body];
        connection.prepare_cached(SQL)?.execute(row)?;
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
