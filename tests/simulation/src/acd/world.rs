mod faults;
mod wires;

use std::{collections::BTreeMap, time::Duration};

use trunkline_acd_core::{
    Agent, AgentConfig, AgentEffect, AgentInput, AgentToCall, Queue, QueueConfig, QueueEffect, QueueInput,
    QueueToCall,
    agent::{AgentStatus, SessionInput},
};
use trunkline_types::{
    AgentId, CallId, Epoch, Machine, OfferId, QueueId, ReleaseCause, ShardId, TenantId, Timestamp,
};

use super::{
    Report, SETTLES_WITHIN, Schedule, Weather,
    caller::{Caller, Phase, Says},
    check::Checker,
    host::{Host, LastCommit, Step},
    human::Human,
};
use crate::Rng;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// Faults and arrivals happen for so long.
const ROUGH_FOR: Duration = Duration::from_secs(60);

/// A core's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Queue(usize),
    Agent(usize),
}

#[derive(Debug, Clone)]
enum Happening {
    ToQueue(usize, Box<QueueInput>),
    ToAgent(usize, Box<AgentInput>),
    QueueToCall(usize, usize, Box<QueueToCall>),
    AgentToCall(usize, usize, Box<AgentToCall>),
    Wake(Node),
    Committed(Node, u64),
    Restart(Node),
    Resume(Node, u64),
    Fault,
    Arrive(usize),
    HangUp(usize),
    Move(usize),
    Again(usize),
    Look(usize),
    Back(usize),
}

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
struct Network {
    loss: u64,
    double: u64,
    /// Per mille of messages that take long.
    late: u64,
    late_most: Duration,
}

pub(super) struct World {
    schedule: Schedule,
    rng: Rng,
    now: Timestamp,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    count: u64,
    network: Network,
    tenant: TenantId,
    queue_ids: Vec<QueueId>,
    agent_ids: Vec<AgentId>,
    queues: Vec<Host<Queue>>,
    agents: Vec<Host<Agent>>,
    queue_config: Vec<QueueConfig>,
    agent_config: Vec<AgentConfig>,
    callers: Vec<Caller>,
    call_index: BTreeMap<CallId, usize>,
    humans: Vec<Human>,
    checker: Checker,
    calm_since: Option<Timestamp>,
    report: Report,
}

impl World {
    pub(super) fn new(schedule: Schedule) -> Self {
        let mut rng = Rng::new(schedule.seed);
        let queues = 1 + rng.below(2) as usize;
        let agents = if schedule.weather == Weather::Haunted { 2 } else { 1 } + rng.below(5) as usize;
        let calls = 3 + rng.below(12) as usize;
        let network = match schedule.weather {
            Weather::Calm => Network { loss: 0, double: 0, late: 0, late_most: Duration::ZERO },
            Weather::Haunted => Network {
                loss: rng.below(50),
                double: 200 + rng.below(600),
                late: 200 + rng.below(400),
                late_most: rng.millis(3_000, 10_000),
            },
            Weather::Lossy | Weather::Stormy => Network {
                loss: rng.below(200),
                double: rng.below(300),
                late: rng.below(300),
                late_most: rng.millis(50, 8_000),
            },
        };
        let name = |kind: &str, n: usize| format!("{kind}-{n}");
        let queue_ids: Vec<QueueId> = (0..queues).filter_map(|n| name("q", n).parse().ok()).collect();
        let agent_ids: Vec<AgentId> = (0..agents).filter_map(|n| name("a", n).parse().ok()).collect();
        let queue_config = (0..queues).map(|_| Self::some_queue(&mut rng)).collect();
        let agent_config = (0..agents).map(|n| Self::some_agent(&mut rng, &queue_ids, n == 0)).collect();
        let mut world = Self {
            schedule,
            now: START,
            agenda: BTreeMap::new(),
            count: 0,
            network,
            tenant: "default".parse().unwrap_or_else(|_| unreachable!("a valid name")),
            queues: queue_ids.iter().map(|_| Host::new()).collect(),
            agents: agent_ids.iter().map(|_| Host::new()).collect(),
            queue_ids,
            agent_ids,
            queue_config,
            agent_config,
            callers: Vec::new(),
            call_index: BTreeMap::new(),
            humans: (0..agents).map(|_| Human::default()).collect(),
            checker: Checker::new(queues),
            calm_since: None,
            report: Report::default(),
            rng,
        };
        world.plan(calls);
        world
    }

    fn some_queue(rng: &mut Rng) -> QueueConfig {
        QueueConfig {
            max_waiting: if rng.chance(200) { 3 } else { 100 },
            max_wait: rng.chance(300).then(|| rng.millis(5_000, 40_000)),
            ring_timeout: rng.millis(3_000, 12_000),
            wrap_up: if rng.chance(300) { Duration::ZERO } else { rng.millis(500, 8_000) },
            ..QueueConfig::default()
        }
    }

    fn some_agent(rng: &mut Rng, queues: &[QueueId], serves_all: bool) -> AgentConfig {
        let one = rng.below(queues.len() as u64) as usize;
        AgentConfig {
            queues: if serves_all || rng.chance(700) { queues.to_vec() } else { vec![queues[one].clone()] },
            grace: rng.millis(5_000, 30_000),
            talk_grace: rng.millis(10_000, 60_000),
            ..AgentConfig::default()
        }
    }

    /// Who arrives when, and when faults happen.
    fn plan(&mut self, calls: usize) {
        for n in 0..calls {
            let shard = ShardId::new(7).unwrap_or_else(|| unreachable!("below the count"));
            let arrives = self.rng.millis(0, 30_000);
            let id = CallId::mint(shard, START.plus(arrives), u128::from(self.rng.bits()));
            let queue = self.rng.below(self.queues.len() as u64) as usize;
            let priority = self.rng.chance(150).then(|| self.rng.below(5) as i16 - 2);
            self.callers.push(Caller::new(id, queue, priority));
            self.call_index.insert(id, n);
            self.after(arrives, Happening::Arrive(n));
            if self.rng.chance(400) {
                let patience = self.rng.millis(0, 30_000);
                self.after(arrives + patience, Happening::HangUp(n));
            }
            if self.rng.chance(150) {
                let patience = self.rng.millis(0, 15_000);
                self.after(arrives + patience, Happening::Move(n));
            }
        }
        for n in 0..self.queues.len() {
            self.restart(Node::Queue(n));
        }
        for n in 0..self.agents.len() {
            self.restart(Node::Agent(n));
            self.after(Duration::from_millis(n as u64), Happening::Look(n));
        }
        if matches!(self.schedule.weather, Weather::Stormy | Weather::Haunted) {
            let first = self.rng.millis(0, 10_000);
            self.after(first, Happening::Fault);
        }
    }

    fn after(&mut self, delay: Duration, what: Happening) {
        self.count += 1;
        self.agenda.insert((self.now.plus(delay), self.count), what);
    }

    pub(super) fn run(mut self) -> Report {
        while let Some(((at, _), what)) = self.agenda.pop_first() {
            self.now = at;
            if self.calm_since.is_none() && at.since(START) >= ROUGH_FOR {
                self.calm_down();
            }
            if self.schedule.trace {
                trace(at, &what);
            }
            self.happen(what);
            if !self.checker.violations.is_empty() || self.is_finished() {
                break;
            }
        }
        self.conclude()
    }

    /// The faults stop: everything has to come to an end from here on.
    fn calm_down(&mut self) {
        self.calm_since = Some(self.now);
        self.network = Network { loss: 0, double: 0, late: 0, late_most: Duration::ZERO };
    }

    fn is_finished(&mut self) -> bool {
        let Some(calm_since) = self.calm_since else { return false };
        if self.now.since(calm_since) > SETTLES_WITHIN {
            let stuck = self.describe();
            self.checker.violations.push(format!("not settled within {SETTLES_WITHIN:?}: {stuck}"));
            return true;
        }
        self.callers.iter().all(Caller::is_done) && self.is_idle()
    }

    fn is_idle(&self) -> bool {
        self.queues.iter().all(|host| {
            host.is_settled()
                && host.machine.as_ref().is_some_and(|queue| {
                    let view = queue.view(1);
                    view.waiting == 0 && view.offers.is_empty()
                })
        }) && self.agents.iter().all(|host| {
            host.is_settled()
                && host.machine.as_ref().is_some_and(|agent| {
                    agent.unseen_outcomes() == 0 && matches!(agent.view().status, AgentStatus::Ready { .. })
                })
        })
    }

    fn describe(&self) -> String {
        let callers: Vec<_> = self.callers.iter().filter(|c| !c.is_done()).collect();
        let agents: Vec<_> =
            self.agents.iter().map(|h| h.machine.as_ref().map(|m| m.view().status.name())).collect();
        let queues: Vec<_> = self.queues.iter().map(|h| h.machine.as_ref().map(|m| m.view(3))).collect();
        format!("callers {callers:?}; agents {agents:?}; queues {queues:?}")
    }

    fn conclude(mut self) -> Report {
        if self.checker.violations.is_empty() {
            let totals: Vec<_> =
                self.queues.iter().filter_map(|h| h.machine.as_ref().map(|m| m.totals().clone())).collect();
            self.report.offers = totals.iter().map(|t| t.offers).sum();
            self.checker.finally(&self.callers, &totals);
            self.check_replay();
        }
        self.report.conversations = self.checker.agent_answers;
        self.report.violations = std::mem::take(&mut self.checker.violations);
        self.report
    }

    /// A journal gives the state of the machine that wrote it.
    fn check_replay(&mut self) {
        for n in 0..self.queues.len() {
            let replayed = self.queue_from_journal(n).snapshot();
            if self.queues[n].machine.as_ref().map(Queue::snapshot) != Some(replayed) {
                self.checker.violations.push(format!("queue {n}: replay gives another state"));
            }
        }
        for n in 0..self.agents.len() {
            let replayed = self.agent_from_journal(n).snapshot();
            if self.agents[n].machine.as_ref().map(Agent::snapshot) != Some(replayed) {
                self.checker.violations.push(format!("agent {n}: replay gives another state"));
            }
        }
    }

    fn queue_from_journal(&self, n: usize) -> Queue {
        let (tenant, id) = (self.tenant.clone(), self.queue_ids[n].clone());
        let epoch = Epoch(self.queues[n].epoch);
        let mut queue = Queue::new(tenant, id, epoch, self.queue_config[n].clone());
        queue.mutate(self.schedule.mutations);
        self.queues[n].journal.iter().for_each(|event| queue.apply(event));
        queue
    }

    fn agent_from_journal(&self, n: usize) -> Agent {
        let (tenant, id) = (self.tenant.clone(), self.agent_ids[n].clone());
        let epoch = Epoch(self.agents[n].epoch);
        let mut agent = Agent::new(tenant, id, epoch, self.agent_config[n].clone());
        agent.mutate(self.schedule.mutations);
        self.agents[n].journal.iter().for_each(|event| agent.apply(event));
        agent
    }

    fn happen(&mut self, what: Happening) {
        let now = self.now;
        match what {
            Happening::ToQueue(n, input) => {
                let step = self.queues[n].handle(now, *input);
                self.queue_stepped(n, step);
            }
            Happening::ToAgent(n, input) => {
                let step = self.agents[n].handle(now, *input);
                self.agent_stepped(n, step);
            }
            Happening::QueueToCall(n, call, message) => {
                let mut says = Vec::new();
                self.callers[call].on_queue(n, *message, &mut says);
                self.say(call, says);
            }
            Happening::AgentToCall(agent, call, message) => self.agent_to_call(agent, call, *message),
            Happening::Wake(node) => self.wake(node),
            Happening::Committed(node, epoch) => self.committed(node, epoch),
            Happening::Restart(node) => self.restart(node),
            Happening::Resume(node, epoch) => self.resume(node, epoch),
            Happening::Fault => self.fault(),
            Happening::Arrive(n) => {
                let mut says = Vec::new();
                self.callers[n].arrive(&mut says);
                self.say(n, says);
                self.after(Caller::AGAIN, Happening::Again(n));
            }
            Happening::HangUp(n) => self.hang_up(n),
            Happening::Move(n) => self.move_on(n),
            Happening::Again(n) => self.again(n),
            Happening::Look(n) => {
                self.look(n);
                let next = self.rng.millis(300, 3_000);
                self.after(next, Happening::Look(n));
            }
            Happening::Back(n) if !self.humans[n].attached => self.look(n),
            Happening::Back(_) => {}
        }
    }

    fn agent_to_call(&mut self, agent: usize, call: usize, message: AgentToCall) {
        let offered_by = match &message {
            AgentToCall::Connect { offer, .. } => self.queue_of(offer),
            _ => 0,
        };
        let mut says = Vec::new();
        let now = self.now;
        let connected =
            self.callers[call].on_agent(agent, message, offered_by, now, &mut self.rng, &mut says);
        if connected {
            self.checker.connected(&self.callers, call, agent, &self.agent_ids);
            if self.rng.chance(500) || self.calm_since.is_some() {
                let talk = self.rng.millis(100, 20_000);
                self.after(talk, Happening::HangUp(call));
            }
        }
        self.say(call, says);
    }

    fn queue_of(&self, offer: &OfferId) -> usize {
        self.queue_ids.iter().position(|id| *id == offer.queue).unwrap_or(usize::MAX)
    }

    fn hang_up(&mut self, n: usize) {
        let mut says = Vec::new();
        if self.calm_since.is_none() {
            // In calm weather everybody who still waits is to be served.
            self.callers[n].leave(None, &mut says);
        }
        self.callers[n].hang_up(ReleaseCause::CallerHangup, self.now, &mut says);
        self.say(n, says);
    }

    fn move_on(&mut self, n: usize) {
        let to = self.rng.below(self.queues.len() as u64) as usize;
        let mut says = Vec::new();
        self.callers[n].leave(Some(to), &mut says);
        self.say(n, says);
    }

    fn again(&mut self, n: usize) {
        let mut says = Vec::new();
        self.callers[n].resend(&mut says);
        self.say(n, says);
        if !self.callers[n].is_done() {
            self.after(Caller::AGAIN, Happening::Again(n));
        }
        if self.calm_since.is_some() && matches!(self.callers[n].phase, Phase::Connected { .. }) {
            // Conversations that began in the storm end, too.
            if self.rng.chance(50) {
                self.hang_up(n);
            }
        }
    }

    fn look(&mut self, n: usize) {
        let diligent = self.calm_since.is_some();
        if self.humans[n].attached && self.agents[n].machine.is_some() {
            // Attaches again what was detached by mistake.
            let (session, console) = (self.humans[n].session(), self.humans[n].console());
            let alive = AgentInput::FromSession { session, console, message: SessionInput::Keepalive };
            self.after(Duration::from_micros(500), Happening::ToAgent(n, Box::new(alive)));
        }
        if let Some(message) = self.humans[n].look(&mut self.rng, diligent) {
            let session = self.humans[n].session();
            if matches!(message, SessionInput::Attach { .. }) || self.agents[n].machine.is_some() {
                let console = self.humans[n].console();
                let input = AgentInput::FromSession { session, console, message };
                self.after(Duration::from_millis(1), Happening::ToAgent(n, Box::new(input)));
            }
        }
    }

    fn queue_stepped(&mut self, n: usize, step: Step<QueueEffect>) {
        self.queue_says(n, step.effects);
        self.stepped(Node::Queue(n), step.commit);
    }

    fn agent_stepped(&mut self, n: usize, step: Step<AgentEffect>) {
        self.agent_says(n, step.effects);
        self.stepped(Node::Agent(n), step.commit);
    }

    /// After a step of a node: its commit, its next wake-up.
    fn stepped(&mut self, node: Node, commit: bool) {
        let (epoch, deadline, wake_at) = match node {
            Node::Queue(n) => (self.queues[n].epoch, self.queues[n].next_deadline(), self.queues[n].wake_at),
            Node::Agent(n) => (self.agents[n].epoch, self.agents[n].next_deadline(), self.agents[n].wake_at),
        };
        if commit {
            let slow = match self.schedule.weather {
                Weather::Calm => false,
                Weather::Lossy | Weather::Stormy => self.rng.chance(30),
                Weather::Haunted => self.rng.chance(250),
            };
            let takes = if slow { self.rng.millis(20, 3_000) } else { self.rng.millis(1, 12) };
            self.after(takes, Happening::Committed(node, epoch));
        }
        if deadline != wake_at
            && let Some(at) = deadline
        {
            self.after(at.since(self.now), Happening::Wake(node));
        }
        match node {
            Node::Queue(n) => self.queues[n].wake_at = deadline,
            Node::Agent(n) => self.agents[n].wake_at = deadline,
        }
    }

    fn wake(&mut self, node: Node) {
        let now = self.now;
        match node {
            Node::Queue(n) if self.queues[n].wake_at.is_some_and(|at| at <= now) => {
                self.queues[n].wake_at = None;
                let step = self.queues[n].advance(now);
                self.queue_stepped(n, step);
            }
            Node::Agent(n) if self.agents[n].wake_at.is_some_and(|at| at <= now) => {
                self.agents[n].wake_at = None;
                let step = self.agents[n].advance(now);
                self.agent_stepped(n, step);
            }
            _ => {}
        }
    }
}

#[allow(clippy::print_stdout)] // only for a seed that somebody looks at
fn trace(at: Timestamp, what: &Happening) {
    println!("{:>9.3} {what:?}", at.since(START).as_secs_f64());
}

const _: fn() = || {
    // The machines that run here are those that are shipped.
    fn is_machine<M: Machine>() {}
    is_machine::<Queue>();
    is_machine::<Agent>();
};
