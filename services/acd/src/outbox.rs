//! Sending: effects become envelopes. What the bus refuses is dropped here and sent again by the core that needs an
//! answer.

use std::sync::Arc;

use trunkline_cluster::Placement;
use trunkline_journal::EffectId;
use trunkline_proto::common::v1::{self as common, Envelope, envelope::Payload};
use trunkline_rpc::{Bus, entity};
use trunkline_types::{EntityAddress, Epoch};

/// The bus as one entity uses it.
#[derive(Clone)]
pub(crate) struct Sender {
    bus: Bus,
    placement: Arc<dyn Placement>,
    from: EntityAddress,
}

impl Sender {
    pub fn new(bus: Bus, placement: Arc<dyn Placement>, from: EntityAddress) -> Self {
        Self { bus, placement, from }
    }

    /// The epoch at which this node may act for the entity; 0 when it may not.
    pub fn epoch(&self) -> Epoch {
        self.placement.held(self.from.shard()).unwrap_or_default()
    }

    pub fn send(&self, to: &EntityAddress, payload: Payload, effect: Option<EffectId>) {
        self.post(entity(to), payload, effect, String::new());
    }

    /// Sends what a span has caused; `traceparent` may be empty.
    pub fn send_under(
        &self,
        traceparent: String,
        to: &EntityAddress,
        payload: Payload,
        effect: Option<EffectId>,
    ) {
        self.post(entity(to), payload, effect, traceparent);
    }

    /// To a console node.
    pub fn to_console(&self, node: &str, payload: Payload) {
        let Ok(node) = node.parse() else { return };
        self.post(trunkline_rpc::node(&node, common::Role::Console), payload, None, String::new());
    }

    fn post(&self, to: common::Address, payload: Payload, effect: Option<EffectId>, traceparent: String) {
        let shard = self.from.shard();
        let envelope = Envelope {
            to: Some(to),
            from: Some(entity(&self.from)),
            from_shard: Some(u32::from(shard.index())),
            from_epoch: self.epoch().0,
            map_revision: self.placement.revision().0,
            traceparent,
            effect: effect.map(|id| common::EffectId {
                shard: u32::from(id.shard.index()),
                seq: id.seq,
                index: id.i,
            }),
            payload: Some(payload),
            ..Envelope::default()
        };
        if let Err(error) = self.bus.send(envelope) {
            tracing::debug!(from = %self.from, %error, "a message was refused; it is sent again if it matters");
        }
    }
}
