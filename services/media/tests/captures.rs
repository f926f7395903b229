//! Reports of plain RTP are captured for a collector, those that come and those that go; audio is not.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use support::*;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use trunkline_media_core::codec::Codec;
use trunkline_proto::media::v1::{self as pb, media_command::Command};
use trunkline_telemetry::Metrics;
use trunkline_telemetry::hep::{HepConfig, HepExporter};

/// A receiver report of source 0x4711 without blocks.
const REPORT: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0x47, 0x11];

struct Capture {
    source: SocketAddr,
    destination: SocketAddr,
    correlation: String,
    json: serde_json::Value,
}

/// Reads HEP3 by the published format.
fn decode(packet: &[u8]) -> Capture {
    let two = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    assert_eq!((&packet[..4], usize::from(two(4))), (&b"HEP3"[..], packet.len()));
    let chunk = |kind: u16| {
        let mut at = 6;
        while two(at + 2) != kind {
            at += usize::from(two(at + 4));
        }
        packet[at + 6..at + usize::from(two(at + 4))].to_vec()
    };
    let address = |ip: u16, port: u16| {
        let (ip, port) = (<[u8; 4]>::try_from(chunk(ip)).unwrap(), chunk(port));
        SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes([port[0], port[1]])))
    };
    assert_eq!((chunk(2), chunk(0x0b)), (vec![17], vec![5]), "RTCP over UDP");
    Capture {
        source: address(3, 7),
        destination: address(4, 8),
        correlation: String::from_utf8(chunk(0x11)).unwrap(),
        json: serde_json::from_slice(&chunk(0x0f)).unwrap(),
    }
}

/// A collector, and a node that captures there.
struct Captured {
    collector: UdpSocket,
    _exporter: HepExporter,
    bench: Bench,
}

impl Captured {
    async fn start() -> Self {
        let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = collector.local_addr().unwrap().to_string();
        let config: HepConfig = serde_json::from_value(serde_json::json!({ "target": target })).unwrap();
        let exporter = HepExporter::start(&config, &Metrics::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let media = support::config(&folder);
        let bench = Bench::captured(folder, media, exporter.inlet());
        Self { collector, _exporter: exporter, bench }
    }

    async fn next(&self, patience: Duration) -> Capture {
        let mut packet = [0; 4_096];
        let length = timeout(patience, self.collector.recv(&mut packet)).await.unwrap().unwrap();
        decode(&packet[..length])
    }
}

/// Nothing is sent to a party that holds us, and it sends nothing: a report every 15 s says that we are there, where one with
/// news comes every 5 s.
#[tokio::test]
async fn who_has_put_us_on_hold_is_told_less_often() {
    let captured = Captured::start().await;
    let alice = Phone::new("127.0.0.1", Codec::Pcmu).await;
    let create = pb::CreateRtpEndpoint {
        endpoint: "alice".into(),
        sdp: alice.sdp("a=inactive\r\n").into_bytes().into(),
        ..Default::default()
    };
    captured.bench.ok(Command::CreateRtp(create)).await;
    captured.next(PATIENCE).await;
    let first = Instant::now();
    captured.next(3 * PATIENCE).await;
    let between = first.elapsed();
    assert!(between > Duration::from_secs(10), "{between:?}");
}

#[tokio::test]
async fn reports_are_captured_both_ways_with_their_addresses_and_their_call() {
    let captured = Captured::start().await;
    let (bench, next) = (&captured.bench, || captured.next(PATIENCE));

    let alice = Phone::new("127.0.0.1", Codec::Pcmu).await;
    let create = pb::CreateRtpEndpoint {
        endpoint: "alice".into(),
        sdp: alice.sdp("").into_bytes().into(),
        sip_call_id: "dialog@phone".into(),
        ..Default::default()
    };
    let ours = bench.ok(Command::CreateRtp(create)).await;
    let theirs = alice.socket.local_addr().unwrap();
    let ours = media_address(&ours.sdp);
    let after = |address: SocketAddr| SocketAddr::new(address.ip(), address.port() + 1);

    let reporter = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    reporter.send_to(&REPORT, after(ours)).await.unwrap();
    let received = next().await;
    assert_eq!(
        (received.source, received.destination),
        (reporter.local_addr().unwrap(), after(ours)),
        "{}",
        received.json
    );
    assert_eq!((&received.json["ssrc"], &received.json["type"]), (&0x4711.into(), &201.into()));
    assert_eq!(received.correlation, "dialog@phone");
    // Of somebody who is not believed for audio: nothing is.
    let stranger = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    stranger.send_to(&REPORT, after(ours)).await.unwrap();

    bench.ok(Command::CloseSession(pb::CloseSession {})).await;
    let sent = next().await;
    assert_eq!((sent.source, sent.destination), (after(ours), after(theirs)), "{}", sent.json);
    assert_eq!(sent.correlation, "dialog@phone");
    assert!(sent.json["ssrc"].is_u64() && sent.json["report_blocks"].is_array(), "{}", sent.json);
}
