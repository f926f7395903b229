//! A media node by itself that another process measures: `trunkline-load relay` does. It is told what to do by lines on its
//! standard input, answers each with a line, and ends when there are no more.
//!
//! Arguments: ports for RTP, a folder for spool and store, and the milliseconds after which a recording is copied to the
//! store (0: at its end). The lines are JSON: `{"call":{"a":SDP,"b":SDP}}` makes a call with two endpoints and is answered
//! with `{"a":SDP,"b":SDP}`; `"bridge"`, `"record"` and `"music"` are done to all calls and answered with `{}`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a measurement")]

use std::path::PathBuf;
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::sync::mpsc;
use trunkline_media::{Config, MediaNode, RecordingConfig, StoreConfig};
use trunkline_proto::media::v1::{self as pb, media_command::Command, media_reply, program};
use trunkline_telemetry::hep::Hep;
use trunkline_types::{CallId, RecordingId, ShardId, Timestamp};

/// Threads that have ended are missing in the accounting of who measures this: none ends within a measurement.
const THREADS_STAY: Duration = Duration::from_secs(3_600);

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Call { a: String, b: String },
    Bridge,
    Record,
    Music,
}

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).thread_keep_alive(THREADS_STAY).enable_all().build().unwrap();
    let mut host = {
        let _runtime = runtime.enter();
        Host::start(std::env::args().skip(1))
    };
    for line in std::io::stdin().lines() {
        let order = serde_json::from_str(&line.unwrap()).unwrap();
        println!("{}", runtime.block_on(host.obey(order)));
    }
    // What is being recorded is not stored: the folder goes with who made it.
    runtime.shutdown_background();
}

struct Host {
    node: MediaNode,
    calls: Vec<CallId>,
    commands: u64,
}

impl Host {
    /// One worker, so that a packet's cost is that of a core.
    fn start(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut argument = || arguments.next().unwrap();
        let (rtp, folder, segment_ms) = (argument(), PathBuf::from(argument()), argument());
        let config = Config {
            workers: 1,
            rtp: rtp.parse().unwrap(),
            recording: RecordingConfig {
                spool: folder.join("spool"),
                store: StoreConfig::Folder { path: folder.join("recordings") },
                segment_ms: segment_ms.parse().unwrap(),
                ..RecordingConfig::default()
            },
            ..Config::default()
        };
        let (events, mut taken) = mpsc::channel(1_024);
        tokio::spawn(async move { while taken.recv().await.is_some() {} });
        let node = MediaNode::start(config, &mut Registry::default(), events, Hep::off()).unwrap();
        Self { node, calls: Vec::new(), commands: 0 }
    }

    async fn obey(&mut self, order: Order) -> serde_json::Value {
        match order {
            Order::Call { a, b } => {
                let number = self.calls.len() as u128;
                let call = CallId::mint(ShardId::new(1).unwrap(), Timestamp::from_millis(1), number);
                self.calls.push(call);
                let (a, b) = (self.endpoint(call, "a", a).await, self.endpoint(call, "b", b).await);
                return serde_json::json!({ "a": a, "b": b });
            }
            Order::Bridge => {
                let bridge = |_| [Command::Bridge(pb::Bridge { a: "a".into(), b: "b".into() })];
                self.of_all(bridge).await;
            }
            Order::Record => self.of_all(|call| [record(call)]).await,
            Order::Music => self.of_all(|_| ["a", "b"].map(music)).await,
        }
        serde_json::json!({})
    }

    async fn endpoint(&mut self, call: CallId, endpoint: &str, sdp: String) -> String {
        let (endpoint, sdp) = (endpoint.to_owned(), sdp.into());
        let create = pb::CreateRtpEndpoint { endpoint, sdp, ..Default::default() };
        let made = self.ok(call, Command::CreateRtp(create)).await;
        String::from_utf8(made.sdp.to_vec()).unwrap()
    }

    async fn of_all<const N: usize>(&mut self, commands: impl Fn(CallId) -> [Command; N]) {
        for call in self.calls.clone() {
            for command in commands(call) {
                self.ok(call, command).await;
            }
        }
    }

    async fn ok(&mut self, call: CallId, command: Command) -> pb::MediaOk {
        self.commands += 1;
        let command = pb::MediaCommand {
            call_id: call.to_string(),
            shard: 1,
            epoch: 1,
            command_id: self.commands,
            acknowledges_events: false,
            tenant: "default".into(),
            command: Some(command),
        };
        match self.node.command(command).await.result {
            Some(media_reply::Result::Ok(ok)) => ok,
            other => panic!("{other:?}"),
        }
    }
}

/// In stereo, a party each side.
fn record(call: CallId) -> Command {
    let recording_id = RecordingId { call, index: 0 }.to_string();
    let (tenant, left, right) = ("default".into(), "a".into(), "b".into());
    Command::StartRecording(pb::StartRecording { recording_id, tenant, left, right })
}

fn music(endpoint: &str) -> Command {
    let music = pb::Program { kind: Some(program::Kind::Music(pb::Music { name: "hold".into() })) };
    Command::SetProgram(pb::SetProgram { endpoint: endpoint.into(), program: Some(music) })
}
