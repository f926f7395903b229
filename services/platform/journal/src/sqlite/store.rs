//! The writer's connection: runs planned transactions, and finds out what became of one whose end it did not see.

use sqlx::{Connection, SqliteConnection};

use super::{
    insert,
    plan::{Plan, State},
    read,
    schema::Target,
};
use crate::{Append, Fault, JournalError};

/// The shards' rows are brought up to date after this many events, so that opening folds no more than that.
const HEADS_EVERY: u64 = 20_000;

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
    connection: Option<SqliteConnection>,
    state: Option<State>,
    pub(super) fault: Option<Fault>,
}

impl Store {
    pub(super) fn new(target: Target, connection: SqliteConnection, state: State) -> Self {
        Self { target, connection: Some(connection), state: Some(state), fault: None }
    }

    /// The connection and the state, opened and read anew if need be.
    pub(super) async fn ready(&mut self) -> Result<(&mut SqliteConnection, &mut State), JournalError> {
        if self.connection.is_none() {
            let opened =
                self.target.open().await.map_err(|error| JournalError::Unavailable(error.to_string()))?;
            self.connection = Some(opened);
        }
        let Some(connection) = self.connection.as_mut() else { return Err(closed()) };
        if self.state.is_none() {
            self.state = Some(read::state(connection).await?);
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
    pub(super) async fn look_up(&mut self, appends: &[&Append], all: bool) -> Result<(), JournalError> {
        let (connection, state) = self.ready().await?;
        for append in appends {
            if (append.after > 0 || all)
                && state.recent.get(&append.entity).is_none()
                && let Some(known) = read::known(connection, &append.entity).await?
            {
                state.recent.put(&append.entity, known);
            }
        }
        Ok(())
    }

    /// Plans the appends on the present state.
    pub(super) async fn plan(&mut self, appends: &[&Append]) -> Result<Plan, JournalError> {
        let (_, state) = self.ready().await?;
        Ok(Plan::make(state, appends.iter().copied()))
    }

    /// Runs a planned transaction.
    pub(super) async fn commit(&mut self, plan: &Plan, appends: &[&Append]) -> Outcome {
        let fault = self.fault.take();
        let (Some(connection), Some(state)) = (self.connection.as_mut(), self.state.as_mut()) else {
            return Outcome::Failed("the store is closed".to_owned());
        };
        let heads_due = state.position - state.heads_at >= HEADS_EVERY;
        let whole = if fault.is_none() && !heads_due { insert::transaction(plan, appends) } else { None };
        let done = match whole {
            Some(transaction) => transaction.execute(&mut *connection).await.map(|_| ()),
            None => match fill(connection, state, plan, appends, fault).await {
                Ok(()) if fault == Some(Fault::LoseBeforeCommit) => return self.lose().await,
                Ok(()) => sqlx::query("COMMIT").execute(&mut *connection).await.map(|_| ()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            return self.undo(plan, error).await;
        }
        if fault == Some(Fault::LoseAfterCommit) {
            return self.lose().await;
        }
        if heads_due {
            state.heads_at = state.position;
            state.dirty.clear();
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
    async fn undo(&mut self, plan: &Plan, error: sqlx::Error) -> Outcome {
        self.state = None;
        let undone = match self.connection.as_mut() {
            Some(connection) => sqlx::query("ROLLBACK").execute(connection).await.is_ok(),
            None => false,
        };
        if !undone {
            return self.resolve(plan, error).await;
        }
        match error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation) {
            true => Outcome::Stale,
            false => Outcome::Failed(error.to_string()),
        }
    }

    /// Whether the commit took place is read from the file by a new connection.
    async fn resolve(&mut self, plan: &Plan, error: sqlx::Error) -> Outcome {
        (self.state, self.connection) = (None, None);
        let last = plan.events.last().map_or(0, |event| event.position);
        match self.ready().await {
            Ok((_, state)) if state.position >= last => Outcome::Committed,
            Ok(_) => Outcome::Failed(error.to_string()),
            Err(again) => Outcome::Ambiguous(format!("{error}; and then {again}")),
        }
    }

    /// A test's lost connection.
    async fn lose(&mut self) -> Outcome {
        self.state = None;
        if let Some(connection) = self.connection.take() {
            // The next connection must not meet this one's open transaction.
            let _ = connection.close().await;
        }
        Outcome::Ambiguous("the connection was lost".to_owned())
    }

    /// Writes what `open` would have to fold, and lets the file be one file again.
    pub(super) async fn close(mut self) -> Result<(), JournalError> {
        let (connection, state) = self.ready().await?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        heads(connection, state).await?;
        sqlx::query("COMMIT").execute(&mut *connection).await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *connection).await?;
        if let Some(connection) = self.connection.take() {
            connection.close().await?;
        }
        Ok(())
    }
}

fn closed() -> JournalError {
    JournalError::Unavailable("the journal is closed".to_owned())
}

/// Everything of a transaction but its end.
async fn fill(
    connection: &mut SqliteConnection,
    state: &State,
    plan: &Plan,
    appends: &[&Append],
    fault: Option<Fault>,
) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    if fault == Some(Fault::Refuse) {
        return Err(sqlx::Error::Io(std::io::Error::other("refused by a test")));
    }
    for statement in insert::statements(plan, appends) {
        statement.execute(&mut *connection).await?;
    }
    if state.position - state.heads_at >= HEADS_EVERY {
        heads(connection, state).await?;
    }
    Ok(())
}

async fn heads(connection: &mut SqliteConnection, state: &State) -> Result<(), sqlx::Error> {
    let row = |shard: &u16| {
        let head = state.heads[usize::from(*shard)];
        (*shard, head.epoch, head.seq)
    };
    let rows: Vec<_> = state.dirty.iter().map(row).collect();
    insert::write_heads(connection, &rows, None).await?;
    sqlx::query("INSERT OR REPLACE INTO meta (name, value) VALUES ('heads_at', ?)")
        .bind(i64::try_from(state.position).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}
