//! The agent's audio: a page that is reloaded or has to make a new connection, and what both parties hear.

use trunkline_types::{LegId, QueueId, ReleaseCause};

use crate::{
    agent::Audio,
    call::{Call, Cx},
    effect::AgentNotice,
    media::{Codec, Disconnect, MediaBody, MediaFailureKind, MediaOk, Program, Then},
    queueing::RETURN_PRIORITY,
};

impl Call {
    pub(crate) fn remake_media(&mut self, cx: &mut Cx<'_>, session: String, request: String, sdp: String) {
        let prefer = self.caller.as_deref().and_then(|caller| caller.codec);
        if let Some(part) = self.agent.as_deref_mut() {
            // It has heard of the move, if there was one.
            part.told = None;
        }
        let Some(part) = self.agent.as_deref() else { return };
        if let Some((s, r, answer, error)) = &part.remade
            && (*s == session && *r == request)
        {
            let (sdp_answer, error) = (answer.clone(), error.clone());
            let notice = AgentNotice::MediaRemade { session, request, sdp_answer, error };
            return self.tell_agent(cx, &part.agent, &part.offer, notice);
        }
        if !self.media.remakes(&session, &request) {
            let body = MediaBody::ReplaceWebRtc { leg: part.leg, sdp, prefer };
            self.media(cx, body, Then::Remade { session, request });
        }
    }

    /// The media node has dealt with a reloaded page's offer.
    pub(crate) fn agent_remade(
        &mut self,
        cx: &mut Cx<'_>,
        session: String,
        request: String,
        result: Result<MediaOk, Option<MediaFailureKind>>,
    ) {
        let until = cx.now.plus(self.settings.agent_reconnect);
        let codec = result.as_ref().ok().and_then(|ok| ok.codec);
        let Some(part) = self.agent.as_deref_mut() else { return };
        let (answer, error) = match result {
            Ok(ok) => (String::from_utf8_lossy(&ok.sdp).into_owned(), String::new()),
            Err(Some(MediaFailureKind::NoCommonCodec)) => (String::new(), "no_common_codec".to_owned()),
            Err(Some(MediaFailureKind::MalformedSdp)) => (String::new(), "malformed_sdp".to_owned()),
            Err(_) => (String::new(), "media_unavailable".to_owned()),
        };
        if error.is_empty() {
            part.session.clone_from(&session);
            part.answer = Some(answer.clone());
            // Until ICE stands it is still down; the time runs anew.
            let comfort = part.comfort();
            part.audio = Audio::Down { until, comfort };
        }
        part.remade = Some((session.clone(), request.clone(), answer.clone(), error.clone()));
        let (agent, offer, made) = (part.agent.clone(), part.offer.clone(), error.is_empty());
        let notice = match (request.is_empty(), part.bridged) {
            (true, Some(at)) if error.is_empty() => {
                AgentNotice::Connected { session, sdp_answer: answer, at }
            }
            _ => AgentNotice::MediaRemade { session, request, sdp_answer: answer, error },
        };
        self.tell_agent(cx, &agent, &offer, notice);
        if made {
            self.remade_on_node(cx, codec);
        }
    }

    /// An endpoint that did not exist before (a move, a lost node) knows nothing of what was decided.
    fn remade_on_node(&mut self, cx: &mut Cx<'_>, codec: Option<Codec>) {
        let Some(part) = self.agent.as_deref() else { return };
        let (leg, muted, adrift) = (part.leg, part.muted, part.adrift);
        if muted {
            self.media(cx, MediaBody::SetMuted { leg, muted }, Then::Needed);
        }
        if adrift {
            self.agent_landed(cx, codec);
            self.programs(cx);
        }
    }

    /// What both parties have to hear as things are.
    pub(crate) fn programs(&mut self, cx: &mut Cx<'_>) {
        let caller = self.caller_leg();
        let music = |call: &Self, queue: &QueueId| {
            Program::Music(call.library.treatment(&call.tenant, queue).music.clone())
        };
        match (self.agent.as_deref().filter(|part| part.bridged.is_some()), &self.stay) {
            (Some(part), _) if part.on_hold || part.comfort() => {
                let (agent, program) = (part.leg, music(self, &part.queue));
                let there = !part.adrift;
                self.media(cx, MediaBody::SetProgram { leg: caller, program }, Then::Needed);
                if there {
                    let program = Program::Silence;
                    self.media(cx, MediaBody::SetProgram { leg: agent, program }, Then::Needed);
                }
            }
            // Nobody is there to be heard yet.
            (Some(part), _) if part.adrift => {}
            (Some(part), _) => {
                let agent = part.leg;
                self.media(cx, MediaBody::Bridge { a: caller, b: agent }, Then::Needed);
            }
            (None, Some(stay)) => {
                let program = music(self, &stay.queue);
                self.media(cx, MediaBody::SetProgram { leg: caller, program }, Then::Needed);
            }
            (None, None) => {}
        }
    }

    pub(crate) fn agent_audio_up(&mut self, cx: &mut Cx<'_>, leg: LegId) {
        let Some(part) = self.agent.as_deref_mut().filter(|part| part.leg == leg) else { return };
        let comforted = part.comfort();
        part.audio = Audio::Up;
        part.comfort_at = None;
        if comforted {
            self.programs(cx);
        }
        self.offer_now(cx);
    }

    pub(crate) fn agent_audio_down(&mut self, cx: &mut Cx<'_>, leg: LegId, reason: Disconnect) {
        let fresh = cx.now.plus(self.settings.agent_reconnect);
        let Some(part) = self.agent.as_deref_mut().filter(|part| part.leg == leg && part.bridged.is_some())
        else {
            return;
        };
        // A silent microphone is no lost agent.
        if reason == Disconnect::Paused || part.comfort() {
            return;
        }
        let until = part.audio_until().unwrap_or(fresh);
        part.audio = Audio::Down { until, comfort: true };
        self.programs(cx);
    }

    /// The agent did not come back: the caller waits again, in front.
    pub(crate) fn agent_lost(&mut self, cx: &mut Cx<'_>) {
        let Some(part) = self.agent.as_deref() else { return };
        let (leg, queue) = (part.leg, part.queue.clone());
        let entered = self.waiting_since.unwrap_or(cx.now);
        let running = self.running();
        self.release_agent_part(cx, ReleaseCause::MediaTimeout);
        self.stop_recordings(cx, running);
        self.media(cx, MediaBody::CloseEndpoint { leg }, Then::Optional);
        self.enter_queue(cx, queue, RETURN_PRIORITY, entered);
        self.pay_due(cx);
    }
}
