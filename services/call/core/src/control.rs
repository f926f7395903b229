//! What an agent does with a conversation: hold, mute, digits, pause, hang up. Each command is done once and its answer
//! remembered, since agents repeat what was not answered.

use trunkline_types::{ReleaseCause, Timestamp};

use crate::{
    call::{Call, Cx},
    dtmf,
    effect::{AgentNotice, ConversationState},
    event::{EndedBy, EventBody, HoldBy},
    input::Control,
    media::{MediaBody, MediaFailureKind, MediaOk, Then},
};

/// Answers that are remembered.
const MAX_RECENT: usize = 32;
/// Digits in one command.
const MAX_DIGITS: usize = 32;

impl Call {
    pub(crate) fn control(&mut self, cx: &mut Cx<'_>, session: String, command: String, control: Control) {
        let Some(part) = self.agent.as_deref() else { return };
        let known =
            part.recent.iter().find(|(s, c, _)| *s == session && *c == command).map(|(.., error)| *error);
        if let Some(error) = known {
            return self.control_done(cx, session, command, error, false);
        }
        if part.bridged.is_none() {
            return self.control_done(cx, session, command, "not_connected", true);
        }
        let error = match control {
            Control::Hold(on) => self.hold(cx, on),
            Control::Mute(on) => self.mute(cx, on),
            Control::Digits(digits) => {
                let fine = (1..=MAX_DIGITS).contains(&digits.len()) && digits.chars().all(dtmf::is_key);
                if fine {
                    return self.send_digits(cx, session, command, digits);
                }
                "invalid_digits"
            }
            Control::HangUp => {
                self.control_done(cx, session, command, "", true);
                return self.end(cx, ReleaseCause::AgentHangup, EndedBy::Agent);
            }
            Control::PauseRecording(paused) => self.pause_recording(cx, paused),
        };
        self.control_done(cx, session, command, error, true);
        self.notify_state(cx);
    }

    fn control_done(
        &mut self,
        cx: &mut Cx<'_>,
        session: String,
        command: String,
        error: &'static str,
        keep: bool,
    ) {
        let Some(part) = self.agent.as_deref_mut() else { return };
        if keep {
            if part.recent.len() >= MAX_RECENT {
                part.recent.pop_front();
            }
            part.recent.push_back((session.clone(), command.clone(), error));
        }
        let (agent, offer, error) = (part.agent.clone(), part.offer.clone(), error.to_owned());
        let state = self.conversation(cx.now);
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

    fn mute(&mut self, cx: &mut Cx<'_>, muted: bool) -> &'static str {
        let Some(leg) = self.agent.as_deref().filter(|part| part.muted != muted).map(|part| part.leg) else {
            return "";
        };
        self.emit(cx, EventBody::MuteChanged { muted });
        self.media(cx, MediaBody::SetMuted { leg, muted }, Then::Needed);
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
        self.control_done(cx, session, command, error, true);
    }

    /// Tells the agent how the conversation is now.
    pub(crate) fn notify_state(&mut self, cx: &mut Cx<'_>) {
        if let (Some(part), Some(state)) = (self.agent.as_deref(), self.conversation(cx.now)) {
            self.tell_agent(cx, &part.agent, &part.offer, AgentNotice::State(state));
        }
    }

    fn conversation(&self, at: Timestamp) -> Option<ConversationState> {
        let part = self.agent.as_deref().filter(|part| part.bridged.is_some())?;
        Some(ConversationState {
            on_hold: part.on_hold,
            muted: part.muted,
            recording: self.running_recording().is_some_and(|recording| !recording.paused),
            recording_paused: self.running_recording().is_some_and(|recording| recording.paused),
            moves: self.moves,
            caller_held: self.caller.as_deref().is_some_and(|caller| caller.holding),
            at,
        })
    }
}
