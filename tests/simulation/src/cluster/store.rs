//! The store of the map: keys with leases, an election, revisions. What etcd is to the real nodes.

use std::{collections::BTreeMap, time::Duration};

use trunkline_cluster_core::{Block, Effect, Holdings, Input, NodeIdentity, NodeRecord, Seen};
use trunkline_types::NodeId;

#[derive(Default)]
pub(super) struct Store {
    revision: u64,
    nodes: BTreeMap<NodeIdentity, NodeRecord>,
    held: BTreeMap<NodeIdentity, Holdings>,
    blocks: BTreeMap<usize, (u64, Block)>,
    drains: BTreeMap<NodeId, bool>,
    leader: Option<(NodeIdentity, u64)>,
    suspicions: BTreeMap<(NodeIdentity, NodeId), ()>,
    leases: BTreeMap<NodeIdentity, Duration>,
}

/// A change that watchers see.
pub(super) type Changes = Vec<Seen>;

impl Store {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Everything, as a first reading gives it.
    pub(super) fn all(&self) -> Changes {
        let nodes = self.nodes.iter().map(|(id, record)| Seen::Node(id.clone(), Some(record.clone())));
        let held = self.held.iter().map(|(id, held)| Seen::Held(id.clone(), Some(held.clone())));
        let blocks = self.blocks.iter().map(|(index, (at, block))| Seen::Block(*index, *at, block.clone()));
        let drains = self.drains.iter().map(|(node, drain)| Seen::Drain(node.clone(), *drain));
        let suspicions = self.suspicions.keys().map(|(suspect, observer)| Seen::Suspicion {
            suspect: suspect.clone(),
            observer: observer.clone(),
            stands: true,
        });
        let leader = [Seen::Leader(self.leader.clone())];
        nodes.chain(held).chain(blocks).chain(drains).chain(suspicions).chain(leader).collect()
    }

    /// The lease of a node lives until then; `None` = it has none.
    pub(super) fn lease(&self, node: &NodeIdentity) -> Option<Duration> {
        self.leases.get(node).copied()
    }

    /// Renews a lease that lives.
    pub(super) fn renew(&mut self, node: &NodeIdentity, until: Duration) -> bool {
        match self.leases.get_mut(node) {
            Some(lease) => {
                *lease = until;
                true
            }
            None => false,
        }
    }

    /// Ends the lease of a node: its keys are gone.
    pub(super) fn expire(&mut self, node: &NodeIdentity) -> Changes {
        self.leases.remove(node);
        let mut changes = Vec::new();
        if self.nodes.remove(node).is_some() {
            changes.push(Seen::Node(node.clone(), None));
        }
        if self.held.remove(node).is_some() {
            changes.push(Seen::Held(node.clone(), None));
        }
        if self.leader.as_ref().is_some_and(|(leader, _)| leader == node) {
            self.leader = None;
            changes.push(Seen::Leader(None));
        }
        let withdrawn: Vec<_> =
            self.suspicions.keys().filter(|(_, observer)| *observer == node.id).cloned().collect();
        for (suspect, observer) in withdrawn {
            self.suspicions.remove(&(suspect.clone(), observer.clone()));
            changes.push(Seen::Suspicion { suspect, observer, stands: false });
        }
        self.revision += u64::from(!changes.is_empty());
        changes
    }

    pub(super) fn set_drain(&mut self, node: &NodeId, drain: bool) -> Changes {
        self.revision += 1;
        self.drains.insert(node.clone(), drain);
        vec![Seen::Drain(node.clone(), drain)]
    }

    /// Carries out what a node wants written or read: what watchers see of it, and its answer.
    pub(super) fn carry_out(
        &mut self,
        me: &NodeIdentity,
        effect: Effect,
        lease_until: Duration,
    ) -> (Changes, Option<Input>) {
        match effect {
            Effect::Register(record, holdings) => {
                self.revision += 1;
                self.nodes.insert(me.clone(), record.clone());
                self.held.insert(me.clone(), holdings.clone());
                self.leases.insert(me.clone(), lease_until);
                let changes = vec![
                    Seen::Node(me.clone(), Some(record)),
                    Seen::Held(me.clone(), Some(holdings.clone())),
                ];
                let (revision, until) = (self.revision, lease_until);
                (changes, Some(Input::Registered { revision, until, holdings }))
            }
            Effect::Campaign => {
                if self.leader.is_some() || !self.leases.contains_key(me) {
                    return (Vec::new(), Some(Input::Campaigned(None)));
                }
                self.revision += 1;
                self.leader = Some((me.clone(), self.revision));
                (vec![Seen::Leader(self.leader.clone())], Some(Input::Campaigned(Some(self.revision))))
            }
            Effect::Assign(blocks, _) => self.assign(me, blocks),
            Effect::Publish(holdings) => {
                if !self.nodes.contains_key(me) {
                    return (Vec::new(), Some(Input::Published(false)));
                }
                self.revision += 1;
                self.held.insert(me.clone(), holdings.clone());
                (vec![Seen::Held(me.clone(), Some(holdings))], Some(Input::Published(true)))
            }
            Effect::Evict(node, record) => {
                if !self.leads(me) || !self.nodes.contains_key(&node) {
                    return (Vec::new(), Some(Input::NotEvicted(node)));
                }
                self.revision += 1;
                self.nodes.insert(node.clone(), record.clone());
                (vec![Seen::Node(node, Some(record))], None)
            }
            Effect::Depose(elected) => match self.leader.take_if(|(_, at)| *at == elected) {
                Some(_) => {
                    self.revision += 1;
                    (vec![Seen::Leader(None)], Some(Input::Tick))
                }
                None => (Vec::new(), Some(Input::Tick)),
            },
            Effect::Suspect(suspect, stands) => {
                self.revision += 1;
                let key = (suspect.clone(), me.id.clone());
                if stands {
                    self.suspicions.insert(key, ());
                } else {
                    self.suspicions.remove(&key);
                }
                (vec![Seen::Suspicion { suspect, observer: me.id.clone(), stands }], None)
            }
            Effect::Confirm(blocks) => {
                let read = blocks.iter().map(|index| {
                    let (at, block) = self.blocks.get(index).cloned().unwrap_or_default();
                    Seen::Block(*index, at, block)
                });
                (Vec::new(), Some(Input::Confirmed(read.collect(), blocks.clone(), true)))
            }
            _ => (Vec::new(), None),
        }
    }

    fn leads(&self, me: &NodeIdentity) -> bool {
        self.leader.as_ref().is_some_and(|(leader, _)| leader == me)
    }

    fn assign(&mut self, me: &NodeIdentity, blocks: Vec<(usize, u64, Block)>) -> (Changes, Option<Input>) {
        let current = |index: &usize| self.blocks.get(index).map_or(0, |(at, _)| *at);
        if !self.leads(me) || blocks.iter().any(|(index, at, _)| current(index) != *at) {
            return (Vec::new(), Some(Input::Assigned(Err(()))));
        }
        self.revision += 1;
        let mut written = Vec::new();
        let mut changes = Vec::new();
        for (index, _, block) in blocks {
            self.blocks.insert(index, (self.revision, block.clone()));
            written.push((index, self.revision));
            changes.push(Seen::Block(index, self.revision, block));
        }
        (changes, Some(Input::Assigned(Ok(written))))
    }

    /// The answer when the store cannot be reached.
    pub(super) fn unreachable(effect: &Effect) -> Option<Input> {
        Some(match effect {
            Effect::Register(..) => Input::NotRegistered,
            Effect::Campaign => Input::Campaigned(None),
            Effect::Assign(..) => Input::Assigned(Err(())),
            Effect::Publish(_) => Input::Published(false),
            Effect::Evict(node, _) => Input::NotEvicted(node.clone()),
            Effect::Suspect(node, _) => Input::NotSuspected(node.clone()),
            Effect::Confirm(blocks) => Input::Confirmed(Vec::new(), blocks.clone(), false),
            _ => return None,
        })
    }
}
