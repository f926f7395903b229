//! Multi-row statements. A batch of n rows is cut into powers of two, so that a handful of prepared statements serves all
//! sizes: sqlx hands each statement to the connection's thread, and that hand-over costs more than a row does.

use std::sync::OnceLock;

use sqlx::{SqliteConnection, query::Query, sqlite::SqliteArguments};

use super::plan::{EventRow, Plan};
use crate::Append;

/// Rows of the largest statement: 2^6. 11 columns × 64 stay far below SQLite's 32,766 parameters.
const LARGEST: usize = 6;

type Statement = Query<'static, sqlx::Sqlite, SqliteArguments>;

/// The texts of one kind of statement, by the power of two of its rows.
struct Texts(OnceLock<Vec<String>>);

impl Texts {
    const fn new() -> Self {
        Self(OnceLock::new())
    }

    fn get(&'static self, power: usize, head: &str, row: &str, tail: &str) -> Statement {
        let texts = self.0.get_or_init(|| {
            let text = |p: usize| format!("{head}{}{tail}", vec![row; 1 << p].join(","));
            (0..=LARGEST).map(text).collect()
        });
        sqlx::query(texts[power].as_str())
    }
}

/// Cuts `rows` into slices whose lengths are powers of two, the largest first.
fn cut<T>(mut rows: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    std::iter::from_fn(move || {
        let power = (rows.len().checked_ilog2()? as usize).min(LARGEST);
        let (head, tail) = rows.split_at(1 << power);
        rows = tail;
        Some((power, head))
    })
}

/// Largest counts for which a whole transaction is one text: the usual batch of a system that is not busy. There are few
/// enough shapes of it (9 × 3 × 3) to keep all prepared.
const SMALL_EVENTS: usize = 8;
const SMALL_MARKS: usize = 2;

const ENTITY: (&str, &str) =
    ("INSERT INTO entity (id, kind, tenant, name, shard, finished) VALUES ", "(?,?,?,?,?,0)");
const EVENT: (&str, &str) = (
    "INSERT INTO event (position, shard, seq, epoch, entity, nth, kind, version, at, last, payload) VALUES ",
    "(?,?,?,?,?,?,?,?,?,?,?)",
);
const FINISH: &str = "UPDATE entity SET finished = 1 WHERE id IN (";

/// A small plan's whole transaction as one text with all its values; `None` for a larger one.
pub(super) fn transaction(plan: &Plan, appends: &[&Append]) -> Option<Statement> {
    static TEXTS: OnceLock<Vec<String>> = OnceLock::new();
    let (entities, events, finished) = (plan.entities.len(), plan.events.len(), plan.finished.len());
    if events > SMALL_EVENTS || entities.max(finished) > SMALL_MARKS || !plan.revived.is_empty() {
        return None;
    }
    let texts = TEXTS.get_or_init(|| {
        let shapes = (0..=SMALL_EVENTS).flat_map(|e| (0..=SMALL_MARKS).map(move |n| (e, n)));
        let shapes = shapes.flat_map(|(e, n)| (0..=SMALL_MARKS).map(move |f| (e, n, f)));
        shapes.map(|(events, entities, finished)| small_text(events, entities, finished)).collect()
    });
    let text = &texts[(events * (SMALL_MARKS + 1) + entities) * (SMALL_MARKS + 1) + finished];
    let query =
        plan.entities.iter().fold(sqlx::query(text.as_str()), |query, row| bind_entity(query, row, appends));
    let query = plan.events.iter().fold(query, |query, row| bind_event(query, row, appends));
    Some(plan.finished.iter().fold(query, |query, id| query.bind(*id)))
}

fn small_text(events: usize, entities: usize, finished: usize) -> String {
    let mut text = "BEGIN IMMEDIATE;".to_owned();
    for ((head, row), n) in [(ENTITY, entities), (EVENT, events)] {
        if n > 0 {
            text += &format!("{head}{};", vec![row; n].join(","));
        }
    }
    if finished > 0 {
        text += &format!("{FINISH}{});", vec!["?"; finished].join(","));
    }
    text + "COMMIT"
}

/// SQLite's integers are signed; counters here stay far below 2^63.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The statements of a plan, in order.
pub(super) fn statements<'a>(
    plan: &'a Plan,
    appends: &'a [&'a Append],
) -> impl Iterator<Item = Statement> + 'a {
    let entities = cut(&plan.entities).map(|(power, rows)| entity_rows(power, rows, appends));
    let events = cut(&plan.events).map(|(power, rows)| event_rows(power, rows, appends));
    let finished = cut(&plan.finished).map(|(power, rows)| mark(power, rows, true));
    let revived = cut(&plan.revived).map(|(power, rows)| mark(power, rows, false));
    entities.chain(events).chain(finished).chain(revived)
}

fn entity_rows(power: usize, rows: &[(usize, i64)], appends: &[&Append]) -> Statement {
    static TEXTS: Texts = Texts::new();
    rows.iter().fold(TEXTS.get(power, ENTITY.0, ENTITY.1, ""), |query, row| bind_entity(query, row, appends))
}

fn bind_entity(query: Statement, (append, id): &(usize, i64), appends: &[&Append]) -> Statement {
    let entity = &appends[*append].entity;
    query
        .bind(*id)
        .bind(entity.kind.as_str())
        .bind(entity.tenant.as_str().to_owned())
        .bind(entity.id.clone())
        .bind(i64::from(entity.shard().index()))
}

fn event_rows(power: usize, rows: &[EventRow], appends: &[&Append]) -> Statement {
    static TEXTS: Texts = Texts::new();
    rows.iter().fold(TEXTS.get(power, EVENT.0, EVENT.1, ""), |query, row| bind_event(query, row, appends))
}

fn bind_event(query: Statement, row: &EventRow, appends: &[&Append]) -> Statement {
    let append = appends[row.append];
    let event = &append.events[row.index];
    let query = query
        .bind(signed(row.position))
        .bind(i64::from(row.shard))
        .bind(signed(row.seq))
        .bind(signed(append.epoch.0))
        .bind(row.entity)
        .bind(signed(row.nth));
    let query = match &event.kind {
        std::borrow::Cow::Borrowed(kind) => query.bind(*kind),
        std::borrow::Cow::Owned(kind) => query.bind(kind.clone()),
    };
    query
        .bind(i64::from(event.version))
        .bind(event.at.as_micros())
        .bind(i64::from(event.last))
        .bind(event.payload.to_vec())
}

fn mark(power: usize, rows: &[i64], finished: bool) -> Statement {
    static FINISHED: Texts = Texts::new();
    static REVIVED: Texts = Texts::new();
    let query = if finished {
        FINISHED.get(power, FINISH, "?", ")")
    } else {
        REVIVED.get(power, "UPDATE entity SET finished = 0 WHERE id IN (", "?", ")")
    };
    rows.iter().fold(query, |query, id| query.bind(*id))
}

/// Brings the shards' rows up to date; with `owner`, because they were sealed for it.
pub(super) async fn write_heads(
    connection: &mut SqliteConnection,
    heads: &[(u16, u64, u64)],
    owner: Option<&str>,
) -> Result<(), sqlx::Error> {
    static KEEP: Texts = Texts::new();
    static SEAL: Texts = Texts::new();
    let head = "INSERT INTO shard (id, epoch, seq, owner) VALUES ";
    for (power, rows) in cut(heads) {
        let query = match owner {
            None => KEEP.get(power, head, "(?,?,?,?)", " ON CONFLICT (id) DO UPDATE SET seq = excluded.seq"),
            Some(_) => SEAL.get(
                power,
                head,
                "(?,?,?,?)",
                " ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, epoch = excluded.epoch, owner = excluded.owner",
            ),
        };
        let query = rows.iter().fold(query, |query, (shard, epoch, seq)| {
            query
                .bind(i64::from(*shard))
                .bind(signed(*epoch))
                .bind(signed(*seq))
                .bind(owner.unwrap_or_default().to_owned())
        });
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_cut_into_powers_of_two_in_order() {
        for n in 0..300usize {
            let rows: Vec<usize> = (0..n).collect();
            let cuts: Vec<_> = cut(&rows).collect();
            assert!(cuts.iter().all(|(power, rows)| rows.len() == 1 << power && *power <= LARGEST));
            assert_eq!(cuts.concat_rows(), rows, "n = {n}");
        }
    }

    trait Concat {
        fn concat_rows(&self) -> Vec<usize>;
    }
    impl Concat for Vec<(usize, &[usize])> {
        fn concat_rows(&self) -> Vec<usize> {
            self.iter().flat_map(|(_, rows)| rows.iter().copied()).collect()
        }
    }
}
