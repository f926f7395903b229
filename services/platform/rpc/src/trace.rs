//! gRPC calls as spans, by OpenTelemetry's conventions for RPC: a client span around a call until the head of its answer, so
//! that a stream's span is short, and a server span under it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    Code,
    codegen::{Service, http},
    transport::Channel,
};
use tracing::{Instrument, Span, field, info_span};
use trunkline_telemetry::{TraceParent, exported};

const TRACEPARENT: &str = "traceparent";

/// A channel whose calls are client spans; the server gets them as `traceparent`. Without an exporter it adds nothing.
#[derive(Debug, Clone)]
pub struct Traced<S = Channel>(S);

impl<S> Traced<S> {
    /// Around a channel.
    pub fn new(channel: S) -> Self {
        Self(channel)
    }
}

impl<S, B, R> Service<http::Request<B>> for Traced<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let span = if exported() { span("client", request.uri().path()) } else { Span::none() };
        if let Some(parent) = TraceParent::of_span(&span)
            && let Ok(value) = http::HeaderValue::from_str(&parent.to_string())
        {
            request.headers_mut().insert(TRACEPARENT, value);
        }
        let answer = self.0.call(request).instrument(span.clone());
        Box::pin(async move {
            let answer = answer.await;
            if !span.is_disabled() {
                ended(&span, answer.as_ref().ok().map(http::Response::headers));
            }
            answer
        })
    }
}

/// The span of a call that a server got; for tonic's `trace_fn`.
pub fn server_span(request: &http::Request<()>) -> Span {
    if !exported() {
        return Span::none();
    }
    let span = span("server", request.uri().path());
    let parent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(parent) = parent {
        TraceParent::adopt(&parent, &span);
    }
    span
}

fn span(kind: &'static str, path: &str) -> Span {
    let method = path.trim_start_matches('/');
    info_span!(
        "rpc",
        otel.name = method,
        otel.kind = kind,
        otel.status_code = field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = field::Empty,
    )
}

/// The status is in the head only when nothing else comes (gRPC's "trailers only"), which is how calls fail.
fn ended(span: &Span, head: Option<&http::HeaderMap>) {
    let code = match head {
        Some(head) => head.get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes())),
        None => Code::Unavailable,
    };
    span.record("rpc.response.status_code", name(code));
    if code != Code::Ok {
        span.record("otel.status_code", "ERROR");
    }
}

/// As the conventions spell it.
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
