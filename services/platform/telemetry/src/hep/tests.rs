use std::collections::BTreeMap;

use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use super::{packet::tests::read, rtcp::tests::SENDER_REPORT, *};

const SOON: Duration = Duration::from_secs(10);
const AT: Timestamp = Timestamp::from_micros(1_700_000_000_000_007);

fn flow() -> Flow {
    Flow {
        source: "192.0.2.1:5060".parse().unwrap(),
        destination: "192.0.2.2:5080".parse().unwrap(),
        carrier: Carrier::Udp,
    }
}

fn message(n: usize) -> Bytes {
    format!("OPTIONS sip:a@x SIP/2.0\r\nCall-ID: call-{n}\r\nAuthorization: secret\r\n\r\n").into()
}

fn config(port: u16, more: serde_json::Value) -> HepConfig {
    let mut config = json!({ "target": format!("127.0.0.1:{port}") });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

fn metric(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}: {text}")).trim().parse().unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads whole packets of a connection until it has `count` of them.
async fn packets(stream: &mut TcpStream, count: usize) -> Vec<BTreeMap<u16, Vec<u8>>> {
    let (mut bytes, mut found) = (Vec::new(), Vec::new());
    while found.len() < count {
        let length = bytes.get(4..6).map(|l: &[u8]| usize::from(u16::from_be_bytes([l[0], l[1]])));
        if length.is_some_and(|length| length <= bytes.len()) {
            let (packet, rest) = read(&bytes);
            found.push(packet);
            bytes = rest.to_vec();
            continue;
        }
        let n = timeout(SOON, stream.read_buf(&mut bytes)).await.expect("a packet").unwrap();
        assert_ne!(n, 0, "the connection was closed after {}", found.len());
    }
    found
}

#[tokio::test]
async fn datagrams_arrive_in_order_masked_and_with_the_key_of_the_collector() {
    let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "collector-key\n").unwrap();
    let port = collector.local_addr().unwrap().port();
    let metrics = Metrics::new();
    let config = config(port, json!({ "capture_id": 7, "auth_key_file": key }));
    let exporter = HepExporter::start(&config, &metrics).unwrap();
    let hep = exporter.inlet();
    let call = Correlation::Call("0000000000000000000000000".parse().unwrap());
    let dialog = Correlation::Sip("call-1".into());
    for n in 0..20 {
        hep.sip(AT, flow(), &message(n));
    }
    hep.rtcp(AT, flow(), &call, &SENDER_REPORT);
    hep.rtcp(AT, flow(), &dialog, &SENDER_REPORT);
    hep.rtcp(AT, flow(), &call, b"noise");
    hep.sip(AT, flow(), &Bytes::from(vec![b'x'; 65_500]));
    // What was handed over before the end still goes out.
    exporter.shutdown(SOON).await;
    let mut buffer = vec![0; 65_536];
    for n in 0..22 {
        let length = timeout(SOON, collector.recv(&mut buffer)).await.expect("a packet").unwrap();
        let (chunks, rest) = read(&buffer[..length]);
        assert!(rest.is_empty());
        assert_eq!((&chunks[&0x0e][..], &chunks[&0x0c][..]), (&b"collector-key"[..], &[0, 0, 0, 7][..]));
        let payload = String::from_utf8(chunks[&0x0f].clone()).unwrap();
        if n >= 20 {
            let call = if n == 20 { call.to_string() } else { "call-1".to_owned() };
            assert_eq!((&chunks[&0x0b][..], &chunks[&0x11][..]), (&[5][..], call.as_bytes()));
            assert!(payload.contains("\"fraction_lost\":64"), "{payload}");
            continue;
        }
        assert_eq!((&chunks[&0x0b][..], &chunks[&0x11][..]), (&[1][..], format!("call-{n}").as_bytes()));
        assert!(payload.contains("Authorization: xxxxxx\r\n"), "{payload}");
    }
    for (name, count) in [
        ("trunkline_hep_sent_total{protocol=\"sip\"}", 20),
        ("trunkline_hep_sent_total{protocol=\"rtcp\"}", 2),
        ("trunkline_hep_dropped_total{reason=\"unreadable\"}", 1),
        ("trunkline_hep_dropped_total{reason=\"too_large\"}", 1),
        ("trunkline_hep_dropped_total{reason=\"queue_full\"}", 0),
    ] {
        assert_eq!(metric(&metrics, name), count, "{name}");
    }
}

/// One thread that is not given up: nothing is taken from the queue meanwhile.
#[tokio::test(flavor = "current_thread")]
async fn a_collector_that_is_too_slow_costs_captures_and_stops_nobody() {
    let full = "trunkline_hep_dropped_total{reason=\"queue_full\"}";
    let metrics = Metrics::new();
    let exporter = HepExporter::start(&config(9, json!({})), &metrics).unwrap();
    let hep = exporter.inlet();
    for n in 0..QUEUE + 100 {
        hep.sip(AT, flow(), &message(n));
    }
    assert_eq!(metric(&metrics, full), 100);

    let metrics = Metrics::new();
    let exporter = HepExporter::start(&config(9, json!({ "rtcp": false })), &metrics).unwrap();
    let hep = exporter.inlet();
    let large = Bytes::from(vec![b'x'; 64 * 1_024]);
    for _ in 0..QUEUE_BYTES / large.len() + 10 {
        hep.sip(AT, flow(), &large);
    }
    assert_eq!(metric(&metrics, full), 10, "its bytes have a limit too");
    hep.rtcp(AT, flow(), &Correlation::Sip("call-1".into()), &SENDER_REPORT);
    assert_eq!((metric(&metrics, full), hep.wants_rtcp()), (10, false), "RTCP is not wanted");
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again_and_captures_wait_for_it() {
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = collector.local_addr().unwrap();
    let metrics = Metrics::new();
    let exporter =
        HepExporter::start(&config(address.port(), json!({ "transport": "tcp" })), &metrics).unwrap();
    let hep = exporter.inlet();
    let accept = async || timeout(SOON, collector.accept()).await.expect("a connection").unwrap().0;
    (0..100).for_each(|n| hep.sip(AT, flow(), &message(n)));
    let mut first = accept().await;
    let read = packets(&mut first, 100).await;
    assert!(read.iter().enumerate().all(|(n, chunks)| chunks[&0x11] == format!("call-{n}").as_bytes()));
    drop(first);
    // The end is seen without a write: what comes now is for the next connection, and none of it is lost.
    let mut second = accept().await;
    (100..200).for_each(|n| hep.sip(AT, flow(), &message(n)));
    let read = packets(&mut second, 100).await;
    assert_eq!(read[99][&0x11], b"call-199");
    until("all are counted", || metric(&metrics, "trunkline_hep_sent_total{protocol=\"sip\"}") == 200).await;
    assert_eq!(metric(&metrics, "trunkline_hep_dropped_total{reason=\"not_sent\"}"), 0);
}

#[tokio::test]
async fn a_collector_of_datagrams_may_come_later_and_what_waits_arrives_in_order() {
    let place = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let metrics = Metrics::new();
    let exporter = HepExporter::start(&config(address.port(), json!({})), &metrics).unwrap();
    let hep = exporter.inlet();
    let sent = "trunkline_hep_sent_total{protocol=\"sip\"}";
    // Nobody is there: the machine says so, and the rest waits.
    hep.sip(AT, flow(), &message(0));
    until("the first is lost", || metric(&metrics, sent) == 1).await;
    let collector = UdpSocket::bind(address).await.unwrap();
    (1..50).for_each(|n| hep.sip(AT, flow(), &message(n)));
    let mut buffer = vec![0; 65_536];
    let mut last = 0;
    while last < 49 {
        let length = timeout(SOON, collector.recv(&mut buffer)).await.expect("a packet").unwrap();
        let (chunks, _) = read(&buffer[..length]);
        let call_id = String::from_utf8(chunks[&0x11].clone()).unwrap();
        let n: usize = call_id.strip_prefix("call-").unwrap().parse().unwrap();
        assert!(n > last, "{n} after {last}");
        last = n;
    }
}

#[test]
fn nothing_is_taken_when_it_is_off() {
    let hep = Hep::off();
    assert!(!hep.wants_sip() && !hep.wants_rtcp());
    hep.sip(AT, flow(), &message(1));
}
