//! Everything but appends: reads, seals, snapshots and documents, on connections of their own.

use std::{future::Future, time::Duration};

use sqlx::{PgExecutor, PgPool, Row, postgres::PgRow};
use tokio::time::timeout;
use trunkline_types::{EntityAddress, EntityKind, Epoch, ShardId, TenantId, Timestamp};

use super::server::ANSWER;
use crate::{
    Document, DocumentKey, EntityHistory, JournalError, Seal, Snapshot, StoredEvent, body::Row as AppendRow,
};

/// Finding a connection and the server's answer.
const READ: Duration = ANSWER.saturating_add(Duration::from_secs(3));

async fn bounded<T>(read: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, JournalError> {
    match timeout(READ, read).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(JournalError::Unavailable(format!("PostgreSQL gave no answer within {READ:?}"))),
    }
}

/// The server's clock.
pub(super) async fn clock(pool: &PgPool) -> Result<Timestamp, JournalError> {
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let micros = bounded(sqlx::query_scalar::<_, i64>(now).fetch_one(pool)).await?;
    Ok(Timestamp::from_micros(micros))
}

/// Which journal it is.
pub(super) async fn identity(pool: &PgPool) -> Result<u64, JournalError> {
    const SQL: &str = "SELECT value FROM trunkline.meta WHERE name = 'identity'";
    match bounded(sqlx::query_scalar::<_, i64>(SQL).fetch_optional(pool)).await? {
        Some(identity) => unsigned(identity),
        None => Err(corrupt("no identity of the journal in table", "trunkline.meta")),
    }
}

fn corrupt(what: &'static str, value: impl std::fmt::Debug) -> JournalError {
    JournalError::Corrupt(format!("{what} {value:?}"))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> Result<u64, JournalError> {
    u64::try_from(value).map_err(|_| corrupt("negative number", value))
}

fn number(row: &PgRow, column: usize) -> Result<u64, JournalError> {
    unsigned(row.try_get(column)?)
}

fn shard(value: i32) -> Result<ShardId, JournalError> {
    u16::try_from(value).ok().and_then(ShardId::new).ok_or_else(|| corrupt("shard", value))
}

fn indices(shards: &[ShardId]) -> Vec<i32> {
    shards.iter().map(|shard| i32::from(shard.index())).collect()
}

fn address(kind: &str, tenant: &str, name: String) -> Result<EntityAddress, JournalError> {
    Ok(EntityAddress {
        kind: EntityKind::parse(kind).ok_or_else(|| corrupt("entity kind", kind))?,
        tenant: tenant.parse::<TenantId>().map_err(|error| corrupt("tenant", error))?,
        id: name,
    })
}

/// Columns of an append, in the order of [`append_row`].
macro_rules! append_columns {
    () => {
        "v.position, v.shard, v.seq, v.epoch, v.nth, v.events, v.body"
    };
}

fn append_row(row: &PgRow) -> Result<AppendRow, JournalError> {
    Ok(AppendRow {
        position: number(row, 0)?,
        shard: shard(row.try_get(1)?)?,
        seq: number(row, 2)?,
        epoch: Epoch(number(row, 3)?),
        nth: number(row, 4)?,
        events: unsigned(row.try_get::<i32, _>(5)?.into())?,
        body: row.try_get::<Vec<u8>, _>(6)?.into(),
    })
}

/// Takes rows with their entities apart, `limit` events at most.
fn expand(
    rows: &[PgRow],
    limit: usize,
    wanted: impl Fn(&StoredEvent) -> bool,
) -> Result<Vec<StoredEvent>, JournalError> {
    let mut events = Vec::new();
    for row in rows {
        if events.len() >= limit {
            break;
        }
        let entity = address(row.try_get(7)?, row.try_get(8)?, row.try_get(9)?)?;
        append_row(row)?.expand(&entity, &mut events, &wanted)?;
    }
    events.truncate(limit);
    Ok(events)
}

/// Rows that hold about so many events: an append has two or so.
fn rows_for(events: usize) -> i64 {
    i64::try_from(events.div_ceil(2)).unwrap_or(i64::MAX)
}

/// The last position before the horizon; see `horizon_v1`.
pub(super) async fn position(pool: impl PgExecutor<'_>) -> Result<u64, JournalError> {
    const SQL: &str = "SELECT position FROM trunkline.event WHERE position < trunkline.horizon_v1() \
                       ORDER BY position DESC LIMIT 1";
    let row = bounded(sqlx::query(SQL).fetch_optional(pool)).await?;
    row.map_or(Ok(0), |row| number(&row, 0))
}

pub(super) async fn tail(pool: &PgPool, after: u64, limit: usize) -> Result<Vec<StoredEvent>, JournalError> {
    const SQL: &str = concat!(
        "SELECT ",
        append_columns!(),
        ", e.kind, e.tenant, e.name FROM trunkline.event v JOIN trunkline.entity e ON e.id = v.entity \
         WHERE v.position > $1 AND v.position < trunkline.horizon_v1() ORDER BY v.position LIMIT $2"
    );
    let rows = bounded(sqlx::query(SQL).bind(signed(after)).bind(rows_for(limit)).fetch_all(pool)).await?;
    expand(&rows, limit, |event| event.position > after)
}

pub(super) async fn replay_shard(
    pool: &PgPool,
    of: ShardId,
    after: u64,
    limit: usize,
) -> Result<Vec<StoredEvent>, JournalError> {
    const SQL: &str = concat!(
        "SELECT ",
        append_columns!(),
        ", e.kind, e.tenant, e.name FROM trunkline.event v JOIN trunkline.entity e ON e.id = v.entity \
         WHERE v.shard = $1 AND v.seq > $2 ORDER BY v.seq LIMIT $3"
    );
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = sqlx::query(SQL).bind(i32::from(of.index())).bind(signed(after)).bind(most).fetch_all(pool);
    expand(&bounded(query).await?, limit, |event| event.seq > after)
}

pub(super) async fn load_entity(
    pool: &PgPool,
    entity: &EntityAddress,
) -> Result<EntityHistory, JournalError> {
    const ENTITY: &str = "SELECT e.id, e.finished, s.nth, s.version, s.body FROM trunkline.entity e \
                          LEFT JOIN trunkline.snapshot s ON s.entity = e.id \
                          WHERE e.name = $1 AND e.tenant = $2 AND e.kind = $3";
    // From the append with the snapshot's own last event on: it carries the place in the shard.
    const EVENTS: &str = concat!(
        "SELECT ",
        append_columns!(),
        " FROM trunkline.event v WHERE v.entity = $1 AND v.nth >= $2 ORDER BY v.nth"
    );
    let query = sqlx::query(ENTITY)
        .bind(entity.id.as_str())
        .bind(entity.tenant.as_str())
        .bind(entity.kind.as_str())
        .fetch_optional(pool);
    let Some(row) = bounded(query).await? else { return Ok(EntityHistory::default()) };
    let (id, finished): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    let mut history = EntityHistory { finished, ..EntityHistory::default() };
    if let Some(nth) = row.try_get::<Option<i64>, _>(2)? {
        let version: i32 = row.try_get(3)?;
        let version = u16::try_from(version).map_err(|_| corrupt("snapshot version", version))?;
        history.count = unsigned(nth)?;
        let body = row.try_get::<Vec<u8>, _>(4)?.into();
        history.snapshot = Some(Snapshot { nth: history.count, version, body });
    }
    let nth = history.count;
    let rows = bounded(sqlx::query(EVENTS).bind(id).bind(signed(nth)).fetch_all(pool)).await?;
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        append_row(row)?.expand(entity, &mut events, |event| event.nth >= nth)?;
    }
    for event in events {
        history.last_seq = event.seq;
        if event.nth <= nth {
            continue;
        }
        if event.nth != history.count + 1 {
            return Err(corrupt("event missing before", (entity.to_string(), event.nth)));
        }
        history.count = event.nth;
        history.finished = event.last;
        history.events.push(event);
    }
    Ok(history)
}

pub(super) async fn live_entities(
    pool: &PgPool,
    kind: EntityKind,
    shards: &[ShardId],
) -> Result<Vec<EntityAddress>, JournalError> {
    const SQL: &str = "SELECT kind, tenant, name FROM trunkline.entity \
                       WHERE kind = $1 AND shard = ANY ($2) AND NOT finished ORDER BY id";
    let query = sqlx::query(SQL).bind(kind.as_str()).bind(indices(shards)).fetch_all(pool);
    let rows = bounded(query).await?;
    rows.iter().map(|row| address(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)).collect()
}

pub(super) async fn epochs(pool: &PgPool) -> Result<Vec<Seal>, JournalError> {
    let sql = "SELECT id, epoch, owner FROM trunkline.shard WHERE epoch > 0 ORDER BY id";
    let rows = bounded(sqlx::query(sql).fetch_all(pool)).await?;
    let read = |row: &PgRow| {
        Ok(Seal { shard: shard(row.try_get(0)?)?, epoch: Epoch(number(row, 1)?), owner: row.try_get(2)? })
    };
    rows.iter().map(read).collect()
}

/// Seals shards; with `seen` only if they are at that epoch.
pub(super) async fn seal(
    pool: &PgPool,
    shards: &[ShardId],
    seen: Option<Epoch>,
    owner: &str,
) -> Result<Vec<(ShardId, Epoch)>, JournalError> {
    let query = sqlx::query("SELECT shard, current, sealed FROM trunkline.seal_v1($1, $2, $3)")
        .bind(indices(shards))
        .bind(seen.map(|seen| signed(seen.0)))
        .bind(owner)
        .fetch_all(pool);
    let rows = bounded(query).await?;
    let mut epochs = std::collections::HashMap::with_capacity(rows.len());
    for row in &rows {
        let current = Epoch(number(row, 1)?);
        if !row.try_get::<bool, _>(2)? {
            return Err(JournalError::Moved { current });
        }
        epochs.insert(shard(row.try_get(0)?)?, current);
    }
    let sealed = |shard: &ShardId| epochs.get(shard).map(|epoch| (*shard, *epoch));
    shards.iter().map(|shard| sealed(shard).ok_or_else(|| corrupt("no row of shard", shard))).collect()
}

pub(super) async fn put_snapshot(
    pool: &PgPool,
    entity: &EntityAddress,
    snapshot: &Snapshot,
) -> Result<(), JournalError> {
    const SQL: &str = "WITH known AS (SELECT e.id, (SELECT v.nth FROM trunkline.event v WHERE v.entity = e.id \
                           ORDER BY v.nth DESC LIMIT 1) AS count \
                           FROM trunkline.entity e WHERE e.name = $1 AND e.tenant = $2 AND e.kind = $3), \
                       put AS (INSERT INTO trunkline.snapshot AS s (entity, nth, version, body) \
                           SELECT id, $4, $5, $6 FROM known WHERE count >= $4 ON CONFLICT (entity) DO UPDATE \
                           SET nth = excluded.nth, version = excluded.version, body = excluded.body \
                           WHERE excluded.nth > s.nth) \
                       SELECT count FROM known";
    let query = sqlx::query(SQL)
        .bind(entity.id.as_str())
        .bind(entity.tenant.as_str())
        .bind(entity.kind.as_str())
        .bind(signed(snapshot.nth))
        .bind(i32::from(snapshot.version))
        .bind(&snapshot.body[..])
        .fetch_optional(pool);
    let count = bounded(query).await?.map_or(Ok(0), |row| number(&row, 0))?;
    if count < snapshot.nth {
        let what = format!("snapshot of {entity} at {}: not committed yet", snapshot.nth);
        return Err(JournalError::Invalid(what));
    }
    Ok(())
}

/// Writes a version of a document; without a body it is deleted.
pub(super) async fn put_document(
    pool: &PgPool,
    key: &DocumentKey,
    body: Option<String>,
    expected: Option<u64>,
    at: Timestamp,
) -> Result<u64, JournalError> {
    let query =
        sqlx::query("SELECT revision, written FROM trunkline.put_document_v1($1, $2, $3, $4, $5, $6)")
            .bind(key.tenant.as_str())
            .bind(key.kind.as_ref())
            .bind(key.id.as_str())
            .bind(expected.map(signed))
            .bind(at.as_micros())
            .bind(body)
            .fetch_one(pool);
    let row = bounded(query).await?;
    let revision = number(&row, 0)?;
    if row.try_get(1)? { Ok(revision) } else { Err(JournalError::RevisionConflict { current: revision }) }
}

fn document(row: &PgRow, key: DocumentKey) -> Result<Option<Document>, JournalError> {
    let Some(body) = row.try_get::<Option<&str>, _>(2)? else { return Ok(None) };
    let body = serde_json::from_str(body).map_err(|error| corrupt("document", error))?;
    Ok(Some(Document { key, revision: number(row, 0)?, at: Timestamp::from_micros(row.try_get(1)?), body }))
}

pub(super) async fn document_at(
    pool: &PgPool,
    key: &DocumentKey,
    revision: u64,
) -> Result<Option<Document>, JournalError> {
    const SQL: &str = "SELECT revision, at, body FROM trunkline.document \
                       WHERE tenant = $1 AND kind = $2 AND id = $3 AND revision <= $4 ORDER BY revision DESC LIMIT 1";
    let query = sqlx::query(SQL)
        .bind(key.tenant.as_str())
        .bind(key.kind.as_ref())
        .bind(key.id.as_str())
        .bind(signed(revision))
        .fetch_optional(pool);
    bounded(query).await?.map_or(Ok(None), |row| document(&row, key.clone()))
}

pub(super) async fn documents(
    pool: &PgPool,
    tenant: &TenantId,
    kind: &str,
) -> Result<Vec<Document>, JournalError> {
    const SQL: &str = "SELECT DISTINCT ON (id COLLATE \"C\") revision, at, body, id FROM trunkline.document \
                       WHERE tenant = $1 AND kind = $2 ORDER BY id COLLATE \"C\", revision DESC";
    let rows = bounded(sqlx::query(SQL).bind(tenant.as_str()).bind(kind).fetch_all(pool)).await?;
    let read =
        |row: &PgRow| document(row, DocumentKey::new(tenant, kind.to_owned(), row.try_get::<String, _>(3)?));
    rows.iter().map(read).filter_map(Result::transpose).collect()
}
