//! etcd: each endpoint on its own, and all of them together.

use std::time::Duration;

use trunkline_cluster::{EtcdReport, EtcdStatus, inspect_etcd};

use super::{Subject, finding::Area};

const AREA: &str = "etcd";
/// The oldest version that is tested.
const LEAST: (u32, u32) = (3, 4);
/// A read by quorum that takes longer holds leases in danger (their life is 3 s unless told).
const SLOW: Duration = Duration::from_millis(100);
const TOO_SLOW: Duration = Duration::from_millis(800);
/// etcd's own default quota, before 3.6 told it: 2 GiB.
const DEFAULT_QUOTA: i64 = 2 << 30;

/// Asks etcd; `None` when this node is alone.
pub async fn check(subject: &Subject) -> (Option<Area>, Option<EtcdReport>) {
    let Some(cluster) = &subject.config.cluster else { return (None, None) };
    let mut area = Area::new(AREA);
    let report = match Box::pin(inspect_etcd(cluster)).await {
        Ok(report) => report,
        Err(error) => {
            let remedy = "correct the section cluster.etcd and the files that it names";
            area.fail("cluster.etcd", error.to_string(), "the node cannot start", remedy);
            return (Some(area), None);
        }
    };
    for endpoint in &report.endpoints {
        match &endpoint.status {
            Ok(status) => member(&mut area, &endpoint.endpoint, status),
            Err(why) => area.warn(
                endpoint.endpoint.clone(),
                why.clone(),
                "the node goes to another member, as long as there is one",
                "start this member, or take it out of cluster.etcd.endpoints",
            ),
        }
    }
    together(&mut area, &report);
    (Some(area), Some(report))
}

fn member(area: &mut Area, endpoint: &str, status: &EtcdStatus) {
    let (size, ms) = (status.size_bytes >> 20, status.took.as_millis());
    let found = format!("etcd {}, {size} MiB, answers in {ms} ms", status.version);
    if version(&status.version).is_some_and(|version| version < LEAST) {
        let why = "what older versions do with leases and transactions was never tried";
        return area.fail(
            endpoint,
            found,
            why,
            "upgrade etcd to 3.4 or newer, best to a version that is still maintained",
        );
    }
    if !status.has_leader {
        let why = "it is cut off from the other members or they are down: it can decide nothing";
        return area.fail(
            endpoint,
            format!("{found}, no leader"),
            why,
            "start the other members and mend the network between them",
        );
    }
    if let Some(error) = status.errors.first() {
        let why = "etcd itself reports that something is wrong with this member";
        return area.warn(
            endpoint,
            format!("{found}: {error}"),
            why,
            "look at `etcdctl endpoint status` and `etcdctl alarm list`",
        );
    }
    let quota = if status.quota_bytes > 0 { status.quota_bytes } else { DEFAULT_QUOTA };
    if status.size_bytes > quota / 5 * 4 {
        let why = "at its quota etcd refuses every write: no node can join, leave or take over shards";
        return area.warn(
            endpoint,
            format!("{found} of {} MiB", quota >> 20),
            why,
            "run `etcdctl compact` and `etcdctl defrag`, and set --auto-compaction-retention=1h",
        );
    }
    area.ok(endpoint, found);
}

fn together(area: &mut Area, report: &EtcdReport) {
    match &report.quorum {
        Ok(took) => {
            let found = format!("a read by quorum takes {:.1} ms", took.as_secs_f64() * 1_000.0);
            let why = "a lease that is not renewed within its life takes a node out of the cluster; the usual cause is a slow disk under etcd";
            let remedy = "give etcd a disk of its own with fsync below 10 ms, near the nodes, or raise cluster.lease_ttl";
            match took {
                took if *took > TOO_SLOW => area.fail("quorum", found, why, remedy),
                took if *took > SLOW => area.warn("quorum", found, why, remedy),
                _ => area.ok("quorum", found),
            }
        }
        Err(why) => area.fail(
            "quorum",
            why.clone(),
            "calls that are up go on, but no node can join, leave or take over shards",
            "start members until more than half of them run; check the user's rights when etcd has authentication",
        ),
    }
    if !report.alarms.is_empty() {
        area.fail(
            "alarms",
            report.alarms.join(", "),
            "with NOSPACE or CORRUPT raised etcd takes no writes: no node can join, leave or take over shards",
            "NOSPACE: `etcdctl compact`, `etcdctl defrag`, then `etcdctl alarm disarm`; CORRUPT: replace that member",
        );
    }
    match report.size {
        0 => {}
        1 => area.warn(
            "size",
            "one member",
            "with it everything that coordinates is gone; calls that are up go on",
            "run three members on three machines",
        ),
        even if even % 2 == 0 => area.warn(
            "size",
            format!("{even} members"),
            "an even number carries no more losses than one member less",
            "run three or five members",
        ),
        odd => area.ok("size", format!("{odd} members, {} may be lost", odd / 2)),
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("3.3.27").unwrap() < LEAST && version("3.10.1").unwrap() > LEAST);
        assert_eq!(version("nonsense"), None);
    }
}
