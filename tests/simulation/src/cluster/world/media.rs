//! Media nodes: what calls command there, what happens there, and how they are lost.

use super::*;
use crate::cluster::media_node::MediaNode;

/// A media node that has vanished is missed when its lease is over.
const MISSED_AFTER: Duration = Duration::from_secs(3);
/// Links to media nodes stall for so long at the most.
const STALLS_MOST: Duration = Duration::from_secs(2);
/// Calls that picked a lost node just before they could know are told again, that much later each time: as their shell does.
const TELLS_AGAIN: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
/// Events are told until they are taken, at these pauses, the last one again and again.
const EVENT_PAUSES: [u64; 4] = [10, 900, 1_600, 3_500];
/// Until then an event finds its call, whatever happens.
const EVENT_TRIES: usize = 60;

impl World {
    pub(in crate::cluster) fn happen_to_media(&mut self, what: Happening) {
        match what {
            Happening::Media(m, call, shard, epoch, command) => self.media(m, call, shard, epoch, *command),
            Happening::MediaTells(m, life, number, tries) => self.media_tells(m, life, number, tries),
            Happening::MediaMissed(m, life, round) => self.media_missed(m, life, round),
            Happening::MediaStarts(m, life) => self.media_starts(m, life),
            Happening::MediaHeals(m, life) => self.media_heals(m, life),
            Happening::MediaLeave(m) => self.media_leave(m),
            Happening::MediaDrained(m) => self.media_drained(m),
            Happening::MediaFault => self.media_fault_due(),
            what => unreachable!("happens elsewhere: {what:?}"),
        }
    }

    fn media_index(&self, node: &NodeId) -> Option<usize> {
        self.media_nodes.iter().position(|media| media.id == *node)
    }

    /// Media nodes refuse former owners, too, each by what it has heard itself.
    fn media_admits(&mut self, m: usize, shard: ShardId, epoch: u64) -> bool {
        let highest = self.media_nodes[m].guard.entry(shard).or_default();
        let fresh = epoch >= *highest;
        *highest = (*highest).max(epoch);
        if !fresh && !self.schedule.mutations.no_epoch_check {
            self.report.refused += 1;
            return false;
        }
        self.checker.acts(media_receiver(m), shard, epoch);
        true
    }

    /// A command on its way to a media node. It may be lost, late or come twice, but links keep the order of what one node
    /// says to another: one that is late holds up those behind it. A link that stalls for longer is made anew, and what was
    /// on it is lost.
    pub(in crate::cluster) fn command_media(
        &mut self,
        call: usize,
        from: (usize, ShardId, u64),
        node: &NodeId,
        command: MediaCommand,
    ) {
        let Some(m) = self.media_index(node) else { return };
        let (n, shard, epoch) = from;
        for delay in self.ways().into_iter().filter(|delay| *delay < STALLS_MOST) {
            let after = self.links.get(&(n, m, call)).copied().unwrap_or(START);
            let at = self.now.plus(delay).max(after);
            self.links.insert((n, m, call), at);
            self.at(at, Happening::Media(m, call, shard, epoch, Box::new(command.clone())));
        }
    }

    pub(in crate::cluster) fn media(
        &mut self,
        m: usize,
        call: usize,
        shard: ShardId,
        epoch: u64,
        command: MediaCommand,
    ) {
        if !self.media_nodes[m].is_reached() || !self.media_admits(m, shard, epoch) {
            return;
        }
        let id = self.phones[call].call;
        let media = &mut self.media_nodes[m];
        let session = media.sessions.entry(call).or_default();
        let executed = session.command(&media.id, id, &self.stored, command);
        if let Some(broken) = executed.broken {
            self.checker.broken(broken);
        }
        if let Some(reply) = executed.reply {
            self.tell_call(None, id, CallInput::MediaReply(Box::new(reply)));
        }
        for event in executed.events {
            self.event_ids += 1;
            let (number, life) = (self.event_ids, self.media_nodes[m].life);
            self.media_nodes[m].kept.insert(number, (call, event));
            self.after(Duration::from_millis(EVENT_PAUSES[0]), Happening::MediaTells(m, life, number, 1));
        }
    }

    /// Tells an event, until it is taken.
    pub(in crate::cluster) fn media_tells(&mut self, m: usize, life: u64, number: u64, tries: usize) {
        if self.media_nodes[m].life != life || tries > EVENT_TRIES {
            return;
        }
        let Some((call, event)) = self.media_nodes[m].kept.get(&number).cloned() else { return };
        let pause = EVENT_PAUSES[tries.min(EVENT_PAUSES.len() - 1)];
        self.after(Duration::from_millis(pause), Happening::MediaTells(m, life, number, tries + 1));
        if self.media_nodes[m].is_reached() {
            let node = Some(self.media_nodes[m].id.clone());
            let input = CallInput::MediaEvent { node, id: number, acknowledge: true, event: Box::new(event) };
            let id = self.phones[call].call;
            self.tell_call(None, id, input);
        }
    }

    /// An event has been taken.
    pub(in crate::cluster) fn event_taken(&mut self, node: &NodeId, number: u64) {
        let Some(m) = self.media_index(node).filter(|m| self.media_nodes[*m].is_reached()) else { return };
        if !self.rng.chance(self.network.loss) {
            self.media_nodes[m].kept.remove(&number);
        }
    }

    /// One media node at a time is in trouble: killed, cut off from everybody, or drained.
    pub(in crate::cluster) fn media_fault(&mut self) {
        let m = self.rng.below(self.media_nodes.len() as u64) as usize;
        let troubled = |media: &MediaNode| {
            !media.is_reached() || !self.shelf.is_listed(&media.id) || self.shelf.drains(&media.id)
        };
        if self.media_nodes.iter().any(troubled) {
            return;
        }
        self.report.media_faults += 1;
        let calm = self.schedule.weather == Weather::Calm;
        match if calm { 9 } else { self.rng.below(10) } {
            0..=4 => self.media_dies(m),
            5..=7 => self.media_cut(m),
            _ => self.media_drains(m),
        }
    }

    fn media_dies(&mut self, m: usize) {
        let stored = self.media_nodes[m].die();
        // Too short to have been stored, now and then.
        let stored: Vec<_> = stored.into_iter().filter(|_| self.rng.chance(850)).collect();
        self.stored.extend(stored);
        self.checker.forgets(media_receiver(m));
        let life = self.media_nodes[m].life;
        let missed = self.rng.millis(500, 500) + MISSED_AFTER;
        self.after(missed, Happening::MediaMissed(m, life, 0));
        let down =
            if self.rng.chance(300) { self.rng.millis(200, 3_000) } else { self.rng.millis(3_000, 30_000) };
        self.after(down, Happening::MediaStarts(m, life));
    }

    fn media_cut(&mut self, m: usize) {
        self.media_nodes[m].cut = true;
        let life = self.media_nodes[m].life;
        self.after(MISSED_AFTER, Happening::MediaMissed(m, life, 0));
        let lasts = self.rng.millis(500, 30_000);
        self.after(lasts, Happening::MediaHeals(m, life));
    }

    fn media_drains(&mut self, m: usize) {
        let id = self.media_nodes[m].id.clone();
        self.shelf.drain(&id, true);
        let lasts = self.rng.millis(3_000, 15_000);
        self.after(lasts, Happening::MediaDrained(m));
        self.after(Duration::from_millis(1), Happening::MediaLeave(m));
    }

    /// Calls leave a node that drains, asked again and again.
    pub(in crate::cluster) fn media_leave(&mut self, m: usize) {
        let id = self.media_nodes[m].id.clone();
        if self.shelf.drains(&id) {
            self.tell_calls_on(&id, &CallInput::LeaveMediaNode(id.clone()));
            self.after(Duration::from_secs(1), Happening::MediaLeave(m));
        }
    }

    pub(in crate::cluster) fn media_drained(&mut self, m: usize) {
        let id = self.media_nodes[m].id.clone();
        self.shelf.drain(&id, false);
    }

    /// Its lease is over: it is no member any more, and the calls on it are told, again while it is not back.
    pub(in crate::cluster) fn media_missed(&mut self, m: usize, life: u64, round: usize) {
        let (id, now_lives) = (self.media_nodes[m].id.clone(), self.media_nodes[m].life);
        if now_lives != life || self.media_nodes[m].is_reached() {
            return;
        }
        self.shelf.list(&id, false);
        self.tell_calls_on(&id, &CallInput::MediaNodeLost(id.clone()));
        if let Some(pause) = TELLS_AGAIN.get(round) {
            self.after(*pause, Happening::MediaMissed(m, life, round + 1));
        }
    }

    /// Another life: whoever was on the former one is told at once, if it was not missed before.
    pub(in crate::cluster) fn media_starts(&mut self, m: usize, life: u64) {
        if self.media_nodes[m].life != life || self.media_nodes[m].up {
            return;
        }
        let id = self.media_nodes[m].id.clone();
        self.media_nodes[m] = MediaNode::new(id.clone(), life + 1);
        self.shelf.list(&id, true);
        self.tell_calls_on(&id, &CallInput::MediaNodeLost(id.clone()));
    }

    /// It is reached again, with all that it had.
    pub(in crate::cluster) fn media_heals(&mut self, m: usize, life: u64) {
        if self.media_nodes[m].life == life && self.media_nodes[m].up {
            self.media_nodes[m].cut = false;
            let id = self.media_nodes[m].id.clone();
            self.shelf.list(&id, true);
        }
    }

    /// The faults are over for media nodes, too.
    pub(in crate::cluster) fn media_calms_down(&mut self) {
        for m in 0..self.media_nodes.len() {
            let life = self.media_nodes[m].life;
            self.media_starts(m, life);
            self.media_heals(m, life);
            self.media_drained(m);
        }
    }

    /// The shell of each node that is awake tells its own calls.
    fn tell_calls_on(&mut self, node: &NodeId, input: &CallInput) {
        for n in 0..self.nodes.len() {
            if !self.nodes[n].is_awake() {
                continue;
            }
            let on =
                |actor: &Actor| matches!(&actor.core, Core::Call(call) if call.media_node() == Some(node));
            let actors = self.nodes[n].actors.iter().filter(|(_, actor)| on(actor));
            let entities: Vec<Entity> = actors.map(|(entity, _)| *entity).collect();
            for entity in entities {
                self.work(n, entity, Work::Hear(Word::Call(Box::new(input.clone()))));
            }
        }
    }

    /// Long after the last fault the audio of whoever talks passes where the call thinks that it does.
    pub(in crate::cluster) fn check_audio(&mut self, n: usize) {
        let Some(actor) = self.actor(Entity::Call(n)) else { return };
        let Core::Call(call) = &actor.core else { return };
        let talks = call.phase() == trunkline_call_core::Phase::Talking && actor.is_settled();
        let (node, audio) = (call.media_node().cloned(), self.phones[n].audio.clone());
        let passes = |id: &NodeId| self.media_index(id).is_some_and(|m| self.media_nodes[m].has_caller(n));
        if talks && (node != audio || !node.as_ref().is_some_and(passes)) {
            self.checker.broken(format!("call {n} is on {node:?}, its caller's audio goes to {audio:?}"));
        }
    }
}

/// Media nodes among those that hear of epochs.
fn media_receiver(m: usize) -> usize {
    usize::MAX - 1 - m
}
