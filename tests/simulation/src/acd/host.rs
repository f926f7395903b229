use std::collections::VecDeque;

use trunkline_types::{Machine, Outbox, Output, Timestamp};

/// A core on a node: output commit, crashes, pauses, takeover. The journal outlives it.
#[derive(Debug)]
pub(super) struct Host<M: Machine> {
    /// `None` while it is down.
    pub(super) machine: Option<M>,
    /// Ownership generation; raised by each takeover.
    pub(super) epoch: u64,
    /// What is committed.
    pub(super) journal: Vec<M::Event>,
    /// Decided, not released yet.
    outputs: VecDeque<Output<M::Event, M::Effect>>,
    /// Events in the commit under way.
    committing: usize,
    /// Inputs are held back until then.
    pub(super) paused_until: Option<Timestamp>,
    held_back: VecDeque<M::Input>,
    /// The wake-up that is scheduled.
    pub(super) wake_at: Option<Timestamp>,
    outbox: Outbox<M::Event, M::Effect>,
}

/// What happened to the commit under way when the node went down.
#[derive(Debug, Clone, Copy)]
pub(super) enum LastCommit {
    Lost,
    /// So many of its events made it.
    Torn(usize),
}

/// What the world has to do after a step.
#[derive(Debug)]
pub(super) struct Step<Ef> {
    /// May leave now.
    pub(super) effects: Vec<Ef>,
    /// A commit was started.
    pub(super) commit: bool,
}

impl<M: Machine> Host<M>
where
    M::Event: Clone,
{
    pub(super) fn new() -> Self {
        Self {
            machine: None,
            epoch: 0,
            journal: Vec::new(),
            outputs: VecDeque::new(),
            committing: 0,
            paused_until: None,
            held_back: VecDeque::new(),
            wake_at: None,
            outbox: Outbox::new(),
        }
    }

    /// Everything decided is committed and released.
    pub(super) fn is_settled(&self) -> bool {
        self.outputs.is_empty() && self.paused_until.is_none() && self.machine.is_some()
    }

    /// A new owner takes over with `machine`, which has replayed the journal.
    pub(super) fn start(&mut self, mut machine: M, now: Timestamp) -> Step<M::Effect> {
        machine.recovered(now, &mut self.outbox);
        self.machine = Some(machine);
        self.collect()
    }

    /// The node dies: what is not committed is lost, with all effects that wait.
    pub(super) fn crash(&mut self, last: LastCommit) {
        self.end_commit(last);
        self.outputs.clear();
        self.machine = None;
        self.held_back.clear();
        self.paused_until = None;
        self.wake_at = None;
    }

    /// Somebody else takes over while the node only sleeps: its commit under way is decided by the seal. Returned is what
    /// the sleeper says when it wakes, before its first append tells it that it is fenced.
    pub(super) fn fence(&mut self, last: LastCommit, wakes: Timestamp) -> Vec<M::Effect> {
        let made_it = self.end_commit(last);
        let mut said = Vec::new();
        let mut left = made_it;
        let mut free = true;
        for item in std::mem::take(&mut self.outputs) {
            match item {
                Output::Effect(effect) => said.push(effect),
                Output::Event(_) if left > 0 => left -= 1,
                Output::Event(_) => {
                    free = false;
                    break;
                }
            }
        }
        if let Some(mut machine) = self.machine.take().filter(|_| free) {
            let mut out = Outbox::new();
            machine.advance(wakes, &mut out);
            for input in self.held_back.drain(..) {
                machine.handle(wakes, input, &mut out);
            }
            said.extend(out.drain().map_while(|item| match item {
                Output::Event(_) => None,
                Output::Effect(effect) => Some(effect),
            }));
        }
        self.held_back.clear();
        self.paused_until = None;
        self.wake_at = None;
        said
    }

    /// Decides the commit under way; returns how many of its events made it.
    fn end_commit(&mut self, last: LastCommit) -> usize {
        let made_it = match last {
            LastCommit::Lost => 0,
            LastCommit::Torn(most) => most.min(self.committing),
        };
        let events = self.outputs.iter().filter_map(|item| match item {
            Output::Event(event) => Some(event.clone()),
            Output::Effect(_) => None,
        });
        self.journal.extend(events.take(made_it));
        self.committing = 0;
        made_it
    }

    pub(super) fn handle(&mut self, now: Timestamp, input: M::Input) -> Step<M::Effect> {
        if self.paused_until.is_some_and(|until| until > now) {
            self.held_back.push_back(input);
            return Step { effects: Vec::new(), commit: false };
        }
        if let Some(machine) = &mut self.machine {
            machine.advance(now, &mut self.outbox);
            machine.handle(now, input, &mut self.outbox);
        }
        self.collect()
    }

    pub(super) fn advance(&mut self, now: Timestamp) -> Step<M::Effect> {
        if self.paused_until.is_some_and(|until| until > now) {
            return Step { effects: Vec::new(), commit: false };
        }
        if let Some(machine) = &mut self.machine {
            machine.advance(now, &mut self.outbox);
        }
        self.collect()
    }

    /// The pause is over: first time, then what was held back.
    pub(super) fn resume(&mut self, now: Timestamp) -> Step<M::Effect> {
        self.paused_until = None;
        if let Some(machine) = &mut self.machine {
            machine.advance(now, &mut self.outbox);
            while let Some(input) = self.held_back.pop_front() {
                machine.handle(now, input, &mut self.outbox);
            }
        }
        self.collect()
    }

    /// The commit under way is done.
    pub(super) fn committed(&mut self) -> Step<M::Effect> {
        let mut left = std::mem::take(&mut self.committing);
        let mut effects = Vec::new();
        while left > 0 {
            match self.outputs.pop_front() {
                Some(Output::Event(event)) => {
                    self.journal.push(event);
                    left -= 1;
                }
                Some(Output::Effect(effect)) => effects.push(effect),
                None => break,
            }
        }
        let mut step = self.collect();
        effects.append(&mut step.effects);
        step.effects = effects;
        step
    }

    /// Releases what waits for nothing and starts the next commit.
    fn collect(&mut self) -> Step<M::Effect> {
        self.outputs.extend(self.outbox.drain());
        let mut effects = Vec::new();
        while matches!(self.outputs.front(), Some(Output::Effect(_))) {
            if let Some(Output::Effect(effect)) = self.outputs.pop_front() {
                effects.push(effect);
            }
        }
        let commit = self.committing == 0 && !self.outputs.is_empty();
        if commit {
            self.committing = self.outputs.iter().filter(|item| matches!(item, Output::Event(_))).count();
        }
        Step { effects, commit }
    }

    /// When it has to be woken; a sleeper wakes by the end of its pause only.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        if self.paused_until.is_some() {
            return None;
        }
        self.machine.as_ref().and_then(Machine::next_deadline)
    }
}
