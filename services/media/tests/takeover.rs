//! The node outlives whoever commands it: talk and music go on without an owner, and the next one finds everything.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod support;

use std::time::Duration;

use support::*;
use trunkline_media::Config;
use trunkline_media_core::codec::Codec;
use trunkline_proto::media::v1::{
    self as pb, media_command::Command, media_event::Event, media_failure::Kind, media_reply, program,
    session_ended::Reason,
};

async fn list(bench: &Bench) -> Vec<pb::SessionInfo> {
    let list = Command::ListSessions(pb::ListSessions { shard: 7 });
    let command = pb::MediaCommand { call_id: String::new(), ..bench.message(1, bench.epoch, list) };
    let reply = bench.node.command(command).await;
    assert_eq!(reply.call_id, "", "the list is of a shard");
    match reply.result {
        Some(media_reply::Result::Ok(ok)) => ok.sessions,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn audio_goes_on_without_an_owner_and_the_next_one_takes_over() {
    let mut bench = Bench::start();
    let (alice, bob) = (bench.phone("alice", Codec::Pcmu).await, bench.phone("bob", Codec::Pcma).await);
    let carol = bench.phone("carol", Codec::Pcmu).await;
    bob.tone(1_000);
    carol.silent(true);
    bench.ok(bridge("alice", "bob")).await;
    bench.program("carol", music()).await;
    let recording = pb::StartRecording {
        recording_id: trunkline_types::RecordingId { call: bench.call, index: 0 }.to_string(),
        tenant: "default".into(),
        left: "alice".into(),
        right: "bob".into(),
    };
    bench.ok(Command::StartRecording(recording.clone())).await;
    tokio::join!(alice.hears(1_000), bob.hears(440));

    // The owner is gone: nobody commands, nobody takes events.
    bench.acknowledges = false;
    let (to_alice, to_bob, to_carol) =
        tokio::join!(alice.listen_for(100), bob.listen_for(100), carol.listen_for(100));
    for heard in [&to_alice, &to_bob, &to_carol] {
        assert_continuous(heard);
    }
    alice.press(5, 160_000).await;
    let is_digit = |e: &pb::MediaEvent| matches!(&e.event, Some(Event::Digit(d)) if d.digit == "5");
    let told = bench.told("the key", is_digit).await;
    assert!(told.acknowledge);

    // Another one takes over.
    bench.epoch = 2;
    let sessions = list(&bench).await;
    assert_eq!(sessions.len(), 1);
    let found = &sessions[0];
    assert_eq!((&found.call_id, &found.recording_id), (&bench.call.to_string(), &recording.recording_id));
    assert!(found.recording_started_at_us > 0 && !found.recording_paused && !found.recording_on_hold);
    let program = |name: &str| {
        let info = found.endpoints.iter().find(|e| e.endpoint == name).unwrap();
        assert!(!info.local_sdp.is_empty() && info.telephone_event, "{info:?}");
        (info.program.clone().unwrap().kind.unwrap(), info.connected)
    };
    assert_eq!(program("alice"), (program::Kind::PeerOf("bob".into()), true));
    assert_eq!(program("bob"), (program::Kind::PeerOf("alice".into()), true));
    assert_eq!(program("carol"), (music(), false));

    let again = bench.told("the key, told to the new owner", is_digit).await;
    assert_eq!((again.event_id, again.at_us), (told.event_id, told.at_us), "the same event");
    bench.acknowledges = true;
    bench.acknowledge(&again).await;
    let stale = bench.message(77, 1, bridge("alice", "carol"));
    assert_eq!(failure(&bench.node.command(stale).await), Kind::StaleEpoch);
    assert!(bench.metric("epochs_refused_total") >= 1.0);
    // What the former owner still wanted has not happened, and the new one is obeyed.
    tokio::join!(alice.hears(1_000), bob.hears(440));
    bench.program("alice", music()).await;
    assert!(level(&alice.samples(25).await) > 50.0 && list(&bench).await.len() == 1);
    bench.others();
    alice.listen_for(110).await;
    let late: Vec<_> = bench.others().into_iter().filter(is_digit).collect();
    assert!(late.is_empty(), "what was taken is told no more: {late:?}");
}

#[tokio::test]
async fn an_acknowledgement_of_a_former_owner_counts_for_nothing() {
    let mut bench = Bench::start();
    bench.acknowledges = false;
    let alice = bench.phone("alice", Codec::Pcmu).await;
    alice.press(1, 160_000).await;
    let is_digit = |e: &pb::MediaEvent| matches!(e.event, Some(Event::Digit(_)));
    let told = bench.told("the key", is_digit).await;
    bench.epoch = 5;
    list(&bench).await;
    let acknowledge = Command::AcknowledgeEvents(pb::AcknowledgeEvents { event_ids: vec![told.event_id] });
    assert_eq!(failure(&bench.node.command(bench.message(0, 4, acknowledge)).await), Kind::StaleEpoch);
    assert_eq!(bench.told("the key again", is_digit).await, told);
    assert_eq!(bench.told("and again", is_digit).await, told);
}

#[tokio::test]
async fn whose_owner_acknowledges_nothing_is_told_once() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    let ok =
        pb::MediaCommand { acknowledges_events: false, ..bench.message(50, 1, bridge("alice", "alice")) };
    assert_eq!(failure(&bench.node.command(ok).await), Kind::Invalid);
    alice.press(1, 160_000).await;
    let told = bench.told("the key", |e| matches!(e.event, Some(Event::Digit(_)))).await;
    assert!(!told.acknowledge);
    assert_eq!(bench.metric("events_repeated_total"), 0.0);
}

#[tokio::test]
async fn what_comes_after_the_end_of_its_session_makes_nothing() {
    let bench = Bench::start();
    let phone = Phone::new("127.0.0.1", Codec::Pcmu).await;
    let make = || create("alice", &phone.sdp(""));
    let close = || Command::CloseSession(pb::CloseSession {});
    let send = |id: u64, epoch: u64, command: Command| bench.node.command(bench.message(id, epoch, command));
    // The end overtakes the beginning.
    assert!(matches!(send(20, 1, close()).await.result, Some(media_reply::Result::Ok(_))));
    assert_eq!(failure(&send(10, 1, make()).await), Kind::UnknownSession);
    assert_eq!(bench.node.sessions(), 0);
    // A later one of the same owner makes a session, and so does one of the next owner, whose clock may be behind.
    assert!(matches!(send(21, 1, make()).await.result, Some(media_reply::Result::Ok(_))));
    send(22, 1, close()).await;
    assert_eq!(failure(&send(15, 1, make()).await), Kind::UnknownSession);
    assert!(matches!(send(16, 2, make()).await.result, Some(media_reply::Result::Ok(_))));
}

fn short_patience() -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { orphan_timeout_ms: 1_500, ..config(&folder) };
    (folder, config)
}

#[tokio::test]
async fn a_session_in_which_nobody_speaks_stays_as_long_as_its_call_says_so() {
    let (folder, config) = short_patience();
    let mut bench = Bench::with(folder, config);
    let alice = bench.phone("alice", Codec::Pcmu).await;
    alice.silent(true);
    for _ in 0..3 {
        bench.event("question", |e| matches!(e, Event::SessionUnattended(_)).then_some(())).await;
    }
    assert_eq!(bench.node.sessions(), 1, "three times half the orphan time, and it is still there");
    bench.acknowledges = false;
    let reason = |e: &Event| if let Event::SessionEnded(e) = e { Some(e.reason()) } else { None };
    assert_eq!(bench.event("end", reason).await, Reason::Orphaned);
    assert_eq!(bench.node.sessions(), 0);
}

#[tokio::test]
async fn a_session_in_which_somebody_speaks_never_ends_by_itself() {
    let (folder, config) = short_patience();
    let mut bench = Bench::with(folder, config);
    bench.acknowledges = false;
    let alice = bench.phone("alice", Codec::Pcmu).await;
    bench.program("alice", music()).await;
    // Three times the orphan time, by the packets that are heard.
    let heard = alice.listen_for(225).await;
    assert_continuous(&heard);
    assert_eq!(bench.node.sessions(), 1);
    let asked = bench.others().iter().any(|e| matches!(e.event, Some(Event::SessionUnattended(_))));
    assert!(asked, "a call that is over would have closed it");
}

#[tokio::test]
async fn a_node_that_drains_keeps_its_calls_and_takes_no_new_ones() {
    let bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    bench.node.drain(true);
    assert_eq!(bench.metric("draining"), 1.0);
    let bob = bench.phone("bob", Codec::Pcmu).await;
    bench.ok(bridge("alice", "bob")).await;
    tokio::join!(alice.hears(440), bob.hears(440));
    let other = {
        let phone = Phone::new("127.0.0.1", Codec::Pcmu).await;
        let call = trunkline_types::CallId::mint(bench.call.shard(), bench.call.minted_at(), 99);
        pb::MediaCommand { call_id: call.to_string(), ..bench.message(1, 1, create("x", &phone.sdp(""))) }
    };
    assert_eq!(failure(&bench.node.command(other.clone()).await), Kind::ShuttingDown);
    bench.node.drain(false);
    let again = pb::MediaCommand { command_id: 2, ..other };
    assert!(matches!(bench.node.command(again).await.result, Some(media_reply::Result::Ok(_))));
    assert_eq!(bench.node.sessions(), 2);
    tokio::time::timeout(Duration::from_secs(40), bench.node.shutdown()).await.unwrap();
}
