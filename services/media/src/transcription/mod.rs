//! The hand-off to a recogniser (`trunkline.transcription.v1`): one stream a call, both channels in it.
//!
//! The talk never waits: audio comes through a ring of its own, frames that the stream does not take at once become a
//! marked gap, and a recogniser that is gone is tried again a bounded number of times.

mod audio;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::transport::Endpoint;
use trunkline_proto::media::v1::{self as pb, media_event::Event, transcript_status::State};
use trunkline_types::{TenantId, Timestamp};

use self::stream::{Ended, Run};
use crate::clock::Clock;
use crate::config::TranscriptionConfig;
use crate::events::{Owner, Sink};
use crate::metrics::Metrics;
use crate::tap::TapReader;

/// Transcriptions at once.
const MOST: usize = 2_000;
/// Pause before the second try; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What a call wants.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) owner: Owner,
    pub(crate) id: String,
    pub(crate) tenant: TenantId,
    pub(crate) language: String,
    pub(crate) phrases: Vec<String>,
    /// Time 0.
    pub(crate) axis: Timestamp,
    /// When audio begins.
    pub(crate) started_at: Timestamp,
}

#[derive(Debug)]
pub(crate) struct Transcriber {
    config: Option<(TranscriptionConfig, Endpoint)>,
    clock: Clock,
    sink: Sink,
    metrics: Arc<Metrics>,
    runtime: tokio::runtime::Handle,
    running: Arc<AtomicUsize>,
}

impl Transcriber {
    pub(crate) fn new(
        config: Option<TranscriptionConfig>,
        clock: Clock,
        sink: Sink,
        metrics: Arc<Metrics>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, tonic::transport::Error> {
        let with_endpoint = |config: TranscriptionConfig| {
            let timeout = Duration::from_millis(config.connect_timeout_ms);
            let endpoint = Endpoint::from_shared(config.endpoint.clone())?.connect_timeout(timeout);
            Ok((config, endpoint))
        };
        let config = config.map(with_endpoint).transpose()?;
        Ok(Self { config, clock, sink, metrics, runtime, running: Arc::default() })
    }

    /// Whether there is anybody to listen.
    pub(crate) fn listens(&self) -> bool {
        self.config.is_some()
    }

    /// Begins a transcription. `false`: no recogniser is configured, and an event has said so.
    pub(crate) fn begin(&self, order: Order, reader: TapReader) -> Result<bool, &'static str> {
        let Some((config, endpoint)) = self.config.clone() else {
            status(
                &self.sink,
                &order,
                State::NoRecogniser,
                "no recogniser is configured (media.transcription)",
                "",
            );
            return Ok(false);
        };
        let room =
            self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < MOST).then_some(n + 1));
        if room.is_err() {
            return Err("as many transcriptions as this node takes are running");
        }
        self.metrics.transcriptions_open.inc();
        let (clock, sink, metrics, running) =
            (self.clock, self.sink.clone(), self.metrics.clone(), self.running.clone());
        self.runtime.spawn(async move {
            let run = Run::new(order, reader, clock, sink, config.clone());
            transcribe(run, config, endpoint, &metrics).await;
            metrics.transcriptions_open.dec();
            running.fetch_sub(1, Ordering::AcqRel);
        });
        Ok(true)
    }
}

/// Stream after stream until the call is over, the recogniser refuses for good, or the tries are used up.
async fn transcribe(mut run: Run, config: TranscriptionConfig, endpoint: Endpoint, metrics: &Metrics) {
    let mut failures = 0;
    let mut pause = FIRST_PAUSE;
    loop {
        match run.stream(&endpoint).await {
            Ended::Finished => return run.status(State::Finished, ""),
            Ended::Refused(problem) => {
                metrics.recogniser_failures.inc();
                run.status(State::Failed, &problem);
                return run.give_up().await;
            }
            Ended::Broken { problem, accepted } => {
                metrics.recogniser_failures.inc();
                if accepted {
                    (failures, pause) = (0, FIRST_PAUSE);
                }
                failures += 1;
                if failures >= config.attempts {
                    run.status(State::Failed, &format!("given up after {failures} tries: {problem}"));
                    return run.give_up().await;
                }
                if failures == 1 {
                    run.status(State::Unreachable, &problem);
                }
                if run.wait(pause).await {
                    run.tell_gaps();
                    return run
                        .status(State::Failed, &format!("the call ended without the recogniser: {problem}"));
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn status(sink: &Sink, order: &Order, state: State, message: &str, recogniser: &str) {
    let status = pb::TranscriptStatus {
        transcription_id: order.id.clone(),
        state: state as i32,
        message: message.to_owned(),
        recogniser: recogniser.to_owned(),
        started_at_us: order.axis.as_micros(),
        lag_ms: 0,
    };
    sink.emit(&order.owner, Event::TranscriptStatus(status));
}
