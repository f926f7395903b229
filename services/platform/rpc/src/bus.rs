use std::sync::{Arc, OnceLock};

use trunkline_proto::common::v1::{self as common, Address, Envelope, Role, address::Target};
use trunkline_telemetry::{TraceParent, exported};
use trunkline_types::{CallId, EntityAddress, EntityKind, NodeId, Timestamp};

use crate::{BusMetrics, address};

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
    fn outcome(self) -> &'static str {
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
}

impl Bus {
    /// A bus of `node` with nothing attached. `now` is the node's clock, for deadlines.
    pub fn new(node: NodeId, metrics: BusMetrics, now: fn() -> Timestamp) -> Self {
        Self { inner: Arc::new(Inner { node, routes: Routes::default(), metrics, now }) }
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
    pub fn send(&self, mut envelope: Envelope) -> Result<(), Refused> {
        if envelope.traceparent.is_empty() && exported() {
            envelope.traceparent = TraceParent::header(call_of(&envelope).map(TraceParent::of_call));
        }
        let (slot, name, entity) = self.resolve(&envelope).ok_or_else(|| {
            self.inner.metrics.count("unknown", "unroutable");
            Refused::Unroutable
        })?;
        let result = self.deliver(slot, entity, envelope);
        self.inner.metrics.count(name, result.err().map_or("delivered", Refused::outcome));
        result
    }

    fn deliver(
        &self,
        slot: &OnceLock<Arc<dyn Deliver>>,
        entity: Option<EntityAddress>,
        envelope: Envelope,
    ) -> Result<(), Refused> {
        if envelope.deadline_us != 0 && (self.inner.now)().as_micros() > envelope.deadline_us {
            return Err(Refused::Expired);
        }
        slot.get().ok_or(Refused::Unroutable)?.deliver(entity, envelope)
    }

    #[allow(clippy::type_complexity, reason = "private; a struct would only be taken apart again")]
    fn resolve(
        &self,
        envelope: &Envelope,
    ) -> Option<(&OnceLock<Arc<dyn Deliver>>, &'static str, Option<EntityAddress>)> {
        match envelope.to.as_ref()?.target.as_ref()? {
            Target::Entity(entity) => {
                let entity = address::from_proto(entity).ok()?;
                Some((self.entity_slot(entity.kind), entity.kind.as_str(), Some(entity)))
            }
            Target::Node(node) => {
                if node.node != self.inner.node.as_str() {
                    return None;
                }
                let (slot, name) = self.role_slot(node.role())?;
                Some((slot, name, None))
            }
        }
    }

    fn entity_slot(&self, kind: EntityKind) -> &OnceLock<Arc<dyn Deliver>> {
        match kind {
            EntityKind::Call => &self.inner.routes.call,
            EntityKind::Queue => &self.inner.routes.queue,
            EntityKind::Agent => &self.inner.routes.agent,
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
