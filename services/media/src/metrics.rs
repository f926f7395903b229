//! Metrics of the media role.

use std::{fmt::Write, sync::atomic::AtomicU64};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::Registry;

/// Kinds of endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Plain RTP.
    Rtp,
    /// A browser.
    Webrtc,
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Rtp => "rtp",
            Self::Webrtc => "webrtc",
        })
    }
}

/// Label `kind`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct KindLabel {
    /// Kind of endpoint.
    pub kind: Kind,
}

/// Outcomes of recordings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Stored.
    Stored,
    /// Found after a crash and stored.
    Salvaged,
    /// Not stored.
    Failed,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Stored => "stored",
            Self::Salvaged => "salvaged",
            Self::Failed => "failed",
        })
    }
}

/// Label `outcome`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// Outcome.
    pub outcome: Outcome,
}

/// Where recordings may fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// The node's own disk.
    Spool,
    /// The object store.
    Store,
}

impl EncodeLabelValue for Stage {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Spool => "spool",
            Self::Store => "store",
        })
    }
}

/// Label `stage`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct StageLabel {
    /// Where.
    pub stage: Stage,
}

/// Label `reason`: "no_rtp" (a telephone), "paused" (a browser that sends no audio), "ice" (a browser that is gone).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct SilenceLabel {
    /// What was missed.
    pub reason: &'static str,
}

/// Everything this room counts. Worker threads add what they counted by themselves once a second.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) sessions: Gauge,
    pub(crate) sessions_capacity: Gauge,
    pub(crate) draining: Gauge,
    pub(crate) endpoints: Family<KindLabel, Gauge>,
    pub(crate) packets_received: Counter,
    pub(crate) packets_sent: Counter,
    pub(crate) packets_refused: Counter,
    pub(crate) packets_lost: Counter,
    pub(crate) send_errors: Counter,
    pub(crate) jitter: Histogram,
    pub(crate) mos: Histogram,
    pub(crate) silent_parties: Family<SilenceLabel, Counter>,
    pub(crate) commands_refused: Counter,
    pub(crate) epochs_refused: Counter,
    pub(crate) events_dropped: Counter,
    pub(crate) events_repeated: Counter,
    pub(crate) events_waiting: Gauge,
    pub(crate) tick_late: Counter<f64, AtomicU64>,
    pub(crate) recordings: Family<OutcomeLabel, Counter>,
    pub(crate) recordings_open: Gauge,
    pub(crate) recording_failing: Family<StageLabel, Gauge>,
    pub(crate) spool_free: Gauge,
    pub(crate) uploads_waiting: Gauge,
    pub(crate) upload_lag: Histogram,
    pub(crate) tap_gaps: Counter,
    pub(crate) transcriptions_open: Gauge,
    pub(crate) recogniser_failures: Counter,
}

impl Metrics {
    /// Registers everything in `registry` (which has the prefix `trunkline_media`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            sessions: Gauge::default(),
            sessions_capacity: Gauge::default(),
            draining: Gauge::default(),
            endpoints: Family::default(),
            packets_received: Counter::default(),
            packets_sent: Counter::default(),
            packets_refused: Counter::default(),
            packets_lost: Counter::default(),
            send_errors: Counter::default(),
            jitter: Histogram::new([0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2]),
            mos: Histogram::new([1.5, 2.0, 2.5, 3.0, 3.5, 3.8, 4.0, 4.2, 4.3, 4.5]),
            silent_parties: Family::default(),
            commands_refused: Counter::default(),
            epochs_refused: Counter::default(),
            events_dropped: Counter::default(),
            events_repeated: Counter::default(),
            events_waiting: Gauge::default(),
            tick_late: Counter::default(),
            recordings: Family::default(),
            recordings_open: Gauge::default(),
            recording_failing: Family::default(),
            spool_free: Gauge::default(),
            uploads_waiting: Gauge::default(),
            upload_lag: Histogram::new([0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0]),
            tap_gaps: Counter::default(),
            transcriptions_open: Gauge::default(),
            recogniser_failures: Counter::default(),
        };
        for outcome in [Outcome::Stored, Outcome::Salvaged, Outcome::Failed] {
            drop(metrics.recordings.get_or_create(&OutcomeLabel { outcome }));
        }
        for reason in ["no_rtp", "paused", "ice"] {
            metrics.silent(reason);
        }
        for stage in [Stage::Spool, Stage::Store] {
            // An alarm that has never fired is there, and 0.
            metrics.failing(stage).set(0);
        }
        metrics.publish(registry);
        metrics.publish_recordings(registry);
        metrics
    }

    /// Parties that should be heard and are not; `reason` as in [`SilenceLabel`].
    pub(crate) fn silent(&self, reason: &'static str) -> Counter {
        self.silent_parties.get_or_create(&SilenceLabel { reason }).clone()
    }

    /// Recordings that cannot be written, or not be stored, at present.
    pub(crate) fn failing(&self, stage: Stage) -> Gauge {
        self.recording_failing.get_or_create(&StageLabel { stage }).clone()
    }

    fn publish(&self, r: &mut Registry) {
        r.register("sessions", "Calls that have media on this node", self.sessions.clone());
        r.register("sessions_capacity", "Most calls this node takes", self.sessions_capacity.clone());
        r.register("draining", "1 while this node takes no new calls", self.draining.clone());
        r.register("endpoints", "Parties by kind of transport", self.endpoints.clone());
        r.register("packets_received", "RTP packets accepted from parties", self.packets_received.clone());
        r.register("packets_sent", "RTP packets sent to parties", self.packets_sent.clone());
        r.register(
            "packets_refused",
            "RTP packets from sources that are not believed",
            self.packets_refused.clone(),
        );
        r.register(
            "packets_lost",
            "RTP packets missing at the end of endpoints (RFC 3550 A.3)",
            self.packets_lost.clone(),
        );
        r.register("send_errors", "Packets that the system did not take", self.send_errors.clone());
        r.register(
            "jitter_seconds",
            "Interarrival jitter of endpoints, every 10 s (RFC 3550 A.8)",
            self.jitter.clone(),
        );
        r.register(
            "mos",
            "Mean opinion score of endpoints, every 10 s (E-model G.107, G.711 with concealment)",
            self.mos.clone(),
        );
        r.register(
            "one_way_audio",
            "Parties that should speak and were not heard for the configured time, by what was missed",
            self.silent_parties.clone(),
        );
        r.register("commands_refused", "Commands answered with a failure", self.commands_refused.clone());
        r.register(
            "epochs_refused",
            "Commands of owners whose epoch is not the highest seen",
            self.epochs_refused.clone(),
        );
        r.register("events_dropped", "Events lost because nobody took them", self.events_dropped.clone());
        r.register(
            "events_repeated",
            "Events told again because nobody acknowledged them",
            self.events_repeated.clone(),
        );
        r.register(
            "events_waiting",
            "Events kept until their calls acknowledge them",
            self.events_waiting.clone(),
        );
        r.register(
            "tick_late_seconds",
            "Time by which frames were made too late, summed",
            self.tick_late.clone(),
        );
    }

    fn publish_recordings(&self, r: &mut Registry) {
        r.register("recordings", "Recordings by outcome", self.recordings.clone());
        r.register("recordings_open", "Recordings being written", self.recordings_open.clone());
        r.register(
            "recording_failing",
            "Recordings that cannot be written to the spool, or that the store does not take, at present",
            self.recording_failing.clone(),
        );
        r.register("spool_free_bytes", "Free space where recordings are written", self.spool_free.clone());
        r.register(
            "uploads_waiting",
            "Finished recordings that are not stored yet",
            self.uploads_waiting.clone(),
        );
        r.register(
            "upload_lag_seconds",
            "From the end of a recording until it is stored",
            self.upload_lag.clone(),
        );
        r.register(
            "tap_gaps",
            "Times that audio was lost on the way to a file or recogniser",
            self.tap_gaps.clone(),
        );
        r.register("transcriptions_open", "Transcriptions under way", self.transcriptions_open.clone());
        r.register(
            "recogniser_failures",
            "Streams to the recogniser that failed or were refused",
            self.recogniser_failures.clone(),
        );
    }
}
