//! The agent's part: connecting, the conversation, its controls, and an agent whose page is reloaded.

use std::{collections::VecDeque, time::Duration};

use trunkline_types::{AgentId, LegId, OfferId, QueueId, ReleaseCause, Timestamp};

use crate::{
    call::{Call, Cx, Timer},
    debt::DebtKind,
    effect::AgentNotice,
    event::{EventBody, LegKind, LegParty, QueueOutcome},
    input::AgentRequest,
    media::{MediaBody, MediaFailureKind, MediaOk, Then},
};

/// Outcomes of offers that are remembered.
pub(crate) const MAX_DECIDED: usize = 32;

/// The agent who is being connected or talks.
#[derive(Clone, Debug)]
pub(crate) struct AgentPart {
    pub offer: OfferId,
    pub agent: AgentId,
    /// What others read.
    pub name: String,
    pub queue: QueueId,
    /// Which stay of the call the offer was for.
    pub entry: u32,
    pub leg: LegId,
    pub bridged: Option<Timestamp>,
    pub on_hold: bool,
    pub muted: bool,
    /// The queue wants it recorded.
    pub recording: bool,
    /// It must not go on without.
    pub recording_required: bool,
    /// The call has moved to another media node, and this leg has not followed.
    pub adrift: bool,
    // Volatile.
    pub session: String,
    /// The browser's offer, until both are bridged.
    pub sdp_offer: Option<String>,
    /// The page has to make a new offer: said again then, and so much later.
    pub told: Option<(Timestamp, Duration)>,
    /// Music for the caller from then on, while the agent's audio is down after a move.
    pub comfort_at: Option<Timestamp>,
    /// Must be recorded and is not.
    pub unrecorded: Option<Unrecorded>,
    /// The SDP answer, for a repeated `Connect`.
    pub answer: Option<String>,
    pub audio: Audio,
    pub recent: VecDeque<(String, String, &'static str)>,
    pub remade: Option<(String, String, String, String)>,
}

/// The agent's audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audio {
    Up,
    /// Not there (yet): the call is kept until then. `comfort`: the caller hears music meanwhile.
    Down {
        until: Timestamp,
        comfort: bool,
    },
}

/// A conversation that must be recorded and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unrecorded {
    /// It ends then.
    pub until: Timestamp,
    /// The next look for a media node that can.
    pub look: Timestamp,
}

/// An offer that is decided for ever.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub offer: OfferId,
    pub outcome: DecidedOutcome,
    pub cause: ReleaseCause,
    pub at: Timestamp,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecidedOutcome {
    /// Never connected.
    Failed,
    /// Connected then, and over.
    Over { connected: Timestamp },
}

impl AgentPart {
    pub fn new(offer: &OfferId, agent: &AgentId, queue: &QueueId, entry: u32, leg: LegId) -> Self {
        Self {
            offer: offer.clone(),
            agent: agent.clone(),
            name: String::new(),
            queue: queue.clone(),
            entry,
            leg,
            bridged: None,
            on_hold: false,
            muted: false,
            recording: false,
            recording_required: false,
            adrift: false,
            session: String::new(),
            sdp_offer: None,
            told: None,
            comfort_at: None,
            unrecorded: None,
            answer: None,
            audio: Audio::Up,
            recent: VecDeque::new(),
            remade: None,
        }
    }

    /// Shows each armed timer to `visit`.
    pub fn timers(&self, visit: &mut dyn FnMut(Timestamp, Timer)) {
        if let Some(until) = self.audio_until() {
            visit(until, Timer::AgentAudio(self.leg));
        }
        if let Some((next, _)) = self.told {
            visit(next, Timer::AgentMoved(self.leg));
        }
        if let Some(at) = self.comfort_at {
            visit(at, Timer::AgentComfort(self.leg));
        }
    }

    pub fn audio_until(&self) -> Option<Timestamp> {
        match (self.bridged, self.audio) {
            (Some(_), Audio::Down { until, .. }) => Some(until),
            _ => None,
        }
    }

    pub fn comfort(&self) -> bool {
        matches!(self.audio, Audio::Down { comfort: true, .. })
    }
}

impl Call {
    pub(crate) fn on_agent(
        &mut self,
        cx: &mut Cx<'_>,
        agent: &AgentId,
        offer: &OfferId,
        request: AgentRequest,
    ) {
        // What is left of the media is not known yet. Agents ask again.
        if self.recovering && request != AgentRequest::EndedAck {
            return;
        }
        let mine = self.part_of(offer).filter(|part| part.agent == *agent).map(|part| part.leg);
        match request {
            AgentRequest::EndedAck => {
                self.settle(|debt| matches!(debt, DebtKind::AgentEnded { offer: o, .. } if o == offer));
            }
            AgentRequest::Connect {
                session,
                sdp_offer,
                agent_name,
                queue,
                recording,
                recording_required,
            } => {
                if let Some(leg) = mine {
                    self.connect_again(cx, leg, session, sdp_offer);
                } else if !self.decided_already(cx, agent, offer, &session) {
                    let picked =
                        Picked { session, sdp_offer, agent_name, queue, recording, recording_required };
                    self.connect(cx, agent, offer, picked);
                }
            }
            AgentRequest::GiveUp => self.give_up(cx, agent, offer, mine),
            AgentRequest::RemakeMedia { session, request, sdp_offer } => {
                if let Some(leg) = mine {
                    self.remake_media(cx, leg, session, request, sdp_offer);
                } else if !self.decided_already(cx, agent, offer, "") {
                    let (sdp_answer, error) = (String::new(), "not_connected".to_owned());
                    let notice = AgentNotice::MediaRemade { session, request, sdp_answer, error };
                    self.tell_agent(cx, agent, offer, notice);
                }
            }
            AgentRequest::Control { session, command, control } => {
                if let Some(leg) = mine {
                    self.control(cx, leg, session, command, control);
                } else if !self.decided_already(cx, agent, offer, "") {
                    let error = "not_connected".to_owned();
                    self.tell_agent(
                        cx,
                        agent,
                        offer,
                        AgentNotice::Result { session, command, error, state: None },
                    );
                }
            }
            AgentRequest::AskAlive => {
                if let Some(leg) = mine {
                    self.notify_part(cx, leg);
                } else if !self.decided_already(cx, agent, offer, "") {
                    let cause = ReleaseCause::NodeLost;
                    let notice = AgentNotice::Ended { cause, at: cx.now, connected: None };
                    self.tell_agent(cx, agent, offer, notice);
                }
            }
        }
    }

    /// Says once more how an offer was decided; true when it was.
    fn decided_already(&mut self, cx: &mut Cx<'_>, agent: &AgentId, offer: &OfferId, session: &str) -> bool {
        let decided = self.decided.iter().find(|decided| decided.offer == *offer);
        let notice = match (decided, self.ended) {
            (Some(Decided { outcome: DecidedOutcome::Over { connected }, cause, at, .. }), _) => {
                AgentNotice::Ended { cause: *cause, at: *at, connected: Some(*connected) }
            }
            // It failed because the caller was gone.
            (Some(decided), Some(end)) if decided.at == end.at => {
                AgentNotice::Ended { cause: end.cause, at: end.at, connected: None }
            }
            (Some(decided), _) => failed(session, decided.cause),
            (None, Some(end)) => AgentNotice::Ended { cause: end.cause, at: end.at, connected: None },
            (None, None) => return false,
        };
        self.tell_agent(cx, agent, offer, notice);
        true
    }

    fn connect(&mut self, cx: &mut Cx<'_>, agent: &AgentId, offer: &OfferId, picked: Picked) {
        let waits = self.stay.as_ref().is_some_and(|stay| stay.queue == picked.queue);
        if !waits || self.connecting().is_some() || self.consulted.is_some() {
            return self.never_connect(cx, agent, offer, &picked.session, ReleaseCause::Busy);
        }
        // An agent of the queue: so the place was committed.
        self.place_for_transfer(cx);
        let leg = self.new_leg();
        let party = LegParty::Agent(agent.clone());
        self.emit(cx, EventBody::LegAdded { leg, kind: LegKind::WebRtc, party });
        let connecting = EventBody::AgentConnecting {
            offer: offer.clone(),
            agent: agent.clone(),
            leg,
            name: picked.agent_name,
            queue: picked.queue,
            recording: picked.recording,
            recording_required: picked.recording_required,
        };
        self.emit(cx, connecting);
        if let Some(part) = self.part_mut(leg) {
            part.session = picked.session;
            part.sdp_offer = Some(picked.sdp_offer.clone());
        }
        let prefer = self.caller.as_deref().and_then(|caller| caller.codec);
        let body = MediaBody::CreateWebRtc { leg, sdp: picked.sdp_offer, prefer };
        self.media(cx, body, Then::Agent(offer.clone()));
    }

    /// The agent did not hear our answer.
    fn connect_again(&mut self, cx: &mut Cx<'_>, leg: LegId, session: String, sdp_offer: String) {
        let prefer = self.caller.as_deref().and_then(|caller| caller.codec);
        let Some(part) = self.part(leg) else { return };
        match (part.bridged, &part.answer) {
            (Some(at), Some(answer)) => {
                let (session, consultation) = (part.session.clone(), self.consultation(leg));
                let notice = AgentNotice::Connected { session, sdp_answer: answer.clone(), at, consultation };
                self.tell_agent(cx, &part.agent, &part.offer, notice);
            }
            // Bridged by a former owner whose answer is not known: a new connection for this offer.
            (Some(_), None) => {
                let request = String::new();
                if !self.media.remakes(&session, &request) {
                    let body = MediaBody::ReplaceWebRtc { leg, sdp: sdp_offer, prefer };
                    self.media(cx, body, Then::Remade { leg, session, request });
                }
            }
            // The answer comes with the media node's.
            (None, _) => {}
        }
    }

    fn give_up(&mut self, cx: &mut Cx<'_>, agent: &AgentId, offer: &OfferId, mine: Option<LegId>) {
        let part = mine.and_then(|leg| self.part(leg));
        if let Some((part, at)) = part.and_then(|part| Some((part, part.bridged?))) {
            // Too late: connected. Without a known answer the page has to remake its audio.
            let (session, sdp_answer) = (part.session.clone(), part.answer.clone().unwrap_or_default());
            let consultation = self.consultation(part.leg);
            let notice = AgentNotice::Connected { session, sdp_answer, at, consultation };
            self.tell_agent(cx, agent, offer, notice);
        } else if let Some(leg) = mine {
            self.agent_failed(cx, leg, ReleaseCause::NoAnswer);
        } else if !self.decided_already(cx, agent, offer, "") {
            self.never_connect(cx, agent, offer, "", ReleaseCause::NoAnswer);
        }
    }

    fn never_connect(
        &mut self,
        cx: &mut Cx<'_>,
        agent: &AgentId,
        offer: &OfferId,
        session: &str,
        cause: ReleaseCause,
    ) {
        let released =
            EventBody::AgentReleased { offer: offer.clone(), agent: agent.clone(), leg: None, cause };
        self.emit(cx, released);
        self.tell_agent(cx, agent, offer, failed(session, cause));
        self.pay_due(cx);
    }

    /// The media node has dealt with the agent's offer.
    pub(crate) fn agent_media_done(
        &mut self,
        cx: &mut Cx<'_>,
        offer: &OfferId,
        result: Result<MediaOk, Option<MediaFailureKind>>,
    ) {
        let Some(part) = self.part_of(offer).filter(|part| part.bridged.is_none()) else { return };
        let leg = part.leg;
        match result {
            Ok(ok) => self.bridge_agent(cx, leg, &ok),
            Err(kind) => {
                let cause = match kind {
                    Some(MediaFailureKind::NoCommonCodec | MediaFailureKind::UnsupportedTransport) => {
                        ReleaseCause::NoCommonCodec
                    }
                    Some(MediaFailureKind::MalformedSdp) => ReleaseCause::BadRequest,
                    Some(MediaFailureKind::Overload) => ReleaseCause::Overload,
                    _ => ReleaseCause::MediaLost,
                };
                self.agent_failed(cx, leg, cause);
            }
        }
    }

    fn bridge_agent(&mut self, cx: &mut Cx<'_>, leg: LegId, ok: &MediaOk) {
        let Some(part) = self.part(leg) else { return };
        let (offer, agent, queue, entry) =
            (part.offer.clone(), part.agent.clone(), part.queue.clone(), part.entry);
        // A consultation is not recorded: the caller takes no part in it.
        let (records, required) = (part.recording && !self.is_consulted(leg), part.recording_required);
        let treatment = self.library.treatment(&self.tenant, &queue);
        self.emit(cx, EventBody::LegAnswered { leg, codec: ok.codec });
        self.emit(cx, EventBody::QueueExited { queue, entry, outcome: QueueOutcome::Answered });
        self.emit(cx, EventBody::AgentBridged { offer: offer.clone(), agent: agent.clone(), leg });
        let recording = records.then(|| self.new_recording());
        if let Some(recording) = recording {
            self.emit(cx, EventBody::RecordingStarted { recording, agent: agent.clone(), required });
        }
        let sdp_answer = String::from_utf8_lossy(&ok.sdp).into_owned();
        let until = cx.now.plus(self.settings.agent_reconnect);
        self.unmeasured.push(leg);
        let Some(part) = self.part_mut(leg) else { return };
        part.answer = Some(sdp_answer.clone());
        part.sdp_offer = None;
        part.audio = Audio::Down { until, comfort: false };
        let session = part.session.clone();
        let consultation = self.consultation(leg);
        let notice = AgentNotice::Connected { session, sdp_answer, at: cx.now, consultation };
        self.tell_agent(cx, &agent, &offer, notice);
        self.pay_due(cx);
        self.programs(cx);
        if let Some(recording) = recording {
            self.start_recording(cx, &treatment, recording);
        }
        self.notify_state(cx);
    }

    /// The agent could not be connected: the caller keeps the place.
    pub(crate) fn agent_failed(&mut self, cx: &mut Cx<'_>, leg: LegId, cause: ReleaseCause) {
        if let Some((agent, offer, session)) = self.release_agent_part(cx, leg, cause) {
            self.tell_agent(cx, &agent, &offer, failed(&session, cause));
        }
        self.pay_due(cx);
        self.media(cx, MediaBody::CloseEndpoint { leg }, Then::Optional);
    }
}

/// What a `Connect` brings.
struct Picked {
    session: String,
    sdp_offer: String,
    agent_name: String,
    queue: QueueId,
    recording: bool,
    recording_required: bool,
}

fn failed(session: &str, cause: ReleaseCause) -> AgentNotice {
    AgentNotice::ConnectFailed { session: session.to_owned(), reason: cause.as_str().to_owned() }
}
