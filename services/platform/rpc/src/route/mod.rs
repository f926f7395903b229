//! Where envelopes go when the cluster has more than one node: the way of each shard, and the links to the peers.

pub(crate) mod gates;
pub(crate) mod hints;
pub(crate) mod inbound;
pub(crate) mod router;
pub(crate) mod shelves;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use trunkline_cluster::{Incarnation, NodeIdentity, Placement};
use trunkline_proto::{cluster::v1::Moved, common::v1::Envelope};
use trunkline_types::{Epoch, NodeId, ShardId, Timestamp};

use self::{gates::Gates, hints::Hints, inbound::Sequences, shelves::Shelves};
use crate::{
    BusMetrics, Refused, Tls,
    bus::Sent,
    lane::Lane,
    link::{Drive, Link, LinkOptions, NotTaken, Origin, Parcel, drive, until},
};

/// One life of another node, and the links to it.
pub(crate) struct Peer {
    pub(crate) identity: NodeIdentity,
    address: String,
    links: [OnceLock<Arc<Link>>; Lane::ALL.len()],
}

impl Peer {
    fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.links.iter().filter_map(OnceLock::get)
    }
}

/// Where the envelopes of a shard go at present.
pub(crate) enum Way {
    /// To this node's hosts, at this epoch.
    Here(Epoch),
    /// To another node.
    Peer(Arc<Peer>),
    /// Nowhere yet: nobody has it, its owner has vanished, or this node is about to seal it.
    Wait,
}

/// What became of an envelope for a link.
pub(crate) enum Pushed {
    Linked,
    /// The link has ended meanwhile.
    Ended(Box<Envelope>),
    /// The link has as much as it takes.
    Full(Box<Envelope>),
}

/// The part of the bus that knows other nodes.
pub(crate) struct Remote {
    pub(crate) node: NodeId,
    pub(crate) placement: Arc<dyn Placement>,
    pub(crate) options: Arc<LinkOptions>,
    pub(crate) metrics: BusMetrics,
    pub(crate) now: fn() -> Timestamp,
    tls: Option<Tls>,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    /// Former lives of peers, whose links are still to be emptied.
    departed: Mutex<Vec<Arc<Peer>>>,
    pub(crate) shelves: Shelves,
    pub(crate) gates: Gates,
    pub(crate) sequences: Sequences,
    hints: Arc<Hints>,
    /// Wakes the router.
    wake: Arc<Notify>,
    /// The revision of the map up to which what waited was sent on.
    routed: AtomicU64,
    stop: watch::Sender<bool>,
    ended: AtomicBool,
    lost: Arc<OnceLock<OnLost>>,
    runtime: tokio::runtime::Handle,
}

type OnLost = Box<dyn Fn(&NodeId) + Send + Sync>;

impl Remote {
    pub(crate) fn new(
        node: NodeId,
        placement: Arc<dyn Placement>,
        tls: Option<Tls>,
        options: LinkOptions,
        metrics: BusMetrics,
        now: fn() -> Timestamp,
    ) -> Self {
        Self {
            node,
            placement,
            options: Arc::new(options),
            now,
            tls,
            peers: RwLock::default(),
            departed: Mutex::default(),
            shelves: Shelves::new(metrics.held().clone()),
            gates: Gates::new(),
            sequences: Sequences::default(),
            hints: Arc::new(Hints::default()),
            wake: Arc::new(Notify::new()),
            // The router's first look settles it.
            routed: AtomicU64::new(u64::MAX),
            stop: watch::Sender::new(false),
            ended: AtomicBool::new(false),
            lost: Arc::default(),
            runtime: tokio::runtime::Handle::current(),
            metrics,
        }
    }

    /// The way of a shard, by the map last seen and by what peers have said since.
    pub(crate) fn way(&self, shard: ShardId) -> Way {
        if let Some(epoch) = self.placement.sealed(shard) {
            return if self.gates.is_closed(shard, epoch) { self.elsewhere(shard) } else { Way::Here(epoch) };
        }
        self.elsewhere(shard)
    }

    fn elsewhere(&self, shard: ShardId) -> Way {
        let owner = self
            .hints
            .owner(shard, || self.placement.revision())
            .or_else(|| self.placement.owner(shard).map(|owner| (owner.node, owner.incarnation)));
        match owner {
            Some((node, incarnation)) if node != self.node => {
                self.peer(&node, Some(incarnation)).map_or(Way::Wait, Way::Peer)
            }
            _ => Way::Wait,
        }
    }

    /// A member to which links can be made. With an incarnation: only that life of it.
    pub(crate) fn peer(&self, id: &NodeId, life: Option<Incarnation>) -> Option<Arc<Peer>> {
        let fits = |peer: &Arc<Peer>| life.is_none_or(|life| peer.identity.incarnation == life);
        if let Some(peer) = self.peers.read().get(id).filter(|peer| fits(peer)) {
            return Some(Arc::clone(peer));
        }
        let info = self.placement.node(id)?;
        if info.address.is_empty() || life.is_some_and(|life| info.identity.incarnation != life) {
            return None;
        }
        let mut peers = self.peers.write();
        if let Some(peer) = peers.get(id).filter(|peer| peer.identity == info.identity) {
            return Some(Arc::clone(peer));
        }
        let peer = Arc::new(Peer {
            identity: info.identity.clone(),
            address: info.address.clone(),
            links: Default::default(),
        });
        if let Some(former) = peers.insert(id.clone(), Arc::clone(&peer)) {
            self.departed.lock().push(former);
            self.wake.notify_one();
        }
        Some(peer)
    }

    /// Puts an envelope on the link to `peer`.
    pub(crate) fn push(
        &self,
        peer: &Peer,
        mut envelope: Envelope,
        shard: Option<ShardId>,
        origin: Origin,
    ) -> Result<Pushed, Refused> {
        let lane = match origin {
            Origin::Here => Lane::of(&envelope),
            Origin::Passed => Lane::HandOff,
            Origin::Last => {
                self.metrics.link(Lane::HandOff, "hops", 1);
                return Err(Refused::Unroutable);
            }
        };
        if origin == Origin::Passed {
            envelope.hops = 1;
        }
        let until = until(&envelope, (self.now)(), self.options.patience);
        let parcel = Parcel::new(&envelope, shard, until, origin);
        if parcel.bytes.len() > self.options.envelope_bytes {
            self.metrics.link(lane, "oversize", 1);
            tracing::error!(
                bytes = parcel.bytes.len(),
                most = self.options.envelope_bytes,
                "an envelope is too large for a link"
            );
            return Err(Refused::Unroutable);
        }
        match self.link(peer, lane).push(parcel) {
            Ok(()) => Ok(Pushed::Linked),
            Err(NotTaken::Full) => Ok(Pushed::Full(Box::new(envelope))),
            Err(NotTaken::Retired) => Ok(Pushed::Ended(Box::new(envelope))),
        }
    }

    /// To a role of another node.
    pub(crate) fn to_node(&self, node: &NodeId, envelope: Envelope) -> Result<Sent, Refused> {
        if self.has_stopped() {
            return Err(Refused::Stopped);
        }
        let mut envelope = envelope;
        // A second life that begins between the two is met by the second try.
        for _ in 0..2 {
            let peer = self.peer(node, None).ok_or(Refused::Unroutable)?;
            match self.push(&peer, envelope, None, Origin::Here)? {
                Pushed::Linked => return Ok(Sent::Linked),
                Pushed::Full(_) => return Err(Refused::Full),
                Pushed::Ended(back) => envelope = *back,
            }
        }
        Err(Refused::Unroutable)
    }

    /// Who owns a shard that is not this node's, for the sender of an envelope. `None` when this node is about to have it.
    pub(crate) fn moved(&self, shard: ShardId) -> Option<Moved> {
        let revision = self.placement.revision();
        let owner = self.placement.owner(shard);
        if owner.as_ref().is_some_and(|owner| owner.node == self.node) {
            return None;
        }
        let (owner, life) = owner
            .map_or_else(Default::default, |owner| (owner.node.as_str().to_owned(), owner.incarnation.0));
        Some(Moved {
            shard: u32::from(shard.index()),
            owner,
            owner_incarnation: life,
            map_revision: revision.0,
        })
    }

    fn link<'a>(&self, peer: &'a Peer, lane: Lane) -> &'a Arc<Link> {
        peer.links[lane.index()].get_or_init(|| {
            let link = Link::new(
                peer.identity.clone(),
                peer.address.clone(),
                lane,
                Arc::clone(&self.options),
                self.metrics.lane(lane),
                self.now,
            );
            let (hints, placement, wake) =
                (Arc::clone(&self.hints), Arc::clone(&self.placement), Arc::clone(&self.wake));
            let moved = move |moved: Vec<Moved>| {
                if hints.learn(&moved, placement.revision()) {
                    wake.notify_one();
                }
            };
            let (tls, metrics) = (self.tls.clone(), self.metrics.clone());
            let (placement, stop) = (Arc::clone(&self.placement), self.stop.subscribe());
            let (told, id) = (Arc::clone(&self.lost), peer.identity.id.clone());
            let lost = move || {
                if let Some(told) = told.get() {
                    told(&id);
                }
            };
            let (moved, lost) = (Box::new(moved), Box::new(lost));
            let needs = Drive { placement, tls, metrics, stop, moved, lost };
            self.runtime.spawn(drive(Arc::clone(&link), needs));
            link
        })
    }

    /// Whether what waited on links was sent on by the present map, so that nothing newer overtakes it.
    pub(crate) fn settled(&self) -> bool {
        self.routed.load(Ordering::Acquire) == self.placement.revision().0
    }

    /// Whether links and router have ended: nothing leaves this node any more.
    pub(crate) fn has_stopped(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Has the router look again.
    pub(crate) fn poke(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn on_lost(&self, told: OnLost) {
        let _ = self.lost.set(told);
    }

    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Ends links and router.
    pub(crate) fn stop(&self) {
        self.ended.store(true, Ordering::Release);
        self.stop.send_replace(true);
    }

    /// Whether nothing waits for an acknowledgement.
    pub(crate) fn is_quiet(&self) -> bool {
        self.peers.read().values().all(|peer| peer.links().all(|link| link.is_empty()))
    }
}
