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
    pub(crate) fn remake_media(
        &mut self,
        cx: &mut Cx<'_>,
        leg: LegId,
        session: String,
        request: String,
        sdp: String,
    ) {
        let prefer = self.caller.as_deref().and_then(|caller| caller.codec);
        if let Some(part) = self.part_mut(leg) {
            // It has heard of the move, if there was one.
            part.told = None;
        }
        let Some(part) = self.part(leg) else { return };
        if let Some((s, r, answer, error)) = &part.remade
            && (*s == session && *r == request)
        {
            let (sdp_answer, error) = (answer.clone(), error.clone());
            let notice = AgentNotice::MediaRemade { session, request, sdp_answer, error };
            return self.tell_agent(cx, &part.agent, &part.offer, notice);
        }
        if !self.media.remakes(&session, &request) {
            let body = MediaBody::ReplaceWebRtc { leg, sdp, prefer };
            self.media(cx, body, Then::Remade { leg, session, request });
        }
    }

    /// The media node has dealt with a reloaded page's offer.
    pub(crate) fn agent_remade(
        &mut self,
        cx: &mut Cx<'_>,
        leg: LegId,
        session: String,
        request: String,
        result: Result<MediaOk, Option<MediaFailureKind>>,
    ) {
        let until = cx.now.plus(self.settings.agent_reconnect);
        let codec = result.as_ref().ok().and_then(|ok| ok.codec);
        let Some(part) = self.part_mut(leg) else { return };
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
        let bridged = part.bridged;
        let consultation = self.consultation(leg);
        let notice = match (request.is_empty(), bridged) {
            (true, Some(at)) if error.is_empty() => {
                AgentNotice::Connected { session, sdp_answer: answer, at, consultation }
            }
            _ => AgentNotice::MediaRemade { session, request, sdp_answer: answer, error },
        };
        self.tell_agent(cx, &agent, &offer, notice);
        if made {
            self.remade_on_node(cx, leg, codec);
        }
    }

    /// An endpoint that did not exist before (a move, a lost node) knows nothing of what was decided.
    fn remade_on_node(&mut self, cx: &mut Cx<'_>, leg: LegId, codec: Option<Codec>) {
        let Some(part) = self.part(leg) else { return };
        let (muted, adrift) = (part.muted, part.adrift);
        if muted {
            self.media(cx, MediaBody::SetMuted { leg, muted }, Then::Needed);
        }
        if adrift {
            self.agent_landed(cx, leg, codec);
            self.programs(cx);
        }
    }

    /// What the parties have to hear as things are.
    pub(crate) fn programs(&mut self, cx: &mut Cx<'_>) {
        if self.consulting() {
            return self.consulting_programs(cx);
        }
        let caller = self.caller_leg();
        let music = Self::music;
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

    fn music(&self, queue: &QueueId) -> Program {
        Program::Music(self.library.treatment(&self.tenant, queue).music.clone())
    }

    /// With two agents, or one who waits for another: whoever has the caller talks to one of both, as the hold tells; the
    /// other hears music.
    fn consulting_programs(&mut self, cx: &mut Cx<'_>) {
        let caller = self.caller_leg();
        let Some(agent) = self.agent.as_deref() else { return };
        let (leg, there) = (agent.leg, !agent.adrift && !agent.comfort());
        let comfort = self.music(&agent.queue);
        let to_caller = there && !agent.on_hold;
        let second = self.consulted.as_deref().filter(|part| part.bridged.is_some() && !part.adrift);
        let second = second.map(|part| (part.leg, self.music(&part.queue), part.comfort()));
        let waiting = self.stay.as_ref().map(|stay| self.music(&stay.queue));
        if to_caller {
            self.media(cx, MediaBody::Bridge { a: caller, b: leg }, Then::Needed);
        } else {
            self.media(cx, MediaBody::SetProgram { leg: caller, program: comfort }, Then::Needed);
        }
        match second {
            Some((other, _, false)) if there && !to_caller => {
                self.media(cx, MediaBody::Bridge { a: leg, b: other }, Then::Needed);
            }
            Some((other, program, _)) => {
                self.media(cx, MediaBody::SetProgram { leg: other, program: program.clone() }, Then::Needed);
                if there && !to_caller {
                    self.media(cx, MediaBody::SetProgram { leg, program }, Then::Needed);
                }
            }
            None if there && !to_caller => {
                let program = waiting.unwrap_or(Program::Silence);
                self.media(cx, MediaBody::SetProgram { leg, program }, Then::Needed);
            }
            None => {}
        }
    }

    pub(crate) fn agent_audio_up(&mut self, cx: &mut Cx<'_>, leg: LegId) {
        let Some(part) = self.part_mut(leg) else { return };
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
        let Some(part) = self.part_mut(leg).filter(|part| part.bridged.is_some()) else { return };
        // A silent microphone is no lost agent.
        if reason == Disconnect::Paused || part.comfort() {
            return;
        }
        let until = part.audio_until().unwrap_or(fresh);
        part.audio = Audio::Down { until, comfort: true };
        self.programs(cx);
    }

    /// The agent did not come back: the caller waits again, in front; or keeps what the agent had found by then.
    pub(crate) fn agent_lost(&mut self, cx: &mut Cx<'_>, leg: LegId) {
        let cause = ReleaseCause::MediaTimeout;
        if self.is_consulted(leg) {
            return self.leave_consultation(cx, leg, cause);
        }
        if self.consulting() {
            return self.complete_transfer(cx, cause);
        }
        let Some(queue) = self.part(leg).map(|part| part.queue.clone()) else { return };
        let entered = self.waiting_since.unwrap_or(cx.now);
        let running = self.running();
        self.release_agent_part(cx, leg, cause);
        self.stop_recordings(cx, running);
        self.media(cx, MediaBody::CloseEndpoint { leg }, Then::Optional);
        self.enter_queue(cx, queue, RETURN_PRIORITY, entered);
        self.pay_due(cx);
    }
}
