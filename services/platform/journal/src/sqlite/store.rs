//! The writer's connection: runs planned transactions, and finds out what became of one whose end it did not see.

use rusqlite::{Connection, ErrorCode, params};

use super::{
    known::{self, signed},
    plan::{Plan, State},
    schema::Target,
};
use crate::{Append, Fault, JournalError, body};

/// The shards' rows are brought up to date after this many events, so that opening folds no more than that.
const HEADS_EVERY: u64 = 20_000;

/// Entries are found by their entity after this many events; until then by a scan of no more than that. They are put in
/// their places together, because those of one entity lie beside each other and each commit would write all their pages.
pub(super) const PLACES_EVERY: u64 = 2_000;

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum Outcome {
    /// On the disk.
    Committed,
    /// Rolled back, because an entity believed to be new exists: look everything up and plan anew.
    Stale,
    /// Nothing was written.
    Failed(String),
    /// Unknown.
    Ambiguous(String),
}

/// The connection and what is known of the file. Either is `None` after a failure until it could be had again.
#[derive(Debug)]
pub(super) struct Store {
    target: Target,
    connection: Option<Connection>,
    state: Option<State>,
    pub(super) fault: Option<Fault>,
}

impl Store {
    /// Opens the file; gives its highest position and newest document revision too.
    pub(super) fn open(target: Target) -> Result<(Self, u64, u64), crate::OpenError> {
        let mut connection = target.open()?;
        let mut state = known::state(&connection).map_err(|error| crate::OpenError::Corrupt {
            path: target.path.clone(),
            reason: error.to_string(),
        })?;
        // What is recovered now is found without a scan.
        match place(&mut connection, &state) {
            Ok(()) => state.placed = state.position,
            Err(error) => tracing::warn!(%error, "the newest entries of the journal are found by a scan"),
        }
        let (position, revision) = (state.position, state.revision);
        Ok((
            Self { target, connection: Some(connection), state: Some(state), fault: None },
            position,
            revision,
        ))
    }

    /// The connection and the state, opened and read anew if need be.
    pub(super) fn ready(&mut self) -> Result<(&mut Connection, &mut State), JournalError> {
        if self.connection.is_none() {
            let opened = self.target.open().map_err(|error| JournalError::Unavailable(error.to_string()))?;
            self.connection = Some(opened);
        }
        let Some(connection) = self.connection.as_mut() else { return Err(closed()) };
        if self.state.is_none() {
            self.state = Some(known::state(connection)?);
        }
        self.state.as_mut().map(|state| (connection, state)).ok_or_else(closed)
    }

    /// The highest position known to be committed.
    pub(super) fn position(&self) -> Option<u64> {
        self.state.as_ref().map(|state| state.position)
    }

    /// After a failure outside [`Store::commit`]: what is known of the file is read anew before the next use.
    pub(super) fn doubt<T>(&mut self, result: &Result<T, JournalError>) {
        if matches!(result, Err(JournalError::Unavailable(_) | JournalError::Corrupt(_))) {
            (self.state, self.connection) = (None, None);
        }
    }

    /// Learns about the entities that the appends build on and that are not remembered; `all` = also about those that
    /// the appends take for new.
    pub(super) fn look_up(&mut self, appends: &[&Append], all: bool) -> Result<(), JournalError> {
        let (connection, state) = self.ready()?;
        for append in appends {
            if (append.after > 0 || all)
                && state.recent.get(&append.entity).is_none()
                && let Some(known) = known::entity(connection, &append.entity)?
            {
                state.recent.put(&append.entity, known);
            }
        }
        Ok(())
    }

    /// Plans the appends on the present state.
    pub(super) fn plan(&mut self, appends: &[&Append]) -> Result<Plan, JournalError> {
        let (_, state) = self.ready()?;
        Ok(Plan::make(state, appends.iter().copied()))
    }

    /// Runs a planned transaction.
    pub(super) fn commit(&mut self, plan: &Plan, appends: &[&Append]) -> Outcome {
        let fault = self.fault.take();
        let (Some(connection), Some(state)) = (self.connection.as_mut(), self.state.as_mut()) else {
            return Outcome::Failed("the store is closed".to_owned());
        };
        let due = Due {
            heads: state.position - state.heads_at >= HEADS_EVERY,
            places: state.position - state.placed >= PLACES_EVERY,
        };
        let filled = match fault {
            Some(Fault::Refuse) => return self.undo(plan, &refused()),
            _ => fill(connection, state, plan, appends, due),
        };
        let done = match filled {
            Ok(()) if fault == Some(Fault::LoseBeforeCommit) => return self.lose(),
            Ok(()) => run(connection, "COMMIT"),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            return self.undo(plan, &error);
        }
        if fault == Some(Fault::LoseAfterCommit) {
            return self.lose();
        }
        if due.heads {
            state.heads_at = state.position;
            state.dirty.clear();
        }
        if due.places {
            state.placed = state.position;
        }
        for (index, append) in appends.iter().enumerate() {
            if plan.outcomes[index].is_ok() && append.events.last().is_some_and(|event| event.last) {
                state.recent.forget(&append.entity);
            }
        }
        Outcome::Committed
    }

    /// The transaction failed somewhere. If it can be rolled back, it was not committed; if there is nothing to roll back,
    /// the failure may have been the commit's own.
    fn undo(&mut self, plan: &Plan, error: &rusqlite::Error) -> Outcome {
        self.state = None;
        let open = self.connection.as_ref().is_some_and(|connection| !connection.is_autocommit());
        let undone = match self.connection.as_mut() {
            Some(connection) if open => run(connection, "ROLLBACK").is_ok(),
            // It failed before it began.
            _ => error.sqlite_error_code().is_none(),
        };
        if !undone {
            return self.resolve(plan, error);
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => Outcome::Stale,
            _ => Outcome::Failed(error.to_string()),
        }
    }

    /// Whether the commit took place is read from the file by a new connection.
    fn resolve(&mut self, plan: &Plan, error: &rusqlite::Error) -> Outcome {
        (self.state, self.connection) = (None, None);
        let last = plan.entries.last().map_or(0, |entry| entry.position);
        match self.ready() {
            Ok((_, state)) if state.position >= last => Outcome::Committed,
            Ok(_) => Outcome::Failed(error.to_string()),
            Err(again) => Outcome::Ambiguous(format!("{error}; and then {again}")),
        }
    }

    /// A test's lost connection.
    fn lose(&mut self) -> Outcome {
        // Closed with its open transaction, which the next connection must not meet.
        (self.state, self.connection) = (None, None);
        Outcome::Ambiguous("the connection was lost".to_owned())
    }

    /// Seals shards for an owner: their new epochs are in `heads`.
    pub(super) fn seal(&mut self, heads: &[(u16, u64, u64)], owner: &str) -> Result<(), JournalError> {
        let (connection, _) = self.ready()?;
        let transaction = connection.transaction()?;
        write_heads(&transaction, heads, Some(owner))?;
        Ok(transaction.commit()?)
    }

    /// Writes what `open` would have to fold, and lets the file be one file again.
    pub(super) fn close(mut self) -> Result<(), JournalError> {
        let (connection, state) = self.ready()?;
        let transaction = connection.transaction()?;
        bring_up_heads(&transaction, state)?;
        bring_up_places(&transaction, state)?;
        transaction.commit()?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        match self.connection.take().map(Connection::close) {
            Some(Err((_, error))) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn closed() -> JournalError {
    JournalError::Unavailable("the journal is closed".to_owned())
}

/// What a test's refusal says.
fn refused() -> rusqlite::Error {
    rusqlite::Error::InvalidParameterName("refused by a test".to_owned())
}

fn run(connection: &Connection, sql: &str) -> Result<(), rusqlite::Error> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

/// What is written now and then rather than with each commit.
#[derive(Debug, Clone, Copy)]
struct Due {
    heads: bool,
    places: bool,
}

/// Everything of a transaction but its end.
fn fill(
    connection: &Connection,
    state: &State,
    plan: &Plan,
    appends: &[&Append],
    due: Due,
) -> Result<(), rusqlite::Error> {
    run(connection, "BEGIN IMMEDIATE")?;
    if !plan.entities.is_empty() {
        let mut insert = connection.prepare_cached(
            "INSERT INTO entity (id, kind, tenant, name, shard, finished) VALUES (?, ?, ?, ?, ?, 0)",
        )?;
        for (append, id) in &plan.entities {
            let entity = &appends[*append].entity;
            let shard = entity.shard().index();
            insert.execute(params![id, entity.kind.as_str(), entity.tenant.as_str(), entity.id, shard])?;
        }
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO entry (position, shard, seq, epoch, entity, nth, events, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for row in &plan.entries {
        let append = appends[row.append];
        insert.execute(params![
            signed(row.position),
            row.shard,
            signed(row.seq),
            signed(append.epoch.0),
            row.entity,
            signed(row.nth),
            append.events.len(),
            body::encode(append)
        ])?;
    }
    for (ids, finished) in [(&plan.finished, true), (&plan.revived, false)] {
        for id in ids {
            let sql = "UPDATE entity SET finished = ? WHERE id = ?";
            connection.prepare_cached(sql)?.execute(params![finished, id])?;
        }
    }
    if due.heads {
        bring_up_heads(connection, state)?;
    }
    if due.places { bring_up_places(connection, state) } else { Ok(()) }
}

/// Outside of a commit.
fn place(connection: &mut Connection, state: &State) -> Result<(), rusqlite::Error> {
    if state.placed == state.position {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    bring_up_places(&transaction, state)?;
    transaction.commit()
}

/// Puts the entries that are in the file, those of this transaction included, in their places by entity.
fn bring_up_places(connection: &Connection, state: &State) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO place (entity, nth, position) \
               SELECT entity, nth, position FROM entry WHERE position > ? ORDER BY entity, nth";
    connection.prepare_cached(sql)?.execute([signed(state.placed)])?;
    let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES ('placed', ?)";
    connection.prepare_cached(sql)?.execute([signed(state.position)]).map(|_| ())
}

fn bring_up_heads(connection: &Connection, state: &State) -> Result<(), rusqlite::Error> {
    let row = |shard: &u16| {
        let head = state.heads[usize::from(*shard)];
        (*shard, head.epoch, head.seq)
    };
    let rows: Vec<_> = state.dirty.iter().map(row).collect();
    write_heads(connection, &rows, None)?;
    let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES ('heads_at', ?)";
    connection.prepare_cached(sql)?.execute([signed(state.position)]).map(|_| ())
}

/// Brings the shards' rows up to date; with `owner`, because they were sealed for it.
fn write_heads(
    connection: &Connection,
    heads: &[(u16, u64, u64)],
    owner: Option<&str>,
) -> Result<(), rusqlite::Error> {
    let mut write = connection.prepare_cached(match owner {
        None => {
            "INSERT INTO shard (id, epoch, seq, owner) VALUES (?, ?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET seq = excluded.seq"
        }
        Some(_) => {
            "INSERT INTO shard (id, epoch, seq, owner) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE \
             SET seq = excluded.seq, epoch = excluded.epoch, owner = excluded.owner"
        }
    })?;
    for (shard, epoch, seq) in heads {
        write.execute(params![shard, signed(*epoch), signed(*seq), owner.unwrap_or_default()])?;
    }
    Ok(())
}
