use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use trunkline_cluster::Placement;
use trunkline_proto::{
    cluster::v1::{
        Moved,
        link_server::{Link, LinkServer},
    },
    common::v1::{self as common, Address, Envelope, Role, address::Target},
};
use trunkline_telemetry::{TraceParent, exported};
use trunkline_types::{CallId, EntityAddress, EntityKind, NodeId, ShardId, Timestamp};

use crate::{
    BusMetrics, Tls, address,
    lane::Lane,
    link::{LinkOptions, Origin},
    route::{
        Pushed, Remote, Way,
        inbound::LinkService,
        router,
        shelves::{NoRoom, Waiting},
    },
};

/// A batch on a link is not larger: one envelope above the size at which batches are closed.
const LARGEST_BATCH: usize = 4 << 20;

/// Why an envelope was not taken. The sender's core sends again what matters; the edge turns it into a 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The receiver has no permit left (its queue is full).
    #[error("the receiver has as much waiting as it admits")]
    Full,
    /// The envelope's deadline is over.
    #[error("the deadline of the message is over")]
    Expired,
    /// The address is malformed, or no such role or entity is served here.
    #[error("nothing serves this address")]
    Unroutable,
    /// The receiver is shutting down.
    #[error("the receiver has stopped")]
    Stopped,
}

impl Refused {
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Expired => "expired",
            Self::Unroutable => "unroutable",
            Self::Stopped => "stopped",
        }
    }
}

/// One end of the bus: the host of a kind of entity, or a role.
pub trait Deliver: Send + Sync {
    /// Takes an envelope without waiting. `entity` is its typed address when it goes to an entity.
    fn deliver(&self, entity: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused>;
}

#[derive(Default)]
struct Routes {
    call: OnceLock<Arc<dyn Deliver>>,
    queue: OnceLock<Arc<dyn Deliver>>,
    agent: OnceLock<Arc<dyn Deliver>>,
    telephone: OnceLock<Arc<dyn Deliver>>,
    edge: OnceLock<Arc<dyn Deliver>>,
    media: OnceLock<Arc<dyn Deliver>>,
    records: OnceLock<Arc<dyn Deliver>>,
    console: OnceLock<Arc<dyn Deliver>>,
}

/// The bus of a node. Cheap to clone; rooms attach their ends after it was made (they need it to answer).
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    routes: Routes,
    metrics: BusMetrics,
    now: fn() -> Timestamp,
    /// Set when the node joins a cluster.
    remote: OnceLock<Arc<Remote>>,
}

/// Where an address leads.
enum To {
    Entity(EntityAddress),
    /// A role of this node.
    Role(Role),
    /// A role of another one.
    Node(NodeId),
}

/// What became of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Delivered,
    Linked,
    Held,
}

impl Sent {
    const fn outcome(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Linked => "linked",
            Self::Held => "held",
        }
    }
}

impl Bus {
    /// A bus of `node` with nothing attached. `now` is the node's clock, for deadlines.
    pub fn new(node: NodeId, metrics: BusMetrics, now: fn() -> Timestamp) -> Self {
        let (routes, remote) = (Routes::default(), OnceLock::new());
        Self { inner: Arc::new(Inner { node, routes, metrics, now, remote }) }
    }

    /// Makes the bus one of a cluster: from now on it asks `placement` where entities live, reaches other nodes over links,
    /// and holds back what has no owner at present. Until then everything lives on this node. Call it before anything is
    /// sent, within the runtime; the second call does nothing.
    pub fn join(&self, placement: Arc<dyn Placement>, tls: Option<Tls>, options: LinkOptions) {
        let Inner { node, metrics, now, remote, .. } = &*self.inner;
        let made = Remote::new(node.clone(), placement, tls, options, metrics.clone(), *now);
        let made = Arc::new(made);
        if remote.set(Arc::clone(&made)).is_ok() {
            tokio::spawn(router::run(self.clone(), made));
        }
    }

    /// Has `told` called when a link to a node is lost or cannot be made: the node may be dead. It must not block. The first
    /// one stays; it does nothing before [`Bus::join`].
    pub fn on_link_lost(&self, told: impl Fn(&NodeId) + Send + Sync + 'static) {
        if let Some(remote) = self.inner.remote.get() {
            remote.on_lost(Box::new(told));
        }
    }

    /// The gRPC service at which other nodes' links arrive; `None` before [`Bus::join`].
    pub fn link_service(&self) -> Option<LinkServer<impl Link>> {
        let remote = Arc::clone(self.inner.remote.get()?);
        Some(LinkServer::new(LinkService::new(self.clone(), remote)).max_decoding_message_size(LARGEST_BATCH))
    }

    /// Lets no more envelopes through to the entities of `shards`, and waits for those on their way through: after it,
    /// their hosts can let the shards go without refusing anything. Until the map names another owner, or this node has
    /// sealed them again, what comes is held back. False when something was on its way through for longer than `patience`.
    pub async fn close_shards(&self, shards: &[ShardId], patience: Duration) -> bool {
        let Some(remote) = self.inner.remote.get() else { return true };
        let sealed = |shard: &ShardId| Some((*shard, remote.placement.sealed(*shard)?));
        for (shard, epoch) in shards.iter().filter_map(sealed) {
            remote.gates.close(shard, epoch);
        }
        let mut empty = true;
        for shard in shards {
            empty &= remote.gates.empty(*shard, patience).await;
        }
        empty
    }

    /// Waits, for at most `patience`, until other nodes have acknowledged what was sent to them, then ends the links: what has to
    /// leave this node is refused as [`Refused::Stopped`] from then on. False when something was not acknowledged.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        let Some(remote) = self.inner.remote.get() else { return true };
        let quiet = async {
            while !remote.is_quiet() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let quiet = tokio::time::timeout(patience, quiet).await.is_ok();
        remote.stop();
        quiet
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.inner.node
    }

    /// Attaches the host of a kind of entity. The first one stays.
    pub fn attach_entities(&self, kind: EntityKind, end: Arc<dyn Deliver>) {
        let _ = self.entity_slot(kind).set(end);
    }

    /// Attaches a role. The first one stays.
    pub fn attach_role(&self, role: Role, end: Arc<dyn Deliver>) {
        if let Some((slot, _)) = self.role_slot(role) {
            let _ = slot.set(end);
        }
    }

    /// Sends `envelope` to where its address lives, without waiting. One that goes to a call or comes from one and names
    /// no span gets that call's trace.
    ///
    /// Ok = delivered here, or on its way: on a link to another node, or held back until it is known who owns the shard.
    /// Between one sender and one receiver order is kept while the receiver's shard does not move.
    ///
    /// # Errors
    /// [`Refused`], and nothing was done.
    pub fn send(&self, mut envelope: Envelope) -> Result<(), Refused> {
        if envelope.traceparent.is_empty() && exported() {
            envelope.traceparent = TraceParent::header(call_of(&envelope).map(TraceParent::of_call));
        }
        let Some((name, to)) = self.resolve(&envelope) else {
            self.inner.metrics.count("unknown", "unroutable");
            return Err(Refused::Unroutable);
        };
        let result =
            if self.is_late(&envelope) { Err(Refused::Expired) } else { self.dispatch(to, envelope) };
        self.inner.metrics.count(name, result.map_or_else(Refused::outcome, Sent::outcome));
        result.map(|_| ())
    }

    fn is_late(&self, envelope: &Envelope) -> bool {
        envelope.deadline_us != 0 && (self.inner.now)().as_micros() > envelope.deadline_us
    }

    fn dispatch(&self, to: To, envelope: Envelope) -> Result<Sent, Refused> {
        match (to, self.inner.remote.get()) {
            (To::Entity(entity), None) => self.hand(entity, envelope).map(|()| Sent::Delivered),
            (To::Entity(entity), Some(remote)) => self.place(remote, entity, envelope, Origin::Here),
            (To::Role(role), _) => self.hand_role(role, envelope).map(|()| Sent::Delivered),
            (To::Node(_), None) => Err(Refused::Unroutable),
            (To::Node(node), Some(remote)) => remote.to_node(&node, envelope),
        }
    }

    /// To a host of this node.
    pub(crate) fn hand(&self, entity: EntityAddress, envelope: Envelope) -> Result<(), Refused> {
        let end = self.entity_slot(entity.kind).get().ok_or(Refused::Unroutable)?;
        end.deliver(Some(entity), envelope)
    }

    fn hand_role(&self, role: Role, envelope: Envelope) -> Result<(), Refused> {
        let (slot, _) = self.role_slot(role).ok_or(Refused::Unroutable)?;
        slot.get().ok_or(Refused::Unroutable)?.deliver(None, envelope)
    }

    /// Where the entity's shard is: here, at a peer, or nowhere yet.
    fn place(
        &self,
        remote: &Remote,
        entity: EntityAddress,
        envelope: Envelope,
        origin: Origin,
    ) -> Result<Sent, Refused> {
        let shard = entity.shard();
        let (mut entity, mut envelope) = (entity, envelope);
        if !remote.shelves.is_empty() {
            let waiting = Waiting::new(entity, envelope, origin, remote);
            match remote.shelves.behind(shard, waiting, &remote.options) {
                Ok(None) => return Ok(Sent::Held),
                Ok(Some(waiting)) => Waiting { entity, envelope, .. } = waiting,
                Err(NoRoom) => return Err(Refused::Full),
            }
        }
        match remote.way(shard) {
            Way::Here(epoch) => {
                if let Some(_pass) = remote.gates.enter(shard, epoch) {
                    return self.hand(entity, envelope).map(|()| Sent::Delivered);
                }
            }
            Way::Peer(peer) if remote.settled() && !remote.has_stopped() => {
                match remote.push(&peer, envelope, Some(shard), origin)? {
                    Pushed::Linked => return Ok(Sent::Linked),
                    Pushed::Full(_) => return Err(Refused::Full),
                    Pushed::Ended(back) => envelope = *back,
                }
            }
            Way::Peer(_) | Way::Wait => {}
        }
        if remote.has_stopped() {
            return Err(Refused::Stopped);
        }
        let waiting = Waiting::new(entity, envelope, origin, remote);
        remote.shelves.push(shard, waiting, &remote.options).map_err(|NoRoom| Refused::Full)?;
        remote.poke();
        Ok(Sent::Held)
    }

    /// Takes an envelope that came over a link, and tells which shard is not this node's.
    pub(crate) fn accept(&self, remote: &Remote, envelope: Envelope, moved: &mut Vec<Moved>) {
        let lane = Lane::of(&envelope);
        let Some((name, to)) = self.resolve(&envelope) else {
            return remote.metrics.link(lane, "unroutable", 1);
        };
        if self.is_late(&envelope) {
            return remote.metrics.link(lane, "expired", 1);
        }
        let result = match to {
            To::Entity(entity) => {
                let shard = entity.shard();
                if remote.placement.sealed(shard).is_none() {
                    moved.extend(remote.moved(shard));
                }
                let origin = if envelope.hops == 0 { Origin::Passed } else { Origin::Last };
                self.place(remote, entity, envelope, origin)
            }
            To::Role(role) => self.hand_role(role, envelope).map(|()| Sent::Delivered),
            // For a role of another node: the sender took this one for it.
            To::Node(_) => Err(Refused::Unroutable),
        };
        self.inner.metrics.count(name, result.map_or_else(Refused::outcome, Sent::outcome));
    }

    fn resolve(&self, envelope: &Envelope) -> Option<(&'static str, To)> {
        match envelope.to.as_ref()?.target.as_ref()? {
            Target::Entity(entity) => {
                let entity = address::from_proto(entity).ok()?;
                Some((entity.kind.as_str(), To::Entity(entity)))
            }
            Target::Node(node) => {
                let role = node.role();
                let (_, name) = self.role_slot(role)?;
                if node.node == self.inner.node.as_str() {
                    return Some((name, To::Role(role)));
                }
                Some((name, To::Node(node.node.parse().ok()?)))
            }
        }
    }

    fn entity_slot(&self, kind: EntityKind) -> &OnceLock<Arc<dyn Deliver>> {
        match kind {
            EntityKind::Call => &self.inner.routes.call,
            EntityKind::Queue => &self.inner.routes.queue,
            EntityKind::Agent => &self.inner.routes.agent,
            EntityKind::Telephone => &self.inner.routes.telephone,
        }
    }

    fn role_slot(&self, role: Role) -> Option<(&OnceLock<Arc<dyn Deliver>>, &'static str)> {
        let routes = &self.inner.routes;
        match role {
            Role::Edge => Some((&routes.edge, "edge")),
            Role::Media => Some((&routes.media, "media")),
            Role::Records => Some((&routes.records, "records")),
            Role::Console => Some((&routes.console, "console")),
            Role::Unspecified | Role::Call | Role::Acd => None,
        }
    }

    /// The address of a role on this node, for `Envelope::from`.
    pub fn own(&self, role: Role) -> Address {
        address::node(&self.inner.node, role)
    }
}

/// The call at either end.
fn call_of(envelope: &Envelope) -> Option<CallId> {
    [&envelope.to, &envelope.from].into_iter().flatten().find_map(|address| match &address.target {
        Some(Target::Entity(entity)) if entity.kind == common::EntityKind::Call as i32 => {
            entity.id.parse().ok()
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Sink(Mutex<Vec<Option<EntityAddress>>>);

    impl Deliver for Sink {
        fn deliver(&self, entity: Option<EntityAddress>, _: Envelope) -> Result<(), Refused> {
            self.0.lock().unwrap().push(entity);
            Ok(())
        }
    }

    fn bus() -> Bus {
        Bus::new("n1".parse().unwrap(), BusMetrics::default(), || Timestamp::from_millis(1_000))
    }

    #[test]
    fn goes_to_the_entity_or_role_that_is_named() {
        let (bus, queues, edge) = (bus(), Arc::new(Sink::default()), Arc::new(Sink::default()));
        bus.attach_entities(EntityKind::Queue, queues.clone());
        bus.attach_role(Role::Edge, edge.clone());
        let queue = EntityAddress::queue(&"default".parse().unwrap(), &"support".parse().unwrap());
        bus.send(Envelope { to: Some(address::entity(&queue)), ..Default::default() }).unwrap();
        bus.send(Envelope { to: Some(bus.own(Role::Edge)), ..Default::default() }).unwrap();
        assert_eq!(*queues.0.lock().unwrap(), [Some(queue)]);
        assert_eq!(*edge.0.lock().unwrap(), [None]);
    }

    #[test]
    fn what_is_late_or_leads_nowhere_is_refused() {
        let bus = bus();
        let to_agent = EntityAddress::agent(&"default".parse().unwrap(), &"alice".parse().unwrap());
        let envelope = Envelope { to: Some(address::entity(&to_agent)), ..Default::default() };
        assert_eq!(bus.send(envelope.clone()), Err(Refused::Unroutable));
        bus.attach_entities(EntityKind::Agent, Arc::new(Sink::default()));
        assert_eq!(bus.send(Envelope { deadline_us: 999_999, ..envelope.clone() }), Err(Refused::Expired));
        assert_eq!(bus.send(Envelope { deadline_us: 1_000_001, ..envelope }), Ok(()));
        assert_eq!(bus.send(Envelope::default()), Err(Refused::Unroutable));
    }
}
