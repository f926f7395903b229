//! What a recording costs besides its audio: makes recordings of a given length, all at once, and ends when each is stored
//! and its outcome taken. For a counter of system calls, such as
//! `strace -f -c -e trace=file,desc target/debug/examples/recordings 20 10` (calls, seconds, store folder if not a temporary
//! one); with 0 calls it tells what is not theirs.

#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement")]

use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use trunkline_media::{Config, MediaNode, RecordingConfig, StoreConfig};
use trunkline_proto::media::v1::{
    self as pb, media_command::Command, media_event::Event, media_reply::Result as Reply,
};
use trunkline_telemetry::hep::Hep;
use trunkline_types::{CallId, RecordingId, ShardId, Timestamp};

const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";
/// For the last recording to be stored.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let calls: u16 = arguments.next().map_or(20, |n| n.parse().unwrap());
    let seconds: f64 = arguments.next().map_or(10.0, |s| s.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = arguments.next().map_or_else(|| folder.path().join("recordings"), Into::into);
    let config = Config {
        workers: 1,
        rtp: "24000-25999".parse().unwrap(),
        recording: RecordingConfig {
            spool: folder.path().join("spool"),
            store: StoreConfig::Folder { path: store },
            ..RecordingConfig::default()
        },
        ..Config::default()
    };
    let (events, mut told) = mpsc::channel(1_024);
    let node = MediaNode::start(config, &mut Registry::default(), events, Hep::off()).unwrap();
    let calls: Vec<_> = (0..calls)
        .map(|n| CallId::mint(ShardId::new(1).unwrap(), Timestamp::from_millis(1), u128::from(n)))
        .collect();
    for call in &calls {
        let (endpoint, sdp) = ("a".to_owned(), SDP.into());
        let create = pb::CreateRtpEndpoint { endpoint, sdp, ..Default::default() };
        ok(&node, *call, 1, Command::CreateRtp(create)).await;
        let (tenant, left, right) = ("default".into(), "a".into(), "b".into());
        let start = pb::StartRecording { recording_id: id(*call), tenant, left, right };
        ok(&node, *call, 2, Command::StartRecording(start)).await;
    }
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    for call in &calls {
        ok(&node, *call, 3, Command::StopRecording(pb::StopRecording { recording_id: id(*call) })).await;
    }
    let mut left = calls.len();
    while left > 0 {
        let event = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        left -= usize::from(matches!(event.event, Some(Event::RecordingFinished(_))));
        let taken = Command::AcknowledgeEvents(pb::AcknowledgeEvents { event_ids: vec![event.event_id] });
        ok(&node, event.call_id.parse().unwrap(), 0, taken).await;
    }
    let spool = folder.path().join("spool");
    while std::fs::read_dir(&spool).unwrap().next().is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.shutdown().await;
}

fn id(call: CallId) -> String {
    RecordingId { call, index: 0 }.to_string()
}

async fn ok(node: &MediaNode, call: CallId, command_id: u64, command: Command) {
    let command = pb::MediaCommand {
        call_id: call.to_string(),
        shard: 1,
        epoch: 1,
        command_id,
        acknowledges_events: true,
        tenant: "default".into(),
        command: Some(command),
    };
    let reply = node.command(command).await;
    assert!(matches!(reply.result, Some(Reply::Ok(_))), "{reply:?}");
}
