//! The ends of the bus that belong to no actor: media commands, what consoles are told, and the way from consoles to
//! agents.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use trunkline_console::{AgentPort, Console};
use trunkline_media::MediaNode;
use trunkline_proto::{
    acd::v1::{AgentCommand, AgentMessage, agent_message},
    call::v1::{CallMessage, call_message::Message},
    common::v1::{Address, Envelope, Role, address::Target, envelope::Payload},
    media::v1::{MediaCommand, MediaEvent, media_command::Command, media_event::Event, media_reply},
};
use trunkline_rpc::{Bus, Deliver, Refused, entity};
use trunkline_telemetry::{
    TraceParent, call_span, trace_id_of,
    tracing::{Instrument, Span, field::Empty},
};
use trunkline_types::{AgentId, EntityAddress, TenantId};

/// Calls whose tenant is remembered: those that were told of last.
const REMEMBERED: usize = 200_000;
/// Commands that wait for the media threads at once.
const COMMANDS: usize = 8_192;
/// A call that has no room for an event is tried again this often.
const EVENT_TRIES: u32 = 20;

/// The media role's end: commands in, replies and events to the calls.
pub struct MediaPort {
    node: Arc<MediaNode>,
    bus: Bus,
    tenants: Arc<Tenants>,
    permits: Arc<tokio::sync::Semaphore>,
    runtime: tokio::runtime::Handle,
}

/// Which tenant a call belongs to: media nodes know calls only.
#[derive(Default)]
struct Tenants(Mutex<(HashMap<String, String>, VecDeque<String>)>);

impl Tenants {
    fn remember(&self, call: &str, tenant: &str) {
        let (known, order) = &mut *self.0.lock();
        if known.insert(call.to_owned(), tenant.to_owned()).is_none() {
            order.push_back(call.to_owned());
            if order.len() > REMEMBERED
                && let Some(oldest) = order.pop_front()
            {
                known.remove(&oldest);
            }
        }
    }

    fn of(&self, call: &str) -> Option<String> {
        self.0.lock().0.get(call).cloned()
    }
}

impl MediaPort {
    /// Attaches the node to the bus and passes its events on.
    pub fn attach(node: Arc<MediaNode>, bus: &Bus, events: mpsc::Receiver<MediaEvent>) {
        let tenants = Arc::new(Tenants::default());
        tokio::spawn(pass_events(events, bus.clone(), tenants.clone()));
        let port = Self {
            node,
            bus: bus.clone(),
            tenants,
            permits: Arc::new(tokio::sync::Semaphore::new(COMMANDS)),
            runtime: tokio::runtime::Handle::current(),
        };
        bus.attach_role(Role::Media, Arc::new(port));
    }
}

impl Deliver for MediaPort {
    fn deliver(&self, _: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        let Envelope { from, payload, traceparent, .. } = envelope;
        let (Some(from), Some(Payload::Media(command))) = (from, payload) else {
            return Err(Refused::Unroutable);
        };
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| Refused::Full)?;
        if let Some(Target::Entity(sender)) = &from.target {
            self.tenants.remember(&command.call_id, &sender.tenant);
        }
        let (node, bus) = (self.node.clone(), self.bus.clone());
        let span = command_span(&traceparent, &command);
        let traceparent = TraceParent::header(TraceParent::of_span(&span));
        self.runtime.spawn(async move {
            let reply = node.command(command).instrument(span.clone()).await;
            drop(permit);
            if matches!(reply.result, Some(media_reply::Result::Failure(_))) {
                span.record("otel.status_code", "ERROR");
            }
            drop(span);
            // Refused: the call sends the command again and gets the same reply.
            let reply = to_call(&bus, from, Message::MediaReply(reply));
            let _ = bus.send(Envelope { traceparent, ..reply });
        });
        Ok(())
    }
}

/// From the command's arrival to its reply. Commands that belong to no call have none.
fn command_span(traceparent: &str, command: &MediaCommand) -> Span {
    match command.call_id.parse() {
        Ok(call) => {
            let kind = command.command.as_ref().map_or("none", kind);
            call_span!("media.command", call, under = traceparent, kind, otel.status_code = Empty)
        }
        Err(_) => Span::none(),
    }
}

const fn kind(command: &Command) -> &'static str {
    match command {
        Command::CreateRtp(_) => "create_rtp",
        Command::SetRemote(_) => "set_remote",
        Command::RenegotiateRtp(_) => "renegotiate_rtp",
        Command::CreateOffer(_) => "create_offer",
        Command::CreateWebrtc(_) => "create_webrtc",
        Command::ReplaceWebrtc(_) => "replace_webrtc",
        Command::CloseEndpoint(_) => "close_endpoint",
        Command::CloseSession(_) => "close_session",
        Command::SetProgram(_) => "set_program",
        Command::SetMuted(_) => "set_muted",
        Command::SendDigits(_) => "send_digits",
        Command::StartRecording(_) => "start_recording",
        Command::MarkRecording(_) => "mark_recording",
        Command::PauseRecording(_) => "pause_recording",
        Command::ResumeRecording(_) => "resume_recording",
        Command::StopRecording(_) => "stop_recording",
        Command::StartTranscription(_) => "start_transcription",
        Command::StopTranscription(_) => "stop_transcription",
        Command::ListSessions(_) => "list_sessions",
        Command::SalvageRecording(_) => "salvage_recording",
        Command::AcknowledgeEvents(_) => "acknowledge_events",
        Command::Bridge(_) => "bridge",
    }
}

fn to_call(bus: &Bus, to: Address, message: Message) -> Envelope {
    Envelope {
        to: Some(to),
        from: Some(bus.own(Role::Media)),
        payload: Some(Payload::Call(CallMessage { message: Some(message) })),
        ..Envelope::default()
    }
}

async fn pass_events(mut events: mpsc::Receiver<MediaEvent>, bus: Bus, tenants: Arc<Tenants>) {
    while let Some(event) = events.recv().await {
        let tenant = match &event.event {
            Some(Event::RecordingFinished(e)) => Some(e.tenant.clone()),
            Some(Event::RecordingFailed(e)) => Some(e.tenant.clone()),
            _ => tenants.of(&event.call_id),
        };
        let address = tenant.and_then(|tenant| {
            let (tenant, call) = (tenant.parse().ok()?, event.call_id.parse().ok()?);
            Some(EntityAddress::call(&tenant, call))
        });
        let Some(address) = address else {
            tracing::warn!(
                call_id = event.call_id,
                trace_id = trace_of(&event.call_id),
                "a media event of an unknown call was dropped"
            );
            continue;
        };
        pass_event(&bus, &address, event).await;
    }
}

async fn pass_event(bus: &Bus, address: &EntityAddress, event: MediaEvent) {
    for _ in 0..EVENT_TRIES {
        let envelope = to_call(bus, entity(address), Message::MediaEvent(event.clone()));
        match bus.send(envelope) {
            Err(Refused::Full) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(call_id = address.id, trace_id = trace_of(&address.id), %error, "a media event found nobody");
                return;
            }
        }
    }
    tracing::warn!(
        call_id = address.id,
        trace_id = trace_of(&address.id),
        "a media event was dropped: the call has no room"
    );
}

/// For log lines.
fn trace_of(call: &str) -> Option<String> {
    call.parse().ok().map(|call| trace_id_of(call).to_string())
}

/// From a console's sessions to the agents' actors.
pub struct AgentCommands(pub Bus);

impl AgentPort for AgentCommands {
    fn send(
        &self,
        tenant: &TenantId,
        agent: &AgentId,
        command: AgentCommand,
    ) -> Result<(), trunkline_console::Refused> {
        let message = AgentMessage { message: Some(agent_message::Message::Command(command)) };
        let envelope = Envelope {
            to: Some(entity(&EntityAddress::agent(tenant, agent))),
            from: Some(self.0.own(Role::Console)),
            payload: Some(Payload::Agent(message)),
            ..Envelope::default()
        };
        self.0.send(envelope).map_err(|refused| match refused {
            Refused::Full | Refused::Expired => trunkline_console::Refused::Busy,
            Refused::Stopped => trunkline_console::Refused::Unavailable,
            Refused::Unroutable => trunkline_console::Refused::UnknownAgent,
        })
    }
}

/// The console role's end: what its sessions are told.
pub struct ConsolePort(pub Console);

impl Deliver for ConsolePort {
    fn deliver(&self, _: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        match envelope.payload {
            Some(Payload::Console(message)) => {
                self.0.deliver(message);
                Ok(())
            }
            _ => Err(Refused::Unroutable),
        }
    }
}
