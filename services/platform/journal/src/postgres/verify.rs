//! Whether the journal in a database is whole: read once from end to end, against all that it promises. Nodes may go on
//! writing meanwhile: what came after the beginning is read too, but not missed.

use std::collections::HashMap;

use sqlx::{Connection, Executor, Row, postgres::PgRow};
use trunkline_types::{EntityAddress, Epoch, ShardId};

use super::{PostgresInspector, read};
use crate::{JournalError, StoredEvent};

/// Events read at a time.
const PAGE: usize = 5_000;
/// Defects that are told one by one.
const TOLD: usize = 50;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Shards with events.
    pub shards: usize,
    /// Entities with events.
    pub entities: usize,
    /// Entities that have not ended.
    pub live: usize,
    /// Events.
    pub events: u64,
    /// The highest position.
    pub position: u64,
    /// The highest epoch of a shard.
    pub epoch: u64,
    /// What is not as it must be, 50 at most; empty = the journal is whole.
    pub defects: Vec<String>,
    /// How many defects there are in all.
    pub defect_count: u64,
}

impl Verified {
    fn defect(&mut self, text: impl FnOnce() -> String) {
        self.defect_count += 1;
        if self.defects.len() < TOLD {
            self.defects.push(text());
        }
    }
}

/// A shard's row.
struct Head {
    shard: ShardId,
    epoch: Epoch,
    seq: u64,
}

/// A shard's entities, and how many of them have ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Entities {
    all: usize,
    ended: usize,
}

impl PostgresInspector {
    /// Reads every event and compares: numbers within each shard and each entity without holes, epochs that never fall and
    /// never pass the shard's, bodies that can be read, ended entities that are marked so. `visit` is given every event, and
    /// `progress` the share of the shards that is done, from 0 to 1.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn verify(
        &self,
        mut visit: impl FnMut(&StoredEvent),
        mut progress: impl FnMut(f64),
    ) -> Result<Verified, JournalError> {
        let heads = self.heads(None).await?;
        let listed = self.listed().await?;
        let mut verified = Verified::default();
        let all = heads.len().max(1) as f64;
        for (n, head) in heads.iter().enumerate() {
            let mut reading = Reading::default();
            self.read(head, &mut reading, &mut verified, &mut visit).await?;
            let now = self.heads(Some(head.shard)).await?.pop();
            if let Some(now) = now {
                let listed = listed.get(&head.shard).copied().unwrap_or_default();
                reading.judge(head, &now, listed, &mut verified);
            }
            progress((n + 1) as f64 / all);
        }
        Ok(verified)
    }

    async fn heads(&self, only: Option<ShardId>) -> Result<Vec<Head>, JournalError> {
        let sql = "SELECT id, epoch, seq FROM trunkline.shard WHERE $1 IS NULL OR id = $1 ORDER BY id";
        let only = only.map(|shard| i32::from(shard.index()));
        let rows = sqlx::query(sql).bind(only).fetch_all(&self.pool).await?;
        let corrupt = |what: &str, value: i64| JournalError::Corrupt(format!("{what} {value} of a shard"));
        let head = |row: &PgRow| {
            let (id, epoch, seq): (i32, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let shard = u16::try_from(id).ok().and_then(ShardId::new);
            Ok(Head {
                shard: shard.ok_or_else(|| corrupt("number", id.into()))?,
                epoch: Epoch(u64::try_from(epoch).map_err(|_| corrupt("epoch", epoch))?),
                seq: u64::try_from(seq).map_err(|_| corrupt("seq", seq))?,
            })
        };
        rows.iter().map(head).collect()
    }

    /// The entities that the database lists, by shard. It reads a whole table: without the bound of everyday statements.
    async fn listed(&self) -> Result<HashMap<ShardId, Entities>, JournalError> {
        let sql =
            "SELECT shard, count(*), count(*) FILTER (WHERE finished) FROM trunkline.entity GROUP BY shard";
        let mut connection = self.server.connect().await?;
        connection.execute("SET statement_timeout = '15min'").await?;
        let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
        let _ = connection.close().await;
        let mut listed = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (shard, all, ended): (i32, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let count = |n: i64| usize::try_from(n).unwrap_or_default();
            if let Some(shard) = u16::try_from(shard).ok().and_then(ShardId::new) {
                listed.insert(shard, Entities { all: count(all), ended: count(ended) });
            }
        }
        Ok(listed)
    }

    async fn read(
        &self,
        head: &Head,
        reading: &mut Reading,
        verified: &mut Verified,
        visit: &mut impl FnMut(&StoredEvent),
    ) -> Result<(), JournalError> {
        loop {
            match read::replay_shard(&self.pool, head.shard, reading.seq, PAGE).await {
                Ok(page) if page.is_empty() => return Ok(()),
                Ok(page) => page.iter().for_each(|event| {
                    reading.take(event, verified);
                    visit(event);
                }),
                Err(JournalError::Corrupt(why)) => {
                    let (shard, seq) = (head.shard.index(), reading.seq);
                    verified.defect(|| format!("shard {shard} cannot be read after event {seq}: {why}"));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What was read of a shard so far.
#[derive(Default)]
struct Reading {
    seq: u64,
    epoch: Epoch,
    /// Events of each entity, and whether the last one ended it.
    entities: HashMap<EntityAddress, (u64, bool)>,
}

impl Reading {
    fn take(&mut self, event: &StoredEvent, verified: &mut Verified) {
        let shard = event.shard.index();
        if event.seq != self.seq + 1 {
            verified.defect(|| format!("shard {shard}: event {} follows event {}", event.seq, self.seq));
        }
        if event.epoch < self.epoch {
            let (seq, before) = (event.seq, self.epoch.0);
            verified.defect(|| {
                format!("shard {shard}, event {seq}: epoch {} after epoch {before}", event.epoch.0)
            });
        }
        (self.seq, self.epoch) = (event.seq, self.epoch.max(event.epoch));
        let entity = self.entities.entry(event.entity.clone()).or_default();
        if event.nth != entity.0 + 1 {
            verified.defect(|| format!("{}: event {} follows event {}", event.entity, event.nth, entity.0));
        }
        *entity = (event.nth, event.last);
        verified.events += 1;
        verified.position = verified.position.max(event.position);
    }

    /// Against the shard's row as it was before the events were read, and as it is now.
    fn judge(self, before: &Head, now: &Head, listed: Entities, verified: &mut Verified) {
        let shard = before.shard.index();
        if self.seq < before.seq || self.seq > now.seq {
            verified.defect(|| format!("shard {shard}: {} events of {} are there", self.seq, before.seq));
        }
        if self.epoch > now.epoch {
            let (written, has) = (self.epoch.0, now.epoch.0);
            verified.defect(|| format!("shard {shard}: events of epoch {written}, but it is at epoch {has}"));
        }
        let known = Entities {
            all: self.entities.len(),
            ended: self.entities.values().filter(|(_, ended)| *ended).count(),
        };
        if before.seq == now.seq && known != listed {
            verified.defect(|| {
                let (all, ended) = (listed.all, listed.ended);
                format!(
                    "shard {shard}: {all} entities are listed, {ended} of them ended; the events tell of {} and {}",
                    known.all, known.ended
                )
            });
        }
        verified.epoch = verified.epoch.max(now.epoch.0);
        verified.shards += usize::from(self.seq > 0);
        verified.entities += known.all;
        verified.live += known.all - known.ended;
    }
}
