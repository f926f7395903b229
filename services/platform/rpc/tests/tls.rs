//! Who gets a connection, and that certificates can change under way.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{net::SocketAddr, path::Path, time::Duration};

use common::{Node, Options, assign, eventually, introduce, message, queue, tls::Authority};
use trunkline_cluster::{Probe, Role};
use trunkline_proto::cluster::v1::{PingRequest, link_client::LinkClient};
use trunkline_rpc::{Channels, ErrorKind, Peers, Tls, TlsConfig, TlsError, TlsMetrics, dial};

fn load(config: TlsConfig) -> Tls {
    Tls::load(config, TlsMetrics::default()).unwrap()
}

async fn ping(address: SocketAddr, tls: Option<Tls>) -> Result<String, tonic::Status> {
    let channel = dial(&address.to_string(), tls).unwrap();
    let answer = LinkClient::new(channel).ping(PingRequest {}).await?;
    Ok(answer.into_inner().node)
}

async fn node(name: &str, tls: Option<Tls>) -> Node {
    Node::with(name, Options { tls, ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_certificates_of_the_cluster_get_anything() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new("ours"), Authority::new("another cluster's"));
    let a = node("a", Some(load(ours.issue(dir.path(), "a")))).await;
    assert_eq!(ping(a.address, Some(load(ours.issue(dir.path(), "b")))).await.unwrap(), "a");

    // However the connection ends, there is no answer.
    let refused = async |tls: Option<Tls>| ping(a.address, tls).await.is_err();
    assert!(refused(None).await, "plain text");
    let stranger = load(other.issue(dir.path(), "stranger"));
    assert!(refused(Some(stranger)).await, "another authority, both ways");
    // It trusts our authority, and shows a certificate of another one: it is the server that refuses.
    let mixed = TlsConfig { ca: ours.issue(dir.path(), "c").ca, ..other.issue(dir.path(), "d") };
    assert!(refused(Some(load(mixed))).await, "a certificate of another authority");
    let expired = load(ours.issue_until(dir.path(), "e", 2001));
    assert!(refused(Some(expired)).await, "a certificate that has ended");
    assert_eq!(ping(a.address, Some(load(ours.issue(dir.path(), "f")))).await.unwrap(), "a", "still serves");

    // The other way: a client does not talk to a server that is none of the cluster.
    let false_friend = node("x", Some(load(other.issue(dir.path(), "x")))).await;
    let trusts = TlsConfig { ca: ours.issue(dir.path(), "g").ca, ..other.issue(dir.path(), "h") };
    assert!(ping(false_friend.address, Some(load(trusts))).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_run_over_tls_and_a_stranger_gets_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let a = node("a", Some(load(ours.issue(dir.path(), "a")))).await;
    let b = node("b", Some(load(ours.issue(dir.path(), "b")))).await;
    let c = node("c", Some(load(other.issue(dir.path(), "c")))).await;
    introduce(&[&a, &b, &c]);
    let (to_a, to_b) = (queue("a"), queue("b"));
    for node in [&a, &b, &c] {
        node.view.owns(to_a.shard(), Some((&a.identity, 1)));
    }
    a.view.seal(to_a.shard(), Some(1));
    assign(&[&a, &b, &c], to_b.shard(), &b, 1);
    a.bus.send(message(&to_b, 1)).unwrap();
    b.bus.send(message(&to_a, 2)).unwrap();
    c.bus.send(message(&to_a, 666)).unwrap();
    c.bus.send(message(&to_b, 666)).unwrap();
    eventually("theirs arrive", || b.queues.numbers() == [1] && a.queues.numbers() == [2]).await;
    eventually("the stranger tried", || c.figure("link_connects_total{outcome=\"failed\"}") > 2).await;
    assert_eq!((a.queues.count(), b.queues.count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_are_used_by_new_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut registry = prometheus_client::registry::Registry::default();
    let server = Tls::load(old.issue(dir.path(), "a"), TlsMetrics::register(&mut registry)).unwrap();
    let follower = server.follow_every(Duration::from_millis(5));
    let a = node("a", Some(server)).await;
    let old_client = load(old.issue(dir.path(), "b"));
    let new_dir = tempfile::tempdir().unwrap();
    let new_client = load(new.issue(new_dir.path(), "b"));
    let present = dial(&a.address.to_string(), Some(old_client.clone())).unwrap();
    LinkClient::new(present.clone()).ping(PingRequest {}).await.unwrap();
    assert!(ping(a.address, Some(new_client.clone())).await.is_err(), "not yet");

    // A file that is not finished is not taken into use.
    let half = Path::new(&dir.path().join("a-cert.pem")).to_owned();
    std::fs::write(&half, "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    let refused = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let counted = |line: &&str| line.starts_with("certificate_reloads_total{outcome=\"failed\"}");
        text.lines().find(counted).is_some_and(|line| !line.ends_with(" 0"))
    };
    eventually("the file was looked at and refused", refused).await;
    assert!(ping(a.address, Some(old_client.clone())).await.is_ok(), "the former ones stay");

    new.issue(dir.path(), "a");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while ping(a.address, Some(new_client.clone())).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new files were never used");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(ping(a.address, Some(old_client)).await.is_err(), "new connections need the new authority");
    LinkClient::new(present).ping(PingRequest {}).await.expect("connections that are there go on");
    follower.abort();
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    let good = authority.issue(dir.path(), "a");
    let other = authority.issue(dir.path(), "b");
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let problem = |config: TlsConfig| Tls::load(config, TlsMetrics::default()).unwrap_err();
    let missing = problem(TlsConfig { cert: dir.path().join("nowhere.pem"), ..good.clone() });
    assert!(matches!(&missing, TlsError::Read { field: "cert", .. }), "{missing}");
    assert!(
        missing.to_string().contains("nowhere.pem") && missing.to_string().contains("check the path"),
        "{missing}"
    );
    let no_key = problem(TlsConfig { key: good.cert.clone(), ..good.clone() });
    assert!(matches!(&no_key, TlsError::Content { field: "key", .. }), "{no_key}");
    let no_ca = problem(TlsConfig { ca: empty, ..good.clone() });
    assert!(no_ca.to_string().contains("BEGIN CERTIFICATE"), "{no_ca}");
    let mixed = problem(TlsConfig { key: other.key, ..good });
    assert!(matches!(&mixed, TlsError::Mismatch(_)), "{mixed}");
}

#[test]
fn the_end_of_certificates_is_exported() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = prometheus_client::registry::Registry::with_prefix("trunkline_cluster");
    let metrics = TlsMetrics::register(&mut registry);
    Tls::load(Authority::new("ours").issue_until(dir.path(), "a", 2040), metrics).unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = "trunkline_cluster_certificate_expiry_seconds{certificate=\"node\"} 2208988800";
    assert!(text.contains(line), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_choose_a_living_node_of_a_role_and_fail_over() {
    let (a, b, c) = (Node::start("a").await, Node::start("b").await, Node::start("c").await);
    introduce(&[&a, &b, &c]);
    // a itself has no such role; one of the others answers, and when it dies the other one does.
    let mut info = (*a.info).clone();
    info.roles.clear();
    a.view.member(&std::sync::Arc::new(info));
    let channels = Channels::new(a.view.clone(), None);
    let channel = channels.role(Role::Media);
    let ask =
        async || LinkClient::new(channel.clone()).ping(PingRequest {}).await.map(|a| a.into_inner().node);
    let first = ask().await.unwrap();
    assert_eq!(ask().await.unwrap(), first, "it stays with its choice");
    let (dying, living) = if first == "b" { (b, c) } else { (c, b) };
    let peers = Peers::new(channels.clone(), None);
    let limit = Duration::from_secs(5);
    assert!(peers.reachable(&dying.info, limit).await);
    let mut other_life = (*dying.info).clone();
    other_life.identity.incarnation.0 += 1;
    assert!(!peers.reachable(&other_life, limit).await, "another life of it");
    let dead = dying.info.clone();
    dying.kill().await;
    assert!(!peers.reachable(&dead, limit).await);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match ask().await {
            Ok(node) => {
                assert_eq!(node, living.identity.id.as_str());
                break;
            }
            Err(status) => assert_eq!(ErrorKind::of(&status), ErrorKind::Unavailable, "{status}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "no fail-over");
    }
    let to_living = LinkClient::new(channels.node(&living.identity.id).unwrap()).ping(PingRequest {}).await;
    assert_eq!(to_living.unwrap().into_inner().node, living.identity.id.as_str());
    assert!(channels.node(&common::id("nobody")).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_a_node_that_dies_is_told_that_nobody_answers() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    introduce(&[&a, &b]);
    let channels = Channels::new(a.view.clone(), None);
    let channel = channels.node(&b.identity.id).unwrap();
    LinkClient::new(channel.clone()).ping(PingRequest {}).await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mut client = LinkClient::new(channel.clone());
        asking.spawn(async move {
            loop {
                if let Err(status) = client.ping(PingRequest {}).await {
                    break status;
                }
            }
        });
    }
    b.kill().await;
    while let Some(status) = asking.join_next().await {
        let status = status.unwrap();
        assert_eq!(ErrorKind::of(&status), ErrorKind::Unavailable, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_reaches_its_own_server_without_a_socket() {
    let a = Node::start("a").await;
    introduce(&[&a]);
    // At this address nobody answers.
    a.view.member(&common::info(&a.identity, ""));
    let channels = Channels::new(a.view.clone(), None);
    channels.attach_local(a.server().in_process());
    for channel in [channels.node(&a.identity.id).unwrap(), channels.role(Role::Media)] {
        let answer = LinkClient::new(channel).ping(PingRequest {}).await.unwrap();
        assert_eq!(answer.into_inner().node, "a");
    }
}
