//! What an agent does with a conversation: hold, mute, digits, pause, hang up. Each command is done once and its answer
//! remembered, since agents repeat what was not answered.

use trunkline_types::{LegId, ReleaseCause, Timestamp};

use crate::{
    call::{Call, Cx},
    dtmf,
    effect::{AgentNotice, ConversationState},
    event::{EndedBy, EventBody, HoldBy},
    input::Control,
    media::{MediaBody, MediaFailureKind, MediaOk, Then},
    transfer::Pending,
};

/// Answers that are remembered.
const MAX_RECENT: usize = 32;
/// Digits in one command.
const MAX_DIGITS: usize = 32;

impl Call {
    pub(crate) fn control(
        &mut self,
        cx: &mut Cx<'_>,
        leg: LegId,
        session: String,
        command: String,
        control: Control,
    ) {
        let Some(part) = self.part(leg) else { return };
        let known =
            part.recent.iter().find(|(s, c, _)| *s == session && *c == command).map(|(.., error)| *error);
        if let Some(error) = known {
            return self.control_done(cx, leg, session, command, error, false);
        }
        if part.bridged.is_none() {
            return self.control_done(cx, leg, session, command, "not_connected", true);
        }
        if self.is_consulted(leg) {
            return self.control_consulted(cx, leg, session, command, control);
        }
        let error = match control {
            Control::Hold(on) => self.hold(cx, on),
            Control::Mute(on) => self.mute(cx, leg, on),
            Control::Digits(digits) => {
                let fine = (1..=MAX_DIGITS).contains(&digits.len()) && digits.chars().all(dtmf::is_key);
                if fine {
                    return self.send_digits(cx, session, command, digits);
                }
                "invalid_digits"
            }
            Control::HangUp => {
                self.control_done(cx, leg, session, command, "", true);
                if self.consulting() {
                    return self.complete_transfer(cx, ReleaseCause::AgentHangup);
                }
                return self.end(cx, ReleaseCause::AgentHangup, EndedBy::Agent);
            }
            Control::PauseRecording(paused) => self.pause_recording(cx, paused),
            // It may still ring for the stay before: not at two places. Whoever asks, asks again.
            Control::Transfer(_) | Control::Consult(_) if self.leaving() => return,
            Control::Transfer(queue) => return self.transfer(cx, Pending { session, command }, queue),
            Control::Consult(queue) => self.consult(cx, queue),
            Control::CompleteTransfer if self.consulting() => {
                self.control_done(cx, leg, session, command, "", true);
                return self.complete_transfer(cx, ReleaseCause::Transferred);
            }
            Control::CompleteTransfer => "not_consulting",
            Control::CancelConsult => self.cancel_consultation(cx),
        };
        self.control_done(cx, leg, session, command, error, true);
        self.notify_state(cx);
    }

    /// What an agent can do who is being consulted: the caller is another one's.
    fn control_consulted(
        &mut self,
        cx: &mut Cx<'_>,
        leg: LegId,
        session: String,
        command: String,
        control: Control,
    ) {
        let error = match control {
            Control::Mute(on) => self.mute(cx, leg, on),
            Control::HangUp => {
                self.control_done(cx, leg, session, command, "", true);
                return self.leave_consultation(cx, leg, ReleaseCause::AgentHangup);
            }
            _ => "being_consulted",
        };
        self.control_done(cx, leg, session, command, error, true);
        self.notify_part(cx, leg);
    }

    /// The answer to a blind transfer, when it is known.
    pub(crate) fn control_answered(&mut self, cx: &mut Cx<'_>, pending: Pending, error: &'static str) {
        if let Some(leg) = self.agent.as_deref().map(|part| part.leg) {
            self.control_done(cx, leg, pending.session, pending.command, error, true);
        }
    }

    fn control_done(
        &mut self,
        cx: &mut Cx<'_>,
        leg: LegId,
        session: String,
        command: String,
        error: &'static str,
        keep: bool,
    ) {
        let Some(part) = self.part_mut(leg) else { return };
        if keep {
            if part.recent.len() >= MAX_RECENT {
                part.recent.pop_front();
            }
            part.recent.push_back((session.clone(), command.clone(), error));
        }
        let (agent, offer, error) = (part.agent.clone(), part.offer.clone(), error.to_owned());
        let state = self.conversation(leg, cx.now);
        self.tell_agent(cx, &agent, &offer, AgentNotice::Result { session, command, error, state });
    }

    fn hold(&mut self, cx: &mut Cx<'_>, on_hold: bool) -> &'static str {
        let before = self.held();
        if self.agent.as_deref().is_some_and(|part| part.on_hold != on_hold) {
            self.emit(cx, EventBody::HoldChanged { by: HoldBy::Agent, on_hold });
            self.programs(cx);
            self.hold_changed(cx, before);
        }
        ""
    }

    /// Either side holds.
    pub(crate) fn held(&self) -> bool {
        self.agent.as_deref().is_some_and(|part| part.on_hold)
            || self.caller.as_deref().is_some_and(|caller| caller.holding)
    }

    /// After a change of either side's hold.
    pub(crate) fn hold_changed(&mut self, cx: &mut Cx<'_>, before: bool) {
        if self.agent.as_deref().is_none_or(|part| part.bridged.is_none()) {
            return;
        }
        let now = self.held();
        if now != before {
            self.mark_hold(cx, now);
        }
        self.notify_state(cx);
    }

    fn mute(&mut self, cx: &mut Cx<'_>, leg: LegId, muted: bool) -> &'static str {
        if self.part(leg).is_some_and(|part| part.muted != muted) {
            self.emit(cx, EventBody::MuteChanged { leg: Some(leg), muted });
            self.media(cx, MediaBody::SetMuted { leg, muted }, Then::Needed);
        }
        ""
    }

    fn send_digits(&mut self, cx: &mut Cx<'_>, session: String, command: String, digits: String) {
        if !self.media.sends_digits(&session, &command) {
            let leg = self.caller_leg();
            let then = Then::Digits { session, command, digits: digits.clone() };
            self.media(cx, MediaBody::SendDigits { leg, digits }, then);
        }
    }

    /// Sent as telephone-events; or by INFO, when the caller's side takes none.
    pub(crate) fn digits_done(
        &mut self,
        cx: &mut Cx<'_>,
        session: String,
        command: String,
        digits: &str,
        result: Result<MediaOk, Option<MediaFailureKind>>,
    ) {
        let error = match result {
            Ok(_) => "",
            Err(Some(MediaFailureKind::NoTelephoneEvent)) => {
                self.send_info(cx, digits);
                ""
            }
            Err(_) => "media_unavailable",
        };
        if let Some(leg) = self.agent.as_deref().map(|part| part.leg) {
            self.control_done(cx, leg, session, command, error, true);
        }
    }

    /// Tells the agents how the conversation is now.
    pub(crate) fn notify_state(&mut self, cx: &mut Cx<'_>) {
        for leg in self.agent_legs() {
            self.notify_part(cx, leg);
        }
    }

    /// Tells one of them.
    pub(crate) fn notify_part(&mut self, cx: &mut Cx<'_>, leg: LegId) {
        if let (Some(part), Some(state)) = (self.part(leg), self.conversation(leg, cx.now)) {
            self.tell_agent(cx, &part.agent, &part.offer, AgentNotice::State(state));
        }
    }

    fn conversation(&self, leg: LegId, at: Timestamp) -> Option<ConversationState> {
        let part = self.part(leg).filter(|part| part.bridged.is_some())?;
        let has_caller = !self.is_consulted(leg);
        let recording = self.running_recording().filter(|_| has_caller);
        Some(ConversationState {
            on_hold: part.on_hold,
            muted: part.muted,
            recording: recording.is_some_and(|recording| !recording.paused),
            recording_paused: recording.is_some_and(|recording| recording.paused),
            moves: self.moves,
            caller_held: self.caller.as_deref().is_some_and(|caller| caller.holding),
            consultation: self.consultation(leg),
            consult_error: if has_caller { self.consult_error } else { "" },
            at,
        })
    }
}
