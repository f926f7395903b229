//! The cluster's API, and sessions that move from one console to another.

use serde_json::json;
use trunkline_console::ClusterRefused;
use trunkline_proto::{
    acd::v1::agent_command::Command,
    console::v1::{self as console, console_message::Message as ToSession},
};

use super::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_shown_as_it_is_and_what_is_missing_is_null() {
    let world = World::start().await;
    let sue = world.token("sue").await;
    let answer = world.get("/api/v1/cluster", &sue).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shown = answer.json();
    assert_eq!(shown["coordinator"], json!(null));
    assert_eq!(shown["coordination"], json!({"kind": "etcd", "problem": "no quorum"}));
    assert_eq!(shown["journal"], json!({"kind": "postgres", "problem": null}));
    let member = &shown["members"][0];
    assert_eq!((&member["roles"], &member["zone"]), (&json!(["call", "acd"]), &json!(null)));
    assert_eq!(member["incarnation"], json!(u64::MAX.to_string()), "scripts read numbers as doubles");
    assert_eq!(shown["shards"][0]["last"], json!(4_095));
    assert_eq!((&shown["moves"][0]["from"], &shown["moves"][0]["finished_ms"]), (&json!(null), &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_drains_nodes_and_takes_it_back() {
    let world = World::start().await;
    let ada = format!("Bearer {}", world.token("ada").await);
    let post = async |path: &str| world.send("POST", path, &[("authorization", &ada)], "").await;
    assert_eq!(post("/api/v1/cluster/nodes/n2/drain").await.status, 204);
    assert_eq!(post("/api/v1/cluster/nodes/n2/undrain").await.status, 204);
    let orders =
        [("n2", true), ("n2", false)].map(|(node, drain)| (node.to_owned(), drain, "ada".to_owned()));
    assert_eq!(*world.cluster.orders.lock(), orders);
    let bad = post("/api/v1/cluster/nodes/N%202/drain").await;
    assert_eq!((bad.status, &bad.json()["field"]), (400, &json!("node")));
    for (refused, status) in [
        (ClusterRefused::UnknownNode, 404),
        (ClusterRefused::Impossible("the only one".into()), 409),
        (ClusterRefused::Unavailable("etcd is away".into()), 503),
    ] {
        *world.cluster.refuse.lock() = Some(refused);
        let answer = post("/api/v1/cluster/nodes/n2/drain").await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(world.get("/api/v1/cluster", &ada["Bearer ".len()..]).await.status, 503);
}

fn hello(session: &str, last_seq: u64, connection: u64) -> serde_json::Value {
    let resume = json!({"session": session, "last_seq": last_seq});
    json!({"id": "h", "type": "hello", "data": {"client": "test", "resume": resume, "connection": connection}})
}

fn snapshot(epoch: u64, version: u64, state: &str) -> ToSession {
    ToSession::Snapshot(console::AgentSnapshot { state: state.into(), epoch, version, ..Default::default() })
}

/// A page whose console died goes on at another one under its session's name; the agent's actor hears which connection it
/// is, and commands without a result go to it again under their ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_at_another_console() {
    let (mut one, mut other) = (World::start().await, World::at("node-2", |_| {}).await);
    let token = one.token("alice").await;
    let (mut page, session) = one.session(&token).await;
    page.send(json!({"id": "c1", "type": "ready", "data": {}})).await;
    assert!(matches!(one.command().await, (_, id, Command::SetReady(_)) if id == "c1"));

    let mut moved = other.socket(&other.token("alice").await).await;
    moved.send(hello(&session, 1, 2)).await;
    let welcome = moved.frame().await;
    assert_eq!(welcome["data"]["session"], json!(session));
    assert_eq!((&welcome["data"]["resumed"], &welcome["seq"]), (&json!(false), &json!(1)));
    let (named, _, command) = other.command().await;
    assert_eq!(named, session);
    assert!(matches!(command, Command::Attach(attach) if attach.connection == 2));
    moved.send(json!({"id": "c1", "type": "ready", "data": {}})).await;
    assert!(
        matches!(other.command().await, (named, id, Command::SetReady(_)) if id == "c1" && named == session)
    );
    other.deliver(&session, "alice", snapshot(1, 1, "ready"));
    assert_eq!(moved.frame().await["data"]["state"], json!("ready"));

    // The former console is told: no Detach of what has gone on elsewhere, and its socket is closed.
    one.deliver(&session, "alice", ToSession::SupersededBy("node-2".into()));
    assert_eq!(page.closed().await.0, 1001);
    let mut second = one.socket(&token).await;
    second.send(json!({"id": "h", "type": "hello", "data": {"client": "test"}})).await;
    let (next, _, command) = one.command().await;
    assert!(next != session && matches!(command, Command::Attach(_)), "{command:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_session_of_another_account_or_of_his_own_making() {
    let (mut one, other) = (World::start().await, World::at("node-2", |_| {}).await);
    let token = one.token("alice").await;
    let (_page, session) = one.session(&token).await;
    let (alice, bob) = (other.token("alice").await, other.token("bob").await);
    let mut forged = session.clone().into_bytes();
    forged[0] = if forged[0] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for (token, name) in
        [(&bob, &session), (&alice, &forged), (&alice, &"x".repeat(60)), (&alice, &String::new())]
    {
        let mut socket = other.socket(token).await;
        socket.send(hello(name, 0, 9)).await;
        let welcome = socket.frame().await;
        assert_eq!(welcome["type"], json!("welcome"), "{welcome}");
        assert_ne!(welcome["data"]["session"], json!(name));
    }
}

/// Two nodes may own the agent's shard one after the other: what the former one said late is no news.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_overtaken_is_not_shown() {
    let mut world = World::start().await;
    let token = world.token("alice").await;
    let (mut page, session) = world.session(&token).await;
    world.deliver(&session, "alice", snapshot(2, 1, "ringing"));
    assert_eq!(page.frame().await["data"]["state"], json!("ringing"));
    for (epoch, version) in [(1, 99), (2, 0), (0, 0)] {
        world.deliver(&session, "alice", snapshot(epoch, version, "ready"));
    }
    world.deliver(&session, "alice", snapshot(2, 2, "talking"));
    let delta = page.frame().await;
    assert_eq!((&delta["type"], &delta["data"]["state"]), (&json!("delta"), &json!("talking")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_hears_of_moved_media_and_of_a_paused_recording() {
    let mut world = World::start().await;
    let token = world.token("alice").await;
    let (mut page, session) = world.session(&token).await;
    for (recording, recording_paused, shown) in
        [(true, false, "on"), (false, true, "paused"), (false, false, "off")]
    {
        let call =
            console::AgentCallView { recording, recording_paused, media_generation: 4, ..Default::default() };
        let state =
            console::AgentSnapshot { state: "talking".into(), call: Some(call), ..Default::default() };
        world.deliver(&session, "alice", ToSession::Snapshot(state));
        assert_eq!(page.frame().await["data"]["call"]["recording"], json!(shown));
    }
    let moved = console::MediaMoved { offer_id: "support:1:1".into(), generation: 5 };
    world.deliver(&session, "alice", ToSession::MediaMoved(moved));
    let frame = page.frame().await;
    assert_eq!(frame["type"], json!("media_moved"));
    assert_eq!(frame["data"], json!({"offer_id": "support:1:1", "generation": 5}));
}

/// Without a load balancer a page goes to another origin, where its cookie is not sent: the ticket says who it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_console_comes_in_with_its_ticket_only() {
    let home = "http://console-1.example";
    let world = World::at("node-2", |config| config.alternates = vec![home.into()]).await;
    let token = world.token("alice").await;
    let mut page = world.socket(&token).await;
    page.send(json!({"id": "h", "type": "hello", "data": {"client": "test"}})).await;
    let welcome = page.frame().await;
    assert_eq!(welcome["data"]["alternates"], json!([home]));
    let ticket = welcome["data"]["ticket"].as_str().unwrap().to_owned();
    let resume = json!({"session": welcome["data"]["session"], "last_seq": 1});

    let hello = |ticket: &str| json!({"id": "h", "type": "hello", "data": {"client": "test", "ticket": ticket, "resume": resume}});
    let mut from_home = world.socket_from("", home).await.unwrap();
    from_home.send(hello(&ticket)).await;
    let again = from_home.frame().await;
    assert_eq!((&again["type"], &again["data"]["session"]), (&json!("welcome"), &welcome["data"]["session"]));
    for bad in ["", "x", token.as_str(), &ticket[1..]] {
        let mut socket = world.socket_from("", home).await.unwrap();
        socket.send(hello(bad)).await;
        assert_eq!(socket.closed().await.0, 4401, "{bad}");
    }
    // A cookie that the browser sends along proves nothing there, and other sites do not come in at all.
    let cookie = format!("trunkline_session={token}");
    let mut socket = world.socket_from(&cookie, home).await.unwrap();
    socket.send(json!({"id": "h", "type": "hello", "data": {"client": "test"}})).await;
    assert_eq!(socket.closed().await.0, 4401);
    assert!(world.socket_from(&cookie, "http://elsewhere.example").await.is_err());
    // It opens nothing else.
    assert_eq!(world.get("/api/v1/session", &ticket).await.status, 401);
    let policy = world.get("/", "").await.header("content-security-policy").to_owned();
    assert!(policy.contains("connect-src 'self' ws://console-1.example;"), "{policy}");
}
