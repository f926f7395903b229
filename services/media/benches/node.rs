//! CPU of the worker and writer threads per packet, from the scheduler's own accounting: `cargo bench -p trunkline-media`.
//!
//! Bridged calls on loopback, 50 packets a second each way: relay, relay with recording, and music; with 250 calls, for which
//! 25,000 packets a second come in, and with 500. Near saturation batching makes packets cheaper. Loopback charges part of
//! the receiver's work to the sender. Beside them, on the same machine and in the same run, a bare relay: a thread that waits
//! for sockets, receives and sends, and does nothing else.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tokio::sync::mpsc;
use trunkline_media::{Config, MediaNode, RecordingConfig, StoreConfig};
use trunkline_media_core::rtp;
use trunkline_proto::media::v1::{self as pb, media_command::Command, media_reply, program};
use trunkline_telemetry::hep::Hep;
use trunkline_types::{CallId, RecordingId, ShardId, Timestamp};

const CALLS: [u16; 2] = [250, 500];
const SPAN: Duration = Duration::from_secs(6);

struct Leg {
    socket: UdpSocket,
    node: SocketAddr,
    sequence: u16,
}

impl Leg {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, node: ([127, 0, 0, 1], 9).into(), sequence: 0 }
    }

    fn offer(&self) -> Vec<u8> {
        let port = self.socket.local_addr().unwrap().port();
        format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n").into()
    }

    fn answered(&mut self, sdp: &[u8]) {
        let text = String::from_utf8_lossy(sdp).into_owned();
        let port =
            text.lines().find_map(|l| l.strip_prefix("m=audio ")?.split(' ').next()?.parse().ok()).unwrap();
        self.node = ([127, 0, 0, 1], port).into();
    }

    fn turn(&mut self, speak: bool, buffer: &mut [u8; 2_048]) -> u64 {
        let mut heard = 0;
        while self.socket.recv_from(buffer).is_ok() {
            heard += 1;
        }
        if speak {
            let mut packet = [0x55; 172];
            let timestamp = u32::from(self.sequence) * 160;
            rtp::write_header(packet.first_chunk_mut().unwrap(), 0, false, self.sequence, timestamp, 7);
            self.sequence = self.sequence.wrapping_add(1);
            let _ = self.socket.send_to(&packet, self.node);
        }
        heard
    }
}

/// Of the worker, of the writer of recordings, and of the runtime that copies them to the store.
const MEDIA: &[&str] = &["media-0", "media-writer", "media-runtime"];
const BARE: &str = "bare-relay";

/// Of the threads with these names.
fn cpu_of(threads: &[&str]) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|t| t.path());
    let ours = |p: &std::path::PathBuf| {
        std::fs::read_to_string(p.join("comm")).is_ok_and(|c| threads.contains(&c.trim()))
    };
    let spent = |p: std::path::PathBuf| {
        let text = std::fs::read_to_string(p.join("schedstat")).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    tasks.filter(ours).map(spent).sum()
}

fn run(legs: &mut [Leg], speak: bool, threads: &[&str]) -> (u64, Duration) {
    let mut buffer = [0; 2_048];
    let (mut heard, begun, mut next) = (0, Instant::now(), Instant::now());
    let cpu = cpu_of(threads);
    // Spread over the 20 ms, as real parties are.
    let share = legs.len() / 20;
    while begun.elapsed() < SPAN {
        for group in legs.chunks_mut(share) {
            heard += group.iter_mut().map(|leg| leg.turn(speak, &mut buffer)).sum::<u64>();
            next += Duration::from_millis(1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    (heard, cpu_of(threads) - cpu)
}

async fn ok(node: &MediaNode, call: CallId, command_id: u64, command: Command) -> pb::MediaOk {
    let command = pb::MediaCommand {
        call_id: call.to_string(),
        shard: 1,
        epoch: 1,
        command_id,
        acknowledges_events: false,
        tenant: "default".into(),
        command: Some(command),
    };
    match node.command(command).await.result {
        Some(media_reply::Result::Ok(ok)) => ok,
        other => panic!("{other:?}"),
    }
}

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).thread_name("media-runtime").enable_all().build().unwrap();
    runtime.block_on(async {
        for calls in CALLS {
            bare(calls);
            let mut bed = Bed::start(calls, 1_000).await;
            bed.music().await;
            bed.report("music", false);
            bed.bridge().await;
            bed.report("relay", true);
            bed.node.shutdown().await;
            for (segment_ms, what) in [
                (0, "relay, recorded in stereo, stored at the end"),
                (1_000, "relay, recorded in stereo, copied every second"),
            ] {
                let mut bed = Bed::start(calls, segment_ms).await;
                bed.bridge().await;
                bed.record().await;
                bed.report(what, true);
                bed.node.shutdown().await;
            }
        }
    });
}

/// A node with calls of two parties.
struct Bed {
    node: MediaNode,
    calls: Vec<CallId>,
    legs: Vec<Leg>,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn start(count: u16, segment_ms: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            workers: 1,
            rtp: "22000-25999".parse().unwrap(),
            recording: RecordingConfig {
                spool: folder.path().join("spool"),
                store: StoreConfig::Folder { path: folder.path().join("recordings") },
                segment_ms,
                ..RecordingConfig::default()
            },
            ..Config::default()
        };
        let (events, mut taken) = mpsc::channel(1_024);
        tokio::spawn(async move { while taken.recv().await.is_some() {} });
        let node = MediaNode::start(config, &mut Registry::default(), events, Hep::off()).unwrap();
        let (mut calls, mut legs) = (Vec::new(), Vec::new());
        for n in 0..count {
            let call = CallId::mint(ShardId::new(1).unwrap(), Timestamp::from_millis(1), u128::from(n));
            for (id, endpoint) in [(1, "a"), (2, "b")] {
                let mut leg = Leg::new();
                let create = pb::CreateRtpEndpoint {
                    endpoint: endpoint.into(),
                    sdp: leg.offer().into(),
                    ..Default::default()
                };
                leg.answered(&ok(&node, call, id, Command::CreateRtp(create)).await.sdp);
                legs.push(leg);
            }
            calls.push(call);
        }
        Self { node, calls, legs, _folder: folder }
    }

    async fn music(&self) {
        for call in &self.calls {
            for (id, endpoint) in [(3, "a"), (4, "b")] {
                let music =
                    pb::Program { kind: Some(program::Kind::Music(pb::Music { name: "hold".into() })) };
                let set = pb::SetProgram { endpoint: endpoint.into(), program: Some(music) };
                ok(&self.node, *call, id, Command::SetProgram(set)).await;
            }
        }
    }

    async fn bridge(&mut self) {
        for call in &self.calls {
            let bridge = Command::Bridge(pb::Bridge { a: "a".into(), b: "b".into() });
            ok(&self.node, *call, 5, bridge).await;
        }
        // Until every source is believed.
        run(&mut self.legs, true, MEDIA);
    }

    async fn record(&self) {
        for call in &self.calls {
            let recording_id = RecordingId { call: *call, index: 0 }.to_string();
            let (tenant, left, right) = ("default".into(), "a".into(), "b".into());
            let start = pb::StartRecording { recording_id, tenant, left, right };
            ok(&self.node, *call, 6, Command::StartRecording(start)).await;
        }
    }

    fn report(&mut self, what: &str, speak: bool) {
        let measured = run(&mut self.legs, speak, MEDIA);
        tell(what, measured, self.calls.len());
    }
}

fn tell(what: &str, (packets, cpu): (u64, Duration), calls: usize) {
    let rate = packets as f64 / SPAN.as_secs_f64();
    println!(
        "{what}: {:.2} us of CPU a packet at {rate:.0} packets/s, {:.0} us a second and call",
        cpu.as_secs_f64() * 1e6 / packets as f64,
        cpu.as_secs_f64() * 1e6 / SPAN.as_secs_f64() / calls as f64,
    );
}

/// What no relay can be below: one wait for many sockets, one receive and one send a packet.
fn bare(calls: u16) {
    let mut legs: Vec<Leg> = (0..2 * calls).map(|_| Leg::new()).collect();
    let ports: Vec<UdpSocket> = legs.iter().map(|_| Leg::new().socket).collect();
    for (leg, port) in legs.iter_mut().zip(&ports) {
        leg.node = port.local_addr().unwrap();
    }
    let others: Vec<SocketAddr> = legs.iter().map(|leg| leg.socket.local_addr().unwrap()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let ends = stop.clone();
    let relay = move || {
        let poll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        for (n, port) in ports.iter().enumerate() {
            epoll::add(&poll, port, EventData::new_u64(n as u64), EventFlags::IN).unwrap();
        }
        let (mut ready, mut packet) = (Vec::with_capacity(512), [0; 2_048]);
        let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !ends.load(Ordering::Relaxed) {
            ready.clear();
            let _ = epoll::wait(&poll, rustix::buffer::spare_capacity(&mut ready), Some(&patience));
            for n in ready.iter().map(|event: &Event| event.data.u64() as usize) {
                let Ok((length, _)) = ports[n].recv_from(&mut packet) else { continue };
                // To the other party of the call, from the port that it knows.
                let _ = ports[n ^ 1].send_to(&packet[..length], others[n ^ 1]);
            }
        }
    };
    let relay = std::thread::Builder::new().name(BARE.to_owned()).spawn(relay).unwrap();
    run(&mut legs, true, &[BARE]);
    let measured = run(&mut legs, true, &[BARE]);
    tell("bare relay, receive and send only", measured, calls.into());
    stop.store(true, Ordering::Relaxed);
    relay.join().unwrap();
}
