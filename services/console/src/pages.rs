//! The web clients: embedded files, with what browsers need to keep them safe and fast.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

use crate::{
    config::{ConsoleConfig, socket_origin},
    problem::Problem,
    rest::PREFIX,
    server::Shared,
    ws,
};

/// What `cargo xtask web` builds.
#[derive(RustEmbed)]
#[folder = "../web/dist"]
struct Clients;

const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Trunkline</title>\
    <p>The web clients are not in this build: run <code>cargo xtask web</code> (it needs Node 20) and build again.</p>";

/// Scripts and styles from this origin only, no frames around, no plug-ins. The wallboard's charts and the agent's
/// audio need nothing more.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
    media-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; \
    form-action 'self'; frame-ancestors 'none'";

/// The same for agents' pages that may connect to other consoles.
pub(crate) fn policy(config: &ConsoleConfig) -> String {
    let sockets: String = config
        .alternates
        .iter()
        .filter_map(|origin| socket_origin(origin))
        .map(|origin| format!(" {origin}"))
        .collect();
    POLICY.replace("connect-src 'self'", &format!("connect-src 'self'{sockets}"))
}

/// The page of documentation has one inline style: allowed by its digest.
static DOCUMENT_POLICY: LazyLock<String> = LazyLock::new(|| {
    let page = ws::page();
    let style =
        page.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).map_or("", |(s, _)| s);
    POLICY
        .replace("style-src 'self'", &format!("style-src 'sha256-{}'", BASE64.encode(Sha256::digest(style))))
});

/// Files of a page by preference.
fn candidates(path: &str) -> &'static [&'static str] {
    let first = path.trim_matches('/').split('/').next().unwrap_or_default();
    match first {
        "" => &["signin.html", "index.html"],
        "agent" => &["agent.html", "index.html"],
        "wallboard" => &["wallboard.html", "supervisor.html", "index.html"],
        "cluster" => &["cluster.html", "index.html"],
        "contacts" => &["contacts.html", "supervisor.html", "index.html"],
        _ => &[],
    }
}

/// Everything that no route took: pages and assets, and 404 as a problem below the API.
pub(crate) async fn serve(request: Request) -> Response {
    let path = request.uri().path();
    if path.starts_with("/api/") {
        return Problem::not_found("There is no such address: see /api/v1/openapi.json.").into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Problem::method().into_response();
    }
    if let Some(response) = file(path.trim_start_matches('/'), request.headers()) {
        return response;
    }
    let pages = candidates(path);
    match pages.iter().find_map(|page| file(page, request.headers())) {
        Some(response) => response,
        None if !pages.is_empty() => (StatusCode::SERVICE_UNAVAILABLE, Html(NOT_BUILT)).into_response(),
        None => Problem::not_found("There is no such page.").into_response(),
    }
}

/// A file, compressed beforehand where the build did that and the client takes it.
fn file(path: &str, headers: &HeaderMap) -> Option<Response> {
    let accepts =
        headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let takes = |name: &str| {
        accepts.split(',').any(|part| {
            let mut words = part.split(';').map(str::trim);
            words.next() == Some(name)
                && !words.any(|word| matches!(word, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
    };
    let plain = Clients::get(path)?;
    let (file, encoding) = [("br", "br"), ("gzip", "gz")]
        .into_iter()
        .filter(|(name, _)| takes(name))
        .find_map(|(name, suffix)| Some((Clients::get(&format!("{path}.{suffix}"))?, Some(name))))
        .unwrap_or((plain, None));
    let tag = format!("W/\"{}\"", BASE64.encode(&file.metadata.sha256_hash()[..12]));
    let mut response = if crate::rest::matches(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match file.data {
            Cow::Borrowed(embedded) => Bytes::from_static(embedded).into_response(),
            Cow::Owned(read) => read.into_response(),
        }
    };
    let set = response.headers_mut();
    // Names under assets/ carry a digest of their content: they never change.
    let caching =
        if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    set.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind(path)));
    set.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        set.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        set.insert(header::ETAG, tag);
    }
    Some(response)
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "txt" => "text/plain; charset=utf-8",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}

/// Headers that every answer carries.
pub(crate) async fn protect(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_document = path == "/api/v1/agent/protocol";
    let is_api = path.starts_with(PREFIX);
    let policy = shared.policy.clone();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value)
            && !headers.contains_key(&name)
        {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_SECURITY_POLICY, if is_document { &DOCUMENT_POLICY } else { &policy });
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "same-origin");
    set(HeaderName::from_static("permissions-policy"), "microphone=(self), camera=(), geolocation=()");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if shared.config.cookies_are_secure() {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    if is_api {
        set(header::CACHE_CONTROL, "no-store");
    }
    response
}

/// `/healthz`: the process runs. Says nothing about anything else, since a restart heals nothing else.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// `/readyz`: 503 with one reason a line until every role serves.
pub(crate) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let mut reasons = (shared.ports.readiness)();
    if shared.stop.is_cancelled() {
        reasons.push("draining".into());
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = if reasons.is_empty() { "ready\n".to_owned() } else { reasons.join("\n") + "\n" };
    (status, [(header::CACHE_CONTROL, "no-store")], text).into_response()
}
