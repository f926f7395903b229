//! The journal: an epoch for each shard, a history for each entity.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_types::ShardId;

use super::{
    actor::Append,
    core::{Entity, Fact},
};

#[derive(Default)]
pub(super) struct Journal {
    epochs: BTreeMap<ShardId, u64>,
    histories: BTreeMap<Entity, Vec<Fact>>,
    finished: BTreeSet<Entity>,
}

/// Why an append was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The shard was sealed at this epoch.
    Fenced(u64),
    /// It does not follow what is there.
    Conflict,
    /// It may have been taken or not.
    Ambiguous,
}

impl Journal {
    pub(super) fn epoch(&self, shard: ShardId) -> u64 {
        self.epochs.get(&shard).copied().unwrap_or(0)
    }

    /// Raises the epoch; `keeps`: only of a shard that has none.
    pub(super) fn seal(&mut self, shard: ShardId, keeps: bool) -> u64 {
        let epoch = self.epochs.entry(shard).or_default();
        *epoch += u64::from(!keeps || *epoch == 0);
        *epoch
    }

    pub(super) fn append(
        &mut self,
        entity: Entity,
        shard: ShardId,
        epoch: u64,
        append: &Append,
        unfenced: bool,
    ) -> Result<(), Refusal> {
        let current = self.epoch(shard);
        if epoch != current && !unfenced {
            return Err(Refusal::Fenced(current));
        }
        let history = self.histories.entry(entity).or_default();
        if history.len() != append.after || self.finished.contains(&entity) {
            return Err(Refusal::Conflict);
        }
        history.extend(append.facts.iter().cloned());
        if append.last {
            self.finished.insert(entity);
        }
        Ok(())
    }

    pub(super) fn history(&self, entity: Entity) -> &[Fact] {
        self.histories.get(&entity).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_finished(&self, entity: Entity) -> bool {
        self.finished.contains(&entity)
    }

    /// Entities that have begun and not come to their end.
    pub(super) fn live(&self) -> Vec<Entity> {
        let live = self.histories.keys().filter(|entity| !self.finished.contains(entity));
        live.copied().collect()
    }
}
