//! The calls' end of the bus, and the answers for calls that are not there.

use std::{sync::Arc, time::Duration};

use trunkline_actors::{Activation, Host, Refused as HostRefused, Undeliverable};
use trunkline_call_core::{
    AgentNotice, AgentRequest, EdgeCommand, Incoming, Input, LeaveCause, Library, MediaBody, MediaCommand,
    MediaEvent, QueueRequest, QueueSignal,
};
use trunkline_cluster::{EpochGuard, Placement};
use trunkline_journal::Journal;
use trunkline_proto::{
    call::v1::{CallMessage, administrative, call_message::Message},
    common::v1::{Address, Envelope, Role, address::Target, envelope::Payload},
    edge::v1::{EdgeEvent, edge_event},
};
use trunkline_rpc::{Bus, Deliver, Refused};
use trunkline_sip::{Method, Response, token};
use trunkline_telemetry::trace_id_of;
use trunkline_types::{CallId, EntityAddress, Epoch, NodeId, ReleaseCause, ShardId, Timestamp};

use crate::{
    CallMetrics, CallParts,
    convert::{self, Parsed, at, cause, missing, parse},
    outbox::Sender,
    shell::{CallShell, Mail},
};

/// While the journal is this far behind, no new call is begun: its caller would hear nothing for as long.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Takes envelopes for calls.
pub(crate) struct CallEnd {
    host: Host<CallShell>,
    library: Arc<dyn Library>,
    bus: Bus,
    placement: Arc<dyn Placement>,
    journal: Arc<dyn Journal>,
    epochs: EpochGuard,
    metrics: CallMetrics,
}

impl CallEnd {
    pub fn new(parts: &CallParts, host: Host<CallShell>, library: Arc<dyn Library>) -> Self {
        Self {
            host,
            library,
            bus: parts.bus.clone(),
            placement: parts.placement.clone(),
            journal: parts.journal.clone(),
            epochs: EpochGuard::new(),
            metrics: parts.metrics.clone(),
        }
    }

    fn read(
        call: CallId,
        message: Message,
        from: Option<&Address>,
        traceparent: String,
    ) -> Parsed<Option<Mail>> {
        let mut received = None;
        let input = match message {
            Message::Edge(event) => {
                received = makes_a_call(&event).map(|_| at(event.received_us));
                convert::from_edge(event)?
            }
            Message::MediaReply(reply) => convert::from_reply(call, reply)?,
            Message::MediaEvent(event) => {
                let event = convert::from_event(sending_node(from)?, event)?;
                return Ok(event.map(|input| Mail { input, received, traceparent }));
            }
            Message::Queue(message) => convert::from_queue(message)?,
            Message::Agent(message) => convert::from_agent(message)?,
            Message::Administrative(message) => {
                match message.command.ok_or_else(|| missing("administrative.command"))? {
                    administrative::Command::Release(name) => {
                        Input::Release(cause("administrative.release", &name)?)
                    }
                    administrative::Command::MoveMedia(node) => {
                        Input::LeaveMediaNode(parse("administrative.move_media", &node)?)
                    }
                }
            }
        };
        Ok(Some(Mail { input, received, traceparent }))
    }

    /// A queue or agent whose shard has another owner by now must not be heard: it may have been paused for long.
    fn admit(&self, envelope: &Envelope, call: CallId) -> Result<(), Refused> {
        let Some(shard) = envelope.from_shard else { return Ok(()) };
        let shard = u16::try_from(shard).ok().and_then(ShardId::new).ok_or(Refused::Unroutable)?;
        self.epochs.admit(shard, Epoch(envelope.from_epoch)).map_err(|stale| {
            tracing::debug!(call_id = %call, %stale, "a message of a former owner was refused");
            self.metrics.stale();
            Refused::Unroutable
        })
    }

    /// The INVITE of an edge on another node, which does not hear what the bus says here.
    fn remote_invite(&self, mail: &Mail) -> Option<Incoming> {
        match &mail.input {
            Input::Request(incoming) if incoming.route.edge != *self.bus.node() => Some((**incoming).clone()),
            _ => None,
        }
    }

    fn refuse_remotely(&self, address: &EntityAddress, request: Option<Incoming>) {
        let (Some(incoming), Ok(call)) = (request, address.id.parse::<CallId>()) else { return };
        let tag = token::tag(call.minted_at().as_micros().unsigned_abs());
        let response = Box::new(Response::to(&incoming.request, 503).with_to_tag(&tag));
        let command =
            EdgeCommand::Respond { transaction: incoming.transaction, response, retransmission: false };
        let command = convert::to_edge(&address.tenant, call, &incoming.route, command);
        let sender = Sender::new(self.bus.clone(), self.placement.clone(), address.clone());
        sender.to_node(&incoming.route.edge, Role::Edge, Payload::Edge(command), None);
    }
}

impl Deliver for CallEnd {
    fn deliver(&self, address: Option<EntityAddress>, mut envelope: Envelope) -> Result<(), Refused> {
        let (Some(address), Some(Payload::Call(CallMessage { message: Some(message) }))) =
            (address, envelope.payload.take())
        else {
            return Err(Refused::Unroutable);
        };
        let call: CallId = address.id.parse().map_err(|_| Refused::Unroutable)?;
        self.admit(&envelope, call)?;
        let from = source(&message);
        // `Some`: how often this INVITE was given to a call before.
        let new = match &message {
            Message::Edge(event) => makes_a_call(event),
            _ => None,
        };
        let mail = match Self::read(call, message, envelope.from.as_ref(), envelope.traceparent) {
            Ok(Some(mail)) => mail,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(call_id = %call, trace_id = %trace_id_of(call), from, %error, "a message to a call was dropped");
                self.metrics.malformed(from);
                return Err(Refused::Unroutable);
            }
        };
        let activation = match new {
            Some(0) => Activation::CreateNew,
            Some(_) => Activation::CreateIfMissing,
            None => Activation::OnlyExisting,
        };
        // Only an edge on another node is answered besides: kept for that.
        let request = new.and_then(|_| self.remote_invite(&mail));
        if new == Some(0) && (self.no_media(call, &mail) || self.journal.delay() > MAX_DELAY) {
            self.refuse_remotely(&address, request);
            return Err(Refused::Full);
        }
        self.host.deliver(&address, mail, activation).map_err(|refused_by_host| {
            let refused = refused(refused_by_host);
            if refused == Refused::Full {
                self.refuse_remotely(&address, request);
            }
            refused
        })
    }
}

impl CallEnd {
    /// Not even an actor is made for a call that no media node would take.
    fn no_media(&self, call: CallId, mail: &Mail) -> bool {
        match &mail.input {
            Input::Request(incoming) => self.library.media_node(call, &incoming.route.edge, &[]).is_none(),
            _ => false,
        }
    }
}

/// How often the INVITE that makes a call was given to it before.
fn makes_a_call(event: &EdgeEvent) -> Option<u32> {
    match &event.event {
        Some(edge_event::Event::Request(request)) if request.new_call.is_some() => Some(request.attempt),
        _ => None,
    }
}

/// The node whose role sent it.
fn sending_node(from: Option<&Address>) -> Parsed<Option<NodeId>> {
    match from.and_then(|from| from.target.as_ref()) {
        Some(Target::Node(node)) => parse("envelope.from", &node.node).map(Some),
        _ => Ok(None),
    }
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
            let status = match why {
                // The shard is another node's by now: the edge gives the request to that one.
                Undeliverable::Failed if !sender.may_act() => return,
                Undeliverable::Failed => 503,
                Undeliverable::Unknown | Undeliverable::Finished => 481,
            };
            let tag = token::tag(call.minted_at().as_micros().unsigned_abs());
            let response = Box::new(Response::to(&request, status).with_to_tag(&tag));
            let command = EdgeCommand::Respond { transaction, response, retransmission: false };
            let command = convert::to_edge(tenant, call, &route, command);
            sender.to_node(&sender.edge(&route.edge), Role::Edge, Payload::Edge(command), None);
        }
        // It may come back: they ask again.
        _ if why == Undeliverable::Failed => {}
        Input::Agent { agent, offer, request } if request != AgentRequest::EndedAck => {
            let cause = ReleaseCause::NodeLost;
            let notice = AgentNotice::Ended { cause, at: now_of(call), connected: None };
            let to = EntityAddress::agent(tenant, &agent);
            sender.to_entity(&to, Payload::Agent(convert::to_agent(call, &offer, notice)), None);
        }
        Input::MediaEvent { node: Some(node), id, acknowledge, event } => {
            if *event == MediaEvent::Unattended {
                let id = u64::try_from(now_of(call).as_micros()).unwrap_or(0) << 12;
                let command = MediaCommand { id, body: MediaBody::CloseSession };
                let command = convert::to_media(tenant, call, sender.epoch(), command);
                sender.to_node(&node, Role::Media, Payload::Media(command), None);
            } else if acknowledge {
                let command = convert::acknowledge(call, sender.epoch(), id);
                sender.to_node(&node, Role::Media, Payload::Media(command), None);
            }
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
