use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use trunkline_types::{OfferId, QueueId, ReleaseCause, Timestamp};

use super::{
    AgentEvent, AgentTotals, Attached, CommandReply, NextStatus, Notes,
    memory::{Begun, Remembered},
};
use crate::{AgentToCall, OfferCard, Outcome, SessionId};

/// The durable part of an agent: what its events add up to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AgentSnapshot {
    pub(crate) slot: Slot,
    pub(crate) since: Timestamp,
    pub(crate) next: Option<NextStatus>,
    /// Offers that are over and whose queue has not seen it yet.
    pub(crate) unseen: BTreeMap<OfferId, Ending>,
    pub(crate) totals: AgentTotals,
    /// Consoles that are attached, oldest first.
    #[serde(default)]
    pub(crate) sessions: Vec<Attached>,
    /// The session with the microphone.
    #[serde(default)]
    pub(crate) microphone: Option<SessionId>,
    /// Answers of commands that must not be done twice.
    #[serde(default)]
    pub(crate) done: VecDeque<Remembered>,
    /// Requests to the call that have not ended, by number.
    #[serde(default)]
    pub(crate) begun: BTreeMap<u64, Begun>,
}

/// The agent's one slot.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Slot {
    #[default]
    SignedOut,
    NotReady {
        reason: String,
    },
    Ready {
        idle_since: Timestamp,
    },
    Ringing {
        contact: Box<Contact>,
        until: Timestamp,
    },
    Connecting {
        contact: Box<Contact>,
        session: SessionId,
        sdp_offer: String,
        /// Then the connection is given up.
        until: Timestamp,
    },
    Talking {
        contact: Box<Contact>,
        session: SessionId,
        held: bool,
    },
    WrapUp {
        contact: Box<Contact>,
        until: Timestamp,
        cause: ReleaseCause,
        extended: u8,
    },
}

/// A call in the slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Contact {
    pub(crate) offer: OfferId,
    pub(crate) card: Box<OfferCard>,
    /// Idle since, before it rang: kept when the caller goes first.
    pub(crate) idle_since: Timestamp,
    pub(crate) notes: Notes,
}

/// How an offer ended, until the queue has seen it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ending {
    pub(crate) queue: QueueId,
    pub(crate) outcome: Outcome,
    pub(crate) at: Timestamp,
}

impl Slot {
    /// The call in it, if any.
    pub(crate) fn contact(&self) -> Option<&Contact> {
        match self {
            Self::SignedOut | Self::NotReady { .. } | Self::Ready { .. } => None,
            Self::Ringing { contact, .. }
            | Self::Connecting { contact, .. }
            | Self::Talking { contact, .. }
            | Self::WrapUp { contact, .. } => Some(contact),
        }
    }

    fn contact_mut(&mut self) -> Option<&mut Contact> {
        match self {
            Self::SignedOut | Self::NotReady { .. } | Self::Ready { .. } => None,
            Self::Ringing { contact, .. }
            | Self::Connecting { contact, .. }
            | Self::Talking { contact, .. }
            | Self::WrapUp { contact, .. } => Some(contact),
        }
    }

    fn take_contact(&mut self) -> Option<Box<Contact>> {
        match std::mem::take(self) {
            Self::SignedOut | Self::NotReady { .. } | Self::Ready { .. } => None,
            Self::Ringing { contact, .. }
            | Self::Connecting { contact, .. }
            | Self::Talking { contact, .. }
            | Self::WrapUp { contact, .. } => Some(contact),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::NotReady { .. } => "not_ready",
            Self::Ready { .. } => "ready",
            Self::Ringing { .. } => "ringing",
            Self::Connecting { .. } => "connecting",
            Self::Talking { .. } => "talking",
            Self::WrapUp { .. } => "wrap_up",
        }
    }
}

impl AgentSnapshot {
    /// Applies an event to what is durable.
    pub(crate) fn apply(&mut self, event: &AgentEvent) {
        self.totals.apply(event);
        self.apply_to_desk(event);
        match event {
            AgentEvent::SignedIn { at, .. } => self.idle(Slot::NotReady { reason: "signed_in".into() }, *at),
            AgentEvent::SignedOut { at, .. } => self.idle(Slot::SignedOut, *at),
            AgentEvent::Ready { at, idle_since } => self.idle(Slot::Ready { idle_since: *idle_since }, *at),
            AgentEvent::NotReady { at, reason } => self.idle(Slot::NotReady { reason: reason.clone() }, *at),
            AgentEvent::Offered { at, offer, card, ring_until } => {
                let idle_since = match self.slot {
                    Slot::Ready { idle_since } => idle_since,
                    _ => *at,
                };
                let contact =
                    Contact { offer: offer.clone(), card: card.clone(), idle_since, notes: Notes::default() };
                self.enter(Slot::Ringing { contact: Box::new(contact), until: *ring_until }, *at);
            }
            AgentEvent::Accepted { at, session, sdp_offer, connect_until, .. } => {
                if let Some(contact) = self.slot.take_contact() {
                    let (session, sdp_offer) = (session.clone(), sdp_offer.clone());
                    self.enter(Slot::Connecting { contact, session, sdp_offer, until: *connect_until }, *at);
                }
            }
            AgentEvent::OfferEnded { at, offer, outcome, .. } => {
                if let Some(contact) = self.slot.take_contact() {
                    self.keep(offer, &contact.card.queue, *outcome, *at);
                }
                // What follows at once says where the agent goes; a crash in between leaves this, which is safe.
                self.enter(Slot::NotReady { reason: outcome_name(*outcome).into() }, *at);
            }
            AgentEvent::Connected { at, offer, .. } => {
                if let Slot::Connecting { session, .. } = &self.slot {
                    let session = session.clone();
                    if let Some(contact) = self.slot.take_contact() {
                        self.keep(offer, &contact.card.queue, Outcome::Answered, *at);
                        self.enter(Slot::Talking { contact, session, held: false }, *at);
                    }
                }
            }
            AgentEvent::HoldChanged { held: now_held, .. } => {
                if let Slot::Talking { held, .. } = &mut self.slot {
                    *held = *now_held;
                }
            }
            AgentEvent::CallEnded { at, cause, wrap_up_until, .. } => {
                if let Some(contact) = self.slot.take_contact() {
                    let until = wrap_up_until.unwrap_or(*at);
                    self.enter(Slot::WrapUp { contact, until, cause: *cause, extended: 0 }, *at);
                }
            }
            AgentEvent::WrapUpExtended { until: new, .. } => {
                if let Slot::WrapUp { until, extended, .. } = &mut self.slot {
                    *until = *new;
                    *extended += 1;
                }
            }
            AgentEvent::NotesSaved { notes, .. } => {
                if let Some(contact) = self.slot.contact_mut() {
                    contact.notes = (**notes).clone();
                }
            }
            AgentEvent::WrapUpEnded { at, .. } => {
                self.enter(Slot::NotReady { reason: "wrap_up_ended".into() }, *at);
            }
            AgentEvent::NextStatusSet { next, .. } => self.next.clone_from(next),
            AgentEvent::OutcomeSeen { offer, .. } => {
                self.unseen.remove(offer);
            }
            AgentEvent::SessionAttached { .. }
            | AgentEvent::SessionDetached { .. }
            | AgentEvent::CommandBegun { .. }
            | AgentEvent::CommandEnded { .. } => {}
        }
    }

    /// Sessions, the microphone and the memory of commands.
    fn apply_to_desk(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::SessionAttached { session, console, connection, .. } => {
                let (console, connection) = (console.clone(), *connection);
                match self.sessions.iter_mut().find(|attached| attached.session == *session) {
                    Some(attached) => (attached.console, attached.connection) = (console, connection),
                    None => self.sessions.push(Attached { session: session.clone(), console, connection }),
                }
            }
            AgentEvent::SessionDetached { session, .. } => {
                self.sessions.retain(|attached| attached.session != *session);
            }
            AgentEvent::Accepted { session, .. } => self.microphone = Some(session.clone()),
            AgentEvent::CommandBegun { by, control, request, .. } => {
                let begun = Begun { by: by.clone(), request: (**request).clone() };
                self.begun.insert(*control, begun);
            }
            AgentEvent::CommandEnded { by, control, answer, .. } => {
                let begun = self.begun.remove(control);
                if let Some(AgentToCall::RemakeMedia { session, .. }) = begun.map(|begun| begun.request)
                    && matches!(**answer, Ok(CommandReply::Media { .. }))
                {
                    self.microphone = Some(session);
                }
                self.remember(by, (**answer).clone());
            }
            AgentEvent::OfferEnded { by, .. } => {
                self.microphone = None;
                by.iter().for_each(|by| self.remember(by, Ok(CommandReply::Done)));
            }
            AgentEvent::WrapUpExtended { by, .. } | AgentEvent::WrapUpEnded { by, .. } => {
                by.iter().for_each(|by| self.remember(by, Ok(CommandReply::Done)));
            }
            AgentEvent::CallEnded { cause, .. } => {
                self.microphone = None;
                self.requests_over(*cause);
            }
            _ => {}
        }
    }

    fn keep(&mut self, offer: &OfferId, queue: &QueueId, outcome: Outcome, at: Timestamp) {
        self.unseen.insert(offer.clone(), Ending { queue: queue.clone(), outcome, at });
    }

    fn idle(&mut self, slot: Slot, at: Timestamp) {
        self.next = None;
        self.enter(slot, at);
    }

    fn enter(&mut self, slot: Slot, at: Timestamp) {
        self.slot = slot;
        self.since = at;
    }
}

pub(crate) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Missed => "missed",
        Outcome::Declined => "declined",
        Outcome::Failed => "connect_failed",
        Outcome::CallerGone => "caller_gone",
        Outcome::AgentGone => "disconnected",
    }
}
