//! Responses to requests of other edges. Edges that share an address (`sip.advertised`) may get each other's; an edge that
//! has died leaves its own to the others.

use trunkline_actors::now;
use trunkline_cluster::Role as NodeRole;
use trunkline_proto::{
    common::v1::{Envelope, Role, envelope::Payload},
    edge::v1::{EdgeCommand, RelayResponse, edge_command},
};
use trunkline_rpc::node;
use trunkline_sip::{Message, Output, Response, parse_datagram};
use trunkline_types::{EntityAddress, NodeId};

use super::Engine;

/// The parameter of our Via that names the edge (an extension that peers copy, RFC 3261 section 25.1 `via-extension`). Not
/// trusted: whoever makes one up gets his response passed to another edge, where it finds no transaction.
pub(super) const EDGE_PARAM: &str = "edge";

impl Engine {
    /// A response that has no transaction here: the edge that sent the request gets it while it is a member, so that its
    /// transaction ends; else the call itself. Without a branch of ours it is nobody's.
    pub(super) fn stray(&mut self, response: Response) {
        let Some((call, name, edge)) = self.origin(&response) else {
            return self.parts.metrics.drop("stray_response");
        };
        if let Some(edge) = edge.filter(|edge| self.is_other_edge(edge)) {
            let relay = edge_command::Command::Relay(RelayResponse { message: response.to_bytes() });
            let command = EdgeCommand {
                tenant: call.tenant.to_string(),
                call_id: call.id.clone(),
                command: Some(relay),
            };
            let sent = self.parts.bus.send(Envelope {
                to: Some(node(&edge, Role::Edge)),
                from: Some(self.parts.bus.own(Role::Edge)),
                payload: Some(Payload::Edge(command)),
                ..Envelope::default()
            });
            if sent.is_ok() {
                self.parts.metrics.relayed.inc();
                return;
            }
        }
        self.report_response(&call, name, response.to_bytes());
    }

    /// From another edge, which got it: into its transaction, or, when that is over or of a former life, to the call.
    pub(super) fn relayed(&mut self, relay: &RelayResponse) {
        let Ok(Message::Response(response)) = parse_datagram(&relay.message) else {
            return self.parts.metrics.drop("bad_command");
        };
        let outputs = self.layer.on_response(now(), response);
        match &outputs[..] {
            [Output::StrayResponse { response }] => match self.origin(response) {
                Some((call, name, _)) => self.report_response(&call, name, response.to_bytes()),
                None => self.parts.metrics.drop("stray_response"),
            },
            _ => self.perform(outputs),
        }
    }

    /// The call, its name for the request, and the edge that sent it.
    fn origin(&self, response: &Response) -> Option<(EntityAddress, String, Option<NodeId>)> {
        let via = response.headers.top_via().ok()?;
        let (call, name) = self.parts.key.of_branch(&via.branch()?)?;
        Some((call, name, via.params.text(EDGE_PARAM).and_then(|edge| edge.parse().ok())))
    }

    fn is_other_edge(&self, edge: &NodeId) -> bool {
        let member = || self.parts.placement.node(edge).is_some_and(|node| node.has(NodeRole::Edge));
        edge != self.parts.bus.node() && member()
    }
}
