//! A stored event, decoded once.

use prost::{DecodeError, Message};
use trunkline_journal::StoredEvent;
use trunkline_proto::{
    acd::v1::{AgentEvent, QueueEvent, agent_event},
    call::v1::{CallEvent, call_event},
};
use trunkline_types::EntityKind;

/// What happens inside a call, or at an agent's desk, and is in no record.
const UNRECORDED: [&str; 8] = [
    "call.dialog",
    "call.media_session",
    "call.leg_added",
    "call.leg_released",
    "agent.session_attached",
    "agent.session_detached",
    "agent.command_begun",
    "agent.command_ended",
];

pub(super) enum Body {
    Call(CallEvent),
    Queue(QueueEvent),
    Agent(AgentEvent),
}

/// An event that counts for the records.
pub(super) struct Decoded {
    pub position: u64,
    pub tenant: String,
    pub entity: String,
    pub body: Body,
}

/// `None`: nothing of it goes into the records, or it is of a kind that a newer version writes.
pub(super) fn decode(stored: &StoredEvent) -> Result<Option<Decoded>, DecodeError> {
    if UNRECORDED.contains(&&*stored.kind) {
        return Ok(None);
    }
    let (body, known) = match stored.entity.kind {
        EntityKind::Call => {
            let event = CallEvent::decode(&*stored.payload)?;
            let known = event.event.is_some();
            (Body::Call(event), known)
        }
        EntityKind::Queue => {
            let event = QueueEvent::decode(&*stored.payload)?;
            let known = event.event.is_some() && !event.call_id.is_empty();
            (Body::Queue(event), known)
        }
        // Where telephones can be reached is no part of any record.
        EntityKind::Telephone => return Ok(None),
        EntityKind::Agent => {
            let event = AgentEvent::decode(&*stored.payload)?;
            let known = event.event.is_some();
            (Body::Agent(event), known)
        }
    };
    Ok(known.then(|| Decoded {
        position: stored.position,
        tenant: stored.entity.tenant.as_str().to_owned(),
        entity: stored.entity.id.clone(),
        body,
    }))
}

impl Decoded {
    /// The call that it is about.
    pub fn call(&self) -> Option<&str> {
        let call = match &self.body {
            Body::Call(_) => &self.entity,
            Body::Queue(event) => &event.call_id,
            Body::Agent(event) => &event.call_id,
        };
        (!call.is_empty()).then_some(call)
    }

    /// There is no row of it yet.
    pub fn begins_a_call(&self) -> bool {
        matches!(&self.body, Body::Call(event) if matches!(event.event, Some(call_event::Event::Started(_))))
    }

    /// When it counts in an interval.
    pub fn counts_at(&self) -> Option<i64> {
        match &self.body {
            Body::Call(_) => None,
            Body::Queue(event) => Some(event.at_us),
            Body::Agent(event) => {
                matches!(event.event, Some(agent_event::Event::WrapUpEnded(_))).then_some(event.at_us)
            }
        }
    }
}
