//! The agents' WebSocket: sessions that outlive their sockets, commands to the agents' actors, states and results back.

mod command_log;
mod commands;
mod data;
mod document;
mod merge_patch;
mod outbox;
pub(crate) mod protocol;
mod registry;
mod session;
mod snapshot;
mod socket;

use std::sync::Arc;

use axum::{
    Extension,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};

pub(crate) use document::{page, schema};
pub(crate) use registry::Registry;

use self::{
    protocol::{CloseCode, MAX_FRAME_BYTES, SUBPROTOCOL},
    session::Close,
    socket::Socket,
};
use crate::{
    auth::{Caller, Via, same_host},
    problem::Problem,
    server::Shared,
};

/// What is read of a WebSocket at once. All of it is held for each agent and cleared before each read: of the library's
/// 128 KiB an agent needs a few hundred bytes at a time, and 4 KiB for an offer of audio.
const READ_BYTES: usize = 4 * 1024;

/// `GET /api/v1/agent/ws`. Who is not signed in is told by close code 4401, since a browser does not show its page the
/// status of a refused upgrade.
pub(crate) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade
        .map_err(|_| Problem::malformed("This address is a WebSocket: send an upgrade (RFC 6455)."))?;
    let alternates = &shared.config.alternates;
    let mut caller = caller.map(|Extension(caller)| caller);
    if let Some(origin) = headers.get(header::ORIGIN).filter(|origin| !same_host(origin, &headers)) {
        if !alternates.iter().any(|known| origin.as_bytes().eq_ignore_ascii_case(known.as_bytes())) {
            return Err(Problem::forbidden("The WebSocket was opened by a page of another site."));
        }
        // A page of another console shows its ticket; what the browser sends along by itself proves nothing.
        caller = caller.filter(|caller| caller.via == Via::Bearer);
    }
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(MAX_FRAME_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .read_buffer_size(READ_BYTES);
    if upgrade.selected_protocol().is_none() {
        return Err(Problem::field(
            "Sec-WebSocket-Protocol",
            format!("Offer the subprotocol {SUBPROTOCOL}; it is the only one spoken here."),
        ));
    }
    let tracker = shared.tasks.clone();
    let response = match (caller, alternates.is_empty()) {
        (caller @ Some(_), _) | (caller, false) => upgrade.on_upgrade(move |socket| {
            let socket = Socket {
                socket,
                caller,
                registry: Arc::clone(&shared.registry),
                timings: shared.config.timings,
                metrics: shared.ports.metrics.clone(),
                stop: shared.stop.clone(),
            };
            tracker.track_future(socket.serve())
        }),
        (None, true) => upgrade.on_upgrade(move |mut socket| {
            tracker.track_future(async move {
                let close = Close::new(CloseCode::NotSignedIn, "sign in first");
                socket::close_with(&mut socket, &close, &shared.ports.metrics).await;
            })
        }),
    };
    Ok(response.into_response())
}
