use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use http::HeaderMap;
use schemars::JsonSchema;
use serde::Serialize;

use super::etag;
use crate::{auth::Caller, problem::Problem, server::Shared};

/// Queues of the tenant.
#[derive(Serialize, JsonSchema)]
pub(super) struct Queues {
    queues: Vec<Queue>,
}

/// A queue as configured.
#[derive(Serialize, JsonSchema)]
struct Queue {
    queue_id: String,
    /// As people read it.
    name: String,
    service_level_target_s: u32,
    /// Dispositions offered at wrap-up.
    dispositions: Vec<String>,
}

/// Agents of the tenant.
#[derive(Serialize, JsonSchema)]
pub(super) struct Agents {
    agents: Vec<Agent>,
}

/// An agent as configured.
#[derive(Serialize, JsonSchema)]
struct Agent {
    agent_id: String,
    /// As people read it.
    name: String,
    /// Ids of the queues served.
    queues: Vec<String>,
}

/// `GET /queues`
pub(super) async fn queues(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let queues = shared.ports.directory.queues(&caller.tenant).into_iter().map(|queue| Queue {
        queue_id: queue.id.to_string(),
        name: queue.name,
        service_level_target_s: queue.service_level_target_s,
        dispositions: queue.dispositions,
    });
    etag::json(&headers, &Queues { queues: queues.collect() })
}

/// `GET /agents`
pub(super) async fn agents(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let agents = shared.ports.directory.agents(&caller.tenant).into_iter().map(|agent| Agent {
        agent_id: agent.id.to_string(),
        name: agent.name,
        queues: agent.queues.iter().map(ToString::to_string).collect(),
    });
    etag::json(&headers, &Agents { agents: agents.collect() })
}
