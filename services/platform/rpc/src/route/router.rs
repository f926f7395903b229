//! The task that sends on what waited when the map changes.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;
use trunkline_proto::common::v1::address::Target;
use trunkline_types::{NodeId, ShardId};

use super::{Peer, Pushed, Remote, Way, shelves::Waiting};
use crate::{
    Bus, Refused, address,
    link::{Link, Origin, Parcel, until},
};

/// While something waits it is looked at this often even if the map does not change: gates open, links get room.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Shards that are seen to before others on the thread have their turn.
const BETWEEN: usize = 16;
/// What has waited too long is searched for this often.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);

/// Runs until the bus stops.
pub(crate) async fn run(bus: Bus, remote: Arc<Remote>) {
    let mut changes = remote.placement.changes();
    let mut stopped = remote.stopped();
    let mut expired = Instant::now();
    loop {
        remote.send_on(&bus).await;
        if expired.elapsed() >= EXPIRE_EVERY && !remote.shelves.is_empty() {
            expired = Instant::now();
            let late = remote.shelves.expire((remote.now)());
            remote.metrics.released("expired", late);
        }
        let look = async {
            if remote.shelves.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = remote.wake.notified() => {}
            () = look => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

impl Remote {
    /// Sends on, by the present map, what waits on links and shelves.
    async fn send_on(&self, bus: &Bus) {
        let revision = self.placement.revision();
        for peer in self.gone() {
            for link in peer.links() {
                self.reroute(link, link.retire());
            }
        }
        let peers: Vec<Arc<Peer>> = self.peers.read().values().cloned().collect();
        for peer in &peers {
            for link in peer.links() {
                let moved = link.take_moved(|parcel| self.has_moved(parcel, peer));
                self.reroute(link, moved);
            }
        }
        for (n, shard) in self.shelves.shards().into_iter().enumerate() {
            self.clear(bus, shard);
            if n % BETWEEN == BETWEEN - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.routed.store(revision.0, Ordering::Release);
    }

    /// Peers that are no members any more, or have another life; they are forgotten.
    fn gone(&self) -> Vec<Arc<Peer>> {
        let mut gone = std::mem::take(&mut *self.departed.lock());
        self.peers.write().retain(|id, peer| {
            let lives = self.placement.node(id).is_some_and(|info| info.identity == peer.identity);
            if !lives {
                gone.push(Arc::clone(peer));
            }
            lives
        });
        gone
    }

    fn has_moved(&self, parcel: &Parcel, peer: &Peer) -> bool {
        parcel.shard.is_some_and(
            |shard| !matches!(self.way(shard), Way::Peer(owner) if owner.identity == peer.identity),
        )
    }

    /// What a link did not bring to its peer goes in front of what waits for its shard, or to the node's next life.
    fn reroute(&self, link: &Link, parcels: Vec<Parcel>) {
        let mut by_shard: Vec<(ShardId, Vec<Waiting>)> = Vec::new();
        for parcel in parcels {
            let Some(envelope) = parcel.open() else { continue };
            match envelope.to.as_ref().and_then(|to| to.target.as_ref()) {
                Some(Target::Entity(entity)) => {
                    let Ok(entity) = address::from_proto(entity) else { continue };
                    let shard = entity.shard();
                    let waiting = Waiting { entity, envelope, origin: parcel.origin, until: parcel.until };
                    match by_shard.iter_mut().find(|(known, _)| *known == shard) {
                        Some((_, shelf)) => shelf.push(waiting),
                        None => by_shard.push((shard, vec![waiting])),
                    }
                }
                Some(Target::Node(node)) => {
                    let node: Option<NodeId> = node.node.parse().ok();
                    let peer = node.and_then(|node| self.peer(&node, None));
                    let sent = peer.map(|peer| self.push(&peer, envelope, None, Origin::Here));
                    if !matches!(sent, Some(Ok(Pushed::Linked))) {
                        self.metrics.link(link.lane, "unroutable", 1);
                    }
                }
                None => {}
            }
        }
        for (shard, waiting) in by_shard {
            let over = self.shelves.prepend(shard, waiting, &self.options);
            self.metrics.link(link.lane, "full", over.len());
        }
    }

    /// Delivers what waits for a shard, while there is a way.
    fn clear(&self, bus: &Bus, shard: ShardId) {
        loop {
            let way = self.way(shard);
            if matches!(way, Way::Wait) {
                return;
            }
            let Some(waiting) = self.shelves.next(shard) else { return };
            let now = (self.now)();
            if waiting.until < now {
                self.metrics.released("expired", 1);
                continue;
            }
            match way {
                Way::Here(epoch) => {
                    let Some(_pass) = self.gates.enter(shard, epoch) else {
                        return self.shelves.put_back(shard, waiting);
                    };
                    let outcome = bus.hand(waiting.entity, waiting.envelope);
                    self.metrics.released(outcome.err().map_or("delivered", Refused::outcome), 1);
                }
                Way::Peer(peer) => {
                    let Waiting { entity, envelope, origin, until } = waiting;
                    match self.push(&peer, envelope, Some(shard), origin) {
                        Ok(Pushed::Linked) => self.metrics.released("linked", 1),
                        Ok(Pushed::Ended(envelope) | Pushed::Full(envelope)) => {
                            // The next look finds another way, or room.
                            let envelope = *envelope;
                            self.shelves.put_back(shard, Waiting { entity, envelope, origin, until });
                            return;
                        }
                        Err(refused) => self.metrics.released(refused.outcome(), 1),
                    }
                }
                Way::Wait => return,
            }
        }
    }
}

impl Waiting {
    /// An envelope that waits no longer than `hold`.
    pub(crate) fn new(
        entity: trunkline_types::EntityAddress,
        envelope: trunkline_proto::common::v1::Envelope,
        origin: Origin,
        remote: &Remote,
    ) -> Self {
        let now = (remote.now)();
        let until = until(&envelope, now, remote.options.hold).min(now.plus(remote.options.hold));
        Self { entity, envelope, origin, until }
    }
}
