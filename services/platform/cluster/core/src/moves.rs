//! The last changes of owners, for operators.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use trunkline_types::{NodeId, ShardId};

use crate::{Map, coordinator::reason, plan::Reason, table::Block, table::place_of, table::shards_of};

/// Finished moves that are remembered.
const KEPT: usize = 512;

/// A shard's change of owner as this node has seen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// Who had it.
    pub from: Option<NodeId>,
    /// Who gets it.
    pub to: NodeId,
    /// Why.
    pub reason: Reason,
    /// When the assignment was seen.
    pub started: Duration,
    /// When the new owner had opened it; `None` = under way.
    pub finished: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Moves {
    under_way: BTreeMap<ShardId, Move>,
    done: VecDeque<Move>,
}

impl Moves {
    /// A block is about to replace the one in the map.
    pub fn assigned(&mut self, now: Duration, map: &Map, index: usize, block: &Block) {
        for shard in shards_of(index) {
            let (old, new) = (map.assignment(shard), &block.0[place_of(shard)]);
            let Some(to) = new.owner.as_ref().filter(|_| old.turn < new.turn) else { continue };
            let (from, reason) =
                (new.previous.as_ref().map(|node| node.id.clone()), reason(map, new.previous.as_ref()));
            if let Some(unfinished) = self.under_way.remove(&shard) {
                self.keep(unfinished);
            }
            let begun = Move { shard, from, to: to.id.clone(), reason, started: now, finished: None };
            self.under_way.insert(shard, begun);
        }
    }

    /// Owners have said what they hold.
    pub fn look(&mut self, now: Duration, map: &Map) {
        let done: Vec<_> =
            self.under_way.keys().filter(|shard| map.published(**shard).is_some()).copied().collect();
        for shard in done {
            if let Some(mut done) = self.under_way.remove(&shard) {
                done.finished = Some(now);
                self.keep(done);
            }
        }
    }

    fn keep(&mut self, done: Move) {
        if self.done.len() == KEPT {
            self.done.pop_front();
        }
        self.done.push_back(done);
    }

    /// Those under way, then the finished ones, newest first; at most `most`.
    pub fn newest(&self, most: usize) -> Vec<Move> {
        self.under_way.values().chain(self.done.iter().rev()).take(most).cloned().collect()
    }

    /// How many of the nodes that take or give shards now come before this one.
    pub fn rank(&self, me: &NodeId) -> u32 {
        let nodes: BTreeSet<&NodeId> =
            self.under_way.values().flat_map(|moved| moved.from.iter().chain([&moved.to])).collect();
        nodes.iter().filter(|node| **node < me).count() as u32
    }

    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }
}
