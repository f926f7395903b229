//! One stream to the recogniser, and what goes on between streams.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use trunkline_media_core::FRAME_SAMPLES;
use trunkline_media_core::timeline::Timeline;
use trunkline_proto::media::v1::{self as pb, media_event::Event, transcript_status::State};
use trunkline_proto::transcription::v1 as wire;
use trunkline_proto::transcription::v1::transcription_client::TranscriptionClient;
use trunkline_proto::transcription::v1::{transcribe_request, transcribe_response};
use trunkline_types::Timestamp;

use super::{Order, status};
use crate::clock::Clock;
use crate::config::TranscriptionConfig;
use crate::events::Sink;
use crate::tap::{Item, TapReader};

/// Audio in one message.
const CHUNK_SAMPLES: usize = 800;
const CHUNK_MS: u64 = 100;
/// Messages that may wait for the recogniser: 3.2 s.
const QUEUE: usize = 32;
const TURN: Duration = Duration::from_millis(100);
/// Segments that are open at once; more are forgotten by the numbering.
const MAX_SEGMENTS: usize = 1_000;

/// How a stream ended.
pub(super) enum Ended {
    /// The call is over and the recogniser has said everything.
    Finished,
    /// It will not take this call.
    Refused(String),
    /// It may work the next time.
    Broken { problem: String, accepted: bool },
}

/// Why audio did not reach the recogniser.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Slow,
    Disconnected,
    Paused,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::Slow => "recogniser slow",
            Self::Disconnected => "recogniser unreachable",
            Self::Paused => "paused",
        }
    }

    fn wire(self) -> wire::GapReason {
        match self {
            Self::Slow => wire::GapReason::BackPressure,
            Self::Disconnected => wire::GapReason::Disconnected,
            Self::Paused => wire::GapReason::Paused,
        }
    }
}

/// A transcription over the life of its streams.
pub(super) struct Run {
    order: Order,
    reader: TapReader,
    clock: Clock,
    sink: Sink,
    config: TranscriptionConfig,
    timeline: Timeline,
    /// Linear samples of both channels, from `chunk_at`.
    chunk: [Vec<u8>; 2],
    chunk_at: u64,
    /// What is missing now.
    gap: Option<(u64, u64, Why)>,
    paused: bool,
    ended: bool,
    /// Numbers of segments that may still change, by the recogniser's names.
    segments: HashMap<String, u64>,
    next_segment: u64,
    sequence: u64,
    gaps: u64,
    recogniser: String,
}

impl Run {
    pub(super) fn new(
        order: Order,
        reader: TapReader,
        clock: Clock,
        sink: Sink,
        config: TranscriptionConfig,
    ) -> Self {
        let mut timeline = Timeline::new(order.axis);
        timeline.skip_to(order.started_at);
        let chunk_at = timeline.flushed();
        Self {
            order,
            reader,
            clock,
            sink,
            config,
            timeline,
            chunk: [Vec::new(), Vec::new()],
            chunk_at,
            gap: None,
            paused: false,
            ended: false,
            segments: HashMap::new(),
            next_segment: 1,
            sequence: 0,
            gaps: 0,
            recogniser: String::new(),
        }
    }

    pub(super) fn status(&self, state: State, message: &str) {
        status(&self.sink, &self.order, state, message, &self.recogniser);
    }

    /// One stream, from the connection to its end.
    pub(super) async fn stream(&mut self, endpoint: &Endpoint) -> Ended {
        let patience = Duration::from_millis(self.config.connect_timeout_ms);
        let broken = |problem: String| Ended::Broken { problem, accepted: false };
        let connecting = tokio::time::timeout(patience, self.while_lost(endpoint.connect())).await;
        let channel: Channel = match connecting {
            Err(_) => return broken("no connection in time".into()),
            Ok(Err(error)) => return broken(error.to_string()),
            Ok(Ok(channel)) => channel,
        };
        let (sender, queue) = mpsc::channel(QUEUE);
        self.segments.clear();
        (self.sequence, self.gaps) = (0, 0);
        if sender.try_send(self.configuration()).is_err() {
            return broken("the stream is closed".into());
        }
        let mut client = TranscriptionClient::new(channel);
        let opening = async move { client.transcribe(ReceiverStream::new(queue)).await };
        let mut answers = match tokio::time::timeout(patience, self.while_lost(opening)).await {
            Err(_) => return broken("the recogniser does not answer".into()),
            Ok(Err(status)) => return ended(&status, false),
            Ok(Ok(response)) => response.into_inner(),
        };
        match tokio::time::timeout(patience, self.while_lost(answers.message())).await {
            Err(_) => return broken("the recogniser does not accept in time".into()),
            Ok(Err(status)) => return ended(&status, false),
            Ok(Ok(None)) => return broken("the recogniser ended the stream".into()),
            Ok(Ok(Some(answer))) => self.answer(answer),
        }
        self.status(State::Connected, "");
        self.talk(sender, &mut answers).await
    }

    /// Audio out, segments in, until one of them ends.
    async fn talk(
        &mut self,
        sender: mpsc::Sender<wire::TranscribeRequest>,
        answers: &mut Streaming<wire::TranscribeResponse>,
    ) -> Ended {
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.answer(answer),
                    Ok(None) => return Ended::Broken { problem: "the recogniser ended the stream".into(), accepted: true },
                    Err(status) => return ended(&status, true),
                },
                _ = turn.tick() => {
                    let chunks = self.read();
                    for chunk in chunks {
                        self.offer(&sender, chunk);
                    }
                    if self.ended {
                        return self.finish(sender, answers).await;
                    }
                }
            }
        }
    }

    /// The call is over: the rest, the end, and what the recogniser still has to say.
    async fn finish(
        &mut self,
        sender: mpsc::Sender<wire::TranscribeRequest>,
        answers: &mut Streaming<wire::TranscribeResponse>,
    ) -> Ended {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(self.config.drain_timeout_ms);
        let end_ms = self.timeline.flushed() / 8;
        let mut last = VecDeque::new();
        if let Some((start_ms, end_ms, why)) = self.take_gap() {
            last.push_back(self.gap_message(start_ms, end_ms, why));
        }
        last.push_back(request(transcribe_request::Message::EndOfAudio(wire::EndOfAudio { end_ms })));
        let mut sender = Some(sender);
        loop {
            if last.is_empty() {
                // Half-closes the stream.
                sender = None;
            }
            let room = async {
                match &sender {
                    Some(sender) => sender.reserve().await.ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                permit = room => match (permit, last.pop_front()) {
                    (Some(permit), Some(message)) => permit.send(message),
                    _ => last.clear(),
                },
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.answer(answer),
                    Ok(None) => return Ended::Finished,
                    Err(status) => return Ended::Refused(format!("the recogniser failed at the end: {}", status.message())),
                },
                () = tokio::time::sleep_until(deadline) => {
                    return Ended::Refused("the recogniser did not finish in time".into());
                }
            }
        }
    }

    /// Sends a chunk, or makes it part of the gap.
    fn offer(&mut self, sender: &mpsc::Sender<wire::TranscribeRequest>, chunk: Chunk) {
        let sequence = self.sequence;
        self.sequence += 1;
        let why = if chunk.paused { Some(Why::Paused) } else { None };
        // Room for the gap and the audio after it.
        let room = sender.capacity() >= 2;
        if why.is_some() || !room {
            return self.lose(chunk.start_ms, chunk.start_ms + CHUNK_MS, why.unwrap_or(Why::Slow));
        }
        if let Some((start_ms, end_ms, why)) = self.take_gap() {
            let gap = self.gap_message(start_ms, end_ms, why);
            let _ = sender.try_send(gap);
        }
        let channels = (0..)
            .zip(chunk.audio)
            .map(|(channel, audio)| wire::ChannelAudio { channel, audio: audio.into() });
        let frame = wire::AudioFrame { sequence, start_ms: chunk.start_ms, channels: channels.collect() };
        if sender.try_send(request(transcribe_request::Message::Audio(frame))).is_err() {
            self.lose(chunk.start_ms, chunk.start_ms + CHUNK_MS, Why::Slow);
        }
    }

    fn lose(&mut self, start_ms: u64, end_ms: u64, why: Why) {
        match &mut self.gap {
            Some((_, end, reason)) if *reason == why => *end = end_ms,
            _ => {
                // A gap of another kind is told on its own; the recogniser hears of one that covers both.
                let earlier = self.take_gap();
                self.gap = Some((earlier.map_or(start_ms, |(start, ..)| start.max(start_ms)), end_ms, why));
            }
        }
    }

    /// Ends the gap and tells the call about it.
    fn take_gap(&mut self) -> Option<(u64, u64, Why)> {
        let (start_ms, end_ms, why) = self.gap.take()?;
        let gap = pb::TranscriptGap {
            transcription_id: self.order.id.clone(),
            start_ms,
            end_ms,
            reason: why.text().to_owned(),
        };
        self.sink.emit(self.order.owner, Event::TranscriptGap(gap));
        Some((start_ms, end_ms, why))
    }

    pub(super) fn close_gap(&mut self) {
        self.take_gap();
    }

    fn gap_message(&mut self, start_ms: u64, end_ms: u64, why: Why) -> wire::TranscribeRequest {
        self.gaps += 1;
        let gap = wire::Gap {
            gap_id: self.gaps,
            start_ms,
            end_ms,
            channels: Vec::new(),
            reason: why.wire() as i32,
        };
        request(transcribe_request::Message::Gap(gap))
    }

    /// Empties the ring into the time line and gives what is complete.
    fn read(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        while let Some(item) = self.reader.next() {
            match item {
                Item::Audio(packet) => {
                    let mut samples = [0; FRAME_SAMPLES];
                    let bytes = packet.bytes();
                    packet.codec.decode_into(bytes, &mut samples);
                    self.drain(Some(packet.at), &mut chunks);
                    let channel = usize::from(packet.channel);
                    self.timeline.push(
                        channel,
                        packet.at,
                        packet.ssrc,
                        packet.timestamp,
                        &samples[..bytes.len()],
                    );
                }
                Item::Gap { from, to } => {
                    let ms = |at| self.timeline.position(at) / 8;
                    let (from, to) = (ms(from), ms(to));
                    self.lose(from, to.max(from + 1), Why::Slow);
                }
                Item::Pause { at, begins } => {
                    self.drain(Some(at), &mut chunks);
                    if begins {
                        self.timeline.pause(at);
                    } else {
                        self.timeline.resume(at);
                    }
                    self.paused = begins;
                }
                Item::Hold { .. } => {}
            }
        }
        let now = self.clock.timestamp();
        match self.reader.end(now) {
            None => self.drain(Some(now), &mut chunks),
            Some(end) => {
                self.ended = true;
                self.drain(Some(end + Duration::from_millis(400)), &mut chunks);
            }
        }
        chunks
    }

    fn drain(&mut self, until: Option<Timestamp>, chunks: &mut Vec<Chunk>) {
        let (chunk, chunk_at, paused) = (&mut self.chunk, &mut self.chunk_at, self.paused);
        let Some(until) = until else { return };
        self.timeline.drain(until, |run| {
            for moment in run {
                for (bytes, sample) in chunk.iter_mut().zip(moment) {
                    bytes.extend_from_slice(&sample.to_le_bytes());
                }
                if chunk[0].len() >= CHUNK_SAMPLES * 2 {
                    let audio = [std::mem::take(&mut chunk[0]), std::mem::take(&mut chunk[1])];
                    chunks.push(Chunk { start_ms: *chunk_at / 8, audio, paused });
                    *chunk_at += CHUNK_SAMPLES as u64;
                }
            }
        });
    }

    /// Waits for something while audio goes on and is lost.
    async fn while_lost<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut turn = tokio::time::interval(TURN);
        tokio::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return done,
                _ = turn.tick() => self.discard(),
            }
        }
    }

    fn discard(&mut self) {
        let chunks = self.read();
        for chunk in chunks {
            let why = if chunk.paused { Why::Paused } else { Why::Disconnected };
            self.lose(chunk.start_ms, chunk.start_ms + CHUNK_MS, why);
        }
    }

    /// Waits between streams; `true`: the call ended meanwhile.
    pub(super) async fn wait(&mut self, pause: Duration) -> bool {
        let until = tokio::time::Instant::now() + pause;
        while tokio::time::Instant::now() < until && !self.ended {
            tokio::time::sleep(TURN.min(pause)).await;
            self.discard();
        }
        self.ended
    }

    /// No recogniser any more: everything until the end of the call is one gap.
    pub(super) async fn give_up(&mut self) {
        while !self.ended {
            tokio::time::sleep(TURN).await;
            self.discard();
        }
        self.close_gap();
    }

    fn configuration(&self) -> wire::TranscribeRequest {
        let channel = |index, speaker: wire::Speaker, name: &str| wire::Channel {
            index,
            speaker: speaker as i32,
            name: name.to_owned(),
        };
        request(transcribe_request::Message::Config(wire::Config {
            tenant_id: self.order.tenant.to_string(),
            call_id: self.order.owner.call.to_string(),
            language: self.order.language.clone(),
            sample_rate_hz: trunkline_media_core::SAMPLE_RATE_HZ,
            encoding: wire::Encoding::Linear16 as i32,
            channels: vec![
                channel(0, wire::Speaker::Caller, "caller"),
                channel(1, wire::Speaker::Agent, "agent"),
            ],
            phrase_hints: self
                .order
                .phrases
                .iter()
                .map(|p| wire::PhraseHint { phrase: p.clone(), boost: 0.0 })
                .collect(),
            want_partials: true,
            want_words: false,
        }))
    }

    fn answer(&mut self, answer: wire::TranscribeResponse) {
        match answer.message {
            Some(transcribe_response::Message::Accepted(accepted)) => {
                self.recogniser = accepted.recogniser.chars().take(200).collect();
            }
            Some(transcribe_response::Message::Segment(segment)) => self.segment(segment),
            Some(transcribe_response::Message::Error(error)) => {
                let call_id = self.order.owner.call;
                let problem: String = error.message.chars().take(200).collect();
                tracing::warn!(%call_id, problem, "the recogniser failed on a part of the call");
            }
            _ => {}
        }
    }

    fn segment(&mut self, segment: wire::Segment) {
        let number = match self.segments.get(&segment.segment_id) {
            Some(number) => *number,
            None => {
                let number = self.next_segment;
                self.next_segment += 1;
                if self.segments.len() < MAX_SEGMENTS {
                    self.segments.insert(segment.segment_id.clone(), number);
                }
                number
            }
        };
        if segment.is_final {
            self.segments.remove(&segment.segment_id);
        }
        let channel = match segment.channel {
            0 => pb::Channel::Left,
            1 => pb::Channel::Right,
            _ => return,
        };
        let text: String = segment.text.chars().take(4_096).collect();
        let event = pb::TranscriptSegment {
            transcription_id: self.order.id.clone(),
            channel: channel as i32,
            segment: number,
            start_ms: segment.start_ms,
            end_ms: segment.end_ms,
            text,
            r#final: segment.is_final,
            confidence: segment.confidence.map_or(-1.0, f64::from),
        };
        self.sink.emit(self.order.owner, Event::TranscriptSegment(event));
    }
}

/// 100 ms of both channels.
struct Chunk {
    start_ms: u64,
    audio: [Vec<u8>; 2],
    paused: bool,
}

fn request(message: transcribe_request::Message) -> wire::TranscribeRequest {
    wire::TranscribeRequest { message: Some(message) }
}

fn ended(status: &Status, accepted: bool) -> Ended {
    let problem = format!("{:?}: {}", status.code(), status.message().chars().take(200).collect::<String>());
    match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => Ended::Refused(problem),
        _ => Ended::Broken { problem, accepted },
    }
}
