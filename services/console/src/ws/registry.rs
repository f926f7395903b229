use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use trunkline_proto::{
    acd::v1::{self as acd, AgentCommand, agent_command::Command},
    console::v1::{ConsoleMessage, console_message::Message},
};
use trunkline_types::NodeId;

use super::{
    outbox::Frame,
    protocol::{CloseCode, Hello, Snapshot, TransferQueue, VERSION, Welcome, kind},
    session::{Close, Due, Link, Session, json},
};
use crate::{
    auth::{Auth, Caller, Right},
    clock,
    config::{ConsoleConfig, Timings},
    metrics::ConsoleMetrics,
    ports::{AgentPort, Directory, Refused},
    rest::user,
};

/// Sessions of one agent at once.
const MAX_PER_AGENT: usize = 8;
/// Seconds between a client's pings.
const KEEPALIVE_S: u32 = 10;

/// All sessions of this node.
pub(crate) struct Registry {
    node: NodeId,
    incarnation: u64,
    agents: Arc<dyn AgentPort>,
    directory: Arc<dyn Directory>,
    auth: Arc<Auth>,
    timings: Timings,
    max_sessions: usize,
    alternates: Vec<String>,
    metrics: ConsoleMetrics,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sessions: HashMap<String, Arc<Session>>,
    by_agent: HashMap<(String, String), Vec<Arc<Session>>>,
}

impl Inner {
    fn remove(&mut self, session: &Arc<Session>, key: &(String, String)) {
        self.sessions.remove(&session.id);
        if let Some(list) = self.by_agent.get_mut(key) {
            list.retain(|other| !Arc::ptr_eq(other, session));
            if list.is_empty() {
                self.by_agent.remove(key);
            }
        }
    }
}

fn key(caller: &Caller) -> (String, String) {
    (caller.tenant.to_string(), caller.agent.as_ref().map(ToString::to_string).unwrap_or_default())
}

fn attach(connection: u64) -> Command {
    Command::Attach(acd::Attach { connection })
}

impl Registry {
    pub(crate) fn new(ports: &crate::Ports, auth: Arc<Auth>, config: &ConsoleConfig) -> Self {
        Self {
            node: ports.node.clone(),
            incarnation: ports.incarnation,
            agents: Arc::clone(&ports.agents),
            directory: Arc::clone(&ports.directory),
            auth,
            timings: config.timings,
            max_sessions: config.max_sessions,
            alternates: config.alternates.clone(),
            metrics: ports.metrics.clone(),
            inner: Mutex::default(),
        }
    }

    /// Whoever holds the ticket of a `hello` without a cookie, if agents' pages may come from other origins.
    pub(super) fn ticket_holder(&self, hello: &Hello) -> Option<Caller> {
        let ticket = hello.ticket.as_deref().filter(|_| !self.alternates.is_empty())?;
        self.auth.ticket_holder(ticket).filter(|caller| caller.may(Right::AgentDesk))
    }

    /// A client said hello: resumes its session or begins one.
    pub(super) fn join(
        &self,
        caller: &Caller,
        hello: &Hello,
        id: Option<Arc<str>>,
        link: &Arc<Link>,
    ) -> Result<Arc<Session>, Close> {
        let now = Instant::now();
        let resumed = hello.resume.as_ref().and_then(|resume| {
            let session = self.inner.lock().sessions.get(&resume.session).cloned()?;
            let mut state = session.lock();
            let same = !state.gone && key(&state.caller) == key(caller) && state.caller.name == caller.name;
            if !same {
                return None;
            }
            state.caller = caller.clone();
            let welcome = |resumed| self.welcome(&session.id, caller, resumed, id.clone());
            let last_seq = Some(resume.last_seq);
            let resumed = state.join(Arc::clone(link), last_seq, hello.connection, now, welcome);
            drop(state);
            tracing::debug!(resumed, client = hello.client, "agent session came back");
            Some(session)
        });
        let session = match resumed {
            Some(session) => session,
            None => {
                let session = self.begin(caller, hello, now)?;
                let welcome = |resumed| self.welcome(&session.id, caller, resumed, id.clone());
                session.lock().join(Arc::clone(link), None, hello.connection, now, welcome);
                session
            }
        };
        let connection = session.lock().connection();
        if let Err(refused) = self.send(caller, &session.id, "", attach(connection)) {
            tracing::info!(%refused, "attach is tried again");
        }
        Ok(session)
    }

    /// A session that this node does not have: one of another node (or of this node's former life), which goes on here under
    /// its name, or a new one. Names are marked for their account, so that nobody takes a session that is not his.
    fn begin(&self, caller: &Caller, hello: &Hello, now: Instant) -> Result<Arc<Session>, Close> {
        let known = hello.resume.as_ref().map(|resume| resume.session.as_str());
        let taken = known.filter(|name| self.auth.is_session_of(caller, name));
        // In the registry still: it was refused above, or is another caller's.
        let taken = taken.filter(|name| !self.inner.lock().sessions.contains_key(*name));
        tracing::debug!(client = hello.client, moved = taken.is_some(), "agent session began");
        let name = taken.map_or_else(|| self.auth.name_session(caller), str::to_owned);
        let session = Arc::new(Session::new(name, caller.clone(), self.metrics.clone(), now));
        if let Some(replaced) = self.insert(&session, key(caller))? {
            let _ = self.send(caller, &replaced.id, "", Command::Detach(acd::Detach {}));
        }
        Ok(session)
    }

    /// Adds a session; gives back the one that had to make room.
    fn insert(&self, session: &Arc<Session>, key: (String, String)) -> Result<Option<Arc<Session>>, Close> {
        let mut inner = self.inner.lock();
        if inner.sessions.len() >= self.max_sessions {
            return Err(Close::new(CloseCode::Draining, "this node has no room for more sessions"));
        }
        // Two connections bring the same session from another node at once: the later one tries again, and finds it.
        if inner.sessions.contains_key(&session.id) {
            return Err(Close::new(CloseCode::Draining, "this session is just arriving: connect again"));
        }
        let mut replaced = None;
        if let Some(list) = inner.by_agent.get(&key).filter(|list| list.len() >= MAX_PER_AGENT) {
            let parted = list.iter().filter_map(|s| Some((s.lock().parted_at()?, Arc::clone(s))));
            let Some((_, oldest)) = parted.min_by_key(|(since, _)| *since) else {
                return Err(Close::new(CloseCode::Protocol, "this agent has too many sessions: close some"));
            };
            oldest.lock().gone = true;
            inner.remove(&oldest, &key);
            replaced = Some(oldest);
        }
        inner.sessions.insert(session.id.clone(), Arc::clone(session));
        inner.by_agent.entry(key).or_default().push(Arc::clone(session));
        Ok(replaced)
    }

    /// The session's client is connected to another node. What it may still have here is a socket that nobody reads.
    fn moved_away(&self, session: &Arc<Session>, key: &(String, String), node: &str) {
        let mut state = session.lock();
        state.gone = true;
        state.close(Close::new(CloseCode::Draining, "this session goes on at another node"));
        drop(state);
        self.inner.lock().remove(session, key);
        tracing::debug!(node, "agent session moved away");
    }

    fn transfer_queues(&self, caller: &Caller) -> Vec<TransferQueue> {
        let queues = self.directory.queues(&caller.tenant).into_iter();
        queues.map(|queue| TransferQueue { id: queue.id.to_string(), name: queue.name }).collect()
    }

    fn welcome(&self, session: &str, caller: &Caller, resumed: bool, re: Option<Arc<str>>) -> Frame {
        let welcome = Welcome {
            session: session.to_owned(),
            resumed,
            server_ms: clock::now_ms(),
            protocol: VERSION,
            user: user(caller),
            not_ready_reasons: self.directory.not_ready_reasons(&caller.tenant),
            transfer_queues: self.transfer_queues(caller),
            keepalive_s: KEEPALIVE_S,
            alternates: self.alternates.clone(),
            ticket: (!self.alternates.is_empty()).then(|| self.auth.ticket(caller)),
        };
        Frame { kind: kind::WELCOME, re, data: json(&welcome) }
    }

    /// A socket is gone. The session waits for its client, unless the agent signed out.
    pub(super) fn part(&self, session: &Arc<Session>, link: &Arc<Link>) {
        let mut state = session.lock();
        let over = state.part(link, Instant::now()) && state.is_signed_out() && !state.gone;
        state.gone |= over;
        let caller = state.caller.clone();
        drop(state);
        if over {
            self.end(session, &caller);
        }
    }

    fn end(&self, session: &Arc<Session>, caller: &Caller) {
        self.inner.lock().remove(session, &key(caller));
        let told = session.lock().is_detached();
        if !told {
            let _ = self.send(caller, &session.id, "", Command::Detach(acd::Detach {}));
        }
        tracing::debug!("agent session ended");
    }

    /// Sends a command to the agent's actor.
    pub(super) fn send(
        &self,
        caller: &Caller,
        session: &str,
        id: &str,
        command: Command,
    ) -> Result<(), Refused> {
        let agent = caller.agent.as_ref().ok_or(Refused::UnknownAgent)?;
        let command = AgentCommand {
            session: session.to_owned(),
            console: self.node.to_string(),
            console_incarnation: self.incarnation,
            id: id.to_owned(),
            command: Some(command),
        };
        self.agents.send(&caller.tenant, agent, command)
    }

    /// Passes on what an agent's actor says. Never blocks; sessions that are gone are skipped.
    pub(crate) fn deliver(&self, message: ConsoleMessage) {
        let ConsoleMessage { session, tenant, agent_id, message } = message;
        let Some(message) = message else { return self.metrics.delivery("empty") };
        let key = (tenant, agent_id);
        let receivers: Vec<Arc<Session>> = {
            let inner = self.inner.lock();
            let all = inner.by_agent.get(&key).map(Vec::as_slice).unwrap_or_default();
            all.iter().filter(|s| session.is_empty() || s.id == session).cloned().collect()
        };
        if receivers.is_empty() {
            return self.metrics.delivery("no_session");
        }
        let now = Instant::now();
        let message = match message {
            Message::Snapshot(snapshot) => {
                let order = (snapshot.epoch, snapshot.version);
                let view = Arc::new(Snapshot::from(snapshot));
                receivers.iter().for_each(|session| session.lock().show(order, &view));
                return self.metrics.delivery("ok");
            }
            other => other,
        };
        for session in receivers {
            let mut state = session.lock();
            match &message {
                Message::Snapshot(_) => {}
                Message::Result(result) => {
                    if state.answered(result, now) {
                        state.attach_again(now, &self.timings);
                    }
                }
                Message::SdpAnswer(answer) => state.sdp(answer, now),
                Message::Ring(ring) => state.ring(ring),
                Message::MicrophoneLostTo(to) => state.microphone_lost(to),
                Message::Transcript(line) => state.transcript(line),
                Message::MediaMoved(moved) => state.media_moved(moved),
                Message::SupersededBy(node) => {
                    drop(state);
                    self.moved_away(&session, &key, node);
                    continue;
                }
            }
        }
        self.metrics.delivery("ok");
    }

    /// Looks over all sessions until `stop`: time-outs of commands, renewals, expiry, ended sign-ins.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.timings.sweep);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut rights_checked = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            let now = Instant::now();
            let check_rights = now.saturating_duration_since(rights_checked) >= Duration::from_secs(1);
            if check_rights {
                rights_checked = now;
            }
            self.sweep(now, check_rights);
        }
        let sessions: Vec<_> = self.inner.lock().sessions.values().cloned().collect();
        for session in sessions {
            session
                .lock()
                .close(Close::new(CloseCode::Draining, "this node is being stopped: connect again"));
        }
    }

    fn sweep(&self, now: Instant, check_rights: bool) {
        let sessions: Vec<_> = self.inner.lock().sessions.values().cloned().collect();
        for session in sessions {
            let mut state = session.lock();
            if check_rights && state.is_connected() && !self.auth.still_holds(&state.caller, Right::AgentDesk)
            {
                state.close(Close::new(CloseCode::NotSignedIn, "the sign-in ended"));
            }
            let due = state.sweep(now, &self.timings);
            let again = state.unanswered(now, &self.timings);
            if due == Due::Nothing && again.is_empty() {
                continue;
            }
            let (caller, connection) = (state.caller.clone(), state.connection());
            drop(state);
            let sent = match due {
                Due::Nothing => Ok(()),
                Due::Expire => {
                    self.end(&session, &caller);
                    Ok(())
                }
                Due::Detach => {
                    let sent = self.send(&caller, &session.id, "", Command::Detach(acd::Detach {}));
                    let mut state = session.lock();
                    if state.detach_sent(sent.is_ok()) {
                        state.attach_again(now, &self.timings);
                    }
                    sent
                }
                Due::Attach => self.send(&caller, &session.id, "", attach(connection)),
                Due::Keepalive => self.send(&caller, &session.id, "", Command::Keepalive(acd::Keepalive {})),
            };
            let again = again.into_iter().map(|(id, command)| self.send(&caller, &session.id, &id, command));
            for refused in std::iter::once(sent).chain(again).filter_map(Result::err) {
                tracing::debug!(%refused, "a session could not be renewed, or a command sent again");
            }
        }
        self.count();
    }

    fn count(&self) {
        let (all, connected) = {
            let inner = self.inner.lock();
            let connected = inner.sessions.values().filter(|session| session.lock().is_connected()).count();
            (inner.sessions.len(), connected)
        };
        self.metrics.sessions.set(all as i64);
        self.metrics.sessions_connected.set(connected as i64);
    }
}
