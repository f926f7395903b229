//! A call after a replay: asks the media node what is left, then ends or goes on.

use trunkline_types::{LegId, RecordingId, ReleaseCause, Timestamp};

use crate::{
    agent::Audio,
    call::{Call, Cx},
    event::EndedBy,
    leg::Bye,
    media::{EndpointInfo, MediaBody, MediaFailureKind, MediaOk, SessionInfo, Then},
};

/// Requests of ours that the journal may not know of.
const CSEQ_JUMP: u32 = 100;

impl Call {
    /// Takes over at `cx.now`.
    pub(crate) fn recover(&mut self, cx: &mut Cx<'_>) {
        if self.origin.is_none() {
            // Nothing was ever committed: there is no call.
            self.rejected = true;
            return;
        }
        self.renew_debts(cx.now);
        self.renew_answers(cx.now);
        if self.media.node.is_some() {
            self.media.assume_session();
        }
        self.leave_again(cx);
        if let Some(end) = self.ended {
            return self.end_again(cx, end.cause, end.by);
        }
        self.salvage_again(cx);
        if self.media.node.is_some() {
            self.recovering = true;
            if self.node_is_there() {
                self.media(cx, MediaBody::ListSessions, Then::Probe);
            } else {
                // It died with the call's former owner: nobody has to be waited for.
                self.node_gone(cx);
            }
        } else {
            self.end(cx, ReleaseCause::NodeLost, EndedBy::System);
        }
        self.pay_due(cx);
    }

    /// The 2xx that may be unacknowledged are repeated for a while: a peer that has acknowledged does so again.
    fn renew_answers(&mut self, now: Timestamp) {
        let (t1, patience) = (self.settings.t1, self.settings.sip_patience());
        let over = self.ended.is_some();
        let Some(caller) = self.caller.as_deref_mut() else { return };
        caller.dialog.jump_cseq(CSEQ_JUMP);
        caller.jumped = true;
        if caller.adrift && !over {
            // Long enough for an answer to be sent again once (section 13.3.1.4: after T1, then twice that).
            caller.reoffer.hush(now.plus(t1 * 5 / 2));
        }
        caller.unacked.retain(|answer| answer.give_up > now && !over);
        for answer in &mut caller.unacked {
            (answer.recovered, answer.interval, answer.next) = (true, t1, now);
            answer.give_up = now.plus(patience);
        }
        if let Some(until) = &mut caller.session_until {
            // Refreshes are not journalled: one may have come.
            *until = (*until).max(now.plus(patience));
        }
    }

    /// Recordings on nodes that the call has left: whether another one was asked to put them together is not known.
    fn salvage_again(&mut self, cx: &mut Cx<'_>) {
        let here = self.media.node.clone();
        let left: Vec<_> = self
            .recordings
            .iter()
            .filter(|recording| !recording.stored && recording.left.is_some() && recording.node != here)
            .filter_map(|recording| Some((recording.id, recording.node.clone()?)))
            .collect();
        for (recording, node) in left {
            self.salvage(cx, recording, node);
        }
    }

    /// It had ended; whether everybody has heard of it is not known.
    fn end_again(&mut self, cx: &mut Cx<'_>, cause: ReleaseCause, by: EndedBy) {
        self.salvage_again(cx);
        self.recordings_end(cx.now);
        if let Some(caller) = self.caller.as_deref_mut() {
            caller.invite = None;
            if caller.answered && by != EndedBy::Caller {
                caller.bye = Bye::Wanted(cause);
            }
        }
        self.try_bye(cx);
        self.close_session(cx);
        self.pay_due(cx);
    }

    /// The media node's answer to the question what is there.
    pub(crate) fn probed(&mut self, cx: &mut Cx<'_>, answer: Result<MediaOk, Option<MediaFailureKind>>) {
        // Another owner acts for this call; the journal ends this one at its next commit.
        if answer == Err(Some(MediaFailureKind::StaleEpoch)) {
            return;
        }
        self.recovering = false;
        let answers = answer.is_ok();
        let session =
            answer.ok().and_then(|ok| ok.sessions.into_iter().find(|session| session.call == self.id));
        match session {
            Some(session) => self.resume(cx, session),
            None => self.resume_without_session(cx, !answers),
        }
    }

    /// Nothing of the audio is left: on another node, or on this one anew.
    pub(crate) fn resume_without_session(&mut self, cx: &mut Cx<'_>, shun: bool) {
        let answered = self.caller.as_deref().is_some_and(|caller| caller.answered);
        if let Some(leg) = self.connecting().map(|part| part.leg).filter(|_| answered) {
            self.agent_failed(cx, leg, ReleaseCause::NodeLost);
        }
        self.media_lost(cx, shun);
        if answered && self.agent.is_none() && self.stay.is_none() && self.ended.is_none() {
            self.resume_flow(cx);
        }
    }

    fn resume_flow(&mut self, cx: &mut Cx<'_>) {
        if self.flow.is_some() {
            self.flow_resume(cx);
        } else if self.waiting_since.is_none() {
            self.proceed(cx);
        } else {
            // A last message was being played.
            self.end(cx, ReleaseCause::FlowEnd, EndedBy::Flow);
        }
    }

    /// The audio goes on; so does the call.
    fn resume(&mut self, cx: &mut Cx<'_>, session: SessionInfo) {
        let find = |leg| session.endpoints.iter().find(|endpoint| endpoint.leg == leg);
        let caller_leg = self.caller_leg();
        let answered = self.caller.as_deref().is_some_and(|caller| caller.answered);
        match find(caller_leg) {
            Some(endpoint) if !answered && !endpoint.local_sdp.is_empty() => {
                let ok = ok_of(endpoint);
                return self.caller_media_ready(cx, &ok);
            }
            _ if !answered => return self.recreate_caller_endpoint(cx),
            Some(endpoint) => {
                self.unmeasured.push(caller_leg);
                self.note_direction(cx, &ok_of(endpoint));
            }
            None => return self.resume_without_session(cx, false),
        }
        self.tidy(cx, &session);
        self.resume_move(cx);
        if let Some(leg) = self.connecting().map(|part| part.leg) {
            self.agent_failed(cx, leg, ReleaseCause::NodeLost);
        }
        for leg in self.agent_legs() {
            self.resume_agent(cx, leg, find(leg));
        }
        match (&self.agent, &self.stay) {
            (Some(_), _) => self.resume_conversation(cx, &session),
            (None, Some(_)) => self.programs(cx),
            (None, None) => self.resume_flow(cx),
        }
    }

    /// What had been ended, but not on the node: the leg of an agent who is gone, a recording that was to stop.
    fn tidy(&mut self, cx: &mut Cx<'_>, session: &SessionInfo) {
        let agents = self.agent_legs();
        for leg in session.endpoints.iter().map(|endpoint| endpoint.leg) {
            if leg != self.caller_leg() && !agents.contains(&leg) {
                self.media(cx, MediaBody::CloseEndpoint { leg }, Then::Optional);
            }
        }
        let wanted = self.running_recording().map(|recording| recording.id);
        if let Some(recording) = session.recording.filter(|running| Some(*running) != wanted) {
            self.media(cx, MediaBody::StopRecording { recording }, Then::Optional);
        }
        // A transcription is named like its recording, of which the last one is the only one that can still run.
        if session.transcribing
            && wanted.is_none()
            && let Some(index) = self.next_recording.checked_sub(1)
        {
            let recording = RecordingId { call: self.id, index };
            self.media(cx, MediaBody::StopTranscription { recording }, Then::Optional);
        }
    }

    /// A move was under way. Whether the offer went out is not known: once more.
    fn resume_move(&mut self, cx: &mut Cx<'_>) {
        let leg = self.caller_leg();
        let land_by = cx.now.plus(self.settings.sip_patience());
        if let Some(caller) = self.caller.as_deref_mut().filter(|caller| caller.adrift) {
            caller.reoffer.begin(cx.now, land_by);
            caller.reoffer.making = true;
            self.media(cx, MediaBody::CreateOffer { leg }, Then::MoveOffer);
        }
    }

    /// An agent's audio as it was found.
    fn resume_agent(&mut self, cx: &mut Cx<'_>, leg: LegId, endpoint: Option<&EndpointInfo>) {
        let until = cx.now.plus(self.settings.agent_reconnect);
        let told = (cx.now, self.settings.resend_first);
        let Some(part) = self.part_mut(leg) else { return };
        let muted = part.muted;
        part.answer = endpoint
            .filter(|endpoint| !endpoint.local_sdp.is_empty())
            .map(|endpoint| String::from_utf8_lossy(&endpoint.local_sdp).into_owned());
        part.audio = match endpoint {
            Some(endpoint) if endpoint.connected => Audio::Up,
            _ => Audio::Down { until, comfort: true },
        };
        if let Some(endpoint) = endpoint {
            self.unmeasured.push(leg);
            self.media(cx, MediaBody::SetMuted { leg, muted }, Then::Needed);
            self.agent_landed(cx, leg, endpoint.codec);
        } else if let Some(part) = self.part_mut(leg) {
            // A page that does not know of the loss keeps its connection to nobody.
            part.told = Some(told);
        }
    }

    fn resume_conversation(&mut self, cx: &mut Cx<'_>, session: &SessionInfo) {
        self.programs(cx);
        self.resume_recording(cx, session);
        self.notify_state(cx);
    }

    /// The crash may have come between the decision to record and the commands, or before what came of them was known.
    fn resume_recording(&mut self, cx: &mut Cx<'_>, session: &SessionInfo) {
        let queue = self.agent.as_deref().map(|part| part.queue.clone());
        let running = self.running_recording().map(|recording| (recording.id, recording.transcript_open));
        if let (Some(queue), Some((recording, transcript))) = (queue, running) {
            if session.recording.is_none() {
                let treatment = self.library.treatment(&self.tenant, &queue);
                return self.start_recording(cx, &treatment, recording);
            }
            if transcript && !session.transcribing {
                self.transcribe(cx, recording, false);
            }
        }
        if self.held() {
            self.mark_hold(cx, true);
        }
    }
}

fn ok_of(endpoint: &EndpointInfo) -> MediaOk {
    MediaOk {
        sdp: endpoint.local_sdp.clone(),
        codec: endpoint.codec,
        direction: endpoint.direction,
        ..MediaOk::default()
    }
}
