//! Who is a member, and who has just vanished.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use trunkline_types::NodeId;

use crate::{Incarnation, NodeIdentity, NodeInfo, NodeRecord, Policy};

/// A life of a node as its key tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    record: NodeRecord,
    /// Since when its key is gone.
    gone: Option<Duration>,
    /// Its key is gone and it was not reached directly either.
    unreachable: bool,
}

/// How a life of a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its key is there.
    Present,
    /// Its key is gone, or the coordinator has taken it out.
    Gone {
        /// Since when, as this node saw it.
        since: Duration,
    },
    /// A later life of the same node is there.
    Replaced,
    /// Never seen, or forgotten.
    Unknown,
}

/// The members as this node sees them. One whose key vanished stays listed until it is not reached directly either, at most
/// for the life of a lease; while more vanished with it than can be trusted, for twice that: routes and calls do not follow an
/// outage of the store.
#[derive(Debug, Default)]
pub struct Members {
    seen: BTreeMap<NodeIdentity, Seen>,
    /// Drained by an operator.
    drains: BTreeMap<NodeId, ()>,
    changed: Duration,
    /// When too many were lost together, last.
    mass_at: Option<Duration>,
}

impl Members {
    /// A key was written.
    pub fn put(&mut self, now: Duration, identity: NodeIdentity, record: NodeRecord) {
        let gone = record.evicted.then_some(now);
        let before = self.seen.insert(identity, Seen { record, gone, unreachable: false });
        if before.is_none_or(|before| before.gone != gone) {
            self.changed = now;
        }
    }

    /// A key is gone.
    pub fn delete(&mut self, now: Duration, identity: &NodeIdentity) {
        if let Some(seen) = self.seen.get_mut(identity).filter(|seen| seen.gone.is_none()) {
            seen.gone = Some(now);
            self.changed = now;
        }
    }

    /// A node whose key is gone did not answer this node either.
    pub fn not_reached(&mut self, identity: &NodeIdentity) {
        if let Some(seen) = self.seen.get_mut(identity).filter(|seen| seen.gone.is_some()) {
            seen.unreachable = true;
        }
    }

    /// Whether a vanished node still has to be asked directly by who wants to route to it.
    pub fn in_doubt(&self, identity: &NodeIdentity) -> bool {
        let seen = self.seen.get(identity);
        seen.is_some_and(|seen| seen.gone.is_some() && !seen.unreachable && !seen.record.evicted)
    }

    /// All keys were read again: what is not among them is gone.
    pub fn keep_only(&mut self, now: Duration, present: impl Fn(&NodeIdentity) -> bool) {
        let gone: Vec<_> = self.seen.keys().filter(|identity| !present(identity)).cloned().collect();
        gone.iter().for_each(|identity| self.delete(now, identity));
    }

    /// An operator drains a node, or ends it.
    pub fn set_drain(&mut self, node: NodeId, drain: bool) {
        if drain {
            self.drains.insert(node, ());
        } else {
            self.drains.remove(&node);
        }
    }

    /// The nodes that an operator drains.
    pub fn drains(&self) -> impl Iterator<Item = &NodeId> {
        self.drains.keys()
    }

    /// Whether an operator drains it.
    pub fn is_drained(&self, node: &NodeId) -> bool {
        self.drains.contains_key(node)
    }

    /// When a member came or went.
    pub const fn changed(&self) -> Duration {
        self.changed
    }

    /// The latest life of a node whose key is there.
    pub fn life(&self, id: &NodeId) -> Option<(&NodeIdentity, &NodeRecord)> {
        let lives = NodeIdentity { id: id.clone(), incarnation: Incarnation(0) }..=NodeIdentity {
            id: id.clone(),
            incarnation: Incarnation(u64::MAX),
        };
        let present = self.seen.range(lives).rev().find(|(_, seen)| seen.gone.is_none());
        present.map(|(identity, seen)| (identity, &seen.record))
    }

    /// How a life stands.
    pub fn presence(&self, identity: &NodeIdentity) -> Presence {
        let latest = self.life(&identity.id).map(|(latest, _)| latest.incarnation);
        match self.seen.get(identity) {
            _ if latest > Some(identity.incarnation) => Presence::Replaced,
            Some(Seen { gone: None, .. }) => Presence::Present,
            Some(Seen { gone: Some(since), .. }) => Presence::Gone { since: *since },
            None => Presence::Unknown,
        }
    }

    /// What it said of itself last.
    pub fn record(&self, identity: &NodeIdentity) -> Option<&NodeRecord> {
        self.seen.get(identity).map(|seen| &seen.record)
    }

    /// Latest lives whose keys are there, by id.
    pub fn present(&self) -> impl Iterator<Item = (&NodeIdentity, &NodeRecord)> {
        let present = self.seen.iter().filter(|(_, seen)| seen.gone.is_none());
        present
            .filter(|(identity, _)| self.presence(identity) == Presence::Present)
            .map(|(identity, seen)| (identity, &seen.record))
    }

    /// Lives that vanished and have no successor.
    pub fn gone(&self) -> impl Iterator<Item = (&NodeIdentity, &NodeRecord, Duration)> {
        self.seen.iter().filter_map(|(identity, seen)| {
            let since = seen.gone?;
            matches!(self.presence(identity), Presence::Gone { .. }).then_some((
                identity,
                &seen.record,
                since,
            ))
        })
    }

    /// Those that vanished lately, without having said that they would.
    pub fn lost(&self, now: Duration, policy: &Policy) -> impl Iterator<Item = &NodeIdentity> {
        let window = policy.ttl * 2;
        self.gone()
            .filter(move |(_, record, since)| {
                !record.evicted && !record.draining && now.saturating_sub(*since) < window
            })
            .map(|(identity, ..)| identity)
    }

    /// Looks whether too many were lost together. To be called after changes.
    pub fn note_mass(&mut self, now: Duration, policy: &Policy) {
        let lost = self.lost(now, policy).count();
        if policy.mass(lost, lost + self.present().count()) {
            self.mass_at = Some(now);
        }
    }

    /// Whether so many were lost together that it is not trusted. It is not trusted either that the last few of them are still
    /// missing when most have come back: for twice the life of a lease.
    pub fn mass(&self, now: Duration, policy: &Policy) -> bool {
        self.mass_at.is_some_and(|at| now < at + policy.ttl * 2)
    }

    fn listed_until(&self, now: Duration, policy: &Policy) -> Vec<(NodeIdentity, Option<Duration>)> {
        let mass = self.mass(now, policy);
        // Who had said that it leaves has left.
        let left = |identity: &NodeIdentity| self.record(identity).is_some_and(|record| record.draining);
        let patience = |identity: &NodeIdentity| match (mass, self.in_doubt(identity) && !left(identity)) {
            (true, _) => policy.ttl * 2,
            (false, true) => policy.ttl,
            (false, false) => policy.gather,
        };
        let present = self.present().map(|(identity, _)| (identity.clone(), None));
        let gone = self.gone().filter(|(_, record, _)| !record.evicted);
        present
            .chain(gone.map(|(identity, _, since)| (identity.clone(), Some(since + patience(identity)))))
            .collect()
    }

    /// The members for routing, by id.
    pub fn listed(&self, now: Duration, policy: &Policy) -> Vec<Arc<NodeInfo>> {
        let mut listed: BTreeMap<NodeId, Arc<NodeInfo>> = BTreeMap::new();
        for (identity, until) in self.listed_until(now, policy) {
            let Some(record) = self.record(&identity) else { continue };
            if until.is_none_or(|until| now < until) {
                let info = record.info(&identity, self.is_drained(&identity.id));
                // Ordered by incarnation: the latest life stays.
                listed.insert(identity.id, Arc::new(info));
            }
        }
        listed.into_values().collect()
    }

    /// When [`Members::listed`] changes by itself.
    pub fn next_deadline(&self, now: Duration, policy: &Policy) -> Option<Duration> {
        self.listed_until(now, policy)
            .into_iter()
            .filter_map(|(_, until)| until)
            .filter(|until| *until > now)
            .min()
    }

    /// Forgets lives that ended long ago and own nothing.
    pub fn forget(&mut self, now: Duration, policy: &Policy, owns: impl Fn(&NodeIdentity) -> bool) {
        let patience = policy.ttl * 20;
        self.seen.retain(|identity, seen| {
            seen.gone.is_none_or(|since| now.saturating_sub(since) < patience) || owns(identity)
        });
    }
}
