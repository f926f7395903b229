//! trunkline-telemetry
mod metrics;
pub use metrics::{CONTENT_TYPE, Metrics, buckets};
pub use prometheus_client;
