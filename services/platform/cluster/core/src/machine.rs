//! The whole machine of a node: what it has read, what it holds, and whether it coordinates.

use std::{collections::BTreeSet, time::Duration};

use trunkline_types::ShardId;

use crate::{
    Map, Move, NodeIdentity, NodeInfo, NodeRecord, Policy, Presence, Seen,
    coordinator::{Coordinator, info},
    holder::{Holder, May},
    message::{Effect, Holding, Input},
    moves::Moves,
    observer::Observer,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registration {
    /// Not asked to join.
    Out,
    /// To be written at.
    Due(Duration),
    /// Being written.
    Writing,
    /// Written at this revision; the lease lives until.
    In { revision: u64, until: Duration },
}

/// A node's coordination, without I/O, clock and randomness.
#[derive(Debug)]
pub struct Machine {
    me: NodeIdentity,
    policy: Policy,
    record: NodeRecord,
    registration: Registration,
    /// Times that it was taken out, and when last: one that is taken out again and again comes back later each time.
    evictions: u32,
    evicted_at: Duration,
    record_stale: bool,
    connected: bool,
    quitting: bool,
    replaced: bool,
    campaigning: bool,
    leaderless: Option<Duration>,
    /// It was coordinator and others ended that: they did not reach it. Until then it leaves the election to them, or the two
    /// sides would depose and elect as fast as the store can write.
    stands_back: Duration,
    map: Map,
    holder: Holder,
    coordinator: Coordinator,
    observer: Observer,
    moves: Moves,
    /// When the list of members changes by itself.
    relist_at: Option<Duration>,
}

impl Machine {
    /// A node that has read nothing yet.
    pub fn new(me: NodeIdentity, record: NodeRecord, policy: Policy) -> Self {
        Self {
            holder: Holder::new(me.clone(), policy.clone()),
            coordinator: Coordinator::new(me.clone(), policy.clone()),
            observer: Observer::new(me.id.clone(), policy.clone()),
            record,
            registration: Registration::Out,
            evictions: 0,
            evicted_at: Duration::ZERO,
            record_stale: false,
            connected: false,
            quitting: false,
            replaced: false,
            campaigning: false,
            leaderless: None,
            stands_back: Duration::ZERO,
            map: Map::default(),
            moves: Moves::default(),
            relist_at: None,
            me,
            policy,
        }
    }

    /// Takes an input in. Effects are to be carried out in order of kind as documented at [`Effect`].
    pub fn handle(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(now, input, &mut effects);
        self.tick(now, &mut effects);
        effects
    }

    /// When it wants a [`Input::Tick`]: after an input at `now`, later than that. What is due and cannot be done waits for
    /// another input, so that nobody ticks in vain.
    pub fn next_deadline(&self, now: Duration) -> Option<Duration> {
        let registration = match self.registration {
            Registration::Due(at) if self.connected && !self.has_left() => Some(at),
            _ => None,
        };
        let campaign = self.campaign_at();
        [
            registration,
            campaign,
            self.relist_at,
            self.holder.next_deadline(self.may(now)),
            // Cut off from the store it neither plans nor probes.
            self.coordinator.next_deadline().filter(|_| self.connected),
            self.observer.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn may(&self, now: Duration) -> May {
        let lives = matches!(self.registration, Registration::In { until, .. } if now < until);
        May { take: lives && self.connected && !self.quitting, now }
    }

    fn take(&mut self, now: Duration, input: Input, effects: &mut Vec<Effect>) {
        let may = self.may(now);
        match input {
            Input::Tick => {}
            Input::Listed(revision, all) => self.take_listing(now, revision, all, effects),
            Input::Watched(revision, changes) => self.take_changes(now, revision, changes, effects),
            Input::Connected(connected) => self.connected = connected,
            Input::Join => self.registration = Registration::Due(now),
            Input::SetDraining(draining) => {
                self.record_stale |= self.record.draining != draining;
                self.record.draining = draining;
            }
            Input::Quit => {
                self.quitting = true;
                let all: Vec<_> = ShardId::all().collect();
                self.holder.give_up(may, &all, effects);
            }
            Input::Registered { revision, until, holdings } => {
                self.registration = Registration::In { revision, until };
                self.holder.registered_with(holdings);
                self.after_silence(now, effects);
            }
            Input::NotRegistered => self.registration = Registration::Due(now + self.policy.retry),
            Input::Renewed(renewed) => self.renewed(now, renewed, effects),
            Input::LeaseLost => self.lost(now),
            Input::Campaigned(elected) => {
                self.campaigning = false;
                match elected {
                    Some(revision) => self.coordinator.begin(now, revision),
                    None if self.map.leader.is_none() => self.leaderless = Some(now + self.policy.retry),
                    None => {}
                }
            }
            Input::ElectionLost(revision) => {
                if self.coordinator.elected() == Some(revision) {
                    self.coordinator.end();
                }
            }
            Input::Assigned(result) => self.coordinator.wrote(now, result),
            Input::Raised(done) => self.coordinator.raised(now, done),
            Input::Published(ok) => self.holder.was_published(now, ok),
            Input::NotEvicted(node) => self.coordinator.not_evicted(&node),
            Input::NotSuspected(node) => self.observer.not_written(&node),
            Input::Suspect(node) => self.observer.suspect(now, &self.map, &node),
            Input::Probed(node, reached) => {
                self.coordinator.was_probed(now, &node, reached);
                self.observer.was_probed(now, &node, reached);
                if !reached {
                    self.map.members.not_reached(&node);
                    effects.push(Effect::Changed);
                    self.relist_at = self.map.members.next_deadline(now, &self.policy);
                }
            }
            Input::Released(shards) => self.holder.released(may, &self.map, &shards, effects),
            Input::Sealed(shards) => self.holder.sealed(may, &self.map, &shards, effects),
            Input::SealFailed(shards) => self.holder.seal_failed(may, &shards),
            Input::Opened(shards, ok) => {
                self.holder.opened(may, &shards, ok, effects);
                // What was assigned elsewhere meanwhile is closed again.
                self.holder.look(may, &self.map, shards, effects);
            }
            Input::Closed(shards) => self.holder.closed(may, &self.map, &shards, effects),
            Input::Fenced(shard, current) => self.holder.fenced(may, shard, current, effects),
            Input::ReleaseRequested(shards) => self.holder.give_up(may, &shards, effects),
            Input::Confirmed(blocks, asked, ok) => {
                let revision = self.map.revision;
                self.take_changes(now, revision, blocks, effects);
                self.holder.confirmed(self.may(now), &self.map, &asked, ok, effects);
            }
        }
    }

    fn take_listing(&mut self, now: Duration, revision: u64, all: Vec<Seen>, effects: &mut Vec<Effect>) {
        for seen in &all {
            if let Seen::Block(index, _, block) = seen {
                // Of a first reading only what is new to everybody is a move.
                if self.map.revision > 0 {
                    self.moves.assigned(now, &self.map, *index, block);
                }
            }
        }
        self.map.replace(now, all);
        self.map.revision = revision;
        self.changed(now, ShardId::all().collect(), effects);
    }

    fn take_changes(&mut self, now: Duration, revision: u64, changes: Vec<Seen>, effects: &mut Vec<Effect>) {
        let mut shards = Vec::new();
        for seen in changes {
            if let Seen::Block(index, at, block) = &seen
                && *at >= self.map.block(*index).0
            {
                self.moves.assigned(now, &self.map, *index, block);
            }
            if let Some(index) = self.map.apply(now, seen) {
                shards.extend(crate::table::shards_of(index));
            }
        }
        self.map.revision = self.map.revision.max(revision);
        self.changed(now, shards, effects);
    }

    fn changed(&mut self, now: Duration, shards: Vec<ShardId>, effects: &mut Vec<Effect>) {
        self.map.members.note_mass(now, &self.policy);
        self.check_gate(now, effects);
        self.check_registration(now, effects);
        self.check_election(now);
        self.moves.look(now, &self.map);
        self.holder.turn_to_publish = self.policy.spacing * self.moves.rank(&self.me.id);
        self.map.forget(now, &self.policy);
        let may = self.may(now);
        self.holder.look(may, &self.map, shards, effects);
        self.coordinator.look_soon(now);
        self.relist_at = self.map.members.next_deadline(now, &self.policy);
        effects.push(Effect::Changed);
    }

    /// The others write what this program cannot read: it must not act.
    fn check_gate(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.is_outdated() && !self.quitting {
            self.quitting = true;
            self.registration = Registration::Out;
            let (may, all) = (self.may(now), ShardId::all().collect::<Vec<_>>());
            self.holder.give_up(may, &all, effects);
        }
    }

    /// Our own key is gone, or says that we were taken out.
    fn check_registration(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Registration::In { revision, .. } = self.registration else { return };
        if self.map.revision < revision {
            return;
        }
        match self.map.members.presence(&self.me) {
            Presence::Present => {}
            // Another process runs as this node, and began later: two cannot.
            Presence::Replaced => {
                self.replaced = true;
                self.quitting = true;
                self.registration = Registration::Out;
                let (may, all) = (self.may(now), ShardId::all().collect::<Vec<_>>());
                self.holder.give_up(may, &all, effects);
            }
            _ if self.map.members.record(&self.me).is_some_and(|record| record.evicted) => {
                let long_ago = now.saturating_sub(self.evicted_at) > self.policy.ttl * 20;
                self.evictions = if long_ago { 1 } else { self.evictions + 1 };
                self.evicted_at = now;
                self.record.registration += 1;
                let pause = self.policy.ttl / 2 * (1 << (self.evictions - 1).min(4));
                self.registration = Registration::Due(now + pause);
            }
            _ => self.lost(now),
        }
    }

    /// Registers again at once; when many lost their leases together, one after the other.
    fn lost(&mut self, now: Duration) {
        if matches!(self.registration, Registration::In { .. }) {
            self.record.registration += 1;
            let listed = self.map.members.listed(now, &self.policy);
            let mass = self.map.members.mass(now, &self.policy);
            let before =
                listed.iter().take_while(|node| mass && node.identity.id < self.me.id).count() as u32;
            self.registration = Registration::Due(now + (self.policy.spacing * before).min(self.policy.ttl));
        }
    }

    fn renewed(&mut self, now: Duration, renewed: Duration, effects: &mut Vec<Effect>) {
        if let Registration::In { revision, until } = self.registration {
            let silent = now >= until;
            self.registration = Registration::In { revision, until: until.max(renewed) };
            if silent {
                self.after_silence(now, effects);
            }
        }
    }

    /// The lease lives again: what waited for it goes on.
    fn after_silence(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let may = self.may(now);
        self.holder.look(may, &self.map, ShardId::all(), effects);
    }

    fn check_election(&mut self, now: Duration) {
        if let Some(elected) = self.coordinator.elected()
            && self.map.revision >= elected
            && self.map.leader != Some((self.me.clone(), elected))
        {
            self.coordinator.end();
            self.stands_back = now + self.policy.ttl;
        }
        match &self.map.leader {
            Some((node, revision)) => {
                self.leaderless = None;
                // Elected without having heard the answer: the key decides, and every write compares it.
                if *node == self.me && self.coordinator.elected().is_none() && !self.campaigning {
                    self.coordinator.begin(now, *revision);
                }
            }
            None => _ = self.leaderless.get_or_insert(now),
        }
    }

    /// Members try one after the other, in the order of their ids, so that one write elects.
    fn campaign_at(&self) -> Option<Duration> {
        let registered = matches!(self.registration, Registration::In { .. });
        if !registered
            || !self.connected
            || self.quitting
            || self.campaigning
            || self.coordinator.elected().is_some()
        {
            return None;
        }
        let rank =
            self.map.members.present().position(|(identity, _)| *identity == self.me).unwrap_or(0).min(20);
        Some((self.leaderless? + self.policy.round * rank as u32 / 2).max(self.stands_back))
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.connected {
            self.register(now, effects);
            if self.campaign_at().is_some_and(|at| at <= now) {
                self.campaigning = true;
                effects.push(Effect::Campaign);
            }
            self.coordinator.tick(now, &self.map, effects);
        }
        self.observer.tick(now, &self.map, effects);
        let may = self.may(now);
        self.holder.tick(may, &self.map, effects);
        self.holder.tell_strays(&self.map, effects);
        if self.relist_at.is_some_and(|at| at <= now) {
            self.relist_at = self.map.members.next_deadline(now, &self.policy);
            effects.push(Effect::Changed);
        }
    }

    fn register(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let due = match self.registration {
            Registration::Due(at) => at <= now,
            Registration::In { .. } => self.record_stale,
            _ => false,
        };
        if due && !self.has_left() {
            self.record_stale = false;
            self.registration = Registration::Writing;
            effects.push(Effect::Register(self.record.clone(), self.holder.holdings()));
        }
    }

    /// It ends, and nothing of any shard acts here any more.
    fn has_left(&self) -> bool {
        self.quitting && self.holder.is_idle()
    }

    /// This node.
    pub const fn me(&self) -> &NodeIdentity {
        &self.me
    }

    /// Everything that it has read.
    pub const fn map(&self) -> &Map {
        &self.map
    }

    /// What it may do with a shard.
    pub fn holding(&self, shard: ShardId) -> Holding {
        self.holder.holding(shard)
    }

    /// Shards that it holds.
    pub fn held(&self) -> usize {
        self.holder.held()
    }

    /// Whether nothing of any shard acts here.
    pub fn is_idle(&self) -> bool {
        self.holder.is_idle()
    }

    /// Whether something of this shard may still act here.
    pub fn acts(&self, shard: ShardId) -> bool {
        self.holder.acts(shard)
    }

    /// The revision at which it was elected coordinator.
    pub const fn elected(&self) -> Option<u64> {
        self.coordinator.elected()
    }

    /// Whether its lease is known to live.
    pub fn is_registered(&self, now: Duration) -> bool {
        matches!(self.registration, Registration::In { until, .. } if now < until)
    }

    /// Whether the others may write what this program cannot read, so that this one has stopped.
    pub const fn is_outdated(&self) -> bool {
        self.map.gate > self.record.features
    }

    /// Whether another process runs under this node's name, so that this one has stopped.
    pub const fn is_replaced(&self) -> bool {
        self.replaced
    }

    /// The members for routing.
    pub fn listed(&self, now: Duration) -> Vec<std::sync::Arc<NodeInfo>> {
        self.map.members.listed(now, &self.policy)
    }

    /// Nodes that are missing or suspected.
    pub fn doubtful(&self) -> BTreeSet<NodeIdentity> {
        let gone = self.map.members.gone().map(|(identity, _, _)| identity.clone());
        gone.chain(self.map.suspected().map(|(identity, _)| identity.clone())).collect()
    }

    /// A node's address and roles, member or not any more.
    pub fn info(&self, node: &NodeIdentity) -> Option<NodeInfo> {
        info(&self.map, node)
    }

    /// Moves under way, then finished ones, newest first.
    pub fn moves(&self, most: usize) -> Vec<Move> {
        self.moves.newest(most)
    }

    /// Moves under way.
    pub fn moving(&self) -> usize {
        self.moves.under_way()
    }

    /// Its times and limits.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }
}
