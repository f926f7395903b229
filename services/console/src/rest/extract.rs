//! Query and body, with errors that name the field.

use std::{sync::Arc, time::Duration};

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::{header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{problem::Problem, server::Shared};

/// Largest JSON body.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// Query parameters; unknown ones are refused, since a filter with a typing mistake would show wrong numbers.
pub(super) struct ApiQuery<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Shared>> for ApiQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                let quoted = |text: &str| text.split('`').nth(1).map(ToOwned::to_owned);
                let field = match text.split_once(": ") {
                    Some((path, _)) if !path.contains(' ') => Some(path.to_owned()),
                    _ => quoted(text),
                };
                Err(match field {
                    Some(field) => Problem::field(field, text),
                    None => Problem::malformed(text),
                })
            }
        }
    }
}

/// A JSON body within [`MAX_BODY_BYTES`] and in time.
pub(super) struct ApiJson<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for ApiJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let json = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let json = json.and_then(|text| text.split(';').next()).map(str::trim);
        if !json.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
            return Err(Problem::media_type());
        }
        let bytes = read(request, shared.config.timings.body).await?;
        let reader = &mut serde_json::Deserializer::from_slice(&bytes);
        serde_path_to_error::deserialize(reader).map(Self).map_err(|error| {
            let inner = error.inner().to_string();
            let missing = inner.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
            match (error.path().to_string().as_str(), missing) {
                (_, Some(field)) => Problem::field(field, inner.clone()),
                (".", None) => Problem::malformed(inner.clone()),
                (path, None) => Problem::field(path, inner.clone()),
            }
        })
    }
}

async fn read(request: Request, limit: Duration) -> Result<bytes::Bytes, Problem> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    match timeout(limit, body).await {
        Err(_) => Err(Problem::body_timeout()),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Problem::too_large(MAX_BODY_BYTES))
        }
        Ok(Err(_)) => Err(Problem::malformed("The body ended early.")),
    }
}
