//! Reads, on connections of their own. In WAL mode each sees a snapshot, and the one writer commits in the order of
//! positions: whoever sees a position sees all lower ones.

use std::borrow::Cow;

use sqlx::{Executor, Row, Sqlite, SqlitePool, sqlite::SqliteRow};
use trunkline_types::{EntityAddress, EntityKind, Epoch, ShardId, TenantId, Timestamp};

use super::plan::{Head, Known, Recent, State};
use crate::{Document, DocumentKey, EntityHistory, JournalError, Seal, Snapshot, StoredEvent};

fn corrupt(what: &'static str, value: impl std::fmt::Debug) -> JournalError {
    JournalError::Corrupt(format!("{what} {value:?}"))
}

fn number(row: &SqliteRow, column: usize) -> Result<u64, JournalError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| corrupt("negative number", value))
}

fn shard(value: u64) -> Result<ShardId, JournalError> {
    u16::try_from(value).ok().and_then(ShardId::new).ok_or_else(|| corrupt("shard", value))
}

fn address(kind: &str, tenant: &str, name: String) -> Result<EntityAddress, JournalError> {
    Ok(EntityAddress {
        kind: EntityKind::parse(kind).ok_or_else(|| corrupt("entity kind", kind))?,
        tenant: tenant.parse::<TenantId>().map_err(|error| corrupt("tenant", error))?,
        id: name,
    })
}

fn event(row: &SqliteRow, entity: EntityAddress) -> Result<StoredEvent, JournalError> {
    let version = number(row, 6)?;
    Ok(StoredEvent {
        position: number(row, 0)?,
        shard: shard(number(row, 1)?)?,
        seq: number(row, 2)?,
        epoch: Epoch(number(row, 3)?),
        entity,
        nth: number(row, 4)?,
        kind: Cow::Owned(row.try_get(5)?),
        version: u16::try_from(version).map_err(|_| corrupt("version", version))?,
        at: Timestamp::from_micros(row.try_get(7)?),
        last: row.try_get::<i64, _>(8)? != 0,
        payload: row.try_get::<Vec<u8>, _>(9)?.into(),
    })
}

fn event_and_entity(row: &SqliteRow) -> Result<StoredEvent, JournalError> {
    event(row, address(row.try_get(10)?, row.try_get(11)?, row.try_get(12)?)?)
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) async fn tail(
    pool: &SqlitePool,
    after: u64,
    most: usize,
) -> Result<Vec<StoredEvent>, JournalError> {
    const SQL: &str = "SELECT v.position, v.shard, v.seq, v.epoch, v.nth, v.kind, v.version, v.at, v.last, v.payload, \
                       e.kind, e.tenant, e.name FROM event v JOIN entity e ON e.id = v.entity \
                       WHERE v.position > ? ORDER BY v.position LIMIT ?";
    let rows = sqlx::query(SQL).bind(signed(after)).bind(limit(most)).fetch_all(pool).await?;
    rows.iter().map(event_and_entity).collect()
}

/// Embedded, the recovery of a shard goes entity by entity; this serves tools and hand-over, and pays for its rarity by
/// a scan instead of an index that every append would have to keep.
pub(super) async fn replay_shard(
    pool: &SqlitePool,
    of: ShardId,
    after_seq: u64,
    most: usize,
) -> Result<Vec<StoredEvent>, JournalError> {
    const SQL: &str = "SELECT v.position, v.shard, v.seq, v.epoch, v.nth, v.kind, v.version, v.at, v.last, v.payload, \
                       e.kind, e.tenant, e.name FROM event v JOIN entity e ON e.id = v.entity \
                       WHERE v.shard = ? AND v.seq > ? ORDER BY v.position LIMIT ?";
    let query = sqlx::query(SQL).bind(i64::from(of.index())).bind(signed(after_seq)).bind(limit(most));
    query.fetch_all(pool).await?.iter().map(event_and_entity).collect()
}

pub(super) async fn load_entity(
    pool: &SqlitePool,
    entity: &EntityAddress,
) -> Result<EntityHistory, JournalError> {
    const SNAPSHOT: &str = "SELECT e.id, e.finished, coalesce(s.nth, 0), s.version, s.body FROM entity e \
                            LEFT JOIN snapshot s ON s.entity = e.id WHERE e.name = ? AND e.tenant = ? AND e.kind = ?";
    const EVENTS: &str = "SELECT position, shard, seq, epoch, nth, kind, version, at, last, payload FROM event \
                          WHERE entity = ? AND nth >= ? ORDER BY nth";
    let found = sqlx::query(SNAPSHOT)
        .bind(entity.id.as_str())
        .bind(entity.tenant.as_str())
        .bind(entity.kind.as_str())
        .fetch_optional(pool)
        .await?;
    let Some(row) = found else { return Ok(EntityHistory::default()) };
    let (id, finished, nth): (i64, i64, u64) = (row.try_get(0)?, row.try_get(1)?, number(&row, 2)?);
    let mut history = EntityHistory { finished: finished != 0, count: nth, ..EntityHistory::default() };
    if let Some(body) = row.try_get::<Option<Vec<u8>>, _>(4)? {
        let version = number(&row, 3)?;
        let version = u16::try_from(version).map_err(|_| corrupt("snapshot version", version))?;
        history.snapshot = Some(Snapshot { nth, version, body: body.into() });
    }
    // The snapshot's own last event is read too: it carries the place in the shard.
    for row in sqlx::query(EVENTS).bind(id).bind(signed(nth)).fetch_all(pool).await? {
        let event = event(&row, entity.clone())?;
        history.last_seq = event.seq;
        if event.nth <= nth {
            continue;
        }
        if event.nth != history.count + 1 {
            return Err(corrupt("event missing before", (entity.to_string(), event.nth)));
        }
        history.count = event.nth;
        history.events.push(event);
    }
    Ok(history)
}

pub(super) async fn live_entities(
    pool: &SqlitePool,
    kind: EntityKind,
    shards: &[ShardId],
) -> Result<Vec<EntityAddress>, JournalError> {
    const SQL: &str =
        "SELECT kind, tenant, name, shard FROM entity WHERE kind = ? AND finished = 0 ORDER BY id";
    let mut wanted = vec![false; usize::from(trunkline_types::SHARD_COUNT)];
    shards.iter().for_each(|shard| wanted[usize::from(shard.index())] = true);
    let mut found = Vec::new();
    for row in sqlx::query(SQL).bind(kind.as_str()).fetch_all(pool).await? {
        if wanted[usize::from(shard(number(&row, 3)?)?.index())] {
            found.push(address(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)?);
        }
    }
    Ok(found)
}

pub(super) async fn epochs(pool: &SqlitePool) -> Result<Vec<Seal>, JournalError> {
    let rows = sqlx::query("SELECT id, epoch, owner FROM shard ORDER BY id").fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(Seal { shard: shard(number(row, 0)?)?, epoch: Epoch(number(row, 1)?), owner: row.try_get(2)? })
        })
        .collect()
}

/// What the writer starts from.
pub(super) async fn state(connection: &mut sqlx::SqliteConnection) -> Result<State, JournalError> {
    let mut state = State::empty();
    for row in sqlx::query("SELECT id, epoch, seq FROM shard").fetch_all(&mut *connection).await? {
        *state.head(shard(number(&row, 0)?)?) = Head { epoch: number(&row, 1)?, seq: number(&row, 2)? };
    }
    let row = sqlx::query(
        "SELECT (SELECT coalesce(max(position), 0) FROM event), (SELECT coalesce(max(id), 0) FROM entity), \
         (SELECT coalesce(max(revision), 0) FROM document), \
         (SELECT coalesce(max(value), 0) FROM meta WHERE name = 'heads_at')",
    )
    .fetch_one(&mut *connection)
    .await?;
    state.position = number(&row, 0)?;
    state.entity = row.try_get(1)?;
    (state.revision, state.heads_at) = (number(&row, 2)?, number(&row, 3)?);
    // The shards' rows are written now and then; what was committed since is folded in.
    let newer = sqlx::query("SELECT shard, max(seq) FROM event WHERE position > ? GROUP BY shard")
        .bind(signed(state.heads_at))
        .fetch_all(connection)
        .await?;
    for row in newer {
        let of = shard(number(&row, 0)?)?;
        state.head(of).seq = number(&row, 1)?;
        state.dirty.insert(of.index());
    }
    state.recent = Recent::default();
    Ok(state)
}

/// An entity's row and how many events it has; `None` when it is unknown.
pub(super) async fn known(
    connection: &mut sqlx::SqliteConnection,
    entity: &EntityAddress,
) -> Result<Option<Known>, sqlx::Error> {
    const SQL: &str = "SELECT id, finished, (SELECT coalesce(max(nth), 0) FROM event WHERE entity = entity.id) \
                       FROM entity WHERE name = ? AND tenant = ? AND kind = ?";
    let query =
        sqlx::query(SQL).bind(entity.id.as_str()).bind(entity.tenant.as_str()).bind(entity.kind.as_str());
    query
        .fetch_optional(connection)
        .await?
        .map(|row| {
            let (id, finished, count): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            Ok(Known { id, count: u64::try_from(count).unwrap_or(0), finished: finished != 0 })
        })
        .transpose()
}

fn document(row: &SqliteRow, key: DocumentKey) -> Result<Option<Document>, JournalError> {
    let Some(body) = row.try_get::<Option<&str>, _>(2)? else { return Ok(None) };
    let body = serde_json::from_str(body).map_err(|error| corrupt("document", error))?;
    Ok(Some(Document { key, revision: number(row, 0)?, at: Timestamp::from_micros(row.try_get(1)?), body }))
}

/// The version in force at `revision`; `None` when there is none or it was deleted.
pub(super) async fn document_at(
    pool: impl Executor<'_, Database = Sqlite>,
    key: &DocumentKey,
    revision: u64,
) -> Result<Option<Document>, JournalError> {
    const SQL: &str = "SELECT revision, at, body FROM document WHERE tenant = ? AND kind = ? AND id = ? AND revision <= ? \
                       ORDER BY revision DESC LIMIT 1";
    let row = sqlx::query(SQL)
        .bind(key.tenant.as_str())
        .bind(key.kind.as_ref())
        .bind(key.id.as_str())
        .bind(signed(revision))
        .fetch_optional(pool)
        .await?;
    row.map_or(Ok(None), |row| document(&row, key.clone()))
}

pub(super) async fn documents(
    pool: &SqlitePool,
    tenant: &TenantId,
    kind: &str,
) -> Result<Vec<Document>, JournalError> {
    const SQL: &str = "SELECT max(revision), at, body, id FROM document WHERE tenant = ? AND kind = ? GROUP BY id ORDER BY id";
    let rows = sqlx::query(SQL).bind(tenant.as_str()).bind(kind).fetch_all(pool).await?;
    let read = |row: &SqliteRow| {
        document(row, DocumentKey::new(tenant, kind.to_owned(), row.try_get::<String, _>(3)?))
    };
    rows.iter().map(read).filter_map(Result::transpose).collect()
}
