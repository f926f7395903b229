//! Commands in order. Only one is open at a time: repetition and loss cannot change their order on the node.

use std::collections::VecDeque;

use trunkline_types::{CallId, LegId, NodeId, OfferId, RecordingId, ReleaseCause, Timestamp};

use super::{
    message::{MediaBody, MediaCommand, MediaFailureKind, MediaOk, MediaReply},
    side::Side,
};
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
    /// The offer with which the caller follows to this node.
    MoveOffer,
    /// The caller's answer to it.
    MoveAnswer,
    /// The agent's leg.
    Agent(OfferId),
    /// New audio for the agent's leg.
    Remade { leg: LegId, session: String, request: String },
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
    /// What a former stay of the call may have left on the node.
    Clear,
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
    /// From then on another node is looked for, when this makes the caller's endpoint or asks what is left of it.
    leave: Timestamp,
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
    /// It is gone, or its node is; another node is looked for.
    Lost,
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
    /// Commands to other nodes, or to this one beside its session.
    pub sides: Vec<Side>,
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
            sides: Vec::new(),
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

    /// Nodes number their events each for itself.
    pub fn is_new(&mut self, node: Option<&NodeId>, event: u64) -> bool {
        let node = node.map_or("", NodeId::as_str);
        let event = node
            .bytes()
            .fold(event, |hash, b| hash.rotate_left(5).wrapping_mul(0x9e37_79b9).wrapping_add(b.into()));
        if self.seen.contains(&event) {
            return false;
        }
        self.seen[usize::from(self.seen_at)] = event;
        self.seen_at = (self.seen_at + 1) % SEEN as u8;
        true
    }

    /// Nothing of this call is left on the node, or it has been given up.
    pub fn closed(&self) -> bool {
        matches!(self.session, Session::None | Session::Closed | Session::Lost)
            && self.open.is_none()
            && self.sides.is_empty()
    }

    /// The session is gone: nothing more is asked of this node.
    pub fn abandon(&mut self) {
        self.session = Session::Lost;
        if let Some(open) = self.open.take() {
            self.waiting.push_front((open.body, open.then));
        }
    }

    /// The session is gone, and nobody needs it any more.
    pub fn give_up(&mut self) {
        self.rehome();
        self.session = Session::Closed;
    }

    /// Another node: what was asked of the former one is dropped. Returns what it was for.
    pub fn rehome(&mut self) -> Vec<Then> {
        self.session = Session::None;
        let open = self.open.take().map(|open| open.then);
        open.into_iter().chain(self.waiting.drain(..).map(|(_, then)| then)).collect()
    }

    pub fn is_lost(&self) -> bool {
        self.session == Session::Lost
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
            |then| matches!(then, Then::Remade { session: s, request: r, .. } if s == session && r == request),
        )
    }

    pub fn timers(&self, visit: &mut dyn FnMut(Timestamp, Timer)) {
        if let Some(open) = &self.open {
            visit(open.resend.min(open.give_up), Timer::Media);
        }
    }
}

impl Call {
    /// The node has ended the session, or never will.
    pub(crate) fn session_closed(&mut self) {
        self.media.session = Session::Closed;
    }

    /// Has a command done, after those before it.
    pub(crate) fn media(&mut self, cx: &mut Cx<'_>, body: MediaBody, then: Then) {
        if self.media.node.is_none()
            || matches!(self.media.session, Session::Closing | Session::Closed | Session::Lost)
        {
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
        if self.media.waiting.is_empty() {
            self.media.waiting = VecDeque::new();
        }
        let id = self.media.mint(cx.now);
        let resend = cx.now.plus(self.settings.media_resend);
        // Nobody waits for the end of a session, so there is time to get it through.
        let patience =
            if then == Then::Close { self.settings.settle_deadline } else { self.settings.media_deadline };
        let (give_up, leave) = (cx.now.plus(patience), cx.now.plus(self.settings.media_try));
        self.media.open = Some(Box::new(Open { id, body, then, leave, resend, give_up, overloads: 0 }));
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
        if self.ended.is_none() && !self.node_is_there() {
            return self.node_gone(cx);
        }
        let Some(open) = self.media.open.as_deref_mut() else { return };
        let (late, then) = (cx.now >= open.leave && self.ended.is_none(), open.then.clone());
        let makes_a_session = then == Then::Clear || matches!(open.body, MediaBody::CreateRtp { .. });
        if late && makes_a_session && self.next_node(cx) {
            return;
        }
        // It may have died with the call's former owner, and still count as a member.
        if late && then == Then::Probe && self.may_leave() {
            self.media.open = None;
            self.recovering = false;
            return self.resume_without_session(cx, true);
        }
        self.send_open(cx);
    }

    pub(crate) fn on_media_reply(&mut self, cx: &mut Cx<'_>, reply: MediaReply) {
        if self.side_answered(cx, &reply) {
            return;
        }
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
}
