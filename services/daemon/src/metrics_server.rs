//! `/metrics` on an address of its own, so that it need not be reachable from where the web clients are.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::{Router, http::header, routing::get};
use tokio::{net::TcpListener, task::JoinHandle};
use trunkline_telemetry::{CONTENT_TYPE, Metrics};

/// Serves until the task is ended.
pub async fn start(listen: SocketAddr, metrics: Metrics) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("metrics.listen: cannot listen on {listen}; use --metrics to name another address")
    })?;
    let address = listener.local_addr()?;
    let handler = move || async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode()) };
    let router = Router::new().route("/metrics", get(handler));
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics are not served any more");
        }
    });
    Ok((address, task))
}
