//! Commands in order. Only one is open at a time: repetition and loss cannot change their order on the node.

use std::collections::VecDeque;

use trunkline_types::{CallId, NodeId, OfferId, RecordingId, ReleaseCause, Timestamp};

use super::message::{MediaBody, MediaCommand, MediaFailureKind, MediaOk, MediaReply};
use crate::{
    call::{Call, Cx, Timer},
    effect::Effect,
    event::EndedBy,
};

/// Commands that may wait behind the open one. A call needs a dozen at most.
const MAX_WAITING: usize = 64;
/// Event ids that are remembered, so that a repeated event is dropped.
const SEEN: usize = 16;
/// How often a command is tried that the node had no room for.
const MAX_OVERLOADS: u8 = 6;

/// What an answer is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Then {
    /// The first offer.
    Caller,
    /// A later INVITE.
    ReInvite,
    /// An UPDATE with an offer.
    Update,
    /// The answer in an ACK.
    LateAnswer,
    /// The agent's leg.
    Agent(OfferId),
    /// New audio for the agent's leg.
    Remade { session: String, request: String },
    /// Keys towards the caller.
    Digits { session: String, command: String, digits: String },
    /// A prompt whose end somebody waits for.
    Play { token: String },
    /// A comfort announcement.
    Announce,
    /// A recording's beginning.
    Recording(RecordingId),
    /// What the call cannot do without.
    Needed,
    /// What does not matter if it fails.
    Optional,
    /// The end.
    Close,
    /// What is left after a recovery.
    Probe,
}

/// How a command went.
pub(crate) enum Outcome {
    Done(MediaOk),
    Failed(MediaFailureKind, String),
    NoAnswer,
}

impl Outcome {
    /// As a result, `None` = no answer came.
    pub fn into_result(self) -> Result<MediaOk, Option<MediaFailureKind>> {
        match self {
            Self::Done(ok) => Ok(ok),
            Self::Failed(kind, _) => Err(Some(kind)),
            Self::NoAnswer => Err(None),
        }
    }
}

/// The open command.
#[derive(Debug)]
struct Open {
    id: u64,
    body: MediaBody,
    then: Then,
    resend: Timestamp,
    give_up: Timestamp,
    overloads: u8,
}

/// How far the session on the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    None,
    Open,
    Closing,
    Closed,
}

/// The way to the media node.
#[derive(Debug)]
pub(crate) struct MediaLink {
    pub node: Option<NodeId>,
    salt: u64,
    last_id: u64,
    open: Option<Box<Open>>,
    waiting: VecDeque<(MediaBody, Then)>,
    session: Session,
    seen: [u64; SEEN],
    seen_at: u8,
}

impl MediaLink {
    pub fn new(call: CallId) -> Self {
        let salt =
            call.to_string().bytes().fold(0u64, |hash, b| hash.wrapping_mul(31).wrapping_add(b.into()));
        Self {
            node: None,
            salt: salt & 0xfff,
            last_id: 0,
            open: None,
            waiting: VecDeque::new(),
            session: Session::None,
            seen: [0; SEEN],
            seen_at: 0,
        }
    }

    /// Ascending, unique in the call across recoveries (they begin with the time) and, by the salt, nearly so in a
    /// shard, where `ListSessions` is numbered.
    pub fn mint(&mut self, now: Timestamp) -> u64 {
        let by_time = (u64::try_from(now.as_micros()).unwrap_or(0) << 12) | self.salt;
        self.last_id = by_time.max(self.last_id + 1);
        self.last_id
    }

    pub fn is_new(&mut self, event: u64) -> bool {
        if self.seen.contains(&event) {
            return false;
        }
        self.seen[usize::from(self.seen_at)] = event;
        self.seen_at = (self.seen_at + 1) % SEEN as u8;
        true
    }

    /// Nothing of this call is left on the node, or it has been given up.
    pub fn closed(&self) -> bool {
        matches!(self.session, Session::None | Session::Closed) && self.open.is_none()
    }

    /// Commands that wait behind the open one.
    #[cfg(test)]
    pub fn backlog(&self) -> usize {
        self.waiting.len()
    }

    /// A session was found after a recovery, or may be there.
    pub fn assume_session(&mut self) {
        self.session = Session::Open;
    }

    /// Digits with this command id of a session are on their way.
    pub fn sends_digits(&self, session: &str, command: &str) -> bool {
        let open = self.open.iter().map(|open| &open.then);
        open.chain(self.waiting.iter().map(|(_, then)| then))
            .any(|then| matches!(then, Then::Digits { session: s, command: c, .. } if s == session && c == command))
    }

    /// New audio for the agent is being made by this request.
    pub fn remakes(&self, session: &str, request: &str) -> bool {
        let open = self.open.iter().map(|open| &open.then);
        open.chain(self.waiting.iter().map(|(_, then)| then)).any(
            |then| matches!(then, Then::Remade { session: s, request: r } if s == session && r == request),
        )
    }

    pub fn timers(&self, visit: &mut dyn FnMut(Timestamp, Timer)) {
        if let Some(open) = &self.open {
            visit(open.resend.min(open.give_up), Timer::Media);
        }
    }
}

impl Call {
    /// Has a command done, after those before it.
    pub(crate) fn media(&mut self, cx: &mut Cx<'_>, body: MediaBody, then: Then) {
        if self.media.node.is_none() || matches!(self.media.session, Session::Closing | Session::Closed) {
            return;
        }
        if self.media.waiting.len() >= MAX_WAITING {
            return self.end(cx, ReleaseCause::MediaLost, EndedBy::System);
        }
        if body.creates() && self.media.session == Session::None {
            self.media.session = Session::Open;
        }
        self.media.waiting.push_back((body, then));
        self.pump(cx);
    }

    /// Ends everything on the node, behind the command that is open now.
    pub(crate) fn close_session(&mut self, cx: &mut Cx<'_>) {
        self.media.waiting.clear();
        if self.media.session != Session::Open {
            return;
        }
        self.media.session = Session::Closing;
        self.media.waiting.push_back((MediaBody::CloseSession, Then::Close));
        self.measured_by = Some(cx.now.plus(self.settings.quality_deadline));
        self.recordings_end(cx.now);
        self.pump(cx);
    }

    fn pump(&mut self, cx: &mut Cx<'_>) {
        if self.media.open.is_some() {
            return;
        }
        let Some((body, then)) = self.media.waiting.pop_front() else { return };
        let id = self.media.mint(cx.now);
        let resend = cx.now.plus(self.settings.media_resend);
        // Nobody waits for the end of a session, so there is time to get it through.
        let patience =
            if then == Then::Close { self.settings.settle_deadline } else { self.settings.media_deadline };
        let give_up = cx.now.plus(patience);
        self.media.open = Some(Box::new(Open { id, body, then, resend, give_up, overloads: 0 }));
        self.send_open(cx);
    }

    fn send_open(&self, cx: &mut Cx<'_>) {
        if let (Some(node), Some(open)) = (&self.media.node, &self.media.open) {
            let command = MediaCommand { id: open.id, body: open.body.clone() };
            cx.out.effect(Effect::Media { node: node.clone(), command });
        }
    }

    pub(crate) fn media_timer(&mut self, cx: &mut Cx<'_>) {
        let resend = cx.now.plus(self.settings.media_resend);
        let Some(open) = self.media.open.as_deref_mut() else { return };
        if cx.now >= open.give_up {
            if let Some(open) = self.media.open.take() {
                self.media_outcome(cx, open.body, open.then, Outcome::NoAnswer);
                self.pump(cx);
            }
            return;
        }
        open.resend = resend;
        self.send_open(cx);
    }

    pub(crate) fn on_media_reply(&mut self, cx: &mut Cx<'_>, reply: MediaReply) {
        let Some(open) = self.media.open.take_if(|open| open.id == reply.command) else { return };
        let outcome = match reply.result {
            Ok(ok) => Outcome::Done(ok),
            Err(failure) => Outcome::Failed(failure.kind, failure.message),
        };
        if let Outcome::Failed(MediaFailureKind::Overload, _) = &outcome
            && !open.body.creates()
            && open.overloads < MAX_OVERLOADS
        {
            return self.try_again(cx, open);
        }
        self.media_outcome(cx, open.body, open.then, outcome);
        self.pump(cx);
    }

    /// The node's queue was full: the same under another id, since a repeated id gets the same answer.
    fn try_again(&mut self, cx: &mut Cx<'_>, mut open: Box<Open>) {
        open.id = self.media.mint(cx.now);
        open.overloads += 1;
        open.resend = cx.now.plus(self.settings.media_resend);
        open.give_up = cx.now.plus(self.settings.media_deadline);
        self.media.open = Some(open);
    }

    fn media_outcome(&mut self, cx: &mut Cx<'_>, body: MediaBody, then: Then, outcome: Outcome) {
        if then == Then::Close {
            self.media.session = Session::Closed;
            return;
        }
        if self.ended.is_some() {
            return;
        }
        let gone = matches!(outcome, Outcome::Failed(MediaFailureKind::UnknownSession, _));
        match then {
            Then::Caller => match outcome.into_result() {
                Ok(ok) => self.caller_media_ready(cx, &ok),
                Err(kind) => self.caller_media_failed(cx, kind),
            },
            Then::Probe => self.probed(cx, outcome.into_result().ok()),
            _ if gone => self.media_lost(cx),
            Then::ReInvite => match outcome.into_result() {
                Ok(ok) => self.reinvite_ready(cx, &ok),
                Err(kind) => self.reinvite_failed(cx, kind),
            },
            Then::Update => self.update_done(cx, outcome.into_result()),
            Then::LateAnswer => match outcome.into_result() {
                Ok(ok) => self.note_direction(cx, &ok),
                Err(Some(MediaFailureKind::NoCommonCodec | MediaFailureKind::UnsupportedTransport)) => {
                    self.end(cx, ReleaseCause::NoCommonCodec, EndedBy::Caller);
                }
                Err(Some(MediaFailureKind::MalformedSdp)) => {
                    self.end(cx, ReleaseCause::BadRequest, EndedBy::Caller)
                }
                Err(_) => self.media_lost(cx),
            },
            Then::Agent(offer) => self.agent_media_done(cx, &offer, outcome.into_result()),
            Then::Remade { session, request } => {
                self.agent_remade(cx, session, request, outcome.into_result())
            }
            Then::Digits { session, command, digits } => {
                self.digits_done(cx, session, command, &digits, outcome.into_result());
            }
            Then::Play { token } => match outcome {
                Outcome::Done(_) => {}
                // Without the prompt the call goes on as if it had been played.
                Outcome::Failed(kind, message) => self.prompt_failed(cx, &token, kind, message),
                Outcome::NoAnswer => self.media_lost(cx),
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
                }
            }
            Then::Needed => self.needed_done(cx, &body, outcome),
            Then::Optional | Then::Close => {}
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
            Outcome::Failed(..) | Outcome::NoAnswer => self.media_lost(cx),
        }
    }

    /// The session on the node is gone, or the node is. This is where a call will move to another node by re-INVITE.
    pub(crate) fn media_lost(&mut self, cx: &mut Cx<'_>) {
        self.end(cx, ReleaseCause::MediaLost, EndedBy::System);
    }
}

fn touches_agent(body: &MediaBody) -> bool {
    match body {
        MediaBody::Bridge { .. } => true,
        MediaBody::SetProgram { leg, .. } | MediaBody::SetMuted { leg, .. } => leg.index > 0,
        _ => false,
    }
}
