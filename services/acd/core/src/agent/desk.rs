//! What consoles say: commands, each answered once under the client's id.

use trunkline_types::{OfferId, Timestamp};

use super::{
    Agent, AgentEffect, AgentEvent, AgentStatus, AgentView, Answer, Command, CommandError, CommandReply,
    NextStatus, Notes, Outbox, SessionInput, WrapUpEnd,
    state::{Contact, Slot},
};
use crate::{Action, Outcome, SessionId};

/// Answers kept for clients that ask again after a reconnect.
const ANSWERS_KEPT: usize = 64;
/// Requests to the call under way at a time.
const CONTROLS_MOST: usize = 16;
/// Longest SDP, in bytes.
const SDP_MOST_BYTES: usize = 65_536;

fn invalid(field: &str, remedy: &str) -> CommandError {
    CommandError::Invalid { field: field.to_owned(), remedy: remedy.to_owned() }
}

fn check_reason(reason: &str) -> Result<(), CommandError> {
    if (1..=64).contains(&reason.len()) { Ok(()) } else { Err(invalid("reason", "use 1 to 64 characters")) }
}

fn check_sdp(sdp: &str) -> Result<(), CommandError> {
    if sdp.len() <= SDP_MOST_BYTES { Ok(()) } else { Err(invalid("sdp_offer", "use at most 65536 bytes")) }
}

fn check_action(action: &Action) -> Result<(), CommandError> {
    let Action::Digits(digits) = action else { return Ok(()) };
    let fit = (1..=32).contains(&digits.len())
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#' | b'A'..=b'D'));
    if fit { Ok(()) } else { Err(invalid("digits", "use 1 to 32 of 0-9, *, # and A-D")) }
}

fn check_notes(notes: &Notes, contact: &Contact, required: bool) -> Result<(), CommandError> {
    if notes.text.len() > Notes::MAX_TEXT_BYTES {
        return Err(invalid("text", "use at most 16384 bytes"));
    }
    if notes.tags.len() > Notes::MAX_TAGS || notes.tags.iter().any(|tag| tag.len() > Notes::MAX_LABEL_BYTES) {
        return Err(invalid("tags", "use at most 32 tags of at most 128 bytes"));
    }
    let choices = &contact.card.dispositions;
    match &notes.disposition {
        None if required && contact.card.disposition_required => {
            Err(invalid("disposition", "this queue requires one"))
        }
        Some(chosen) if chosen.len() > Notes::MAX_LABEL_BYTES => {
            Err(invalid("disposition", "use at most 128 bytes"))
        }
        Some(chosen) if !choices.is_empty() && !choices.contains(chosen) => {
            Err(invalid("disposition", &format!("choose one of: {}", choices.join(", "))))
        }
        _ => Ok(()),
    }
}

impl Agent {
    pub(super) fn on_session(
        &mut self,
        session: SessionId,
        message: SessionInput,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        match message {
            SessionInput::Attach => self.attach(session, now, out),
            SessionInput::Detach => self.detach(&session, now),
            SessionInput::Command { id, command } => self.command(session, id, command, now, out),
        }
    }

    fn command(
        &mut self,
        session: SessionId,
        id: String,
        command: Command,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let known = self.answered.iter().find(|(s, i, _)| *s == session && *i == id);
        if let Some((_, _, answer)) = known {
            Self::tell_answer(session, id, answer.clone(), out);
            return;
        }
        let under_way = |asker: &(SessionId, String)| asker.0 == session && asker.1 == id;
        if self.accepting.as_ref().is_some_and(under_way)
            || self.controls.values().any(|pending| pending.asker.as_ref().is_some_and(under_way))
        {
            return;
        }
        if !self.sessions.contains(&session) {
            Self::tell_answer(session, id, Err(CommandError::NotAttached), out);
            return;
        }
        match self.execute(&session, &id, command, now, out) {
            Ok(Some(reply)) => self.answer(session, id, Ok(reply), out),
            Ok(None) => {}
            Err(error) => self.answer(session, id, Err(error), out),
        }
    }

    /// Answers a command and keeps the answer for a client that asks again.
    pub(super) fn answer(&mut self, session: SessionId, id: String, answer: Answer, out: &mut Outbox) {
        if self.answered.len() == ANSWERS_KEPT {
            self.answered.pop_front();
        }
        self.answered.push_back((session.clone(), id.clone(), answer.clone()));
        Self::tell_answer(session, id, answer, out);
    }

    fn tell_answer(session: SessionId, id: String, answer: Answer, out: &mut Outbox) {
        out.effect(match answer {
            Ok(reply) => AgentEffect::CommandDone { session, id, reply },
            Err(error) => AgentEffect::CommandFailed { session, id, error },
        });
    }

    fn wrong_state<T>(&self) -> Result<T, CommandError> {
        Err(CommandError::WrongState { state: self.state.slot.name().to_owned() })
    }

    /// `Ok(None)`: under way, answered later.
    fn execute(
        &mut self,
        session: &SessionId,
        id: &str,
        command: Command,
        now: Timestamp,
        out: &mut Outbox,
    ) -> Result<Option<CommandReply>, CommandError> {
        match command {
            Command::Ready => self.set_status(session, None, now, out),
            Command::NotReady { reason } => {
                check_reason(&reason)?;
                self.set_status(session, Some(NextStatus::NotReady { reason }), now, out);
            }
            Command::SignOut => self.set_status(session, Some(NextStatus::SignedOut), now, out),
            Command::SetNextStatus { next } => {
                if let Some(NextStatus::NotReady { reason }) = &next {
                    check_reason(reason)?;
                }
                if self.state.slot.contact().is_none() {
                    return self.wrong_state();
                }
                self.record(AgentEvent::NextStatusSet { at: now, next }, out);
            }
            Command::Accept { offer, sdp_offer } => {
                check_sdp(&sdp_offer)?;
                self.accept(session, id, &offer, sdp_offer, now, out)?;
                return Ok(None);
            }
            Command::Decline { offer } => match &self.state.slot {
                Slot::Ringing { contact, .. } if contact.offer == offer => {
                    self.end_offer(Outcome::Declined, now, out);
                }
                _ => return Err(CommandError::OfferOver),
            },
            Command::Control { action } => {
                check_action(&action)?;
                self.may_control()?;
                self.control(Some((session.clone(), id.to_owned())), action, now, out);
                return Ok(None);
            }
            Command::ResumeMedia { sdp_offer } => {
                if let Some(session) = self.microphone_elsewhere(session) {
                    return Err(CommandError::MicrophoneElsewhere { session });
                }
                return self.new_media(session, id, sdp_offer, now, out);
            }
            Command::TakeOver { sdp_offer } => return self.new_media(session, id, sdp_offer, now, out),
            Command::SaveNotes { notes } => self.save_notes(notes, false, now, out)?,
            Command::FinishWrapUp { notes } => {
                if !matches!(self.state.slot, Slot::WrapUp { .. }) {
                    return self.wrong_state();
                }
                self.save_notes(notes, true, now, out)?;
                self.end_wrap_up(WrapUpEnd::ByAgent, now, out);
            }
            Command::ExtendWrapUp => self.extend_wrap_up(now, out)?,
        }
        Ok(Some(CommandReply::Done))
    }

    /// At once while idle; otherwise for after the contact.
    fn set_status(
        &mut self,
        session: &SessionId,
        wanted: Option<NextStatus>,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        if self.state.slot.contact().is_some() {
            self.record(AgentEvent::NextStatusSet { at: now, next: wanted }, out);
            return;
        }
        match (&self.state.slot, &wanted) {
            // Idleness goes on: pressing "ready" again costs nobody the place in the line.
            (Slot::Ready { .. }, None) | (Slot::SignedOut, Some(NextStatus::SignedOut)) => return,
            (Slot::SignedOut, _) => {
                self.record(AgentEvent::SignedIn { at: now, session: session.clone() }, out);
            }
            _ => {}
        }
        self.record(
            match wanted {
                None => AgentEvent::Ready { at: now, idle_since: now },
                Some(NextStatus::NotReady { reason }) => AgentEvent::NotReady { at: now, reason },
                Some(NextStatus::SignedOut) => AgentEvent::SignedOut { at: now, reason: "by_agent".into() },
            },
            out,
        );
    }

    fn accept(
        &mut self,
        session: &SessionId,
        id: &str,
        offer: &OfferId,
        sdp_offer: String,
        now: Timestamp,
        out: &mut Outbox,
    ) -> Result<(), CommandError> {
        match &self.state.slot {
            Slot::Ringing { contact, .. } if contact.offer == *offer => {}
            // The same console asks again after this agent's shard has moved: the answer is on its way.
            Slot::Connecting { contact, session: owner, .. }
                if contact.offer == *offer && owner == session && self.accepting.is_none() =>
            {
                self.accepting = Some((session.clone(), id.to_owned()));
                return Ok(());
            }
            _ => return Err(CommandError::OfferOver),
        }
        let connect_until = Self::connect_until(now);
        let (offer, session) = (offer.clone(), session.clone());
        self.accepting = Some((session.clone(), id.to_owned()));
        self.connect_attempts = 0;
        self.record(AgentEvent::Accepted { at: now, offer, session, sdp_offer, connect_until }, out);
        self.connect_due(now, out);
        Ok(())
    }

    fn may_control(&self) -> Result<(), CommandError> {
        if self.talking().is_none() {
            return self.wrong_state();
        }
        if self.controls.len() >= CONTROLS_MOST { Err(CommandError::Busy) } else { Ok(()) }
    }

    fn new_media(
        &mut self,
        session: &SessionId,
        id: &str,
        sdp_offer: String,
        now: Timestamp,
        out: &mut Outbox,
    ) -> Result<Option<CommandReply>, CommandError> {
        check_sdp(&sdp_offer)?;
        self.may_control()?;
        self.remake_media(session.clone(), id.to_owned(), sdp_offer, now, out);
        Ok(None)
    }

    fn save_notes(
        &mut self,
        notes: Notes,
        finish: bool,
        now: Timestamp,
        out: &mut Outbox,
    ) -> Result<(), CommandError> {
        let (Slot::Talking { contact, .. } | Slot::WrapUp { contact, .. }) = &self.state.slot else {
            return self.wrong_state();
        };
        check_notes(&notes, contact, finish)?;
        if contact.notes == notes {
            return Ok(());
        }
        let (offer, call) = (contact.offer.clone(), contact.card.call);
        self.record(AgentEvent::NotesSaved { at: now, offer, call, notes: Box::new(notes) }, out);
        Ok(())
    }

    fn extend_wrap_up(&mut self, now: Timestamp, out: &mut Outbox) -> Result<(), CommandError> {
        let Slot::WrapUp { contact, until, extended, .. } = &self.state.slot else {
            return self.wrong_state();
        };
        let max = self.config.max_extensions;
        if *extended >= max {
            return Err(CommandError::NoMoreExtensions { max });
        }
        let event = AgentEvent::WrapUpExtended {
            at: now,
            offer: contact.offer.clone(),
            until: until.plus(self.config.wrap_up_extension),
        };
        self.record(event, out);
        Ok(())
    }

    /// The state as consoles see it.
    pub fn view(&self) -> AgentView {
        let offer = |contact: &Contact| contact.offer.clone();
        let card = |contact: &Contact| contact.card.clone();
        let notes = |contact: &Contact| Box::new(contact.notes.clone());
        let status = match &self.state.slot {
            Slot::SignedOut => AgentStatus::SignedOut,
            Slot::NotReady { reason } => AgentStatus::NotReady { reason: reason.clone() },
            Slot::Ready { idle_since } => AgentStatus::Ready { idle_since: *idle_since },
            Slot::Ringing { contact, until } => {
                AgentStatus::Ringing { offer: offer(contact), card: card(contact), until: *until }
            }
            Slot::Connecting { contact, .. } => {
                AgentStatus::Connecting { offer: offer(contact), card: card(contact) }
            }
            Slot::Talking { contact, held, .. } => AgentStatus::Talking {
                offer: offer(contact),
                card: card(contact),
                connected_at: self.state.since,
                held: *held,
                muted: self.muted,
                hanging_up: self.hanging_up,
                notes: notes(contact),
            },
            Slot::WrapUp { contact, until, cause, extended } => AgentStatus::WrapUp {
                offer: offer(contact),
                call: contact.card.call,
                card: card(contact),
                until: *until,
                cause: *cause,
                extended: *extended,
                notes: notes(contact),
            },
        };
        AgentView {
            agent: self.id.clone(),
            display_name: self.config.display_name.clone(),
            version: self.view_version,
            status,
            since: self.state.since,
            next: self.state.next.clone(),
            sessions: self.sessions.clone(),
            microphone: self.microphone.clone(),
        }
    }
}
