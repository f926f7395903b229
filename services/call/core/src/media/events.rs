//! What happens on the media node, handed to the part that it concerns.

use trunkline_types::{LegId, NodeId};

use super::message::{Disconnect, MediaEvent, MediaOk};
use crate::{
    call::{Call, Cx},
    effect::{Effect, TranscriptLine},
    event::{DigitsHow, EventBody, HoldBy, TranscriptSegment},
};

impl Call {
    /// Takes an event, once; says that it has been taken, as often as it comes.
    pub(crate) fn on_media_event(
        &mut self,
        cx: &mut Cx<'_>,
        node: Option<NodeId>,
        id: u64,
        acknowledge: bool,
        event: MediaEvent,
    ) {
        if event == MediaEvent::Unattended && !self.attends(node.as_ref()) {
            // Acknowledging it would keep what nobody needs.
            return node.into_iter().for_each(|node| self.close_former(cx, node));
        }
        if self.media.is_new(node.as_ref(), id) && self.concerns(node.as_ref(), &event) {
            self.take_event(cx, event);
        }
        if let Some(node) = node.filter(|_| acknowledge) {
            cx.out.effect(Effect::Acknowledge { node, event: id });
        }
    }

    /// The call has its media there, or is leaving it.
    fn attends(&self, node: Option<&NodeId>) -> bool {
        let here = self.media.node.as_ref() == node && !self.media.is_lost();
        self.ended.is_none()
            && (node.is_none() || here || node.is_some_and(|node| self.moving.is_former(node)))
    }

    /// A node that the call has left can tell of recordings only; one that is being left as planned plays on until the
    /// caller has followed.
    fn concerns(&self, node: Option<&NodeId>, event: &MediaEvent) -> bool {
        let Some(node) = node.filter(|node| self.media.node.as_ref() != Some(*node)) else { return true };
        match event {
            MediaEvent::RecordingFinished(_)
            | MediaEvent::RecordingFailed { .. }
            | MediaEvent::TranscriptSegment { .. }
            | MediaEvent::TranscriptGap { .. }
            | MediaEvent::TranscriptStatus { .. }
            | MediaEvent::Quality { .. } => true,
            MediaEvent::Digit { .. } | MediaEvent::PlaybackFinished { .. } => {
                self.moving.is_former(node) && self.adrift()
            }
            _ => false,
        }
    }

    fn take_event(&mut self, cx: &mut Cx<'_>, event: MediaEvent) {
        match event {
            MediaEvent::Digit { leg, digit } => {
                if leg == self.caller_leg() {
                    self.on_key(cx, digit, DigitsHow::Rfc4733);
                }
            }
            MediaEvent::PlaybackFinished { token, .. } => self.played(cx, &token),
            MediaEvent::Connected { leg } => self.audio_up(cx, leg),
            MediaEvent::Disconnected { leg, reason } => self.audio_down(cx, leg, reason),
            MediaEvent::Quality { leg, last, quality } => {
                if last && self.origin.is_some() {
                    self.unmeasured.retain(|waiting| *waiting != leg);
                    self.emit(cx, EventBody::LegQuality { leg, quality });
                }
            }
            MediaEvent::RecordingFinished(object) => self.recording_finished(cx, *object),
            MediaEvent::RecordingTrouble { recording, reason, over } => {
                self.recording_troubled(cx, recording, reason, over);
            }
            MediaEvent::RecordingFailed { recording, reason } => self.recording_failed(cx, recording, reason),
            MediaEvent::TranscriptSegment {
                recording,
                speaker,
                start_ms,
                end_ms,
                text,
                confidence,
                is_final,
            } => {
                self.show_transcript(
                    cx,
                    TranscriptLine { speaker, start_ms, end_ms, text: text.clone(), is_final },
                );
                if is_final {
                    let speaker = Some(speaker);
                    let segment = TranscriptSegment {
                        recording,
                        speaker,
                        start_ms,
                        end_ms,
                        text,
                        confidence,
                        gap: false,
                    };
                    self.transcribed(cx, segment);
                }
            }
            MediaEvent::TranscriptGap { recording, start_ms, end_ms, reason } => {
                let segment = TranscriptSegment {
                    recording,
                    speaker: None,
                    start_ms,
                    end_ms,
                    text: reason,
                    confidence: -1.0,
                    gap: true,
                };
                self.transcribed(cx, segment);
            }
            MediaEvent::TranscriptStatus { recording, state, detail } => {
                self.transcript_status(cx, recording, state, detail);
            }
            MediaEvent::SessionEnded { shutdown } => self.media_lost(cx, shutdown),
            MediaEvent::Unattended | MediaEvent::Other => {}
        }
    }

    fn audio_up(&mut self, cx: &mut Cx<'_>, leg: LegId) {
        if leg == self.caller_leg() {
            if let Some(caller) = self.caller.as_deref_mut() {
                caller.silent_until = None;
            }
        } else {
            self.agent_audio_up(cx, leg);
        }
    }

    fn audio_down(&mut self, cx: &mut Cx<'_>, leg: LegId, reason: Disconnect) {
        if leg != self.caller_leg() {
            return self.agent_audio_down(cx, leg, reason);
        }
        let until = cx.now.plus(self.settings.silence_grace);
        // A caller who holds us need not send anything.
        if let Some(caller) = self.caller.as_deref_mut().filter(|caller| caller.answered && !caller.holding)
            && reason == Disconnect::NoRtp
        {
            caller.silent_until = caller.silent_until.or(Some(until));
        }
    }

    /// Does the caller hold us now?
    pub(crate) fn note_direction(&mut self, cx: &mut Cx<'_>, ok: &MediaOk) {
        let Some(direction) = ok.direction else { return };
        let Some(caller) = self.caller.as_deref_mut() else { return };
        if caller.holding == direction.held() {
            return;
        }
        caller.silent_until = None;
        let before = self.held();
        self.emit(cx, EventBody::HoldChanged { by: HoldBy::Caller, on_hold: direction.held() });
        self.hold_changed(cx, before);
    }

    /// A prompt ended.
    fn played(&mut self, cx: &mut Cx<'_>, token: &str) {
        if self.ended.is_some() {
            return;
        }
        self.playing.take_if(|play| play.token == token);
        if self.farewell.as_ref().is_some_and(|farewell| farewell.token == token) {
            self.farewell_over(cx);
        } else {
            self.flow_played(cx, token);
        }
    }

    /// A prompt could not be played.
    pub(crate) fn prompt_failed(
        &mut self,
        cx: &mut Cx<'_>,
        token: &str,
        kind: super::message::MediaFailureKind,
        message: String,
    ) {
        use super::message::MediaFailureKind as Kind;
        if !matches!(kind, Kind::UnknownPrompt | Kind::Invalid | Kind::Overload) {
            return self.media_lost(cx, kind != Kind::UnknownEndpoint);
        }
        self.flow_error(cx, message);
        self.played(cx, token);
    }
}
