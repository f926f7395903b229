//! Coordination: what nodes want of the store, the journal and each other.

use super::*;

impl World {
    pub(in crate::cluster) fn machine_now(&self) -> Duration {
        self.now.since(START)
    }

    pub(in crate::cluster) fn join(&mut self, n: usize) {
        let life = self.nodes[n].life;
        self.after(Duration::from_secs(1), Happening::Renew(n, life));
        if self.schedule.coordinated {
            self.list(n);
            self.machine(n, Input::Connected(true));
            self.machine(n, Input::Join);
        } else {
            let me = self.nodes[n].place.me().clone();
            self.leases.insert(me, self.now.plus(policy().ttl));
        }
    }

    /// The light coordinator: shards of nodes that are gone or drained go elsewhere, and now and then one for no reason.
    pub(in crate::cluster) fn coordinate(&mut self) {
        let looks = self.rng.millis(150, 400);
        self.after(looks, Happening::Coordinate);
        let lives: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.leases.get(self.nodes[*n].place.me()).is_some_and(|until| *until > self.now))
            // Two others do not reach it.
            .filter(|n| self.nodes[*n].cut_since.is_none_or(|since| since.plus(SUSPECTED) >= self.now))
            .collect();
        let takers: Vec<usize> = lives.iter().copied().filter(|n| !self.drained.contains(n)).collect();
        let (lives_of, takers) = (lives.clone(), if takers.is_empty() { lives } else { takers });
        let listed = |world: &Self, owner: &NodeIdentity| {
            lives_of.iter().any(|n| world.nodes[*n].place.me() == owner)
                && takers.iter().any(|n| world.nodes[*n].place.me() == owner)
        };
        let shards: BTreeSet<ShardId> = self.shards.values().copied().collect();
        for shard in shards {
            let now = self.light.get(&shard).cloned();
            let stays = now.as_ref().is_some_and(|assigned| listed(self, &assigned.owner));
            let moves =
                self.calm_since.is_none() && self.now.since(START) > FORMS_WITHIN && self.rng.chance(10);
            if (stays && !moves) || takers.is_empty() {
                continue;
            }
            let to = takers[self.rng.below(takers.len() as u64) as usize];
            let (previous, turn) = match now {
                Some(assigned) => (Some(assigned.owner), assigned.turn + 1),
                None => (None, 1),
            };
            // A former owner that is gone is not asked.
            let previous = previous.filter(|p| lives_of.iter().any(|n| self.nodes[*n].place.me() == p));
            let owner = self.nodes[to].place.me().clone();
            self.light.insert(shard, Assigned { owner, previous, turn, published: None });
        }
        self.spread();
    }

    /// What nodes hold is published, and every node that reaches the store sees the map as it is.
    pub(in crate::cluster) fn spread(&mut self) {
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            if let (Place::Light(light), true) = (&node.place, node.is_awake() && !node.cut_store) {
                for (shard, turn, epoch) in light.held() {
                    if let Some(assigned) = self.light.get_mut(&shard).filter(|a| a.turn == turn) {
                        assigned.published = Some(epoch);
                    }
                }
            }
        }
        let map = Rc::new(self.light.clone());
        for n in 0..self.nodes.len() {
            if self.nodes[n].up && !self.nodes[n].cut_store {
                let at = self.now.plus(self.rng.millis(1, 10)).max(self.nodes[n].watched_at);
                self.nodes[n].watched_at = at;
                let life = self.nodes[n].life;
                self.at(at, Happening::Map(n, life, map.clone()));
            }
        }
    }

    pub(in crate::cluster) fn sees(&mut self, n: usize, map: Rc<LightMap>) {
        let Place::Light(light) = &mut self.nodes[n].place else { return };
        let effects = light.sees(map);
        for effect in effects {
            self.enact(n, effect);
        }
    }

    /// The node reads everything anew.
    pub(in crate::cluster) fn list(&mut self, n: usize) {
        let (revision, all) = (self.store.revision(), self.store.all());
        let life = self.nodes[n].life;
        let at = self.now.plus(Duration::from_millis(1)).max(self.nodes[n].watched_at);
        self.nodes[n].watched_at = at;
        self.at(at, Happening::Machine(n, life, Box::new(Input::Listed(revision, all))));
    }

    pub(in crate::cluster) fn machine(&mut self, n: usize, input: Input) {
        let now = self.machine_now();
        let effects = match &mut self.nodes[n].place {
            Place::Real(machine) => machine.handle(now, input),
            Place::Light(light) => light.handle(input),
        };
        for effect in effects {
            self.enact(n, effect);
        }
        self.arm_machine(n);
    }

    pub(in crate::cluster) fn arm_machine(&mut self, n: usize) {
        let now = self.machine_now();
        let node = &mut self.nodes[n];
        let Place::Real(machine) = &node.place else { return };
        let Some(at) = machine.next_deadline(now).map(|at| START.plus(at.max(now))) else { return };
        let at = at.max(self.now.plus(Duration::from_millis(1)));
        if node.tick_at.is_none_or(|known| at < known) {
            node.tick_at = Some(at);
            let life = node.life;
            self.at(at, Happening::Tick(n, life));
        }
    }

    pub(in crate::cluster) fn enact(&mut self, n: usize, effect: Effect) {
        let life = self.nodes[n].life;
        match effect {
            Effect::Hold(_) | Effect::Changed => {}
            Effect::Probe(info) => {
                let takes = self.rng.millis(1, 20);
                self.after(takes, Happening::Probe(n, life, info.identity));
            }
            Effect::Release(former, shards) => self.ask_release(n, &former, shards),
            Effect::Seal(shards) => {
                let takes = self.rng.millis(1, 15);
                self.after(takes, Happening::Seal(n, life, shards));
            }
            Effect::Open(shards) => {
                let takes = self.rng.millis(1, 40);
                self.after(takes, Happening::Open(n, life, shards));
            }
            Effect::Close(shards) => self.close(n, shards),
            effect => {
                let takes = self.rng.millis(1, 6);
                self.after(takes, Happening::Store(n, life, Box::new(effect)));
            }
        }
    }

    pub(in crate::cluster) fn at_store(&mut self, n: usize, life: u64, effect: Effect) {
        if !self.nodes[n].up || self.nodes[n].life != life {
            return;
        }
        let back = self.rng.millis(1, 6);
        if self.nodes[n].cut_store {
            if let Some(answer) = Store::unreachable(&effect) {
                self.after(back + Duration::from_millis(400), Happening::Machine(n, life, Box::new(answer)));
            }
            return;
        }
        let me = self.nodes[n].place.me().clone();
        let until = self.machine_now() + policy().ttl;
        let registers = matches!(effect, Effect::Register(..));
        let (changes, answer) = self.store.carry_out(&me, effect, until);
        if registers {
            self.at(START.plus(until), Happening::LeaseEnd(me));
        }
        self.watched(&changes);
        if let Some(answer) = answer {
            self.after(back, Happening::Machine(n, life, Box::new(answer)));
        }
    }

    /// Every node that reaches the store sees changes, in order.
    pub(in crate::cluster) fn watched(&mut self, changes: &[Seen]) {
        if changes.is_empty() {
            return;
        }
        let revision = self.store.revision();
        for n in 0..self.nodes.len() {
            if !self.nodes[n].up || self.nodes[n].cut_store {
                continue;
            }
            let at = self.now.plus(self.rng.millis(1, 10)).max(self.nodes[n].watched_at);
            self.nodes[n].watched_at = at;
            let (life, input) = (self.nodes[n].life, Input::Watched(revision, changes.to_vec()));
            self.at(at, Happening::Machine(n, life, Box::new(input)));
        }
    }

    pub(in crate::cluster) fn renew(&mut self, n: usize, life: u64) {
        self.after(Duration::from_secs(1), Happening::Renew(n, life));
        if self.nodes[n].cut_store {
            return;
        }
        let me = self.nodes[n].place.me().clone();
        let until = self.machine_now() + policy().ttl;
        let registered = match &self.nodes[n].place {
            Place::Real(machine) => machine.is_registered(self.machine_now()),
            Place::Light(_) => {
                self.leases.insert(me, START.plus(until));
                return;
            }
        };
        if self.store.renew(&me, until) {
            self.at(START.plus(until), Happening::LeaseEnd(me));
            self.machine(n, Input::Renewed(until));
        } else if registered {
            self.machine(n, Input::LeaseLost);
        }
    }

    pub(in crate::cluster) fn lease_end(&mut self, identity: &NodeIdentity) {
        if self.store.lease(identity).is_some_and(|until| until <= self.machine_now()) {
            let changes = self.store.expire(identity);
            self.watched(&changes);
        }
    }

    pub(in crate::cluster) fn node_of(&self, identity: &NodeIdentity) -> Option<usize> {
        let n = self.nodes.iter().position(|node| node.id == identity.id)?;
        (self.nodes[n].up && self.nodes[n].life == identity.incarnation.0).then_some(n)
    }

    pub(in crate::cluster) fn reaches(&self, a: usize, b: usize) -> bool {
        a == b || !(self.nodes[a].cut_peers || self.nodes[b].cut_peers)
    }

    pub(in crate::cluster) fn probe(&mut self, n: usize, life: u64, node: NodeIdentity) {
        let reached = self.node_of(&node).is_some_and(|to| self.nodes[to].is_awake() && self.reaches(n, to));
        let takes = if reached { self.rng.millis(1, 5) } else { Duration::from_millis(300) };
        self.after(takes, Happening::Machine(n, life, Box::new(Input::Probed(node, reached))));
    }

    pub(in crate::cluster) fn ask_release(&mut self, n: usize, former: &NodeIdentity, shards: Vec<ShardId>) {
        let life = self.nodes[n].life;
        let late = Box::new(Input::Released(shards.clone()));
        self.after(policy().release, Happening::Machine(n, life, late));
        if let Some(to) = self.node_of(former).filter(|to| self.reaches(n, *to)) {
            let takes = self.rng.millis(1, 5);
            self.after(takes, Happening::ReleaseAsk(to, n, life, shards));
        }
    }

    pub(in crate::cluster) fn release_asked(
        &mut self,
        n: usize,
        asker: usize,
        life: u64,
        shards: Vec<ShardId>,
    ) {
        self.nodes[n].releasing.push((asker, life, shards.clone()));
        self.machine(n, Input::ReleaseRequested(shards));
        self.release_done(n);
    }

    /// Answers those whose shards nothing acts on any more.
    pub(in crate::cluster) fn release_done(&mut self, n: usize) {
        let waiting = std::mem::take(&mut self.nodes[n].releasing);
        for (asker, life, shards) in waiting {
            if shards.iter().any(|shard| self.nodes[n].place.acts(*shard)) {
                self.nodes[n].releasing.push((asker, life, shards));
            } else if self.reaches(n, asker) {
                let takes = self.rng.millis(1, 5);
                self.after(takes, Happening::Machine(asker, life, Box::new(Input::Released(shards))));
            }
        }
    }

    pub(in crate::cluster) fn close(&mut self, n: usize, shards: Vec<ShardId>) {
        self.count += 1;
        let (number, life) = (self.count, self.nodes[n].life);
        self.nodes[n].closing.push(Closing { shards: shards.into_iter().collect(), number });
        self.after(Duration::from_secs(1), Happening::CloseLate(n, life, number));
        self.settle_closing(n);
    }

    /// Actors of shards that are let go end when nothing of them is under way.
    pub(in crate::cluster) fn settle_closing(&mut self, n: usize) {
        let closing = std::mem::take(&mut self.nodes[n].closing);
        let mut closed = Vec::new();
        for request in closing {
            let shards = &self.shards;
            let inside = |entity: &Entity| shards.get(entity).is_some_and(|s| request.shards.contains(s));
            self.nodes[n].starting.retain(|entity, _| !inside(entity));
            self.nodes[n].actors.retain(|entity, actor| !inside(entity) || !actor.is_settled());
            let unflushed = self.schedule.mutations.hand_over_unflushed;
            if !unflushed && self.nodes[n].actors.keys().any(inside) {
                self.nodes[n].closing.push(request);
            } else {
                closed.push(request.shards.into_iter().collect::<Vec<_>>());
            }
        }
        for shards in closed {
            self.machine(n, Input::Closed(shards));
        }
        self.release_done(n);
    }

    pub(in crate::cluster) fn close_late(&mut self, n: usize, number: u64) {
        let Some(at) = self.nodes[n].closing.iter().position(|request| request.number == number) else {
            return;
        };
        let shards = self.nodes[n].closing[at].shards.clone();
        let of = &self.shards;
        self.nodes[n].actors.retain(|entity, _| of.get(entity).is_none_or(|shard| !shards.contains(shard)));
        self.settle_closing(n);
    }

    pub(in crate::cluster) fn seal(&mut self, n: usize, life: u64, shards: Vec<ShardId>) {
        // Sealed only over the epoch that the map tells (`seal_if`): who has an old map does not get past the owner.
        let me = self.nodes[n].place.me().clone();
        let outdated = |shard: &ShardId| self.light.get(shard).is_some_and(|assigned| assigned.owner != me);
        if shards.iter().any(outdated) {
            let back = self.rng.millis(20, 60);
            self.after(back, Happening::Machine(n, life, Box::new(Input::SealFailed(shards))));
            return;
        }
        let keeps = self.schedule.mutations.seal_keeps_epoch;
        let sealed = shards.iter().map(|shard| (*shard, Epoch(self.journal.seal(*shard, keeps)))).collect();
        let back = self.rng.millis(1, 10);
        let answer = if self.rough(20) { Input::SealFailed(shards) } else { Input::Sealed(sealed) };
        self.after(back, Happening::Machine(n, life, Box::new(answer)));
    }

    pub(in crate::cluster) fn rough(&mut self, per_mille: u64) -> bool {
        self.calm_since.is_none()
            && self.now.since(START) > FORMS_WITHIN
            && self.schedule.weather == Weather::Haunted
            && self.rng.chance(per_mille)
    }

    pub(in crate::cluster) fn open(&mut self, n: usize, life: u64, shards: Vec<ShardId>) {
        let wanted: BTreeSet<ShardId> = shards.iter().copied().collect();
        for entity in self.journal.live() {
            let up =
                self.nodes[n].actors.contains_key(&entity) || self.nodes[n].starting.contains_key(&entity);
            if wanted.contains(&self.shards[&entity]) && !up {
                self.activate(n, entity, None);
            }
        }
        self.machine(n, Input::Opened(shards, true));
        debug_assert_eq!(self.nodes[n].life, life);
    }
}
