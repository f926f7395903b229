//! What consoles say: commands, each answered once under the client's id.

use trunkline_types::{OfferId, Timestamp};

use super::{
    Agent, AgentEvent, AgentStatus, AgentView, Command, CommandError, CommandRef, CommandReply, Console,
    NextStatus, Notes, Outbox, SessionInput, WrapUpEnd,
    state::{Contact, Slot},
};
use crate::{Action, Outcome, SessionId};

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
        console: Console,
        message: SessionInput,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        match message {
            SessionInput::Attach { connection } => self.attach(session, console, connection, now, out),
            SessionInput::Keepalive => self.keep_alive(session, console, now, out),
            SessionInput::Detach { reason } => self.detach(&session, &console, reason, now, out),
            SessionInput::Command { id, command } => {
                if !self.is_superseded(&session, &console, out) {
                    self.command(session, id, command, now, out);
                }
            }
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
        if let Some(answer) = self.known_answer(&session, &id) {
            Self::tell_answer(session, id, answer, out);
            return;
        }
        if self.is_under_way(&session, &id) {
            return;
        }
        if !self.is_attached(&session) {
            Self::tell_answer(session, id, Err(CommandError::NotAttached), out);
            return;
        }
        match self.execute(&session, &id, command, now, out) {
            Ok(Some(reply)) => self.answer(session, id, Ok(reply), out),
            Ok(None) => {}
            Err(error) => self.answer(session, id, Err(error), out),
        }
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
        let by = || CommandRef { session: session.clone(), id: id.to_owned() };
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
                if self.has_accepted(session, &offer) {
                    // Connected while nobody could tell: the same page's audio anew.
                    return self.new_media(session, id, sdp_offer, now, out);
                }
                self.accept(session, id, &offer, sdp_offer, now, out)?;
                return Ok(None);
            }
            Command::Decline { offer } => match &self.state.slot {
                Slot::Ringing { contact, .. } if contact.offer == offer => {
                    self.end_offer(Outcome::Declined, Some(by()), now, out);
                }
                _ => return Err(CommandError::OfferOver),
            },
            Command::Control { action } => {
                check_action(&action)?;
                self.may_control()?;
                self.control(Some(by()), action, now, out);
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
                self.end_wrap_up(WrapUpEnd::ByAgent, Some(by()), now, out);
            }
            Command::ExtendWrapUp => self.extend_wrap_up(by(), now, out)?,
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
                self.accepting = Some(CommandRef { session: session.clone(), id: id.to_owned() });
                return Ok(());
            }
            _ => return Err(CommandError::OfferOver),
        }
        let connect_until = Self::connect_until(now);
        let (offer, session) = (offer.clone(), session.clone());
        self.accepting = Some(CommandRef { session: session.clone(), id: id.to_owned() });
        self.connect_attempts = 0;
        self.record(AgentEvent::Accepted { at: now, offer, session, sdp_offer, connect_until }, out);
        self.connect_due(now, out);
        Ok(())
    }

    /// The session talks under this offer, which it accepted.
    fn has_accepted(&self, session: &SessionId, offer: &OfferId) -> bool {
        matches!(&self.state.slot, Slot::Talking { contact, session: owner, .. }
            if contact.offer == *offer && owner == session)
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
        let by = CommandRef { session: session.clone(), id: id.to_owned() };
        self.remake_media(by, sdp_offer, now, out);
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

    fn extend_wrap_up(
        &mut self,
        by: CommandRef,
        now: Timestamp,
        out: &mut Outbox,
    ) -> Result<(), CommandError> {
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
            by: Some(by),
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
            epoch: self.epoch,
            version: self.view_version,
            status,
            since: self.state.since,
            next: self.state.next.clone(),
            sessions: self.state.sessions.clone(),
            microphone: self.state.microphone.clone(),
        }
    }
}
