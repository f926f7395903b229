//! The hand-off to a recogniser that listens, one that stalls, one that is dead, and none.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod support;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use support::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use trunkline_media::TranscriptionConfig;
use trunkline_media_core::codec::Codec;
use trunkline_proto::media::v1::{
    self as pb, media_command::Command, media_event::Event, transcript_status::State,
};
use trunkline_proto::transcription::v1 as wire;
use trunkline_proto::transcription::v1::transcription_server::{Transcription, TranscriptionServer};
use trunkline_proto::transcription::v1::{transcribe_request, transcribe_response};

#[derive(Clone, Default)]
struct Recogniser {
    heard: Arc<Mutex<Vec<wire::TranscribeRequest>>>,
    /// Reads nothing after the configuration until this is true.
    stalled: Option<Arc<std::sync::atomic::AtomicBool>>,
}

fn say(message: transcribe_response::Message) -> Result<wire::TranscribeResponse, Status> {
    Ok(wire::TranscribeResponse { message: Some(message) })
}

#[tonic::async_trait]
impl Transcription for Recogniser {
    type TranscribeStream = Pin<Box<dyn Stream<Item = Result<wire::TranscribeResponse, Status>> + Send>>;

    async fn transcribe(
        &self,
        request: Request<Streaming<wire::TranscribeRequest>>,
    ) -> Result<Response<Self::TranscribeStream>, Status> {
        let (sender, answers) = mpsc::channel(64);
        let (heard, stalled) = (self.heard.clone(), self.stalled.clone());
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(message)) = requests.next().await {
                let answer = match &message.message {
                    Some(transcribe_request::Message::Config(_)) => {
                        Some(transcribe_response::Message::Accepted(wire::Accepted {
                            recogniser: "ear 1".into(),
                            ..Default::default()
                        }))
                    }
                    Some(transcribe_request::Message::Audio(audio)) if audio.sequence == 5 => {
                        Some(segment(audio.start_ms, "hel", false))
                    }
                    Some(transcribe_request::Message::EndOfAudio(end)) => {
                        Some(segment(end.end_ms, "hello", true))
                    }
                    _ => None,
                };
                heard.lock().push(message);
                if let Some(answer) = answer {
                    let _ = sender.send(say(answer)).await;
                }
                while stalled.as_ref().is_some_and(|s| s.load(std::sync::atomic::Ordering::Relaxed)) {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn segment(end_ms: u64, text: &str, is_final: bool) -> transcribe_response::Message {
    transcribe_response::Message::Segment(wire::Segment {
        segment_id: "s1".into(),
        channel: 1,
        start_ms: 0,
        end_ms,
        text: text.into(),
        is_final,
        ..Default::default()
    })
}

async fn serve(recogniser: Recogniser) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        // A small window, so that a recogniser that does not read is felt soon.
        .initial_stream_window_size(Some(65_535))
        .add_service(TranscriptionServer::new(recogniser))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    address
}

fn with_recogniser(address: SocketAddr, attempts: u32) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let transcription = TranscriptionConfig {
        endpoint: format!("http://{address}"),
        connect_timeout_ms: 1_000,
        drain_timeout_ms: 3_000,
        attempts,
    };
    let config = trunkline_media::Config { transcription: Some(transcription), ..config(&folder) };
    Bench::with(folder, config)
}

fn start() -> Command {
    Command::StartTranscription(pb::StartTranscription {
        transcription_id: "t1".into(),
        tenant: "default".into(),
        left: "alice".into(),
        right: "bob".into(),
        language: "en-US".into(),
        phrases: vec!["trunk line".into()],
    })
}

fn stop() -> Command {
    Command::StopTranscription(pb::StopTranscription { transcription_id: "t1".into() })
}

async fn status(bench: &mut Bench, state: State) -> pb::TranscriptStatus {
    bench
        .event(&format!("{state:?}"), |e| match e {
            Event::TranscriptStatus(s) if s.state() == state => Some(s.clone()),
            _ => None,
        })
        .await
}

async fn gap(bench: &mut Bench) -> pb::TranscriptGap {
    bench
        .event("gap", |e| match e {
            Event::TranscriptGap(g) => Some(g.clone()),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn both_channels_arrive_in_step_and_segments_come_back() {
    let recogniser = Recogniser::default();
    let mut bench = with_recogniser(serve(recogniser.clone()).await, 3);
    let alice = bench.phone("alice", Codec::Pcmu).await;
    let bob = bench.phone("bob", Codec::Pcma).await;
    alice.tone(440);
    bob.tone(1_000);
    bench.ok(bridge("alice", "bob")).await;
    bench.ok(start()).await;
    assert_eq!(status(&mut bench, State::Connected).await.recogniser, "ear 1");
    let segments = |e: &Event| match e {
        Event::TranscriptSegment(s) => Some(s.clone()),
        _ => None,
    };
    let partial = bench.event("partial", segments).await;
    assert_eq!(
        (partial.text.as_str(), partial.r#final, partial.channel()),
        ("hel", false, pb::Channel::Right)
    );
    let frames = || {
        recogniser
            .heard
            .lock()
            .iter()
            .filter(|m| matches!(m.message, Some(transcribe_request::Message::Audio(_))))
            .count()
    };
    until("a second of audio", || frames() >= 12).await;
    bench.ok(stop()).await;
    let last = bench.event("final", segments).await;
    assert_eq!((last.text.as_str(), last.r#final, last.segment), ("hello", true, partial.segment));
    status(&mut bench, State::Finished).await;

    let heard = recogniser.heard.lock().clone();
    let mut channels = [Vec::new(), Vec::new()];
    let mut expected = None;
    for message in &heard {
        let Some(transcribe_request::Message::Audio(audio)) = &message.message else { continue };
        assert_eq!(expected.unwrap_or(audio.start_ms), audio.start_ms, "contiguous");
        expected = Some(audio.start_ms + 100);
        for channel in &audio.channels {
            let samples = channel.audio.chunks(2).map(|b| i16::from_le_bytes([b[0], b[1]]));
            channels[channel.channel as usize].extend(samples);
        }
    }
    let middle = 4_000..8_000;
    assert!(share(&channels[0][middle.clone()], 440) > 0.9 && share(&channels[1][middle], 1_000) > 0.9);
    assert!(
        matches!(&heard[0].message, Some(transcribe_request::Message::Config(c)) if c.phrase_hints.len() == 1)
    );
    assert!(matches!(&heard.last().unwrap().message, Some(transcribe_request::Message::EndOfAudio(_))));
}

#[tokio::test]
async fn a_dead_recogniser_leaves_a_marked_gap_and_the_talk_alone() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut bench = with_recogniser(address, 2);
    let _alice = bench.phone("alice", Codec::Pcmu).await;
    let bob = bench.phone("bob", Codec::Pcmu).await;
    bench.ok(bridge("alice", "bob")).await;
    bench.ok(start()).await;
    status(&mut bench, State::Unreachable).await;
    bob.hears(440).await;
    let failed = status(&mut bench, State::Failed).await;
    assert!(failed.message.contains("given up after 2 tries"), "{failed:?}");
    bench.ok(stop()).await;
    let gap = gap(&mut bench).await;
    assert!(gap.start_ms < 200 && gap.end_ms >= 500 && gap.reason == "recogniser unreachable", "{gap:?}");
    bob.hears(440).await;
}

#[tokio::test]
async fn a_recogniser_that_does_not_read_is_given_a_gap() {
    let stalled = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let recogniser = Recogniser { stalled: Some(stalled.clone()), ..Default::default() };
    let mut bench = with_recogniser(serve(recogniser.clone()).await, 2);
    let _alice = bench.phone("alice", Codec::Pcmu).await;
    let bob = bench.phone("bob", Codec::Pcmu).await;
    bench.ok(bridge("alice", "bob")).await;
    bench.ok(start()).await;
    status(&mut bench, State::Connected).await;
    let begun = std::time::Instant::now();
    // The stream's window (20 frames) and the queue (32) are full after about 5 s.
    until("the stall to be felt", || begun.elapsed() > std::time::Duration::from_millis(7_500)).await;
    bob.hears(440).await;
    stalled.store(false, std::sync::atomic::Ordering::Relaxed);
    let gap = gap(&mut bench).await;
    assert_eq!(gap.reason, "recogniser slow");
    let told = || {
        recogniser.heard.lock().iter().any(|m| matches!(m.message, Some(transcribe_request::Message::Gap(_))))
    };
    until("the recogniser to be told", told).await;
    bench.ok(stop()).await;
    status(&mut bench, State::Finished).await;
}

#[tokio::test]
async fn without_a_recogniser_the_transcript_says_so() {
    let mut bench = Bench::start();
    let _alice = bench.phone("alice", Codec::Pcmu).await;
    // Whoever knows this from the recording's beginning does not ask.
    let recording = pb::StartRecording {
        recording_id: trunkline_types::RecordingId { call: bench.call, index: 0 }.to_string(),
        tenant: "default".into(),
        left: "alice".into(),
        right: "bob".into(),
    };
    assert!(bench.ok(Command::StartRecording(recording)).await.no_recogniser);
    bench.ok(start()).await;
    let status = status(&mut bench, State::NoRecogniser).await;
    assert!(status.message.contains("no recogniser is configured"), "{status:?}");
}
