use crate::Timestamp;

/// A domain core: a state machine without I/O, clock and randomness, so that replay is recovery and a seeded simulator
/// can run millions of schedules of it.
///
/// What is durable changes only through [`Machine::apply`]: `handle` and `advance` decide, push the event into the
/// [`Outbox`] (which is how the shell learns of it) *and* apply it to themselves at once. Effects pushed after an event
/// leave the actor only when all events before them are committed (output commit). Effects are idempotent on their
/// receivers and are sent again until acknowledged, since a message may be lost at any time.
pub trait Machine {
    /// What it is told.
    type Input;
    /// What it decided, for the journal.
    type Event;
    /// What it wants done outside.
    type Effect;

    /// Takes one input at `now`. The caller has called [`Machine::advance`] to `now` before.
    fn handle(&mut self, now: Timestamp, input: Self::Input, out: &mut Outbox<Self::Event, Self::Effect>);

    /// Lets everything happen that was due up to and including `now`, in deadline order.
    fn advance(&mut self, now: Timestamp, out: &mut Outbox<Self::Event, Self::Effect>);

    /// When `advance` has to be called next at the latest; `None` = nothing is waiting for time.
    fn next_deadline(&self) -> Option<Timestamp>;

    /// Replays one committed event with outputs muted.
    fn apply(&mut self, event: &Self::Event);

    /// After the last replayed event: takes over at `now` (re-arms what volatile state needs, sends again what was not
    /// acknowledged).
    fn recovered(&mut self, now: Timestamp, out: &mut Outbox<Self::Event, Self::Effect>);
}

/// What a step of a [`Machine`] gives: events to commit and effects to release, in the order of the decisions.
#[derive(Debug)]
pub struct Outbox<Ev, Ef> {
    items: Vec<Output<Ev, Ef>>,
}

/// One item of an [`Outbox`].
#[derive(Debug, Clone, PartialEq)]
pub enum Output<Ev, Ef> {
    /// To be committed.
    Event(Ev),
    /// To be released once all events before it are committed.
    Effect(Ef),
}

impl<Ev, Ef> Default for Outbox<Ev, Ef> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<Ev, Ef> Outbox<Ev, Ef> {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event; the machine applies it to itself besides.
    pub fn event(&mut self, event: Ev) {
        self.items.push(Output::Event(event));
    }

    /// Adds an effect.
    pub fn effect(&mut self, effect: Ef) {
        self.items.push(Output::Effect(effect));
    }

    /// True when nothing was put out.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Gives back what an empty one holds for the next step. Machines rest for minutes, in great numbers.
    pub fn shrink(&mut self) {
        if self.items.is_empty() {
            self.items = Vec::new();
        }
    }

    /// Takes all items, keeping the allocation.
    pub fn drain(&mut self) -> impl Iterator<Item = Output<Ev, Ef>> + '_ {
        self.items.drain(..)
    }
}
