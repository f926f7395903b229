//! The agent core: the authority on an agent's one slot.
//!
//! States and their bounds, so that nobody is ever stuck:
//!
//! | state | leaves it by itself |
//! |---|---|
//! | signed out | – |
//! | not ready, ready | without any console for [`AgentConfig::grace`] → signed out |
//! | (held, volatile) | after [`crate::HOLD`] |
//! | ringing | ring time-out → missed; without any console for [`crate::RING_ALONE`] → not ready |
//! | connecting | after [`crate::CONNECT_TIMEOUT`] the connection is given up; the call's answer to that is final and is asked for every 2 s, so the bound is the recovery of the call's shard |
//! | talking | the call says so; asked every [`crate::TALK_CHECK_EVERY`]; without any console for [`AgentConfig::talk_grace`] → hang-up |
//! | wrap-up | its time-out, at most [`AgentConfig::max_extensions`] extensions |
//!
//! An agent in several queues is announced to each of them; the first reservation wins, the others are refused and told
//! anew when the slot is free. Announcements are sent again until seen and repeated every [`crate::ANNOUNCE_EVERY`].

mod command;
mod conversation;
mod desk;
mod event;
mod memory;
mod offers;
mod presence;
mod sessions;
mod state;
#[cfg(test)]
mod tests;
mod totals;
mod view;

use std::collections::{BTreeMap, VecDeque};

pub use command::{Command, CommandError, CommandReply, NextStatus, SessionInput, WrapUpEnd};
pub use event::{AgentEvent, Notes};
pub use memory::CommandRef;
pub use sessions::{Attached, Console, DetachReason};
pub use state::AgentSnapshot;
pub use totals::AgentTotals;
use trunkline_types::{AgentId, CallId, Epoch, Machine, OfferId, QueueId, TenantId, Timestamp};
pub use view::{AgentStatus, AgentView};

use self::state::Slot;
use crate::{
    AgentConfig, AgentToCall, AgentToQueue, CallToAgent, QueueToAgent, SessionId, Stamp,
    protocol::{Protocol, REMEMBER, counts_from},
    timers::Timers,
};

/// What an agent is told.
#[derive(Clone, PartialEq, Debug)]
pub enum AgentInput {
    /// By a queue.
    FromQueue {
        /// Which.
        queue: QueueId,
        /// What.
        message: QueueToAgent,
    },
    /// By a call.
    FromCall {
        /// Which.
        call: CallId,
        /// What.
        message: CallToAgent,
    },
    /// By one of the agent's consoles.
    FromSession {
        /// Which.
        session: SessionId,
        /// The console that says so.
        console: Console,
        /// What.
        message: SessionInput,
    },
    /// A new version of the configuration (validated).
    Configure(Box<AgentConfig>),
}

/// What an agent wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum AgentEffect {
    /// Tell a queue.
    ToQueue {
        /// Which.
        queue: QueueId,
        /// What.
        message: AgentToQueue,
    },
    /// Tell a call.
    ToCall {
        /// Which.
        call: CallId,
        /// What.
        message: AgentToCall,
    },
    /// Show this to every attached session and on wallboards; complete, replaces what was shown before.
    Show(Box<AgentView>),
    /// A session's command was done.
    CommandDone {
        /// Which session.
        session: SessionId,
        /// The client's id of the command.
        id: String,
        /// What it gave.
        reply: CommandReply,
    },
    /// Tell a console that a session of it is at another one now.
    Superseded {
        /// Which session.
        session: SessionId,
        /// Whom to tell.
        console: Console,
        /// Who has it.
        by: Console,
    },
    /// A session's command was not done.
    CommandFailed {
        /// Which session.
        session: SessionId,
        /// The client's id of the command.
        id: String,
        /// Why.
        error: CommandError,
    },
}

/// What an agent's deadlines are for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    /// The hold is over.
    Hold,
    /// The ring or the wrap-up is over.
    Slot,
    /// Connect or give-up is sent again.
    Connect,
    /// The call is asked whether it goes on.
    Ask,
    /// Too long without a console.
    Alone,
    /// An announcement is sent again or anew.
    Announce(QueueId),
    /// An offer's end is told again.
    Outcome(OfferId),
    /// A control request is sent again.
    Control(u64),
}

/// The slot, promised to a queue that has not committed yet.
#[derive(Debug)]
struct Hold {
    offer: OfferId,
    queue: QueueId,
    epoch: Epoch,
}

/// What a queue was last told.
#[derive(Debug)]
struct Announcement {
    stamp: Stamp,
    seen: bool,
    attempts: u32,
}

/// A request to the call that is not answered yet.
#[derive(Debug)]
struct PendingControl {
    /// Who waits for the answer; `None` = nobody (the agent core itself asked).
    asker: Option<CommandRef>,
    message: AgentToCall,
    attempts: u32,
}

type Outbox = trunkline_types::Outbox<AgentEvent, AgentEffect>;
/// What a command gave, or why it was not done.
pub type Answer = Result<CommandReply, CommandError>;

/// An agent. See the [module](self).
#[derive(Debug)]
pub struct Agent {
    tenant: TenantId,
    id: AgentId,
    epoch: Epoch,
    config: Box<AgentConfig>,
    state: AgentSnapshot,
    protocol: Protocol,
    /// Since when no console is attached.
    alone_since: Option<Timestamp>,
    hold: Option<Hold>,
    /// Offers that are over, for late duplicates; `over_order` forgets the oldest.
    over: BTreeMap<OfferId, Timestamp>,
    over_order: VecDeque<(Timestamp, OfferId)>,
    last_stamp: u64,
    announcements: BTreeMap<QueueId, Announcement>,
    announced: Option<bool>,
    announce_anew: bool,
    outcome_attempts: BTreeMap<OfferId, u32>,
    connect_attempts: u32,
    accepting: Option<CommandRef>,
    controls: BTreeMap<u64, PendingControl>,
    last_control: u64,
    answered: VecDeque<(SessionId, String, Answer)>,
    muted: bool,
    status_version: Option<u64>,
    hanging_up: bool,
    view_version: u64,
    changed: bool,
    timers: Timers<Key>,
}

impl Agent {
    /// An agent without any history. `epoch` is that of its shard.
    pub fn new(tenant: TenantId, id: AgentId, epoch: Epoch, config: AgentConfig) -> Self {
        Self::restore(tenant, id, epoch, config, AgentSnapshot::default())
    }

    /// An agent as of a snapshot; the events after it are to be applied, then [`Machine::recovered`] is to be called.
    pub fn restore(
        tenant: TenantId,
        id: AgentId,
        epoch: Epoch,
        config: AgentConfig,
        snapshot: AgentSnapshot,
    ) -> Self {
        Self {
            tenant,
            id,
            epoch,
            config: Box::new(config),
            state: snapshot,
            protocol: Protocol::default(),
            alone_since: Some(Timestamp::ZERO),
            hold: None,
            over: BTreeMap::new(),
            over_order: VecDeque::new(),
            last_stamp: 0,
            announcements: BTreeMap::new(),
            announced: None,
            announce_anew: false,
            outcome_attempts: BTreeMap::new(),
            connect_attempts: 0,
            accepting: None,
            controls: BTreeMap::new(),
            last_control: 0,
            answered: VecDeque::new(),
            muted: false,
            status_version: None,
            hanging_up: false,
            view_version: 0,
            changed: false,
            timers: Timers::new(),
        }
    }

    /// Leaves rules of the protocol out; only for the simulator.
    #[cfg(feature = "mutations")]
    pub fn mutate(&mut self, mutations: crate::Mutations) {
        self.protocol.mutations = mutations;
    }

    /// The durable part, for a snapshot of the shard.
    pub fn snapshot(&self) -> AgentSnapshot {
        self.state.clone()
    }

    /// The tenant that owns it.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Its id.
    pub fn id(&self) -> &AgentId {
        &self.id
    }

    /// The configuration in force.
    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// How many offers have ended without their queue having seen it yet.
    pub fn unseen_outcomes(&self) -> usize {
        self.state.unseen.len()
    }

    /// Counters and times; [`AgentTotals::until`] adds the present state's.
    pub fn totals(&self) -> &AgentTotals {
        &self.state.totals
    }

    fn record(&mut self, event: AgentEvent, out: &mut Outbox) {
        self.apply(&event);
        out.event(event);
        self.changed = true;
    }

    fn tell_queue(queue: &QueueId, message: AgentToQueue, out: &mut Outbox) {
        out.effect(AgentEffect::ToQueue { queue: queue.clone(), message });
    }

    fn tell_call(call: CallId, message: AgentToCall, out: &mut Outbox) {
        out.effect(AgentEffect::ToCall { call, message });
    }

    /// From now on the offer is over for ever.
    fn bury(&mut self, offer: &OfferId, now: Timestamp) {
        self.over.insert(offer.clone(), now);
        self.over_order.push_back((now, offer.clone()));
        while let Some((then, old)) = self.over_order.front() {
            if then.plus(REMEMBER) >= now {
                break;
            }
            if self.over.get(old) == Some(then) {
                self.over.remove(old);
            }
            self.over_order.pop_front();
        }
    }

    /// What follows from the new state: announcements, deadlines, the view. Called after each step.
    fn settle_step(&mut self, now: Timestamp, out: &mut Outbox) {
        self.keep_promises(now);
        self.announce(now, out);
        self.arm(now);
        if std::mem::take(&mut self.changed) {
            self.view_version += 1;
            out.effect(AgentEffect::Show(Box::new(self.view())));
        }
    }

    fn arm(&mut self, now: Timestamp) {
        let slot = match &self.state.slot {
            Slot::Ringing { until, .. } | Slot::WrapUp { until, .. } => Some(*until),
            _ => None,
        };
        self.arm_one(Key::Slot, slot);
        let alone = self.alone_deadline(now);
        self.arm_one(Key::Alone, alone);
    }

    fn arm_one(&mut self, key: Key, at: Option<Timestamp>) {
        match at {
            Some(at) => self.timers.set(key, at),
            None => self.timers.cancel(&key),
        }
    }

    fn fire(&mut self, key: Key, now: Timestamp, out: &mut Outbox) {
        match key {
            Key::Hold => self.release_hold(now),
            Key::Slot => self.slot_due(now, out),
            Key::Connect => self.connect_due(now, out),
            Key::Ask => self.ask_due(now, out),
            Key::Alone => self.alone_due(now, out),
            Key::Announce(queue) => self.announce_due(&queue, now, out),
            Key::Outcome(offer) => self.tell_outcome(&offer, now, out),
            Key::Control(control) => self.control_due(control, now, out),
        }
    }
}

impl Machine for Agent {
    type Input = AgentInput;
    type Event = AgentEvent;
    type Effect = AgentEffect;

    fn handle(&mut self, now: Timestamp, input: AgentInput, out: &mut Outbox) {
        match input {
            AgentInput::FromQueue { queue, message } => self.on_queue(&queue, message, now, out),
            AgentInput::FromCall { call, message } => self.on_call(call, message, now, out),
            AgentInput::FromSession { session, console, message } => {
                self.on_session(session, console, message, now, out);
            }
            AgentInput::Configure(config) => self.configure(config, out),
        }
        self.settle_step(now, out);
    }

    fn advance(&mut self, now: Timestamp, out: &mut Outbox) {
        while let Some((_, key)) = self.timers.pop_due(now) {
            self.fire(key, now, out);
            self.settle_step(now, out);
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    fn apply(&mut self, event: &AgentEvent) {
        self.state.apply(event);
        match event {
            AgentEvent::OutcomeSeen { at, offer } => {
                self.bury(offer, *at);
                self.outcome_attempts.remove(offer);
                self.timers.cancel(&Key::Outcome(offer.clone()));
            }
            AgentEvent::Connected { .. } => {
                self.muted = false;
                self.hanging_up = false;
                self.status_version = None;
            }
            _ => {}
        }
    }

    fn recovered(&mut self, now: Timestamp, out: &mut Outbox) {
        self.last_stamp = counts_from(now);
        self.last_control = counts_from(now);
        self.view_version = counts_from(now);
        // An agent without a console is as good as just left alone.
        self.alone_since = self.state.sessions.is_empty().then_some(now);
        // Nobody believes a signed-out agent to be available; whoever is to know of it asks.
        self.announce_anew = self.state.slot != Slot::SignedOut;
        self.announced = (!self.announce_anew).then_some(false);
        let unseen: Vec<OfferId> = self.state.unseen.keys().cloned().collect();
        for offer in unseen {
            self.tell_outcome(&offer, now, out);
        }
        match self.state.slot {
            Slot::Connecting { .. } => self.connect_due(now, out),
            Slot::Talking { .. } => {
                self.ask_due(now, out);
                self.go_on_asking(now, out);
            }
            // Between two events of one step: what should have followed.
            Slot::NotReady { ref reason } if matches!(reason.as_str(), "wrap_up_ended" | "caller_gone") => {
                self.go_on(now, out);
            }
            _ => {}
        }
        self.changed = true;
        self.settle_step(now, out);
    }
}
