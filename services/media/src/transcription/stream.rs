//! One stream to the recogniser, and what goes on between streams.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use trunkline_proto::media::v1::{self as pb, media_event::Event, transcript_status::State};
use trunkline_proto::transcription::v1 as wire;
use trunkline_proto::transcription::v1::transcription_client::TranscriptionClient;
use trunkline_proto::transcription::v1::{transcribe_request, transcribe_response};

use super::audio::{CHUNK_MS, Chunk, Feed, Missing, Why};
use super::{Order, status};
use crate::clock::Clock;
use crate::config::TranscriptionConfig;
use crate::events::Sink;
use crate::tap::TapReader;

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

/// A transcription over the life of its streams.
pub(super) struct Run {
    order: Order,
    feed: Feed,
    sink: Sink,
    config: TranscriptionConfig,
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
        let feed = Feed::new(&order, reader, clock);
        Self {
            order,
            feed,
            sink,
            config,
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
                    let chunks = self.feed.read();
                    for chunk in chunks {
                        self.offer(&sender, chunk);
                    }
                    if self.feed.ended {
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
        let end_ms = self.feed.end_ms();
        let mut last = VecDeque::new();
        while let Some(gap) = self.tell_gap() {
            last.push_back(gap);
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
        // Room for the gaps and the audio after them.
        let room = sender.capacity() > self.feed.gaps.len().min(QUEUE - 1);
        if why.is_some() || !room {
            return self.feed.gaps.add(chunk.start_ms, chunk.start_ms + CHUNK_MS, why.unwrap_or(Why::Slow));
        }
        while let Some(gap) = self.tell_gap() {
            let _ = sender.try_send(gap);
        }
        let channels = (0..)
            .zip(chunk.audio)
            .map(|(channel, audio)| wire::ChannelAudio { channel, audio: audio.into() });
        let frame = wire::AudioFrame { sequence, start_ms: chunk.start_ms, channels: channels.collect() };
        if sender.try_send(request(transcribe_request::Message::Audio(frame))).is_err() {
            self.feed.gaps.add(chunk.start_ms, chunk.start_ms + CHUNK_MS, Why::Slow);
        }
    }

    /// Tells the call of the next gap, and gives what the recogniser is to be told.
    fn tell_gap(&mut self) -> Option<wire::TranscribeRequest> {
        let Missing { start_ms, end_ms, why } = self.feed.gaps.take()?;
        let transcription_id = self.order.id.clone();
        let gap = pb::TranscriptGap { transcription_id, start_ms, end_ms, reason: why.text().to_owned() };
        self.sink.emit(&self.order.owner, Event::TranscriptGap(gap));
        self.gaps += 1;
        let gap = wire::Gap {
            gap_id: self.gaps,
            start_ms,
            end_ms,
            channels: Vec::new(),
            reason: why.wire() as i32,
        };
        Some(request(transcribe_request::Message::Gap(gap)))
    }

    /// Tells the call of everything that is missing, without a recogniser.
    pub(super) fn tell_gaps(&mut self) {
        while self.tell_gap().is_some() {}
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
        let chunks = self.feed.read();
        for chunk in chunks {
            let why = if chunk.paused { Why::Paused } else { Why::Disconnected };
            self.feed.gaps.add(chunk.start_ms, chunk.start_ms + CHUNK_MS, why);
        }
    }

    /// Waits between streams; `true`: the call ended meanwhile.
    pub(super) async fn wait(&mut self, pause: Duration) -> bool {
        let until = tokio::time::Instant::now() + pause;
        while tokio::time::Instant::now() < until && !self.feed.ended {
            tokio::time::sleep(TURN.min(pause)).await;
            self.discard();
        }
        self.feed.ended
    }

    /// No recogniser any more: everything until the end of the call is one gap.
    pub(super) async fn give_up(&mut self) {
        while !self.feed.ended {
            tokio::time::sleep(TURN).await;
            self.discard();
        }
        self.tell_gaps();
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
        self.sink.emit(&self.order.owner, Event::TranscriptSegment(event));
    }
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
