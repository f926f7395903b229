//! The cluster, for those who run it: who is there, who owns what, and draining.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use http::StatusCode;
use tokio::time::timeout;
use trunkline_types::NodeId;

use super::views::ClusterOverview;
use crate::{auth::Caller, ports::ClusterRefused, problem::Problem, server::Shared};

/// `GET /cluster`
pub(super) async fn overview(State(shared): State<Arc<Shared>>) -> Result<Json<ClusterOverview>, Problem> {
    let overview = timeout(shared.config.timings.upstream, shared.ports.cluster.overview()).await;
    let overview = overview.map_err(|_| Problem::timeout())?.map_err(refused)?;
    Ok(Json(overview.into()))
}

/// `POST /cluster/nodes/{node}/drain`
pub(super) async fn drain(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<String>,
) -> Result<StatusCode, Problem> {
    set_drain(&shared, &caller, &node, true).await
}

/// `POST /cluster/nodes/{node}/undrain`
pub(super) async fn undrain(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<String>,
) -> Result<StatusCode, Problem> {
    set_drain(&shared, &caller, &node, false).await
}

async fn set_drain(shared: &Shared, caller: &Caller, node: &str, drain: bool) -> Result<StatusCode, Problem> {
    let node: NodeId = node.parse().map_err(|error| Problem::field("node", format!("{error}")))?;
    let order = shared.ports.cluster.set_drain(&node, drain, &caller.name);
    let result = timeout(shared.config.timings.upstream, order).await;
    let outcome = match &result {
        Ok(Ok(())) => "ok",
        Ok(Err(_)) => "refused",
        Err(_) => "timeout",
    };
    let action = if drain { "node.drain" } else { "node.undrain" };
    tracing::info!(target: "audit", action, outcome, %node, name = caller.name, tenant = %caller.tenant, "drain");
    result.map_err(|_| Problem::timeout())?.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

fn refused(refused: ClusterRefused) -> Problem {
    match refused {
        ClusterRefused::UnknownNode => {
            Problem::not_found("The cluster has no such node: see /api/v1/cluster.")
        }
        ClusterRefused::Impossible(why) => Problem::conflict(why),
        ClusterRefused::Unavailable(why) => Problem::busy(why),
    }
}
