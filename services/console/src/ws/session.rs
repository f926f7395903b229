use std::{borrow::Cow, sync::Arc, time::Instant};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::Notify;
use trunkline_proto::{acd::v1::agent_command::Command, console::v1 as proto};

use super::{
    command_log::{Begin, CommandLog, Finished},
    merge_patch::Patch,
    outbox::{Frame, NeverSent, Outbox},
    protocol::{CloseCode, CommandResult, MediaMoved, MicrophoneLost, Ring, Snapshot, Transcript, kind},
};
use crate::{auth::Caller, config::Timings, metrics::ConsoleMetrics};

/// Why a WebSocket is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: CloseCode,
    pub(crate) reason: Cow<'static, str>,
}

impl Close {
    pub(crate) fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// How a session reaches the task that owns its WebSocket.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Something is to be sent, or the socket is to be closed.
    pub(super) wake: Notify,
    close: Mutex<Option<Close>>,
}

impl Link {
    /// Closes the socket; the first reason counts.
    pub(super) fn close(&self, close: Close) {
        self.close.lock().get_or_insert(close);
        self.wake.notify_one();
    }

    /// Whether it is to be closed.
    pub(super) fn closing(&self) -> Option<Close> {
        self.close.lock().clone()
    }
}

/// One client of an agent (a browser tab), over all WebSockets that it uses one after the other.
pub(crate) struct Session {
    pub(super) id: String,
    state: Mutex<State>,
}

/// A session's state; methods never block.
pub(super) struct State {
    pub(super) caller: Caller,
    outbox: Outbox,
    commands: CommandLog,
    view: Option<Arc<Snapshot>>,
    /// Epoch and version of the newest state that came.
    newest: (u64, u64),
    /// The client's count of its connections, for the agent's actor.
    connection: u64,
    link: Option<Arc<Link>>,
    parted_at: Option<Instant>,
    /// Removed from the registry: cannot be resumed any more.
    pub(super) gone: bool,
    signed_out: bool,
    renewed_at: Instant,
    attached_at: Instant,
    /// An Attach was sent, and no state has come since.
    waits_for_state: bool,
    /// The agent's actor was told that nobody is there.
    detached: bool,
    metrics: ConsoleMetrics,
}

/// What the sweep has to do for a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Attach,
    Keepalive,
    Detach,
    Expire,
}

impl Session {
    pub(super) fn new(id: String, caller: Caller, metrics: ConsoleMetrics, now: Instant) -> Self {
        let state = State {
            caller,
            outbox: Outbox::default(),
            commands: CommandLog::default(),
            view: None,
            newest: (0, 0),
            connection: 0,
            link: None,
            parted_at: Some(now),
            gone: false,
            signed_out: false,
            renewed_at: now,
            attached_at: now,
            waits_for_state: true,
            detached: false,
            metrics,
        };
        Self { id, state: Mutex::new(state) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Gives the session to a new socket; one that it still has is told so. True when it went on where the client
    /// was, false when it begins again from a snapshot. `welcome` makes the first frame's data.
    pub(super) fn join(
        &mut self,
        link: Arc<Link>,
        last_seq: Option<u64>,
        connection: u64,
        now: Instant,
        welcome: impl Fn(bool) -> Frame,
    ) -> bool {
        self.connection = self.connection.max(connection);
        if let Some(old) = self.link.replace(link) {
            old.close(Close::new(CloseCode::Superseded, "another connection resumed this session"));
        }
        self.parted_at = None;
        self.waits_for_state = true;
        self.detached = false;
        self.attached_at = now;
        let resumed = last_seq.is_some_and(|seq| self.outbox.resume(seq, welcome(true)));
        if !resumed {
            self.outbox.restart(welcome(false));
            self.view = None;
        }
        self.wake();
        resumed
    }

    /// The socket is gone; true when it was the session's present one.
    pub(super) fn part(&mut self, link: &Arc<Link>, now: Instant) -> bool {
        let mine = self.link.as_ref().is_some_and(|own| Arc::ptr_eq(own, link));
        if mine {
            self.link = None;
            self.parted_at = Some(now);
        }
        mine
    }

    /// Whether a socket has it now.
    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Without a socket since then.
    pub(super) fn parted_at(&self) -> Option<Instant> {
        self.parted_at
    }

    /// The agent signed out here.
    pub(super) fn is_signed_out(&self) -> bool {
        self.signed_out
    }

    /// Closes the socket, if any.
    pub(super) fn close(&self, close: Close) {
        if let Some(link) = &self.link {
            link.close(close);
        }
    }

    fn wake(&self) {
        if let Some(link) = &self.link {
            link.wake.notify_one();
        }
    }

    /// Frames for the socket that asks; none when another one has the session by now.
    pub(super) fn take(&mut self, link: &Arc<Link>, max: usize) -> Vec<String> {
        match &self.link {
            Some(own) if Arc::ptr_eq(own, link) => self.outbox.take(max),
            _ => Vec::new(),
        }
    }

    pub(super) fn acknowledge(&mut self, seq: u64) -> Result<(), NeverSent> {
        self.outbox.acknowledge(seq)
    }

    /// Puts out one frame. When the client acknowledges nothing for too long, everything is dropped and the socket
    /// closed: the client comes back and gets a snapshot.
    pub(super) fn push(&mut self, kind: &'static str, re: Option<Arc<str>>, data: Arc<str>) {
        let known = self.outbox.is_overflowed();
        if self.outbox.push(Frame { kind, re, data }) {
            self.wake();
        } else if !known {
            self.metrics.delivery("overflow");
            self.close(Close::new(CloseCode::Protocol, "too many frames without an ack: connect again"));
        }
    }

    /// A command came: [`Begin::New`] has to be sent on; everything else is dealt with here.
    pub(super) fn begin(&mut self, id: &str, kind: &'static str, command: &Command, now: Instant) -> Begin {
        let begin = self.commands.begin(id, kind, command, now);
        match &begin {
            Begin::New | Begin::UnderWay => {}
            Begin::Done(result) => {
                self.push(super::protocol::kind::RESULT, Some(id.into()), Arc::clone(result))
            }
            Begin::Full => {
                self.refuse(id, "too_many_commands", "too many commands at once: wait for results", None)
            }
        }
        begin
    }

    /// A result for what is no command under way.
    pub(super) fn refuse(&mut self, id: &str, error: &str, message: &str, field: Option<String>) {
        let result = CommandResult {
            error: Some(error.into()),
            message: Some(message.into()),
            field,
            ..CommandResult::default()
        };
        self.push(kind::RESULT, Some(id.into()), json(&result));
    }

    /// The one result of a command under way.
    pub(super) fn finish(&mut self, id: &str, result: CommandResult, outcome: &'static str, now: Instant) {
        let ok = result.ok;
        let text = json(&result);
        let Some(Finished { id, kind: command, took }) = self.commands.finish(id, &text, now) else { return };
        self.signed_out |= ok && command == "sign_out";
        self.metrics.command(command, outcome, took.as_secs_f64());
        self.push(kind::RESULT, Some(id), text);
    }

    /// A command could not be sent on or was not answered.
    pub(super) fn fail(&mut self, id: &str, error: &'static str, message: &str, now: Instant) {
        let result = CommandResult {
            error: Some(error.into()),
            message: Some(message.into()),
            ..CommandResult::default()
        };
        self.finish(id, result, error, now);
    }

    /// Notes of the call in the last state.
    pub(super) fn saved_notes(&self) -> String {
        let call = self.view.as_ref().and_then(|view| view.call.as_ref());
        call.map(|call| call.notes.clone()).unwrap_or_default()
    }

    /// The client's count of its connections.
    pub(super) fn connection(&self) -> u64 {
        self.connection
    }

    /// The agent's actor has a new state. One that was overtaken on its way by a newer one, perhaps of another node, is
    /// nothing.
    pub(super) fn show(&mut self, order: (u64, u64), new: &Arc<Snapshot>) {
        self.waits_for_state = false;
        if order < self.newest {
            return;
        }
        self.newest = order;
        let Some(old) = &self.view else {
            self.view = Some(Arc::clone(new));
            self.push(kind::SNAPSHOT, None, json(&**new));
            return;
        };
        // The clock alone is no news.
        let news = new.patch(old).filter(|patch| {
            patch.as_object().is_some_and(|fields| fields.keys().any(|field| field != "server_ms"))
        });
        if let Some(patch) = news {
            self.view = Some(Arc::clone(new));
            self.push(kind::DELTA, None, patch.to_string().into());
        }
    }

    /// The agent's actor answered a command. True: it does not know the session (any more).
    pub(super) fn answered(&mut self, answer: &proto::CommandResult, now: Instant) -> bool {
        let Some((_, wants_sdp)) = self.commands.under_way(&answer.id) else { return false };
        if answer.error.is_empty() {
            // "Done" comes before the SDP answer where one is due: the result is the answer.
            if !wants_sdp {
                self.finish(&answer.id, CommandResult { ok: true, ..CommandResult::default() }, "ok", now);
            }
            return false;
        }
        let message = if answer.message.is_empty() { &answer.error } else { &answer.message };
        let result = CommandResult {
            error: Some(answer.error.clone()),
            message: Some(message.clone()),
            ..CommandResult::default()
        };
        self.finish(&answer.id, result, "refused", now);
        answer.error == "not_attached"
    }

    /// The SDP answer came.
    pub(super) fn sdp(&mut self, answer: &proto::SdpAnswer, now: Instant) {
        let result = CommandResult { ok: true, sdp: Some(answer.sdp.clone()), ..CommandResult::default() };
        self.finish(&answer.id, result, "ok", now);
    }

    pub(super) fn ring(&mut self, ring: &proto::Ring) {
        self.push(kind::RING, None, json(&Ring { offer_id: ring.offer_id.clone() }));
    }

    pub(super) fn microphone_lost(&mut self, to: &str) {
        self.push(kind::MICROPHONE_LOST, None, json(&MicrophoneLost { to_session: to.into() }));
    }

    pub(super) fn media_moved(&mut self, moved: &proto::MediaMoved) {
        let moved = MediaMoved { offer_id: moved.offer_id.clone(), generation: moved.generation };
        self.push(kind::MEDIA_MOVED, None, json(&moved));
    }

    pub(super) fn transcript(&mut self, line: &proto::TranscriptLine) {
        self.push(kind::TRANSCRIPT, None, json(&Transcript::from(line.clone())));
    }

    /// Whether the agent's actor knows already that nobody is there.
    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    /// What became of a Detach that was sent without the lock. True: the client came back meanwhile, and its Attach may
    /// have been overtaken.
    pub(super) fn detach_sent(&mut self, sent: bool) -> bool {
        if !self.is_connected() {
            self.detached = sent;
        }
        self.is_connected()
    }

    /// Asks for the state again, with the next sweep.
    pub(super) fn attach_again(&mut self, now: Instant, timings: &Timings) {
        self.waits_for_state = true;
        self.attached_at = now.checked_sub(timings.attach).unwrap_or(now);
    }

    /// Commands that are to be sent again.
    pub(super) fn unanswered(&mut self, now: Instant, timings: &Timings) -> Vec<(Arc<str>, Command)> {
        self.commands.unanswered(now, timings.command_again)
    }

    /// What time asks for. Commands that nobody answered fail here.
    pub(super) fn sweep(&mut self, now: Instant, timings: &Timings) -> Due {
        for id in self.commands.overdue(now, timings.command) {
            self.fail(
                &id,
                "timeout",
                "the system did not answer in time: look at the state before trying again",
                now,
            );
        }
        if let Some(parted) = self.parted_at {
            let over = now.saturating_duration_since(parted) >= timings.resume;
            self.gone |= over;
            if over {
                return Due::Expire;
            }
            let alone = now.saturating_duration_since(parted) >= timings.detach;
            return if alone && !self.detached { Due::Detach } else { Due::Nothing };
        }
        if self.waits_for_state && now.saturating_duration_since(self.attached_at) >= timings.attach {
            (self.attached_at, self.renewed_at) = (now, now);
            return Due::Attach;
        }
        if now.saturating_duration_since(self.renewed_at) >= timings.keepalive {
            self.renewed_at = now;
            return Due::Keepalive;
        }
        Due::Nothing
    }
}

/// As JSON text; the types of the protocol always have one.
pub(super) fn json<T: Serialize>(value: &T) -> Arc<str> {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".into()).into()
}
