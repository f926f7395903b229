//! The shell of one account.

use std::sync::Arc;

use prost::Message as _;
use trunkline_actors::{Behaviour, DecodeError, Handle};
use trunkline_cluster::Placement;
use trunkline_journal::{EffectId, NewEvent, StoredEvent};
use trunkline_proto::{
    common::v1::{self as common, Envelope, Role, envelope::Payload},
    registrar::v1::{self as pb, refusal::Reason, registrar_answer},
};
use trunkline_registrar_core::{Effect, Event, Input, Telephone};
use trunkline_rpc::{Bus, entity, node};
use trunkline_types::{EntityAddress, Epoch, Timestamp};

use crate::{Directory, board::Place, convert, is_configured, metrics::RegistrarMetrics};

/// Version of the snapshot's form.
const SNAPSHOT: u16 = 1;
const EVENT: u16 = 1;

/// What an account's actor is told.
pub(crate) enum Mail {
    Register(Box<pb::Register>),
    /// It is not configured any more.
    Withdraw,
}

/// Sends answers to edges. Its epoch is that of the activation: edges refuse what a former owner says late.
pub(crate) struct Answerer {
    bus: Bus,
    placement: Arc<dyn Placement>,
    from: EntityAddress,
    epoch: Epoch,
}

impl Answerer {
    pub fn new(bus: Bus, placement: Arc<dyn Placement>, from: EntityAddress) -> Self {
        let epoch = placement.sealed(from.shard()).unwrap_or_default();
        Self { bus, placement, from, epoch }
    }

    /// One that gets lost is asked for again: the edge repeats its request.
    pub fn answer(
        &self,
        edge: &str,
        transaction: String,
        result: registrar_answer::Result,
        effect: Option<EffectId>,
    ) {
        let Ok(edge) = edge.parse() else { return };
        let answer = pb::RegistrarAnswer {
            tenant: self.from.tenant.to_string(),
            telephone: self.from.id.clone(),
            transaction,
            result: Some(result),
        };
        let envelope = Envelope {
            to: Some(node(&edge, Role::Edge)),
            from: Some(entity(&self.from)),
            from_shard: Some(u32::from(self.from.shard().index())),
            from_epoch: self.epoch.0,
            map_revision: self.placement.revision().0,
            effect: effect.map(|id| common::EffectId {
                shard: u32::from(id.shard.index()),
                seq: id.seq,
                index: id.i,
            }),
            payload: Some(Payload::Registrar(answer)),
            ..Envelope::default()
        };
        if let Err(error) = self.bus.send(envelope) {
            tracing::debug!(from = %self.from, %error, "an answer was refused; the edge asks again");
        }
    }
}

pub(crate) struct TelephoneShell {
    answerer: Answerer,
    own: Handle<Mail>,
    directory: Arc<dyn Directory>,
    metrics: RegistrarMetrics,
    place: Place,
}

impl TelephoneShell {
    pub fn new(
        answerer: Answerer,
        own: Handle<Mail>,
        directory: Arc<dyn Directory>,
        metrics: RegistrarMetrics,
        place: Place,
    ) -> Self {
        Self { answerer, own, directory, metrics, place }
    }
}

impl Behaviour for TelephoneShell {
    type Core = Telephone;
    type Input = Input;
    type Event = Event;
    type Effect = Effect;
    type Message = Mail;

    fn input(&mut self, message: Mail, _: Timestamp) -> Option<Input> {
        let Mail::Register(register) = message else { return Some(Input::Withdraw) };
        let (edge, transaction) = (register.edge.clone(), register.transaction.clone());
        match convert::register(*register) {
            Ok(register) => Some(Input::Register(Box::new(register))),
            Err(malformed) => {
                self.metrics.registered("malformed");
                let refusal =
                    pb::Refusal { reason: Reason::Malformed.into(), value: 0, text: malformed.to_string() };
                self.answerer.answer(&edge, transaction, registrar_answer::Result::Refusal(refusal), None);
                None
            }
        }
    }

    fn encode(&self, event: &Event, _: Timestamp) -> NewEvent {
        if let Event::Expired { removed, .. } = event {
            self.metrics.expired(removed.len());
        }
        NewEvent::new(convert::kind(event), EVENT, event.at(), convert::encode(event).encode_to_vec())
    }

    fn decode(&self, stored: &StoredEvent) -> Result<Event, DecodeError> {
        let wire =
            pb::TelephoneEvent::decode(&*stored.payload).map_err(|e| DecodeError::new(e.to_string()))?;
        convert::decode(wire).map_err(|e| DecodeError::new(e.to_string()))
    }

    fn perform(&mut self, effect: Effect, id: EffectId) {
        match effect {
            Effect::Answer { edge, transaction, outcome, changed } => {
                let (result, name) = convert::outcome(outcome, changed);
                self.metrics.registered(name);
                self.answerer.answer(&edge, transaction, result, Some(id));
            }
            Effect::Show(bindings) => {
                // Configuration may have changed while nobody looked after this account.
                if !bindings.is_empty() && !is_configured(&*self.directory, &self.answerer.from) {
                    let _ = self.own.try_send(Mail::Withdraw);
                }
                self.place.show(bindings);
            }
        }
    }

    /// An account has no end: its telephones come back.
    fn finished(&self, _: &Telephone) -> bool {
        false
    }

    fn snapshot(&self, core: &Telephone) -> Option<(u16, bytes::Bytes)> {
        Some((SNAPSHOT, convert::snapshot(&core.snapshot()).encode_to_vec().into()))
    }

    fn restore(&self, core: &mut Telephone, version: u16, body: &[u8]) -> Result<(), DecodeError> {
        if version != SNAPSHOT {
            return Err(DecodeError::new(format!("snapshot version {version} of a telephone is not known")));
        }
        let wire = pb::TelephoneSnapshot::decode(body).map_err(|e| DecodeError::new(e.to_string()))?;
        let snapshot = convert::snapshot_to(wire).map_err(|e| DecodeError::new(e.to_string()))?;
        *core = Telephone::restore(snapshot);
        Ok(())
    }
}
