//! The shell of a queue.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio::task::AbortHandle;
use trunkline_acd_core::{Queue, QueueEffect, QueueEvent, QueueInput, QueueToAgent, queue::QueueSnapshot};
use trunkline_actors::{Behaviour, DecodeError};
use trunkline_journal::{EffectId, NewEvent, StoredEvent};
use trunkline_proto::{
    acd::v1 as pb,
    call::v1::{CallMessage, QueueToCall, call_message, queue_to_call},
    common::v1::envelope::Payload,
};
use trunkline_types::{AgentId, EntityAddress, QueueId, TenantId, Timestamp};

use crate::{
    AcdMetrics,
    convert::{queue_event, queue_message},
    outbox::Sender,
    parts::Directory,
    spans::OfferSpans,
};

/// Version of the snapshot's form.
const SNAPSHOT: u16 = 1;
const EVENT: u16 = 1;
/// Agents who are asked at a time, and the pause until the next: 10,000 in a second.
const ASK_WAVE: usize = 100;
const ASK_PAUSE: Duration = Duration::from_millis(10);

/// What a queue's actor is told.
pub(crate) enum QueueMail {
    Wire(Box<pb::QueueMessage>),
    Configure(Box<trunkline_acd_core::QueueConfig>),
}

pub(crate) struct QueueShell {
    tenant: TenantId,
    queue: QueueId,
    sender: Sender,
    directory: Arc<dyn Directory>,
    metrics: AcdMetrics,
    offers: OfferSpans,
    runtime: tokio::runtime::Handle,
    /// Asks the agents to announce themselves.
    asking: Option<AbortHandle>,
}

impl QueueShell {
    pub fn new(
        tenant: TenantId,
        queue: QueueId,
        sender: Sender,
        directory: Arc<dyn Directory>,
        metrics: AcdMetrics,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let (offers, asking) = (OfferSpans::default(), None);
        Self { tenant, queue, sender, directory, metrics, offers, runtime, asking }
    }

    /// Asks the agents of this queue who are not in `known`, a wave at a time: those of a large one answer within a second
    /// or two, and neither they nor the links between nodes get them all in one instant.
    fn ask_agents(&mut self, known: &[AgentId]) {
        let mut silent = self.directory.agents_of(&self.tenant, &self.queue);
        silent.retain(|agent| known.binary_search(agent).is_err());
        let (sender, tenant, queue) = (self.sender.clone(), self.tenant.clone(), self.queue.clone());
        let task = self.runtime.spawn(async move {
            for wave in silent.chunks(ASK_WAVE) {
                for agent in wave {
                    let message = queue_message::to_agent(&queue, QueueToAgent::AskAnnounce);
                    sender.send(&EntityAddress::agent(&tenant, agent), Payload::Agent(message), None);
                }
                tokio::time::sleep(ASK_PAUSE).await;
            }
        });
        if let Some(former) = self.asking.replace(task.abort_handle()) {
            former.abort();
        }
    }

    fn tell_agent(&self, agent: &AgentId, message: QueueToAgent, id: EffectId) {
        let to = EntityAddress::agent(&self.tenant, agent);
        let traceparent = match &message {
            QueueToAgent::Commit { offer, .. } | QueueToAgent::Cancel { offer } => {
                self.offers.traceparent(offer)
            }
            _ => String::new(),
        };
        let message = queue_message::to_agent(&self.queue, message);
        self.sender.send_under(traceparent, &to, Payload::Agent(message), Some(id));
    }

    /// The call's side of this is decided by the agent's `Ended`; the call only has to stop asking.
    fn acknowledge(&self, failed: &pb::ConnectFailed) {
        let Ok(call) = failed.call_id.parse() else { return };
        let answer = QueueToCall {
            queue_id: self.queue.to_string(),
            entry: failed.entry,
            event: Some(queue_to_call::Event::AcknowledgedOffer(failed.offer_id.clone())),
        };
        let message = CallMessage { message: Some(call_message::Message::Queue(answer)) };
        self.sender.send(&EntityAddress::call(&self.tenant, call), Payload::Call(message), None);
    }
}

impl Drop for QueueShell {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
        // Its next owner tells how many wait; two would count them twice.
        self.metrics.gone(&self.tenant, &self.queue);
    }
}

impl Behaviour for QueueShell {
    type Core = Queue;
    type Input = QueueInput;
    type Event = QueueEvent;
    type Effect = QueueEffect;
    type Message = QueueMail;

    fn input(&mut self, message: QueueMail, _: Timestamp) -> Option<QueueInput> {
        let message = match message {
            QueueMail::Configure(config) => return Some(QueueInput::Configure(config)),
            QueueMail::Wire(message) => *message,
        };
        if let Some(pb::queue_message::Message::ConnectFailed(failed)) = &message.message {
            self.acknowledge(failed);
            return None;
        }
        match queue_message::input(message) {
            Ok(input) => Some(input),
            Err(error) => {
                tracing::warn!(queue = %self.queue, %error, "a message to a queue was dropped");
                self.metrics.malformed("queue");
                None
            }
        }
    }

    fn encode(&self, event: &QueueEvent, _: Timestamp) -> NewEvent {
        self.metrics.queue(&self.tenant, &self.queue, event);
        self.offers.event(&self.queue, event);
        NewEvent::new(queue_event::kind(event), EVENT, event.at(), queue_event::encode(event).encode_to_vec())
    }

    fn decode(&self, stored: &StoredEvent) -> Result<QueueEvent, DecodeError> {
        let wire = pb::QueueEvent::decode(&*stored.payload).map_err(|e| DecodeError::new(e.to_string()))?;
        queue_event::decode(wire).map_err(|e| DecodeError::new(e.to_string()))
    }

    fn perform(&mut self, effect: QueueEffect, id: EffectId) {
        match effect {
            QueueEffect::ToCall { call, message } => {
                let message = queue_message::to_call(&self.queue, message);
                let message = CallMessage { message: Some(call_message::Message::Queue(message)) };
                self.sender.send(&EntityAddress::call(&self.tenant, call), Payload::Call(message), Some(id));
            }
            QueueEffect::ToAgent { agent, message } => self.tell_agent(&agent, message, id),
            QueueEffect::AskAgents { known } => self.ask_agents(&known),
        }
    }

    fn finished(&self, _: &Queue) -> bool {
        false
    }

    fn stepped(&mut self, core: &Queue, _: Timestamp) {
        let (waiting, oldest) = core.depth();
        let oldest_s = oldest.map_or(0.0, |at| at.as_micros() as f64 / 1e6);
        self.metrics.depth(&self.tenant, &self.queue, waiting, oldest_s);
    }

    fn snapshot(&self, core: &Queue) -> Option<(u16, bytes::Bytes)> {
        let body = serde_json::to_vec(&core.snapshot()).ok()?;
        Some((SNAPSHOT, body.into()))
    }

    fn restore(&self, core: &mut Queue, version: u16, body: &[u8]) -> Result<(), DecodeError> {
        if version != SNAPSHOT {
            return Err(DecodeError::new(format!("snapshot version {version} of a queue is not known")));
        }
        let snapshot: QueueSnapshot =
            serde_json::from_slice(body).map_err(|e| DecodeError::new(e.to_string()))?;
        let (tenant, queue) = (self.tenant.clone(), self.queue.clone());
        *core = Queue::restore(tenant, queue, self.sender.epoch(), core.config().clone(), snapshot);
        Ok(())
    }
}
