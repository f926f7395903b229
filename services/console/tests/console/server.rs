use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::support::{World, within};

/// Every answer carries the headers that keep a browser safe.
#[tokio::test(flavor = "multi_thread")]
async fn headers_keep_browsers_safe() {
    let world = World::start().await;
    for path in [
        "/",
        "/agent",
        "/healthz",
        "/api/v1/session",
        "/api/v1/nothing",
        "/nowhere",
        "/api/v1/agent/protocol",
        "/runbooks/",
    ] {
        let answer = world.send("GET", path, &[], "").await;
        let policy = answer.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
    }
    let page = world.send("GET", "/api/v1/agent/protocol", &[], "").await;
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(
        page.header("content-security-policy").contains("style-src 'sha256-"),
        "its style is allowed by digest"
    );
}

/// The page that an alert's `runbook_url` leads to is there without a sign-in, and nothing beside the pages is.
#[tokio::test(flavor = "multi_thread")]
async fn runbooks_are_served() {
    let world = World::start().await;
    for path in ["/runbooks/TrunklineNodeAbsent.md", "/runbooks/TrunklineNodeAbsent"] {
        let page = world.send("GET", path, &[], "").await;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.header("content-type").starts_with("text/html"), "{path}");
        let text = page.text();
        assert!(
            text.contains("<h1>TrunklineNodeAbsent</h1>") && text.contains("trunkline cluster"),
            "{text}"
        );
    }
    let index = world.send("GET", "/runbooks/", &[], "").await;
    assert!(index.text().contains("<a href=\"TrunklineNodeAbsent.md\">TrunklineNodeAbsent</a>"));
    let style = world.send("GET", "/runbooks/style.css", &[], "").await;
    assert!(style.status == 200 && style.header("content-type").starts_with("text/css"));
    assert_eq!(world.send("GET", "/runbooks", &[], "").await.header("location"), "/runbooks/");
    for path in ["/runbooks/Nothing.md", "/runbooks/%2e%2e%2fsystemd%2fREADME.md", "/runbooks/a/b"] {
        assert_eq!(world.send("GET", path, &[], "").await.status, 404, "{path}");
    }
}

/// Pages are there, or one sentence says how to build them; other addresses are 404.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_served() {
    let world = World::start().await;
    for path in ["/", "/agent", "/wallboard", "/contacts", "/contacts/abc"] {
        let answer = world.send("GET", path, &[], "").await;
        assert!(answer.header("content-type").starts_with("text/html"), "{path}");
        match answer.status {
            200 => assert_eq!(answer.header("cache-control"), "no-cache"),
            503 => assert!(answer.text().contains("cargo xtask web")),
            other => panic!("{path}: {other}"),
        }
    }
    for path in ["/nowhere", "/assets/none.js", "/../Cargo.toml", "/.git/config"] {
        assert_eq!(world.send("GET", path, &[], "").await.status, 404, "{path}");
    }
    assert_eq!(world.send("POST", "/agent", &[], "").await.status, 405);
}

/// Documents are compressed for those who ask.
#[tokio::test(flavor = "multi_thread")]
async fn documents_are_compressed() {
    let world = World::start().await;
    for encoding in ["br", "gzip"] {
        let answer = world.send("GET", "/api/v1/openapi.json", &[("accept-encoding", encoding)], "").await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, encoding));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_reasons() {
    let world = World::start().await;
    assert_eq!(world.send("GET", "/readyz", &[], "").await.status, 200);
    world.reasons.lock().push("media: no port is free".into());
    let answer = world.send("GET", "/readyz", &[], "").await;
    assert_eq!((answer.status, answer.text()), (503, "media: no port is free\n".into()));
    assert_eq!(world.send("GET", "/healthz", &[], "").await.status, 200, "alive all the same");
}

/// 2,000 sockets that say nothing, or a part of a head, or stop in the middle of a body: all are closed in time, and
/// meanwhile others are served.
#[tokio::test(flavor = "multi_thread")]
async fn slow_sockets_are_closed() {
    let world = World::with(|config| {
        config.timings.header = Duration::from_secs(2);
        config.timings.body = Duration::from_secs(2);
    })
    .await;
    let begun = Instant::now();
    let mut sockets = Vec::new();
    for n in 0..2_000 {
        // Descriptors may be limited to 1,024, and both ends are in this process.
        let Ok(mut socket) = TcpStream::connect(world.address).await else { break };
        let text: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /healthz HTTP/1.1\r\nhost: x\r\n",
            _ => b"POST /api/v1/session HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
        };
        if socket.write_all(text).await.is_err() {
            break;
        }
        sockets.push(socket);
        if n == 400 {
            assert_eq!(world.send("GET", "/healthz", &[], "").await.status, 200, "others are served");
        }
    }
    assert!(sockets.len() >= 400, "only {} sockets: raise the limit of open files", sockets.len());
    println!("{} slow sockets", sockets.len());
    for mut socket in sockets {
        let mut rest = Vec::new();
        let _ = within(socket.read_to_end(&mut rest)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "took {:?}", begun.elapsed());
}

/// A client that asks and never reads is closed too.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_is_closed() {
    let world = World::with(|config| config.timings.write_stall = Duration::from_millis(300)).await;
    let token = world.token("sue").await;
    let path = format!("/api/v1/recordings/{}/audio", super::support::recording_id(1));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(world.address).await.unwrap();
    // Many at once: more than all buffers on the way take.
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\r\n", world.address);
    let asked = socket.write_all(request.repeat(60).as_bytes()).await;
    assert!(asked.is_ok());
    // Without reading: once the server has closed, what is written comes back as a reset.
    let closed = async {
        while socket.write_all(b"\r").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(closed).await;
    let mut all = Vec::new();
    let _ = within(socket.read_to_end(&mut all)).await;
    assert!(all.len() < 60 * 300_000, "the server went on after the stall: {} bytes", all.len());
}

/// Above the limit connections are closed at once, those that are open go on.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited() {
    let world = World::with(|config| config.max_connections = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        within(socket.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        open.push(socket);
    }
    let mut more = TcpStream::connect(world.address).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(more.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

/// Draining: not ready, WebSockets closed with 1001, the port closed.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_sends_everybody_elsewhere() {
    let mut world = World::start().await;
    let token = world.token("alice").await;
    let (mut client, _) = world.session(&token).await;
    let mut silent = world.socket(&token).await;
    let console = world.console.clone();
    let ending = tokio::spawn(async move { console.shutdown().await });
    assert_eq!(client.closed().await.0, 1001);
    assert_eq!(silent.closed().await.0, 1001);
    drop((client, silent));
    within(ending).await.unwrap();
    assert!(TcpStream::connect(world.address).await.is_err(), "the port is closed");
}

/// The published schema is served and takes the frames of the documented session.
#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_schema_validates_frames() {
    let world = World::start().await;
    let schema = world.send("GET", "/api/v1/agent/protocol.json", &[], "").await.json();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(validator.is_valid(&json!({"id": "c1", "type": "digits", "data": {"digits": "1#"}})));
    assert!(validator.is_valid(&json!({"seq": 1, "type": "pong", "data": {"server_ms": 5}, "re": "p"})));
    assert!(!validator.is_valid(&json!({"id": "c1", "type": "digits", "data": {"digits": "hello"}})));
}
