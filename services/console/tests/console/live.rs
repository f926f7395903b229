use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::support::{EVIL, World, live, within};

/// An open event stream.
struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    async fn open(world: &World, token: &str) -> Self {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let request = format!(
            "GET /api/v1/live/stream HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\naccept-encoding: gzip\r\n\r\n",
            world.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self { stream, text: String::new() };
        events.until(|text| text.contains("\r\n\r\n")).await;
        assert!(events.text.starts_with("HTTP/1.1 200"), "{}", events.text);
        assert!(events.text.contains("content-type: text/event-stream"));
        assert!(!events.text.contains("content-encoding"), "never compressed");
        events
    }

    /// Reads until the text so far satisfies; false at the end of the stream.
    async fn until(&mut self, done: impl Fn(&str) -> bool) -> bool {
        let mut buffer = [0; 4_096];
        while !done(&self.text) {
            let read = within(self.stream.read(&mut buffer)).await.unwrap_or(0);
            if read == 0 {
                return false;
            }
            self.text += std::str::from_utf8(&buffer[..read]).unwrap();
        }
        true
    }

    /// The data of the events so far.
    fn data(&self) -> Vec<Value> {
        self.text
            .lines()
            .filter_map(|l| l.strip_prefix("data: "))
            .map(|t| serde_json::from_str(t).unwrap())
            .collect()
    }
}

/// All pages of a tenant share one upstream; it ends some time after the last page.
#[tokio::test(flavor = "multi_thread")]
async fn pages_share_one_upstream() {
    let world = World::with(|config| config.timings.live_linger = Duration::from_millis(100)).await;
    let token = world.token("sue").await;
    let mut pages = Vec::new();
    for _ in 0..5 {
        pages.push(Events::open(&world, &token).await);
    }
    for page in &mut pages {
        assert!(page.until(|text| text.contains("event: live\ndata: {")).await);
    }
    world.records.live.send(live(3)).unwrap();
    for page in &mut pages {
        assert!(page.until(|text| text.contains("\"calls_active\":3")).await);
        let data = page.data();
        assert_eq!(data.last().unwrap()["queues"][0]["name"], EVIL);
        assert_eq!(data.last().unwrap()["queues"][0]["service_level"], Value::Null);
    }
    assert_eq!(world.records.upstreams_total.load(Ordering::SeqCst), 1);
    drop(pages);
    let begun = Instant::now();
    while world.records.upstreams.load(Ordering::SeqCst) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the upstream stays open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut again = Events::open(&world, &token).await;
    assert!(again.until(|text| text.contains("event: live")).await, "and opens again");
}

/// Changes in a hurry become at most four events a second, and the last one is the newest.
#[tokio::test(flavor = "multi_thread")]
async fn events_come_at_most_four_times_a_second() {
    let world = World::start().await;
    let token = world.token("sue").await;
    let mut page = Events::open(&world, &token).await;
    assert!(page.until(|text| text.contains("event: live")).await);
    let begun = Instant::now();
    for n in 1..=60 {
        world.records.live.send(live(n)).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(page.until(|text| text.contains("\"calls_active\":60")).await);
    let limit = begun.elapsed().as_millis() as usize / 250 + 2;
    assert!(page.data().len() <= limit, "{} events, at most {limit}", page.data().len());
}

/// Signing out ends the open streams.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_ends_with_the_session() {
    let world = World::start().await;
    let token = world.token("sue").await;
    let mut page = Events::open(&world, &token).await;
    world.send("DELETE", "/api/v1/session", &[("authorization", &format!("Bearer {token}"))], "").await;
    let ended = page.until(|text| text.ends_with("0\r\n\r\n")).await;
    assert!(ended, "the stream ends well");
}
