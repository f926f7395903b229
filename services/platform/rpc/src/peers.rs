//! What placement asks of other nodes: whether they live, and to let shards go.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;
use trunkline_cluster::{NodeInfo, Probe, ReleasePeer};
use trunkline_proto::cluster::v1::{
    PingRequest, ReleaseShardsRequest, admin_client::AdminClient, link_client::LinkClient,
};
use trunkline_types::ShardId;

use crate::{Channels, Tls, dial};

/// Asks other nodes over gRPC.
#[derive(Clone)]
pub struct Peers {
    channels: Channels,
    tls: Option<Tls>,
}

impl Peers {
    /// Over the node's channels. Probes make connections of their own with `tls`.
    pub fn new(channels: Channels, tls: Option<Tls>) -> Self {
        Self { channels, tls }
    }
}

#[async_trait]
impl Probe for Peers {
    /// Over a connection of its own, so that nothing waits behind other requests, and one that hangs is not asked.
    async fn reachable(&self, node: &NodeInfo, deadline: Duration) -> bool {
        let Ok(channel) = dial(&node.address, self.tls.clone()) else { return false };
        let answer = timeout(deadline, async { LinkClient::new(channel).ping(PingRequest {}).await }).await;
        matches!(answer, Ok(Ok(answer)) if {
            let answer = answer.get_ref();
            answer.node == node.identity.id.as_str() && answer.incarnation == node.identity.incarnation.0
        })
    }
}

#[async_trait]
impl ReleasePeer for Peers {
    async fn release(&self, node: &NodeInfo, shards: &[ShardId], deadline: Duration) {
        let channel = self.channels.of(&Arc::new(node.clone()));
        let request = ReleaseShardsRequest {
            node: node.identity.id.as_str().to_owned(),
            incarnation: node.identity.incarnation.0,
            shards: shards.iter().map(|shard| u32::from(shard.index())).collect(),
        };
        let asked =
            timeout(deadline, async { AdminClient::new(channel).release_shards(request).await }).await;
        let problem = match asked {
            Ok(Ok(answer)) if answer.get_ref().released.len() >= shards.len() => return,
            Ok(Ok(answer)) => format!("only {} were let go in time", answer.get_ref().released.len()),
            Ok(Err(status)) => status.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(node = %node.identity, shards = shards.len(), problem, "shards are taken over without a release");
    }
}
