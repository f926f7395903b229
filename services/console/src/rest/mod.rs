//! The API over plain HTTP: one table of routes, from which the router, the checks of rights and the OpenAPI document
//! are made.

mod cluster;
mod contacts;
mod etag;
mod extract;
mod guard;
mod lists;
mod live;
mod openapi;
mod recordings;
mod records;
mod routes;
mod session;
mod views;

pub(crate) use etag::matches;
pub(crate) use live::LiveHub;
pub(crate) use openapi::document;
pub(crate) use records::Records;
pub(crate) use routes::{PREFIX, routes};
pub(crate) use session::user;

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state};

use crate::server::Shared;

/// Router of the table.
pub(crate) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let mut router = Router::new();
    for route in routes() {
        let path = format!("{PREFIX}{}", route.path);
        let handler = (route.handler)();
        let state = guard::Guarded { shared: Arc::clone(shared), route: Arc::new(route) };
        router = router.route(&path, handler.route_layer(from_fn_with_state(state, guard::guard)));
    }
    router
}
