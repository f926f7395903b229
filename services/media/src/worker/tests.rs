//! A worker that is led turn by turn.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use std::os::fd::AsRawFd;

use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::sync::mpsc;
use trunkline_proto::media::v1::{media_command::Command, media_reply};

use super::*;
use crate::config::{PortRange, RecordingConfig, StoreConfig};
use crate::events::Acknowledged;

/// One that does not run.
fn worker(folder: &TempDir, rtp: PortRange) -> Worker {
    let recording = RecordingConfig {
        spool: folder.path().join("spool"),
        store: StoreConfig::Folder { path: folder.path().join("recordings") },
        ..RecordingConfig::default()
    };
    let config = Config { rtp, workers: 1, recording, ..Config::default() };
    let (clock, owners) = (Clock::start(), Arc::new(Owners::new()));
    let metrics = Arc::new(Metrics::register(&mut Registry::default()));
    let runtime = tokio::runtime::Handle::current();
    let (events, _) = mpsc::channel(64);
    let (sink, Acknowledged { recordings, .. }) =
        Sink::start(&runtime, clock, metrics.clone(), owners.clone(), events);
    let recorder =
        Recorder::start(&config.recording, clock, sink.clone(), metrics.clone(), runtime.clone(), recordings);
    let transcriber = Transcriber::new(None, clock, sink.clone(), metrics.clone(), runtime);
    let shared = Shared {
        clock,
        sink,
        metrics,
        library: crate::assets::load(None).unwrap(),
        owners,
        sessions: AtomicUsize::new(0),
        draining: AtomicBool::new(false),
        recorder: recorder.unwrap(),
        transcriber: transcriber.unwrap(),
        hep: Hep::off(),
        config,
    };
    let (_, commands) = sync_channel(1);
    make(Arc::new(shared), 0, commands).unwrap()
}

impl Worker {
    fn done(&mut self, call: CallId, command_id: u64, command: Command) {
        let (sender, told) = sync_channel(1);
        let reply = Reply::new(call, command_id, Box::new(move |reply| sender.send(reply).unwrap()));
        let owner = Owner { call, shard: call.shard(), tenant: "default".into() };
        self.execute(Order { owner, epoch: Epoch(1), command_id, command, prepared: None, reply });
        let result = told.recv().unwrap().result;
        assert!(matches!(result, Some(media_reply::Result::Ok(_))), "{result:?}");
    }

    fn create(&mut self, call: CallId, command_id: u64, endpoint: &str, party: &UdpSocket) {
        let port = party.local_addr().unwrap().port();
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
        );
        let (endpoint, sdp) = (endpoint.to_owned(), sdp.into());
        let create = pb::CreateRtpEndpoint { endpoint, sdp, ..Default::default() };
        self.done(call, command_id, Command::CreateRtp(create));
    }

    fn socket(&self, call: CallId, endpoint: &str) -> (Key, &UdpSocket) {
        let key = self.sessions.get(&call).unwrap().endpoint(endpoint).unwrap();
        let endpoint::Transport::Rtp(port) = &self.endpoints.get(key).unwrap().transport else { panic!() };
        (key, &port.socket)
    }
}

/// What waits for a party whose endpoint is closed leaves by its own port: not by that of the call which the system
/// gives the same descriptor next.
#[tokio::test]
async fn a_closed_port_has_sent_what_waited() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = worker(&folder, PortRange { first: 39_000, last: 39_999 });
    worker.outbox = outbox::tests::ring();
    // Other tests of this process open files, too.
    assert!((0..100).any(|n| close_while_it_waits(&mut worker, n)), "no descriptor is given again");
}

/// Whether the next call's port has got the descriptor of the closed one.
fn close_while_it_waits(worker: &mut Worker, n: u128) -> bool {
    let [call, next] =
        [2 * n, 2 * n + 1].map(|n| CallId::mint(ShardId::new(7).unwrap(), Timestamp::from_millis(1_000), n));
    let [alice, bob, carol] = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    worker.create(call, 1, "alice", &alice);
    worker.create(call, 2, "bob", &bob);
    worker.done(call, 3, Command::Bridge(pb::Bridge { a: "alice".into(), b: "bob".into() }));
    let (key, socket) = worker.socket(call, "alice");
    let mut packet = [0xff; 172];
    packet[..2].copy_from_slice(&[0x80, 0]);
    alice.send_to(&packet, socket.local_addr().unwrap()).unwrap();
    let socket = worker.socket(call, "bob").1;
    let (descriptor, port) = (socket.as_raw_fd(), socket.local_addr().unwrap());
    worker.on_rtp(key);
    bob.set_nonblocking(true).unwrap();
    let mut buffer = [0; 200];
    assert!(bob.recv_from(&mut buffer).is_err(), "it waits for the end of the turn");

    worker.done(call, 4, Command::CloseEndpoint(pb::CloseEndpoint { endpoint: "bob".into() }));
    worker.create(next, 1, "carol", &carol);
    worker.outbox.flush();
    assert_eq!(worker.outbox.take_tally(), Tally { sent: 1, errors: 0 });
    let (len, source) = bob.recv_from(&mut buffer).unwrap();
    assert_eq!((len, source, &buffer[12..len]), (packet.len(), port, &packet[12..]));
    worker.socket(next, "carol").1.as_raw_fd() == descriptor
}

#[test]
fn a_command_that_nobody_executes_is_answered_all_the_same() {
    let call = CallId::mint(ShardId::new(7).unwrap(), Timestamp::from_millis(1_000), 1);
    let (sender, told) = sync_channel(2);
    let reply = |n| {
        let sender = sender.clone();
        Reply::new(call, n, Box::new(move |reply| sender.send(reply).unwrap()))
    };
    drop(reply(1));
    let done = pb::MediaReply { command_id: 2, ..pb::MediaReply::default() };
    reply(2).tell(done.clone());
    let stopping = told.recv().unwrap();
    assert_eq!((stopping.call_id, stopping.command_id), (call.to_string(), 1));
    let Some(media_reply::Result::Failure(failure)) = stopping.result else { panic!("no failure") };
    assert_eq!(failure.kind(), Kind::ShuttingDown);
    assert_eq!(told.recv().unwrap(), done);
    assert!(told.try_recv().is_err(), "each once");
}
