//! A crash at every step: a recording is made from its beginning until nothing is left of it but the object, and what is on
//! the disk before each change is kept. From each of these moments, the node starts again, another node takes the recording
//! on, and the first one comes back after that. Whatever was on the disk is stored then, whole, once, under its marks.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use trunkline_media_core::codec::Codec;
use trunkline_media_core::wav;
use trunkline_proto::media::v1::{self as pb, media_event::Event};
use trunkline_types::{CallId, RecordingId, ShardId, TenantId, Timestamp};

use super::{Meta, Recorder};
use crate::clock::Clock;
use crate::config::{RecordingConfig, StoreConfig};
use crate::events::{Acknowledged, Sink};
use crate::metrics::Metrics;
use crate::owners::Owners;
use crate::tap::tap;

const PATIENCE: Duration = Duration::from_secs(20);
const HEADER: usize = wav::HEADER_BYTES;

/// What the walk sees; one at a time.
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);
static LINKS: AtomicBool = AtomicBool::new(true);

pub(super) struct Watch {
    /// The node's folders.
    root: PathBuf,
    /// Copies of them go here.
    moments: PathBuf,
    /// What would have been done next.
    next: Vec<&'static str>,
}

/// Before each change; nothing else changes while it is held.
pub(super) fn step(what: &'static str) -> MutexGuard<'static, Option<Watch>> {
    let mut watch = WATCH.lock();
    if let Some(watch) = watch.as_mut() {
        copy(&watch.root, &watch.moments.join(watch.next.len().to_string()), &mut HashMap::new());
        watch.next.push(what);
    }
    watch
}

pub(super) fn may_link() -> io::Result<()> {
    if LINKS.load(Ordering::SeqCst) { Ok(()) } else { Err(io::ErrorKind::CrossesDevices.into()) }
}

/// With files that have two names keeping them.
fn copy(from: &Path, to: &Path, seen: &mut HashMap<u64, PathBuf>) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target, seen);
        } else if let Some(first) = seen.get(&entry.metadata().unwrap().ino()) {
            std::fs::hard_link(first, target).unwrap();
        } else {
            std::fs::copy(&path, &target).unwrap();
            seen.insert(entry.metadata().unwrap().ino(), target);
        }
    }
}

/// A node from its start to its death.
struct Life {
    recorder: Option<Recorder>,
    sink: Sink,
    events: mpsc::Receiver<pb::MediaEvent>,
    clock: Clock,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.recorder = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Life {
    fn begin(root: &Path, segment_ms: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let (sender, events) = mpsc::channel(64);
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let handle = runtime.handle().clone();
        let _inside = handle.enter();
        let (sink, Acknowledged { recordings, .. }) =
            Sink::start(&handle, clock, metrics.clone(), Arc::new(Owners::new()), sender);
        let config = RecordingConfig {
            spool: root.join("spool"),
            store: StoreConfig::Folder { path: root.join("recordings") },
            segment_ms,
            ..RecordingConfig::default()
        };
        let recorder =
            Recorder::start(&config, clock, sink.clone(), metrics, handle.clone(), recordings).unwrap();
        Self { recorder: Some(recorder), sink, events, clock, runtime: Some(runtime) }
    }

    fn recorder(&self) -> &Recorder {
        self.recorder.as_ref().unwrap()
    }

    /// What is told of the recording, taken as a call does.
    fn outcome(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let runtime = self.runtime.as_ref().unwrap();
            let next = runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(1), self.events.recv()).await });
            let Ok(Some(told)) = next else { continue };
            self.sink.acknowledge(told.call_id.parse().unwrap(), vec![told.event_id]);
            let event = told.event.unwrap();
            if matches!(event, Event::RecordingFinished(_) | Event::RecordingFailed(_)) {
                return event;
            }
        }
        panic!("no outcome is told");
    }

    /// Everything is tidied up, and nothing more is told.
    fn ends(&mut self, root: &Path, what: &str) {
        let left = || -> Vec<PathBuf> {
            let folders = [root.join("spool"), root.join("recordings/default")];
            let names = folders.iter().flat_map(|f| std::fs::read_dir(f).into_iter().flatten().flatten());
            names.map(|e| e.path()).filter(|p| p.parent().unwrap().ends_with("spool") || p.is_dir()).collect()
        };
        until(&format!("{what}: nothing is left beside the object"), || left().is_empty(), left);
        let again = std::iter::from_fn(|| self.events.try_recv().ok()).collect::<Vec<_>>();
        assert!(again.is_empty(), "{what}: told once more: {again:?}");
    }
}

fn until(what: &str, done: impl Fn() -> bool, state: impl Fn() -> Vec<PathBuf>) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: {:?}", state());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ids() -> (RecordingId, ShardId, TenantId) {
    let shard = ShardId::new(2_000).unwrap();
    let call = CallId::mint(shard, Timestamp::from_millis(1_795_000_000_000), 77);
    (RecordingId { call, index: 0 }, shard, "default".parse().unwrap())
}

/// Two parties who speak for so long, with a hold from the first to the second share of it.
fn record(life: &Life, packets: u32, hold: Option<(u32, u32)>) {
    let (recording, shard, tenant) = ids();
    let (mut left, reader) = tap("a", "b");
    let start = life.clock.timestamp();
    life.recorder().begin(Meta::new(recording, shard, tenant, start), reader).unwrap();
    for n in 0..packets {
        let at = start + Duration::from_millis(20) * n;
        // In step with the clock, as telephones are.
        while life.clock.timestamp() < at {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some((from, to)) = hold
            && (n == from || n == to)
        {
            left.hold(at, n == from);
        }
        let payload: Vec<u8> = (0..160u32).map(|i| (n * 7 + i * 3) as u8).collect();
        left.audio(0, Codec::Pcmu, 1, n * 160, at, &payload);
        left.audio(1, Codec::Pcma, 2, n * 160, at, &payload);
    }
    left.stop(start + Duration::from_millis(20) * packets);
}

/// What is on the disk of one moment.
struct Moment {
    /// Bytes of audio in the spool.
    spooled: Option<usize>,
    /// What is beside it, and how many marks that has.
    beside: Option<usize>,
    /// Bytes of audio in parts.
    parts: usize,
    /// Marks in the manifest.
    manifest: Option<usize>,
    object: Option<Vec<u8>>,
}

impl Moment {
    fn read(root: &Path) -> Self {
        let id = ids().0;
        let parts = root.join(format!("recordings/default/{id}.parts"));
        let length = |path: PathBuf| std::fs::metadata(path).ok().map(|m| m.len() as usize);
        let marks = |path: PathBuf| {
            let value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
            let count = |key: &str| value[key].as_array().map_or(0, Vec::len);
            Some(count("spans") + count("open"))
        };
        Self {
            spooled: length(root.join(format!("spool/{id}.wav"))).map(|l| l.saturating_sub(HEADER) / 4 * 4),
            beside: marks(root.join(format!("spool/{id}.json"))),
            parts: length(parts.join("000000000000.pcm")).unwrap_or(0) / 4 * 4,
            manifest: marks(parts.join("manifest.json")),
            object: object(root),
        }
    }
}

fn object(root: &Path) -> Option<Vec<u8>> {
    std::fs::read(root.join(format!("recordings/default/{}.wav", ids().0))).ok()
}

/// The object is what it was, or else so many bytes of what was said; and it is what was told.
fn check(
    root: &Path,
    told: &Event,
    before: Option<&Vec<u8>>,
    bytes: usize,
    marks: usize,
    all: &[u8],
    what: &str,
) {
    let now = object(root);
    match told {
        Event::RecordingFinished(told) => {
            let now = now.unwrap_or_else(|| panic!("{what}: told, and not there"));
            if let Some(before) = before {
                assert!(now == *before, "{what}: another object in its place");
            } else {
                assert_eq!(now[..HEADER], wav::header(2, 8_000, bytes as u64), "{what}: the length");
                assert!(now[HEADER..] == all[HEADER..HEADER + bytes], "{what}: not what was said");
            }
            assert_eq!(told.bytes, now.len() as u64, "{what}");
            assert_eq!(told.spans.len(), marks, "{what}: {told:?}");
        }
        Event::RecordingFailed(failed) => {
            assert!(before.is_none() && bytes == 0, "{what}: lost: {failed:?}");
            assert!(now.is_none(), "{what}: {failed:?}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// The node starts again at this moment.
fn starts_again(root: &Path, all: &[u8], what: &str) {
    let moment = Moment::read(root);
    let mut life = Life::begin(root, 200);
    if let Some(marks) = moment.beside {
        let bytes = moment.spooled.filter(|bytes| *bytes > 0).unwrap_or(moment.parts);
        let told = life.outcome();
        check(root, &told, moment.object.as_ref(), bytes, marks, all, what);
    } else {
        assert!(moment.spooled.is_none(), "{what}: audio of nobody");
    }
    life.ends(root, what);
}

/// Another node takes it on at this moment; then the first one comes back.
fn is_taken_on(root: &Path, other: &Path, all: &[u8], what: &str) {
    let moment = Moment::read(root);
    copy(&root.join("recordings"), &other.join("recordings"), &mut HashMap::new());
    let (recording, _, tenant) = ids();
    let mut life = Life::begin(other, 200);
    life.recorder().salvage(recording, tenant, "first").unwrap();
    let told = life.outcome();
    let marks = moment.manifest.unwrap_or(0);
    check(other, &told, moment.object.as_ref(), moment.parts, marks, all, what);
    if let Event::RecordingFinished(told) = &told {
        assert!(told.salvaged, "{what}");
    }
    if moment.object.is_some() || moment.parts > 0 {
        life.ends(other, what);
    }
    drop(life);
    // The first one finds the other's work in the store.
    let made = object(other);
    std::fs::remove_dir_all(root.join("recordings")).unwrap();
    std::fs::rename(other.join("recordings"), root.join("recordings")).unwrap();
    let mut life = Life::begin(root, 200);
    if let Some(marks) = moment.beside {
        let bytes = moment.spooled.unwrap_or(0);
        let told = life.outcome();
        check(root, &told, made.as_ref(), bytes, marks, all, what);
    }
    life.ends(root, what);
}

/// Walks through all steps of a recording; gives their names.
fn walk(packets: u32, hold: Option<(u32, u32)>, segment_ms: u64, links: bool) -> Vec<&'static str> {
    let folder = tempfile::tempdir().unwrap();
    let (root, moments) = (folder.path().join("node"), folder.path().join("moments"));
    std::fs::create_dir_all(&root).unwrap();
    LINKS.store(links, Ordering::SeqCst);
    let mut life = Life::begin(&root, segment_ms);
    *WATCH.lock() = Some(Watch { root: root.clone(), moments: moments.clone(), next: Vec::new() });
    record(&life, packets, hold);
    let told = life.outcome();
    let all = object(&root).unwrap();
    life.ends(&root, "the first life");
    drop(life);
    let next = WATCH.lock().take().unwrap().next;
    let Event::RecordingFinished(told) = told else { panic!("{told:?}") };
    assert!(!told.salvaged && told.bytes == all.len() as u64, "{told:?}");
    assert_eq!(told.spans.len(), usize::from(hold.is_some()), "{told:?}");
    assert_eq!(told.duration_ms, u64::from(packets) * 20, "{told:?}");
    assert!(all[HEADER..].chunks(640).all(|packet| packet.iter().any(|b| *b != 0)), "it was said");

    for (n, name) in next.iter().enumerate() {
        let what = format!("crash before step {n} ({name}) of {next:?}");
        let moment = moments.join(n.to_string());
        let second = folder.path().join("second").join(n.to_string());
        copy(&moment, &second, &mut HashMap::new());
        starts_again(&moment, &all, &what);
        is_taken_on(&second, &folder.path().join("other").join(n.to_string()), &all, &what);
    }
    next
}

#[test]
fn a_crash_at_any_step_leaves_a_recording_that_is_stored_whole_once_under_its_marks() {
    // One that ends before its first part: nothing in the store but the object.
    let short = walk(10, None, 10_000, true);
    assert!(!short.contains(&"open a part") && !short.contains(&"rename"), "{short:?}");
    // Parts, marks, all of it linked into the store.
    let linked = walk(55, Some((24, 32)), 200, true);
    let count = |steps: &[&str], name: &str| steps.iter().filter(|step| **step == name).count();
    assert!(count(&linked, "open a part") >= 1 && count(&linked, "link") == 1, "{linked:?}");
    // The same into a store on another file system.
    let copied = walk(55, Some((24, 32)), 200, false);
    assert!(count(&copied, "open a part") >= 1 && count(&copied, "link") == 1, "{copied:?}");
    LINKS.store(true, Ordering::SeqCst);
}
