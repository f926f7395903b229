//! Everything durable changes here, in the first run as in a replay.

use std::collections::VecDeque;

use bytes::Bytes;
use trunkline_sip::Dialog;
use trunkline_types::{AgentId, LegId, NodeId, OfferId, RecordingId, ReleaseCause, Timestamp};

use crate::{
    agent::{AgentPart, Decided, DecidedOutcome, MAX_DECIDED},
    call::{Call, End, Origin},
    debt::{Debt, DebtKind},
    effect::LeaveCause,
    event::{DialogState, Event, EventBody, FlowOutcome, HoldBy, QueueOutcome, Started, TranscriptState},
    flow::FlowRun,
    invite,
    leg::{Bye, CallerLeg, InfoKeys, PendingInvite, Unacked},
    media::Codec,
    queueing::{Past, PastEnd, Stay},
    recording::Recording,
    reinvite::Reoffer,
    session_timer,
};

/// Media nodes that a call is remembered to have left; it has rarely more than two.
const MAX_VISITED: usize = 8;

impl Call {
    pub(crate) fn apply_event(&mut self, event: &Event) {
        let at = event.at;
        match &event.body {
            EventBody::Started(started) => self.apply_started(started),
            EventBody::MediaSession { node } => self.media.node = Some(node.clone()),
            EventBody::MediaMoved { from, node, .. } => self.apply_moved(at, from, node),
            EventBody::LegMoved { leg, codec } => self.apply_leg_moved(*leg, *codec),
            EventBody::LegAdded { leg, .. } => self.next_leg = self.next_leg.max(leg.index + 1),
            EventBody::LegAnswered { leg, codec } => {
                if let Some(caller) = self.caller.as_deref_mut().filter(|caller| caller.id == *leg) {
                    caller.answered = true;
                    caller.codec = *codec;
                    caller.invite = None;
                }
            }
            EventBody::DialogChanged { state, .. } => self.apply_dialog(at, state),
            EventBody::FlowEntered { flow, version } => {
                let text = self.library.flow_version(&self.tenant, flow, *version);
                self.flow = Some(Box::new(FlowRun::new(text)));
            }
            EventBody::FlowStep { node, outcome } => self.apply_flow_step(node, outcome),
            EventBody::QueueEntered { queue, entry, entered, priority } => {
                self.next_entry = self.next_entry.max(entry + 1);
                self.waiting_since = self.waiting_since.or(Some(*entered));
                self.stay = Some(Stay::new(queue.clone(), *entry, *entered, *priority, at));
            }
            EventBody::QueueExited { queue, entry, outcome } => {
                self.stay = None;
                if let Some(cause) = leave_cause(*outcome) {
                    let end = PastEnd::Left(cause);
                    self.past.push(Past { queue: queue.clone(), entry: *entry, end });
                    self.owe(at, DebtKind::Leave { queue: queue.clone(), entry: *entry, cause });
                }
            }
            EventBody::AgentConnecting { offer, agent, leg, name, queue, recording, recording_required } => {
                let entry = self.stay.as_ref().map_or(0, |stay| stay.entry);
                let mut part = Box::new(AgentPart::new(offer, agent, queue, entry, *leg));
                (part.recording, part.recording_required) = (*recording, *recording_required);
                part.name.clone_from(name);
                match self.agent {
                    None => self.agent = Some(part),
                    Some(_) => self.consulted = Some(part),
                }
            }
            EventBody::AgentBridged { offer, .. } => self.apply_bridged(at, offer),
            EventBody::AgentReleased { offer, agent, cause, .. } => {
                self.apply_agent_released(at, offer, agent, *cause)
            }
            EventBody::HoldChanged { by, on_hold } => self.apply_hold(*by, *on_hold),
            EventBody::MuteChanged { leg, muted } => {
                let part = match leg {
                    Some(leg) => self.part_mut(*leg),
                    None => self.agent.as_deref_mut(),
                };
                if let Some(part) = part {
                    part.muted = *muted;
                }
            }
            EventBody::RecordingStarted { .. }
            | EventBody::RecordingPaused { .. }
            | EventBody::RecordingFinished(_)
            | EventBody::RecordingFailed { .. }
            | EventBody::RecordingTrouble { .. } => self.apply_recording(at, &event.body),
            EventBody::TranscriptStatus { recording, status, .. } => {
                self.apply_transcript(*recording, *status);
            }
            EventBody::Ended { cause, by } => {
                self.ended = Some(End { at, cause: *cause, by: *by });
                self.flow = None;
                self.farewell = None;
            }
            EventBody::LegReleased { leg, .. } => self.closed |= leg.index == 0,
            EventBody::DigitsReceived { .. }
            | EventBody::TranscriptSegment(_)
            | EventBody::LegQuality { .. } => {}
        }
    }

    fn apply_recording(&mut self, at: Timestamp, body: &EventBody) {
        match body {
            EventBody::RecordingStarted { recording, required, .. } => {
                if let Some(part) = &mut self.agent {
                    part.recording_required |= *required;
                    part.unrecorded = None;
                }
                self.next_recording = self.next_recording.max(recording.index + 1);
                self.recordings.push(Recording::new(*recording, self.media.node.clone(), at));
            }
            EventBody::RecordingPaused { recording, paused } => {
                if let Some(found) = self.recordings.iter_mut().find(|r| r.id == *recording) {
                    found.paused = *paused;
                    found.paused_until = paused.then(|| at.plus(self.settings.pause_limit));
                }
            }
            EventBody::RecordingFinished(finished) => self.recording_settled(finished.recording),
            EventBody::RecordingFailed { recording, .. } => {
                self.recording_missing(at, *recording, false);
                self.recording_settled(*recording);
            }
            EventBody::RecordingTrouble { recording, over, .. } => {
                self.recording_missing(at, *recording, *over);
            }
            _ => unreachable!("sorted by `apply_event`"),
        }
    }

    fn apply_moved(&mut self, at: Timestamp, from: &NodeId, node: &NodeId) {
        self.media.node = Some(node.clone());
        self.left_node = Some(from.clone());
        if from != node && !self.visited.contains(from) {
            if self.visited.len() >= MAX_VISITED {
                self.visited.remove(0);
            }
            self.visited.push(from.clone());
        }
        self.moves += 1;
        if let Some(caller) = self.caller.as_deref_mut() {
            caller.adrift = caller.answered;
            // The answer in an ACK that is still to come is one to the former node's offer.
            caller.unacked.iter_mut().for_each(|answer| answer.offered = false);
        }
        self.parts_mut().for_each(|part| part.adrift = part.bridged.is_some());
        let deadline = at.plus(self.settings.settle_deadline);
        for recording in &mut self.recordings {
            if recording.deadline.is_none() {
                recording.left = Some(at);
                recording.deadline = Some(deadline);
                recording.paused_until = None;
            }
        }
    }

    fn apply_leg_moved(&mut self, leg: LegId, codec: Option<Codec>) {
        if let Some(caller) = self.caller.as_deref_mut().filter(|caller| caller.id == leg) {
            caller.adrift = false;
            caller.codec = codec.or(caller.codec);
        } else if let Some(part) = self.part_mut(leg) {
            part.adrift = false;
        }
    }

    fn apply_hold(&mut self, by: HoldBy, on_hold: bool) {
        match (by, &mut self.agent, &mut self.caller) {
            (HoldBy::Agent, Some(part), _) => part.on_hold = on_hold,
            (HoldBy::Caller, _, Some(caller)) => caller.holding = on_hold,
            _ => {}
        }
    }

    fn apply_started(&mut self, started: &Started) {
        self.origin = Some(Box::new(Origin {
            caller_number: started.caller_number.clone(),
            caller_name: started.caller_name.clone(),
            dialled: started.dialled.clone(),
            destination: started.destination.clone(),
        }));
        // The call checked this before it journalled the INVITE.
        let tag = invite::local_tag(self.id, &started.contact_uri);
        let Ok(dialog) = Dialog::from_request(&started.invite, &tag) else { return };
        self.caller = Some(Box::new(CallerLeg {
            id: self.caller_leg(),
            dialog,
            route: started.route.clone(),
            contact: started.contact_uri.clone(),
            answered: false,
            codec: None,
            holding: false,
            session_s: None,
            adrift: false,
            local_sdp: Bytes::new(),
            invite: Some(Box::new(PendingInvite {
                transaction: started.transaction.clone(),
                request: started.invite.clone(),
                route: started.route.clone(),
                initial: true,
                late: started.invite.body.is_empty(),
            })),
            update: None,
            unacked: Vec::new(),
            session_until: None,
            silent_until: None,
            bye: Bye::No,
            info: InfoKeys::default(),
            jumped: false,
            reoffer: Reoffer::default(),
            given: VecDeque::new(),
        }));
    }

    fn apply_dialog(&mut self, at: Timestamp, state: &DialogState) {
        let (t1, patience) = (self.settings.t1, self.settings.sip_patience());
        let Some(caller) = self.caller.as_deref_mut() else { return };
        caller.dialog = state.dialog.clone();
        caller.route = state.route.clone();
        caller.session_s = state.session_s;
        caller.session_until = state.session_s.map(|seconds| session_timer::expiry(at, seconds));
        if let Some(answer) = &state.answer {
            caller.local_sdp = answer.response.body.clone();
            caller.unacked.push(Unacked {
                transaction: answer.transaction.clone(),
                cseq: answer.cseq,
                response: Box::new(answer.response.clone()),
                route: state.route.clone(),
                offered: answer.offered,
                interval: t1,
                next: at.plus(t1),
                give_up: at.plus(patience),
                recovered: false,
            });
        }
    }

    fn apply_flow_step(&mut self, node: &str, outcome: &FlowOutcome) {
        if let FlowOutcome::Set { name, value } = outcome {
            self.attributes.insert(name.clone(), value.clone());
        }
        if let (Some(run), FlowOutcome::Entered) = (&mut self.flow, outcome) {
            run.entered(node);
        }
    }

    fn apply_bridged(&mut self, at: Timestamp, offer: &OfferId) {
        let Some(part) = self.parts_mut().find(|part| part.offer == *offer) else { return };
        part.bridged = Some(at);
        let (queue, entry) = (part.queue.clone(), part.entry);
        let end = PastEnd::Answered { offer: offer.clone(), at };
        self.past.push(Past { queue: queue.clone(), entry, end });
        self.owe(at, DebtKind::Answered { queue, entry, offer: offer.clone(), at });
    }

    fn apply_agent_released(&mut self, at: Timestamp, offer: &OfferId, agent: &AgentId, cause: ReleaseCause) {
        let part = self.take_part(offer);
        let connected = part.as_ref().and_then(|(part, _)| part.bridged);
        let outcome =
            connected.map_or(DecidedOutcome::Failed, |connected| DecidedOutcome::Over { connected });
        if self.decided.len() >= MAX_DECIDED {
            self.decided.remove(0);
        }
        self.decided.push(Decided { offer: offer.clone(), outcome, cause, at });
        if connected.is_some() {
            // Recordings end with their conversation; a consultation has none.
            if !part.as_ref().is_some_and(|(_, consulted)| *consulted) {
                self.recordings_end(at);
            }
            self.owe(
                at,
                DebtKind::AgentEnded { agent: agent.clone(), offer: offer.clone(), cause, at, connected },
            );
        } else {
            let (queue, entry) = match part {
                Some((part, _)) => (part.queue, part.entry),
                None => (offer.queue.clone(), self.next_entry.saturating_sub(1)),
            };
            self.owe(at, DebtKind::ConnectFailed { queue, entry, offer: offer.clone(), cause });
        }
    }

    /// Takes an agent out, and says whether it was a consulted one. When the agent goes who has the caller, the consulted
    /// one gets the caller.
    fn take_part(&mut self, offer: &OfferId) -> Option<(Box<AgentPart>, bool)> {
        if let Some(part) = self.consulted.take_if(|part| part.offer == *offer) {
            return Some((part, true));
        }
        let part = self.agent.take_if(|part| part.offer == *offer)?;
        self.agent = self.consulted.take();
        Some((part, false))
    }

    fn apply_transcript(&mut self, of: Option<RecordingId>, status: TranscriptState) {
        if status == TranscriptState::Started {
            return;
        }
        let is_meant =
            |recording: &&mut Recording| recording.transcript_open && of.is_none_or(|id| id == recording.id);
        if let Some(recording) = self.recordings.iter_mut().find(is_meant) {
            recording.transcript_open = false;
        }
        self.recordings.retain(Recording::open);
    }

    fn recording_settled(&mut self, id: RecordingId) {
        if let Some(recording) = self.recordings.iter_mut().find(|recording| recording.id == id) {
            recording.stored = true;
            recording.paused_until = None;
        }
        self.recordings.retain(Recording::open);
    }

    pub(crate) fn owe(&mut self, at: Timestamp, kind: DebtKind) {
        self.debts.push(Debt::new(kind, at, &self.settings));
    }
}

const fn leave_cause(outcome: QueueOutcome) -> Option<LeaveCause> {
    match outcome {
        QueueOutcome::Abandoned => Some(LeaveCause::Abandoned),
        QueueOutcome::TimedOut => Some(LeaveCause::TimedOut),
        QueueOutcome::Lost => Some(LeaveCause::Lost),
        QueueOutcome::Flow => Some(LeaveCause::Flow),
        QueueOutcome::Answered | QueueOutcome::Refused => None,
    }
}
