//! TCP: framing, limits, and peers that are slow or do not read.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, net::TcpListener, time::timeout};
use trunkline_edge::Config;
use trunkline_sip::Method;

use crate::support::*;

fn options(branch: &str) -> Vec<u8> {
    Draft::new("OPTIONS", "edge", branch).over_tcp().bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_in_any_slices() {
    let node = Node::start(config()).await;
    let mut line = Line::new(&node).await;
    line.send(&[options("a"), b"\r\n".to_vec(), options("b"), options("c")].concat()).await;
    for branch in ["a", "b", "c"] {
        let answer = line.answer().await;
        assert_eq!(answer.headers.top_via().unwrap().branch().unwrap(), format!("z9hG4bK{branch}"));
    }
    for byte in options("d") {
        line.send(&[byte]).await;
    }
    assert_eq!(line.answer().await.status, 200);
    // RFC 5626: a double CRLF is answered by one.
    line.send(b"\r\n\r\n").await;
    line.send(&options("e")).await;
    let pong_and_answer = line.message().await.unwrap();
    let starts =
        pong_and_answer.starts_with(b"\r\nSIP/2.0 200") || pong_and_answer.starts_with(b"SIP/2.0 200");
    assert!(starts, "{pong_and_answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_framed_is_answered_and_closed_and_the_rest_goes_on() {
    let node = Node::start(config()).await;
    // Where it ends is known: 400, and the connection goes on.
    let mut line = Line::new(&node).await;
    let bad = String::from_utf8(options("g1")).unwrap().replace("CSeq: 1", "CSeq: x");
    line.send(bad.as_bytes()).await;
    assert!(line.message().await.unwrap().starts_with(b"SIP/2.0 400 Bad CSeq"));
    line.send(&options("g2")).await;
    assert_eq!(line.answer().await.status, 200);
    // Not known: 400 and the end.
    let endless = String::from_utf8(options("g3")).unwrap().replace("Content-Length: 0", "X: 0");
    line.send(endless.as_bytes()).await;
    assert_eq!(line.answer().await.status, 400);
    line.closed().await;
    // Not SIP at all: the end.
    let mut web = Line::new(&node).await;
    web.send(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    web.closed().await;
    // Larger than a message may be: answered while it is being sent, and the end.
    let mut large = Line::new(&node).await;
    let _ = large.stream.write_all(&[&options("g4")[..60], &vec![b'x'; 90_000]].concat()).await;
    large.closed().await;
    node.until("connections are forgotten", |node| node.metric("connections") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_peers_are_closed_and_calls_come_through_meanwhile() {
    let mut node = Node::start(Config { message_timeout_ms: 400, ..config() }).await;
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut line = Line::new(&node).await;
        // Some say nothing, some blank lines, some the beginning of a message.
        line.send([&b""[..], b"\r\n", b"OPTIONS sip:x SI"][n % 3]).await;
        slow.push(line);
    }
    let feeder = async {
        let started = Instant::now();
        let mut open = slow.len();
        while open > 0 {
            assert!(started.elapsed() < SOON, "{open} slow connections are still open");
            open = 0;
            for (n, line) in slow.iter_mut().enumerate() {
                let bytes = [&b""[..], b"\r\n", b"P"][n % 3];
                let mut end = [0; 512];
                let written = line.stream.write_all(bytes).await.is_ok();
                let ended = matches!(line.stream.try_read(&mut end), Ok(0));
                open += usize::from(written && !ended);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let calls = async {
        let phone = Phone::new(&node).await;
        for n in 0..20 {
            let up = call_up(&mut node, &phone, &format!("slow{n}")).await;
            assert!(up.contact.starts_with("sip:"));
        }
    };
    tokio::join!(feeder, calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_spoke_may_be_idle_but_not_within_a_message() {
    let node = Node::start(Config { message_timeout_ms: 200, idle_timeout_ms: 60_000, ..config() }).await;
    let mut line = Line::new(&node).await;
    line.send(&options("w1")).await;
    assert_eq!(line.answer().await.status, 200);
    assert!(timeout(Duration::from_millis(500), line.message()).await.is_err(), "idle and open");
    line.send(b"OPTIONS sip:x@127.0.0.1 SIP/2.0\r\n").await;
    line.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_is_closed_and_freezes_nobody() {
    let mut node = Node::start(config()).await;
    let mut deaf = Line::new(&node).await;
    socket2::SockRef::from(&deaf.stream).set_recv_buffer_size(4_096).unwrap();
    // Each answer repeats 30 kB of Via.
    let padding = "x".repeat(30_000);
    let request = Draft::new("OPTIONS", "edge", "deaf").via(&format!("TCP 127.0.0.1:9;p={padding}")).bytes();
    let flood = async {
        // Until the edge has closed it.
        while timeout(SOON, deaf.stream.write_all(&request)).await.expect("the edge reads or closes").is_ok()
        {
        }
    };
    let calls = async {
        let phone = Phone::new(&node).await;
        for n in 0..10 {
            call_up(&mut node, &phone, &format!("deaf{n}")).await;
        }
    };
    tokio::join!(flood, calls);
    assert!(node.metric("dropped_total{reason=\"peer_does_not_read\"}") >= 1.0);
    node.until("it is closed", |node| node.metric("connections") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_peer_has_only_so_many_connections() {
    let node = Node::start(Config { max_connections_per_peer: 3, ..config() }).await;
    let mut lines = Vec::new();
    for _ in 0..3 {
        let mut line = Line::new(&node).await;
        line.send(&options("n")).await;
        assert_eq!(line.answer().await.status, 200);
        lines.push(line);
    }
    Line::new(&node).await.closed().await;
    drop(lines.pop());
    node.until("its place is free", |node| node.metric("connections") == 2.0).await;
    let mut line = Line::new(&node).await;
    line.send(&options("n")).await;
    assert_eq!(line.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_outlives_the_connection_of_its_request() {
    let mut node = Node::start(config()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut line = Line::new(&node).await;
    line.send(&Draft::invite("o1").via(&format!("TCP 127.0.0.1:{port}")).bytes()).await;
    let (call, invite) = node.request().await;
    assert_eq!(invite.transport, "tcp");
    drop(line);
    node.until("the edge knows", |node| node.metric("connections") == 0.0).await;
    node.answer(&call, &invite, 486);
    // RFC 3261 section 18.2.2: to the port of the Via.
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut buffer = Vec::new();
    while !buffer.ends_with(b"\r\n\r\n") {
        let read = tokio::io::AsyncReadExt::read_buf(&mut stream, &mut buffer);
        assert!(timeout(SOON, read).await.unwrap().unwrap() > 0);
    }
    assert_eq!(parse_response(&buffer).status, 486);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_tcp() {
    let mut node = Node::start(config()).await;
    let mut line = Line::new(&node).await;
    line.send(&Draft::invite("c1").over_tcp().bytes()).await;
    let (call, invite) = node.request().await;
    let contact = invite.new_call.as_ref().unwrap().contact_uri.clone();
    assert!(contact.ends_with(";transport=tcp"));
    node.answer(&call, &invite, 200);
    assert_eq!(line.answer().await.status, 200);
    line.send(&Draft::within("ACK", &contact, "c2").over_tcp().bytes()).await;
    assert_eq!(parse(&node.request().await.1.message).method, Method::Ack);
    // The call's BYE comes over the same connection.
    let bye = from_call(Method::Bye, "sip:+4917012345@127.0.0.1:9;transport=tcp", 1);
    node.send(&call, "bye", &bye, &invite.source, "tcp");
    let got: Bytes = line.message().await.unwrap();
    assert_eq!(parse(&got).method, Method::Bye);
}
