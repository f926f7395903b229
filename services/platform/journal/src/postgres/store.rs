//! The writer's connection: commits batches, and finds out what became of one whose end it did not see.

use sqlx::{PgConnection, Row, postgres::PgRow};
use tokio::time::timeout;
use trunkline_types::Epoch;

use super::{
    batch::Batch,
    server::{ANSWER, Server},
};
use crate::{AppendError, Appended, Fault, body};

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Each append has its answer, in order.
    Answered(Vec<Result<Appended, AppendError>>),
    /// Nothing was written, and it is worth trying again.
    Later(String),
    /// The connection was lost on the way: it may be there, or yet arrive. [`Store::settle`] finds out.
    Lost(String),
}

/// The connection; `None` until it could be had (again).
#[derive(Debug)]
pub(super) struct Store {
    server: Server,
    connection: Option<PgConnection>,
    pub(super) fault: Option<Fault>,
}

/// How a statement failed.
enum Failure {
    /// The server has rolled it back; it may pass another time.
    Passing(String),
    /// The server has rolled it back, and would again.
    Lasting(String),
    /// Unknown.
    Lost(String),
}

impl Failure {
    fn of(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                match (&*code, code.get(..2)) {
                    // Cancelled, for instance by the statement's time limit.
                    ("57014", _) => Self::Passing(text),
                    // "Completion unknown"; the server ends the session; it is no longer the primary.
                    ("40003", _) | (_, Some("08" | "25" | "57")) => Self::Lost(text),
                    // It lost a deadlock, did not get a lock, the server is out of something or cannot read its disk.
                    (_, Some("40" | "53" | "55" | "58")) => Self::Passing(text),
                    _ => Self::Lasting(text),
                }
            }
            sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } => Self::Lasting(text),
            _ => Self::Lost(text),
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl Store {
    pub(super) fn new(server: Server, connection: PgConnection) -> Self {
        Self { server, connection: Some(connection), fault: None }
    }

    async fn ready(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.connection.is_none() {
            self.connection = Some(self.server.writer().await?);
        }
        self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Commits a batch.
    pub(super) async fn commit(&mut self, batch: &Batch) -> Outcome {
        let all = |error: AppendError| Outcome::Answered(vec![Err(error); batch.appends.len()]);
        match self.fault.take() {
            None => {}
            Some(Fault::Refuse) => return all(AppendError::Unavailable("refused by a test".to_owned())),
            Some(Fault::LoseBeforeCommit) => {
                self.connection = None;
                return all(AppendError::Ambiguous("lost by a test".to_owned()));
            }
            Some(Fault::LoseAfterCommit) => {
                let _ = self.append(batch).await;
                self.connection = None;
                return all(AppendError::Ambiguous("lost by a test".to_owned()));
            }
        }
        match self.append(batch).await {
            Ok(outcomes) => Outcome::Answered(outcomes),
            Err(failure) => self.failed(failure, batch),
        }
    }

    /// Finds out about a batch that was lost. It is sent once more: if the first one arrived, or still does, then one of
    /// the two finds that its entities have moved on, and writes nothing. What the second one was refused is looked up.
    pub(super) async fn settle(&mut self, batch: &Batch) -> Outcome {
        let mut outcomes = match self.append(batch).await {
            Ok(outcomes) => outcomes,
            Err(failure) => return self.failed(failure, batch),
        };
        if outcomes.iter().any(Result::is_err) {
            let found = match self.find(batch).await {
                Ok(found) => found,
                Err(error) => {
                    self.connection = None;
                    return Outcome::Lost(error.to_string());
                }
            };
            for (i, appended) in found {
                if let Some(outcome) = outcomes.get_mut(i) {
                    *outcome = Ok(appended);
                }
            }
        }
        Outcome::Answered(outcomes)
    }

    fn failed(&mut self, failure: Failure, batch: &Batch) -> Outcome {
        match failure {
            Failure::Passing(why) => Outcome::Later(why),
            Failure::Lasting(why) => {
                tracing::error!(
                    why,
                    appends = batch.appends.len(),
                    "journal commit failed, nothing was written"
                );
                Outcome::Answered(vec![Err(AppendError::Unavailable(why)); batch.appends.len()])
            }
            Failure::Lost(why) => {
                self.connection = None;
                Outcome::Lost(why)
            }
        }
    }

    async fn append(&mut self, batch: &Batch) -> Result<Vec<Result<Appended, AppendError>>, Failure> {
        const SQL: &str = "SELECT last_seq, last_position, current, actual \
                           FROM trunkline.append_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        // Nothing has been sent without a connection.
        let connection = self.ready().await.map_err(|error| Failure::Passing(error.to_string()))?;
        let firsts = || batch.chains.iter().map(|chain| &batch.appends[chain.first].append);
        let appends = || batch.appends.iter().map(|queued| &*queued.append);
        let query = sqlx::query(SQL)
            .bind(firsts().map(|a| a.entity.kind.as_str()).collect::<Vec<_>>())
            .bind(firsts().map(|a| a.entity.tenant.as_str()).collect::<Vec<_>>())
            .bind(firsts().map(|a| a.entity.id.as_str()).collect::<Vec<_>>())
            .bind(firsts().map(|a| i32::from(a.entity.shard().index())).collect::<Vec<_>>())
            .bind(firsts().map(|a| signed(a.epoch.0)).collect::<Vec<_>>())
            .bind(firsts().map(|a| signed(a.after)).collect::<Vec<_>>())
            .bind(batch.chains.iter().map(|chain| chain.finished).collect::<Vec<_>>())
            .bind(batch.chain_of.iter().map(|i| i32::try_from(i + 1).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .bind(appends().map(|a| signed(a.after + a.events.len() as u64)).collect::<Vec<_>>())
            .bind(appends().map(|a| i32::try_from(a.events.len()).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .bind(appends().map(body::encode).collect::<Vec<_>>());
        let late = || Failure::Lost(format!("no answer within {ANSWER:?}"));
        let rows =
            timeout(ANSWER, query.fetch_all(connection)).await.map_err(|_| late())?.map_err(Failure::of)?;
        if rows.len() != batch.appends.len() {
            return Err(Failure::Lost(format!("{} answers to {} appends", rows.len(), batch.appends.len())));
        }
        let read = |(row, append): (&PgRow, _)| outcome(row, append);
        rows.iter().zip(appends()).map(read).collect::<Result<_, _>>().map_err(Failure::of)
    }

    /// Those appends of a batch that are in the journal, exactly as they are in the batch.
    async fn find(&mut self, batch: &Batch) -> Result<Vec<(usize, Appended)>, sqlx::Error> {
        const SQL: &str = "SELECT r.i, v.seq, v.position FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], \
                           $5::bigint[], $6::int[], $7::bytea[]) WITH ORDINALITY \
                           AS r (kind, tenant, name, epoch, nth, events, body, i) \
                           JOIN trunkline.entity e ON e.name = r.name AND e.tenant = r.tenant AND e.kind = r.kind \
                           JOIN trunkline.event v ON v.entity = e.id AND v.nth = r.nth AND v.events = r.events \
                           AND v.epoch = r.epoch AND v.body = r.body";
        let connection = self.ready().await?;
        let appends = || batch.appends.iter().map(|queued| &*queued.append);
        let query = sqlx::query(SQL)
            .bind(appends().map(|a| a.entity.kind.as_str()).collect::<Vec<_>>())
            .bind(appends().map(|a| a.entity.tenant.as_str()).collect::<Vec<_>>())
            .bind(appends().map(|a| a.entity.id.as_str()).collect::<Vec<_>>())
            .bind(appends().map(|a| signed(a.epoch.0)).collect::<Vec<_>>())
            .bind(appends().map(|a| signed(a.after + a.events.len() as u64)).collect::<Vec<_>>())
            .bind(appends().map(|a| i32::try_from(a.events.len()).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .bind(appends().map(body::encode).collect::<Vec<_>>());
        let rows =
            timeout(ANSWER, query.fetch_all(connection)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        let read = |row: &PgRow| {
            let (i, seq, position): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let i = usize::try_from(i - 1).unwrap_or(usize::MAX);
            let events = batch.appends.get(i).map_or(1, |queued| queued.append.events.len() as u64);
            Ok((i, appended(seq, position, events)))
        };
        rows.iter().map(read).collect()
    }

    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = timeout(ANSWER, sqlx::Connection::close(connection)).await;
        }
    }
}

fn appended(last_seq: i64, position: i64, events: u64) -> Appended {
    let last_seq = unsigned(last_seq);
    Appended { first_seq: (last_seq + 1).saturating_sub(events), last_seq, position: unsigned(position) }
}

fn outcome(row: &PgRow, append: &crate::Append) -> Result<Result<Appended, AppendError>, sqlx::Error> {
    let (seq, position): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    if let (Some(seq), Some(position)) = (seq, position) {
        return Ok(Ok(appended(seq, position, append.events.len() as u64)));
    }
    let (current, actual): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    let current = Epoch(unsigned(current));
    Ok(Err(if current.0 == 0 || current != append.epoch {
        AppendError::Fenced { current }
    } else {
        AppendError::Conflict { actual: unsigned(actual) }
    }))
}
