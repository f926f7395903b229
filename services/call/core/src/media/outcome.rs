//! What follows from the media node's answers.

use trunkline_types::ReleaseCause;

use super::{
    link::{Outcome, Then},
    message::{MediaBody, MediaFailureKind},
};
use crate::{
    call::{Call, Cx},
    event::EndedBy,
};

impl Call {
    pub(crate) fn media_outcome(&mut self, cx: &mut Cx<'_>, body: MediaBody, then: Then, outcome: Outcome) {
        if then == Then::Close {
            return self.session_closed();
        }
        if let (Then::Recording(recording), Outcome::Done(ok)) = (&then, &outcome) {
            self.transcribe(cx, *recording, ok.no_recogniser);
        }
        if self.ended.is_some() || then == Then::Clear {
            return;
        }
        let gone = matches!(outcome, Outcome::Failed(MediaFailureKind::UnknownSession, _));
        match then {
            Then::Caller => match outcome.into_result() {
                Ok(ok) => self.caller_media_ready(cx, &ok),
                Err(kind) => self.caller_media_failed(cx, kind),
            },
            Then::Probe => self.probed(cx, outcome.into_result()),
            Then::MoveOffer => self.offer_made(cx, outcome.into_result()),
            _ if gone => self.media_lost(cx, false),
            Then::MoveAnswer => self.offer_settled(cx, outcome.into_result()),
            Then::ReInvite => match outcome.into_result() {
                Ok(ok) => self.reinvite_ready(cx, &ok),
                Err(kind) => self.reinvite_failed(cx, kind),
            },
            Then::Update => self.update_done(cx, outcome.into_result()),
            Then::LateAnswer => match outcome.into_result() {
                Ok(ok) => {
                    self.note_direction(cx, &ok);
                    self.caller_landed(cx, ok.codec);
                }
                Err(Some(MediaFailureKind::NoCommonCodec | MediaFailureKind::UnsupportedTransport)) => {
                    self.end(cx, ReleaseCause::NoCommonCodec, EndedBy::Caller);
                }
                Err(Some(MediaFailureKind::MalformedSdp)) => {
                    self.end(cx, ReleaseCause::BadRequest, EndedBy::Caller)
                }
                Err(kind) => self.media_failed(cx, kind),
            },
            Then::Agent(offer) => self.agent_media_done(cx, &offer, outcome.into_result()),
            Then::Remade { leg, session, request } => {
                self.agent_remade(cx, leg, session, request, outcome.into_result())
            }
            Then::Digits { session, command, digits } => {
                self.digits_done(cx, session, command, &digits, outcome.into_result());
            }
            Then::Play { token } => match outcome {
                Outcome::Done(_) => {}
                // Without the prompt the call goes on as if it had been played.
                Outcome::Failed(kind, message) => self.prompt_failed(cx, &token, kind, message),
                Outcome::NoAnswer => self.media_lost(cx, true),
            },
            Then::Announce => {
                if !matches!(outcome, Outcome::Done(_))
                    && let Some(stay) = &mut self.stay
                {
                    stay.announce_at = None;
                    stay.silent = true;
                }
            }
            Then::Recording(recording) => {
                if let Err(kind) = outcome.into_result() {
                    self.recording_refused(cx, recording, kind);
                    self.transcribe(cx, recording, false);
                }
            }
            Then::Needed => self.needed_done(cx, &body, outcome),
            Then::Optional | Then::Clear | Then::Close => {}
        }
    }

    fn needed_done(&mut self, cx: &mut Cx<'_>, body: &MediaBody, outcome: Outcome) {
        match outcome {
            Outcome::Done(_) => {}
            // The agent's leg may have been closed meanwhile; the caller's never is.
            Outcome::Failed(MediaFailureKind::UnknownEndpoint, _) if touches_agent(body) => {}
            Outcome::Failed(MediaFailureKind::StaleEpoch, _) => {
                // Another owner acts for this call; the journal ends this one at its next commit.
            }
            Outcome::Failed(kind, _) => self.media_failed(cx, Some(kind)),
            Outcome::NoAnswer => self.media_lost(cx, true),
        }
    }

    /// What the call cannot do without was not done: another node may do it.
    fn media_failed(&mut self, cx: &mut Cx<'_>, kind: Option<MediaFailureKind>) {
        match kind {
            // Another owner acts for this call; the journal ends this one at its next commit.
            Some(MediaFailureKind::StaleEpoch) => {}
            Some(MediaFailureKind::UnknownSession | MediaFailureKind::UnknownEndpoint) => {
                self.media_lost(cx, false);
            }
            _ => self.media_lost(cx, true),
        }
    }
}

fn touches_agent(body: &MediaBody) -> bool {
    match body {
        MediaBody::Bridge { .. } => true,
        MediaBody::SetProgram { leg, .. } | MediaBody::SetMuted { leg, .. } => leg.index > 0,
        _ => false,
    }
}
