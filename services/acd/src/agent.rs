//! The shell of an agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message as _;
use trunkline_acd_core::{
    Agent, AgentEffect, AgentEvent, AgentInput, AgentView, SessionId,
    agent::{AgentSnapshot, AgentStatus, Notes, SessionInput},
};
use trunkline_actors::{Behaviour, DecodeError, now};
use trunkline_journal::{EffectId, NewEvent, StoredEvent};
use trunkline_proto::{
    acd::v1 as pb,
    call::v1::{CallMessage, call_message},
    common::v1::envelope::Payload,
    console::v1::{ConsoleMessage, Ring, TranscriptLine, console_message},
};
use trunkline_types::{AgentId, EntityAddress, TenantId, Timestamp};

use crate::{
    AcdMetrics,
    convert::{agent_event, agent_message, queue_message, view},
    outbox::Sender,
    parts::Directory,
    sessions::Sessions,
    spans::AgentSpans,
};

const SNAPSHOT: u16 = 1;
const EVENT: u16 = 1;

/// What an agent's actor is told.
pub(crate) enum AgentMail {
    Wire {
        message: Box<pb::AgentMessage>,
        /// The span that caused it; may be empty.
        traceparent: String,
    },
    Configure(Box<trunkline_acd_core::AgentConfig>),
}

pub(crate) struct AgentShell {
    tenant: TenantId,
    agent: AgentId,
    sender: Sender,
    directory: Arc<dyn Directory>,
    metrics: AcdMetrics,
    sessions: Sessions,
    /// Attached session → its console node. Volatile: keep-alives bring it back.
    consoles: BTreeMap<String, String>,
    /// What was shown last; what the next one is compared with.
    shown: Option<Box<AgentView>>,
    /// The conversation as the call last told it.
    call: pb::AgentCallState,
    spans: AgentSpans,
    /// The traceparent of the message in hand.
    cause: String,
    /// The state under which the agent is counted.
    counted: Option<&'static str>,
}

impl AgentShell {
    pub fn new(
        tenant: TenantId,
        agent: AgentId,
        sender: Sender,
        directory: Arc<dyn Directory>,
        metrics: AcdMetrics,
        sessions: Sessions,
    ) -> Self {
        Self {
            tenant,
            agent,
            sender,
            directory,
            metrics,
            sessions,
            consoles: BTreeMap::new(),
            shown: None,
            call: pb::AgentCallState::default(),
            spans: AgentSpans::default(),
            cause: String::new(),
            counted: None,
        }
    }

    fn address(&self) -> EntityAddress {
        EntityAddress::agent(&self.tenant, &self.agent)
    }

    fn read(&mut self, message: pb::AgentMessage) -> Option<AgentInput> {
        use pb::agent_message::Message;
        let parsed = match message.message {
            Some(Message::Call(pb::CallToAgent {
                call_id,
                event: Some(pb::call_to_agent::Event::Transcript(line)),
                ..
            })) => {
                self.pass_transcript(call_id, line);
                return None;
            }
            Some(Message::Call(message)) => self.read_call(message),
            Some(Message::Command(command)) => return self.read_command(command),
            Some(other) => agent_message::from_queue(other),
            None => return None,
        };
        parsed.map_err(|error| self.malformed(&error)).ok()
    }

    /// What is said belongs to the call's record; the agent's pages only see it come.
    fn pass_transcript(&self, call_id: String, line: pb::AgentTranscript) {
        let line = TranscriptLine {
            call_id,
            channel: line.channel,
            start_ms: line.start_ms,
            end_ms: line.end_ms,
            text: line.text,
            is_final: line.is_final,
        };
        let consoles: BTreeSet<&String> = self.consoles.values().collect();
        for console in consoles {
            self.to_console(console, "", console_message::Message::Transcript(line.clone()));
        }
    }

    fn malformed(&self, error: &crate::convert::Malformed) {
        tracing::warn!(agent = %self.agent, %error, "a message to an agent was dropped");
        self.metrics.malformed("agent");
    }

    fn read_call(&mut self, message: pb::CallToAgent) -> Result<AgentInput, crate::convert::Malformed> {
        use pb::call_to_agent::Event;
        let state = match &message.event {
            Some(Event::State(state)) => Some(*state),
            Some(Event::Result(result)) => result.state,
            Some(Event::Connected(_)) => Some(pb::AgentCallState::default()),
            _ => None,
        };
        let before = agent_message::status(&self.call);
        if let Some(state) = state.filter(|state| state.at_us >= self.call.at_us || state.at_us == 0) {
            let changed =
                (state.recording, state.caller_held) != (self.call.recording, self.call.caller_held);
            self.call = state;
            if changed && let Some(view) = self.shown.clone() {
                // Hold and mute are the core's; these two only pass through.
                self.show(view);
            }
        }
        agent_message::from_call(message, before)
    }

    fn read_command(&mut self, command: pb::AgentCommand) -> Option<AgentInput> {
        use pb::agent_command::Command;
        let session = command.session.clone();
        if session.is_empty() || session.len() > 128 {
            self.metrics.malformed("agent");
            return None;
        }
        if matches!(command.command, Some(Command::Detach(_))) {
            self.sessions.remove(&self.address(), &session);
            self.consoles.remove(&session);
        } else {
            self.sessions.touch(&self.address(), &session);
            self.consoles.insert(session.clone(), command.console.clone());
            if matches!(command.command, Some(Command::Keepalive(_))) && !self.is_attached(&session) {
                // After a recovery, or an expiry that was too early: the session was attached once.
                let message = SessionInput::Attach;
                return Some(AgentInput::FromSession { session: SessionId(session), message });
            }
        }
        let id = command.id.clone();
        match agent_message::from_session(command, &self.saved_notes()) {
            Ok(input) => input,
            Err(error) => {
                self.malformed(&error);
                let field = error.0.to_owned();
                let remedy = "is missing or malformed".to_owned();
                let error = trunkline_acd_core::agent::CommandError::Invalid { field, remedy };
                self.to_session(&session, view::failed(id, &error));
                None
            }
        }
    }

    /// As the core last showed it.
    fn is_attached(&self, session: &str) -> bool {
        self.shown.as_ref().is_some_and(|view| view.sessions.iter().any(|known| known.0 == session))
    }

    fn saved_notes(&self) -> Notes {
        match self.shown.as_ref().map(|view| &view.status) {
            Some(AgentStatus::Talking { notes, .. } | AgentStatus::WrapUp { notes, .. }) => (**notes).clone(),
            _ => Notes::default(),
        }
    }

    fn count(&mut self, state: Option<&'static str>) {
        if self.counted != state {
            self.metrics.agent_moved(&self.tenant, self.counted, state);
            self.counted = state;
        }
    }

    fn show(&mut self, view: Box<AgentView>) {
        self.count(Some(view.status.name()));
        let queues = self.directory.queue_names(&self.tenant, &self.agent);
        let snapshot = view::snapshot(&view, &self.call, queues, now());
        let consoles: BTreeSet<String> = self.consoles.values().cloned().collect();
        for console in &consoles {
            self.to_console(console, "", console_message::Message::Snapshot(snapshot.clone()));
        }
        let before = self.shown.replace(view);
        let Some(view) = &self.shown else { return };
        if let AgentStatus::Ringing { offer, .. } = &view.status
            && !matches!(before.as_ref().map(|b| &b.status), Some(AgentStatus::Ringing { offer: o, .. }) if o == offer)
        {
            for console in &consoles {
                self.to_console(
                    console,
                    "",
                    console_message::Message::Ring(Ring { offer_id: offer.to_string() }),
                );
            }
        }
        let lost = before.and_then(|b| b.microphone);
        if let (Some(lost), Some(to)) = (lost, &view.microphone)
            && lost != *to
        {
            self.to_session(&lost.0, console_message::Message::MicrophoneLostTo(to.0.clone()));
        }
    }

    fn to_session(&self, session: &str, message: console_message::Message) {
        if let Some(console) = self.consoles.get(session) {
            self.to_console(console, session, message);
        }
    }

    fn to_console(&self, console: &str, session: &str, message: console_message::Message) {
        let message = ConsoleMessage {
            session: session.to_owned(),
            tenant: self.tenant.to_string(),
            agent_id: self.agent.to_string(),
            message: Some(message),
        };
        self.sender.to_console(console, Payload::Console(message));
    }
}

impl Drop for AgentShell {
    fn drop(&mut self) {
        self.count(None);
    }
}

impl Behaviour for AgentShell {
    type Core = Agent;
    type Input = AgentInput;
    type Event = AgentEvent;
    type Effect = AgentEffect;
    type Message = AgentMail;

    fn input(&mut self, message: AgentMail, _: Timestamp) -> Option<AgentInput> {
        match message {
            AgentMail::Configure(config) => Some(AgentInput::Configure(config)),
            AgentMail::Wire { message, traceparent } => {
                self.cause = traceparent;
                self.read(*message)
            }
        }
    }

    fn encode(&self, event: &AgentEvent, _: Timestamp) -> NewEvent {
        self.metrics.agent(event);
        self.spans.event(&self.agent, &self.cause, event);
        NewEvent::new(agent_event::kind(event), EVENT, event.at(), agent_event::encode(event).encode_to_vec())
    }

    fn decode(&self, stored: &StoredEvent) -> Result<AgentEvent, DecodeError> {
        let wire = pb::AgentEvent::decode(&*stored.payload).map_err(|e| DecodeError::new(e.to_string()))?;
        agent_event::decode(wire).map_err(|e| DecodeError::new(e.to_string()))
    }

    fn perform(&mut self, effect: AgentEffect, id: EffectId) {
        match effect {
            AgentEffect::ToQueue { queue, message } => {
                let to = EntityAddress::queue(&self.tenant, &queue);
                let message = queue_message::from_agent_to(self.agent.as_str(), message);
                self.sender.send(&to, Payload::Queue(message), Some(id));
            }
            AgentEffect::ToCall { call, message } => {
                let name = self.directory.agent(&self.tenant, &self.agent).map(|c| c.display_name);
                let name = name.unwrap_or_else(|| self.agent.to_string());
                let message = agent_message::to_call(&self.agent, &name, message);
                let message = CallMessage { message: Some(call_message::Message::Agent(message)) };
                let to = EntityAddress::call(&self.tenant, call);
                self.sender.send_under(self.spans.traceparent(call), &to, Payload::Call(message), Some(id));
            }
            AgentEffect::Show(view) => self.show(view),
            AgentEffect::CommandDone { session, id, reply } => {
                self.to_session(&session.0, view::done(id, reply))
            }
            AgentEffect::CommandFailed { session, id, error } => {
                self.to_session(&session.0, view::failed(id, &error));
            }
        }
    }

    fn finished(&self, _: &Agent) -> bool {
        false
    }

    fn snapshot(&self, core: &Agent) -> Option<(u16, bytes::Bytes)> {
        let body = serde_json::to_vec(&core.snapshot()).ok()?;
        Some((SNAPSHOT, body.into()))
    }

    fn restore(&self, core: &mut Agent, version: u16, body: &[u8]) -> Result<(), DecodeError> {
        if version != SNAPSHOT {
            return Err(DecodeError::new(format!("snapshot version {version} of an agent is not known")));
        }
        let snapshot: AgentSnapshot =
            serde_json::from_slice(body).map_err(|e| DecodeError::new(e.to_string()))?;
        let (tenant, agent) = (self.tenant.clone(), self.agent.clone());
        *core = Agent::restore(tenant, agent, self.sender.epoch(), core.config().clone(), snapshot);
        Ok(())
    }
}
