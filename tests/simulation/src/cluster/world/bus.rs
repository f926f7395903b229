//! The bus: who hears whom, and what effects become.

use super::*;

impl World {
    /// From an entity (with the node that it acts on), or from a role somewhere.
    pub(in crate::cluster) fn post(&mut self, from: Option<(usize, ShardId, u64)>, to: Entity, word: Word) {
        self.report.messages += 1;
        let origin = match from {
            Some((n, ..)) => n,
            None => {
                let awake: Vec<usize> = (0..self.nodes.len())
                    .filter(|n| self.nodes[*n].is_awake() && !self.nodes[*n].cut_peers)
                    .collect();
                let Some(n) = awake.get(self.rng.below(awake.len() as u64) as usize) else { return };
                *n
            }
        };
        for _ in 0..self.copies() {
            let from = from.map(|(_, shard, epoch)| (shard, epoch));
            let until = self.now.plus(HELD_FOR);
            let envelope = Envelope { to, word: word.clone(), from, hops: 0, until };
            self.route(origin, envelope);
        }
    }

    /// To the owner as this node knows it; held here while there is none.
    pub(in crate::cluster) fn route(&mut self, n: usize, envelope: Envelope) {
        let shard = self.shards[&envelope.to];
        let owner = self.nodes[n].place.owner(shard).cloned();
        let delay = self.delay();
        let to = owner.and_then(|owner| self.nodes.iter().position(|node| node.id == owner.id));
        if let Some(to) = to.filter(|to| !self.reaches(n, *to) || !self.nodes[*to].up) {
            // The link to it is broken.
            let (life, id) = (self.nodes[n].life, self.nodes[to].id.clone());
            self.after(Duration::from_millis(100), Happening::Machine(n, life, Box::new(Input::Suspect(id))));
        }
        match to {
            Some(to) if self.reaches(n, to) => self.after(delay, Happening::Deliver(to, Box::new(envelope))),
            // Links are cut, or nobody has it: it waits where it is, for a while.
            _ if envelope.until > self.now => {
                self.after(LOOK_AGAIN, Happening::Deliver(n, Box::new(envelope)));
            }
            _ => {}
        }
    }

    /// How often a message arrives.
    fn copies(&mut self) -> usize {
        let arrives = !self.rng.chance(self.network.loss);
        usize::from(arrives) + usize::from(self.rng.chance(self.network.double))
    }

    /// When copies of a message arrive.
    pub(in crate::cluster) fn ways(&mut self) -> Vec<Duration> {
        (0..self.copies()).map(|_| self.delay()).collect()
    }

    pub(in crate::cluster) fn delay(&mut self) -> Duration {
        if self.rng.chance(self.network.late) {
            self.rng.between(Duration::from_micros(200), self.network.late_most)
        } else {
            self.rng.between(Duration::from_micros(200), Duration::from_millis(3))
        }
    }

    pub(in crate::cluster) fn deliver(&mut self, n: usize, mut envelope: Envelope) {
        let shard = self.shards[&envelope.to];
        if self.nodes[n].sealed(shard).is_none() {
            let ours = self.nodes[n].place.owner(shard) == Some(self.nodes[n].place.me());
            if envelope.until <= self.now {
                return;
            }
            if !ours && envelope.hops < 2 {
                envelope.hops += 1;
                self.route(n, envelope);
            } else {
                self.after(LOOK_AGAIN, Happening::Deliver(n, Box::new(envelope)));
            }
            return;
        }
        if let Some((from, epoch)) = envelope.from {
            if !self.nodes[n].admits(from, epoch) && !self.schedule.mutations.no_epoch_check {
                self.report.refused += 1;
                return;
            }
            self.checker.acts(n, from, epoch);
        }
        self.hear(n, envelope.to, envelope.word);
    }

    pub(in crate::cluster) fn hear(&mut self, n: usize, to: Entity, word: Word) {
        if let Some(waiting) = self.nodes[n].starting.get_mut(&to) {
            waiting.push_back(word);
            return;
        }
        if !self.nodes[n].actors.contains_key(&to) && !self.activate(n, to, Some(&word)) {
            self.answer_for_gone(n, to, word);
            return;
        }
        self.work(n, to, Work::Hear(word));
    }

    /// For a call that is over, as its shell does.
    pub(in crate::cluster) fn answer_for_gone(&mut self, n: usize, to: Entity, word: Word) {
        let (Entity::Call(call), Word::Call(input)) = (to, word) else { return };
        let Some(epoch) = self.nodes[n].sealed(self.shards[&to]) else { return };
        let from = Some((n, self.shards[&to], epoch));
        let id = self.phones[call].call;
        match *input {
            CallInput::Agent { agent, offer, request } if request != AgentRequest::EndedAck => {
                let (cause, at) = (ReleaseCause::NodeLost, self.nodes[n].clock.shows(self.now));
                let message = CallToAgent::Ended { offer, connected_at: None, cause, at };
                self.tell_agent(from, &agent, AgentInput::FromCall { call: id, message });
            }
            CallInput::Queue { queue, entry, signal } => {
                let message = match signal {
                    QueueSignal::Ask | QueueSignal::Queued { .. } => CallToQueue::Gone { entry },
                    QueueSignal::TimedOut => CallToQueue::Leave { entry, cause: LeaveCause::Timeout },
                    _ => return,
                };
                self.tell_queue(from, &queue, QueueInput::FromCall { call: id, message });
            }
            CallInput::Request(_) => self.phones[call].give_up(),
            _ => {}
        }
    }

    pub(in crate::cluster) fn tell_queue(
        &mut self,
        from: Option<(usize, ShardId, u64)>,
        queue: &QueueId,
        input: QueueInput,
    ) {
        if let Some(n) = self.queue_ids.iter().position(|id| id == queue) {
            self.post(from, Entity::Queue(n), Word::Queue(Box::new(input)));
        }
    }

    pub(in crate::cluster) fn tell_agent(
        &mut self,
        from: Option<(usize, ShardId, u64)>,
        agent: &AgentId,
        input: AgentInput,
    ) {
        if let Some(n) = self.agent_ids.iter().position(|id| id == agent) {
            self.post(from, Entity::Agent(n), Word::Agent(Box::new(input)));
        }
    }

    pub(in crate::cluster) fn tell_call(
        &mut self,
        from: Option<(usize, ShardId, u64)>,
        call: CallId,
        input: CallInput,
    ) {
        if let Some(n) = self.phones.iter().position(|phone| phone.call == call) {
            self.post(from, Entity::Call(n), Word::Call(Box::new(input)));
        }
    }

    pub(in crate::cluster) fn say(&mut self, n: usize, entity: Entity, epoch: u64, deed: Deed) {
        if self.schedule.mutations.replay_not_muted {
            self.said.entry(entity).or_default().push(deed.clone());
        }
        self.perform(n, entity, epoch, deed);
    }

    pub(in crate::cluster) fn perform(&mut self, n: usize, entity: Entity, epoch: u64, deed: Deed) {
        let shard = self.shards[&entity];
        let from = Some((n, shard, epoch));
        match (entity, deed) {
            (Entity::Queue(queue), Deed::Queue(effect)) => self.queue_does(from, queue, effect),
            (Entity::Agent(agent), Deed::Agent(effect)) => self.agent_does(from, agent, effect),
            (Entity::Call(call), Deed::Call(effect)) => self.call_does(from, call, *effect),
            _ => unreachable!("a deed of another kind"),
        }
    }

    pub(in crate::cluster) fn queue_does(
        &mut self,
        from: Option<(usize, ShardId, u64)>,
        n: usize,
        effect: trunkline_acd_core::QueueEffect,
    ) {
        use trunkline_acd_core::{QueueEffect, QueueToAgent};
        let queue = self.queue_ids[n].clone();
        match effect {
            QueueEffect::ToCall { call, message } => {
                let (entry, signal) = translate::signal(message);
                self.tell_call(from, call, CallInput::Queue { queue, entry, signal });
            }
            QueueEffect::ToAgent { agent, message } => {
                let current = from.is_some_and(|(_, shard, epoch)| epoch == self.journal.epoch(shard));
                if let (QueueToAgent::Commit { offer, .. }, true) = (&message, current) {
                    let offer: OfferId = offer.clone();
                    self.checker.offers(n, &offer);
                }
                self.tell_agent(from, &agent, AgentInput::FromQueue { queue, message });
            }
            QueueEffect::AskAgents { known } => {
                for agent in self.agent_ids.clone() {
                    if known.binary_search(&agent).is_err() {
                        let (queue, message) = (queue.clone(), QueueToAgent::AskAnnounce);
                        self.tell_agent(from, &agent, AgentInput::FromQueue { queue, message });
                    }
                }
            }
        }
    }

    pub(in crate::cluster) fn agent_does(
        &mut self,
        from: Option<(usize, ShardId, u64)>,
        n: usize,
        effect: trunkline_acd_core::AgentEffect,
    ) {
        use trunkline_acd_core::AgentEffect;
        let agent = self.agent_ids[n].clone();
        match effect {
            AgentEffect::ToQueue { queue, message } => {
                self.tell_queue(from, &queue, QueueInput::FromAgent { agent, message });
            }
            AgentEffect::ToCall { call, message } => {
                let (offer, request) = translate::agent_request(message);
                self.tell_call(from, call, CallInput::Agent { agent, offer, request });
            }
            AgentEffect::Show(view) => {
                let takes = self.delay();
                self.after(takes, Happening::Sees(n, view));
            }
            AgentEffect::CommandDone { .. }
            | AgentEffect::CommandFailed { .. }
            | AgentEffect::Superseded { .. } => {}
        }
    }

    pub(in crate::cluster) fn call_does(
        &mut self,
        from: Option<(usize, ShardId, u64)>,
        n: usize,
        effect: trunkline_call_core::Effect,
    ) {
        use trunkline_call_core::{AgentNotice, Effect, QueueRequest};
        let id = self.phones[n].call;
        let Some((sender, shard, epoch)) = from else { return };
        let outside =
            matches!(effect, Effect::Edge { .. } | Effect::Media { .. } | Effect::Acknowledge { .. });
        if self.nodes[sender].cut_peers && outside {
            return;
        }
        match effect {
            Effect::Edge { command, .. } => {
                for delay in self.ways() {
                    self.after(delay, Happening::Edge(n, shard, epoch, Box::new(command.clone())));
                }
            }
            Effect::Media { node, command } => self.command_media(n, (sender, shard, epoch), &node, command),
            Effect::Acknowledge { node, event } => self.event_taken(&node, event),
            Effect::Queue { queue, request: QueueRequest::ConnectFailed { entry, offer, .. } } => {
                let signal = QueueSignal::Acknowledged(offer);
                self.tell_call(None, id, CallInput::Queue { queue, entry, signal });
            }
            Effect::Queue { queue, request } => {
                if let Some(message) = translate::request(request) {
                    self.tell_queue(from, &queue, QueueInput::FromCall { call: id, message });
                }
            }
            // The agent's shell hands it to the page.
            Effect::Agent { agent, notice: AgentNotice::MediaMoved { .. }, .. } => {
                let page = self.agent_ids.iter().position(|id| *id == agent);
                if let Some(page) = page.filter(|_| !self.rng.chance(self.network.loss)) {
                    self.humans[page].audio_moved = true;
                }
            }
            Effect::Agent { agent, offer, notice } => {
                if let Some(message) = translate::notice(offer, notice) {
                    self.tell_agent(from, &agent, AgentInput::FromCall { call: id, message });
                }
            }
        }
    }
}
