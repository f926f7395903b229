//! Sending: effects become envelopes. What the bus refuses is dropped here and sent again by the core that needs an
//! answer.

use std::sync::Arc;

use trunkline_cluster::{self as cluster, NodeInfo, Placement};
use trunkline_journal::EffectId;
use trunkline_proto::common::v1::{self as common, Envelope, envelope::Payload};
use trunkline_rpc::{Bus, entity};
use trunkline_telemetry::TraceParent;
use trunkline_types::{CallId, EntityAddress, Epoch, NodeId};

use crate::media_nodes::rendezvous;

/// The bus as one call uses it.
pub(crate) struct Sender {
    bus: Bus,
    placement: Arc<dyn Placement>,
    from: EntityAddress,
    traceparent: String,
}

impl Sender {
    pub fn new(bus: Bus, placement: Arc<dyn Placement>, from: EntityAddress) -> Self {
        let trace = from.id.parse::<CallId>().ok().and_then(|call| TraceParent::of_message("", call));
        let traceparent = TraceParent::header(trace);
        Self { bus, placement, from, traceparent }
    }

    /// What is sent from now on belongs to this span (a traceparent; may be empty).
    pub fn under(&mut self, traceparent: String) {
        self.traceparent = traceparent;
    }

    /// The epoch at which this node may act for the call (a recovered call acts while its shard is being opened); 0 when it
    /// may not, which receivers refuse.
    pub fn epoch(&self) -> Epoch {
        self.placement.sealed(self.from.shard()).unwrap_or_default()
    }

    /// Whether this node may act for the call.
    pub fn may_act(&self) -> bool {
        self.placement.sealed(self.from.shard()).is_some()
    }

    /// The edge itself while it is a member of the cluster. In its place another one, always the same while the members
    /// are: edges know no dialogs, and a transaction of ours that is repeated finds itself there.
    pub fn edge(&self, wanted: &NodeId) -> NodeId {
        let is_edge = |node: &NodeInfo| node.has(cluster::Role::Edge);
        if self.placement.node(wanted).is_some_and(|node| is_edge(&node)) {
            return wanted.clone();
        }
        let Ok(call) = self.from.id.parse::<CallId>() else { return wanted.clone() };
        let nodes = self.placement.nodes();
        let edges = nodes.iter().filter(|node| is_edge(node));
        let other = edges.min_by_key(|node| (node.draining, rendezvous(call, &node.identity.id)));
        other.map_or_else(|| wanted.clone(), |node| node.identity.id.clone())
    }

    pub fn to_entity(&self, to: &EntityAddress, payload: Payload, effect: Option<EffectId>) {
        self.post(entity(to), payload, effect);
    }

    pub fn to_node(&self, node: &NodeId, role: common::Role, payload: Payload, effect: Option<EffectId>) {
        self.post(trunkline_rpc::node(node, role), payload, effect);
    }

    fn post(&self, to: common::Address, payload: Payload, effect: Option<EffectId>) {
        let shard = u32::from(self.from.shard().index());
        let Some(epoch) = self.placement.sealed(self.from.shard()) else {
            // The shard has been lost meanwhile. A receiver that never heard of its owners could not refuse this.
            return tracing::debug!(from = %self.from, "nothing is said for a shard that is not held any more");
        };
        let envelope = Envelope {
            to: Some(to),
            from: Some(entity(&self.from)),
            from_shard: Some(shard),
            from_epoch: epoch.0,
            map_revision: self.placement.revision().0,
            traceparent: self.traceparent.clone(),
            effect: effect.map(|id| common::EffectId { shard, seq: id.seq, index: id.i }),
            payload: Some(payload),
            ..Envelope::default()
        };
        if let Err(error) = self.bus.send(envelope) {
            tracing::debug!(from = %self.from, %error, "a message was refused; it is sent again if it matters");
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_cluster::Role::{Edge, Media};
    use trunkline_rpc::BusMetrics;
    use trunkline_types::{ShardId, Timestamp};

    use super::*;
    use crate::media_nodes::tests::Members;

    #[test]
    fn in_place_of_an_edge_that_is_gone_speaks_always_the_same_other_one() {
        let members = Members::new(&[("e1", &[Edge], "a"), ("e2", &[Edge], "a"), ("m1", &[Media], "a")]);
        let bus = Bus::new("n1".parse().unwrap(), BusMetrics::default(), || Timestamp::ZERO);
        let edge = |n, wanted: &str| {
            let call = CallId::mint(ShardId::new(2_000).unwrap(), Timestamp::ZERO, n);
            let from = EntityAddress::call(&"default".parse().unwrap(), call);
            let sender = Sender::new(bus.clone(), members.clone(), from);
            sender.edge(&wanted.parse().unwrap()).to_string()
        };
        assert_eq!(edge(1, "e2"), "e2");
        members.set(&[
            ("e1", &[Edge], "a"),
            ("e3", &[Edge], "a"),
            ("-e4", &[Edge], "a"),
            ("e2", &[Media], "a"),
        ]);
        let others: Vec<String> = (0..100).map(|n| edge(n, "e2")).collect();
        assert_eq!(others, (0..100).map(|n| edge(n, "e2")).collect::<Vec<_>>());
        let on_e1 = others.iter().filter(|edge| *edge == "e1").count();
        assert!((30..70).contains(&on_e1) && others.iter().all(|edge| edge != "e4"), "{others:?}");
        members.set(&[("m1", &[Media], "a")]);
        assert_eq!(edge(1, "e2"), "e2", "nobody else can");
    }
}
