//! The node's gRPC server and its way to the others.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tonic::{service::Routes, transport::Channel};
use trunkline_cluster::Role;
use trunkline_proto::cluster::v1::admin_server::AdminServer;
use trunkline_records::Records;
use trunkline_rpc::{Channels, NodeServer};

use super::{admin::Operator, ground::Ground};
use crate::config::NodeConfig;

/// Requests under way may end within this.
const FLUSH: Duration = Duration::from_secs(2);

pub(super) struct Server {
    server: NodeServer,
    channels: Channels,
    certificates: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves links, administration and, with the role, records. A node that is alone serves them within the process.
    pub async fn start(
        ground: &Ground,
        config: &NodeConfig,
        operator: Operator,
        records: Option<&mut Records>,
    ) -> Result<Self> {
        let mut routes = Routes::new(AdminServer::new(operator));
        if let Some(records) = records {
            routes = routes.add_service(records.service().context("the records service is taken already")?);
        }
        if let Some(links) = ground.bus.link_service() {
            routes = routes.add_service(links);
        }
        let listen = config.cluster.as_ref().map(|cluster| cluster.listen.addr);
        let server = NodeServer::start(listen, ground.tls.clone(), routes).await.with_context(|| {
            let listen = listen.map(|listen| listen.to_string()).unwrap_or_default();
            format!("cluster.listen: cannot listen on {listen}")
        })?;
        ground.channels.attach_local(server.in_process());
        let certificates = ground.tls.as_ref().map(|tls| tls.follow());
        Ok(Self { server, channels: ground.channels.clone(), certificates })
    }

    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.server.local_addr()
    }

    /// To a node with the records role, this one if it has it.
    pub fn records_channel(&self) -> Channel {
        self.channels.role(Role::Records)
    }

    pub async fn shutdown(self) {
        if let Some(task) = &self.certificates {
            task.abort();
        }
        self.server.shutdown(FLUSH).await;
    }
}
