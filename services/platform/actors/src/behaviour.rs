use bytes::Bytes;
use trunkline_journal::{EffectId, NewEvent, StoredEvent};
use trunkline_types::{Machine, Timestamp};

/// A stored event or snapshot cannot be understood: by a defect, or because a newer version wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    /// With the reason, for the log.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Whether the effects after an event wait for its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CommitClass {
    /// They wait: enqueue, offer, answer, bridge, change of owner.
    #[default]
    First,
    /// They do not: DTMF, statistics, hang-up. (They still wait for events of class `First` before it.)
    ActFirst,
}

/// The thin shell of one kind of entity: decodes messages, encodes events, performs effects. Everything that decides is in
/// the core.
pub trait Behaviour: Send + 'static {
    /// The state machine.
    type Core: Machine<Input = Self::Input, Event = Self::Event, Effect = Self::Effect> + Send + 'static;
    /// What the core is told.
    type Input;
    /// What the core decides.
    type Event: Send;
    /// What the core wants done.
    type Effect: Send;
    /// What others send.
    type Message: Send + 'static;

    /// Translates a message for the core. `None` = there is nothing to tell it; a bad message is logged here.
    fn input(&mut self, message: Self::Message, now: Timestamp) -> Option<Self::Input>;

    /// Encodes an event for the journal; the host sets [`NewEvent::last`].
    fn encode(&self, event: &Self::Event, now: Timestamp) -> NewEvent;

    /// The inverse, for every version that was ever written.
    ///
    /// # Errors
    /// When it cannot be understood: the entity then stays down rather than go on from a wrong state.
    fn decode(&self, stored: &StoredEvent) -> Result<Self::Event, DecodeError>;

    /// Carries out an effect. All events of class [`CommitClass::First`] before it are committed. It must not block: what
    /// waits is spawned, and its result comes back as a message.
    fn perform(&mut self, effect: Self::Effect, id: EffectId);

    /// Whether the effects after an event wait for its commit.
    fn class(&self, _event: &Self::Event) -> CommitClass {
        CommitClass::First
    }

    /// Whether the entity has come to its durable end: its last event is marked, and it is passivated once that is
    /// committed.
    fn finished(&self, core: &Self::Core) -> bool;

    /// Called after each step, for live views. What it sees may not be committed yet and must not leave the process as a
    /// fact.
    fn stepped(&mut self, _core: &Self::Core, _now: Timestamp) {}

    /// The core's state for a snapshot, with its schema version. `None` = this kind has none; its histories are short.
    fn snapshot(&self, _core: &Self::Core) -> Option<(u16, Bytes)> {
        None
    }

    /// Puts a fresh core into the state of a snapshot.
    ///
    /// # Errors
    /// When it cannot be understood.
    fn restore(&self, _core: &mut Self::Core, version: u16, _body: &[u8]) -> Result<(), DecodeError> {
        Err(DecodeError::new(format!("a snapshot of version {version}, but this kind of entity has none")))
    }
}
