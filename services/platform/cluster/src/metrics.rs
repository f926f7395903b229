use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use trunkline_telemetry::buckets;

type By = Family<[(&'static str, &'static str); 1], Counter>;

/// What placement counts.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    /// Members that are listed.
    pub members: Gauge,
    /// Shards on which this node acts.
    pub shards_held: Gauge,
    /// Shards that this node is assigned and does not act on yet.
    pub shards_opening: Gauge,
    /// Moves that this node, as coordinator, has decided, by reason.
    pub moves: By,
    /// 1 while this node coordinates.
    pub coordinator: Gauge,
    /// 1 while etcd answers.
    pub etcd_connected: Gauge,
    /// Time of a request to etcd.
    pub etcd_seconds: Histogram,
    /// Requests to etcd that failed or were not answered in time.
    pub etcd_failures: Counter,
    /// Writes to etcd of this node.
    pub etcd_writes: Counter,
    /// Leases of this node that ended without its doing.
    pub leases_lost: Counter,
    /// Members that this node, as coordinator, has taken out before their leases ended.
    pub evictions: Counter,
    /// Shards that the journal says others have sealed after this node.
    pub fenced: Counter,
    /// Time from the assignment of shards to this node to acting on them.
    pub takeover_seconds: Histogram,
}

impl ClusterMetrics {
    /// Unregistered: for tests and tools.
    pub fn new() -> Self {
        let made = Self {
            members: Gauge::default(),
            shards_held: Gauge::default(),
            shards_opening: Gauge::default(),
            moves: By::default(),
            coordinator: Gauge::default(),
            etcd_connected: Gauge::default(),
            etcd_seconds: Histogram::new(buckets::LATENCY_SECONDS.iter().copied()),
            etcd_failures: Counter::default(),
            etcd_writes: Counter::default(),
            leases_lost: Counter::default(),
            evictions: Counter::default(),
            fenced: Counter::default(),
            takeover_seconds: Histogram::new(buckets::LATENCY_SECONDS.iter().copied()),
        };
        for reason in ["start", "loss", "drain", "balance"] {
            drop(made.moves.get_or_create(&[("reason", reason)]));
        }
        made
    }

    /// Makes and registers them in the room `cluster`.
    pub fn register(room: &mut Registry) -> Self {
        let made = Self::new();
        room.register("members", "Members that this node knows", made.members.clone());
        room.register("shards_held", "Shards on which this node acts", made.shards_held.clone());
        room.register(
            "shards_opening",
            "Shards that are assigned to this node and that it does not act on yet",
            made.shards_opening.clone(),
        );
        room.register("moves", "Shards that this coordinator has moved, by reason", made.moves.clone());
        room.register("coordinator", "1 while this node coordinates the cluster", made.coordinator.clone());
        room.register("etcd_connected", "1 while etcd answers this node", made.etcd_connected.clone());
        room.register("etcd_request_seconds", "Time of a request to etcd", made.etcd_seconds.clone());
        room.register(
            "etcd_failures",
            "Requests to etcd that failed or were not answered in time",
            made.etcd_failures.clone(),
        );
        room.register("etcd_writes", "Writes of this node to etcd", made.etcd_writes.clone());
        room.register("leases_lost", "Leases that ended without this node's doing", made.leases_lost.clone());
        room.register(
            "evictions",
            "Members that this coordinator has taken out before their leases ended",
            made.evictions.clone(),
        );
        room.register("shards_fenced", "Shards that others have sealed after this node", made.fenced.clone());
        room.register(
            "takeover_seconds",
            "Time from the assignment of shards to this node to its acting on them",
            made.takeover_seconds.clone(),
        );
        made
    }
}

impl Default for ClusterMetrics {
    fn default() -> Self {
        Self::new()
    }
}
