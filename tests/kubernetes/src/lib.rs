//! The chart, proved with the real tools: helm 3 and helm 4, helm-unittest, a real kube-apiserver on a real etcd with the
//! custom resources that the chart uses, and the chart's own pods run as processes by a small stand-in for a kubelet.
//!
//! Owns: [`tools`] (where they are and which versions), [`helm`], [`objects`] (what was rendered), [`api`] (the API
//! server), [`promtool`] (what rules and queries give), [`compose`] (what Compose makes of a file), [`kubelet`] (a pod's
//! template as a process, with its probes, its pre-stop action and its grace period) and [`lab`] (a cluster of such pods in
//! network namespaces). Imports nothing of `services`.
//!
//! Refuses: to skip a test because a tool is missing, and to trust a schema of its own where the API server can say.
//!
//! Cannot: there are no controllers and no scheduler here, so nothing is scheduled or scaled; what they would do with the
//! objects is Kubernetes' own promise.

pub mod api;
pub mod compose;
pub mod helm;
pub mod kubelet;
pub mod lab;
pub mod objects;
pub mod promtool;
pub mod tools;

use std::path::PathBuf;

/// The repository.
pub fn root() -> PathBuf {
    trunkline_system_tests::root()
}

/// The chart.
pub fn chart() -> PathBuf {
    root().join("helm/trunkline")
}

/// A file of values in this crate's folder `values`.
pub fn values(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("values").join(format!("{name}.yaml"))
}

/// The sets of values that every check of rendered objects goes over; see the files.
pub const SETS: [&str; 8] = ["minimal", "full", "private", "host-ports", "keda", "dev", "ipv6", "phones"];
