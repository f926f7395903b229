//! What the writer reads, on its own connection.

use rusqlite::{Connection, OptionalExtension, params};
use trunkline_types::{EntityAddress, ShardId};

use super::plan::{Head, Known, State};
use crate::{DocumentKey, JournalError};

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match error {
            E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::InvalidColumnType(..) => {
                Self::Corrupt(error.to_string())
            }
            other => Self::Unavailable(other.to_string()),
        }
    }
}

pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn shard(index: u16) -> Result<ShardId, JournalError> {
    ShardId::new(index).ok_or_else(|| JournalError::Corrupt(format!("shard {index}")))
}

/// What the writer starts from.
pub(super) fn state(connection: &Connection) -> Result<State, JournalError> {
    let mut state = State::empty();
    let mut shards = connection.prepare("SELECT id, epoch, seq FROM shard")?;
    let mut rows = shards.query([])?;
    while let Some(row) = rows.next()? {
        *state.head(shard(row.get(0)?)?) = Head { epoch: row.get(1)?, seq: row.get(2)? };
    }
    (state.position, state.entity, state.revision, state.heads_at, state.placed) = connection.query_row(
        "SELECT (SELECT coalesce(max(position), 0) FROM entry), (SELECT coalesce(max(id), 0) FROM entity), \
         (SELECT coalesce(max(revision), 0) FROM document), \
         (SELECT coalesce(max(value), 0) FROM meta WHERE name = 'heads_at'), \
         (SELECT coalesce(max(value), 0) FROM meta WHERE name = 'placed')",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
    )?;
    // The shards' rows are written now and then; what was committed since is folded in.
    let mut newer =
        connection.prepare("SELECT shard, max(seq) FROM entry WHERE position > ? GROUP BY shard")?;
    let mut rows = newer.query([signed(state.heads_at)])?;
    while let Some(row) = rows.next()? {
        let of = shard(row.get(0)?)?;
        state.head(of).seq = row.get(1)?;
        state.dirty.insert(of.index());
    }
    Ok(state)
}

/// An entity's row and how many events it has; `None` when it is unknown.
pub(super) fn entity(
    connection: &Connection,
    entity: &EntityAddress,
) -> Result<Option<Known>, rusqlite::Error> {
    // Not yet placed entries are newer than placed ones.
    const SQL: &str = "SELECT id, finished, coalesce( \
                           (SELECT max(nth) FROM entry WHERE entity = entity.id AND position > \
                               (SELECT coalesce(max(value), 0) FROM meta WHERE name = 'placed')), \
                           (SELECT max(nth) FROM place WHERE entity = entity.id), 0) \
                       FROM entity WHERE name = ? AND tenant = ? AND kind = ?";
    let key = params![entity.id, entity.tenant.as_str(), entity.kind.as_str()];
    let read =
        |row: &rusqlite::Row<'_>| Ok(Known { id: row.get(0)?, finished: row.get(1)?, count: row.get(2)? });
    connection.prepare_cached(SQL)?.query_row(key, read).optional()
}

/// The revision of a document; 0 when there is none or it was deleted.
pub(super) fn revision(connection: &Connection, key: &DocumentKey) -> Result<u64, rusqlite::Error> {
    const SQL: &str = "SELECT revision, body IS NULL FROM document WHERE tenant = ? AND kind = ? AND id = ? \
                       ORDER BY revision DESC LIMIT 1";
    let read = |row: &rusqlite::Row<'_>| Ok(if row.get(1)? { 0 } else { row.get(0)? });
    let key = params![key.tenant.as_str(), key.kind.as_ref(), key.id];
    Ok(connection.prepare_cached(SQL)?.query_row(key, read).optional()?.unwrap_or(0))
}
