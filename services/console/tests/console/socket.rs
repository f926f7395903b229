use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use trunkline_console::Refused;
use trunkline_proto::{
    acd::v1::{CallCard, CallControl, agent_command::Command, call_control::Control},
    console::v1::{
        AgentCallView, AgentSnapshot, CommandResult, Ring, SdpAnswer, TranscriptLine,
        console_message::Message as ToSession,
    },
};

use super::support::{Client, EVIL, World, call_id};

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n";

fn snapshot(state: &str, call: Option<AgentCallView>) -> ToSession {
    ToSession::Snapshot(AgentSnapshot {
        server_us: 1_795_000_000_000_000,
        state: state.into(),
        since_us: 1_000_000,
        call,
        queues: vec!["support".into()],
        ..Default::default()
    })
}

fn ringing_call() -> AgentCallView {
    let card = CallCard { caller_name: EVIL.into(), ..Default::default() };
    AgentCallView {
        call_id: call_id(1).to_string(),
        offer_id: "support:1:1".into(),
        card: Some(card),
        entered_us: 5_000_000,
        notes: "as saved".into(),
        ..Default::default()
    }
}

async fn hello_again(client: &mut Client, session: &str, last_seq: u64) -> Value {
    client
        .send(json!({"id": "h2", "type": "hello",
        "data": {"client": "test", "resume": {"session": session, "last_seq": last_seq}}}))
        .await;
    client.frame().await
}

/// The way of a call: state whole, then deltas; ring; accept answered by the SDP answer and not before; results match
/// their commands.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_rings_and_is_taken() {
    let mut world = World::start().await;
    let token = world.token("alice").await;
    let (mut client, session) = world.session(&token).await;
    world.deliver(&session, "alice", snapshot("ready", None));
    let whole = client.frame().await;
    assert_eq!((whole["type"].as_str(), whole["seq"].as_u64()), (Some("snapshot"), Some(2)));
    assert_eq!(whole["data"]["call"], Value::Null);
    assert_eq!(whole["data"]["since_ms"], 1_000);
    world.deliver("", "alice", snapshot("ready", None));
    world.deliver("", "alice", snapshot("ringing", Some(ringing_call())));
    let delta = client.frame().await;
    assert_eq!(
        (delta["type"].as_str(), delta["seq"].as_u64()),
        (Some("delta"), Some(3)),
        "no news, no frame"
    );
    assert_eq!(delta["data"]["call"]["caller_name"], EVIL);
    assert_eq!(delta["data"]["state"], "ringing");
    assert!(delta["data"].get("queues").is_none(), "only what changed");
    world.deliver(&session, "alice", ToSession::Ring(Ring { offer_id: "support:1:1".into() }));
    assert_eq!(client.frame().await["data"]["offer_id"], "support:1:1");

    client.send(json!({"id": "c1", "type": "accept", "data": {"offer_id": "support:1:1", "sdp": SDP}})).await;
    let (_, id, command) = world.command().await;
    let Command::Accept(accept) = command else { panic!("{command:?}") };
    assert_eq!((id.as_str(), accept.sdp_offer.as_str()), ("c1", SDP));
    world.done(&session, "c1");
    world.deliver(
        &session,
        "alice",
        ToSession::SdpAnswer(SdpAnswer { id: "c1".into(), sdp: "v=0 answer".into() }),
    );
    let result = client.frame().await;
    assert_eq!((result["re"].as_str(), result["data"]["sdp"].as_str()), (Some("c1"), Some("v=0 answer")));
    assert_eq!(result["data"]["ok"], true);

    client.send(json!({"id": "c2", "type": "hold", "data": {"on": true}})).await;
    let (_, _, command) = world.command().await;
    assert_eq!(command, Command::Control(CallControl { control: Some(Control::Hold(true)) }));
    let refused = CommandResult { id: "c2".into(), error: "illegal_state".into(), message: "not now".into() };
    world.deliver(&session, "alice", ToSession::Result(refused));
    let result = client.frame().await;
    assert_eq!(result["data"], json!({"ok": false, "error": "illegal_state", "message": "not now"}));
    client.send(json!({"id": "c3", "type": "wrap_up_finish", "data": {"tags": []}})).await;
    let (_, _, command) = world.command().await;
    let Command::FinishWrapUp(finish) = command else { panic!("{command:?}") };
    assert_eq!(finish.notes, "as saved", "notes that were not sent stay");
    let line = TranscriptLine { text: EVIL.into(), is_final: true, ..Default::default() };
    world.deliver(&session, "alice", ToSession::Transcript(line));
    let transcript = client.frame_of("transcript").await;
    assert_eq!((&transcript["data"]["text"], &transcript["data"]["final"]), (&json!(EVIL), &json!(true)));
    world.deliver(&session, "alice", ToSession::MicrophoneLostTo("other".into()));
    assert_eq!(client.frame_of("microphone_lost").await["data"]["to_session"], "other");
}

/// A connection breaks: what was not seen comes again behind the welcome, without gaps; commands with the same id are
/// done once, and their results come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_over_a_broken_connection() {
    let mut world = World::start().await;
    let token = world.token("alice").await;
    let (mut client, session) = world.session(&token).await;
    world.deliver(&session, "alice", snapshot("ready", None));
    client.frame_of("snapshot").await;
    client.send(json!({"id": "c1", "type": "not_ready", "data": {"reason": "break"}})).await;
    assert_eq!(world.command().await.1, "c1");
    drop(client);
    // Meanwhile: the result and a new state.
    world.done(&session, "c1");
    world.deliver(&session, "alice", snapshot("not_ready", None));

    let mut client = world.socket(&token).await;
    let welcome = hello_again(&mut client, &session, 2).await;
    assert_eq!((welcome["seq"].as_u64(), welcome["re"].as_str()), (Some(3), Some("h2")));
    assert_eq!((&welcome["data"]["resumed"], &welcome["data"]["session"]), (&json!(true), &json!(session)));
    let result = client.frame().await;
    assert_eq!((result["seq"].as_u64(), result["re"].as_str()), (Some(4), Some("c1")));
    let delta = client.frame().await;
    assert_eq!((delta["seq"].as_u64(), &delta["data"]["state"]), (Some(5), &json!("not_ready")));
    assert_eq!(world.command().await.2, Command::Attach(Default::default()), "the actor hears of it");

    client.send(json!({"id": "c1", "type": "not_ready", "data": {"reason": "break"}})).await;
    let again = client.frame().await;
    assert_eq!(
        (again["seq"].as_u64(), &again["re"], &again["data"]),
        (Some(6), &json!("c1"), &json!({"ok": true}))
    );
    client.send(json!({"id": "c2", "type": "ready", "data": {}})).await;
    assert_eq!(world.command().await.1, "c2", "c1 was not sent on twice");

    // A second connection resumes while the first is open: the first one is told.
    let mut other = world.socket(&token).await;
    assert_eq!(hello_again(&mut other, &session, 6).await["data"]["resumed"], true);
    assert_eq!(client.closed().await.0, 4409);

    // Somebody else's session cannot be resumed; what is unknown begins anew.
    let bob = world.token("bob").await;
    for (token, name) in [(&bob, session.as_str()), (&token, "unknown")] {
        let mut client = world.socket(token).await;
        let welcome = hello_again(&mut client, name, 2).await;
        assert_eq!((welcome["seq"].as_u64(), &welcome["data"]["resumed"]), (Some(1), &json!(false)));
        assert_ne!(welcome["data"]["session"], json!(session));
    }
}

/// A client that acknowledges nothing is closed when the buffer is full, and goes on from a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn without_acks_the_session_starts_again_from_a_snapshot() {
    let mut world = World::start().await;
    let token = world.token("alice").await;
    let (mut client, session) = world.session(&token).await;
    for n in 0..600 {
        let line = TranscriptLine { text: n.to_string(), ..Default::default() };
        world.deliver(&session, "alice", ToSession::Transcript(line));
    }
    assert_eq!(client.closed().await.0, 4400);
    let mut client = world.socket(&token).await;
    let welcome = hello_again(&mut client, &session, 1).await;
    assert_eq!((welcome["seq"].as_u64(), &welcome["data"]["resumed"]), (Some(1), &json!(false)));
    world.deliver("", "alice", snapshot("ready", None));
    assert_eq!(client.frame().await["type"], "snapshot");
    // With acks, as many frames as wanted.
    for n in 0..1_200u64 {
        let line = TranscriptLine { text: n.to_string(), ..Default::default() };
        world.deliver("", "alice", ToSession::Transcript(line));
        let seq = client.frame().await["seq"].as_u64().unwrap();
        assert_eq!(seq, n + 3);
        if n % 100 == 99 {
            client.send(json!({"type": "ack", "data": {"seq": seq}})).await;
            client.send(json!({"id": "p", "type": "ping", "data": {}})).await;
            let pong = client.frame().await;
            assert_eq!(pong["type"], "pong");
            break;
        }
    }
}

/// Commands that nobody answers fail after their time, once; those that cannot be sent fail at once.
#[tokio::test(flavor = "multi_thread")]
async fn unanswered_commands_fail() {
    let mut world = World::with(|config| config.timings.command = Duration::from_millis(200)).await;
    let token = world.token("alice").await;
    let (mut client, session) = world.session(&token).await;
    client.send(json!({"id": "c1", "type": "ready", "data": {}})).await;
    world.command().await;
    let result = client.frame().await;
    assert_eq!((&result["re"], &result["data"]["error"]), (&json!("c1"), &json!("timeout")));
    world.done(&session, "c1");
    *world.agents.refuse.lock() = Some(Refused::Unavailable);
    client.send(json!({"id": "c2", "type": "ready", "data": {}})).await;
    let result = client.frame().await;
    assert_eq!(
        (&result["re"], &result["data"]["error"]),
        (&json!("c2"), &json!("unavailable")),
        "not c1 again"
    );
    for n in 0..40 {
        *world.agents.refuse.lock() = None;
        client.send(json!({"id": format!("m{n}"), "type": "ready", "data": {}})).await;
    }
    let errors: Vec<_> = {
        let mut errors = Vec::new();
        for _ in 0..40 {
            errors.push(client.frame().await["data"]["error"].as_str().unwrap().to_owned());
        }
        errors
    };
    assert_eq!(errors.iter().filter(|e| *e == "too_many_commands").count(), 8, "32 at once: {errors:?}");
}

/// Bad frames: what can be answered is answered with the field, what breaks the protocol closes with a reason.
#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_are_answered_or_closed() {
    let mut world = World::start().await;
    let token = world.token("alice").await;
    let (mut client, _) = world.session(&token).await;
    for (frame, error, field) in [
        (json!({"id": "b1", "type": "digits", "data": {"digits": "12x"}}), "invalid", json!("digits")),
        (json!({"id": "b2", "type": "hold"}), "invalid", json!("on")),
        (json!({"id": "b3", "type": "fly", "data": {}}), "unknown_type", Value::Null),
        (
            json!({"id": "b4", "type": "wrap_up_finish", "data": {"tags": vec!["x"; 17]}}),
            "invalid",
            json!("tags"),
        ),
    ] {
        client.send(frame.clone()).await;
        let result = client.frame().await;
        assert_eq!((&result["re"], &result["data"]["error"]), (&frame["id"], &json!(error)), "{result}");
        assert_eq!(result["data"]["field"], field, "{result}");
    }
    let big = "x".repeat(300_000);
    for (message, reason) in [
        (Message::Text("no json".into()), "not a frame"),
        (Message::Text(r#"{"type": "ready", "data": {}}"#.into()), "id is missing"),
        (Message::Text(r#"{"id": "", "type": "ready", "data": {}}"#.into()), "id: give"),
        (
            Message::Text(r#"{"id": "x", "type": "hello", "data": {"client": "x"}}"#.into()),
            "hello comes once",
        ),
        (Message::Text(r#"{"type": "ack", "data": {"seq": 99}}"#.into()), "ack of 99"),
        (Message::Binary(vec![1, 2].into()), "have to be text"),
        (Message::Text(big.into()), "too large"),
    ] {
        let (mut client, _) = world.session(&token).await;
        client.send_raw(message).await;
        let (code, text) = client.closed().await;
        assert!(code == 4400 && text.contains(reason), "{code} {text}: {reason}");
    }
    let (mut client, _) = world.session(&token).await;
    for n in 0..400 {
        client.send_raw(Message::Text(format!(r#"{{"id": "f{n}", "type": "ping"}}"#).into())).await;
    }
    let (code, text) = client.closed().await;
    assert!(code == 4400 && text.contains("too many frames"), "{code} {text}");
}

/// Who may not, who says nothing, who falls silent, who signs out: each is closed with its code.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_closed_for_a_reason() {
    let mut world = World::with(|config| {
        config.timings.hello = Duration::from_millis(200);
        config.timings.idle = Duration::from_millis(1_500);
    })
    .await;
    assert_eq!(world.socket("").await.closed().await.0, 4401);
    let token = world.token("alice").await;
    assert_eq!(world.socket(&token).await.closed().await, (4400, "no hello in time".into()));
    let mut wrong = world.socket(&token).await;
    wrong.send(json!({"id": "x", "type": "ready", "data": {}})).await;
    assert_eq!(wrong.closed().await.0, 4400);
    let (mut client, _) = world.session(&token).await;
    assert_eq!(client.closed().await.0, 4408);
    let (mut client, _) = world.session(&token).await;
    world.send("DELETE", "/api/v1/session", &[("authorization", &format!("Bearer {token}"))], "").await;
    assert_eq!(client.closed().await.0, 4401);

    let token = world.token("alice").await;
    let upgrade = |extra: &[(&'static str, &'static str)]| {
        let mut headers = vec![
            ("connection", "upgrade, close"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend(extra);
        headers
    };
    let bearer = format!("Bearer {token}");
    let mut foreign =
        upgrade(&[("origin", "http://evil.example"), ("sec-websocket-protocol", "trunkline.v1")]);
    foreign.push(("authorization", &bearer));
    assert_eq!(world.send("GET", "/api/v1/agent/ws", &foreign, "").await.status, 403);
    let mut unspoken = upgrade(&[("sec-websocket-protocol", "chat")]);
    unspoken.push(("authorization", &bearer));
    assert_eq!(world.send("GET", "/api/v1/agent/ws", &unspoken, "").await.status, 400);
}

/// Sessions are renewed at the actor, attached again until it answers, and detached when their time is over or the
/// agent signed out.
#[tokio::test(flavor = "multi_thread")]
async fn the_actor_hears_of_sessions() {
    let mut world = World::with(|config| {
        config.timings.attach = Duration::from_millis(50);
        config.timings.keepalive = Duration::from_millis(100);
        config.timings.resume = Duration::from_millis(300);
    })
    .await;
    let token = world.token("alice").await;
    let (client, session) = world.session(&token).await;
    assert_eq!(world.command().await, (session.clone(), String::new(), Command::Attach(Default::default())));
    world.deliver(&session, "alice", snapshot("ready", None));
    let keepalive = loop {
        let (_, _, command) = super::support::within(world.commands.recv()).await.unwrap();
        if matches!(command.command, Some(Command::Keepalive(_))) {
            break command;
        }
    };
    assert_eq!(keepalive.session, session);
    drop(client);
    assert_eq!(world.command().await, (session.clone(), String::new(), Command::Detach(Default::default())));
    let mut late = world.socket(&token).await;
    assert_eq!(hello_again(&mut late, &session, 1).await["data"]["resumed"], false, "its time is over");
    world.command().await;

    let (mut client, session) = world.session(&token).await;
    world.deliver("", "alice", snapshot("ready", None));
    client.send(json!({"id": "bye", "type": "sign_out", "data": {}})).await;
    assert!(matches!(world.command().await.2, Command::SignOut(_)));
    world.done(&session, "bye");
    client.frame_of("result").await;
    drop(client);
    assert_eq!(world.command().await, (session, String::new(), Command::Detach(Default::default())));
}

/// A page that is gone is detached long before its session is over: no call rings there. One that comes back is attached
/// again and goes on where it was; a quick reload is not noticed.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_attached_where_nobody_is_and_the_session_waits() {
    let mut world = World::with(|config| config.timings.detach = Duration::from_millis(300)).await;
    let token = world.token("alice").await;
    let (client, session) = world.session(&token).await;
    let attach = (session.clone(), String::new(), Command::Attach(Default::default()));
    let detach = (session.clone(), String::new(), Command::Detach(Default::default()));
    assert_eq!(world.command().await, attach);
    world.deliver(&session, "alice", snapshot("ready", None));
    drop(client);
    let mut quick = world.socket(&token).await;
    assert_eq!(hello_again(&mut quick, &session, 1).await["data"]["resumed"], true);
    assert_eq!(world.command().await, attach, "no Detach: it was away for a moment only");
    world.deliver(&session, "alice", snapshot("ready", None));
    drop(quick);
    assert_eq!(world.command().await, detach);
    let mut back = world.socket(&token).await;
    assert_eq!(hello_again(&mut back, &session, 1).await["data"]["resumed"], true);
    assert_eq!(world.command().await, attach);
}

/// Messages go to the session or to all sessions of the agent, never to another agent or tenant.
#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_only_whom_they_are_for() {
    let mut world = World::start().await;
    let (alice, bob) = (world.token("alice").await, world.token("bob").await);
    let (mut first, first_id) = world.session(&alice).await;
    let (mut second, _) = world.session(&alice).await;
    let (mut other, other_id) = world.session(&bob).await;
    let ring = |n: &str| ToSession::Ring(Ring { offer_id: n.into() });
    world.deliver(&first_id, "alice", ring("one"));
    world.deliver("", "alice", ring("all"));
    world.deliver(&other_id, "alice", ring("wrong agent"));
    world.deliver("", "bob", ring("bob"));
    assert_eq!(first.frame().await["data"]["offer_id"], "one");
    assert_eq!(first.frame().await["data"]["offer_id"], "all");
    assert_eq!(second.frame().await["data"]["offer_id"], "all");
    assert_eq!(other.frame().await["data"]["offer_id"], "bob");
}

/// The documented session, played: every command of it is taken, sent on once, and answered as written there.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_session_works() {
    let mut world = World::start().await;
    let token = world.token("alice").await;
    let mut client = world.socket(&token).await;
    let (mut session, mut seen) = (String::new(), 0);
    let mut answered = std::collections::BTreeSet::new();
    for line in include_str!("../../src/ws/example-session.txt").lines() {
        let (direction, text) = line.split_at(2);
        if direction == "# " {
            continue;
        }
        let mut frame: Value = serde_json::from_str(text).unwrap();
        match (direction, frame["type"].as_str().unwrap()) {
            ("> ", "hello") => {
                if frame["data"]["resume"].is_object() {
                    client = world.socket(&token).await;
                    frame["data"]["resume"] = json!({"session": session, "last_seq": seen});
                }
                client.send(frame).await;
            }
            ("> ", "ack") => client.send(json!({"id": "a", "type": "ack", "data": {"seq": seen}})).await,
            ("> ", _) => client.send(frame).await,
            ("< ", kind @ ("welcome" | "pong" | "result")) => {
                let written = &frame["data"];
                let id = frame["re"].as_str().unwrap();
                // Not sent on: what is wrong in itself, and what comes a second time.
                let first = kind == "result" && answered.insert(id.to_owned());
                let sent_on = first && written["error"] != "invalid";
                if sent_on {
                    while world.command().await.1 != id {}
                    let text = |name: &str| written[name].as_str().unwrap_or_default().to_owned();
                    world.deliver(
                        &session,
                        "alice",
                        match written["sdp"].as_str() {
                            Some(sdp) => ToSession::SdpAnswer(SdpAnswer { id: id.into(), sdp: sdp.into() }),
                            None => ToSession::Result(CommandResult {
                                id: id.into(),
                                error: text("error"),
                                message: text("message"),
                            }),
                        },
                    );
                }
                let answer = client.frame().await;
                assert_eq!((&answer["type"], &answer["re"]), (&json!(kind), &json!(id)), "{line}");
                assert_eq!(answer["seq"], seen + 1, "{line}");
                seen += 1;
                if kind == "result" {
                    assert_eq!(answer["data"], *written, "{line}");
                }
                if kind == "welcome" {
                    assert_eq!(answer["data"]["resumed"], written["resumed"]);
                    session = answer["data"]["session"].as_str().unwrap().to_owned();
                }
            }
            // States and what else the agent's actor sends by itself is shown by the other tests.
            _ => {}
        }
    }
}
