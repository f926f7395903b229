//! What the writer knows in memory, and what a batch will change of it. No I/O.
//!
//! The writer is the only one that changes the file, so epochs, sequence numbers and the counts of recently used
//! entities are held here and checked without a read. They are changed while a batch is planned; when its transaction
//! fails, the whole state is thrown away and read anew.

use std::collections::{BTreeSet, HashMap};

use trunkline_types::{EntityAddress, Epoch, SHARD_COUNT, ShardId};

use crate::{Append, AppendError, Appended};

/// Entities remembered per generation; two generations are kept.
const GENERATION: usize = 16_384;

/// A shard's newest state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// An entity's row and how many events it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) id: i64,
    pub(super) count: u64,
    pub(super) finished: bool,
}

/// Recently used entities: two generations, so that forgetting costs nothing per use.
#[derive(Debug, Default)]
pub(super) struct Recent {
    young: HashMap<EntityAddress, Known>,
    old: HashMap<EntityAddress, Known>,
}

impl Recent {
    pub(super) fn get(&self, entity: &EntityAddress) -> Option<Known> {
        self.young.get(entity).or_else(|| self.old.get(entity)).copied()
    }

    pub(super) fn put(&mut self, entity: &EntityAddress, known: Known) {
        if let Some(held) = self.young.get_mut(entity) {
            *held = known;
            return;
        }
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(entity.clone(), known);
    }

    pub(super) fn forget(&mut self, entity: &EntityAddress) {
        self.young.remove(entity);
        self.old.remove(entity);
    }
}

/// Everything the writer knows about the file.
#[derive(Debug)]
pub(super) struct State {
    pub(super) heads: Vec<Head>,
    /// Shards whose `seq` differs from their row.
    pub(super) dirty: BTreeSet<u16>,
    /// The highest position.
    pub(super) position: u64,
    /// The position up to which the shards' rows are current.
    pub(super) heads_at: u64,
    /// The position up to which entries can be found by their entity without a scan.
    pub(super) placed: u64,
    /// The highest entity row.
    pub(super) entity: i64,
    /// The newest document revision.
    pub(super) revision: u64,
    pub(super) recent: Recent,
}

impl State {
    pub(super) fn empty() -> Self {
        Self {
            heads: vec![Head::default(); usize::from(SHARD_COUNT)],
            dirty: BTreeSet::new(),
            position: 0,
            heads_at: 0,
            placed: 0,
            entity: 0,
            revision: 0,
            recent: Recent::default(),
        }
    }

    pub(super) fn head(&mut self, shard: ShardId) -> &mut Head {
        &mut self.heads[usize::from(shard.index())]
    }
}

/// One append's place, that of its last event; its content stays in the append.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryRow {
    pub(super) append: usize,
    pub(super) position: u64,
    pub(super) shard: u16,
    pub(super) seq: u64,
    pub(super) entity: i64,
    pub(super) nth: u64,
}

/// A transaction to be.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) entries: Vec<EntryRow>,
    /// Entities that are new: the append that brings each, and its row.
    pub(super) entities: Vec<(usize, i64)>,
    /// Rows of entities to be marked as finished, or (rarely) as live again.
    pub(super) finished: Vec<i64>,
    pub(super) revived: Vec<i64>,
    /// One for each append, in order.
    pub(super) outcomes: Vec<Result<Appended, AppendError>>,
}

impl Plan {
    /// Decides every append. Neighbours of a refused one are not touched by it.
    ///
    /// What `state` does not know about an entity counts as "has no events": the caller has looked up those that build
    /// on earlier events, and the unique index of names catches the others.
    pub(super) fn make<'a>(state: &mut State, appends: impl Iterator<Item = &'a Append>) -> Self {
        let mut plan = Self::default();
        for (index, append) in appends.enumerate() {
            let outcome = plan.add(state, index, append);
            plan.outcomes.push(outcome);
        }
        plan
    }

    fn add(&mut self, state: &mut State, index: usize, append: &Append) -> Result<Appended, AppendError> {
        let shard = append.entity.shard();
        let epoch = state.head(shard).epoch;
        if epoch == 0 || append.epoch.0 != epoch {
            return Err(AppendError::Fenced { current: Epoch(epoch) });
        }
        let known = state.recent.get(&append.entity);
        let actual = known.map_or(0, |known| known.count);
        if actual != append.after {
            return Err(AppendError::Conflict { actual });
        }
        let entity = match known {
            Some(known) => known.id,
            None => {
                state.entity += 1;
                self.entities.push((index, state.entity));
                state.entity
            }
        };
        let events = append.events.len() as u64;
        state.position += events;
        let (position, head) = (state.position, state.head(shard));
        head.seq += events;
        let (seq, nth) = (head.seq, append.after + events);
        self.entries.push(EntryRow { append: index, position, shard: shard.index(), seq, entity, nth });
        state.dirty.insert(shard.index());
        self.note_end(state, append, entity, known.is_some_and(|known| known.finished));
        Ok(Appended { first_seq: seq + 1 - events, last_seq: seq, position })
    }

    fn note_end(&mut self, state: &mut State, append: &Append, entity: i64, was_finished: bool) {
        let count = append.after + append.events.len() as u64;
        let finished = append.events.last().is_some_and(|event| event.last);
        state.recent.put(&append.entity, Known { id: entity, count, finished });
        match (was_finished, finished) {
            (false, true) => {
                self.revived.retain(|id| *id != entity);
                self.finished.push(entity);
            }
            (true, false) => {
                self.finished.retain(|id| *id != entity);
                self.revived.push(entity);
            }
            _ => {}
        }
    }

    /// True when there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
