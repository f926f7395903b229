use std::{fmt, io::IsTerminal, str::FromStr, time::Duration};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tracing::{Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, FilterFn, Targets, filter_fn},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{namespace::Namespaced, output::Output, trace::set_sample_ratio};

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = TelemetryError;
    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(TelemetryError::Format(other.chars().take(40).collect())),
        }
    }
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpConfig {
    /// The collector's OTLP/gRPC address, `http://host:4317` or `https://…` (verified by the system's roots).
    pub endpoint: String,
    /// Share of the calls whose traces are exported, 0 to 1.
    pub sample_ratio: f64,
}

/// What [`init`] sets up.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetryConfig {
    /// `service.name`, as a rule `trunkline`.
    pub service: String,
    /// `service.instance.id`: the node.
    pub node: String,
    /// `service.version`.
    pub version: String,
    /// The form of log lines.
    pub log: LogFormat,
    /// Which events are logged, in the syntax of tracing's `EnvFilter` (`info,trunkline_edge=debug`).
    pub filter: String,
    /// Where traces go; `None` = nowhere.
    pub otlp: Option<OtlpConfig>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            service: "trunkline".to_owned(),
            node: "local".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log: LogFormat::Text,
            filter: "info".to_owned(),
            otlp: None,
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Not a log format.
    #[error("log format {0:?}: use text or json")]
    Format(String),
    /// The filter cannot be read.
    #[error("log filter {filter:?}: {reason}; write for example info,trunkline_edge=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong.
        reason: String,
    },
    /// The OTLP address cannot be used.
    #[error("otlp endpoint {endpoint:?}: {reason}; write for example http://collector:4317")]
    Otlp {
        /// What was given.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// The sample ratio is out of bounds.
    #[error("otlp sample_ratio {0}: it must lie between 0 and 1")]
    Ratio(f64),
    /// The log thread could not be started.
    #[error("log thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The process has a subscriber already.
    #[error("telemetry is set up already")]
    Twice,
}

/// Keeps telemetry going; dropping it exports the last spans and writes the last lines.
pub struct Guard {
    provider: Option<SdkTracerProvider>,
    output: Output,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("otlp", &self.provider.is_some()).finish_non_exhaustive()
    }
}

impl Guard {
    /// Exports and writes what is left, within 5 s. Not on an async worker thread that the exporter needs: from `main`
    /// after the roles have ended.
    pub fn shutdown(self) {
        drop(self);
    }

    /// Log lines that were dropped because their reader stalled.
    pub fn dropped_lines(&self) -> u64 {
        self.output.dropped()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let ended =
            self.provider.take().map(|provider| provider.shutdown_with_timeout(Duration::from_secs(5)));
        if let Some(Err(error)) = ended {
            tracing::warn!(%error, "the last spans were not exported");
        }
        self.output.flush();
    }
}

/// Sets up logs and traces for the process, once. With `otlp` it must be called within a tokio runtime.
///
/// # Errors
/// When a setting cannot be used (the error names it), or at the second call.
pub fn init(config: TelemetryConfig) -> Result<Guard, TelemetryError> {
    let output = Output::start(std::io::stderr())?;
    let provider = config.otlp.as_ref().map(|otlp| exporter(&config, otlp)).transpose()?;
    let traces = provider.as_ref().map(spans);
    let logs = log_layer(&config, output.clone(), std::io::stderr().is_terminal())?;
    let subscriber = tracing_subscriber::registry().with(traces).with(logs);
    subscriber.try_init().map_err(|_| TelemetryError::Twice)?;
    set_sample_ratio(config.otlp.as_ref().map_or(0.0, |otlp| otlp.sample_ratio));
    Ok(Guard { provider, output })
}

fn log_layer<S>(
    config: &TelemetryConfig,
    output: Output,
    colours: bool,
) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| TelemetryError::Filter {
        filter: config.filter.clone(),
        reason: error.to_string(),
    })?;
    let filter = filter.and(keeps_secrets());
    let layer = tracing_subscriber::fmt::layer().with_writer(output);
    Ok(match config.log {
        LogFormat::Text => layer.with_ansi(colours).with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_filter(filter)
            .boxed(),
    })
}

/// Targets of libraries that write secrets below the level INFO: ICE credentials, DTLS fingerprints and keys, frames.
const TELLTALES: [&str; 7] = ["is", "str0m", "dimpl", "rustls", "h2", "tungstenite", "tokio_tungstenite"];

/// Holds them at INFO whatever the configured filter says: secrets are never logged.
fn keeps_secrets() -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(|metadata| {
        let library = metadata.target().split("::").next().unwrap_or_default();
        *metadata.level() <= Level::INFO || !TELLTALES.contains(&library)
    })
    .with_max_level_hint(LevelFilter::TRACE)
}

fn exporter(config: &TelemetryConfig, otlp: &OtlpConfig) -> Result<SdkTracerProvider, TelemetryError> {
    let bad = |reason: String| TelemetryError::Otlp { endpoint: otlp.endpoint.clone(), reason };
    if !(0.0..=1.0).contains(&otlp.sample_ratio) {
        return Err(TelemetryError::Ratio(otlp.sample_ratio));
    }
    if !otlp.endpoint.starts_with("http://") && !otlp.endpoint.starts_with("https://") {
        return Err(bad("it has no scheme".to_owned()));
    }
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(bad("traces can be exported only within a tokio runtime".to_owned()));
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&otlp.endpoint)
        .with_timeout(Duration::from_secs(5))
        .build()
        .map_err(|error| bad(error.to_string()))?;
    let limits = BatchConfigBuilder::default()
        .with_max_queue_size(8_192)
        .with_max_export_batch_size(512)
        .with_scheduled_delay(Duration::from_secs(1))
        .build();
    let resource = Resource::builder()
        .with_service_name(config.service.clone())
        .with_attributes([
            KeyValue::new("service.instance.id", config.node.clone()),
            KeyValue::new("service.version", config.version.clone()),
        ])
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(
            BatchSpanProcessor::builder(Namespaced(exporter)).with_batch_config(limits).build(),
        )
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(otlp.sample_ratio))))
        .with_resource(resource)
        .build())
}

/// Spans of our own crates; those of the exporter's transport would beget themselves.
fn spans<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let ours = Targets::new().with_target("trunkline", Level::INFO);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("trunkline"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(ours)
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::InMemorySpanExporter;
    use trunkline_types::{CallId, ShardId, Timestamp};

    use super::*;
    use crate::{TraceParent, call_span, output::tests::Shared, trace_id_of};

    fn call() -> CallId {
        CallId::mint(ShardId::new(1).unwrap(), Timestamp::from_millis(1), 2)
    }

    #[test]
    fn json_lines_carry_the_calls_ids_and_the_span_joins_the_calls_trace() {
        let (shared, spans_out) = (Shared::default(), InMemorySpanExporter::default());
        let output = Output::start(shared.clone()).unwrap();
        let config = TelemetryConfig { log: LogFormat::Json, ..TelemetryConfig::default() };
        let provider = SdkTracerProvider::builder().with_simple_exporter(spans_out.clone()).build();
        let logs = log_layer(&config, output.clone(), false).unwrap();
        let subscriber = tracing_subscriber::registry().with(spans(&provider)).with(logs);
        set_sample_ratio(1.0);
        let mut inside = None;
        tracing::subscriber::with_default(subscriber, || {
            let span = call_span!("ring", call(), leg_id = 1);
            span.in_scope(|| {
                tracing::info!(queue = "support", "ringing");
                inside = TraceParent::current();
            });
        });
        output.flush();
        let line: serde_json::Value = serde_json::from_slice(&shared.0.lock()).unwrap();
        assert_eq!((&line["message"], &line["queue"]), (&"ringing".into(), &"support".into()));
        assert_eq!(line["span"]["call_id"], call().to_string());
        assert_eq!(line["span"]["trace_id"], trace_id_of(call()).to_string());
        provider.force_flush().unwrap();
        let exported = spans_out.get_finished_spans().unwrap();
        let parent = TraceParent::of_call(call());
        assert_eq!(exported.len(), 1);
        assert_eq!(exported[0].span_context.trace_id(), parent.trace_id);
        assert_eq!(exported[0].parent_span_id, parent.span_id);
        assert_eq!(inside.map(|parent| parent.trace_id), Some(parent.trace_id));
    }

    #[test]
    fn libraries_that_tell_secrets_are_held_at_info() {
        let shared = Shared::default();
        let output = Output::start(shared.clone()).unwrap();
        let config = TelemetryConfig { filter: "trace".to_owned(), ..TelemetryConfig::default() };
        let logs = log_layer(&config, output.clone(), false).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(logs), || {
            tracing::debug!(target: "is::agent", "credentials");
            tracing::info!(target: "is::agent", "connected");
            tracing::debug!(target: "trunkline_edge", "own");
            tracing::debug!(target: "issue", "other");
        });
        output.flush();
        let text = String::from_utf8(shared.0.lock().clone()).unwrap();
        let seen = ["credentials", "connected", "own", "other"].map(|word| text.contains(word));
        assert_eq!(seen, [false, true, true, true], "{text}");
    }

    #[test]
    fn bad_settings_are_named() {
        let of = |otlp| TelemetryConfig { otlp: Some(otlp), ..TelemetryConfig::default() };
        let ratio = of(OtlpConfig { endpoint: "http://c:4317".to_owned(), sample_ratio: 1.5 });
        assert!(matches!(init(ratio), Err(TelemetryError::Ratio(_))));
        let scheme = of(OtlpConfig { endpoint: "c:4317".to_owned(), sample_ratio: 1.0 });
        let text = init(scheme).unwrap_err().to_string();
        assert!(text.contains("c:4317") && text.contains("http://"), "{text}");
        let filter = TelemetryConfig { filter: "info,=x=y".to_owned(), ..TelemetryConfig::default() };
        assert!(matches!(init(filter), Err(TelemetryError::Filter { .. })));
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
