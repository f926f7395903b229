//! What calls say: connection, hold and mute, the end.

use trunkline_types::{CallId, OfferId, ReleaseCause, Timestamp};

use super::{
    Agent, AgentEvent, Answer, CommandError, CommandRef, CommandReply, Key, Outbox, PendingControl,
    WrapUpEnd, memory::Begun, state::Slot,
};
use crate::{
    Action, AgentToCall, CallToAgent, ConversationStatus, Outcome,
    protocol::{self, RESEND_FIRST, RESEND_MOST},
    timers::backoff,
};

impl Agent {
    pub(super) fn on_call(&mut self, call: CallId, message: CallToAgent, now: Timestamp, out: &mut Outbox) {
        match message {
            CallToAgent::Connected { offer, sdp_answer, at } => {
                if self.is_connecting(&offer) {
                    self.connected(at, now, out);
                    let reply = CommandReply::Media { offer, sdp_answer };
                    self.answer_accept(Ok(reply), out);
                }
            }
            CallToAgent::ConnectFailed { offer, cause } => {
                if self.is_connecting(&offer) {
                    let cause = cause.as_str().to_owned();
                    self.answer_accept(Err(CommandError::ConnectFailed { cause }), out);
                    self.end_offer(Outcome::Failed, None, now, out);
                }
            }
            CallToAgent::MediaRemade { offer, control, sdp_answer } => {
                if let Some(pending) = self.take_control(&offer, control) {
                    let answer = Ok(CommandReply::Media { offer, sdp_answer });
                    self.end_control(control, pending, answer, now, out);
                }
            }
            CallToAgent::ControlDone { offer, control, status } => {
                self.status(&offer, status, now, out);
                if let Some(pending) = self.take_control(&offer, control) {
                    self.end_control(control, pending, Ok(CommandReply::Done), now, out);
                }
            }
            CallToAgent::ControlFailed { offer, control, error } => {
                if let Some(pending) = self.take_control(&offer, control) {
                    if matches!(pending.message, AgentToCall::Control { action: Action::Hangup, .. }) {
                        self.hanging_up = false;
                        self.changed = true;
                    }
                    self.end_control(control, pending, Err(CommandError::Call { reason: error }), now, out);
                }
            }
            CallToAgent::Status { offer, status } => self.status(&offer, status, now, out),
            CallToAgent::Ended { offer, connected_at, cause, at } => {
                self.conversation_ended(&offer, connected_at, cause, at, now, out);
                Self::tell_call(call, AgentToCall::EndedSeen { offer }, out);
            }
        }
    }

    fn is_connecting(&self, offer: &OfferId) -> bool {
        matches!(&self.state.slot, Slot::Connecting { contact, .. } if contact.offer == *offer)
    }

    /// The offer of the conversation in the slot.
    pub(super) fn talking(&self) -> Option<(&OfferId, CallId)> {
        match &self.state.slot {
            Slot::Talking { contact, .. } => Some((&contact.offer, contact.card.call)),
            _ => None,
        }
    }

    fn is_talking(&self, offer: &OfferId) -> bool {
        self.talking().is_some_and(|(talking, _)| talking == offer)
    }

    /// An instant of the call's clock on ours: not before the state began, not in the future.
    fn on_our_clock(&self, at: Timestamp, now: Timestamp) -> Timestamp {
        at.clamp(self.state.since, now.max(self.state.since))
    }

    fn connected(&mut self, at: Timestamp, now: Timestamp, out: &mut Outbox) {
        let Some(contact) = self.state.slot.contact() else { return };
        let (offer, call) = (contact.offer.clone(), contact.card.call);
        self.timers.cancel(&Key::Connect);
        let at = self.on_our_clock(at, now);
        self.record(AgentEvent::Connected { at, offer: offer.clone(), call }, out);
        self.tell_outcome(&offer, now, out);
        self.timers.set(Key::Ask, now.plus(protocol::TALK_CHECK_EVERY));
    }

    fn status(&mut self, offer: &OfferId, status: ConversationStatus, now: Timestamp, out: &mut Outbox) {
        if !self.is_talking(offer) {
            return;
        }
        self.timers.set(Key::Ask, now.plus(protocol::TALK_CHECK_EVERY));
        if self.status_version.is_some_and(|version| version >= status.version) {
            return;
        }
        self.status_version = Some(status.version);
        if self.muted != status.muted {
            self.muted = status.muted;
            self.changed = true;
        }
        if matches!(self.state.slot, Slot::Talking { held, .. } if held != status.held) {
            let offer = offer.clone();
            self.record(AgentEvent::HoldChanged { at: now, offer, held: status.held }, out);
        }
    }

    fn conversation_ended(
        &mut self,
        offer: &OfferId,
        connected_at: Option<Timestamp>,
        cause: ReleaseCause,
        at: Timestamp,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        if self.is_connecting(offer) {
            let Some(connected_at) = connected_at else {
                self.answer_accept(Err(CommandError::CallerGone), out);
                self.end_offer(Outcome::CallerGone, None, now, out);
                return;
            };
            // "Connected" was overtaken.
            self.connected(connected_at, now, out);
            self.answer_accept(Err(CommandError::CallEnded), out);
        }
        if !self.is_talking(offer) {
            return;
        }
        self.end_call(cause, at, now, out);
    }

    fn end_call(&mut self, cause: ReleaseCause, at: Timestamp, now: Timestamp, out: &mut Outbox) {
        let Some(contact) = self.state.slot.contact() else { return };
        let (offer, call, wrap_up) = (contact.offer.clone(), contact.card.call, contact.card.wrap_up);
        let at = self.on_our_clock(at, now);
        // The wrap-up is counted from when the agent hears of the end.
        let wrap_up_until = (!wrap_up.is_zero()).then(|| now.plus(wrap_up));
        self.record(AgentEvent::CallEnded { at, offer, call, cause, wrap_up_until }, out);
        self.timers.cancel(&Key::Ask);
        self.hanging_up = false;
        for (control, pending) in std::mem::take(&mut self.controls) {
            self.timers.cancel(&Key::Control(control));
            let answer = Begun::at_call_end(&pending.message, cause);
            if let Some(by) = pending.asker {
                self.answer(by.session, by.id, answer, out);
            }
        }
        if wrap_up_until.is_none() {
            self.end_wrap_up(WrapUpEnd::None, None, now, out);
        }
    }

    /// Sends `Connect`, or `GiveUp` when it has taken too long, and arranges for the next time.
    pub(super) fn connect_due(&mut self, now: Timestamp, out: &mut Outbox) {
        let Slot::Connecting { contact, session, sdp_offer, until } = &self.state.slot else { return };
        let (offer, call) = (contact.offer.clone(), contact.card.call);
        let pause = backoff(self.connect_attempts, RESEND_FIRST, RESEND_MOST);
        let (message, at) = if now >= *until {
            (AgentToCall::GiveUp { offer }, now.plus(pause))
        } else {
            let (session, sdp_offer) = (session.clone(), sdp_offer.clone());
            let card = &contact.card;
            let (entry, recording, recording_required) =
                (card.entry, card.recording, card.recording_required);
            (
                AgentToCall::Connect { offer, entry, session, sdp_offer, recording, recording_required },
                now.plus(pause).min(*until),
            )
        };
        self.connect_attempts += 1;
        self.timers.set(Key::Connect, at);
        Self::tell_call(call, message, out);
    }

    /// Asks the call whether the conversation goes on.
    pub(super) fn ask_due(&mut self, now: Timestamp, out: &mut Outbox) {
        let Some((offer, call)) = self.talking() else { return };
        let message = AgentToCall::Ask { offer: offer.clone() };
        self.timers.set(Key::Ask, now.plus(protocol::TALK_CHECK_AGAIN));
        Self::tell_call(call, message, out);
    }

    /// A number that no other request of any epoch has, ascending.
    fn next_control(&mut self) -> u64 {
        self.last_control += 1;
        (self.epoch.0 << 40) | (self.last_control & 0xff_ffff_ffff)
    }

    /// Starts a request to the call of the conversation in the slot.
    pub(super) fn control(
        &mut self,
        asker: Option<CommandRef>,
        action: Action,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let Some((offer, _)) = self.talking() else { return };
        let offer = offer.clone();
        if action == Action::Hangup {
            self.hanging_up = true;
            self.changed = true;
        }
        let control = self.next_control();
        self.start(control, asker, AgentToCall::Control { offer, control, action }, now, out);
    }

    pub(super) fn remake_media(
        &mut self,
        by: CommandRef,
        sdp_offer: String,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let Some((offer, _)) = self.talking() else { return };
        let offer = offer.clone();
        let control = self.next_control();
        let message = AgentToCall::RemakeMedia { offer, control, session: by.session.clone(), sdp_offer };
        self.start(control, Some(by), message, now, out);
    }

    fn start(
        &mut self,
        control: u64,
        asker: Option<CommandRef>,
        message: AgentToCall,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        if let Some(by) = &asker {
            self.begin(by, control, &message, now, out);
        }
        self.controls.insert(control, PendingControl { asker, message, attempts: 0 });
        self.control_due(control, now, out);
    }

    /// Sends a request, and arranges for the next time; it ends with the conversation at the latest.
    pub(super) fn control_due(&mut self, control: u64, now: Timestamp, out: &mut Outbox) {
        let Some((_, call)) = self.talking() else { return };
        let Some(pending) = self.controls.get_mut(&control) else { return };
        let pause = backoff(pending.attempts, RESEND_FIRST, RESEND_MOST);
        pending.attempts += 1;
        self.timers.set(Key::Control(control), now.plus(pause));
        Self::tell_call(call, pending.message.clone(), out);
    }

    fn take_control(&mut self, offer: &OfferId, control: u64) -> Option<PendingControl> {
        if !self.is_talking(offer) {
            return None;
        }
        self.timers.cancel(&Key::Control(control));
        self.controls.remove(&control)
    }

    fn answer_accept(&mut self, answer: Answer, out: &mut Outbox) {
        if let Some(by) = self.accepting.take() {
            self.answer(by.session, by.id, answer, out);
        }
    }
}
