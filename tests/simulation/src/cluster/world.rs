//! Time, the bus, and everything that happens.

mod actors;
mod bus;
mod describe;
mod media;
mod outside;
mod placement;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use trunkline_acd_core::{
    Agent, AgentConfig, AgentEvent, AgentInput, AgentView, CallToAgent, CallToQueue, LeaveCause, Queue,
    QueueConfig, QueueEvent, QueueInput, SessionId,
    agent::{AgentStatus, Console, DetachReason, SessionInput},
};
use trunkline_call_core::{
    AgentRequest, Call, EdgeCommand, Input as CallInput, MediaCommand, QueueSignal, Settings,
};
use trunkline_cluster_core::{Effect, Input, NodeIdentity, Seen};
use trunkline_types::{
    AgentId, CallId, EntityAddress, Epoch, NodeId, OfferId, QueueId, RecordingId, ReleaseCause, ShardGroup,
    ShardId, TenantId, Timestamp,
};

use super::{
    Report, SETTLES_WITHIN, Schedule, Weather,
    actor::{Actor, Append},
    check::Checker,
    clock::Clock,
    core::{Core, Deed, Entity, Fact, Word, Work},
    journal::{Journal, Refusal},
    light::{Assigned, LightMap},
    media_node::{MediaNode, Shelf},
    node::{Closing, Node, Place, policy},
    phone::Phone,
    store::Store,
    translate,
};
use crate::{Rng, acd::human::Human};

pub(super) const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// The cluster forms in peace, then faults and arrivals go on for so long.
const FORMS_WITHIN: Duration = Duration::from_secs(4);
const ROUGH_FOR: Duration = Duration::from_secs(60);
/// The bus holds what has no owner for so long, and looks again so often.
const HELD_FOR: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Two observers need so long to have a node taken out.
const SUSPECTED: Duration = Duration::from_millis(1_500);
/// How often edges give requests again.
const AGAIN: Duration = Duration::from_millis(700);

/// Between two entities, or from a role on a node.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    to: Entity,
    word: Word,
    /// The sender's shard and epoch.
    from: Option<(ShardId, u64)>,
    hops: u8,
    until: Timestamp,
}

#[derive(Debug, Clone)]
pub(super) enum Happening {
    Machine(usize, u64, Box<Input>),
    Tick(usize, u64),
    Store(usize, u64, Box<Effect>),
    Renew(usize, u64),
    /// A node sees the light map.
    Map(usize, u64, Rc<LightMap>),
    /// The light coordinator looks around.
    Coordinate,
    LeaseEnd(NodeIdentity),
    Probe(usize, u64, NodeIdentity),
    ReleaseAsk(usize, usize, u64, Vec<ShardId>),
    CloseLate(usize, u64, u64),
    Seal(usize, u64, Vec<ShardId>),
    Open(usize, u64, Vec<ShardId>),
    Append(usize, u64, Entity, u64, u64, Append),
    Appended(usize, u64, Entity, u64, Result<(), Refusal>),
    Rebuild(usize, u64, Entity),
    Deliver(usize, Box<Envelope>),
    Wake(usize, u64, Entity, u64),
    Edge(usize, ShardId, u64, Box<EdgeCommand>),
    Media(usize, usize, ShardId, u64, Box<MediaCommand>),
    MediaTells(usize, u64, u64, usize),
    MediaMissed(usize, u64, usize),
    MediaStarts(usize, u64),
    MediaHeals(usize, u64),
    MediaLeave(usize),
    MediaDrained(usize),
    MediaFault,
    /// A phone's answer to an INVITE, until it is acknowledged.
    Repeats(usize, u32, Box<CallInput>, u32),
    Sees(usize, Box<AgentView>),
    Look(usize),
    ConsoleDies(usize),
    Arrive(usize),
    Again(usize),
    HangUp(usize),
    Fault,
    Restart(usize),
    Resume(usize, u64),
    Heal(usize, u64),
    Undrain(usize),
}

impl Happening {
    /// The node and life that it happens to, if it has to be awake for it.
    fn process(&self) -> Option<(usize, Option<u64>)> {
        match self {
            Self::Machine(n, life, _)
            | Self::Tick(n, life)
            | Self::Renew(n, life)
            | Self::Map(n, life, _)
            | Self::CloseLate(n, life, _)
            | Self::Open(n, life, _)
            | Self::Appended(n, life, ..)
            | Self::Rebuild(n, life, _)
            | Self::Wake(n, life, ..) => Some((*n, Some(*life))),
            Self::Deliver(n, _) | Self::ReleaseAsk(n, ..) => Some((*n, None)),
            _ => None,
        }
    }
}

/// How bad the network is, per mille.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Network {
    loss: u64,
    double: u64,
    late: u64,
    late_most: Duration,
}

impl Network {
    fn is_calm(&self) -> bool {
        self.loss == 0 && self.double == 0 && self.late == 0
    }
}

pub(super) struct World {
    pub(super) schedule: Schedule,
    pub(super) rng: Rng,
    pub(super) now: Timestamp,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    count: u64,
    generations: u64,
    pub(super) network: Network,
    tenant: TenantId,
    queue_ids: Vec<QueueId>,
    agent_ids: Vec<AgentId>,
    shards: BTreeMap<Entity, ShardId>,
    queue_config: Vec<QueueConfig>,
    agent_config: Vec<AgentConfig>,
    settings: Arc<Settings>,
    shelf: Arc<Shelf>,
    pub(super) nodes: Vec<Node>,
    pub(super) store: Store,
    light: LightMap,
    journal: Journal,
    phones: Vec<Phone>,
    media_nodes: Vec<MediaNode>,
    /// When the last command of a node about a call reaches a media node.
    links: BTreeMap<(usize, usize, usize), Timestamp>,
    /// Recordings of media nodes that were lost.
    stored: BTreeSet<RecordingId>,
    /// What edges have heard of shards.
    outside: BTreeMap<ShardId, u64>,
    humans: Vec<Human>,
    event_ids: u64,
    /// For the mutation that says everything again.
    said: BTreeMap<Entity, Vec<Deed>>,
    pub(super) checker: Checker,
    /// The light coordinator's: until when nodes live, and whom it drains.
    leases: BTreeMap<NodeIdentity, Timestamp>,
    pub(super) drained: BTreeSet<usize>,
    pub(super) calm_since: Option<Timestamp>,
    pub(super) report: Report,
}

/// What the network does to messages.
fn weather(weather: Weather, rng: &mut Rng) -> Network {
    match weather {
        Weather::Calm => Network::default(),
        Weather::Rough => Network {
            loss: rng.below(150),
            double: rng.below(200),
            late: rng.below(200),
            late_most: rng.millis(50, 4_000),
        },
        Weather::Haunted => Network {
            loss: rng.below(150),
            double: 200 + rng.below(400),
            late: 200 + rng.below(300),
            late_most: rng.millis(2_000, 8_000),
        },
    }
}

impl World {
    pub(super) fn new(schedule: Schedule) -> Self {
        let mut rng = Rng::new(schedule.seed ^ 0xc105_7e12);
        let (queues, agents, nodes) =
            (1 + rng.below(2) as usize, 2 + rng.below(4) as usize, 3 + rng.below(3) as usize);
        let network = weather(schedule.weather, &mut rng);
        let tenant: TenantId = "default".parse().unwrap_or_else(|_| unreachable!("a valid name"));
        let queue_ids: Vec<QueueId> = (0..queues).filter_map(|n| format!("q-{n}").parse().ok()).collect();
        let agent_ids: Vec<AgentId> = (0..agents).filter_map(|n| format!("a-{n}").parse().ok()).collect();
        let mut shards = BTreeMap::new();
        for (n, id) in queue_ids.iter().enumerate() {
            shards.insert(Entity::Queue(n), EntityAddress::queue(&tenant, id).shard());
        }
        for (n, id) in agent_ids.iter().enumerate() {
            shards.insert(Entity::Agent(n), EntityAddress::agent(&tenant, id).shard());
        }
        let queue_config: Vec<QueueConfig> = (0..queues)
            .map(|_| QueueConfig {
                max_wait: rng.chance(200).then(|| rng.millis(15_000, 60_000)),
                ring_timeout: rng.millis(4_000, 12_000),
                wrap_up: if rng.chance(300) { Duration::ZERO } else { rng.millis(500, 5_000) },
                recording: rng.chance(500),
                ..QueueConfig::default()
            })
            .collect();
        let agent_config = (0..agents)
            .map(|_| AgentConfig { queues: queue_ids.clone(), ..AgentConfig::default() })
            .collect();
        let media: Vec<NodeId> =
            (0..2 + rng.below(2)).filter_map(|n| format!("m-{n}").parse().ok()).collect();
        let (settings, shelf) = Shelf::new(&media);
        let names = (0..nodes).filter_map(|n| format!("n-{n}").parse().ok());
        let checker = Checker::new(&queue_config);
        let mut world = Self {
            schedule,
            now: START,
            agenda: BTreeMap::new(),
            count: 0,
            generations: 0,
            network,
            tenant,
            shards,
            queue_config,
            agent_config,
            settings,
            shelf,
            nodes: names
                .map(|id| {
                    let clock = Clock::at_start(&mut rng, schedule.mutations.wall_clocks);
                    Node::new(id, 1, START, clock, schedule.coordinated)
                })
                .collect(),
            store: Store::default(),
            light: LightMap::new(),
            journal: Journal::default(),
            phones: Vec::new(),
            media_nodes: media.into_iter().map(|id| MediaNode::new(id, 1)).collect(),
            links: BTreeMap::new(),
            stored: BTreeSet::new(),
            outside: BTreeMap::new(),
            humans: (0..agents).map(|_| Human::who_transfers(queue_ids.clone())).collect(),
            event_ids: 0,
            said: BTreeMap::new(),
            checker,
            leases: BTreeMap::new(),
            drained: BTreeSet::new(),
            calm_since: None,
            report: Report::default(),
            queue_ids,
            agent_ids,
            rng,
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        for n in 0..self.nodes.len() {
            self.join(n);
        }
        let calls = 4 + self.rng.below(12) as usize;
        for n in 0..calls {
            let arrives = FORMS_WITHIN + self.rng.millis(0, 50_000);
            self.after(arrives, Happening::Arrive(n));
            if self.rng.chance(350) {
                let patience = self.rng.millis(500, 30_000);
                self.after(arrives + patience, Happening::HangUp(n));
            }
            let queue = self.rng.below(self.queue_ids.len() as u64) as usize;
            // The call gets its shard when it arrives.
            let id = CallId::mint(self.call_shard(), START.plus(arrives), u128::from(self.rng.bits()));
            self.phones.push(Phone::new(id, self.queue_ids[queue].clone()));
            self.shards.insert(Entity::Call(n), id.shard());
        }
        for n in 0..self.humans.len() {
            let first = FORMS_WITHIN + self.rng.millis(0, 500);
            self.after(first, Happening::Look(n));
        }
        if !self.schedule.coordinated {
            self.after(Duration::from_millis(500), Happening::Coordinate);
        }
        let first = FORMS_WITHIN + self.rng.millis(1_000, 8_000);
        self.after(first, Happening::Fault);
        let first = FORMS_WITHIN + self.rng.millis(1_000, 20_000);
        self.after(first, Happening::MediaFault);
    }

    fn call_shard(&mut self) -> ShardId {
        let (first, count) = ShardGroup::Call.range();
        let index = first + self.rng.below(u64::from(count)) as u16;
        ShardId::new(index).unwrap_or_else(|| unreachable!("below the count"))
    }

    pub(super) fn after(&mut self, delay: Duration, what: Happening) {
        self.at(self.now.plus(delay), what);
    }

    fn at(&mut self, at: Timestamp, what: Happening) {
        self.count += 1;
        self.agenda.insert((at, self.count), what);
    }

    pub(super) fn run(mut self) -> Report {
        while let Some(((at, _), what)) = self.agenda.pop_first() {
            self.now = at;
            if self.calm_since.is_none() && at.since(START) >= FORMS_WITHIN + ROUGH_FOR {
                self.calm_down();
            }
            if self.schedule.trace {
                describe::trace(at, &what);
            }
            self.happen(what);
            if self.checker.is_broken() || self.is_finished() {
                break;
            }
        }
        if !self.checker.is_broken() {
            self.checker.finally(self.phones.len());
        }
        self.report.conversations = self.checker.conversations();
        (self.report.consultations, self.report.transfers) = self.checker.passed_on();
        self.report.violations = self.checker.take();
        self.report
    }

    fn is_finished(&mut self) -> bool {
        let Some(calm_since) = self.calm_since else { return false };
        if self.now.since(calm_since) > SETTLES_WITHIN {
            let stuck = self.describe();
            self.checker.broken(format!("not settled within {SETTLES_WITHIN:?}: {stuck}"));
            return true;
        }
        self.phones.iter().all(Phone::is_done)
            && (0..self.phones.len()).all(|n| self.journal.is_finished(Entity::Call(n)))
            && (0..self.queue_ids.len()).all(|n| self.is_idle(Entity::Queue(n)))
            && (0..self.agent_ids.len()).all(|n| self.is_idle(Entity::Agent(n)))
    }

    /// Where an entity lives: the actor with the highest epoch.
    fn actor(&self, entity: Entity) -> Option<&Actor> {
        self.nodes.iter().filter_map(|node| node.actors.get(&entity)).max_by_key(|actor| actor.epoch)
    }

    fn is_idle(&self, entity: Entity) -> bool {
        if self.journal.history(entity).is_empty() {
            return true;
        }
        self.actor(entity).is_some_and(|actor| {
            actor.is_settled()
                && match &actor.core {
                    Core::Queue(queue) => {
                        let view = queue.view(1);
                        view.waiting == 0 && view.offers.is_empty()
                    }
                    Core::Agent(agent) => {
                        agent.unseen_outcomes() == 0
                            && matches!(agent.view().status, AgentStatus::Ready { .. })
                    }
                    Core::Call(_) => true,
                }
        })
    }

    fn happen(&mut self, what: Happening) {
        if let Some((n, life)) = what.process() {
            let node = &mut self.nodes[n];
            if !node.up || life.is_some_and(|life| life != node.life) {
                return;
            }
            if node.paused_until.is_some() {
                node.held_back.push(what);
                return;
            }
        }
        match what {
            Happening::Machine(n, _, input) => self.machine(n, *input),
            Happening::Tick(n, _) => {
                self.nodes[n].tick_at = None;
                self.machine(n, Input::Tick);
            }
            Happening::Store(n, life, effect) => self.at_store(n, life, *effect),
            Happening::Renew(n, life) => self.renew(n, life),
            Happening::Map(n, _, map) => self.sees(n, map),
            Happening::Coordinate => self.coordinate(),
            Happening::LeaseEnd(identity) => self.lease_end(&identity),
            Happening::Probe(n, life, node) => self.probe(n, life, node),
            Happening::ReleaseAsk(n, asker, life, shards) => self.release_asked(n, asker, life, shards),
            Happening::CloseLate(n, _, number) => self.close_late(n, number),
            Happening::Seal(n, life, shards) => self.seal(n, life, shards),
            Happening::Open(n, life, shards) => self.open(n, life, shards),
            Happening::Append(n, life, entity, generation, epoch, append) => {
                self.append(n, life, entity, generation, epoch, append);
            }
            Happening::Appended(n, _, entity, generation, result) => {
                self.appended(n, entity, generation, result);
            }
            Happening::Rebuild(n, _, entity) => self.rebuild(n, entity),
            Happening::Deliver(n, envelope) => self.deliver(n, *envelope),
            Happening::Wake(n, _, entity, generation) => self.wake(n, entity, generation),
            Happening::Edge(call, shard, epoch, command) => self.edge(call, shard, epoch, *command),
            Happening::Repeats(n, cseq, response, times) => self.repeats(n, cseq, &response, times),
            Happening::Sees(n, view) => {
                let newer = self.humans[n]
                    .view
                    .as_ref()
                    .is_none_or(|seen| (seen.epoch, seen.version) < (view.epoch, view.version));
                if newer {
                    self.humans[n].view = Some(*view);
                }
            }
            Happening::Look(n) => self.look(n),
            Happening::ConsoleDies(n) => self.console_dies(n),
            Happening::Arrive(n) => self.arrive(n),
            Happening::Again(n) => self.again(n),
            Happening::HangUp(n) => self.hang_up(n),
            Happening::Fault => self.fault(),
            Happening::Restart(n) => self.restart(n),
            Happening::Resume(n, life) => self.resume(n, life),
            Happening::Heal(n, life) => self.heal(n, life),
            Happening::Undrain(n) => self.undrain(n),
            what => self.happen_to_media(what),
        }
    }
}
