//! From one media node to another: when the node is lost, when it lost the session, when it drains.
//!
//! The caller's leg follows by a re-INVITE with the new node's offer, the agent's by a new offer of the page, each on its
//! own; [`EventBody::LegMoved`] tells when. A planned move takes the agent first, so that the caller's switch is the only
//! gap. What was decided before the move (place, agent, hold, mute, pause) stays; what was heard begins anew.

use trunkline_types::{Feature, LegId, NodeId, RecordingId, ReleaseCause, Timestamp};

use crate::{
    agent::Audio,
    call::{Call, Cx, Timer},
    effect::AgentNotice,
    event::{EndedBy, EventBody, MoveReason, TranscriptState},
    media::{Codec, MediaBody, Program, Then},
    sdp,
};

/// Moves of one call; one that moves more often has met a defect.
const MAX_MOVES: u32 = 50;
/// Nodes that are remembered as having failed this call.
const MAX_SHUNNED: usize = 8;

/// A call between media nodes. Volatile: what has to be known after a crash is in the legs (`adrift`).
#[derive(Debug, Default)]
pub(crate) struct Moving {
    /// Nodes that failed this call, until its legs are safe.
    shunned: Vec<NodeId>,
    /// Nodes that could not record this conversation.
    pub no_record: Vec<NodeId>,
    /// Without a node: the next look for one, and the last.
    search: Option<(Timestamp, Timestamp)>,
    /// Before the answer, all nodes have been tried a second time.
    pub sought_again: bool,
    /// Left as planned: its audio goes on until the legs have followed, at the latest until then.
    former: Option<(NodeId, Timestamp)>,
}

impl Moving {
    pub fn timers(&self, visit: &mut dyn FnMut(Timestamp, Timer)) {
        if let Some((next, _)) = self.search {
            visit(next, Timer::MediaSearch);
        }
        if let Some((_, until)) = self.former {
            visit(until, Timer::Former);
        }
    }

    /// There is no node at present.
    pub fn searching(&self) -> bool {
        self.search.is_some()
    }

    /// The node that is being left as planned.
    pub fn is_former(&self, node: &NodeId) -> bool {
        self.former.as_ref().is_some_and(|(former, _)| former == node)
    }
}

impl Call {
    /// A node for this call near its caller's edge, none of `avoid`.
    pub(crate) fn pick_node(&self, avoid: &[NodeId]) -> Option<NodeId> {
        let near = &self.caller.as_deref()?.route.edge;
        self.library.media_node(self.id, near, avoid)
    }

    /// The caller cannot hear what is played now: it is begun when the caller's leg has followed.
    pub(crate) fn adrift(&self) -> bool {
        self.moving.searching() || self.caller.as_deref().is_some_and(|caller| caller.adrift)
    }

    /// The session is gone. `shun`: so is the node, or it is of no use.
    pub(crate) fn media_lost(&mut self, cx: &mut Cx<'_>, shun: bool) {
        if self.origin.is_none() || self.moving.searching() {
            return;
        }
        if self.ended.is_some() {
            return self.media_lost_after_end(cx);
        }
        if shun {
            self.shun();
        }
        self.media.abandon();
        self.find_node(cx);
    }

    fn shun(&mut self) {
        let Some(node) = self.media.node.clone().filter(|node| !self.moving.shunned.contains(node)) else {
            return;
        };
        if self.moving.shunned.len() >= MAX_SHUNNED {
            self.moving.shunned.remove(0);
        }
        self.moving.shunned.push(node);
    }

    /// Looks for a node, now and again for a while.
    pub(crate) fn find_node(&mut self, cx: &mut Cx<'_>) {
        if let Some(to) = self.pick_node(&self.moving.shunned) {
            self.moving.search = None;
            return self.go_to(cx, to, MoveReason::Lost);
        }
        let until = self.moving.search.map_or(cx.now.plus(self.settings.media_search), |(_, until)| until);
        if cx.now >= until {
            self.moving.search = None;
            return self.end(cx, ReleaseCause::MediaLost, EndedBy::System);
        }
        // Next time one that failed may do: it may have come back, and nobody else is there.
        self.moving.shunned.clear();
        self.moving.search = Some((cx.now.plus(self.settings.media_resend), until));
    }

    /// There is another node than the call's.
    pub(crate) fn may_leave(&self) -> bool {
        self.media.node.as_ref().is_some_and(|node| self.pick_node(std::slice::from_ref(node)).is_some())
    }

    /// The node has no room or takes no new session: the next one, if there is one. False: there is none.
    pub(crate) fn next_node(&mut self, cx: &mut Cx<'_>) -> bool {
        self.shun();
        let Some(to) = self.pick_node(&self.moving.shunned) else { return false };
        self.media.abandon();
        self.go_to(cx, to, MoveReason::Lost);
        true
    }

    /// It drains: the call leaves it, unless it is on its way anyhow.
    pub(crate) fn leave_node(&mut self, cx: &mut Cx<'_>, node: &NodeId) {
        if self.media.node.as_ref() != Some(node) || !self.may_move() {
            return;
        }
        if let Some(to) = self.pick_node(std::slice::from_ref(node)) {
            self.go_to(cx, to, MoveReason::Drained);
        }
    }

    /// Nothing is under way that a planned move would cross.
    fn may_move(&self) -> bool {
        let settled = self.caller.as_deref().is_some_and(|caller| caller.answered && !caller.invite_open());
        settled && self.connecting().is_none() && !self.recovering && !self.adrift() && self.ended.is_none()
    }

    /// The node cannot record what must be recorded: the call goes to one that has not failed to. False: not now.
    pub(crate) fn leave_unrecorded(&mut self, cx: &mut Cx<'_>) -> bool {
        let Some(node) = self.media.node.clone().filter(|_| self.may_move()) else { return false };
        if !self.moving.no_record.contains(&node) {
            if self.moving.no_record.len() >= MAX_SHUNNED {
                self.moving.no_record.remove(0);
            }
            self.moving.no_record.push(node);
        }
        let Some(to) = self.pick_node(&self.moving.no_record) else { return false };
        let known = self.library.may_write(Feature::RecordingPolicy);
        self.go_to(cx, to, if known { MoveReason::Unrecorded } else { MoveReason::Drained });
        true
    }

    /// The call's node is a member of the cluster.
    pub(crate) fn node_is_there(&self) -> bool {
        self.media.node.as_ref().is_some_and(|node| self.library.has_media_node(node))
    }

    /// The call's node is found to be no member any more.
    pub(crate) fn node_gone(&mut self, cx: &mut Cx<'_>) {
        if let Some(node) = self.media.node.clone() {
            self.node_lost(cx, &node);
        }
    }

    /// No member of the cluster any more, or another life of it.
    pub(crate) fn node_lost(&mut self, cx: &mut Cx<'_>, node: &NodeId) {
        self.sides_lost(cx, node);
        if self.moving.is_former(node) {
            self.moving.former = None;
            self.offer_now(cx);
        }
        if self.media.node.as_ref() != Some(node) {
            return self.salvage_all(cx, node);
        }
        if std::mem::take(&mut self.recovering) {
            return self.resume_without_session(cx, true);
        }
        self.media_lost(cx, true);
    }

    fn go_to(&mut self, cx: &mut Cx<'_>, to: NodeId, reason: MoveReason) {
        let Some(from) = self.media.node.clone() else { return };
        if self.moves >= MAX_MOVES {
            return self.end(cx, ReleaseCause::MediaLost, EndedBy::System);
        }
        self.close_planned(cx);
        self.keep_session_on(&to);
        if self.caller.as_deref().is_some_and(|caller| !caller.answered) {
            self.emit(cx, EventBody::MediaSession { node: to.clone() });
            self.media.rehome();
            self.close_if_elsewhere(cx, from, &to);
            return self.recreate_caller_endpoint(cx);
        }
        let running = self.running_recording().map(|recording| (recording.id, recording.paused));
        let returns = from != to && self.visited.contains(&to);
        self.emit(cx, EventBody::MediaMoved { from: from.clone(), node: to.clone(), reason });
        let dropped = self.media.rehome();
        self.unmeasured = vec![self.caller_leg()];
        match reason {
            MoveReason::Drained | MoveReason::Unrecorded => {
                self.moving.former = Some((from, cx.now.plus(self.settings.media_search)));
            }
            MoveReason::Lost => {
                self.close_if_elsewhere(cx, from.clone(), &to);
                self.salvage_all(cx, &from);
            }
        }
        if returns {
            // Whether its session there was ended is not known: no leg of an agent who is gone, no recording that runs may be
            // left in the new one.
            self.media(cx, MediaBody::CloseSession, Then::Clear);
        }
        self.caller_follows(cx, reason);
        self.record_anew(cx, running);
        for leg in self.agent_legs() {
            self.agent_follows(cx, leg, reason);
        }
        self.programs(cx);
        for then in dropped {
            self.never_answered(cx, then);
        }
    }

    fn close_if_elsewhere(&mut self, cx: &mut Cx<'_>, from: NodeId, to: &NodeId) {
        if from != *to {
            self.close_former(cx, from);
        }
    }

    /// An endpoint on the new node: it answers the offer that is under way, or makes ours.
    pub(crate) fn caller_follows(&mut self, cx: &mut Cx<'_>, reason: MoveReason) {
        let agent_first = reason != MoveReason::Lost && self.agent.is_some();
        let from = if agent_first { cx.now.plus(self.settings.move_patience) } else { cx.now };
        let land_by = cx.now.plus(self.settings.sip_patience());
        let Some(caller) = self.caller.as_deref_mut() else { return };
        caller.silent_until = None;
        caller.reoffer.begin(from, land_by);
        let offer = |request| sdp::of(request).ok().flatten().unwrap_or_default();
        let (sdp, then) = match (&caller.invite, &caller.update) {
            (Some(invite), _) => (offer(&invite.request), Then::ReInvite),
            (None, Some(update)) => (offer(&update.request), Then::Update),
            (None, None) => (bytes::Bytes::new(), Then::MoveOffer),
        };
        caller.reoffer.making = then == Then::MoveOffer;
        let body = self.caller_endpoint(sdp);
        self.media(cx, body, then);
    }

    /// The page has to make a new connection; one that is only being made has an offer that fits any node.
    fn agent_follows(&mut self, cx: &mut Cx<'_>, leg: LegId, reason: MoveReason) {
        let until = cx.now.plus(self.settings.agent_reconnect);
        let comfort_at = cx.now.plus(self.settings.move_patience);
        let told = (cx.now, self.settings.resend_first);
        let prefer = self.caller.as_deref().and_then(|caller| caller.codec);
        let Some(part) = self.part_mut(leg) else { return };
        if part.bridged.is_none() {
            let offer = part.offer.clone();
            let Some(sdp) = part.sdp_offer.clone() else {
                return self.agent_failed(cx, leg, ReleaseCause::MediaLost);
            };
            return self.media(cx, MediaBody::CreateWebRtc { leg, sdp, prefer }, Then::Agent(offer));
        }
        part.answer = None;
        part.remade = None;
        part.audio = Audio::Down { until, comfort: false };
        part.comfort_at = (reason == MoveReason::Lost).then_some(comfort_at);
        part.told = Some(told);
        self.unmeasured.push(leg);
        self.tell_moved(cx, leg);
    }

    /// Tells the agent, until its page makes an offer.
    pub(crate) fn tell_moved(&mut self, cx: &mut Cx<'_>, leg: LegId) {
        let longest = self.settings.resend_max;
        let Some(part) = self.part_mut(leg) else { return };
        let Some((next, interval)) = &mut part.told else { return };
        *next = cx.now.plus(*interval);
        *interval = (*interval * 2).min(longest);
        let (agent, offer) = (part.agent.clone(), part.offer.clone());
        self.tell_agent(cx, &agent, &offer, AgentNotice::MediaMoved { moved: self.moves });
    }

    /// The page takes longer: the caller hears music until it is there.
    pub(crate) fn comfort_due(&mut self, cx: &mut Cx<'_>, leg: LegId) {
        let Some(part) = self.part_mut(leg) else { return };
        part.comfort_at = None;
        if let Audio::Down { until, .. } = part.audio {
            part.audio = Audio::Down { until, comfort: true };
            self.programs(cx);
        }
    }

    /// Another recording on the new node, paused and on hold as the one before.
    fn record_anew(&mut self, cx: &mut Cx<'_>, running: Option<(RecordingId, bool)>) {
        let bridged = self.agent.as_deref().filter(|part| part.bridged.is_some());
        let Some(part) = bridged else { return };
        // What must be recorded is begun anew also when the one before has failed.
        let Some(paused) = running.map(|(_, paused)| paused).or(part.recording_required.then_some(false))
        else {
            return;
        };
        let (agent, queue, required) = (part.agent.clone(), part.queue.clone(), part.recording_required);
        let recording = self.new_recording();
        self.emit(cx, EventBody::RecordingStarted { recording, agent, required });
        if paused {
            self.emit(cx, EventBody::RecordingPaused { recording, paused });
        }
        let treatment = self.library.treatment(&self.tenant, &queue);
        self.start_recording(cx, &treatment, recording);
    }

    /// Everything that a lost node had not stored.
    fn salvage_all(&mut self, cx: &mut Cx<'_>, lost: &NodeId) {
        let on_it: Vec<(RecordingId, bool)> = self
            .recordings
            .iter()
            .filter(|recording| !recording.stored && recording.node.as_ref() == Some(lost))
            .map(|recording| (recording.id, recording.transcript_open))
            .collect();
        for (recording, transcript) in on_it {
            if transcript {
                let detail = "the media node was lost".to_owned();
                let status = TranscriptState::Failed;
                self.emit(cx, EventBody::TranscriptStatus { recording: Some(recording), status, detail });
            }
            self.salvage(cx, recording, lost.clone());
        }
    }

    fn media_lost_after_end(&mut self, cx: &mut Cx<'_>) {
        self.media.give_up();
        self.unmeasured.clear();
        self.recordings_end(cx.now);
        if let Some(node) = self.media.node.clone() {
            self.salvage_all(cx, &node);
        }
    }

    /// Who waits for an answer that the lost node will not give.
    fn never_answered(&mut self, cx: &mut Cx<'_>, then: Then) {
        match then {
            Then::Digits { session, command, digits } => {
                self.digits_done(cx, session, command, &digits, Err(None));
            }
            Then::Announce => {
                if let Some(stay) = &mut self.stay {
                    stay.announce_at = stay.announce_at.or(Some(cx.now));
                }
            }
            // Asked for again by whoever wants it (an agent's page), or made anew on the new node.
            _ => {}
        }
    }

    /// The caller's audio is on the new node.
    pub(crate) fn caller_landed(&mut self, cx: &mut Cx<'_>, codec: Option<Codec>) {
        let Some(caller) = self.caller.as_deref_mut().filter(|caller| caller.adrift) else { return };
        caller.reoffer.done();
        let leg = caller.id;
        self.emit(cx, EventBody::LegMoved { leg, codec });
        if let Some(play) = self.playing.clone() {
            self.issue_play(cx, play);
        }
        self.moved_through(cx);
    }

    /// The agent's audio has a connection to the new node.
    pub(crate) fn agent_landed(&mut self, cx: &mut Cx<'_>, leg: LegId, codec: Option<Codec>) {
        let Some(part) = self.part_mut(leg).filter(|part| part.adrift) else { return };
        part.told = None;
        self.emit(cx, EventBody::LegMoved { leg, codec });
        self.moved_through(cx);
    }

    /// All legs are there: nothing holds the former node any more.
    pub(crate) fn moved_through(&mut self, cx: &mut Cx<'_>) {
        if self.adrift() || self.parts().any(|part| part.adrift) {
            return;
        }
        self.moving.shunned.clear();
        self.close_planned(cx);
    }

    /// After a recovery: whether the session on the node that was left has been ended is not known.
    pub(crate) fn leave_again(&mut self, cx: &mut Cx<'_>) {
        let Some(left) = self.left_node.clone().filter(|left| self.media.node.as_ref() != Some(left)) else {
            return;
        };
        let agent = self.parts().any(|part| part.adrift);
        self.moving.former = Some((left, cx.now.plus(self.settings.media_search)));
        if self.ended.is_some() || !(self.adrift() || agent) {
            self.close_planned(cx);
        }
    }

    /// Ends what a planned move left behind.
    pub(crate) fn close_planned(&mut self, cx: &mut Cx<'_>) {
        if let Some((former, _)) = self.moving.former.take() {
            self.close_former(cx, former);
        }
    }

    /// The caller did not follow in time.
    pub(crate) fn not_landed(&mut self, cx: &mut Cx<'_>) {
        self.end(cx, ReleaseCause::MediaLost, EndedBy::Network);
    }

    /// The call is over: no node is looked for any more.
    pub(crate) fn stop_moving(&mut self, cx: &mut Cx<'_>) {
        self.close_planned(cx);
        self.moving.search = None;
        if self.media.is_lost() {
            self.media_lost_after_end(cx);
        }
    }

    /// Plays at once, or when the caller can hear it.
    pub(crate) fn issue_play(&mut self, cx: &mut Cx<'_>, play: crate::media::Play) {
        let then = Then::Play { token: play.token.clone() };
        let leg = self.caller_leg();
        self.media(cx, MediaBody::SetProgram { leg, program: Program::Play(Box::new(play)) }, then);
    }
}
