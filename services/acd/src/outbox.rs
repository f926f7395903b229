//! Sending: effects become envelopes. What the bus refuses is dropped here and sent again by the core that needs an
//! answer.

use std::sync::Arc;

use trunkline_cluster::Placement;
use trunkline_journal::EffectId;
use trunkline_proto::common::v1::{self as common, Envelope, envelope::Payload};
use trunkline_rpc::{Bus, entity};
use trunkline_types::{EntityAddress, Epoch, Feature};

/// The bus as one activation of an entity uses it. Its epoch is that of the activation: what an actor of a former life
/// says late is refused by those who have heard of the next.
#[derive(Clone)]
pub(crate) struct Sender {
    bus: Bus,
    placement: Arc<dyn Placement>,
    from: EntityAddress,
    epoch: Epoch,
}

impl Sender {
    pub fn new(bus: Bus, placement: Arc<dyn Placement>, from: EntityAddress) -> Self {
        let epoch = placement.sealed(from.shard()).unwrap_or_default();
        Self { bus, placement, from, epoch }
    }

    /// The epoch at which this activation acts; 0 when its shard was lost before it began, and then nobody listens.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Every node of the cluster can read this.
    pub fn may_write(&self, feature: Feature) -> bool {
        self.placement.may_write(feature)
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
            from_epoch: self.epoch.0,
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
