//! A call after a replay: asks the media node what is left, then ends or goes on.

use trunkline_types::{ReleaseCause, Timestamp};

use crate::{
    agent::Audio,
    call::{Call, Cx},
    event::EndedBy,
    leg::Bye,
    media::{EndpointInfo, MediaBody, MediaOk, SessionInfo, Then},
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
        if let Some(end) = self.ended {
            return self.end_again(cx, end.cause, end.by);
        }
        if self.media.node.is_some() {
            self.recovering = true;
            self.media(cx, MediaBody::ListSessions, Then::Probe);
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

    /// It had ended; whether everybody has heard of it is not known.
    fn end_again(&mut self, cx: &mut Cx<'_>, cause: ReleaseCause, by: EndedBy) {
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

    /// The media node's answer; `None` = it has none.
    pub(crate) fn probed(&mut self, cx: &mut Cx<'_>, answer: Option<MediaOk>) {
        self.recovering = false;
        let session = answer.and_then(|ok| ok.sessions.into_iter().find(|session| session.call == self.id));
        match session {
            Some(session) => self.resume(cx, session),
            None => self.end(cx, ReleaseCause::NodeLost, EndedBy::System),
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
            None => return self.end(cx, ReleaseCause::NodeLost, EndedBy::System),
        }
        let agent = self.agent.as_deref().map(|part| (part.leg, part.bridged.is_some()));
        match agent {
            Some((leg, true)) => {
                let endpoint = find(leg).cloned();
                self.resume_conversation(cx, endpoint.as_ref(), &session);
            }
            Some((_, false)) => {
                self.agent_failed(cx, ReleaseCause::NodeLost);
                self.programs(cx);
            }
            None if self.stay.is_some() => self.programs(cx),
            None if self.flow.is_some() => self.flow_resume(cx),
            None if self.waiting_since.is_none() => self.proceed(cx),
            // A last message was being played.
            None => self.end(cx, ReleaseCause::FlowEnd, EndedBy::Flow),
        }
    }

    fn resume_conversation(
        &mut self,
        cx: &mut Cx<'_>,
        endpoint: Option<&EndpointInfo>,
        session: &SessionInfo,
    ) {
        let until = cx.now.plus(self.settings.agent_reconnect);
        let Some(part) = self.agent.as_deref_mut() else { return };
        let (leg, muted) = (part.leg, part.muted);
        part.answer = endpoint
            .filter(|endpoint| !endpoint.local_sdp.is_empty())
            .map(|endpoint| String::from_utf8_lossy(&endpoint.local_sdp).into_owned());
        part.audio = match endpoint {
            Some(endpoint) if endpoint.connected => Audio::Up,
            _ => Audio::Down { until, comfort: true },
        };
        if endpoint.is_some() {
            self.unmeasured.push(leg);
            self.media(cx, MediaBody::SetMuted { leg, muted }, Then::Needed);
        }
        self.programs(cx);
        // The crash may have come between the decision to record and the command.
        let queue = self.agent.as_deref().map(|part| part.queue.clone());
        let recording = self.running_recording().map(|recording| recording.id);
        if let (Some(queue), Some(recording)) = (queue, recording)
            && session.recording.is_none()
        {
            let treatment = self.library.treatment(&self.tenant, &queue);
            self.start_recording(cx, &treatment, recording);
        }
        self.notify_state(cx);
    }
}

fn ok_of(endpoint: &EndpointInfo) -> MediaOk {
    MediaOk {
        sdp: endpoint.local_sdp.clone(),
        codec: endpoint.codec,
        direction: endpoint.direction,
        sessions: Vec::new(),
    }
}
