//! What is asked of etcd: leases and transactions. Each request has a deadline; one that is not answered breaks the
//! connection, so that the next one goes to another member.

use std::{future::Future, sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, DeleteOptions, Error, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::{Instant, timeout};
use trunkline_cluster_core::{Block, Holdings, NodeIdentity, NodeRecord, Seen};
use trunkline_types::{Feature, NodeId};

use super::link::{Connection, DEADLINE, Link};

/// Why etcd did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum StoreError {
    #[error("etcd does not answer")]
    Unreachable,
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// What the write builds on has changed.
    #[error("the store has changed meanwhile")]
    Changed,
}

impl Link {
    /// Runs one request on the connection of the moment.
    pub async fn ask<T, F: Future<Output = Result<T, Error>>>(
        &self,
        request: impl FnOnce(etcd_client::Client) -> F,
    ) -> Result<T, StoreError> {
        let Some(Connection { number, client }) = self.connection() else {
            return Err(StoreError::Unreachable);
        };
        let begun = Instant::now();
        let answer = timeout(DEADLINE, request(client)).await;
        self.metrics.etcd_seconds.observe(begun.elapsed().as_secs_f64());
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.metrics.etcd_failures.inc();
                if is_transport(&error) {
                    self.is_broken(number);
                    return Err(StoreError::Unreachable);
                }
                Err(StoreError::Refused(error.to_string()))
            }
            Err(_) => {
                self.metrics.etcd_failures.inc();
                self.is_broken(number);
                Err(StoreError::Unreachable)
            }
        }
    }

    /// A transaction that must succeed; gives the revision.
    async fn write(&self, txn: Txn) -> Result<u64, StoreError> {
        self.metrics.etcd_writes.inc();
        let answer = self.ask(|mut client| async move { client.txn(txn).await }).await?;
        if !answer.succeeded() {
            return Err(StoreError::Changed);
        }
        Ok(answer.header().map_or(0, |header| header.revision().unsigned_abs()))
    }

    pub async fn grant(&self, ttl: Duration) -> Result<i64, StoreError> {
        let seconds = ttl.as_secs().max(1) as i64;
        let answer = self.ask(|mut client| async move { client.lease_grant(seconds, None).await }).await?;
        Ok(answer.id())
    }

    pub async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.ask(|mut client| async move { client.lease_revoke(lease).await }).await.map(|_| ())
    }

    pub async fn register(
        &self,
        node: &NodeIdentity,
        record: &NodeRecord,
        held: &Holdings,
        lease: i64,
    ) -> Result<u64, StoreError> {
        let leased = || Some(PutOptions::new().with_lease(lease));
        let record = serde_json::to_vec(record).map_err(|error| StoreError::Refused(error.to_string()))?;
        self.write(Txn::new().and_then([
            TxnOp::put(self.keys.node(node), record, leased()),
            TxnOp::put(self.keys.held(node), held.encode(), leased()),
        ]))
        .await
    }

    /// Only with the node's own key: what a node without lease says is not kept.
    pub async fn publish(&self, node: &NodeIdentity, held: &Holdings, lease: i64) -> Result<u64, StoreError> {
        let there = Compare::lease(self.keys.node(node), CompareOp::Equal, lease);
        let put = TxnOp::put(self.keys.held(node), held.encode(), Some(PutOptions::new().with_lease(lease)));
        self.write(Txn::new().when([there]).and_then([put])).await
    }

    /// Becomes coordinator if there is none; gives the revision.
    pub async fn campaign(&self, node: &NodeIdentity, lease: i64) -> Result<u64, StoreError> {
        let vacant = Compare::create_revision(self.keys.leader(), CompareOp::Equal, 0);
        let value = serde_json::to_vec(node).map_err(|error| StoreError::Refused(error.to_string()))?;
        let put = TxnOp::put(self.keys.leader(), value, Some(PutOptions::new().with_lease(lease)));
        self.write(Txn::new().when([vacant]).and_then([put])).await
    }

    /// Ends an election.
    pub async fn depose(&self, elected: u64) -> Result<(), StoreError> {
        let delete = TxnOp::delete(self.keys.leader(), None);
        self.write(Txn::new().when([self.elected(elected)]).and_then([delete])).await.map(|_| ())
    }

    fn elected(&self, revision: u64) -> Compare {
        Compare::create_revision(self.keys.leader(), CompareOp::Equal, revision as i64)
    }

    /// Writes blocks as coordinator; gives their revisions.
    pub async fn assign(
        &self,
        elected: u64,
        blocks: &[(usize, u64, Block)],
    ) -> Result<Vec<(usize, u64)>, StoreError> {
        let mut compares = vec![self.elected(elected)];
        let mut puts = Vec::with_capacity(blocks.len());
        for (index, revision, block) in blocks {
            let key = self.keys.block(*index);
            compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, *revision as i64));
            puts.push(TxnOp::put(key, block.encode(), None));
        }
        let at = self.write(Txn::new().when(compares).and_then(puts)).await?;
        Ok(blocks.iter().map(|(index, ..)| (*index, at)).collect())
    }

    /// Raises the gate as coordinator. One that is as high already is left.
    pub async fn raise(&self, elected: u64, before: u32, gate: u32) -> Result<(), StoreError> {
        let key = self.keys.gate();
        let unchanged = match before {
            Feature::FIRST => Compare::create_revision(key.clone(), CompareOp::Equal, 0),
            _ => Compare::value(key.clone(), CompareOp::Equal, before.to_string()),
        };
        let put = TxnOp::put(key, gate.to_string(), None);
        self.write(Txn::new().when([self.elected(elected), unchanged]).and_then([put])).await.map(|_| ())
    }

    /// Marks another node as taken out, as coordinator; its key keeps its lease.
    pub async fn evict(
        &self,
        elected: u64,
        node: &NodeIdentity,
        record: &NodeRecord,
    ) -> Result<(), StoreError> {
        let there = Compare::create_revision(self.keys.node(node), CompareOp::Greater, 0);
        let record = serde_json::to_vec(record).map_err(|error| StoreError::Refused(error.to_string()))?;
        let put = TxnOp::put(self.keys.node(node), record, Some(PutOptions::new().with_ignore_lease()));
        self.write(Txn::new().when([self.elected(elected), there]).and_then([put])).await.map(|_| ())
    }

    pub async fn suspect(
        &self,
        suspect: &NodeIdentity,
        observer: &NodeId,
        stands: bool,
        lease: Option<i64>,
    ) -> Result<(), StoreError> {
        let key = self.keys.suspicion(suspect, observer);
        let op = match (stands, lease) {
            (true, Some(lease)) => TxnOp::put(key, "", Some(PutOptions::new().with_lease(lease))),
            (true, None) => return Err(StoreError::Unreachable),
            (false, _) => TxnOp::delete(key, None::<DeleteOptions>),
        };
        self.write(Txn::new().and_then([op])).await.map(|_| ())
    }

    /// An operator's wish; it outlives all nodes.
    pub async fn set_drain(&self, node: &NodeId, drain: bool) -> Result<(), StoreError> {
        let key = self.keys.drain(node);
        let op = if drain { TxnOp::put(key, "", None) } else { TxnOp::delete(key, None) };
        self.write(Txn::new().and_then([op])).await.map(|_| ())
    }

    /// Blocks as the quorum has them.
    pub async fn blocks(&self, indexes: &[usize]) -> Result<Vec<Seen>, StoreError> {
        let gets: Vec<_> = indexes.iter().map(|index| TxnOp::get(self.keys.block(*index), None)).collect();
        let txn = Txn::new().and_then(gets);
        let answer = self.ask(|mut client| async move { client.txn(txn).await }).await?;
        let read = answer.op_responses().into_iter().filter_map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().and_then(|pair| self.keys.read(pair)),
            _ => None,
        });
        Ok(read.collect())
    }
}

fn is_transport(error: &Error) -> bool {
    match error {
        Error::TransportError(_) | Error::IoError(_) | Error::EndpointError(_) => true,
        // A status with a cause is none of the server's: the connection failed, whatever its code. Unavailable,
        // DeadlineExceeded, Cancelled, Unknown (a broken stream).
        Error::GRpcStatus(status) => {
            std::error::Error::source(status).is_some() || matches!(status.code() as i32, 1 | 2 | 4 | 14)
        }
        _ => false,
    }
}

/// Keeps a lease alive over all connections. Ends when etcd does not know it any more, or when `stop` says so.
pub(super) async fn keep_alive(
    link: Arc<Link>,
    lease: i64,
    ttl: Duration,
    mut renewed: impl FnMut(Instant) + Send,
) {
    let mut connections = link.connections();
    loop {
        let Some(connection) = connections.borrow_and_update().clone() else {
            if connections.changed().await.is_err() {
                return;
            }
            continue;
        };
        if keep_over(&link, connection, lease, ttl, &mut renewed).await {
            return;
        }
        // Broken: the next connection, or a moment later the same one.
        let _ = timeout(Duration::from_millis(100), connections.changed()).await;
    }
}

/// Renews over one connection until it breaks (`false`) or etcd does not know the lease (`true`).
async fn keep_over(
    link: &Link,
    connection: Connection,
    lease: i64,
    ttl: Duration,
    renewed: &mut (impl FnMut(Instant) + Send),
) -> bool {
    let Connection { number, mut client } = connection;
    let patience = (ttl / 3).max(Duration::from_millis(300));
    let mut sent = Instant::now();
    let (mut keeper, mut stream) = match timeout(patience, client.lease_keep_alive(lease)).await {
        Ok(Ok(kept)) => kept,
        Ok(Err(Error::LeaseKeepAliveError(_))) => return true,
        Ok(Err(_)) | Err(_) => {
            link.is_broken(number);
            return false;
        }
    };
    loop {
        renewed(sent);
        tokio::time::sleep_until(sent + ttl / 3).await;
        sent = Instant::now();
        let answer = timeout(patience, async {
            keeper.keep_alive().await?;
            stream.message().await
        })
        .await;
        match answer {
            Ok(Ok(Some(answer))) if answer.ttl() > 0 => {}
            Ok(Ok(Some(_))) => return true,
            _ => {
                link.is_broken(number);
                return false;
            }
        }
    }
}
