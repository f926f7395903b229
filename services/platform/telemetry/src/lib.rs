//! Logs, traces and metrics.
//!
//! Owns the process's subscriber ([`init`]), the registry of metrics ([`Metrics`]), the names of log fields ([`field`]) and
//! the rule by which a call's spans form one trace ([`trace_id_of`]). Used by every shell; cores never log.
//!
//! - **Logs** go to standard error (standard output belongs to the command line), one line an event, as text or as JSON,
//!   through a bounded queue: a reader that stalls costs log lines, which are counted, never a call. Numbers are masked by
//!   [`mask_number`]; secrets are never logged.
//! - **Traces**: one call is one trace, made of short spans that any node may start at any time: the trace id follows from
//!   the call id. A span is exported when it ends, so none lasts as long as a conversation. OTLP over gRPC; W3C `traceparent`
//!   ([`TraceParent`]) goes with every message between nodes.
//! - **Metrics** have the prefix `trunkline_`, base units and bounded labels; never an id or a number as a label.
//!   Histograms of what happens to a call ([`CallHistogram`]) lead to its trace by exemplars.
//! - **Captures** of SIP and RTCP go to a collector that reads HEP3 ([`hep`]), masked, and only when that is configured.

mod exemplar;
pub mod field;
pub mod hep;
mod init;
mod metrics;
mod namespace;
mod output;
mod process;
mod trace;

pub use exemplar::CallHistogram;
pub use init::{Guard, LogFormat, OtlpConfig, TelemetryConfig, TelemetryError, init};
pub use metrics::{CONTENT_TYPE, Metrics, OPEN_METRICS_TYPE, buckets};
pub use process::register_process;
pub use prometheus_client;
pub use trace::{TraceId, TraceParent, TraceParentError, exported, trace_id_of};
pub use tracing;
pub use trunkline_types::mask_number;

/// A span of a call: an `info_span!` that carries `call_id` and `trace_id` and belongs to the call's trace, under the span
/// that a message's `traceparent` names (`under = text`) or under the call's common parent.
///
/// When the call's trace is not exported it is [`tracing::Span::none`] and its fields are not even looked at: log lines
/// name their call themselves.
///
/// ```
/// # let call = "0000000000000000000000000".parse().unwrap();
/// let span = trunkline_telemetry::call_span!("ring", call, leg_id = 1);
/// let below = trunkline_telemetry::call_span!("connect", call, under = "", leg_id = 1);
/// # drop((span, below));
/// ```
#[macro_export]
macro_rules! call_span {
    ($name:literal, $call:expr, under = $under:expr $(, $($fields:tt)*)?) => {{
        let call: ::trunkline_types::CallId = $call;
        match $crate::TraceParent::of_message($under, call) {
            Some(parent) => {
                let span = $crate::tracing::info_span!(
                    parent: None, $name, call_id = %call, trace_id = %parent.trace_id $(, $($fields)*)?
                );
                parent.adopt(&span);
                span
            }
            None => $crate::tracing::Span::none(),
        }
    }};
    ($name:literal, $call:expr $(, $($fields:tt)*)?) => {
        $crate::call_span!($name, $call, under = "" $(, $($fields)*)?)
    };
}
