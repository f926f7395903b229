//! Attacks: what they cost, what they leave behind, and that calls come through.

use trunkline_edge::Config;
use trunkline_rpc::Refused;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_refused_for_capacity_are_forgotten_after_64_t1_and_bounded_before() {
    let mut node = Node::start(Config { max_transactions: 1_000, ..fast() }).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "up").await;
    node.refuse(Some(Refused::Full));
    let refused = phone.flood(4_000, |n| Draft::invite(&format!("x{n}")).bytes()).await;
    assert!(refused >= 4_000, "each was refused at least once: {refused}");
    assert!(node.metric("transactions") <= 900.0, "a tenth is kept for calls that are up");
    node.refuse(None);
    // A call that is up is served in the middle of it.
    phone.fence().await;
    phone.send(&Draft::within("INFO", &up.contact, "info")).await;
    let (call, info) = node.request().await;
    node.answer(&call, &info, 200);
    node.until("all are forgotten", |node| node.metric("transactions") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parser_bombs_cost_no_more_than_they_weigh() {
    let node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let vias = "Via: SIP/2.0/UDP a\r\n".repeat(10_000);
    let joined = format!("Via: {}\r\n", vec!["SIP/2.0/UDP a"; 4_000].join(","));
    let header = format!("X-Long: {}\r\n", "a,\"b\\".repeat(11_000));
    let lines = "X: y\r\n".repeat(9_000);
    let parameters = format!("Contact: <sip:a@b>{}\r\n", ";p=q".repeat(13_000));
    let escapes = format!("P-Asserted-Identity: <sip:{}@x>\r\n", "%41".repeat(18_000));
    for bomb in [&vias, &joined, &header, &lines, &parameters, &escapes] {
        let mut bytes = Draft::invite("bomb").with(bomb.trim_end()).bytes();
        bytes.truncate(65_000);
        let started = std::time::Instant::now();
        for _ in 0..10 {
            phone.send_bytes(&bytes).await;
            phone.fence().await;
        }
        // The promise is 50 ms each in a release build; debug builds on a busy machine get ten times that.
        let each = started.elapsed() / 10;
        assert!(each.as_millis() < 500, "{each:?} for {:?}", &bomb[..20]);
    }
    let mut line = Line::new(&node).await;
    line.send(&[&Draft::invite("b").over_tcp().bytes()[..40], joined.as_bytes()].concat()).await;
    phone.fence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_over_tcp_does_not_starve_udp() {
    let mut node = Node::start(config()).await;
    let phone = Phone::new(&node).await;
    let mut floods = Vec::new();
    for n in 0..8 {
        let Line { stream, .. } = Line::new(&node).await;
        let (mut read, mut write) = stream.into_split();
        let request = Draft::new("OPTIONS", "edge", &format!("t{n}")).over_tcp().bytes().repeat(20);
        floods.push(tokio::spawn(async move {
            let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
        }));
        floods.push(tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            while write.write_all(&request).await.is_ok() {}
        }));
    }
    for n in 0..20 {
        call_up(&mut node, &phone, &format!("f{n}")).await;
    }
    for task in floods {
        task.abort();
    }
}
