use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::Method;
use tokio::time::timeout;

use super::routes::Route;
use crate::{
    auth::{self, Access, Via},
    metrics::RouteLabels,
    problem::Problem,
    server::Shared,
};

/// A route with what is needed to guard it.
#[derive(Clone)]
pub(super) struct Guarded {
    pub(super) shared: Arc<Shared>,
    pub(super) route: Arc<Route>,
}

/// Runs before every handler of the table: finds out who asks, checks origin and right, sets the time limit and counts.
pub(super) async fn guard(State(guarded): State<Guarded>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let Guarded { shared, route } = guarded;
    let response = match admit(&shared, &route, &mut request) {
        Err(problem) => problem.into_response(),
        Ok(()) => match timeout(shared.config.timings.handler, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::timeout().into_response(),
        },
    };
    let metrics = &shared.ports.metrics;
    let class = match response.status().as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    let labels = RouteLabels { method: route.method_name(), route: route.path, class };
    metrics.requests.get_or_create(&labels).inc();
    metrics.request_seconds.observe(begun.elapsed().as_secs_f64());
    response
}

fn admit(shared: &Shared, route: &Route, request: &mut Request) -> Result<(), Problem> {
    let caller = shared.auth.caller(request.headers());
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes {
        let by_cookie = caller.as_ref().is_some_and(|caller| caller.via == Via::Cookie);
        // A sign-in has no session yet: other sites are refused where the browser names them.
        if by_cookie || route.access == Access::Public {
            auth::check_origin(request.headers(), by_cookie && route.access != Access::Public)?;
        }
    }
    match (route.access, caller) {
        (Access::Public, caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            Ok(())
        }
        (Access::Socket(_), None) => Ok(()),
        (Access::With(_), None) => Err(Problem::not_signed_in()),
        (Access::With(right) | Access::Socket(right), Some(caller)) => {
            if !caller.may(right) {
                let roles: Vec<_> =
                    right.roles().iter().map(|role| format!("{role:?}").to_lowercase()).collect();
                return Err(Problem::forbidden(format!(
                    "This needs one of the roles {}: ask an administrator.",
                    roles.join(", ")
                )));
            }
            request.extensions_mut().insert(caller);
            Ok(())
        }
    }
}
