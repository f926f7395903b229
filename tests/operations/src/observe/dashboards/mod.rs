//! The source of the Grafana dashboards in `helm/trunkline/files/dashboards`.
//!
//! Typed here and written as JSON by a test, because Grafana's JSON says each thing ten times: a panel is a title, a
//! sentence, a unit and its queries; places, ids and data sources follow. A test compares the files with this source
//! (`TRUNKLINE_WRITE=1` writes them), another asks a real Prometheus every query, and what Loki is
//! asked is asked of its own packages.

mod call;
mod fleet;
mod media;
mod model;
mod queues;
mod trunk;

use std::path::PathBuf;

use trunkline_system_tests::here;

pub use model::{Dashboard, Kind, Panel, Query, Row, Source, Unit, Variable};

/// All of them.
pub fn all() -> Vec<Dashboard> {
    vec![fleet::dashboard(), trunk::dashboard(), media::dashboard(), queues::dashboard(), call::dashboard()]
}

/// Where a dashboard's JSON is.
pub fn file(dashboard: &Dashboard) -> PathBuf {
    here().join("../../helm/trunkline/files/dashboards").join(format!("{}.json", dashboard.uid))
}
