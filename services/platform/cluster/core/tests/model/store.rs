//! A model of etcd: keys with leases, compare-and-write, and a log for watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trunkline_cluster_core::{BLOCKS, Block, Holdings, NodeIdentity, NodeRecord, Seen, block_of, place_of};
use trunkline_types::{Epoch, Feature, NodeId, ShardId};

pub type LeaseId = u64;

#[derive(Debug, Default)]
pub struct Store {
    pub up: bool,
    pub revision: u64,
    next_lease: LeaseId,
    pub leases: BTreeMap<LeaseId, Duration>,
    nodes: BTreeMap<NodeIdentity, (NodeRecord, LeaseId)>,
    held: BTreeMap<NodeIdentity, (Holdings, LeaseId)>,
    blocks: BTreeMap<usize, (u64, Block)>,
    pub leader: Option<(NodeIdentity, u64, LeaseId)>,
    /// Up to which feature every node can read.
    pub gate: u32,
    drains: BTreeSet<NodeId>,
    suspicions: BTreeMap<(NodeIdentity, NodeId), LeaseId>,
    /// What was written, by revision.
    pub log: Vec<(u64, Seen)>,
    /// Transactions that changed something.
    pub writes: u64,
}

impl Store {
    pub fn new() -> Self {
        // As the first node of a new cluster writes it.
        Self { up: true, gate: Feature::LATEST, ..Self::default() }
    }

    pub fn grant(&mut self, until: Duration) -> LeaseId {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, until);
        self.next_lease
    }

    fn commit(&mut self, changes: Vec<Seen>) -> u64 {
        self.revision += 1;
        self.writes += 1;
        let revision = self.revision;
        self.log.extend(changes.into_iter().map(|seen| (revision, seen)));
        revision
    }

    pub fn register(
        &mut self,
        node: &NodeIdentity,
        record: NodeRecord,
        held: Holdings,
        lease: LeaseId,
    ) -> Option<u64> {
        self.leases.get(&lease)?;
        self.nodes.insert(node.clone(), (record.clone(), lease));
        self.held.insert(node.clone(), (held.clone(), lease));
        Some(self.commit(vec![Seen::Node(node.clone(), Some(record)), Seen::Held(node.clone(), Some(held))]))
    }

    pub fn publish(&mut self, node: &NodeIdentity, held: Holdings, lease: LeaseId) -> bool {
        if self.nodes.get(node).is_none_or(|(_, with)| *with != lease) {
            return false;
        }
        self.held.insert(node.clone(), (held.clone(), lease));
        self.commit(vec![Seen::Held(node.clone(), Some(held))]);
        true
    }

    pub fn campaign(&mut self, node: &NodeIdentity, lease: LeaseId) -> Option<u64> {
        self.leases.get(&lease)?;
        if self.leader.is_some() {
            return None;
        }
        let at = self.commit(vec![Seen::Leader(Some((node.clone(), self.revision + 1)))]);
        self.leader = Some((node.clone(), at, lease));
        Some(at)
    }

    /// As if the coordinator had decided it.
    pub fn reassign(&mut self, shard: ShardId, to: &NodeIdentity) {
        let at = self.revision + 1;
        let Some((revision, block)) = self.blocks.get_mut(&block_of(shard)) else { return };
        let entry = &mut block.0[place_of(shard)];
        entry.previous = entry.owner.replace(to.clone());
        entry.turn += 1;
        *revision = at;
        let seen = Seen::Block(block_of(shard), at, block.clone());
        self.commit(vec![seen]);
    }

    pub fn depose(&mut self, elected: u64) {
        if self.is_elected(elected) {
            self.leader = None;
            self.commit(vec![Seen::Leader(None)]);
        }
    }

    fn is_elected(&self, elected: u64) -> bool {
        self.leader.as_ref().is_some_and(|(_, at, _)| *at == elected)
    }

    pub fn raise(&mut self, elected: u64, gate: u32) -> bool {
        let rises = self.is_elected(elected) && gate > self.gate;
        if rises {
            self.gate = gate;
            self.commit(vec![Seen::Gate(gate)]);
        }
        rises
    }

    pub fn assign(
        &mut self,
        elected: u64,
        blocks: Vec<(usize, u64, Block)>,
    ) -> Result<Vec<(usize, u64)>, ()> {
        let fresh = |(index, revision, _): &(usize, u64, Block)| {
            self.blocks.get(index).map_or(0, |(at, _)| *at) == *revision
        };
        if !self.is_elected(elected) || !blocks.iter().all(fresh) {
            return Err(());
        }
        let at = self.revision + 1;
        let mut changes = Vec::new();
        for (index, _, block) in blocks {
            let block = Block::decode(&block.encode()).unwrap();
            changes.push(Seen::Block(index, at, block.clone()));
            self.blocks.insert(index, (at, block));
        }
        let written = changes
            .iter()
            .filter_map(|seen| if let Seen::Block(i, ..) = seen { Some((*i, at)) } else { None });
        let written = written.collect();
        self.commit(changes);
        Ok(written)
    }

    pub fn evict(&mut self, elected: u64, node: &NodeIdentity, record: NodeRecord) -> bool {
        if !self.is_elected(elected) || !self.nodes.contains_key(node) {
            return false;
        }
        if let Some((old, _)) = self.nodes.get_mut(node) {
            *old = record.clone();
        }
        self.commit(vec![Seen::Node(node.clone(), Some(record))]);
        true
    }

    pub fn suspect(&mut self, suspect: &NodeIdentity, observer: &NodeId, stands: bool, lease: LeaseId) {
        let key = (suspect.clone(), observer.clone());
        if stands {
            _ = self.suspicions.insert(key, lease)
        } else {
            _ = self.suspicions.remove(&key)
        }
        let (suspect, observer) = (suspect.clone(), observer.clone());
        self.commit(vec![Seen::Suspicion { suspect, observer, stands }]);
    }

    pub fn set_drain(&mut self, node: &NodeId, drain: bool) {
        if drain {
            self.drains.insert(node.clone())
        } else {
            self.drains.remove(node)
        };
        self.commit(vec![Seen::Drain(node.clone(), drain)]);
    }

    /// Ends leases that are over; each end is a change of its own, as in etcd.
    pub fn expire(&mut self, now: Duration) -> bool {
        let over: Vec<_> = self.leases.iter().filter(|(_, until)| **until < now).map(|(id, _)| *id).collect();
        over.iter().for_each(|lease| self.revoke(*lease));
        !over.is_empty()
    }

    pub fn revoke(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let mut changes = Vec::new();
        self.nodes.retain(|node, (_, with)| {
            (*with != lease) || {
                changes.push(Seen::Node(node.clone(), None));
                false
            }
        });
        self.held.retain(|node, (_, with)| {
            (*with != lease) || {
                changes.push(Seen::Held(node.clone(), None));
                false
            }
        });
        self.suspicions.retain(|(suspect, observer), with| {
            (*with != lease) || {
                changes.push(Seen::Suspicion {
                    suspect: suspect.clone(),
                    observer: observer.clone(),
                    stands: false,
                });
                false
            }
        });
        if self.leader.take_if(|(_, _, with)| *with == lease).is_some() {
            changes.push(Seen::Leader(None));
        }
        if !changes.is_empty() {
            self.commit(changes);
            self.writes -= 1;
        }
    }

    pub fn read_blocks(&self, indexes: &[usize]) -> Vec<Seen> {
        let read =
            indexes.iter().filter_map(|i| self.blocks.get(i).map(|(at, b)| Seen::Block(*i, *at, b.clone())));
        read.collect()
    }

    /// Who is assigned a shard and has published it, and at which epoch.
    pub fn published(&self, shard: ShardId) -> Option<(&NodeIdentity, Epoch)> {
        let (_, block) = self.blocks.get(&block_of(shard))?;
        let entry = &block.0[place_of(shard)];
        let owner = entry.owner.as_ref()?;
        let (held, _) = self.held.get(owner)?;
        held.get(shard).filter(|held| held.turn == entry.turn).map(|held| (owner, held.epoch))
    }

    pub fn list(&self) -> Vec<Seen> {
        let mut all: Vec<Seen> = self
            .nodes
            .iter()
            .map(|(node, (record, _))| Seen::Node(node.clone(), Some(record.clone())))
            .collect();
        all.extend(self.held.iter().map(|(node, (held, _))| Seen::Held(node.clone(), Some(held.clone()))));
        all.extend(self.read_blocks(&(0..BLOCKS).collect::<Vec<_>>()));
        all.extend(self.drains.iter().map(|node| Seen::Drain(node.clone(), true)));
        all.extend(self.suspicions.keys().map(|(suspect, observer)| Seen::Suspicion {
            suspect: suspect.clone(),
            observer: observer.clone(),
            stands: true,
        }));
        all.push(Seen::Gate(self.gate));
        all.push(Seen::Leader(self.leader.as_ref().map(|(node, at, _)| (node.clone(), *at))));
        all
    }
}
