//! A node: its coordination, its actors, and what it has heard of others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use trunkline_cluster_core::{Holding, Incarnation, Machine, NodeIdentity, NodeRecord, Policy, Role};
use trunkline_types::{Feature, NodeId, ShardId, Timestamp};

use super::{
    actor::Actor,
    clock::Clock,
    core::{Entity, Word},
    light::Light,
    world::Happening,
};

/// An actor that is being rebuilt, and what waits for it.
pub(super) type Waiting = VecDeque<Word>;

/// A request to close shards, and by when.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) shards: BTreeSet<ShardId>,
    pub(super) number: u64,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) life: u64,
    pub(super) clock: Clock,
    pub(super) up: bool,
    pub(super) paused_until: Option<Timestamp>,
    /// What reached it in its sleep.
    pub(super) held_back: Vec<Happening>,
    pub(super) place: Place,
    pub(super) actors: BTreeMap<Entity, Actor>,
    pub(super) starting: BTreeMap<Entity, Waiting>,
    pub(super) closing: Vec<Closing>,
    /// Who waits for shards to be let go: (node, its life, shards).
    pub(super) releasing: Vec<(usize, u64, Vec<ShardId>)>,
    pub(super) guard: BTreeMap<ShardId, u64>,
    /// Cut off from the store, from the other nodes.
    pub(super) cut_store: bool,
    pub(super) cut_peers: bool,
    pub(super) cut_since: Option<Timestamp>,
    pub(super) tick_at: Option<Timestamp>,
    /// Watch events reach it in order.
    pub(super) watched_at: Timestamp,
}

impl Node {
    pub(super) fn new(id: NodeId, life: u64, now: Timestamp, clock: Clock, real: bool) -> Self {
        let identity = NodeIdentity { id: id.clone(), incarnation: Incarnation(life) };
        let record = NodeRecord {
            registration: 0,
            address: id.to_string(),
            roles: [Role::Call, Role::Acd].into(),
            zone: None,
            version: "1".to_owned(),
            features: Feature::LATEST,
            weight: 1,
            draining: false,
            evicted: false,
            public: BTreeMap::new(),
            since_us: 0,
        };
        Self {
            place: if real {
                Place::Real(Box::new(Machine::new(identity, record, policy())))
            } else {
                Place::Light(Light::new(identity))
            },
            id,
            life,
            clock,
            up: true,
            paused_until: None,
            held_back: Vec::new(),
            actors: BTreeMap::new(),
            starting: BTreeMap::new(),
            closing: Vec::new(),
            releasing: Vec::new(),
            guard: BTreeMap::new(),
            cut_store: false,
            cut_peers: false,
            cut_since: None,
            tick_at: None,
            watched_at: now,
        }
    }

    pub(super) fn is_awake(&self) -> bool {
        self.up && self.paused_until.is_none()
    }

    /// The epoch at which it may act on a shard.
    pub(super) fn sealed(&self, shard: ShardId) -> Option<u64> {
        match self.place.holding(shard) {
            Holding::Held(epoch) | Holding::Opening(epoch) => Some(epoch.0),
            Holding::None => None,
        }
    }

    /// Whether a word of this shard's owner may act here: by what was heard, and by what the map says.
    pub(super) fn admits(&mut self, shard: ShardId, epoch: u64) -> bool {
        let published = self.place.published(shard);
        let highest = self.guard.entry(shard).or_default();
        if epoch == 0 || epoch < *highest || epoch < published {
            return false;
        }
        *highest = epoch;
        true
    }
}

/// A node's coordination: the real machine, or the light one.
pub(super) enum Place {
    Real(Box<Machine>),
    Light(Light),
}

impl Place {
    pub(super) fn me(&self) -> &NodeIdentity {
        match self {
            Self::Real(machine) => machine.me(),
            Self::Light(light) => light.me(),
        }
    }

    pub(super) fn holding(&self, shard: ShardId) -> Holding {
        match self {
            Self::Real(machine) => machine.holding(shard),
            Self::Light(light) => light.holding(shard),
        }
    }

    pub(super) fn acts(&self, shard: ShardId) -> bool {
        match self {
            Self::Real(machine) => machine.acts(shard),
            Self::Light(light) => light.acts(shard),
        }
    }

    pub(super) fn owner(&self, shard: ShardId) -> Option<&NodeIdentity> {
        match self {
            Self::Real(machine) => machine.map().assignment(shard).owner.as_ref(),
            Self::Light(light) => light.assigned(shard).map(|assigned| &assigned.owner),
        }
    }

    /// For a description.
    pub(super) fn stage_of(&self, shard: ShardId) -> String {
        match self {
            Self::Real(_) => String::new(),
            Self::Light(light) => light.stage_of(shard),
        }
    }

    fn published(&self, shard: ShardId) -> u64 {
        let epoch = match self {
            Self::Real(machine) => machine.map().published(shard),
            Self::Light(light) => light.assigned(shard).and_then(|assigned| assigned.published),
        };
        epoch.map_or(0, |epoch| epoch.0)
    }
}

/// Times of the coordination: as shipped.
pub(super) fn policy() -> Policy {
    Policy::of(std::time::Duration::from_secs(3))
}
