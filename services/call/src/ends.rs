//! The calls' end of the bus, and the answers for calls that are not there.

use std::sync::Arc;

use trunkline_actors::{Activation, Host, Refused as HostRefused, Undeliverable};
use trunkline_call_core::{
    AgentNotice, AgentRequest, EdgeCommand, Incoming, Input, LeaveCause, QueueRequest, QueueSignal,
};
use trunkline_proto::{
    call::v1::{CallMessage, administrative, call_message::Message},
    common::v1::{Envelope, Role, envelope::Payload},
    edge::v1::{EdgeEvent, edge_event},
};
use trunkline_rpc::{Deliver, Refused};
use trunkline_sip::{Method, Response, token};
use trunkline_telemetry::trace_id_of;
use trunkline_types::{CallId, EntityAddress, NodeId, ReleaseCause, Timestamp};

use crate::{
    CallMetrics, CallParts, MediaNodes,
    convert::{self, Parsed, at, cause, missing},
    outbox::Sender,
    shell::{CallShell, Mail},
};

/// Takes envelopes for calls.
pub(crate) struct CallEnd {
    host: Host<CallShell>,
    media: Arc<dyn MediaNodes>,
    metrics: CallMetrics,
}

impl CallEnd {
    pub fn new(parts: &CallParts, host: Host<CallShell>) -> Self {
        Self { host, media: parts.media.clone(), metrics: parts.metrics.clone() }
    }

    fn read(
        call: CallId,
        message: Message,
        traceparent: String,
        media_node: Option<&NodeId>,
    ) -> Parsed<Option<Mail>> {
        let mut received = None;
        let input = match message {
            Message::Edge(event) => {
                received = makes_a_call(&event).then(|| at(event.received_us));
                convert::from_edge(event, media_node)?
            }
            Message::MediaReply(reply) => convert::from_reply(call, reply)?,
            Message::MediaEvent(event) => {
                return Ok(convert::from_event(event)?.map(|input| Mail { input, received, traceparent }));
            }
            Message::Queue(message) => convert::from_queue(message)?,
            Message::Agent(message) => convert::from_agent(message)?,
            Message::Administrative(message) => {
                let administrative::Command::Release(name) =
                    message.command.ok_or_else(|| missing("administrative.command"))?;
                Input::Release(cause("administrative.release", &name)?)
            }
        };
        Ok(Some(Mail { input, received, traceparent }))
    }
}

impl Deliver for CallEnd {
    fn deliver(&self, address: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        let (Some(address), Some(Payload::Call(CallMessage { message: Some(message) }))) =
            (address, envelope.payload)
        else {
            return Err(Refused::Unroutable);
        };
        let call: CallId = address.id.parse().map_err(|_| Refused::Unroutable)?;
        let from = source(&message);
        let new = matches!(&message, Message::Edge(event) if makes_a_call(event));
        let node = if new { Some(self.media.pick(call).ok_or(Refused::Full)?) } else { None };
        let mail = match Self::read(call, message, envelope.traceparent, node.as_ref()) {
            Ok(Some(mail)) => mail,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(call_id = %call, trace_id = %trace_id_of(call), from, %error, "a message to a call was dropped");
                self.metrics.malformed(from);
                return Err(Refused::Unroutable);
            }
        };
        let activation = if new { Activation::CreateNew } else { Activation::OnlyExisting };
        self.host.deliver(&address, mail, activation).map_err(refused)
    }
}

fn makes_a_call(event: &EdgeEvent) -> bool {
    matches!(&event.event, Some(edge_event::Event::Request(request)) if request.new_call.is_some())
}

const fn source(message: &Message) -> &'static str {
    match message {
        Message::Edge(_) => "edge",
        Message::MediaReply(_) | Message::MediaEvent(_) => "media",
        Message::Queue(_) => "queue",
        Message::Agent(_) => "agent",
        Message::Administrative(_) => "administration",
    }
}

fn refused(refused: HostRefused) -> Refused {
    match refused {
        HostRefused::Full | HostRefused::Crowded => Refused::Full,
        HostRefused::NotOwner => Refused::Unroutable,
        HostRefused::Stopped | HostRefused::Closing => Refused::Stopped,
    }
}

/// A message for a call that is over, unknown or could not be brought back: whoever waits for an answer gets one.
pub(crate) fn answer_for_gone(sender: &Sender, address: &EntityAddress, mail: Mail, why: Undeliverable) {
    let Ok(call) = address.id.parse::<CallId>() else { return };
    let tenant = &address.tenant;
    match mail.input {
        Input::Request(incoming) if incoming.request.method != Method::Ack => {
            let Incoming { transaction, request, route, .. } = *incoming;
            let status = if why == Undeliverable::Failed { 503 } else { 481 };
            let tag = token::tag(call.minted_at().as_micros().unsigned_abs());
            let response = Box::new(Response::to(&request, status).with_to_tag(&tag));
            let command = EdgeCommand::Respond { transaction, response, retransmission: false };
            let command = convert::to_edge(tenant, call, &route, command);
            sender.to_node(&route.edge, Role::Edge, Payload::Edge(command), None);
        }
        // It may come back: they ask again.
        _ if why == Undeliverable::Failed => {}
        Input::Agent { agent, offer, request } if request != AgentRequest::EndedAck => {
            let cause = ReleaseCause::NodeLost;
            let notice = AgentNotice::Ended { cause, at: now_of(call), connected: None };
            let to = EntityAddress::agent(tenant, &agent);
            sender.to_entity(&to, Payload::Agent(convert::to_agent(call, &offer, notice)), None);
        }
        Input::Queue { queue, entry, signal } => {
            let request = match signal {
                QueueSignal::Ask | QueueSignal::Queued { .. } => QueueRequest::Gone { entry },
                QueueSignal::TimedOut => QueueRequest::Leave { entry, cause: LeaveCause::TimedOut },
                QueueSignal::Refused(_) | QueueSignal::Left | QueueSignal::Acknowledged(_) => return,
            };
            let to = EntityAddress::queue(tenant, &queue);
            sender.to_entity(&to, Payload::Queue(convert::to_queue(call, request)), None);
        }
        _ => {}
    }
}

/// When a call that is not there ended is not known; it was not before it was made.
fn now_of(call: CallId) -> Timestamp {
    trunkline_actors::now().max(call.minted_at())
}
