//! Every message that comes and goes is captured for a collector, with its addresses, in order, and without secrets.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{net::UdpSocket, time::timeout};
use trunkline_sip::{Message, Method, parse_datagram};
use trunkline_telemetry::{
    Metrics,
    hep::{HepConfig, HepExporter, HepTransport},
};

use crate::support::*;

/// A collector that reads HEP3 by the published format.
struct Collector {
    socket: UdpSocket,
    exporter: HepExporter,
}

/// What was captured.
struct Capture {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
    correlation: String,
    text: String,
}

impl Capture {
    /// `INVITE`, or `200 INVITE` for an answer.
    fn name(&self) -> String {
        match parse_datagram(&self.text.clone().into()) {
            Ok(Message::Request(request)) => request.method.as_str().to_owned(),
            Ok(Message::Response(response)) => {
                format!("{} {}", response.status, response.headers.cseq().unwrap().method)
            }
            Err(error) => panic!("{error:?}: {}", self.text),
        }
    }
}

impl Collector {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let config = HepConfig {
            target: socket.local_addr().unwrap().to_string().parse().unwrap(),
            transport: HepTransport::Udp,
            capture_id: 1,
            auth_key_file: None,
            sip: true,
            rtcp: true,
        };
        let exporter = HepExporter::start(&config, &Metrics::new()).unwrap();
        Self { socket, exporter }
    }

    /// The next capture, without provisional answers of the transaction layer.
    async fn next(&self) -> Capture {
        loop {
            let mut packet = vec![0; 65_536];
            let length = timeout(SOON, self.socket.recv(&mut packet)).await.expect("a capture").unwrap();
            let capture = decode(&packet[..length]);
            if !capture.text.starts_with("SIP/2.0 100 ") {
                return capture;
            }
        }
    }

    /// Takes the next captures, which have to be these: name, and whether it came from `peer`.
    async fn expect(&self, peer: SocketAddr, node: SocketAddr, protocol: u8, names: &[(&str, bool)]) {
        for (name, incoming) in names {
            let capture = self.next().await;
            assert_eq!(capture.name(), *name, "{}", capture.text);
            let (source, destination) = if *incoming { (peer, node) } else { (node, peer) };
            assert_eq!((capture.source, capture.destination), (source, destination), "{name}");
            assert_eq!(capture.protocol, protocol, "{name}");
            assert!(capture.text.contains(&format!("Call-ID: {}\r\n", capture.correlation)), "{name}");
        }
    }
}

fn decode(packet: &[u8]) -> Capture {
    let two = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    assert_eq!((&packet[..4], usize::from(two(4))), (&b"HEP3"[..], packet.len()));
    let mut at = 6;
    let mut chunk = |kind: u16| {
        // Each is looked for from the beginning: their order is nobody's business.
        at = 6;
        while at < packet.len() {
            let length = usize::from(two(at + 4));
            if two(at + 2) == kind {
                return packet[at + 6..at + length].to_vec();
            }
            at += length;
        }
        panic!("no chunk {kind}")
    };
    let mut address = |ip: u16, port: u16| {
        let (ip, port) = (<[u8; 4]>::try_from(chunk(ip)).unwrap(), chunk(port));
        SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes([port[0], port[1]])))
    };
    let (source, destination) = (address(3, 7), address(4, 8));
    Capture {
        source,
        destination,
        protocol: chunk(2)[0],
        correlation: String::from_utf8(chunk(0x11)).unwrap(),
        text: String::from_utf8(chunk(0x0f)).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_udp_is_captured_both_ways_in_order() {
    let collector = Collector::start().await;
    let mut node = Node::start_captured(config(), collector.exporter.inlet()).await;
    let phone = Phone::new(&node).await;
    let up = call_up(&mut node, &phone, "h1").await;
    let mut info = Draft::within("INFO", &up.contact, "h2").with("Authorization: Digest response=\"secret\"");
    info.body = "Signal=7\r\n".to_owned();
    let info = String::from_utf8(info.bytes()).unwrap().replace("application/sdp", "application/dtmf-relay");
    phone.send_bytes(info.as_bytes()).await;
    let (call, request) = node.request().await;
    assert!(parse(&request.message).body.starts_with(b"Signal=7"), "the call hears the digit");
    node.answer(&call, &request, 200);
    assert_eq!(phone.answer().await.status, 200);
    let bye = from_call(Method::Bye, &format!("sip:a@{}", phone.address()), 9);
    node.send(&up.call, "bye", &bye, &phone.address().to_string(), "udp");
    assert_eq!(parse(&phone.receive().await).method, Method::Bye);

    let (peer, own) = (phone.address(), node.address());
    let set_up = [("INVITE", true), ("200 INVITE", false), ("ACK", true)];
    collector.expect(peer, own, 17, &set_up).await;
    let info = collector.next().await;
    assert_eq!((info.name().as_str(), info.correlation.as_str()), ("INFO", "h2@test"));
    assert!(info.text.ends_with("\r\n\r\nSignal=x\r\n") && !info.text.contains("secret"), "{}", info.text);
    collector.expect(peer, own, 17, &[("200 INFO", false), ("BYE", false)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_over_tcp_are_captured_with_the_ends_of_their_connection() {
    let collector = Collector::start().await;
    let node = Node::start_captured(config(), collector.exporter.inlet()).await;
    let mut line = Line::new(&node).await;
    let peer = line.stream.local_addr().unwrap();
    for branch in ["k1", "k2"] {
        // Blank lines and their answers are no messages.
        line.send(b"\r\n\r\n").await;
        line.send(&Draft::new("OPTIONS", "edge", branch).over_tcp().bytes()).await;
        let answered = collector.next().await;
        assert_eq!((answered.name().as_str(), answered.correlation), ("OPTIONS", format!("{branch}@test")));
        collector.expect(peer, node.address(), 6, &[("200 OPTIONS", false)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_captured_with_its_refusal_and_noise_is_not() {
    let collector = Collector::start().await;
    let node = Node::start_captured(config(), collector.exporter.inlet()).await;
    let phone = Phone::new(&node).await;
    phone.send_bytes(b"\r\n\r\n").await;
    phone.send_bytes(b"noise").await;
    let bad = String::from_utf8(Draft::new("OPTIONS", "edge", "b1").bytes()).unwrap();
    phone.send_bytes(bad.replace("CSeq: 1", "CSeq: x").as_bytes()).await;
    assert!(phone.receive().await.starts_with(b"SIP/2.0 400 "));
    let (asked, refused) = (collector.next().await, collector.next().await);
    assert!(asked.text.contains("CSeq: x") && asked.source == phone.address(), "{}", asked.text);
    assert!(refused.text.starts_with("SIP/2.0 400 ") && refused.destination == phone.address());
}
