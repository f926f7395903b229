use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use trunkline_telemetry::buckets;

use crate::lane::Lane;

/// Labels of the bus's counters: bounded by the kinds of destination and of refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BusLabels {
    /// "call", "queue", "agent", "edge", "media", "records", "console".
    pub destination: &'static str,
    /// "delivered", "linked" (put on a link to another node), "held" (until it is known who owns the shard), or why it was
    /// refused: "full", "expired", "unroutable", "stopped".
    pub outcome: &'static str,
}

/// By lane and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneLabels {
    /// "control", "hand_off", "bulk".
    pub lane: &'static str,
    /// What became of it.
    pub outcome: &'static str,
}

type Outcome = [(&'static str, &'static str); 1];

/// What the bus and its links count.
#[derive(Clone)]
pub struct BusMetrics {
    messages: Family<BusLabels, Counter>,
    held: Gauge,
    released: Family<Outcome, Counter>,
    links: Family<LaneLabels, Counter>,
    queued: Family<Outcome, Gauge>,
    connected: Family<Outcome, Gauge>,
    connects: Family<Outcome, Counter>,
    batch: Histogram,
}

impl Default for BusMetrics {
    fn default() -> Self {
        let made = Self {
            messages: Family::default(),
            held: Gauge::default(),
            released: Family::default(),
            links: Family::default(),
            queued: Family::default(),
            connected: Family::default(),
            connects: Family::default(),
            batch: Histogram::new(buckets::COUNTS.iter().copied()),
        };
        // There from the start, so that the first loss is an increase.
        for lane in Lane::ALL {
            for loss in ["expired", "full", "unroutable", "oversize", "hops"] {
                drop(made.links.get_or_create(&LaneLabels { lane: lane.as_str(), outcome: loss }));
            }
        }
        made
    }
}

impl BusMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_rpc`).
    pub fn register(registry: &mut Registry) -> Self {
        let made = Self::default();
        registry.register("bus_messages", "Envelopes sent on this node", made.messages.clone());
        registry.register("held_back", "Envelopes that wait for an owner of their shard", made.held.clone());
        registry.register("held_back_ended", "Envelopes that waited, by outcome", made.released.clone());
        registry.register(
            "link_messages",
            "Envelopes on links between nodes, by lane and what became of them",
            made.links.clone(),
        );
        registry.register("link_queued", "Envelopes sent but not acknowledged, by lane", made.queued.clone());
        registry.register("link_connections", "Links that are connected, by lane", made.connected.clone());
        registry.register("link_connects", "Attempts to connect a link, by outcome", made.connects.clone());
        registry.register("link_batch_messages", "Envelopes in a batch", made.batch.clone());
        made
    }

    pub(crate) fn count(&self, destination: &'static str, outcome: &'static str) {
        self.messages.get_or_create(&BusLabels { destination, outcome }).inc();
    }

    pub(crate) fn held(&self) -> &Gauge {
        &self.held
    }

    /// Envelopes left the hold-back buffer.
    pub(crate) fn released(&self, outcome: &'static str, n: usize) {
        if n > 0 {
            self.released.get_or_create(&[("outcome", outcome)]).inc_by(n as u64);
        }
    }

    /// Looked up once for each link.
    pub(crate) fn lane(&self, lane: Lane) -> LaneMetrics {
        let counter = |outcome| self.links.get_or_create_owned(&LaneLabels { lane: lane.as_str(), outcome });
        LaneMetrics {
            sent: counter("sent"),
            resent: counter("resent"),
            received: counter("received"),
            duplicate: counter("duplicate"),
            expired: counter("expired"),
            full: counter("full"),
            rerouted: counter("rerouted"),
            queued: self.queued.get_or_create_owned(&[("lane", lane.as_str())]),
            connected: self.connected.get_or_create_owned(&[("lane", lane.as_str())]),
            batch: self.batch.clone(),
        }
    }

    /// Envelopes that were lost or sent on between nodes.
    pub(crate) fn link(&self, lane: Lane, outcome: &'static str, n: usize) {
        if n > 0 {
            self.links.get_or_create(&LaneLabels { lane: lane.as_str(), outcome }).inc_by(n as u64);
        }
    }

    pub(crate) fn connect(&self, outcome: &'static str) {
        self.connects.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// What one link counts.
#[derive(Clone, Debug)]
pub(crate) struct LaneMetrics {
    pub(crate) sent: Counter,
    pub(crate) resent: Counter,
    pub(crate) received: Counter,
    pub(crate) duplicate: Counter,
    pub(crate) expired: Counter,
    pub(crate) full: Counter,
    pub(crate) rerouted: Counter,
    pub(crate) queued: Gauge,
    pub(crate) connected: Gauge,
    pub(crate) batch: Histogram,
}

/// What is told of the certificates between nodes.
#[derive(Clone, Default)]
pub struct TlsMetrics {
    expiry: Family<Outcome, Gauge>,
    reloads: Family<Outcome, Counter>,
    handshakes: Family<Outcome, Counter>,
}

impl TlsMetrics {
    /// Registers them in `registry` (which has the prefix `trunkline_cluster`).
    pub fn register(registry: &mut Registry) -> Self {
        let made = Self::default();
        for outcome in ["ok", "failed"] {
            drop(made.reloads.get_or_create(&[("outcome", outcome)]));
            drop(made.handshakes.get_or_create(&[("outcome", outcome)]));
        }
        registry.register_with_unit(
            "certificate_expiry",
            "When the node's certificate and the authority's end, in seconds since 1970",
            Unit::Seconds,
            made.expiry.clone(),
        );
        registry.register("certificate_reloads", "Changed certificates, by outcome", made.reloads.clone());
        registry.register("handshakes", "TLS handshakes of other nodes, by outcome", made.handshakes.clone());
        made
    }

    pub(crate) fn ends(&self, node: i64, authority: i64) {
        self.expiry.get_or_create(&[("certificate", "node")]).set(node);
        self.expiry.get_or_create(&[("certificate", "ca")]).set(authority);
    }

    pub(crate) fn reloaded(&self, outcome: &'static str) {
        self.reloads.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn handshake(&self, outcome: &'static str) {
        self.handshakes.get_or_create(&[("outcome", outcome)]).inc();
    }
}
