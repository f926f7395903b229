//! Histograms that lead from a figure to a call.

use std::time::SystemTime;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, exemplar::HistogramWithExemplars},
};
use trunkline_types::CallId;

use crate::TraceParent;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TraceLabel {
    trace_id: String,
}

/// A histogram each of whose buckets names the trace of the last call that fell into it, as an OpenMetrics exemplar. That
/// is no label: it makes no series. Calls whose traces are not exported leave none, so that no exemplar leads nowhere.
#[derive(Clone, Debug)]
pub struct CallHistogram(HistogramWithExemplars<TraceLabel>);

impl CallHistogram {
    /// With these upper bounds, see [`crate::buckets`].
    pub fn new(bounds: &[f64]) -> Self {
        Self(HistogramWithExemplars::new(bounds.iter().copied()))
    }

    /// Counts a value that was seen at `call`.
    pub fn observe(&self, value: f64, call: CallId) {
        let exemplar = TraceParent::of_message("", call)
            .map(|parent| TraceLabel { trace_id: parent.trace_id.to_string() });
        let at = exemplar.is_some().then(SystemTime::now);
        self.0.observe(value, exemplar, at);
    }
}

impl TypedMetric for CallHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for CallHistogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use trunkline_types::{ShardId, Timestamp};

    use super::*;
    use crate::{Metrics, trace::set_sample_ratio, trace_id_of};

    #[test]
    fn a_bucket_names_the_trace_of_a_call_where_the_format_can_say_it() {
        let call = CallId::mint(ShardId::new(7).unwrap(), Timestamp::from_millis(1_795_000_000_000), 11);
        let metrics = Metrics::new();
        let seconds = CallHistogram::new(&[0.1, 1.0]);
        metrics.room("sip", |room| room.register("setup_seconds", "Set-up", seconds.clone()));
        // Other tests of this process may have set it already: traces are exported from here on.
        set_sample_ratio(1.0);
        seconds.observe(0.5, call);
        let trace = trace_id_of(call).to_string();
        let open = metrics.encode_open_metrics();
        let line = open.lines().find(|line| line.contains("le=\"1.0\"")).unwrap();
        assert!(line.contains(&format!(" # {{trace_id=\"{trace}\"}} 0.5 ")), "{line}");
        let text = metrics.encode();
        assert!(text.contains("trunkline_sip_setup_seconds_bucket{le=\"1.0\"} 1\n"), "{text}");
        assert!(!text.contains(&trace), "the older format knows no exemplars:\n{text}");
    }
}
