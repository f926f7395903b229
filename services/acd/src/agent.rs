//! The shell of an agent.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use prost::Message as _;
use trunkline_acd_core::{
    Agent, AgentEffect, AgentEvent, AgentInput, AgentView, SessionId,
    agent::{AgentSnapshot, AgentStatus, Attached, Command, CommandError, Console, Notes, SessionInput},
};
use trunkline_actors::{Behaviour, DecodeError, now};
use trunkline_journal::{EffectId, NewEvent, StoredEvent};
use trunkline_proto::{
    acd::v1 as pb,
    call::v1::{CallMessage, call_message},
    common::v1::envelope::Payload,
    console::v1::{ConsoleMessage, MediaMoved, Ring, TranscriptLine, console_message},
};
use trunkline_types::{AgentId, EntityAddress, Feature, TenantId, Timestamp};

use crate::{
    AcdMetrics,
    convert::{agent_event, agent_message, queue_message, view},
    outbox::Sender,
    parts::Directory,
    sessions::{Over, Sessions},
    spans::AgentSpans,
};

const SNAPSHOT: u16 = 1;
const EVENT: u16 = 1;
/// Consoles of sessions that are not attached, to be answered there.
const STRANGERS_MOST: usize = 16;

/// What an agent's actor is told.
pub(crate) enum AgentMail {
    Wire {
        message: Box<pb::AgentMessage>,
        /// The span that caused it; may be empty.
        traceparent: String,
    },
    Configure(Box<trunkline_acd_core::AgentConfig>),
    /// A session showed no life, or its console is gone.
    Over(Over),
}

pub(crate) struct AgentShell {
    tenant: TenantId,
    agent: AgentId,
    sender: Sender,
    directory: Arc<dyn Directory>,
    metrics: AcdMetrics,
    sessions: Sessions,
    /// Sessions that spoke without being attached, and their consoles.
    strangers: VecDeque<(String, String)>,
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
            strangers: VecDeque::new(),
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
            Some(Message::Call(pb::CallToAgent {
                offer_id,
                event: Some(pb::call_to_agent::Event::MediaMoved(moved)),
                ..
            })) => {
                self.pass_media_moved(&offer_id, moved.generation);
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
        for console in self.consoles() {
            self.to_console(&console, "", console_message::Message::Transcript(line.clone()));
        }
    }

    /// The call repeats it until the page has made a new offer; the page knows repetitions by the generation.
    fn pass_media_moved(&mut self, offer_id: &str, generation: u32) {
        self.call.media_generation = self.call.media_generation.max(generation);
        let Some(view) = &self.shown else { return };
        let talks =
            matches!(&view.status, AgentStatus::Talking { offer, .. } if offer.to_string() == offer_id);
        if !talks {
            return;
        }
        let moved = MediaMoved { offer_id: offer_id.to_owned(), generation };
        let moved = console_message::Message::MediaMoved(moved);
        match &view.microphone {
            Some(session) => self.to_session(&session.0, moved),
            // Whoever has it.
            None => {
                for console in self.consoles() {
                    self.to_console(&console, "", moved.clone());
                }
            }
        }
    }

    fn attached(&self) -> &[Attached] {
        self.shown.as_ref().map_or(&[], |view| &view.sessions)
    }

    /// The console nodes of attached sessions.
    fn consoles(&self) -> BTreeSet<String> {
        self.attached().iter().map(|attached| attached.console.node.to_string()).collect()
    }

    fn malformed(&self, error: &crate::convert::Malformed) {
        tracing::warn!(agent = %self.agent, %error, "a message to an agent was dropped");
        self.metrics.malformed("agent");
    }

    fn read_call(&mut self, message: pb::CallToAgent) -> Result<AgentInput, crate::convert::Malformed> {
        use pb::call_to_agent::Event;
        let state = match &message.event {
            Some(Event::State(state)) => Some(state.clone()),
            Some(Event::Result(result)) => result.state.clone(),
            Some(Event::Connected(e)) => {
                let consultation = e.consultation.clone();
                Some(pb::AgentCallState { consultation, ..pb::AgentCallState::default() })
            }
            _ => None,
        };
        let before = agent_message::status(&self.call);
        if let Some(state) = state.filter(|state| state.at_us >= self.call.at_us || state.at_us == 0) {
            let changed = only_shown(&state) != only_shown(&self.call);
            let media_generation = state.media_generation.max(self.call.media_generation);
            let fresh = matches!(&message.event, Some(Event::Connected(_)));
            self.call = state;
            if !fresh {
                self.call.media_generation = media_generation;
            }
            if changed && let Some(view) = self.shown.clone() {
                // Hold and mute are the core's; these only pass through.
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
        let id = command.id.clone();
        let console = match agent_message::console(&command) {
            Ok(console) => console,
            Err(error) => {
                self.malformed(&error);
                return None;
            }
        };
        if self.is_at(&session, &console) {
            self.sessions.touch(&self.address(), &session, &console);
            if matches!(command.command, Some(Command::Keepalive(_))) {
                return None;
            }
        } else {
            self.strangers.retain(|(known, _)| *known != session);
            if self.strangers.len() >= STRANGERS_MOST {
                self.strangers.pop_front();
            }
            self.strangers.push_back((session.clone(), command.console.clone()));
        }
        match agent_message::from_session(command, &self.saved_notes()) {
            Ok(input) if is_transfer(&input) && !self.sender.may_write(Feature::Transfer) => {
                let reason = "upgrade_in_progress".to_owned();
                self.to_session(&session, view::failed(id, &CommandError::Call { reason }));
                None
            }
            Ok(input) => Some(input),
            Err(error) => {
                self.malformed(&error);
                let field = error.0.to_owned();
                let remedy = "is missing or malformed".to_owned();
                self.to_session(&session, view::failed(id, &CommandError::Invalid { field, remedy }));
                None
            }
        }
    }

    /// Attached there, as the core last showed it.
    fn is_at(&self, session: &str, console: &Console) -> bool {
        let here = |attached: &Attached| attached.session.0 == session && attached.console.is(console);
        self.attached().iter().any(here)
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
        self.sessions.set(&self.address(), self.attached(), &view.sessions);
        let before = self.shown.replace(view);
        let Some(view) = &self.shown else { return };
        let consoles = self.consoles();
        for console in &consoles {
            self.to_console(console, "", console_message::Message::Snapshot(snapshot.clone()));
        }
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
        let attached = self.attached().iter().find(|attached| attached.session.0 == session);
        if let Some(attached) = attached {
            self.to_console(attached.console.node.as_str(), session, message);
        } else if let Some((_, console)) = self.strangers.iter().find(|(known, _)| known == session) {
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

/// What of the call's state is not the core's.
fn only_shown(state: &pb::AgentCallState) -> (bool, bool, bool, u32, Option<&pb::Consultation>) {
    let consultation = state.consultation.as_ref();
    (state.recording, state.recording_paused, state.caller_held, state.media_generation, consultation)
}

/// Not before every node can read it.
fn is_transfer(input: &AgentInput) -> bool {
    let AgentInput::FromSession { message: SessionInput::Command { command, .. }, .. } = input else {
        return false;
    };
    matches!(command, Command::Control { action } if action.is_transfer())
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
            AgentMail::Over(Over { session, console, reason }) => Some(AgentInput::FromSession {
                session: SessionId(session),
                console,
                message: SessionInput::Detach { reason },
            }),
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
            AgentEffect::Superseded { session, console, by } => {
                let message = console_message::Message::SupersededBy(by.node.to_string());
                self.to_console(console.node.as_str(), &session.0, message);
            }
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
