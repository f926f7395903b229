//! The shards of this node: from "the table names me" to "I act" and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trunkline_types::{Epoch, SHARD_COUNT, ShardId};

use crate::{
    Effect, Holding, Map, NodeIdentity, Policy, Presence,
    table::{HeldShard, Holdings, block_of, shards_of},
};

/// Shards in one request to the journal, to the host, or to a former owner.
const BATCH: usize = 512;

/// How far this node is with one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing acts here. It is not taken before `not_before`; with `confirm` only after the table was read again.
    Away { not_before: Duration, confirm: bool },
    /// The table is read again before the shard is taken.
    Confirming { turn: u64 },
    /// The former owner was asked to let go.
    Asking { turn: u64 },
    /// The journal was asked to seal it.
    Sealing { turn: u64 },
    /// Sealed; the host rebuilds what lives in it.
    Opening { turn: u64, epoch: Epoch },
    /// Sealed; the host could not rebuild and is asked again.
    Reopening { turn: u64, epoch: Epoch, not_before: Duration },
    /// This node acts.
    Held { turn: u64, epoch: Epoch },
    /// The host ends what acts here. Afterwards the shard is away; `fenced` = it was lost in a way that the table does not
    /// tell yet, at this turn.
    Closing { fenced: Option<u64> },
}

const AWAY: Stage = Stage::Away { not_before: Duration::ZERO, confirm: false };

/// Whether this node may take shards now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct May {
    /// It is registered and its lease is known to live.
    pub take: bool,
    pub now: Duration,
}

#[derive(Debug)]
pub(crate) struct Holder {
    me: NodeIdentity,
    policy: Policy,
    stages: Vec<Stage>,
    failures: BTreeMap<ShardId, u32>,
    /// Shards of others that this node has sealed, and at which epoch: if their owners sealed them before, they do not know that
    /// nobody listens to them any more.
    strays: BTreeMap<ShardId, Epoch>,
    /// Shards whose stage waits for a time, or for [`May::take`].
    waiting: BTreeSet<ShardId>,
    /// As the store has it; `None` = not known.
    published: Option<Holdings>,
    publish_at: Option<Duration>,
    /// How long others publish before this node.
    pub(crate) turn_to_publish: Duration,
    publishing: bool,
}

/// Requests of one step, gathered so that a batch is one request.
#[derive(Debug, Default)]
struct Requests {
    holding: Vec<(ShardId, Holding)>,
    release: BTreeMap<NodeIdentity, Vec<ShardId>>,
    seal: Vec<ShardId>,
    open: Vec<ShardId>,
    close: Vec<ShardId>,
    confirm: BTreeSet<usize>,
}

impl Requests {
    fn into_effects(self, effects: &mut Vec<Effect>) {
        if !self.holding.is_empty() {
            effects.push(Effect::Hold(self.holding));
        }
        if !self.confirm.is_empty() {
            effects.push(Effect::Confirm(self.confirm.into_iter().collect()));
        }
        let chunks = |shards: Vec<ShardId>| -> Vec<Vec<ShardId>> {
            shards.chunks(BATCH).map(<[ShardId]>::to_vec).collect()
        };
        effects.extend(chunks(self.close).into_iter().map(Effect::Close));
        for (node, shards) in self.release {
            effects.extend(chunks(shards).into_iter().map(|shards| Effect::Release(node.clone(), shards)));
        }
        effects.extend(chunks(self.seal).into_iter().map(Effect::Seal));
        effects.extend(chunks(self.open).into_iter().map(Effect::Open));
    }
}

impl Holder {
    pub fn new(me: NodeIdentity, policy: Policy) -> Self {
        Self {
            me,
            policy,
            stages: vec![AWAY; usize::from(SHARD_COUNT)],
            failures: BTreeMap::new(),
            strays: BTreeMap::new(),
            waiting: BTreeSet::new(),
            published: None,
            publish_at: None,
            turn_to_publish: Duration::ZERO,
            publishing: false,
        }
    }

    fn stage(&self, shard: ShardId) -> Stage {
        self.stages[usize::from(shard.index())]
    }

    fn set(&mut self, shard: ShardId, stage: Stage) {
        self.stages[usize::from(shard.index())] = stage;
    }

    pub fn holding(&self, shard: ShardId) -> Holding {
        match self.stage(shard) {
            Stage::Held { epoch, .. } => Holding::Held(epoch),
            Stage::Opening { epoch, .. } | Stage::Reopening { epoch, .. } => Holding::Opening(epoch),
            _ => Holding::None,
        }
    }

    /// Whether anything of a shard is still here.
    pub fn is_idle(&self) -> bool {
        self.stages.iter().all(|stage| matches!(stage, Stage::Away { .. }))
    }

    pub fn held(&self) -> usize {
        self.stages.iter().filter(|stage| matches!(stage, Stage::Held { .. })).count()
    }

    /// Blocks changed, or something waited for came.
    pub fn look(
        &mut self,
        may: May,
        map: &Map,
        shards: impl IntoIterator<Item = ShardId>,
        effects: &mut Vec<Effect>,
    ) {
        let mut requests = Requests::default();
        for shard in shards {
            self.judge(may, map, shard, &mut requests);
        }
        requests.into_effects(effects);
    }

    /// Time has passed.
    pub fn tick(&mut self, may: May, map: &Map, effects: &mut Vec<Effect>) {
        let waiting: Vec<_> = self.waiting.iter().copied().collect();
        self.look(may, map, waiting, effects);
        self.publish(may, effects);
    }

    pub fn next_deadline(&self, may: May) -> Option<Duration> {
        let stages = self.waiting.iter().filter_map(|shard| match self.stage(*shard) {
            Stage::Away { not_before, .. } => may.take.then_some(not_before),
            Stage::Reopening { not_before, .. } => Some(not_before),
            _ => None,
        });
        let publish = self.publish_at.filter(|_| may.take && !self.publishing);
        stages.chain(publish).min()
    }

    /// Owners that published an epoch below one at which this node sealed their shard are asked to let go, as by a new owner:
    /// they seal it again.
    pub fn tell_strays(&mut self, map: &Map, effects: &mut Vec<Effect>) {
        let me = &self.me;
        let mut requests = Requests::default();
        self.strays.retain(|shard, epoch| {
            let Some(owner) = map.assignment(*shard).owner.as_ref().filter(|owner| *owner != me) else {
                return false;
            };
            let Some(published) = map.published(*shard) else { return true };
            if published < *epoch {
                requests.release.entry(owner.clone()).or_default().push(*shard);
            }
            false
        });
        requests.into_effects(effects);
    }

    /// One shard: what the table says against how far we are.
    fn judge(&mut self, may: May, map: &Map, shard: ShardId, requests: &mut Requests) {
        self.waiting.remove(&shard);
        let assignment = map.assignment(shard);
        let ours = assignment.owner.as_ref() == Some(&self.me);
        match self.stage(shard) {
            Stage::Away { not_before, confirm } if ours => {
                if !may.take || may.now < not_before {
                    self.waiting.insert(shard);
                } else if confirm {
                    self.set(shard, Stage::Confirming { turn: assignment.turn });
                    requests.confirm.insert(block_of(shard));
                } else {
                    self.begin(map, shard, requests);
                }
            }
            Stage::Away { .. } => self.set(shard, AWAY),
            Stage::Asking { turn } if !ours || turn != assignment.turn => {
                self.set(shard, AWAY);
                self.judge(may, map, shard, requests);
            }
            Stage::Opening { turn, epoch }
            | Stage::Held { turn, epoch }
            | Stage::Reopening { turn, epoch, .. }
                if !ours || turn != assignment.turn =>
            {
                self.strays.insert(shard, epoch);
                self.close(may.now, shard, None, requests);
            }
            Stage::Reopening { turn, epoch, not_before } => {
                if may.now < not_before {
                    self.waiting.insert(shard);
                } else {
                    self.set(shard, Stage::Opening { turn, epoch });
                    requests.open.push(shard);
                }
            }
            // Answers of the journal and of the host are awaited and judged when they come.
            _ => {}
        }
    }

    /// Takes a shard: asks its former owner if there is one, else seals at once.
    fn begin(&mut self, map: &Map, shard: ShardId, requests: &mut Requests) {
        let assignment = map.assignment(shard);
        let turn = assignment.turn;
        let former = assignment
            .previous
            .as_ref()
            .filter(|former| **former != self.me && map.members.presence(former) == Presence::Present);
        match former {
            Some(former) => {
                self.set(shard, Stage::Asking { turn });
                requests.release.entry(former.clone()).or_default().push(shard);
            }
            None => {
                self.set(shard, Stage::Sealing { turn });
                requests.seal.push(shard);
            }
        }
    }

    fn close(&mut self, now: Duration, shard: ShardId, fenced: Option<u64>, requests: &mut Requests) {
        self.set(shard, Stage::Closing { fenced });
        requests.holding.push((shard, Holding::None));
        requests.close.push(shard);
        self.changed(now);
    }

    fn changed(&mut self, now: Duration) {
        self.publish_at.get_or_insert(now + self.policy.publish + self.turn_to_publish);
    }

    fn back_off(&mut self, shard: ShardId) -> Duration {
        let failures = self.failures.entry(shard).or_default();
        *failures += 1;
        self.policy.retry * (1 << (*failures - 1).min(4))
    }

    /// The former owner has let go, or did not answer in time.
    pub fn released(&mut self, may: May, map: &Map, shards: &[ShardId], effects: &mut Vec<Effect>) {
        let mut requests = Requests::default();
        for shard in shards {
            let Stage::Asking { turn } = self.stage(*shard) else { continue };
            let wanted = map.is_owner(*shard, &self.me) && map.assignment(*shard).turn == turn;
            if wanted && may.take {
                self.set(*shard, Stage::Sealing { turn });
                requests.seal.push(*shard);
            } else {
                self.set(*shard, AWAY);
                self.judge(may, map, *shard, &mut requests);
            }
        }
        requests.into_effects(effects);
    }

    /// The journal has sealed them.
    pub fn sealed(&mut self, may: May, map: &Map, shards: &[(ShardId, Epoch)], effects: &mut Vec<Effect>) {
        let mut requests = Requests::default();
        for (shard, epoch) in shards {
            let Stage::Sealing { turn } = self.stage(*shard) else { continue };
            if map.is_owner(*shard, &self.me) && map.assignment(*shard).turn == turn {
                self.set(*shard, Stage::Opening { turn, epoch: *epoch });
                requests.holding.push((*shard, Holding::Opening(*epoch)));
                requests.open.push(*shard);
            } else {
                self.strays.insert(*shard, *epoch);
                self.set(*shard, AWAY);
                self.judge(may, map, *shard, &mut requests);
            }
        }
        requests.into_effects(effects);
    }

    /// The journal could not seal them.
    pub fn seal_failed(&mut self, may: May, shards: &[ShardId]) {
        for shard in shards {
            if matches!(self.stage(*shard), Stage::Sealing { .. }) {
                let not_before = may.now + self.back_off(*shard);
                self.set(*shard, Stage::Away { not_before, confirm: false });
                self.waiting.insert(*shard);
            }
        }
    }

    /// The host has rebuilt them, or could not.
    pub fn opened(&mut self, may: May, shards: &[ShardId], ok: bool, effects: &mut Vec<Effect>) {
        let mut requests = Requests::default();
        for shard in shards {
            let Stage::Opening { turn, epoch } = self.stage(*shard) else { continue };
            if ok {
                self.failures.remove(shard);
                self.set(*shard, Stage::Held { turn, epoch });
                requests.holding.push((*shard, Holding::Held(epoch)));
                self.changed(may.now);
            } else {
                let not_before = may.now + self.back_off(*shard);
                self.set(*shard, Stage::Reopening { turn, epoch, not_before });
                self.waiting.insert(*shard);
            }
        }
        requests.into_effects(effects);
    }

    /// Nothing acts on them any more.
    pub fn closed(&mut self, may: May, map: &Map, shards: &[ShardId], effects: &mut Vec<Effect>) {
        let mut requests = Requests::default();
        for shard in shards {
            let Stage::Closing { fenced } = self.stage(*shard) else { continue };
            // The same assignment again: somebody else acted on a table that is newer, or older, than ours.
            let confirm = fenced == Some(map.assignment(*shard).turn);
            let not_before = if confirm { may.now + self.back_off(*shard) } else { Duration::ZERO };
            self.set(*shard, Stage::Away { not_before, confirm });
            self.judge(may, map, *shard, &mut requests);
        }
        requests.into_effects(effects);
    }

    /// The table was read again (and taken in before), or could not be.
    pub fn confirmed(&mut self, may: May, map: &Map, blocks: &[usize], ok: bool, effects: &mut Vec<Effect>) {
        let mut requests = Requests::default();
        for shard in blocks.iter().flat_map(|block| shards_of(*block)) {
            let Stage::Confirming { .. } = self.stage(shard) else { continue };
            if !ok {
                let not_before = may.now + self.policy.retry;
                self.set(shard, Stage::Away { not_before, confirm: true });
                self.waiting.insert(shard);
            } else if may.take && map.is_owner(shard, &self.me) {
                self.begin(map, shard, &mut requests);
            } else {
                self.set(shard, AWAY);
                self.judge(may, map, shard, &mut requests);
            }
        }
        requests.into_effects(effects);
    }

    /// The journal refused our epoch: somebody sealed the shard after us.
    pub fn fenced(&mut self, may: May, shard: ShardId, current: Epoch, effects: &mut Vec<Effect>) {
        let mut requests = Requests::default();
        match self.stage(shard) {
            Stage::Held { turn, epoch }
            | Stage::Opening { turn, epoch }
            | Stage::Reopening { turn, epoch, .. }
                if epoch < current =>
            {
                self.waiting.remove(&shard);
                self.close(may.now, shard, Some(turn), &mut requests);
            }
            _ => {}
        }
        requests.into_effects(effects);
    }

    /// Another node says that it owns these now, or this one leaves. Gives those that have to be closed first.
    pub fn give_up(&mut self, may: May, shards: &[ShardId], effects: &mut Vec<Effect>) {
        let mut requests = Requests::default();
        for shard in shards {
            match self.stage(*shard) {
                Stage::Held { turn, .. } | Stage::Opening { turn, .. } | Stage::Reopening { turn, .. } => {
                    self.waiting.remove(shard);
                    self.close(may.now, *shard, Some(turn), &mut requests);
                }
                _ => {}
            }
        }
        requests.into_effects(effects);
    }

    /// Whether something of this shard may still act here.
    pub fn acts(&self, shard: ShardId) -> bool {
        matches!(
            self.stage(shard),
            Stage::Held { .. } | Stage::Opening { .. } | Stage::Reopening { .. } | Stage::Closing { .. }
        )
    }

    /// What is held, in the form that is published.
    pub fn holdings(&self) -> Holdings {
        let held = ShardId::all().filter_map(|shard| match self.stage(shard) {
            Stage::Held { turn, epoch } => Some(HeldShard { shard, turn, epoch }),
            _ => None,
        });
        Holdings(held.collect())
    }

    fn publish(&mut self, may: May, effects: &mut Vec<Effect>) {
        let due = self.publish_at.is_some_and(|at| at <= may.now);
        if !due || self.publishing || !may.take {
            return;
        }
        self.publish_at = None;
        let holdings = self.holdings();
        if self.published.as_ref() != Some(&holdings) {
            self.published = Some(holdings.clone());
            self.publishing = true;
            effects.push(Effect::Publish(holdings));
        }
    }

    /// The store has taken what is held, or has not.
    pub fn was_published(&mut self, now: Duration, ok: bool) {
        self.publishing = false;
        if !ok {
            self.published = None;
            self.publish_at.get_or_insert(now + self.policy.retry);
        }
    }

    /// The key of what is held was written together with a registration.
    pub fn registered_with(&mut self, holdings: Holdings) {
        self.publishing = false;
        self.published = Some(holdings);
        // What has changed meanwhile follows.
        self.publish_at.get_or_insert(Duration::ZERO);
    }
}
