//! Reads, on connections of their own. In WAL mode each sees a snapshot, and the one writer commits in the order of
//! positions: whoever sees a position sees all lower ones.

use sqlx::{Row, SqlitePool, sqlite::SqliteRow};
use trunkline_types::{EntityAddress, EntityKind, Epoch, ShardId, TenantId, Timestamp};

use crate::{
    Document, DocumentKey, EntityHistory, JournalError, Seal, Snapshot, StoredEvent, body::Row as AppendRow,
};

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

/// Columns of an append, in the order of [`append_row`].
macro_rules! append_columns {
    () => {
        "v.position, v.shard, v.seq, v.epoch, v.nth, v.events, v.body"
    };
}

fn append_row(row: &SqliteRow) -> Result<AppendRow, JournalError> {
    Ok(AppendRow {
        position: number(row, 0)?,
        shard: shard(number(row, 1)?)?,
        seq: number(row, 2)?,
        epoch: Epoch(number(row, 3)?),
        nth: number(row, 4)?,
        events: number(row, 5)?,
        body: row.try_get::<Vec<u8>, _>(6)?.into(),
    })
}

/// Takes rows with their entities apart, `most` events at most.
fn expand(
    rows: &[SqliteRow],
    most: usize,
    wanted: impl Fn(&StoredEvent) -> bool,
) -> Result<Vec<StoredEvent>, JournalError> {
    let mut events = Vec::new();
    for row in rows {
        if events.len() >= most {
            break;
        }
        let entity = address(row.try_get(7)?, row.try_get(8)?, row.try_get(9)?)?;
        append_row(row)?.expand(&entity, &mut events, &wanted)?;
    }
    events.truncate(most);
    Ok(events)
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
    const SQL: &str = concat!(
        "SELECT ",
        append_columns!(),
        ", e.kind, e.tenant, e.name FROM entry v JOIN entity e ON e.id = v.entity \
         WHERE v.position > ? ORDER BY v.position LIMIT ?"
    );
    // An append has two events or so.
    let rows = sqlx::query(SQL).bind(signed(after)).bind(limit(most.div_ceil(2))).fetch_all(pool).await?;
    expand(&rows, most, |event| event.position > after)
}

/// Embedded, the recovery of a shard goes entity by entity; this serves tools and hand-over, and pays for its rarity by
/// a scan instead of an index that every append would have to keep.
pub(super) async fn replay_shard(
    pool: &SqlitePool,
    of: ShardId,
    after_seq: u64,
    most: usize,
) -> Result<Vec<StoredEvent>, JournalError> {
    const SQL: &str = concat!(
        "SELECT ",
        append_columns!(),
        ", e.kind, e.tenant, e.name FROM entry v JOIN entity e ON e.id = v.entity \
         WHERE v.shard = ? AND v.seq > ? ORDER BY v.position LIMIT ?"
    );
    let query = sqlx::query(SQL).bind(i64::from(of.index())).bind(signed(after_seq)).bind(limit(most));
    expand(&query.fetch_all(pool).await?, most, |event| event.seq > after_seq)
}

/// The appends of an entity from its event `?2` on: those that are in their place, and the newest, which are not yet.
pub(super) const HISTORY: &str = concat!(
    "SELECT ",
    append_columns!(),
    " FROM place p JOIN entry v ON v.position = p.position WHERE p.entity = ?1 AND p.nth >= ?2 UNION ALL SELECT ",
    append_columns!(),
    " FROM entry v WHERE v.position > (SELECT coalesce(max(value), 0) FROM meta WHERE name = 'placed') \
     AND v.entity = ?1 AND v.nth >= ?2 ORDER BY 5"
);

pub(super) async fn load_entity(
    pool: &SqlitePool,
    entity: &EntityAddress,
) -> Result<EntityHistory, JournalError> {
    const SNAPSHOT: &str = "SELECT e.id, e.finished, coalesce(s.nth, 0), s.version, s.body FROM entity e \
                            LEFT JOIN snapshot s ON s.entity = e.id WHERE e.name = ? AND e.tenant = ? AND e.kind = ?";
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
    let rows = sqlx::query(HISTORY).bind(id).bind(signed(nth)).fetch_all(pool).await?;
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
        "SELECT kind, tenant, name, shard FROM entity WHERE finished = 0 AND kind = ? ORDER BY id";
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

pub(super) async fn identity(pool: &SqlitePool) -> Result<u64, JournalError> {
    const SQL: &str = "SELECT value FROM meta WHERE name = 'identity'";
    let found = sqlx::query(SQL).fetch_optional(pool).await?;
    found.map_or_else(|| Err(corrupt("no identity of the journal in table", "meta")), |row| number(&row, 0))
}

pub(super) async fn epochs(pool: &SqlitePool) -> Result<Vec<Seal>, JournalError> {
    let rows = sqlx::query("SELECT id, epoch, owner FROM shard ORDER BY id").fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok(Seal { shard: shard(number(row, 0)?)?, epoch: Epoch(number(row, 1)?), owner: row.try_get(2)? })
        })
        .collect()
}

fn document(row: &SqliteRow, key: DocumentKey) -> Result<Option<Document>, JournalError> {
    let Some(body) = row.try_get::<Option<&str>, _>(2)? else { return Ok(None) };
    let body = serde_json::from_str(body).map_err(|error| corrupt("document", error))?;
    Ok(Some(Document { key, revision: number(row, 0)?, at: Timestamp::from_micros(row.try_get(1)?), body }))
}

/// The version in force at `revision`; `None` when there is none or it was deleted.
pub(super) async fn document_at(
    pool: &SqlitePool,
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
