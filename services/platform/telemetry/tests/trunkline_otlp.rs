//! (Named for the targets that are exported: those of the project's own crates.)
//!
//! With an OTLP address, ended spans leave the process by gRPC; a collector that hangs up does not hold the end up.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use tokio::{io::AsyncReadExt, net::TcpListener};
use trunkline_telemetry::{OtlpConfig, TelemetryConfig, TelemetryError, call_span, init};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_sent_to_the_collector_and_the_end_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        preface
    });
    let otlp = Some(OtlpConfig { endpoint, sample_ratio: 1.0 });
    let guard = init(TelemetryConfig { otlp, ..TelemetryConfig::default() }).unwrap();
    assert!(matches!(init(TelemetryConfig::default()), Err(TelemetryError::Twice)));
    let call = "0000000000000000000000000".parse().unwrap();
    call_span!("ring", call).in_scope(|| tracing::info!("ringing"));
    let started = Instant::now();
    tokio::task::spawn_blocking(move || guard.shutdown()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(12));
    let preface = tokio::time::timeout(Duration::from_secs(10), collector).await.unwrap().unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}
