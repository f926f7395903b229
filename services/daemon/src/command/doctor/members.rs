//! The whole cluster: every member asked on its own, and what they say together.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use trunkline_cluster::{ClusterConfig, EtcdReport, Role};
use trunkline_proto::cluster::v1::{
    GetOverviewRequest, Member, Overview, ShardRange, admin_client::AdminClient,
};
use trunkline_rpc::{Tls, TlsMetrics};
use trunkline_types::ShardGroup;

use super::{
    Subject, certificates, clock,
    finding::{Area, Level},
    handshake,
};
use crate::{
    command::{cluster, reach},
    config::tls_files,
};

/// A move that is under way for longer is stuck: a takeover takes a second or two.
const STUCK_MOVE: Duration = Duration::from_secs(60);
/// A drain that still has shards after this is stuck; calls on media nodes may take hours to end.
const STUCK_DRAIN: Duration = Duration::from_secs(600);
/// Members that are asked at most.
const MOST: usize = 1_000;

/// A member's answer.
struct Answer {
    node: String,
    address: String,
    version: String,
    overview: Result<Overview, String>,
    /// Its clock minus ours.
    offset_s: f64,
    /// When its certificate begins and ends, seconds since 1970.
    certificate: Option<Result<(i64, i64), String>>,
}

/// Asks every member that etcd knows, or, when etcd does not answer, that this node's file leads to.
pub async fn check(subject: &Subject, etcd: Option<&EtcdReport>) -> (Area, Vec<Overview>) {
    let mut area = Area::new("cluster");
    let Some(cluster) = &subject.config.cluster else {
        let why = "without it nobody knows which nodes there are";
        area.fail(
            "cluster",
            "the configuration has no section `cluster`",
            why,
            "give --config the file of a node of the cluster",
        );
        return (area, Vec::new());
    };
    let members = members(cluster, etcd).await;
    if members.is_empty() {
        area.fail(
            "members",
            "none is registered",
            "nobody takes calls",
            "start nodes; `trunkline run` says why it cannot start",
        );
        return (area, Vec::new());
    }
    let mut asked = JoinSet::new();
    for (node, (address, version)) in members.into_iter().take(MOST) {
        let cluster = cluster.clone();
        asked.spawn(async move { ask(&cluster, node, address, version).await });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by(|one, other| one.node.cmp(&other.node));
    for answer in &answers {
        one(&mut area, answer);
    }
    versions(&mut area, &answers);
    let overviews: Vec<Overview> = answers.into_iter().filter_map(|answer| answer.overview.ok()).collect();
    agreement(&mut area, &overviews);
    // The coordinator's view is the one that others follow.
    let best = overviews.iter().find(|overview| overview.coordinator == overview.node).or(overviews.first());
    if let Some(overview) = best {
        whole(&mut area, overview);
    }
    (area, overviews)
}

/// Names with addresses and versions.
async fn members(cluster: &ClusterConfig, etcd: Option<&EtcdReport>) -> BTreeMap<String, (String, String)> {
    let registered = etcd.map(|report| report.nodes.as_slice()).unwrap_or_default();
    if !registered.is_empty() {
        let known = registered.iter().map(|node| {
            (node.identity.id.to_string(), (node.record.address.clone(), node.record.version.clone()))
        });
        return known.collect();
    }
    let asked = overview(cluster, &cluster.advertised()).await;
    let listed = asked.map(|overview| overview.members).unwrap_or_default();
    listed.into_iter().map(|member| (member.node, (member.address, member.version))).collect()
}

async fn ask(cluster: &ClusterConfig, node: String, address: String, version: String) -> Answer {
    let certificate = match &cluster.tls {
        Some(files) => Some(handshake::certificate(&address, files).await),
        None => None,
    };
    let (here_us, begun) = (trunkline_actors::now().as_micros(), Instant::now());
    let overview = overview(cluster, &address).await;
    let middle_us = here_us + i64::try_from(begun.elapsed().as_micros() / 2).unwrap_or(0);
    let offset_s = overview.as_ref().map_or(0.0, |overview| (overview.at_us - middle_us) as f64 / 1e6);
    Answer { node, address, version, overview, offset_s, certificate }
}

async fn overview(cluster: &ClusterConfig, address: &str) -> Result<Overview, String> {
    let tls = cluster.tls.as_ref().map(|files| Tls::load(tls_files(files), TlsMetrics::default()));
    let tls = tls.transpose().map_err(|error| error.to_string())?;
    let channel = trunkline_rpc::dial(address, tls).map_err(|error| error.to_string())?;
    // The first request connects: the time that the connection takes must not count as a difference of clocks.
    let mut client = AdminClient::new(channel);
    let mut answer = Err(String::new());
    for _ in 0..2 {
        answer = client
            .get_overview(reach::request(GetOverviewRequest {}))
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| status.message().to_owned());
        if answer.is_err() {
            break;
        }
    }
    answer
}

fn one(area: &mut Area, answer: &Answer) {
    let Answer { node, address, offset_s, .. } = answer;
    match &answer.overview {
        Ok(overview) => {
            area.ok(node.clone(), format!("answers at {address}, version {}", answer.version));
            for (what, problem) in
                [("coordination", &overview.coordination_problem), ("journal", &overview.journal_problem)]
            {
                if !problem.is_empty() {
                    let why = "it goes on with the calls that are up, and decides nothing new";
                    area.fail(format!("{node} {what}"), problem.clone(), why, &format!("run `trunkline doctor` on {node}"));
                }
            }
            let (why, remedy) = ("times in records, boards and logs of different nodes do not fit together", "synchronise its clock by NTP");
            area.at(clock::level(*offset_s), format!("{node} clock"), format!("{offset_s:+.3} s"), why, remedy);
        }
        Err(error) => area.fail(
            node.clone(),
            format!("registered at {address}, does not answer: {error}"),
            "other nodes that do not reach it either will take its shards; when only this machine does not, nothing happens",
            "look whether it runs and whether the way from here to its cluster.listen is open",
        ),
    }
    match &answer.certificate {
        Some(Ok((from, to))) => {
            let (level, found, why) = certificates::judge(*from, *to, certificates::now_s());
            area.at(
                level,
                format!("{node} certificate"),
                found,
                why,
                &format!("put a new certificate in its place on {node}"),
            );
        }
        Some(Err(error)) if answer.overview.is_ok() => {
            area.ok(format!("{node} certificate"), format!("not seen: {error}"));
        }
        _ => {}
    }
}

fn versions(area: &mut Area, answers: &[Answer]) {
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for answer in answers {
        by_version.entry(&answer.version).or_default().push(&answer.node);
    }
    let told: Vec<String> =
        by_version.iter().map(|(version, nodes)| format!("{version} ({})", nodes.join(", "))).collect();
    let (why, remedy) = (
        "two versions work side by side for the time of an upgrade; nothing that only the newer one knows is used meanwhile",
        "go on with the upgrade, or go back, until all nodes have one version",
    );
    let level = if by_version.len() > 1 { Level::Warn } else { Level::Ok };
    area.at(level, "versions", told.join(", "), why, remedy);
}

/// Whether everybody who answers knows everybody who answers.
fn agreement(area: &mut Area, overviews: &[Overview]) {
    let answering: BTreeSet<&str> = overviews.iter().map(|overview| overview.node.as_str()).collect();
    for overview in overviews {
        let known: BTreeSet<&str> = overview.members.iter().map(|member| member.node.as_str()).collect();
        let missing: Vec<&str> = answering.difference(&known).copied().collect();
        if !missing.is_empty() {
            area.warn(
                format!("{} members", overview.node),
                format!("does not know {}", missing.join(", ")),
                "it sends nothing to them: its way to etcd is cut or late",
                &format!("run `trunkline doctor` on {}", overview.node),
            );
        }
    }
}

fn whole(area: &mut Area, overview: &Overview) {
    if overview.coordinator.is_empty() {
        let why = "nobody gives the shards of a lost node to others";
        area.fail(
            "coordinator",
            "none is elected",
            why,
            "mend etcd; a coordinator is elected within a second",
        );
    } else {
        area.ok("coordinator", overview.coordinator.clone());
    }
    shards(area, overview);
    for member in &overview.members {
        state(area, member, overview.at_us);
    }
    for role in Role::ALL {
        let proto = crate::node::to_proto(role);
        let serves = |member: &&Member| member.state == "serving" && member.roles().any(|r| r == proto);
        if overview.members.iter().filter(serves).count() == 0 {
            area.fail(
                format!("role {}", role.as_str()),
                "no member serves it",
                "calls need every role",
                &format!(
                    "start a node with the role {}, or end a drain (`trunkline undrain`)",
                    role.as_str()
                ),
            );
        }
    }
}

fn shards(area: &mut Area, overview: &Overview) {
    for group in ShardGroup::ALL {
        let (_, count) = group.range();
        // A shard stays with an owner that has vanished, and that does not act on it, until somebody can take it.
        let there = |node: &str| overview.members.iter().any(|m| m.node == node && m.state != "suspected");
        let stands = |range: &ShardRange| range.phase != "active" && !there(&range.owner);
        let nobody = cluster::shards_in(overview, group, stands);
        let opening =
            cluster::shards_in(overview, group, |range| range.phase == "opening" && there(&range.owner));
        let active = cluster::shards_in(overview, group, |range| range.phase == "active");
        let subject = format!("{} shards", group.as_str());
        if nobody > 0 {
            area.fail(
                subject,
                format!("{nobody} of {count} have no owner"),
                "queues, agents and calls in them stand still",
                "start a node with the roles call and acd, or end a drain; then look at `trunkline cluster --moves`",
            );
        } else if opening > 0 {
            area.warn(
                subject,
                format!("{opening} of {count} are being taken over"),
                "for a moment that is how it goes; when it stays so, the new owner cannot read the journal",
                "look again; then at the new owner's log and at the journal's database",
            );
        } else {
            area.ok(subject, format!("{active} of {count} active"));
        }
    }
    let old = |started_us: i64| {
        overview.at_us - started_us > i64::try_from(STUCK_MOVE.as_micros()).unwrap_or(i64::MAX)
    };
    let stuck: Vec<String> = overview
        .moves
        .iter()
        .filter(|moved| moved.finished_us == 0 && old(moved.started_us))
        .map(|moved| format!("{} to {}", moved.shard, moved.to))
        .collect();
    if !stuck.is_empty() {
        let why = "what lives in these shards stands still";
        area.fail(
            "moves",
            format!("under way for long: {}", stuck.join(", ")),
            why,
            "look at the new owner's log; restart it when it does not answer",
        );
    }
}

fn state(area: &mut Area, member: &Member, now_us: i64) {
    let since = Duration::from_micros(u64::try_from(now_us - member.since_us).unwrap_or(0));
    let shards = member.shards_active + member.shards_opening + member.shards_leaving;
    match member.state.as_str() {
        "suspected" => area.warn(
            member.node.clone(),
            "suspected",
            "other nodes do not reach it: its shards are about to be given away",
            "look whether it runs, and at the network between it and the others",
        ),
        "draining" if shards > 0 && since > STUCK_DRAIN => area.warn(
            member.node.clone(),
            format!("draining for {} min, {shards} shards are still there", since.as_secs() / 60),
            "shards go within seconds, so nobody can take these",
            "start another node with its roles, or end the drain (`trunkline undrain`)",
        ),
        "draining" | "drained" => {
            area.ok(
                member.node.clone(),
                format!("{} for {} min, {shards} shards", member.state, since.as_secs() / 60),
            );
        }
        _ => {}
    }
}
