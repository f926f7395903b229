//! The shell of a call.

use std::sync::{Arc, OnceLock};

use trunkline_actors::{Behaviour, CommitClass, DecodeError};
use trunkline_call_core::{Call, EdgeCommand, Effect, Event, EventBody, Input, Phase};
use trunkline_journal::{EffectId, NewEvent, StoredEvent};
use trunkline_proto::common::v1::{Role, envelope::Payload};
use trunkline_telemetry::trace_id_of;
use trunkline_types::{CallId, EntityAddress, NodeId, TenantId, Timestamp};

use crate::{CallMetrics, convert, media_nodes::MediaUse, outbox::Sender, spans::Spans};

/// Version of the events' form.
const EVENT: u16 = 1;

/// What a call's actor is told.
#[derive(Clone)]
pub(crate) struct Mail {
    pub input: Input,
    /// When the edge took the INVITE that makes the call from its socket.
    pub received: Option<Timestamp>,
    /// The span that it comes from; may be empty.
    pub traceparent: String,
}

/// The thin side of a call.
pub(crate) struct CallShell {
    call: CallId,
    tenant: TenantId,
    sender: Sender,
    metrics: CallMetrics,
    spans: Spans,
    phase: Phase,
    /// Where the call's media are, as `used` has it.
    node: Option<NodeId>,
    used: Arc<MediaUse>,
    /// Set until the INVITE is answered.
    received: Option<Timestamp>,
    rung: bool,
    /// By which the call came, once that is known: its first event tells.
    trunk: OnceLock<String>,
    /// The traceparent of the message in hand.
    cause: String,
}

impl CallShell {
    pub fn new(
        call: CallId,
        tenant: TenantId,
        sender: Sender,
        metrics: CallMetrics,
        used: Arc<MediaUse>,
    ) -> Self {
        metrics.entered(Phase::New);
        Self {
            spans: Spans::new(call),
            call,
            tenant,
            sender,
            metrics,
            phase: Phase::New,
            node: None,
            used,
            received: None,
            rung: false,
            trunk: OnceLock::new(),
            cause: String::new(),
        }
    }

    /// Which node the call's media are on now: none any more when it is over.
    fn on_node(&mut self, node: Option<&NodeId>) {
        if self.node.as_ref() != node {
            let call = EntityAddress::call(&self.tenant, self.call);
            self.used.moved(&call, self.node.as_ref(), node);
            self.node = node.cloned();
        }
    }

    /// How long the caller heard nothing.
    fn observe(&mut self, command: &EdgeCommand) {
        let (Some(received), EdgeCommand::Respond { response, .. }) = (self.received, command) else {
            return;
        };
        let took = trunkline_actors::now().since(received);
        if response.is_provisional() {
            if !self.rung {
                self.metrics.setup("ringing", took, self.call);
            }
            self.rung = true;
        } else {
            self.received = None;
            let outcome = if response.is_success() { "answered" } else { "refused" };
            self.metrics.setup(outcome, took, self.call);
        }
    }

    /// What later figures are told apart by.
    fn learn(&self, event: &Event) {
        if let EventBody::Started(started) = &event.body {
            self.trunk.get_or_init(|| started.trunk.clone());
        }
    }
}

impl Drop for CallShell {
    fn drop(&mut self) {
        self.metrics.left(self.phase);
        self.on_node(None);
    }
}

impl Behaviour for CallShell {
    type Core = Call;
    type Input = Input;
    type Event = Event;
    type Effect = Effect;
    type Message = Mail;

    fn input(&mut self, mail: Mail, _: Timestamp) -> Option<Input> {
        self.received = mail.received.or(self.received);
        self.cause = mail.traceparent;
        Some(mail.input)
    }

    fn encode(&self, event: &Event, _: Timestamp) -> NewEvent {
        self.metrics.event(event);
        self.learn(event);
        match &event.body {
            EventBody::LegQuality { leg, quality } => {
                let trunk = self.trunk.get().map_or("", String::as_str);
                self.metrics.measured(*leg, quality, trunk);
                if let Some(missing) = quality.missing {
                    let (sent, received) = (quality.packets_sent, quality.packets_received);
                    tracing::warn!(
                        call_id = %self.call, trace_id = %trace_id_of(self.call), leg_id = %leg, trunk,
                        missing = missing.as_str(), sent, received, "the audio of a leg went one way only"
                    );
                }
            }
            EventBody::Ended { cause, by } => tracing::info!(
                call_id = %self.call, trace_id = %trace_id_of(self.call), cause = cause.as_str(), ?by, "call ended"
            ),
            EventBody::LegReleased { leg, cause, .. } => tracing::debug!(
                call_id = %self.call, trace_id = %trace_id_of(self.call), leg_id = %leg, cause = cause.as_str(),
                "leg released"
            ),
            _ => {}
        }
        NewEvent::new(convert::kind(event), EVENT, event.at, convert::encode(event))
    }

    fn decode(&self, stored: &StoredEvent) -> Result<Event, DecodeError> {
        let event = convert::decode(&stored.payload).map_err(|error| DecodeError::new(error.to_string()))?;
        self.learn(&event);
        Ok(event)
    }

    fn perform(&mut self, effect: Effect, id: EffectId) {
        match effect {
            Effect::Edge { route, command } => {
                self.observe(&command);
                let command = convert::to_edge(&self.tenant, self.call, &route, command);
                let edge = self.sender.edge(&route.edge);
                self.sender.to_node(&edge, Role::Edge, Payload::Edge(command), Some(id));
            }
            Effect::Media { node, command } => {
                let command = convert::to_media(&self.tenant, self.call, self.sender.epoch(), command);
                self.sender.to_node(&node, Role::Media, Payload::Media(command), Some(id));
            }
            Effect::Acknowledge { node, event } => {
                let command = convert::acknowledge(self.call, self.sender.epoch(), event);
                self.sender.to_node(&node, Role::Media, Payload::Media(command), Some(id));
            }
            Effect::Queue { queue, request } => {
                let to = EntityAddress::queue(&self.tenant, &queue);
                let message = convert::to_queue(self.call, request);
                self.sender.to_entity(&to, Payload::Queue(message), Some(id));
            }
            Effect::Agent { agent, offer, notice } => {
                let to = EntityAddress::agent(&self.tenant, &agent);
                let message = convert::to_agent(self.call, &offer, notice);
                self.sender.to_entity(&to, Payload::Agent(message), Some(id));
            }
        }
    }

    /// Keys, measurements, transcripts and the end itself need not be waited for: what others hear of an end follows
    /// from the events before it. (A leg whose move is forgotten moves once more.)
    fn class(&self, event: &Event) -> CommitClass {
        match event.body {
            EventBody::FlowStep { .. }
            | EventBody::DigitsReceived { .. }
            | EventBody::TranscriptStatus { .. }
            | EventBody::TranscriptSegment(_)
            | EventBody::LegQuality { .. }
            | EventBody::LegMoved { .. }
            | EventBody::MuteChanged { .. }
            | EventBody::LegReleased { .. }
            | EventBody::Ended { .. } => CommitClass::ActFirst,
            _ => CommitClass::First,
        }
    }

    fn finished(&self, core: &Call) -> bool {
        core.finished()
    }

    fn stepped(&mut self, core: &Call, now: Timestamp) {
        let phase = core.phase();
        // A call that is over but waits for its recording still has to hear that the node was lost.
        self.on_node(core.media_node().filter(|_| !core.finished()));
        if phase != self.phase {
            self.metrics.left(self.phase);
            self.metrics.entered(phase);
            let traceparent = self.spans.moved(self.phase, phase, &self.cause, core, now);
            self.sender.under(traceparent);
            self.phase = phase;
        }
    }
}
