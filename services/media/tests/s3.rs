//! Recordings over the S3 protocol, against a server of it in this process: stored, read in ranges, copied in parts while
//! they are made, salvaged by another node, and refused with a reason that says what to do.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use object_store::{ObjectStoreExt, path::Path};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use sha2::{Digest, Sha256};
use support::*;
use trunkline_media::{Config, StoreConfig};
use trunkline_media_core::codec::Codec;
use trunkline_proto::media::v1::{self as pb, media_command::Command, media_event::Event};
use trunkline_types::RecordingId;

const KEY: &str = "trunkline-media";
const SECRET: &str = "correct horse battery staple";

/// A server of the protocol with one bucket in a folder.
struct Server {
    address: SocketAddr,
    folder: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("calls")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { address, folder, task }
    }

    fn store(&self, bucket: &str, secret: &str) -> StoreConfig {
        StoreConfig::S3 {
            bucket: bucket.into(),
            prefix: "site-a".into(),
            region: "us-east-1".into(),
            endpoint: Some(format!("http://{}", self.address)),
            access_key_id: Some(KEY.into()),
            secret_access_key: Some(secret.into()),
            allow_http: true,
        }
    }

    fn bench(&self, secret: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let mut config: Config = config(&folder);
        config.recording.store = self.store("calls", secret);
        Bench::with(folder, config)
    }

    /// Names of the objects of the tenant, without the recording's id.
    fn objects(&self, id: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("calls/site-a/default")];
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()) {
                if path.is_dir() { folders.push(path) } else { found.push(name(&path, id)) }
            }
        }
        found.sort();
        found
    }
}

fn name(path: &std::path::Path, id: &str) -> String {
    let text = path.display().to_string();
    text.rsplit_once(id).map_or(text.clone(), |(_, rest)| rest.to_owned())
}

fn recording_id(bench: &Bench) -> String {
    RecordingId { call: bench.call, index: 0 }.to_string()
}

async fn record(bench: &Bench) {
    let command = pb::StartRecording {
        recording_id: recording_id(bench),
        tenant: "default".into(),
        left: "alice".into(),
        right: "bob".into(),
    };
    bench.ok(Command::StartRecording(command)).await;
}

async fn finished(bench: &mut Bench) -> pb::RecordingFinished {
    let outcome = |e: &Event| match e {
        Event::RecordingFinished(f) => Some(f.clone()),
        _ => None,
    };
    bench.event("recording", outcome).await
}

async fn stop(bench: &Bench) {
    bench.ok(Command::StopRecording(pb::StopRecording { recording_id: recording_id(bench) })).await;
}

#[tokio::test]
async fn a_recording_is_stored_whole_read_in_ranges_and_leaves_nothing_beside_it() {
    let server = Server::start().await;
    let mut bench = server.bench(SECRET);
    let _alice = bench.phone("alice", Codec::Pcmu).await;
    record(&bench).await;
    let id = recording_id(&bench);
    until("parts", || server.objects(&id).iter().filter(|o| o.ends_with(".pcm")).count() >= 2).await;
    assert!(server.objects(&id).contains(&".parts/manifest.json".to_owned()), "{:?}", server.objects(&id));
    stop(&bench).await;
    let finished = finished(&mut bench).await;
    assert!(finished.duration_ms > 1_500 && !finished.salvaged, "{finished:?}");

    let reader = server.store("calls", SECRET).open().unwrap();
    let key = Path::from(finished.key.clone());
    let whole = reader.get(&key).await.unwrap().bytes().await.unwrap();
    assert_eq!(whole.len() as u64, finished.bytes);
    assert_eq!(Sha256::digest(&whole).as_slice(), &finished.sha256[..]);
    let range = reader.get_range(&key, 1_044..5_044).await.unwrap();
    assert_eq!(range, whole.slice(1_044..5_044), "a player that seeks");
    let samples: Vec<i16> =
        hound::WavReader::new(&whole[..]).unwrap().samples().map(Result::unwrap).step_by(2).collect();
    assert!(share(&samples[4_000..], 440) > 0.9);
    until("nothing beside it", || server.objects(&id) == [".wav"]).await;
    assert_eq!(bench.metric("recording_failing{stage=\"store\"}"), 0.0);
}

#[tokio::test]
async fn another_node_salvages_it_and_the_first_one_does_not_replace_it() {
    let server = Server::start().await;
    let (mut cut_off, mut other) = (server.bench(SECRET), server.bench(SECRET));
    other.call = cut_off.call;
    let id = recording_id(&cut_off);
    let _alice = cut_off.phone("alice", Codec::Pcmu).await;
    record(&cut_off).await;
    until("parts", || server.objects(&id).iter().filter(|o| o.ends_with(".pcm")).count() >= 2).await;
    let command =
        pb::SalvageRecording { recording_id: id.clone(), tenant: "default".into(), node: "n1".into() };
    other.ok(Command::SalvageRecording(command)).await;
    let salvaged = finished(&mut other).await;
    assert!(salvaged.salvaged && salvaged.duration_ms >= 900 && salvaged.started_at_us > 0, "{salvaged:?}");
    // The first node was only cut off from its call, and ends in its own time.
    stop(&cut_off).await;
    let told = finished(&mut cut_off).await;
    assert_eq!((told.bytes, told.sha256), (salvaged.bytes, salvaged.sha256), "what is told is what is there");
    until("nothing beside it", || server.objects(&id) == [".wav"]).await;
}

#[tokio::test]
async fn wrong_credentials_are_said_at_once_and_cost_no_call() {
    let server = Server::start().await;
    let problem = server.store("calls", "wrong").check().await.unwrap_err();
    assert!(problem.contains("S3 bucket calls") && problem.contains("secret_access_key"), "{problem}");
    assert!(!problem.contains(SECRET) && !problem.contains("wrong\""), "no secret in a message: {problem}");
    assert_eq!(server.store("calls", SECRET).check().await, Ok(()));

    let mut bench = server.bench("wrong");
    let alarm = std::time::Instant::now();
    until("the alarm", || bench.metric("recording_failing{stage=\"store\"}") >= 1.0).await;
    assert!(alarm.elapsed() < Duration::from_secs(10));
    let alice = bench.phone("alice", Codec::Pcmu).await;
    let bob = bench.phone("bob", Codec::Pcmu).await;
    record(&bench).await;
    bench.ok(bridge("alice", "bob")).await;
    tokio::join!(alice.hears(440), bob.hears(440));
    stop(&bench).await;
    // The audio waits on the node's own disk.
    let spool = bench.folder.path().join(format!("spool/{}.wav", recording_id(&bench)));
    assert!(spool.is_file());
    assert!(bench.others().iter().all(|e| !matches!(e.event, Some(Event::RecordingFinished(_)))));
}
