//! Recordings: who is on which channel, whether the two are aligned, what is marked, and what survives a crash.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use support::*;
use trunkline_media_core::codec::Codec;
use trunkline_media_core::wav;
use trunkline_proto::media::v1::{
    self as pb, media_command::Command, media_event::Event, media_failure::Kind,
};
use trunkline_types::RecordingId;

fn recording_id(bench: &Bench) -> String {
    RecordingId { call: bench.call, index: 0 }.to_string()
}

fn start(bench: &Bench) -> Command {
    Command::StartRecording(pb::StartRecording {
        recording_id: recording_id(bench),
        tenant: "default".into(),
        left: "alice".into(),
        right: "bob".into(),
    })
}

fn mark(bench: &Bench, mark: pb::mark_recording::Mark) -> Command {
    Command::MarkRecording(pb::MarkRecording { recording_id: recording_id(bench), mark: mark as i32 })
}

async fn finished(bench: &mut Bench) -> pb::RecordingFinished {
    bench
        .event("recording", |e| match e {
            Event::RecordingFinished(f) => Some(f.clone()),
            _ => None,
        })
        .await
}

fn read(bench: &Bench, finished: &pb::RecordingFinished) -> (Vec<i16>, Vec<i16>) {
    let path: PathBuf = bench.folder.path().join("recordings").join(&finished.key);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), finished.bytes);
    let mut reader = hound::WavReader::open(path).unwrap();
    assert_eq!((reader.spec().channels, reader.spec().sample_rate), (2, 8_000));
    let all: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    all.chunks(2).map(|m| (m[0], m[1])).unzip()
}

/// First sample at which the tone is there.
fn onset(samples: &[i16]) -> usize {
    samples.iter().position(|s| s.unsigned_abs() > 2_000).unwrap()
}

async fn for_ms(ms: u64) {
    let from = std::time::Instant::now();
    until("time to pass", || from.elapsed() >= Duration::from_millis(ms)).await;
}

#[tokio::test]
async fn each_party_is_on_its_channel_in_step_with_marks_and_a_silent_pause() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    alice.tone(440);
    alice.silent(true);
    let begun = bench.ok(start(&bench)).await;
    bench.event("started", |e| matches!(e, Event::RecordingStarted(_)).then_some(())).await;
    assert_eq!(bench.ok(start(&bench)).await, begun, "it runs");
    // The agent comes later and is recorded all the same.
    let bob = bench.phone("bob", Codec::Pcma).await;
    bob.tone(1_000);
    bob.silent(true);
    bench.ok(bridge("alice", "bob")).await;
    // Both begin to speak at the same moment.
    for_ms(300).await;
    alice.silent(false);
    bob.silent(false);
    for_ms(1_000).await;
    bench.ok(mark(&bench, pb::mark_recording::Mark::HoldStarted)).await;
    for_ms(300).await;
    bench.ok(mark(&bench, pb::mark_recording::Mark::HoldEnded)).await;
    let id = recording_id(&bench);
    bench
        .ok(Command::PauseRecording(pb::PauseRecording { recording_id: id.clone(), resume_after_ms: 0 }))
        .await;
    for_ms(500).await;
    bench.ok(Command::ResumeRecording(pb::ResumeRecording { recording_id: id.clone() })).await;
    for_ms(500).await;
    bench.ok(Command::StopRecording(pb::StopRecording { recording_id: id.clone() })).await;

    let finished = finished(&mut bench).await;
    let (left, right) = read(&bench, &finished);
    assert_eq!(finished.duration_ms, left.len() as u64 / 8);
    assert!((2_500..4_000).contains(&finished.duration_ms), "{finished:?}");
    let (a, b) = (onset(&left), onset(&right));
    assert!(a.abs_diff(b) <= 400, "aligned within 50 ms: {a} {b}");
    let talk = a.max(b)..a.max(b) + 6_400;
    assert!(share(&left[talk.clone()], 440) > 0.9 && share(&left[talk.clone()], 1_000) < 0.001);
    assert!(share(&right[talk.clone()], 1_000) > 0.9 && share(&right[talk], 440) < 0.001);
    let kinds: Vec<_> = finished.spans.iter().map(|s| s.kind()).collect();
    assert_eq!(kinds, [pb::span::Kind::Hold, pb::span::Kind::Paused], "{finished:?}");
    let hold = &finished.spans[0];
    let held = hold.start_ms as usize * 8 + 8..hold.end_ms as usize * 8 - 8;
    assert!(held.len() > 2_000 && right[held.clone()].iter().all(|s| *s == 0), "the agent is off the record");
    assert!(share(&left[held], 440) > 0.8, "the caller is not");
    let pause = &finished.spans[1];
    let silent = pause.start_ms as usize * 8 + 320..pause.end_ms as usize * 8 - 320;
    assert!(silent.len() > 2_400 && left[silent.clone()].iter().chain(&right[silent]).all(|s| *s == 0));
    assert!(share(&left[left.len() - 3_200..], 440) > 0.9, "recorded again after the pause");
    let left_over = |folder: &str| std::fs::read_dir(bench.folder.path().join(folder)).unwrap().count();
    until("an empty spool, and no parts beside the recording", || {
        left_over("spool") == 0 && left_over("recordings/default") == 1
    })
    .await;
}

#[tokio::test]
async fn the_end_of_the_call_and_the_shutdown_end_and_store_it() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    bench.ok(start(&bench)).await;
    for_ms(300).await;
    bench.ok(Command::CloseSession(pb::CloseSession {})).await;
    let first = finished(&mut bench).await;
    assert!(first.duration_ms >= 200 && first.sha256.len() == 32);
    drop(alice);

    let _alice = bench.phone("alice", Codec::Pcmu).await;
    let id = RecordingId { call: bench.call, index: 1 }.to_string();
    let Command::StartRecording(command) = start(&bench) else { unreachable!() };
    bench.ok(Command::StartRecording(pb::StartRecording { recording_id: id.clone(), ..command })).await;
    for_ms(200).await;
    let path = bench.folder.path().join(format!("recordings/default/{id}.wav"));
    bench.node.shutdown().await;
    assert!(hound::WavReader::open(path).unwrap().duration() > 800);
}

#[tokio::test]
async fn what_a_crash_left_is_repaired_and_stored_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let id = {
        let bench = Bench::with(tempfile::tempdir().unwrap(), config(&folder));
        let _alice = bench.phone("alice", Codec::Pcmu).await;
        bench.ok(start(&bench)).await;
        bench.ok(mark(&bench, pb::mark_recording::Mark::HoldStarted)).await;
        bench.ok(mark(&bench, pb::mark_recording::Mark::HoldEnded)).await;
        let audio = spool.join(format!("{}.wav", recording_id(&bench)));
        let grown = || std::fs::metadata(&audio).is_ok_and(|m| m.len() > 20_000);
        until("audio in the spool", grown).await;
        // The crash: what is on disk now is all there is.
        let crash = folder.path().join("crash");
        std::fs::create_dir(&crash).unwrap();
        for entry in std::fs::read_dir(&spool).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, crash.join(path.file_name().unwrap())).unwrap();
        }
        let id = recording_id(&bench);
        bench.node.shutdown().await;
        std::fs::remove_dir_all(&spool).unwrap();
        std::fs::rename(crash, &spool).unwrap();
        // Cut in the middle of a sample, as a crash may do.
        let audio = std::fs::OpenOptions::new().write(true).open(&audio).unwrap();
        audio.set_len(audio.metadata().unwrap().len() / 4 * 4 - 1).unwrap();
        id
    };
    let config = config(&folder);
    let mut bench = Bench::with(folder, config);
    let finished = finished(&mut bench).await;
    assert!(finished.salvaged && finished.recording_id == id && finished.duration_ms > 500, "{finished:?}");
    assert_eq!(finished.spans.len(), 1, "the hold was kept: {finished:?}");
    let (left, _) = read(&bench, &finished);
    assert!(share(&left[onset(&left)..], 440) > 0.8);
    assert_eq!(finished.bytes, wav::HEADER_BYTES as u64 + left.len() as u64 * 4);
}

#[tokio::test]
async fn a_disk_that_refuses_costs_the_recording_and_not_the_call() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    let bob = bench.phone("bob", Codec::Pcmu).await;
    bench.ok(bridge("alice", "bob")).await;
    let spool = bench.folder.path().join("spool");
    std::fs::remove_dir(&spool).unwrap();
    bench.ok(start(&bench)).await;
    let trouble = bench
        .event("trouble", |e| match e {
            Event::RecordingTrouble(t) => Some(t.clone()),
            _ => None,
        })
        .await;
    assert!(trouble.recording_id == recording_id(&bench) && !trouble.over, "{trouble:?}");
    bob.hears(440).await;
    assert_eq!(bench.metric("recording_failing{stage=\"spool\"}"), 1.0, "the alarm is on");
    bench.ok(Command::StopRecording(pb::StopRecording { recording_id: recording_id(&bench) })).await;
    let failed = bench
        .event("failure", |e| match e {
            Event::RecordingFailed(f) => Some(f.clone()),
            _ => None,
        })
        .await;
    assert_eq!(failed.recording_id, recording_id(&bench));
    assert_eq!(bench.metric("recording_failing{stage=\"spool\"}"), 0.0, "nothing is failing any more");
    drop(alice);
    let wrong =
        Command::StartRecording(pb::StartRecording { recording_id: "x".into(), ..Default::default() });
    assert_eq!(bench.refused(wrong).await, Kind::Invalid);
}

fn stop(bench: &Bench) -> Command {
    Command::StopRecording(pb::StopRecording { recording_id: recording_id(bench) })
}

/// Sizes of the parts that are in the store now, headers not counted.
fn parts(bench: &Bench) -> u64 {
    let folder = bench.folder.path().join(format!("recordings/default/{}.parts", recording_id(bench)));
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let files = entries.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "pcm"));
    files.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}

fn salvage(bench: &Bench, id: &str) -> Command {
    let (recording_id, tenant) = (id.to_owned(), "default".to_owned());
    let node = bench.call.to_string();
    Command::SalvageRecording(pb::SalvageRecording { recording_id, tenant, node })
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn of_a_node_that_dies_with_its_disk_another_one_has_all_but_the_last_two_seconds() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    alice.tone(440);
    bench.ok(start(&bench)).await;
    let started = std::time::Instant::now();
    bench.event("started", |e| matches!(e, Event::RecordingStarted(_)).then_some(())).await;
    bench.ok(mark(&bench, pb::mark_recording::Mark::HoldStarted)).await;
    // A busy machine may be late once; the store never lags by more than two seconds otherwise.
    let mut in_time = 0;
    for _ in 0..5 {
        for_ms(700).await;
        let copied_ms = parts(&bench) / 32;
        in_time += usize::from(copied_ms + 2_000 >= started.elapsed().as_millis() as u64 && copied_ms > 0);
    }
    assert!(in_time >= 4, "{in_time} of 5 looks found less than two seconds missing");
    // The node dies: what is in the store now is all there is.
    let second = tempfile::tempdir().unwrap();
    copy(&bench.folder.path().join("recordings"), &second.path().join("recordings"));
    let (spoken_ms, copied_ms) = (started.elapsed().as_millis() as u64, parts(&bench) / 32);

    let config = config(&second);
    let mut other = Bench::with(second, config);
    other.call = bench.call;
    let id = recording_id(&bench);
    other.ok(salvage(&other, &id)).await;
    // A call that does not take it is told again.
    other.acknowledges = false;
    finished(&mut other).await;
    other.acknowledges = true;
    let found = finished(&mut other).await;
    assert!(found.salvaged && found.recording_id == id && found.started_at_us > 0, "{found:?}");
    assert!(
        found.duration_ms <= spoken_ms && found.duration_ms + 1_000 >= copied_ms,
        "{found:?} {copied_ms}"
    );
    assert_eq!(found.spans.len(), 1, "the hold that had not ended is marked to the end: {found:?}");
    assert_eq!((found.spans[0].kind(), found.spans[0].end_ms), (pb::span::Kind::Hold, found.duration_ms));
    let (left, _) = read(&other, &found);
    assert!(share(&left[onset(&left)..], 440) > 0.9, "it plays");

    // Said again, from the call's point of view a lost reply: the same object, and nothing is left beside it.
    other.ok(salvage(&other, &id)).await;
    assert_eq!(finished(&mut other).await.sha256, found.sha256);
    let folder = other.folder.path().join("recordings/default");
    other.until("no parts", || std::fs::read_dir(&folder).unwrap().count() == 1).await;
    // The first node was only cut off: its own, longer one does not replace what the record names.
    drop(alice);
}

#[tokio::test]
async fn of_nothing_nothing_is_made() {
    let mut bench = Bench::start();
    bench.ok(salvage(&bench, &recording_id(&bench))).await;
    let failed = bench
        .event("failure", |e| match e {
            Event::RecordingFailed(f) => Some(f.clone()),
            _ => None,
        })
        .await;
    assert!(failed.message.contains("nothing"), "{failed:?}");
    assert_eq!(bench.refused(salvage(&bench, "x")).await, Kind::Invalid);
}

#[tokio::test]
async fn what_was_salvaged_meanwhile_is_not_replaced_by_the_node_that_comes_back() {
    let mut bench = Bench::start();
    let _alice = bench.phone("alice", Codec::Pcmu).await;
    bench.ok(start(&bench)).await;
    until("a part", || parts(&bench) > 16_000).await;
    let salvaged = bench.folder.path().join(format!("recordings/default/{}.wav", recording_id(&bench)));
    std::fs::write(&salvaged, b"what another node has made of the parts").unwrap();
    bench.ok(stop(&bench)).await;
    let finished = finished(&mut bench).await;
    assert_eq!(std::fs::read(&salvaged).unwrap(), b"what another node has made of the parts");
    assert_eq!(finished.bytes, 39, "what is told is what is there");
}

#[tokio::test]
async fn that_it_is_stored_is_told_until_somebody_has_taken_it_also_after_a_restart() {
    let mut bench = Bench::start();
    bench.acknowledges = false;
    let _alice = bench.phone("alice", Codec::Pcmu).await;
    bench.ok(start(&bench)).await;
    for_ms(300).await;
    bench.ok(stop(&bench)).await;
    let is_outcome = |e: &pb::MediaEvent| matches!(e.event, Some(Event::RecordingFinished(_)));
    let first = bench.told("outcome", is_outcome).await;
    let again = bench.told("the outcome again", is_outcome).await;
    assert!(first == again && first.acknowledge, "{first:?} {again:?}");
    bench.node.shutdown().await;
    let Bench { node, folder, call, .. } = bench;
    drop(node);
    let config = config(&folder);
    let mut bench = Bench::with(folder, config);
    bench.call = call;
    let spool = bench.folder.path().join("spool");
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 1, "the note, without the audio");
    let third = bench.told("outcome after the restart", is_outcome).await;
    assert_eq!(third.event, first.event);
    assert!(third.event_id > first.event_id);
    bench.acknowledge(&third).await;
    until("an empty spool", || std::fs::read_dir(&spool).unwrap().count() == 0).await;
}

/// A small file system of its own; needs the rights of an administrator.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, kib: u32) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={kib}k");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .status();
        mounted.is_ok_and(|s| s.success()).then_some(Self(path))
    }

    fn grow(&self, kib: u32) {
        let size = format!("remount,size={kib}k");
        let grown = std::process::Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap();
        assert!(grown.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_costs_a_marked_gap_and_raises_the_alarm() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path().join("spool"), 80) else {
        println!(
            "not run: mounting a small disk needs the rights of an administrator (see recording/spool.rs)"
        );
        return;
    };
    let config = config(&folder);
    let mut bench = Bench::with(folder, config);
    let alice = bench.phone("alice", Codec::Pcmu).await;
    let bob = bench.phone("bob", Codec::Pcmu).await;
    bench.ok(bridge("alice", "bob")).await;
    bench.ok(start(&bench)).await;
    let trouble =
        |over: bool| move |e: &Event| matches!(e, Event::RecordingTrouble(t) if t.over == over).then_some(());
    bench.event("trouble", trouble(false)).await;
    assert_eq!(bench.metric("recording_failing{stage=\"spool\"}"), 1.0, "the alarm is on");
    bob.hears(440).await;
    disk.grow(8_000);
    bench.event("end of the trouble", trouble(true)).await;
    assert_eq!(bench.metric("recording_failing{stage=\"spool\"}"), 0.0);
    for_ms(600).await;
    bench.ok(stop(&bench)).await;
    let finished = finished(&mut bench).await;
    let (left, _) = read(&bench, &finished);
    let gap = finished.spans.iter().find(|s| s.kind() == pb::span::Kind::Gap).unwrap();
    assert!(share(&left[gap.end_ms as usize * 8..], 440) > 0.8, "recorded again after the gap: {finished:?}");
    assert!(share(&left[onset(&left)..gap.start_ms as usize * 8], 440) > 0.8, "and before it: {finished:?}");
    drop(alice);
    bench.node.shutdown().await;
}

#[tokio::test]
async fn a_store_on_the_same_file_system_gets_a_second_name_and_one_on_another_a_copy() {
    use std::os::unix::fs::MetadataExt;
    for other in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let disk = other.then(|| SmallDisk::mount(folder.path().join("recordings"), 8_000));
        if matches!(disk, Some(None)) {
            println!("not run: mounting a disk needs the rights of an administrator");
            return;
        }
        let config = config(&folder);
        let mut bench = Bench::with(folder, config);
        bench.acknowledges = false;
        let _alice = bench.phone("alice", Codec::Pcmu).await;
        bench.ok(start(&bench)).await;
        until("a part", || parts(&bench) > 16_000).await;
        bench.ok(stop(&bench)).await;
        let is_outcome = |e: &pb::MediaEvent| matches!(e.event, Some(Event::RecordingFinished(_)));
        let told = bench.told("outcome", is_outcome).await;
        let Some(Event::RecordingFinished(finished)) = told.event.clone() else { unreachable!() };
        let (left, _) = read(&bench, &finished);
        assert!(share(&left[onset(&left)..], 440) > 0.8);
        // Nobody has taken it: what leads to it is still in the spool.
        let spooled = bench.folder.path().join(format!("spool/{}.wav", recording_id(&bench)));
        let stored = bench.folder.path().join("recordings").join(&finished.key);
        let (spooled, stored) = (spooled.metadata().unwrap(), stored.metadata().unwrap());
        let same = (spooled.dev(), spooled.ino()) == (stored.dev(), stored.ino());
        assert_eq!((same, spooled.len()), (!other, stored.len()));
        bench.acknowledges = true;
        bench.acknowledge(&told).await;
        let left_over = |folder: &str| std::fs::read_dir(bench.folder.path().join(folder)).unwrap().count();
        until("an empty spool, and no parts beside the recording", || {
            left_over("spool") == 0 && left_over("recordings/default") == 1
        })
        .await;
        bench.node.shutdown().await;
    }
}
