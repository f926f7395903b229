//! All that a node has read from the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trunkline_types::{Epoch, Feature, NodeId, SHARD_COUNT, ShardId};

use crate::{
    Members, NodeIdentity, NodeRecord, Owner, Policy, Presence,
    table::{Assignment, BLOCKS, Block, Holdings, block_of, place_of},
};

/// One key of the store as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A life of a node; `None` = its key is gone.
    Node(NodeIdentity, Option<NodeRecord>),
    /// What a life of a node holds; `None` = its key is gone.
    Held(NodeIdentity, Option<Holdings>),
    /// A block of the table at a revision of the store (0 and the empty block = its key is not there).
    Block(usize, u64, Block),
    /// An operator drains a node, or does not.
    Drain(NodeId, bool),
    /// The coordinator, and the revision at which it was elected.
    Leader(Option<(NodeIdentity, u64)>),
    /// Up to which [`Feature`] every node can read; written by the coordinator, raised only.
    Gate(u32),
    /// `observer` cannot reach `suspect`, or withdraws that.
    Suspicion {
        /// Who is not reached.
        suspect: NodeIdentity,
        /// By whom.
        observer: NodeId,
        /// Whether it stands.
        stands: bool,
    },
}

/// The store as this node has seen it last.
#[derive(Debug)]
pub struct Map {
    /// Up to which revision of the store.
    pub revision: u64,
    /// The members.
    pub members: Members,
    /// The coordinator, and the revision at which it was elected.
    pub leader: Option<(NodeIdentity, u64)>,
    /// Up to which [`Feature`] every node can read.
    pub gate: u32,
    blocks: Vec<(u64, Block)>,
    /// Lives that the table names as owners, and for how many shards.
    owners: BTreeMap<NodeIdentity, u32>,
    held: BTreeMap<NodeIdentity, Holdings>,
    suspicions: BTreeMap<NodeIdentity, BTreeSet<NodeId>>,
}

impl Default for Map {
    fn default() -> Self {
        Self {
            revision: 0,
            members: Members::default(),
            leader: None,
            gate: Feature::FIRST,
            blocks: vec![(0, Block::default()); BLOCKS],
            owners: BTreeMap::new(),
            held: BTreeMap::new(),
            suspicions: BTreeMap::new(),
        }
    }
}

impl Map {
    /// Takes one change in. Gives the block that changed.
    pub fn apply(&mut self, now: Duration, seen: Seen) -> Option<usize> {
        match seen {
            Seen::Node(identity, Some(record)) => self.members.put(now, identity, record),
            Seen::Node(identity, None) => self.members.delete(now, &identity),
            Seen::Held(identity, Some(holdings)) => _ = self.held.insert(identity, holdings),
            Seen::Held(identity, None) => _ = self.held.remove(&identity),
            Seen::Drain(node, drain) => self.members.set_drain(node, drain),
            Seen::Leader(leader) => self.leader = leader,
            Seen::Gate(gate) => self.gate = gate,
            Seen::Suspicion { suspect, observer, stands: true } => {
                self.suspicions.entry(suspect).or_default().insert(observer);
            }
            Seen::Suspicion { suspect, observer, stands: false } => {
                if let Some(observers) = self.suspicions.get_mut(&suspect) {
                    observers.remove(&observer);
                    if observers.is_empty() {
                        self.suspicions.remove(&suspect);
                    }
                }
            }
            Seen::Block(index, revision, block) => {
                // A read and the watch may cross.
                if revision < self.blocks.get(index)?.0 && revision != 0 {
                    return None;
                }
                self.set_block(index, revision, block);
                return Some(index);
            }
        }
        None
    }

    fn set_block(&mut self, index: usize, revision: u64, block: Block) {
        for owner in block.0.iter().filter_map(|entry| entry.owner.as_ref()) {
            match self.owners.get_mut(owner) {
                Some(count) => *count += 1,
                None => _ = self.owners.insert(owner.clone(), 1),
            }
        }
        let (_, before) = std::mem::replace(&mut self.blocks[index], (revision, block));
        for owner in before.0.iter().filter_map(|entry| entry.owner.as_ref()) {
            if let Some(count) = self.owners.get_mut(owner) {
                *count -= 1;
            }
        }
        self.owners.retain(|_, count| *count > 0);
    }

    /// Takes a complete reading in: what is not in it is gone. Gives the blocks that changed.
    pub fn replace(&mut self, now: Duration, all: Vec<Seen>) -> Vec<usize> {
        let mut nodes = BTreeSet::new();
        let mut blocks = BTreeSet::new();
        self.held.clear();
        self.suspicions.clear();
        self.leader = None;
        self.gate = Feature::FIRST;
        let drains: Vec<_> = self.members.drains().cloned().collect();
        drains.into_iter().for_each(|node| self.members.set_drain(node, false));
        for seen in &all {
            match seen {
                Seen::Node(identity, Some(_)) => _ = nodes.insert(identity.clone()),
                Seen::Block(index, ..) => _ = blocks.insert(*index),
                _ => {}
            }
        }
        self.members.keep_only(now, |identity| nodes.contains(identity));
        for index in (0..BLOCKS).filter(|index| !blocks.contains(index)) {
            self.set_block(index, 0, Block::default());
        }
        all.into_iter().for_each(|seen| _ = self.apply(now, seen));
        (0..BLOCKS).collect()
    }

    /// Who should own a shard.
    pub fn assignment(&self, shard: ShardId) -> &Assignment {
        &self.blocks[block_of(shard)].1.0[place_of(shard)]
    }

    /// A block and its revision.
    pub fn block(&self, index: usize) -> &(u64, Block) {
        &self.blocks[index]
    }

    /// What a life of a node holds by its own word.
    pub fn holdings(&self, node: &NodeIdentity) -> Option<&Holdings> {
        self.held.get(node)
    }

    /// The epoch that the owner of a shard has published for this assignment.
    pub fn published(&self, shard: ShardId) -> Option<Epoch> {
        let assignment = self.assignment(shard);
        let held = self.held.get(assignment.owner.as_ref()?)?.get(shard)?;
        (held.turn == assignment.turn).then_some(held.epoch)
    }

    /// The owners of all shards, in order, among those that are listed.
    pub fn listed_owners(&self, listed: &BTreeSet<NodeIdentity>) -> Vec<Option<Owner>> {
        let found: BTreeMap<&NodeIdentity, Option<&Holdings>> = self
            .owners
            .keys()
            .filter(|owner| listed.contains(*owner))
            .map(|owner| (owner, self.held.get(owner)))
            .collect();
        let owner = |shard, assignment: &Assignment| {
            let (identity, held) = found.get_key_value(assignment.owner.as_ref()?)?;
            let held = held.and_then(|held| held.get(shard)).filter(|held| held.turn == assignment.turn);
            Some(Owner {
                node: identity.id.clone(),
                incarnation: identity.incarnation,
                epoch: held.map(|held| held.epoch).unwrap_or_default(),
                active: held.is_some(),
            })
        };
        let all = self.blocks.iter().flat_map(|(_, block)| &block.0);
        ShardId::all().zip(all).map(|(shard, assignment)| owner(shard, assignment)).collect()
    }

    /// Whether a shard is assigned to this life of this node.
    pub fn is_owner(&self, shard: ShardId, node: &NodeIdentity) -> bool {
        self.assignment(shard).owner.as_ref() == Some(node)
    }

    /// All shards that are assigned to it.
    pub fn assigned(&self, node: &NodeIdentity) -> Vec<ShardId> {
        ShardId::all().filter(|shard| self.is_owner(*shard, node)).collect()
    }

    /// Every life that the table names as an owner.
    pub fn owners(&self) -> impl Iterator<Item = &NodeIdentity> {
        self.owners.keys()
    }

    /// Forgets lives that ended long ago and own nothing.
    pub fn forget(&mut self, now: Duration, policy: &Policy) {
        let owners = &self.owners;
        self.members.forget(now, policy, |node| owners.contains_key(node));
    }

    /// Who is suspected, and by which present members other than itself.
    pub fn suspected(&self) -> impl Iterator<Item = (&NodeIdentity, Vec<&NodeId>)> {
        self.suspicions.iter().filter_map(|(suspect, observers)| {
            let standing: Vec<_> =
                observers.iter().filter(|id| **id != suspect.id && self.members.life(id).is_some()).collect();
            let present = self.members.presence(suspect) == Presence::Present;
            (present && !standing.is_empty()).then_some((suspect, standing))
        })
    }

    /// Whether this observer's suspicion is in the store.
    pub fn suspects(&self, observer: &NodeId, suspect: &NodeIdentity) -> bool {
        self.suspicions.get(suspect).is_some_and(|observers| observers.contains(observer))
    }

    /// How many shards there are; for callers that index.
    pub const fn len() -> usize {
        SHARD_COUNT as usize
    }
}
