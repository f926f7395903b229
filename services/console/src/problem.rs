use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;
use trunkline_rpc::ErrorKind;

/// An error as RFC 9457 has it, `application/problem+json`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct ProblemBody {
    /// Kind of problem: `urn:trunkline:problem:` and a code that stays.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in words.
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// What happened this time and what to do about it.
    detail: String,
    /// The parameter or field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

/// An error on its way to a client.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    field: Option<String>,
    retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, title, detail: detail.into(), field: None, retry_after: None }
    }

    /// 400 for one field or parameter.
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, "invalid-field", "A value cannot be used", detail);
        Self { field: Some(field.into()), ..problem }
    }

    /// 400 for the request as a whole.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request cannot be read", detail)
    }

    /// 401.
    pub(crate) fn not_signed_in() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "not-signed-in",
            "Not signed in",
            "There is no valid session: sign in with POST /api/v1/session.",
        )
    }

    /// 401 for a sign-in; the same for unknown names and wrong passwords.
    pub(crate) fn wrong_credentials() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "wrong-credentials",
            "Name or password is wrong",
            "No account has this name and password: check both.",
        )
    }

    /// 403.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 405.
    pub(crate) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "Method not allowed",
            "This address does not take this method: see /api/v1/openapi.json.",
        )
    }

    /// 408.
    pub(crate) fn body_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-timeout",
            "The request body did not come",
            "The body was not complete in time: send it at once.",
        )
    }

    /// 409.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Not possible now", detail)
    }

    /// 413.
    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The request body is too large",
            format!("At most {limit} bytes are taken."),
        )
    }

    /// 415.
    pub(crate) fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "Unsupported media type",
            "Send the body as JSON with Content-Type: application/json.",
        )
    }

    /// 416; the response carries the size.
    pub(crate) fn range(total: u64) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range",
            "The range lies outside",
            format!("The recording has {total} bytes."),
        )
    }

    /// 429.
    pub(crate) fn too_many(detail: impl Into<String>, retry_after: Duration) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", "Too many requests", detail);
        Self { retry_after: Some(retry_after), ..problem }
    }

    /// 503.
    pub(crate) fn busy(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Not available now", detail);
        Self { retry_after: Some(Duration::from_secs(1)), ..problem }
    }

    /// 504.
    pub(crate) fn timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "No answer in time",
            "A part of the system did not answer in time: try again.",
        )
    }

    /// 500; what happened is in the log, not in the answer.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "An error of this server",
            "The request could not be handled; the server's log says why.",
        )
    }

    /// What the records role said. `what` names the thing asked for.
    pub(crate) fn from_status(status: &tonic::Status, what: &str) -> Self {
        match ErrorKind::of(status) {
            ErrorKind::NotFound => Self::not_found(format!("There is no such {what} in this tenant.")),
            ErrorKind::Invalid => Self::malformed(status.message()),
            ErrorKind::Deadline => Self::timeout(),
            ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Moved => {
                Self::busy("The records role is not reachable or busy: try again in a moment.")
            }
            kind => {
                tracing::warn!(?kind, code = %status.code(), message = status.message(), what, "the records role failed");
                Self::internal()
            }
        }
    }

    /// HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            kind: format!("urn:trunkline:problem:{}", self.code),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail,
            field: self.field,
        };
        let text = serde_json::to_string(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1_000) as u64));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"trunkline\""));
        }
        response
    }
}
