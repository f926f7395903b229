use std::time::Duration;

/// Times and limits of the cluster's coordination. One value for all nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Life of a lease that is not renewed.
    pub ttl: Duration,
    /// A lost lease is judged after this, so that leases that were lost together are seen together.
    pub gather: Duration,
    /// Shards are evened out, and first given out, when the members have not changed for this long.
    pub settle: Duration,
    /// Between two plans of the coordinator.
    pub round: Duration,
    /// Between two direct probes of a node that is missing or suspected.
    pub probe: Duration,
    /// How long a former owner has for letting go.
    pub release: Duration,
    /// What a node holds is published at most this often.
    pub publish: Duration,
    /// Nodes that have something to publish at the same time do so one after the other, this far apart.
    pub spacing: Duration,
    /// A step that failed is tried again after this, doubled up to 16 times as long.
    pub retry: Duration,
    /// Shards that may be on their way at once, to even out and for all draining nodes together; losses are not limited.
    pub moving: usize,
    /// Shards that may be on their way from one draining node.
    pub moving_from: usize,
    /// When every member has been able to read a later feature for this long, it may be written; until then the cluster can
    /// go back to the version before.
    pub raise_after: Duration,
    /// When more than this share of the members (in per cent, and at least two) is lost together, the loss is not trusted.
    pub mass_per_cent: usize,
}

impl Policy {
    /// The defaults for a lease of this life.
    pub fn of(ttl: Duration) -> Self {
        Self {
            ttl,
            gather: Duration::from_millis(250).min(ttl / 4),
            settle: ttl / 3,
            round: Duration::from_millis(100),
            probe: Duration::from_millis(400),
            release: Duration::from_secs(1),
            publish: Duration::from_millis(50),
            spacing: Duration::from_millis(20),
            retry: Duration::from_millis(200),
            moving: 256,
            moving_from: 64,
            raise_after: Duration::from_secs(3_600),
            mass_per_cent: 20,
        }
    }

    /// Whether so many losses among so many members are too many to be trusted.
    pub const fn mass(&self, lost: usize, members: usize) -> bool {
        lost >= 2 && lost * 100 > members * self.mass_per_cent
    }
}
