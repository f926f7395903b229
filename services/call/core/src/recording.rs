//! Recordings and transcripts of a call: begun with the bridge, ended with it, expected until they are stored.

use trunkline_types::{Feature, NodeId, RecordingId, ReleaseCause, Timestamp};

use crate::{
    agent::Unrecorded,
    call::{Call, Cx},
    effect::{AgentNotice, TranscriptLine},
    event::{EndedBy, EventBody, RecordingFinished, Span, TranscriptSegment, TranscriptState},
    media::{MediaBody, MediaFailureKind, RecordedObject, Then},
    settings::Treatment,
};

/// A recording that is not settled.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub id: RecordingId,
    /// The node that makes it.
    pub node: Option<NodeId>,
    pub started: Timestamp,
    /// The call left the node then.
    pub left: Option<Timestamp>,
    pub paused: bool,
    pub paused_until: Option<Timestamp>,
    /// It has been stopped; what comes in later than this is not waited for.
    pub deadline: Option<Timestamp>,
    pub stored: bool,
    pub transcript_open: bool,
    /// Another node has been asked to put it together.
    salvaged: bool,
}

impl Recording {
    pub fn new(id: RecordingId, node: Option<NodeId>, started: Timestamp) -> Self {
        Self {
            id,
            node,
            started,
            left: None,
            paused: false,
            paused_until: None,
            deadline: None,
            stored: false,
            transcript_open: true,
            salvaged: false,
        }
    }

    pub fn open(&self) -> bool {
        !self.stored || self.transcript_open
    }
}

impl Call {
    /// The recording that runs now.
    pub(crate) fn running_recording(&self) -> Option<&Recording> {
        self.recordings.iter().find(|recording| recording.deadline.is_none() && !recording.stored)
    }

    /// Begins a recording of both legs; its transcript follows ([`Self::transcribe`]).
    pub(crate) fn start_recording(&mut self, cx: &mut Cx<'_>, treatment: &Treatment, recording: RecordingId) {
        let Some(right) = self.agent.as_deref().map(|part| part.leg) else { return };
        let left = self.caller_leg();
        let body = MediaBody::StartRecording { recording, left, right };
        self.media(cx, body, Then::Recording(recording));
        // Begun once more, or in a move: as things are.
        if self.recordings.iter().any(|known| known.id == recording && known.paused) {
            self.pause_on_node(cx, recording, true);
        }
        if self.held() {
            self.mark_hold(cx, true);
        }
        if !treatment.transcribe {
            let detail = "not wanted for this queue".to_owned();
            let status = TranscriptState::None;
            self.emit(cx, EventBody::TranscriptStatus { recording: Some(recording), status, detail });
        }
    }

    /// What was to be recorded is; now its transcript. Begun once more, it goes on.
    pub(crate) fn transcribe(&mut self, cx: &mut Cx<'_>, recording: RecordingId, no_recogniser: bool) {
        let known = self.recordings.iter().find(|known| known.id == recording && known.transcript_open);
        let Some(ended) = known.map(|known| known.deadline.is_some()) else { return };
        let part = self.agent.as_deref().filter(|_| !ended && !no_recogniser);
        let Some((right, queue)) = part.map(|part| (part.leg, part.queue.clone())) else {
            let detail = if no_recogniser {
                "no recogniser is configured (media.transcription)"
            } else {
                "the conversation ended before it began"
            };
            return self.transcript_status(cx, recording, TranscriptState::None, detail.to_owned());
        };
        let treatment = self.library.treatment(&self.tenant, &queue);
        let left = self.caller_leg();
        let (language, phrases) = (treatment.language.clone(), treatment.phrases.clone());
        let body = MediaBody::StartTranscription { recording, left, right, language, phrases };
        self.media(cx, body, Then::Optional);
    }

    /// Recordings that run, and whether their transcripts do.
    pub(crate) fn running(&self) -> Vec<(RecordingId, bool)> {
        let running = self.recordings.iter().filter(|recording| recording.deadline.is_none());
        running.map(|recording| (recording.id, recording.transcript_open)).collect()
    }

    /// The conversation is over, the call goes on.
    pub(crate) fn stop_recordings(&mut self, cx: &mut Cx<'_>, running: Vec<(RecordingId, bool)>) {
        for (recording, transcript) in running {
            self.media(cx, MediaBody::StopRecording { recording }, Then::Optional);
            if transcript {
                self.media(cx, MediaBody::StopTranscription { recording }, Then::Optional);
            }
        }
    }

    /// From now on they are waited for.
    pub(crate) fn recordings_end(&mut self, now: Timestamp) {
        for recording in &mut self.recordings {
            recording.deadline = recording.deadline.or(Some(now.plus(self.settings.settle_deadline)));
            recording.paused_until = None;
        }
    }

    pub(crate) fn recording_refused(
        &mut self,
        cx: &mut Cx<'_>,
        recording: RecordingId,
        kind: Option<MediaFailureKind>,
    ) {
        // After a recovery it may run already.
        if kind == Some(MediaFailureKind::Conflict) {
            return;
        }
        let reason = match kind {
            Some(kind) => format!("the media node refused it: {kind:?}"),
            None => "the media node did not answer".to_owned(),
        };
        self.recording_failed(cx, recording, reason);
        self.notify_state(cx);
    }

    pub(crate) fn recording_finished(&mut self, cx: &mut Cx<'_>, object: RecordedObject) {
        let Some(known) = self.recordings.iter().find(|known| known.id == object.recording && !known.stored)
        else {
            return;
        };
        let mut gaps = object.gaps;
        if object.salvaged
            && let Some(left) = known.left
        {
            // From what is there to the moment at which the next one began.
            let end_ms = u64::try_from(left.since(known.started).as_millis()).unwrap_or(u64::MAX);
            let start_ms = object.duration_ms;
            if end_ms > start_ms {
                gaps.push(Span { start_ms, end_ms, reason: "media_lost".to_owned() });
            }
        }
        let finished = RecordingFinished {
            recording: object.recording,
            location: object.key,
            duration_ms: object.duration_ms,
            size_bytes: object.size_bytes,
            sha256: object.sha256,
            holds: object.holds,
            gaps,
            salvaged: object.salvaged,
        };
        self.emit(cx, EventBody::RecordingFinished(Box::new(finished)));
    }

    pub(crate) fn recording_failed(&mut self, cx: &mut Cx<'_>, recording: RecordingId, reason: String) {
        if self.expects(recording) {
            self.emit(cx, EventBody::RecordingFailed { recording, reason });
            self.seek_recorder(cx);
        }
    }

    /// The media node cannot write it (a full disk), or can again.
    pub(crate) fn recording_troubled(
        &mut self,
        cx: &mut Cx<'_>,
        recording: RecordingId,
        reason: String,
        over: bool,
    ) {
        if !self.expects(recording) {
            return;
        }
        if self.library.may_write(Feature::RecordingPolicy) {
            self.emit(cx, EventBody::RecordingTrouble { recording, reason, over });
        } else {
            self.recording_missing(cx.now, recording, over);
        }
        self.seek_recorder(cx);
    }

    /// The conversation's recording is not being made, or (`over`) is again.
    pub(crate) fn recording_missing(&mut self, at: Timestamp, id: RecordingId, over: bool) {
        let running = self.running_recording().is_some_and(|recording| recording.id == id);
        let until = at.plus(self.settings.unrecorded_limit);
        let Some(part) = self.agent.as_deref_mut().filter(|part| running && part.recording_required) else {
            return;
        };
        part.unrecorded = if over { None } else { part.unrecorded.or(Some(Unrecorded { until, look: at })) };
    }

    /// What must be recorded and is not moves to a media node that can, or ends when there is none for too long.
    pub(crate) fn seek_recorder(&mut self, cx: &mut Cx<'_>) {
        let unrecorded = self.agent.as_deref().and_then(|part| part.unrecorded);
        let Some(unrecorded) = unrecorded.filter(|_| self.ended.is_none()) else { return };
        if cx.now >= unrecorded.until {
            let known = self.library.may_write(Feature::RecordingPolicy);
            let cause = if known { ReleaseCause::RecordingFailed } else { ReleaseCause::MediaLost };
            return self.end(cx, cause, EndedBy::System);
        }
        if cx.now >= unrecorded.look && !self.leave_unrecorded(cx) {
            let look = cx.now.plus(self.settings.media_resend);
            if let Some(part) = self.agent.as_deref_mut() {
                part.unrecorded = Some(Unrecorded { look, ..unrecorded });
            }
        }
    }

    fn expects(&self, id: RecordingId) -> bool {
        self.recordings.iter().any(|recording| recording.id == id && !recording.stored)
    }

    /// Nobody will tell any more.
    pub(crate) fn recording_overdue(&mut self, cx: &mut Cx<'_>, n: usize) {
        let Some(recording) = self.recordings.get(n) else { return };
        let (id, stored, transcript) = (recording.id, recording.stored, recording.transcript_open);
        let lost = |node: &NodeId| !stored && !recording.salvaged && !self.library.has_media_node(node);
        if let Some(node) = recording.node.clone().filter(lost) {
            // What it had stored may be had. (One that is there stores it itself, however late.)
            self.salvage_begun(cx.now, id);
            return self.salvage(cx, id, node);
        }
        if !stored {
            let reason =
                format!("not stored within {} s of its end", self.settings.settle_deadline.as_secs());
            self.emit(cx, EventBody::RecordingFailed { recording: id, reason });
        }
        if transcript {
            let detail = "the recogniser did not finish in time".to_owned();
            let status = TranscriptState::Failed;
            self.emit(cx, EventBody::TranscriptStatus { recording: Some(id), status, detail });
        }
        self.recordings.retain(|recording| recording.id != id);
    }

    /// The agent reads along.
    pub(crate) fn show_transcript(&self, cx: &mut Cx<'_>, line: TranscriptLine) {
        if let Some(part) = self.agent.as_deref() {
            self.tell_agent(cx, &part.agent, &part.offer, AgentNotice::Transcript(Box::new(line)));
        }
    }

    pub(crate) fn transcribed(&mut self, cx: &mut Cx<'_>, segment: TranscriptSegment) {
        if segment.recording.call == self.id && segment.recording.index < self.next_recording {
            self.emit(cx, EventBody::TranscriptSegment(Box::new(segment)));
        }
    }

    pub(crate) fn transcript_status(
        &mut self,
        cx: &mut Cx<'_>,
        recording: RecordingId,
        status: TranscriptState,
        detail: String,
    ) {
        if self.recordings.iter().any(|known| known.id == recording && known.transcript_open) {
            self.emit(cx, EventBody::TranscriptStatus { recording: Some(recording), status, detail });
        }
    }

    /// A node puts it together: it is waited for from now on.
    pub(crate) fn salvage_begun(&mut self, now: Timestamp, id: RecordingId) {
        let deadline = now.plus(self.settings.settle_deadline);
        if let Some(recording) = self.recordings.iter_mut().find(|recording| recording.id == id) {
            recording.salvaged = true;
            recording.deadline = Some(deadline);
        }
    }

    /// Pause for card data, or go on. Returns an error for the agent, empty = done.
    pub(crate) fn pause_recording(&mut self, cx: &mut Cx<'_>, paused: bool) -> &'static str {
        let Some(recording) = self.running_recording() else { return "not_recording" };
        let (id, was) = (recording.id, recording.paused);
        if was != paused {
            self.emit(cx, EventBody::RecordingPaused { recording: id, paused });
            self.pause_on_node(cx, id, paused);
        }
        ""
    }

    fn pause_on_node(&mut self, cx: &mut Cx<'_>, recording: RecordingId, paused: bool) {
        let resume_after_ms = u32::try_from(self.settings.pause_limit.as_millis()).unwrap_or(u32::MAX);
        self.media(cx, MediaBody::PauseRecording { recording, paused, resume_after_ms }, Then::Optional);
    }

    pub(crate) fn recording_pause_over(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        let due = |recording: &Recording| recording.paused_until.is_some_and(|until| until <= now);
        if self.running_recording().is_some_and(due) {
            self.pause_recording(cx, false);
            self.notify_state(cx);
        } else if let Some(recording) = self.recordings.iter_mut().find(|recording| due(recording)) {
            recording.paused_until = None;
        }
    }

    /// Marks the hold in the recording when it begins and ends.
    pub(crate) fn mark_hold(&mut self, cx: &mut Cx<'_>, on: bool) {
        if let Some(recording) = self.running_recording().map(|recording| recording.id) {
            self.media(cx, MediaBody::MarkHold { recording, on }, Then::Optional);
        }
    }
}
