//! The schema by versions. Never changed once released, only added to.

use rusqlite::{Transaction, params};
use trunkline_types::{EntityAddress, EntityKind, Epoch, Timestamp};

use crate::{Append, NewEvent, body};

/// The newest version.
pub(super) const KNOWN: i64 = 3;

/// One row an event.
const FIRST: &str = r"
CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE shard (
    id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, owner TEXT NOT NULL
) STRICT;
CREATE TABLE entity (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
    shard INTEGER NOT NULL, finished INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX entity_by_name ON entity (name, tenant, kind);
CREATE INDEX entity_live ON entity (kind, shard) WHERE finished = 0;
CREATE TABLE event (
    position INTEGER PRIMARY KEY, shard INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL,
    entity INTEGER NOT NULL, nth INTEGER NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL,
    at INTEGER NOT NULL, last INTEGER NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX event_by_entity ON event (entity, nth);
CREATE TABLE snapshot (
    entity INTEGER PRIMARY KEY, nth INTEGER NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE TABLE document (
    tenant TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL,
    at INTEGER NOT NULL, body TEXT, PRIMARY KEY (tenant, kind, id, revision)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX document_by_revision ON document (revision);
";

/// One row an append: position, seq and nth are those of its last event. Live entities are indexed where they were made,
/// at the end, instead of by kind and shard: one page less of each commit.
const APPENDS: &str = r"
CREATE TABLE entry (
    position INTEGER PRIMARY KEY, shard INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL,
    entity INTEGER NOT NULL, nth INTEGER NOT NULL, events INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX entry_by_entity ON entry (entity, nth);
DROP INDEX entity_live;
CREATE INDEX entity_live ON entity (id) WHERE finished = 0;
";

/// Which entries are an entity's. As an index it cost almost every commit a page of each entity's own, half of all pages
/// written; as a table it is written for many appends at once. Entries after the position `placed` are not in it yet.
const PLACES: &str = r"
CREATE TABLE place (
    entity INTEGER NOT NULL, nth INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (entity, nth)
) STRICT, WITHOUT ROWID;
INSERT INTO place (entity, nth, position) SELECT entity, nth, position FROM entry ORDER BY entity, nth;
INSERT OR REPLACE INTO meta (name, value) SELECT 'placed', coalesce(max(position), 0) FROM entry;
DROP INDEX entry_by_entity;
";

/// Why a migration failed.
#[derive(Debug)]
pub(super) enum Error {
    Sqlite(rusqlite::Error),
    /// A row that cannot be carried over.
    Row(String),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Leads from the version before to this one.
pub(super) fn apply(transaction: &Transaction<'_>, version: i64) -> Result<(), Error> {
    match version {
        1 => transaction.execute_batch(FIRST)?,
        2 => {
            transaction.execute_batch(APPENDS)?;
            carry_over(transaction)?;
            transaction.execute_batch("DROP TABLE event")?;
        }
        3 => transaction.execute_batch(PLACES)?,
        other => return Err(Error::Row(format!("no way to schema version {other} is known"))),
    }
    let sql = "INSERT INTO schema_version (version, applied_at) VALUES (?, unixepoch())";
    transaction.execute(sql, [version])?;
    Ok(())
}

/// Each old event becomes an append of its own.
fn carry_over(transaction: &Transaction<'_>) -> Result<(), Error> {
    let mut read = transaction.prepare(
        "SELECT position, shard, seq, epoch, entity, nth, kind, version, at, last, payload FROM event ORDER BY position",
    )?;
    let mut write = transaction.prepare("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, 1, ?)")?;
    // The encoder wants an append; whose does not matter to it.
    let tenant = "default".parse().map_err(|error| Error::Row(format!("tenant: {error}")))?;
    let entity = EntityAddress { kind: EntityKind::Queue, tenant, id: String::new() };
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let version: i64 = row.get(7)?;
        let event = NewEvent {
            kind: row.get::<_, String>(6)?.into(),
            version: u16::try_from(version).map_err(|_| Error::Row(format!("event version {version}")))?,
            at: Timestamp::from_micros(row.get(8)?),
            payload: row.get::<_, Vec<u8>>(10)?.into(),
            last: row.get(9)?,
        };
        let append = Append { entity: entity.clone(), epoch: Epoch(0), after: 0, events: vec![event] };
        let place: [i64; 6] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
        let [position, shard, seq, epoch, of, nth] = place;
        write.execute(params![position, shard, seq, epoch, of, nth, body::encode(&append)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use trunkline_types::ShardId;

    use super::*;
    use crate::{Journal, SqliteJournal, SqliteOptions};

    #[tokio::test]
    async fn a_file_of_the_first_version_is_read_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let entity = EntityAddress::queue(&"default".parse().unwrap(), &"support".parse().unwrap());
        let shard = entity.shard().index();
        let mut old = Connection::open(dir.path().join("journal.db")).unwrap();
        old.pragma_update(None, "application_id", 0x7472_6e6b).unwrap();
        let transaction = old.transaction().unwrap();
        apply(&transaction, 1).unwrap();
        transaction
            .execute_batch(&format!(
                "INSERT INTO shard VALUES ({shard}, 7, 0, 'old'); INSERT INTO meta VALUES ('heads_at', 0); \
                 INSERT INTO entity VALUES (1, 'queue', 'default', 'support', {shard}, 0); \
                 INSERT INTO event VALUES (1, {shard}, 1, 6, 1, 1, 'queue.entered', 3, 1000001, 0, x'0102'); \
                 INSERT INTO event VALUES (2, {shard}, 2, 7, 1, 2, 'queue.left', 1, 2000001, 1, x''); \
                 INSERT INTO event VALUES (3, {shard}, 3, 7, 1, 3, 'queue.entered', 3, 3000001, 0, x'03'); \
                 INSERT INTO snapshot VALUES (1, 2, 5, x'ff')"
            ))
            .unwrap();
        transaction.commit().unwrap();
        drop(old);
        let journal = SqliteJournal::open(SqliteOptions::in_dir(dir.path())).await.unwrap();
        let events = journal.tail(0, 10).await.unwrap();
        let events: Vec<_> = events
            .iter()
            .map(|e| {
                (
                    e.position,
                    e.seq,
                    e.nth,
                    e.epoch.0,
                    &*e.kind,
                    e.version,
                    e.at.as_micros(),
                    e.last,
                    &e.payload[..],
                )
            })
            .collect();
        assert_eq!(
            events,
            [
                (1, 1, 1, 6, "queue.entered", 3, 1_000_001, false, &[1, 2][..]),
                (2, 2, 2, 7, "queue.left", 1, 2_000_001, true, &[]),
                (3, 3, 3, 7, "queue.entered", 3, 3_000_001, false, &[3]),
            ]
        );
        let history = journal.load_entity(&entity).await.unwrap();
        assert_eq!((history.snapshot.unwrap().nth, history.events.len(), history.count), (2, 1, 3));
        let shards = [ShardId::new(shard).unwrap()];
        let live = journal.live_entities(EntityKind::Queue, &shards).await.unwrap();
        assert_eq!(live, std::slice::from_ref(&entity));
        let event = NewEvent::new("queue.left", 1, Timestamp::ZERO, vec![4]);
        let append = Append { entity, epoch: Epoch(7), after: 3, events: vec![event] };
        let appended = journal.append(append).await.unwrap();
        assert_eq!((appended.first_seq, appended.position), (4, 4));
        journal.close().await;
    }

    #[tokio::test]
    async fn a_file_of_the_second_version_finds_its_entities_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let entities: Vec<_> = ["a", "b"]
            .map(|id| EntityAddress::queue(&"default".parse().unwrap(), &id.parse().unwrap()))
            .into();
        let mut old = Connection::open(dir.path().join("journal.db")).unwrap();
        old.pragma_update(None, "application_id", 0x7472_6e6b).unwrap();
        let transaction = old.transaction().unwrap();
        apply(&transaction, 1).unwrap();
        apply(&transaction, 2).unwrap();
        for (n, entity) in (1..).zip(&entities) {
            let (shard, name) = (entity.shard().index(), &entity.id);
            transaction.execute("INSERT INTO shard VALUES (?, 4, 0, 'old')", [shard]).unwrap();
            let row = params![n, name, shard];
            transaction.execute("INSERT INTO entity VALUES (?, 'queue', 'default', ?, ?, 0)", row).unwrap();
        }
        // By turns, two events each.
        let event = |n: u64| NewEvent::new("queue.entered", 1, Timestamp::ZERO, n.to_be_bytes().to_vec());
        for n in 0..50_u64 {
            let entity = &entities[(n % 2) as usize];
            let after = n / 2 * 2;
            let events = vec![event(after + 1), event(after + 2)];
            let append = Append { entity: entity.clone(), epoch: Epoch(4), after, events };
            let (id, shard) = (n % 2 + 1, entity.shard().index());
            let row = params![2 * n + 2, shard, after + 2, 4, id, after + 2, 2, body::encode(&append)];
            transaction.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row).unwrap();
        }
        transaction.commit().unwrap();
        drop(old);
        let journal = SqliteJournal::open(SqliteOptions::in_dir(dir.path())).await.unwrap();
        for entity in &entities {
            let twin = Append { entity: entity.clone(), epoch: Epoch(4), after: 0, events: vec![event(1)] };
            assert_eq!(journal.append(twin).await, Err(crate::AppendError::Conflict { actual: 50 }));
            let next = Append { entity: entity.clone(), epoch: Epoch(4), after: 50, events: vec![event(51)] };
            journal.append(next).await.unwrap();
            let history = journal.load_entity(entity).await.unwrap();
            let numbers =
                history.events.iter().map(|e| u64::from_be_bytes(e.payload[..].try_into().unwrap()));
            assert!(numbers.eq(1..=51), "{history:?}");
        }
        journal.close().await;
    }
}
