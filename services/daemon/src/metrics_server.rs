//! `/metrics`, `/healthz` and `/readyz` on an address of their own, so that it need not be reachable from where the web
//! clients are, and nodes without the console role have it too.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{net::TcpListener, task::JoinHandle};
use trunkline_telemetry::{CONTENT_TYPE, Metrics, OPEN_METRICS_TYPE};

/// Why the node is not ready, a sentence a reason; empty = it is.
pub type Problems = std::sync::Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Serves until the task is ended.
pub async fn start(
    listen: SocketAddr,
    metrics: Metrics,
    problems: Problems,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("metrics.listen: cannot listen on {listen}; use --metrics to name another address")
    })?;
    let address = listener.local_addr()?;
    let handler = move |headers: HeaderMap| async move { answer(&headers, &metrics) };
    let ready = move || async move {
        match problems() {
            reasons if reasons.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
            reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        }
    };
    let router = Router::new()
        .route("/metrics", get(handler))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready));
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics are not served any more");
        }
    });
    Ok((address, task))
}

/// Prometheus asks for OpenMetrics; whoever does not gets the older text.
fn answer(headers: &HeaderMap, metrics: &Metrics) -> impl IntoResponse + use<> {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (kind, text) = if accepted.contains("application/openmetrics-text") {
        (OPEN_METRICS_TYPE, metrics.encode_open_metrics())
    } else {
        (CONTENT_TYPE, metrics.encode())
    };
    ([(header::CONTENT_TYPE, kind)], text)
}
