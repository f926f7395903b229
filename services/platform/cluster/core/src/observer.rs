//! What this node itself knows of nodes that it cannot reach: the other observer beside the coordinator.

use std::{collections::BTreeMap, time::Duration};

use trunkline_types::NodeId;

use crate::{Effect, Map, NodeIdentity, Policy, Presence, coordinator::info, plan::mix};

/// Suspects at the same time; more mean that this node itself is cut off.
const SUSPECTS: usize = 64;

#[derive(Debug, Clone)]
struct Suspect {
    next: Duration,
    under_way: bool,
    failed: u32,
    /// Not written before: when others have said it, once is enough.
    write_at: Duration,
    written: bool,
}

#[derive(Debug)]
pub(crate) struct Observer {
    me: NodeId,
    policy: Policy,
    suspects: BTreeMap<NodeIdentity, Suspect>,
    /// The election that this node has tried to end.
    deposed: Option<u64>,
}

impl Observer {
    pub fn new(me: NodeId, policy: Policy) -> Self {
        Self { me, policy, suspects: BTreeMap::new(), deposed: None }
    }

    /// A link to a node broke.
    pub fn suspect(&mut self, now: Duration, map: &Map, node: &NodeId) {
        let Some((identity, _)) = map.members.life(node) else { return };
        if *node == self.me || self.suspects.len() >= SUSPECTS {
            return;
        }
        let rank = self.rank(map, node);
        self.suspects.entry(identity.clone()).or_insert(Suspect {
            next: now,
            under_way: false,
            failed: 0,
            write_at: now + self.policy.round * rank,
            written: false,
        });
    }

    /// The order in which members speak up about a node; at most 20.
    fn rank(&self, map: &Map, about: &NodeId) -> u32 {
        let hash = |id: &NodeId| {
            mix(id
                .as_str()
                .bytes()
                .chain(about.as_str().bytes())
                .fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte))))
        };
        let own = hash(&self.me);
        map.members.present().filter(|(identity, _)| hash(&identity.id) < own).count().min(20) as u32
    }

    pub fn was_probed(&mut self, now: Duration, identity: &NodeIdentity, reached: bool) {
        let Some(suspect) = self.suspects.get_mut(identity) else { return };
        suspect.under_way = false;
        suspect.failed = if reached { 0 } else { suspect.failed + 1 };
        suspect.next = if suspect.failed == 1 { now } else { now + self.policy.probe };
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.suspects.values().filter(|suspect| !suspect.under_way).map(|suspect| suspect.next).min()
    }

    pub fn tick(&mut self, now: Duration, map: &Map, effects: &mut Vec<Effect>) {
        let me = self.me.clone();
        self.watch_gone(now, map);
        self.depose(map, effects);
        self.suspects.retain(|identity, suspect| {
            let stands = match map.members.presence(identity) {
                Presence::Present => true,
                Presence::Gone { since } => map.members.in_doubt(identity) && now < since + self.policy.ttl,
                _ => false,
            };
            let present = map.members.presence(identity) == Presence::Present;
            let cleared = present && suspect.failed == 0 && !suspect.under_way && suspect.next > now;
            if suspect.written && (!stands || cleared) {
                effects.push(Effect::Suspect(identity.clone(), false));
            }
            stands && !cleared
        });
        for (identity, suspect) in &mut self.suspects {
            let said = map.suspected().find(|(known, _)| *known == identity).map_or(0, |(_, by)| by.len());
            let present = map.members.presence(identity) == Presence::Present;
            let needed = present && said < 2 && !map.suspects(&me, identity);
            if suspect.failed >= 2 && needed && !suspect.written && suspect.write_at <= now {
                suspect.written = true;
                effects.push(Effect::Suspect(identity.clone(), true));
            }
            if !suspect.under_way && suspect.next <= now {
                suspect.under_way = true;
                if let Some(info) = info(map, identity) {
                    effects.push(Effect::Probe(info));
                }
            }
        }
    }

    /// A coordinator that another member and this node do not reach: its election ends now and not with its lease. What it
    /// still wants to write compares its election.
    fn depose(&mut self, map: &Map, effects: &mut Vec<Effect>) {
        let Some((leader, revision)) = &map.leader else { return };
        let failed = self.suspects.get(leader).is_some_and(|suspect| suspect.failed >= 2);
        let said = map.suspected().find(|(known, _)| *known == leader);
        let others = said.is_some_and(|(_, by)| by.into_iter().any(|id| *id != self.me));
        if failed && others && self.deposed != Some(*revision) {
            self.deposed = Some(*revision);
            effects.push(Effect::Depose(*revision));
        }
    }

    /// Those whose keys are gone are asked directly: when they do not answer, nothing is sent to them any more.
    fn watch_gone(&mut self, now: Duration, map: &Map) {
        if map.members.mass(now, &self.policy) {
            return;
        }
        for (identity, _, since) in map.members.gone() {
            let fresh = map.members.in_doubt(identity) && now < since + self.policy.ttl;
            if fresh && identity.id != self.me && self.suspects.len() < SUSPECTS {
                self.suspects.entry(identity.clone()).or_insert(Suspect {
                    next: now,
                    under_way: false,
                    failed: 0,
                    write_at: now,
                    written: false,
                });
            }
        }
    }

    /// The store has not taken a suspicion.
    pub fn not_written(&mut self, identity: &NodeIdentity) {
        if let Some(suspect) = self.suspects.get_mut(identity) {
            suspect.written = false;
        }
    }
}
