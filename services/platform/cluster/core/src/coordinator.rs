//! The elected coordinator: judges who is dead, and writes the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trunkline_types::{Feature, NodeId, ShardGroup, ShardId};

use crate::{
    Effect, Map, NodeIdentity, NodeInfo, NodeRecord, Policy, Presence, Role,
    plan::{Candidate, Change, Limits, Placed, Reason, Standing, plan},
    table::{Assignment, Block, block_of, place_of},
};

/// What direct probes of a node have found since it went missing or came under suspicion.
#[derive(Debug, Clone, Default)]
struct Probed {
    /// The last probe was sent.
    sent: Option<Duration>,
    under_way: bool,
    /// Failures in a row.
    failed: u32,
    reached: bool,
}

#[derive(Debug)]
pub(crate) struct Coordinator {
    me: NodeIdentity,
    policy: Policy,
    /// The revision of the store at which this node was elected.
    elected: Option<Elected>,
    probed: BTreeMap<NodeIdentity, Probed>,
    evicting: BTreeSet<NodeIdentity>,
    /// A write that was not answered yet, and the revisions that are waited for: the watch is behind the answer.
    writing: bool,
    awaited: BTreeMap<usize, u64>,
    plan_at: Option<Duration>,
    gate: Gate,
}

/// The way to a higher gate.
#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    /// What all members can read that is not written yet, and since when.
    can: Option<(u32, Duration)>,
    raising: bool,
}

#[derive(Debug, Clone, Copy)]
struct Elected {
    revision: u64,
    at: Duration,
}

impl Probed {
    /// When the next one is due. One failure may be an accident: the second probe follows soon.
    fn due(&self, policy: &Policy) -> Duration {
        let pause = if self.failed == 1 { policy.probe / 4 } else { policy.probe };
        self.sent.map_or(Duration::ZERO, |sent| sent + pause)
    }
}

impl Coordinator {
    pub fn new(me: NodeIdentity, policy: Policy) -> Self {
        Self {
            me,
            policy,
            elected: None,
            probed: BTreeMap::new(),
            evicting: BTreeSet::new(),
            writing: false,
            awaited: BTreeMap::new(),
            plan_at: None,
            gate: Gate::default(),
        }
    }

    pub const fn elected(&self) -> Option<u64> {
        match self.elected {
            Some(elected) => Some(elected.revision),
            None => None,
        }
    }

    pub fn begin(&mut self, now: Duration, revision: u64) {
        *self = Self::new(self.me.clone(), self.policy.clone());
        self.elected = Some(Elected { revision, at: now });
        self.plan_at = Some(now + self.policy.gather);
    }

    pub fn end(&mut self) {
        *self = Self::new(self.me.clone(), self.policy.clone());
    }

    /// Something changed in the map: a plan is due soon.
    pub fn look_soon(&mut self, now: Duration) {
        self.plan_at.get_or_insert(now + self.policy.round);
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.elected?;
        let probes = self.probed.values().filter(|probed| !probed.under_way);
        let probes = probes.map(|probed| probed.due(&self.policy));
        let raise =
            self.gate.can.filter(|_| !self.gate.raising).map(|(_, since)| since + self.policy.raise_after);
        probes.chain(self.plan_at.filter(|_| !self.writing)).chain(raise).min()
    }

    pub fn tick(&mut self, now: Duration, map: &Map, effects: &mut Vec<Effect>) {
        if self.elected.is_none() {
            return;
        }
        self.watch(now, map);
        self.probe(now, map, effects);
        self.evict(map, effects);
        self.raise(now, map, effects);
        if self.plan_at.is_some_and(|at| at <= now) && !self.writing {
            self.plan_at = None;
            self.awaited.retain(|block, revision| map.block(*block).0 < *revision);
            if self.awaited.is_empty() {
                self.write(now, map, effects);
            } else {
                self.look_soon(now);
            }
        }
    }

    /// Which nodes have to be probed: owners that are missing, and suspects.
    fn watch(&mut self, now: Duration, map: &Map) {
        let missing = map.owners().filter(|owner| **owner != self.me && self.missing(map, owner).is_some());
        let suspects = map.suspected().map(|(suspect, _)| suspect).filter(|suspect| **suspect != self.me);
        let watched: BTreeSet<_> = missing.chain(suspects).cloned().collect();
        let before = self.probed.len();
        self.probed.retain(|identity, _| watched.contains(identity));
        let shrunk = self.probed.len() < before;
        let mut grown = false;
        for identity in watched {
            self.probed.entry(identity).or_insert_with(|| {
                grown = true;
                Probed::default()
            });
        }
        self.evicting.retain(|identity| map.members.presence(identity) == Presence::Present);
        if grown || shrunk || !self.probed.is_empty() {
            // A judgement may be due by time alone.
            self.look_soon(now);
        }
    }

    /// Since when an owner's key is gone, as far as this coordinator can know.
    fn missing(&self, map: &Map, owner: &NodeIdentity) -> Option<Duration> {
        let elected = self.elected?.at;
        match map.members.presence(owner) {
            Presence::Present | Presence::Replaced => None,
            Presence::Gone { since } => Some(since),
            Presence::Unknown => Some(elected),
        }
    }

    fn probe(&mut self, now: Duration, map: &Map, effects: &mut Vec<Effect>) {
        for (identity, probed) in &mut self.probed {
            if probed.under_way || now < probed.due(&self.policy) {
                continue;
            }
            probed.sent = Some(now);
            match map.members.record(identity) {
                Some(record) => {
                    probed.under_way = true;
                    effects.push(Effect::Probe(record.info(identity, false)));
                }
                // Nobody knows where it was.
                None => probed.failed += 1,
            }
        }
    }

    pub fn was_probed(&mut self, now: Duration, identity: &NodeIdentity, reached: bool) {
        if let Some(probed) = self.probed.get_mut(identity) {
            probed.under_way = false;
            probed.reached = reached;
            probed.failed = if reached { 0 } else { probed.failed + 1 };
            self.look_soon(now);
        }
    }

    /// Takes out who is suspected by another member and not reached from here either: two observers. Not when there are so many
    /// of those that it may be our own side that is cut off. The word of one alone, who may be cut off itself, weighs nothing.
    fn evict(&mut self, map: &Map, effects: &mut Vec<Effect>) {
        let unreached: Vec<_> = map
            .suspected()
            .filter(|(suspect, observers)| {
                let others = observers.iter().any(|id| **id != self.me.id);
                let failed = self.probed.get(*suspect).is_some_and(|probed| probed.failed >= 2);
                others && failed && **suspect != self.me
            })
            .map(|(suspect, _)| suspect)
            .collect();
        if self.policy.mass(unreached.len(), map.members.present().count()) {
            return;
        }
        for suspect in unreached {
            if let Some(record) = map.members.record(suspect)
                && self.evicting.insert(suspect.clone())
            {
                effects.push(Effect::Evict(suspect.clone(), NodeRecord { evicted: true, ..record.clone() }));
            }
        }
    }

    /// Raises the gate to what every member has been able to read for long enough. Members that are missing count with what
    /// they could: they may come back.
    fn raise(&mut self, now: Duration, map: &Map, effects: &mut Vec<Effect>) {
        let members = map.members.present().map(|(_, record)| record);
        let gone = map.members.gone().map(|(_, record, _)| record);
        let lowest = members.chain(gone).map(|record| record.features).min().unwrap_or(Feature::FIRST);
        self.gate.can = (lowest > map.gate).then_some(match self.gate.can {
            Some((can, since)) if can == lowest => (can, since),
            _ => (lowest, now),
        });
        if let Some((can, since)) = self.gate.can.filter(|_| !self.gate.raising)
            && now >= since + self.policy.raise_after
        {
            self.gate.raising = true;
            effects.push(Effect::Raise(can));
        }
    }

    /// The gate was raised, or could not be; what is raised is seen in the map.
    pub fn raised(&mut self, now: Duration, done: bool) {
        self.gate.raising = false;
        if !done {
            // Not at once again.
            self.gate.can = self.gate.can.map(|(can, _)| (can, now));
        }
    }

    /// The store refused to take a node out.
    pub fn not_evicted(&mut self, identity: &NodeIdentity) {
        self.evicting.remove(identity);
    }

    fn standing(&self, now: Duration, map: &Map, owner: &NodeIdentity, mass: bool) -> Standing {
        let drained = |record: &NodeRecord| record.draining || map.members.is_drained(&owner.id);
        match map.members.presence(owner) {
            Presence::Present => match map.members.record(owner) {
                Some(record) if drained(record) => Standing::Draining,
                _ => Standing::Serving,
            },
            // This process: it is about to register again.
            _ if *owner == self.me => Standing::Missing,
            Presence::Replaced => Standing::Dead,
            _ if map.members.record(owner).is_some_and(|record| record.evicted) => Standing::Dead,
            _ => {
                let Some(since) = self.missing(map, owner) else { return Standing::Missing };
                self.judge(now.saturating_sub(since), self.probed.get(owner), mass)
            }
        }
    }

    /// A lost lease alone proves nothing: the node must not be reached directly either; and when many are lost together, not
    /// for the whole life of a lease. One that is reached and has no lease for very long has lost the store.
    fn judge(&self, missing: Duration, probed: Option<&Probed>, mass: bool) -> Standing {
        let Policy { ttl, gather, .. } = self.policy;
        let (failed, reached) = probed.map_or((0, false), |probed| (probed.failed, probed.reached));
        let dead = match (mass, reached) {
            (false, false) => missing >= gather && failed >= 1,
            (true, false) => missing >= ttl && failed >= 2,
            (false, true) => missing >= ttl,
            (true, true) => missing >= ttl * 10,
        };
        if dead { Standing::Dead } else { Standing::Missing }
    }

    /// Whether too many are missing together to be trusted.
    fn mass(&self, now: Duration, map: &Map) -> bool {
        let missing = map.owners().filter(|owner| self.missing(map, owner).is_some());
        let unexpected = missing.filter(|owner| {
            map.members.record(owner).is_none_or(|record| !record.evicted && !record.draining)
        });
        let lost = unexpected.chain(map.members.lost(now, &self.policy)).map(|node| &node.id);
        let lost = lost.collect::<BTreeSet<&NodeId>>().len();
        self.policy.mass(lost, lost + map.members.present().count()) || map.members.mass(now, &self.policy)
    }

    fn write(&mut self, now: Duration, map: &Map, effects: &mut Vec<Effect>) {
        let mass = self.mass(now, map);
        let standings: BTreeMap<&NodeIdentity, Standing> = map
            .owners()
            .chain(map.members.present().map(|(identity, _)| identity))
            .map(|identity| (identity, self.standing(now, map, identity, mass)))
            .collect();
        let elected = self.elected.map_or(now, |elected| elected.at);
        let quiet = now.saturating_sub(map.members.changed().max(elected));
        let settled = quiet >= self.policy.settle;
        if !settled {
            self.plan_at = Some(map.members.changed().max(elected) + self.policy.settle);
        }
        let mut changes: Vec<Change> = Vec::new();
        for group in ShardGroup::ALL {
            let candidates: Vec<Candidate> = standings
                .iter()
                .map(|(identity, standing)| candidate(map, identity, *standing, group))
                .collect();
            let placed: Vec<Placed> = group.shards().map(|shard| placed(map, shard)).collect();
            let limits = Limits { moving: self.policy.moving, moving_from: self.policy.moving_from, settled };
            changes.extend(plan(group, &placed, &candidates, limits));
        }
        if !changes.is_empty() {
            self.writing = true;
            effects.push(Effect::Assign(blocks(map, &changes), changes));
        }
    }

    /// The store has taken the blocks, at these revisions, or has not.
    pub fn wrote(&mut self, now: Duration, result: Result<Vec<(usize, u64)>, ()>) {
        self.writing = false;
        self.awaited.extend(result.unwrap_or_default());
        self.look_soon(now);
    }
}

fn candidate(map: &Map, identity: &NodeIdentity, standing: Standing, group: ShardGroup) -> Candidate {
    let record = map.members.record(identity);
    let role = match group {
        ShardGroup::Acd => Role::Acd,
        ShardGroup::Call => Role::Call,
    };
    // A missing owner whose record nobody has seen keeps what it has until it is judged.
    let eligible = record.map_or(standing == Standing::Missing, |record| record.roles.contains(&role));
    Candidate {
        identity: identity.clone(),
        standing,
        eligible,
        weight: record.map_or(1, |record| record.weight),
    }
}

fn placed(map: &Map, shard: ShardId) -> Placed<'_> {
    let assignment = map.assignment(shard);
    let moving = assignment.owner.is_some() && map.published(shard).is_none();
    Placed {
        shard,
        owner: assignment.owner.as_ref(),
        moving_from: moving.then_some(assignment.previous.as_ref()),
    }
}

/// The changed blocks with the revisions that they build on.
fn blocks(map: &Map, changes: &[Change]) -> Vec<(usize, u64, Block)> {
    let mut blocks: BTreeMap<usize, (u64, Block)> = BTreeMap::new();
    for change in changes {
        let index = block_of(change.shard);
        let (_, block) = blocks.entry(index).or_insert_with(|| map.block(index).clone());
        let entry = &mut block.0[place_of(change.shard)];
        *entry = Assignment {
            previous: entry.owner.take().or_else(|| entry.previous.take()),
            owner: Some(change.to.clone()),
            turn: entry.turn + 1,
        };
    }
    blocks.into_iter().map(|(index, (revision, block))| (index, revision, block)).collect()
}

/// Why an assignment was made, as those can tell who did not make it.
pub(crate) fn reason(map: &Map, from: Option<&NodeIdentity>) -> Reason {
    let Some(from) = from else { return Reason::Start };
    match (map.members.presence(from), map.members.record(from)) {
        (Presence::Present, Some(record)) if record.draining || map.members.is_drained(&from.id) => {
            Reason::Drain
        }
        (Presence::Present, _) => Reason::Balance,
        _ => Reason::Loss,
    }
}

/// For probes and releases.
pub(crate) fn info(map: &Map, identity: &NodeIdentity) -> Option<NodeInfo> {
    let record = map.members.record(identity)?;
    Some(record.info(identity, map.members.is_drained(&identity.id)))
}
