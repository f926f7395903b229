//! A coordination of few words: the world itself assigns the shards that matter, nodes take and leave them in the same
//! steps as the real machine (ask, seal, rebuild; close). It costs next to nothing, so that many schedules can be run; one
//! in [`super::REAL_EVERY`] runs the real machine.

use std::{collections::BTreeMap, rc::Rc};

use trunkline_cluster_core::{Effect, Holding, Input, NodeIdentity};
use trunkline_types::{Epoch, ShardId};

/// Who should own a shard.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assigned {
    pub(super) owner: NodeIdentity,
    pub(super) previous: Option<NodeIdentity>,
    pub(super) turn: u64,
    /// The epoch at which it is active.
    pub(super) published: Option<Epoch>,
}

pub(super) type LightMap = BTreeMap<ShardId, Assigned>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Away { not_turn: Option<u64> },
    Asking(u64),
    Sealing(u64),
    Opening(u64, Epoch),
    Held(u64, Epoch),
    Closing { not_turn: Option<u64> },
}

#[derive(Debug)]
pub(super) struct Light {
    me: NodeIdentity,
    map: Rc<LightMap>,
    stages: BTreeMap<ShardId, Stage>,
}

impl Light {
    pub(super) fn new(me: NodeIdentity) -> Self {
        Self { me, map: Rc::default(), stages: BTreeMap::new() }
    }

    pub(super) fn me(&self) -> &NodeIdentity {
        &self.me
    }

    pub(super) fn assigned(&self, shard: ShardId) -> Option<&Assigned> {
        self.map.get(&shard)
    }

    fn stage(&self, shard: ShardId) -> Stage {
        self.stages.get(&shard).copied().unwrap_or(Stage::Away { not_turn: None })
    }

    /// For a description.
    pub(super) fn stage_of(&self, shard: ShardId) -> String {
        format!("{:?}", self.stage(shard))
    }

    pub(super) fn holding(&self, shard: ShardId) -> Holding {
        match self.stage(shard) {
            Stage::Opening(_, epoch) => Holding::Opening(epoch),
            Stage::Held(_, epoch) => Holding::Held(epoch),
            _ => Holding::None,
        }
    }

    pub(super) fn acts(&self, shard: ShardId) -> bool {
        matches!(self.stage(shard), Stage::Opening(..) | Stage::Held(..) | Stage::Closing { .. })
    }

    /// What it holds, to be published.
    pub(super) fn held(&self) -> Vec<(ShardId, u64, Epoch)> {
        let held = self.stages.iter().filter_map(|(shard, stage)| match stage {
            Stage::Held(turn, epoch) => Some((*shard, *turn, *epoch)),
            _ => None,
        });
        held.collect()
    }

    /// A newer map is seen.
    pub(super) fn sees(&mut self, map: Rc<LightMap>) -> Vec<Effect> {
        self.map = map;
        // What was lost to somebody else's map is looked at again by a later one.
        for stage in self.stages.values_mut() {
            if let Stage::Away { not_turn } = stage {
                *not_turn = None;
            }
        }
        let shards: Vec<ShardId> = self.map.keys().copied().collect();
        let mut effects = Vec::new();
        shards.into_iter().for_each(|shard| self.judge(shard, &mut effects));
        effects
    }

    fn judge(&mut self, shard: ShardId, effects: &mut Vec<Effect>) {
        let Some(assigned) = self.map.get(&shard).cloned() else { return };
        let ours = assigned.owner == self.me;
        match self.stage(shard) {
            Stage::Away { not_turn } if ours && not_turn != Some(assigned.turn) => {
                match assigned.previous.filter(|previous| *previous != self.me) {
                    Some(former) => {
                        self.stages.insert(shard, Stage::Asking(assigned.turn));
                        effects.push(Effect::Release(former, vec![shard]));
                    }
                    None => {
                        self.stages.insert(shard, Stage::Sealing(assigned.turn));
                        effects.push(Effect::Seal(vec![shard]));
                    }
                }
            }
            Stage::Opening(turn, _) | Stage::Held(turn, _) if !ours || turn != assigned.turn => {
                self.close(shard, None, effects);
            }
            _ => {}
        }
    }

    fn close(&mut self, shard: ShardId, not_turn: Option<u64>, effects: &mut Vec<Effect>) {
        self.stages.insert(shard, Stage::Closing { not_turn });
        effects.push(Effect::Close(vec![shard]));
    }

    fn wanted(&self, shard: ShardId, turn: u64) -> bool {
        self.map.get(&shard).is_some_and(|assigned| assigned.owner == self.me && assigned.turn == turn)
    }

    pub(super) fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Released(shards) => {
                for shard in shards {
                    let Stage::Asking(turn) = self.stage(shard) else { continue };
                    if self.wanted(shard, turn) {
                        self.stages.insert(shard, Stage::Sealing(turn));
                        effects.push(Effect::Seal(vec![shard]));
                    } else {
                        self.away(shard, None, &mut effects);
                    }
                }
            }
            Input::Sealed(shards) => {
                for (shard, epoch) in shards {
                    let Stage::Sealing(turn) = self.stage(shard) else { continue };
                    if self.wanted(shard, turn) {
                        self.stages.insert(shard, Stage::Opening(turn, epoch));
                        effects.push(Effect::Open(vec![shard]));
                    } else {
                        self.away(shard, None, &mut effects);
                    }
                }
            }
            Input::SealFailed(shards) => {
                for shard in shards {
                    let Stage::Sealing(turn) = self.stage(shard) else { continue };
                    if self.wanted(shard, turn) {
                        effects.push(Effect::Seal(vec![shard]));
                    } else {
                        self.away(shard, None, &mut effects);
                    }
                }
            }
            Input::Opened(shards, _) => {
                for shard in shards {
                    if let Stage::Opening(turn, epoch) = self.stage(shard) {
                        self.stages.insert(shard, Stage::Held(turn, epoch));
                        self.judge(shard, &mut effects);
                    }
                }
            }
            Input::Closed(shards) => {
                for shard in shards {
                    if let Stage::Closing { not_turn } = self.stage(shard) {
                        self.away(shard, not_turn, &mut effects);
                    }
                }
            }
            Input::Fenced(shard, current) => match self.stage(shard) {
                Stage::Opening(turn, epoch) | Stage::Held(turn, epoch) if epoch < current => {
                    self.close(shard, Some(turn), &mut effects);
                }
                _ => {}
            },
            Input::ReleaseRequested(shards) => {
                for shard in shards {
                    if let Stage::Opening(turn, _) | Stage::Held(turn, _) = self.stage(shard) {
                        self.close(shard, Some(turn), &mut effects);
                    }
                }
            }
            _ => {}
        }
        effects
    }

    fn away(&mut self, shard: ShardId, not_turn: Option<u64>, effects: &mut Vec<Effect>) {
        self.stages.insert(shard, Stage::Away { not_turn });
        self.judge(shard, effects);
    }
}
