//! Actors: rebuilt, stepped, committed, lost.

use super::*;

impl World {
    pub(in crate::cluster) fn fresh(&self, entity: Entity, epoch: u64) -> Core {
        let epoch = Epoch(epoch);
        let mutations = trunkline_acd_core::Mutations {
            no_epoch_check: self.schedule.mutations.no_epoch_check,
            reoffer_after_commit: self.schedule.mutations.reoffer_after_commit,
            ..trunkline_acd_core::Mutations::default()
        };
        match entity {
            Entity::Queue(n) => {
                let (id, config) = (self.queue_ids[n].clone(), self.queue_config[n].clone());
                let mut queue = Queue::new(self.tenant.clone(), id, epoch, config);
                queue.mutate(mutations);
                Core::Queue(Box::new(queue))
            }
            Entity::Agent(n) => {
                let (id, config) = (self.agent_ids[n].clone(), self.agent_config[n].clone());
                let mut agent = Agent::new(self.tenant.clone(), id, epoch, config);
                agent.mutate(mutations);
                Core::Agent(Box::new(agent))
            }
            Entity::Call(n) => {
                let (settings, shelf) = (self.settings.clone(), self.shelf.clone());
                Core::Call(Box::new(Call::new(self.phones[n].call, self.tenant.clone(), settings, shelf)))
            }
        }
    }

    /// Brings an entity up from the journal; false when it has come to its end, or is not there and not wanted new.
    pub(in crate::cluster) fn activate(&mut self, n: usize, entity: Entity, first: Option<&Word>) -> bool {
        let Some(epoch) = self.nodes[n].sealed(self.shards[&entity]) else { return false };
        if self.journal.is_finished(entity) {
            return false;
        }
        let history = self.journal.history(entity);
        let count = history.len();
        let invite = matches!(first, Some(Word::Call(input)) if matches!(&**input, CallInput::Request(incoming) if incoming.new_call.is_some()));
        if count == 0 && matches!(entity, Entity::Call(_)) && !invite {
            return false;
        }
        let mut core = self.fresh(entity, epoch);
        for (index, fact) in history.iter().enumerate() {
            match self.mutated(fact, index) {
                Some(changed) => core.apply(&changed),
                None if self.forgotten(fact) => {}
                None => core.apply(fact),
            }
        }
        self.generations += 1;
        if let Entity::Queue(queue) = entity {
            self.checker.taken_over(queue);
        }
        self.report.moves += u64::from(count > 0);
        let actor = Actor::new(core, epoch, self.generations, count, self.now);
        self.nodes[n].actors.insert(entity, actor);
        if count > 0 {
            if self.schedule.mutations.replay_not_muted {
                for deed in self.said.get(&entity).cloned().unwrap_or_default() {
                    self.perform(n, entity, epoch, deed);
                }
            }
            self.work(n, entity, Work::TakeOver);
        }
        true
    }

    /// A recovered agent that does not know of offers.
    fn forgotten(&self, fact: &Fact) -> bool {
        self.schedule.mutations.slot_forgotten
            && matches!(fact, Fact::Agent(AgentEvent::Offered { .. } | AgentEvent::Accepted { .. }))
    }

    /// A recovered queue that gives out its places anew, in the order of the calls' ids.
    pub(in crate::cluster) fn mutated(&self, fact: &Fact, index: usize) -> Option<Fact> {
        let Fact::Queue(QueueEvent::Enqueued { call, .. }) = fact else { return None };
        if !self.schedule.mutations.place_recomputed {
            return None;
        }
        let mut event = match fact {
            Fact::Queue(event) => event.clone(),
            _ => return None,
        };
        if let QueueEvent::Enqueued { entered_at, rank_at, .. } = &mut event {
            let order = call.to_string().bytes().fold(0u64, |sum, b| sum.wrapping_mul(31) + u64::from(b));
            *entered_at = self.now;
            *rank_at = self.now.minus(Duration::from_millis(order % 1_000 + index as u64 % 2));
        }
        Some(Fact::Queue(event))
    }

    /// Steps an actor and carries out what comes of it.
    pub(in crate::cluster) fn work(&mut self, n: usize, entity: Entity, work: Work) {
        let shown = self.nodes[n].clock.shows(self.now);
        let Some(actor) = self.nodes[n].actors.get_mut(&entity) else { return };
        let step = actor.step(shown, work, self.schedule.mutations.acts_before_commit);
        let (epoch, generation, life) = (actor.epoch, actor.generation, self.nodes[n].life);
        for deed in step.deeds {
            self.say(n, entity, epoch, deed);
        }
        if let Some(append) = step.append {
            let takes = self.commit_takes();
            let arrives = self.now.plus(takes);
            if let Some(actor) = self.nodes[n].actors.get_mut(&entity) {
                let arrives = arrives.max(actor.last_arrival);
                actor.last_arrival = arrives;
                self.at(arrives, Happening::Append(n, life, entity, generation, epoch, append));
            }
        }
        self.arm(n, entity);
        if !self.nodes[n].closing.is_empty() {
            self.settle_closing(n);
        }
    }

    pub(in crate::cluster) fn commit_takes(&mut self) -> Duration {
        if self.rough(150) { self.rng.millis(20, 2_000) } else { self.rng.millis(1, 8) }
    }

    pub(in crate::cluster) fn arm(&mut self, n: usize, entity: Entity) {
        let (life, clock) = (self.nodes[n].life, self.nodes[n].clock);
        let Some(actor) = self.nodes[n].actors.get_mut(&entity) else { return };
        let Some(at) = actor.core.next_deadline() else { return };
        let at = clock.when(at).max(self.now);
        if actor.wake_at.is_none_or(|known| at < known) {
            actor.wake_at = Some(at);
            let generation = actor.generation;
            self.at(at, Happening::Wake(n, life, entity, generation));
        }
    }

    pub(in crate::cluster) fn arm_all(&mut self, n: usize) {
        let entities: Vec<Entity> = self.nodes[n].actors.keys().copied().collect();
        for entity in entities {
            self.arm(n, entity);
        }
        self.arm_machine(n);
    }

    pub(in crate::cluster) fn wake(&mut self, n: usize, entity: Entity, generation: u64) {
        let Some(actor) = self.nodes[n].actors.get_mut(&entity).filter(|a| a.generation == generation) else {
            return;
        };
        if actor.wake_at.take_if(|at| *at <= self.now).is_some() {
            self.work(n, entity, Work::Advance);
        }
    }

    /// An append reaches the journal, whatever has become of its node meanwhile.
    pub(in crate::cluster) fn append(
        &mut self,
        n: usize,
        life: u64,
        entity: Entity,
        generation: u64,
        epoch: u64,
        append: Append,
    ) {
        let shard = self.shards[&entity];
        let back = self.rng.millis(1, 6);
        let mut result = if self.rough(8) {
            // The connection broke before it arrived.
            Err(Refusal::Ambiguous)
        } else {
            self.journal.append(entity, shard, epoch, &append, self.schedule.mutations.journal_unfenced)
        };
        if result.is_ok() {
            for fact in &append.facts {
                self.checker.fact(self.now, entity, &self.agent_ids, fact);
            }
            if self.rough(8) {
                // The connection broke before the answer arrived.
                result = Err(Refusal::Ambiguous);
            }
        }
        self.report.ambiguous += u64::from(result == Err(Refusal::Ambiguous));
        self.after(back, Happening::Appended(n, life, entity, generation, result));
    }

    pub(in crate::cluster) fn appended(
        &mut self,
        n: usize,
        entity: Entity,
        generation: u64,
        result: Result<(), Refusal>,
    ) {
        let life = self.nodes[n].life;
        let Some(actor) = self.nodes[n].actors.get_mut(&entity).filter(|a| a.generation == generation) else {
            return;
        };
        let ambiguous_is_yes = self.schedule.mutations.ambiguous_is_yes;
        let refusal = match result.or_else(|refusal| match refusal {
            Refusal::Ambiguous if ambiguous_is_yes => Ok(()),
            refusal => Err(refusal),
        }) {
            Ok(()) => {
                let (epoch, deeds) = (actor.epoch, actor.committed());
                let ended = actor.core.finished() && actor.is_settled();
                for deed in deeds {
                    self.say(n, entity, epoch, deed);
                }
                if ended {
                    self.nodes[n].actors.remove(&entity);
                }
                if !self.nodes[n].closing.is_empty() {
                    self.settle_closing(n);
                }
                return;
            }
            Err(refusal) => refusal,
        };
        let landed = actor.last_arrival;
        self.nodes[n].actors.remove(&entity);
        match refusal {
            Refusal::Fenced(current) => {
                let shard = self.shards[&entity];
                self.machine(n, Input::Fenced(shard, Epoch(current)));
            }
            // Rebuilt from what is there, once what is under way has come to something.
            Refusal::Conflict | Refusal::Ambiguous => {
                self.nodes[n].starting.entry(entity).or_default();
                let at = landed.max(self.now).plus(Duration::from_millis(20));
                self.at(at, Happening::Rebuild(n, life, entity));
            }
        }
        if !self.nodes[n].closing.is_empty() {
            self.settle_closing(n);
        }
    }

    pub(in crate::cluster) fn rebuild(&mut self, n: usize, entity: Entity) {
        let Some(waiting) = self.nodes[n].starting.remove(&entity) else { return };
        if self.nodes[n].sealed(self.shards[&entity]).is_none() || self.nodes[n].actors.contains_key(&entity)
        {
            return;
        }
        self.activate(n, entity, waiting.front());
        for word in waiting {
            self.hear(n, entity, word);
        }
    }
}
