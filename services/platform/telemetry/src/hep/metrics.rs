use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::packet::Kind;
use crate::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Why a captured message does not reach the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The queue is full: the collector is gone or too slow.
    QueueFull,
    /// More than a packet can hold.
    TooLarge,
    /// A report that is none.
    Unreadable,
    /// The connection broke, or the collector's machine refused the datagram.
    NotSent,
}

impl Reason {
    const ALL: [Self; 4] = [Self::QueueFull, Self::TooLarge, Self::Unreadable, Self::NotSent];

    const fn label(self) -> ReasonLabel {
        let reason = match self {
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::NotSent => "not_sent",
        };
        ReasonLabel { reason }
    }
}

/// What the export counts.
#[derive(Clone, Debug, Default)]
pub(super) struct HepMetrics {
    sent: Family<ProtocolLabel, Counter>,
    dropped: Family<ReasonLabel, Counter>,
}

impl HepMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        // There from the start, so that the first one lost is an increase.
        for kind in [Kind::Sip, Kind::Rtcp] {
            own.sent(kind, 0);
        }
        for reason in Reason::ALL {
            own.dropped(reason, 0);
        }
        metrics.room("hep", |room| {
            room.register("sent", "Captured messages sent to the collector, by protocol", own.sent.clone());
            room.register("dropped", "Captured messages that were not sent, by reason", own.dropped.clone());
        });
        own
    }

    pub(super) fn sent(&self, kind: Kind, count: u64) {
        let protocol = match kind {
            Kind::Sip => "sip",
            Kind::Rtcp => "rtcp",
        };
        self.sent.get_or_create(&ProtocolLabel { protocol }).inc_by(count);
    }

    pub(super) fn dropped(&self, reason: Reason, count: u64) {
        self.dropped.get_or_create(&reason.label()).inc_by(count);
    }
}
