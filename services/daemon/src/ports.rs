//! The ends of the bus and of the console that belong to no room: what consoles are told, the way from consoles to agents,
//! and the cluster as the console's page shows it.

use async_trait::async_trait;
use trunkline_console::{AgentPort, ClusterPort, ClusterRefused, Console};
use trunkline_proto::{
    acd::v1::{AgentCommand, AgentMessage, agent_message},
    cluster::v1::Overview,
    common::v1::{Envelope, Role, envelope::Payload},
};
use trunkline_rpc::{Bus, Deliver, ErrorKind, Refused, entity};
use trunkline_types::{AgentId, EntityAddress, NodeId, TenantId};

use crate::node::Operator;

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

/// The cluster as the console's page shows it.
pub struct ClusterView(pub Operator);

#[async_trait]
impl ClusterPort for ClusterView {
    async fn overview(&self) -> Result<Overview, ClusterRefused> {
        Ok(self.0.overview())
    }

    async fn set_drain(&self, node: &NodeId, drain: bool, by: &str) -> Result<(), ClusterRefused> {
        let asked = self.0.set_drain(node.as_str(), drain, by).await;
        asked.map_err(|(kind, why)| match kind {
            ErrorKind::NotFound => ClusterRefused::UnknownNode,
            ErrorKind::Unavailable => ClusterRefused::Unavailable(why),
            _ => ClusterRefused::Impossible(why),
        })
    }
}
