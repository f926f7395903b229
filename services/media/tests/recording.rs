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
    bench.ok(start(&bench)).await;
    bench.event("started", |e| matches!(e, Event::RecordingStarted(_)).then_some(())).await;
    assert_eq!(
        bench.reply(start(&bench)).await.result,
        Some(pb::media_reply::Result::Ok(pb::MediaOk::default()))
    );
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
    let pause = &finished.spans[1];
    let silent = pause.start_ms as usize * 8 + 320..pause.end_ms as usize * 8 - 320;
    assert!(silent.len() > 2_400 && left[silent.clone()].iter().chain(&right[silent]).all(|s| *s == 0));
    assert!(share(&left[left.len() - 3_200..], 440) > 0.9, "recorded again after the pause");
    assert_eq!(
        std::fs::read_dir(bench.folder.path().join("spool")).unwrap().count(),
        0,
        "the spool is empty"
    );
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
    let failed = bench
        .event("failure", |e| match e {
            Event::RecordingFailed(f) => Some(f.clone()),
            _ => None,
        })
        .await;
    assert_eq!(failed.recording_id, recording_id(&bench));
    bob.hears(440).await;
    drop(alice);
    let wrong =
        Command::StartRecording(pb::StartRecording { recording_id: "x".into(), ..Default::default() });
    assert_eq!(bench.refused(wrong).await, Kind::Invalid);
}
