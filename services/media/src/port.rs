//! The media role's end of the bus: commands in, replies and events out to the calls.
//!
//! Nothing here waits for a call. A reply that finds nobody is asked for again by the call's repetition; an event that finds
//! nobody is told again by the node, except to owners that do not acknowledge events, for which a full mailbox is tried for a
//! second.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use trunkline_proto::call::v1::{CallMessage, call_message::Message};
use trunkline_proto::common::v1::{Address, Envelope, Role, address::Target, envelope::Payload};
use trunkline_proto::media::v1::{MediaCommand, MediaEvent, media_command::Command, media_reply};
use trunkline_rpc::{Bus, Deliver, Refused, entity};
use trunkline_telemetry::tracing::{Span, field::Empty};
use trunkline_telemetry::{TraceParent, call_span, trace_id_of};
use trunkline_types::EntityAddress;

use crate::node::MediaNode;

/// Commands that wait for the media threads at once.
const COMMANDS: usize = 8_192;
/// A call that has no room for an event that comes once only is tried again this often.
const EVENT_TRIES: u32 = 20;
const EVENT_PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub struct MediaPort {
    node: Arc<MediaNode>,
    bus: Bus,
    permits: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
}

impl MediaPort {
    /// Attaches the node to the bus and passes its events on. Has to be called within a tokio runtime.
    pub fn attach(node: Arc<MediaNode>, bus: &Bus, events: mpsc::Receiver<MediaEvent>) {
        let runtime = tokio::runtime::Handle::current();
        runtime.spawn(pass_events(events, bus.clone()));
        let permits = Arc::new(Semaphore::new(COMMANDS));
        let port = Self { node, bus: bus.clone(), permits, runtime };
        bus.attach_role(Role::Media, Arc::new(port));
    }
}

impl Deliver for MediaPort {
    fn deliver(&self, _: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        let Envelope { from, payload, traceparent, .. } = envelope;
        let (Some(from), Some(Payload::Media(mut command))) = (from, payload) else {
            return Err(Refused::Unroutable);
        };
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| Refused::Full)?;
        if let Some(Target::Entity(sender)) = &from.target {
            command.tenant.clone_from(&sender.tenant);
        }
        let answers = !matches!(command.command, Some(Command::AcknowledgeEvents(_)));
        let (bus, runtime) = (self.bus.clone(), self.runtime.clone());
        let span = command_span(&traceparent, &command);
        let within = span.clone();
        let _within = within.enter();
        self.node.submit(
            command,
            Box::new(move |reply| {
                drop(permit);
                let traceparent = TraceParent::header(TraceParent::of_span(&span));
                if matches!(reply.result, Some(media_reply::Result::Failure(_))) {
                    span.record("otel.status_code", "ERROR");
                }
                drop(span);
                if answers {
                    // On a thread of the node: what is woken by the reply may want the runtime.
                    let _runtime = runtime.enter();
                    // Refused: the call sends the command again and gets the same reply.
                    let reply = to_call(&bus, from, Message::MediaReply(reply));
                    let _ = bus.send(Envelope { traceparent, ..reply });
                }
            }),
        );
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
        Command::SalvageRecording(_) => "salvage_recording",
        Command::StartTranscription(_) => "start_transcription",
        Command::StopTranscription(_) => "stop_transcription",
        Command::ListSessions(_) => "list_sessions",
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

async fn pass_events(mut events: mpsc::Receiver<MediaEvent>, bus: Bus) {
    while let Some(event) = events.recv().await {
        let (Ok(tenant), Ok(call)) = (event.tenant.parse(), event.call_id.parse()) else {
            tracing::warn!(
                call_id = event.call_id,
                trace_id = trace_of(&event.call_id),
                "a media event of an unknown call was dropped"
            );
            continue;
        };
        pass_event(&bus, &EntityAddress::call(&tenant, call), event).await;
    }
}

async fn pass_event(bus: &Bus, address: &EntityAddress, event: MediaEvent) {
    let comes_again = event.acknowledge;
    for _ in 0..EVENT_TRIES {
        let envelope = to_call(bus, entity(address), Message::MediaEvent(event.clone()));
        match bus.send(envelope) {
            Err(Refused::Full) if !comes_again => tokio::time::sleep(EVENT_PAUSE).await,
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(call_id = address.id, trace_id = trace_of(&address.id), %error, comes_again, "a media event found nobody");
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
