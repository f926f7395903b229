//! Which consoles an agent has, where they are, and how they come and go.
//!
//! Sessions are journalled: an agent whose node died is available again at once, shows its state to the pages that are
//! there, and is told by its node which of them are gone.

use std::fmt;

use serde::{Deserialize, Serialize};
use trunkline_types::{NodeId, Timestamp};

use super::{Agent, AgentEffect, AgentEvent, Outbox, state::Slot};
use crate::SessionId;

/// At most so many consoles; the oldest is forgotten.
const SESSIONS_MOST: usize = 16;

/// A console node in one of its lives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Console {
    /// The node.
    pub node: NodeId,
    /// Which of its lives; 0 = not told.
    pub incarnation: u64,
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.incarnation)
    }
}

impl Console {
    /// Whether it is the same life of the same node, as far as both tell.
    pub fn is(&self, other: &Self) -> bool {
        let told = self.incarnation != 0 && other.incarnation != 0;
        self.node == other.node && (!told || self.incarnation == other.incarnation)
    }
}

/// A session that is attached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attached {
    /// Which.
    pub session: SessionId,
    /// The console that serves it.
    pub console: Console,
    /// Which connection of the page this is; 0 = not told.
    #[serde(default)]
    pub connection: u64,
}

/// Why a session is no longer attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetachReason {
    /// Its console says so: the page is gone.
    Closed,
    /// Nothing was heard of it for too long.
    Silent,
    /// Its console's node vanished.
    ConsoleLost,
    /// It made room for a newer one.
    Replaced,
}

impl DetachReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Silent, Self::ConsoleLost, Self::Replaced];

    /// The name in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::ConsoleLost => "console_lost",
            Self::Replaced => "replaced",
        }
    }

    /// The inverse of [`DetachReason::as_str`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl Agent {
    fn attached(&self, session: &SessionId) -> Option<&Attached> {
        self.state.sessions.iter().find(|attached| attached.session == *session)
    }

    pub(super) fn is_attached(&self, session: &SessionId) -> bool {
        self.attached(session).is_some()
    }

    /// Whether the session is at another console; that one is told who has it.
    pub(super) fn is_superseded(&self, session: &SessionId, console: &Console, out: &mut Outbox) -> bool {
        let Some(attached) = self.attached(session).filter(|attached| !attached.console.is(console)) else {
            return false;
        };
        let (session, console, by) = (session.clone(), console.clone(), attached.console.clone());
        out.effect(AgentEffect::Superseded { session, console, by });
        true
    }

    /// A session is there: a new one, or a known one that came to another console and keeps what is its own.
    pub(super) fn attach(
        &mut self,
        session: SessionId,
        console: Console,
        connection: u64,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let known = self.attached(&session).cloned();
        if let Some(known) = &known {
            if connection != 0 && connection < known.connection {
                // The page has gone on; this is an older socket of it.
                _ = self.is_superseded(&session, &console, out);
                return;
            }
            if !known.console.is(&console) {
                let (session, console, by) = (session.clone(), known.console.clone(), console.clone());
                out.effect(AgentEffect::Superseded { session, console, by });
            }
        } else if self.state.sessions.len() >= SESSIONS_MOST
            && let Some(oldest) = self.state.sessions.first()
        {
            let (session, reason) = (oldest.session.clone(), DetachReason::Replaced);
            self.record(AgentEvent::SessionDetached { at: now, session, reason }, out);
        }
        self.changed = true;
        if known.is_none_or(|known| known.console != console || known.connection != connection) {
            let session = session.clone();
            self.record(AgentEvent::SessionAttached { at: now, session, console, connection }, out);
        }
        self.alone_since = None;
        if self.state.slot == Slot::SignedOut {
            self.record(AgentEvent::SignedIn { at: now, session }, out);
        }
    }

    /// The page is still there. After an expiry that was too early it is attached again.
    pub(super) fn keep_alive(
        &mut self,
        session: SessionId,
        console: Console,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        if !self.is_attached(&session) {
            self.attach(session, console, 0, now, out);
        } else {
            _ = self.is_superseded(&session, &console, out);
        }
    }

    /// A session is gone from a console, if it is still there: it may have come to another one meanwhile.
    pub(super) fn detach(
        &mut self,
        session: &SessionId,
        console: &Console,
        reason: DetachReason,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        if self.attached(session).is_none_or(|attached| !attached.console.is(console)) {
            return;
        }
        self.record(AgentEvent::SessionDetached { at: now, session: session.clone(), reason }, out);
        if self.state.sessions.is_empty() {
            self.alone_since = Some(now);
        }
    }

    /// The microphone is with a session that is attached.
    pub(super) fn microphone_elsewhere(&self, session: &SessionId) -> Option<SessionId> {
        self.state.microphone.clone().filter(|owner| owner != session && self.is_attached(owner))
    }
}
