//! gRPC channels to other nodes: to one by its name, or to any that has a role.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tonic::transport::{Channel, Uri};
use trunkline_cluster::{Incarnation, NodeInfo, Placement, Role};
use trunkline_types::NodeId;

use crate::{
    Tls,
    dial::{connect, endpoint},
    server::InProcess,
    stream::NodeStream,
};

/// A request's answer must begin within this.
const ANSWER: Duration = Duration::from_secs(10);
/// A node that could not be reached is tried after the others for this long.
const AVOID: Duration = Duration::from_secs(5);

/// There is no such member to talk to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {0} is no member of the cluster, or serves nothing over the network")]
pub struct NoSuchNode(pub NodeId);

/// Channels to the members of the cluster. Cheap to clone. Each connects at its first use, and again when its connection
/// ends or does not answer pings any more; requests fail as [`ErrorKind::Unavailable`](crate::ErrorKind) meanwhile.
#[derive(Clone)]
pub struct Channels(Arc<Inner>);

struct Inner {
    placement: Arc<dyn Placement>,
    tls: Option<Tls>,
    local: Mutex<Option<InProcess>>,
    nodes: Mutex<HashMap<NodeId, (Incarnation, Channel)>>,
    avoided: Mutex<HashMap<NodeId, Instant>>,
    turn: AtomicUsize,
}

impl Channels {
    /// Channels to the members that `placement` tells of.
    pub fn new(placement: Arc<dyn Placement>, tls: Option<Tls>) -> Self {
        Self(Arc::new(Inner {
            placement,
            tls,
            local: Mutex::default(),
            nodes: Mutex::default(),
            avoided: Mutex::default(),
            turn: AtomicUsize::default(),
        }))
    }

    /// From now on this node reaches its own server without a socket.
    pub fn attach_local(&self, server: InProcess) {
        *self.0.local.lock() = Some(server);
    }

    /// The channel to one life of a member.
    ///
    /// # Errors
    /// When it is no member.
    pub fn node(&self, id: &NodeId) -> Result<Channel, NoSuchNode> {
        let info = self.0.placement.node(id).ok_or_else(|| NoSuchNode(id.clone()))?;
        if info.address.is_empty() && !self.0.is_local(id) {
            return Err(NoSuchNode(id.clone()));
        }
        Ok(self.of(&info))
    }

    pub(crate) fn of(&self, info: &Arc<NodeInfo>) -> Channel {
        let mut nodes = self.0.nodes.lock();
        let life = info.identity.incarnation;
        match nodes.get(&info.identity.id) {
            Some((known, channel)) if *known == life => channel.clone(),
            _ => {
                // Those of nodes that have gone.
                nodes.retain(|id, _| self.0.placement.node(id).is_some());
                let (inner, info) = (Arc::clone(&self.0), Arc::clone(info));
                let id = info.identity.id.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let (inner, info) = (Arc::clone(&inner), Arc::clone(&info));
                    async move { inner.connect(&info).await.map(TokioIo::new) }
                });
                let channel = endpoint().timeout(ANSWER).connect_with_connector_lazy(connector);
                nodes.insert(id, (life, channel.clone()));
                channel
            }
        }
    }

    /// A channel to a member with this role: this node when it has the role, else one of the same zone, else any, those
    /// that drain last. It stays with its choice while the connection lives, and chooses again when it connects anew.
    pub fn role(&self, role: Role) -> Channel {
        let inner = Arc::clone(&self.0);
        let connector = tower::service_fn(move |_: Uri| {
            let inner = Arc::clone(&inner);
            async move { inner.connect_role(role).await.map(TokioIo::new) }
        });
        endpoint().timeout(ANSWER).connect_with_connector_lazy(connector)
    }
}

impl Inner {
    fn is_local(&self, id: &NodeId) -> bool {
        self.placement.local().id == *id
    }

    async fn connect(&self, info: &NodeInfo) -> io::Result<NodeStream> {
        if self.is_local(&info.identity.id) {
            let local = self.local.lock().clone();
            if let Some(local) = local {
                return local.connect().await.map(NodeStream::memory);
            }
        }
        connect(&info.address, self.tls.as_ref()).await
    }

    async fn connect_role(&self, role: Role) -> io::Result<NodeStream> {
        let mut last = None;
        for info in self.candidates(role) {
            match self.connect(&info).await {
                Ok(stream) => {
                    self.avoided.lock().remove(&info.identity.id);
                    return Ok(stream);
                }
                Err(error) => {
                    tracing::debug!(node = %info.identity, role = role.as_str(), %error, "not reached; the next one");
                    self.avoided.lock().insert(info.identity.id.clone(), Instant::now());
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            let why = format!("no member of the cluster has the role {}", role.as_str());
            io::Error::new(io::ErrorKind::NotFound, why)
        }))
    }

    /// The best first; among equals another one each time.
    fn candidates(&self, role: Role) -> Vec<Arc<NodeInfo>> {
        let nodes = self.placement.nodes();
        let local = self.placement.local();
        let zone = nodes.iter().find(|node| node.identity == local).and_then(|node| node.zone.clone());
        let mut found: Vec<Arc<NodeInfo>> = nodes
            .iter()
            .filter(|node| node.roles.contains(&role))
            .filter(|node| !node.address.is_empty() || node.identity.id == local.id)
            .cloned()
            .collect();
        if !found.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.len();
            found.rotate_left(turn);
        }
        let avoided = self.avoided.lock();
        found.sort_by_key(|node| {
            let avoid = avoided.get(&node.identity.id).is_some_and(|since| since.elapsed() < AVOID);
            let elsewhere = zone.is_none() || node.zone != zone;
            (avoid, node.draining, node.identity.id != local.id, elsewhere)
        });
        found
    }
}
