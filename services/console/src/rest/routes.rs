use std::sync::{Arc, LazyLock};

use axum::{
    response::Response,
    routing::{MethodRouter, delete, get, post},
};
use bytes::Bytes;
use http::{HeaderMap, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    cluster,
    contacts::{self, ContactsQuery, IntervalsQuery},
    etag, lists, live, openapi, recordings,
    session::{self, Credentials, SessionBegun},
    views::{ClusterOverview, Contact, ContactPage, Intervals, LiveSnapshot},
};
use crate::{
    auth::{Access, Right},
    server::Shared,
    ws,
    ws::protocol::User,
};

/// Where the API is.
pub(crate) const PREFIX: &str = "/api/v1";

/// Makes the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// One row of the table: what the router, the guard and the OpenAPI document need to know of an operation.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// Below [`PREFIX`], in the form that axum and OpenAPI share.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    /// `operationId`.
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: Option<SchemaOf>,
    pub(super) body: Option<SchemaOf>,
    pub(super) answer: Answer,
    /// Error statuses besides those that its access brings.
    pub(super) errors: &'static [u16],
    pub(super) handler: fn() -> MethodRouter<Arc<Shared>>,
}

/// What an operation answers when it succeeds.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Json(SchemaOf),
    /// JSON of any form.
    Document,
    Nothing,
    Html,
    Wav,
    /// Server-sent events whose data have this form.
    Events(SchemaOf),
    WebSocket,
}

impl Route {
    fn get(
        path: &'static str,
        access: Access,
        name: &'static str,
        answer: Answer,
        handler: fn() -> MethodRouter<Arc<Shared>>,
    ) -> Self {
        Self {
            method: Method::GET,
            path,
            access,
            name,
            summary: "",
            query: None,
            body: None,
            answer,
            errors: &[],
            handler,
        }
    }

    /// The method as a label of bounded values.
    pub(crate) fn method_name(&self) -> &'static str {
        match self.method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::DELETE => "DELETE",
            Method::PUT => "PUT",
            _ => "other",
        }
    }
}

/// The table.
pub(crate) fn routes() -> Vec<Route> {
    let mut table = people();
    table.extend(numbers());
    table.extend(nodes());
    table.extend(documents());
    table
}

fn people() -> Vec<Route> {
    use Access::{Public, With};
    vec![
        Route {
            method: Method::POST,
            summary: "Signs in: a session cookie, and the same token for scripts. Lives 12 hours.",
            body: Some(schema::<Credentials>),
            errors: &[400, 401, 403, 408, 413, 415, 429, 503],
            ..Route::get("/session", Public, "signIn", Answer::Json(schema::<SessionBegun>), || {
                post(session::begin)
            })
        },
        Route {
            summary: "Who is signed in.",
            ..Route::get(
                "/session",
                With(Right::OwnSession),
                "getSession",
                Answer::Json(schema::<User>),
                || get(session::read),
            )
        },
        Route {
            method: Method::DELETE,
            summary: "Signs out: the token is refused from now on, open WebSockets are closed.",
            ..Route::get("/session", With(Right::OwnSession), "signOut", Answer::Nothing, || {
                delete(session::end)
            })
        },
        Route {
            summary: "Contacts, newest first. Agents see their own.",
            query: Some(schema::<ContactsQuery>),
            errors: &[400, 503, 504],
            ..Route::get(
                "/contacts",
                With(Right::ReadContacts),
                "listContacts",
                Answer::Json(schema::<ContactPage>),
                || get(contacts::list),
            )
        },
        Route {
            summary: "One contact with timeline, recordings, transcript and routing decisions.",
            errors: &[400, 404, 503, 504],
            ..Route::get(
                "/contacts/{call_id}",
                With(Right::ReadContacts),
                "getContact",
                Answer::Json(schema::<Contact>),
                || get(contacts::read),
            )
        },
        Route {
            summary: "Audio of a recording: caller left, agent right. One byte range can be asked for. Audited.",
            errors: &[400, 404, 416, 503, 504],
            ..Route::get(
                "/recordings/{recording_id}/audio",
                With(Right::PlayRecordings),
                "getRecordingAudio",
                Answer::Wav,
                || get(recordings::audio),
            )
        },
    ]
}

fn numbers() -> Vec<Route> {
    use Access::With;
    vec![
        Route {
            summary: "Numbers of queues and agents now.",
            errors: &[503, 504],
            ..Route::get(
                "/live",
                With(Right::ReadLive),
                "getLive",
                Answer::Json(schema::<LiveSnapshot>),
                || get(live::read),
            )
        },
        Route {
            summary: "The same numbers as event `live` at each change, at most 4 a second.",
            errors: &[503],
            ..Route::get(
                "/live/stream",
                With(Right::ReadLive),
                "watchLive",
                Answer::Events(schema::<LiveSnapshot>),
                || get(live::stream),
            )
        },
        Route {
            summary: "Numbers of a queue by interval.",
            query: Some(schema::<IntervalsQuery>),
            errors: &[400, 404, 503, 504],
            ..Route::get(
                "/intervals",
                With(Right::ReadIntervals),
                "getIntervals",
                Answer::Json(schema::<Intervals>),
                || get(contacts::intervals),
            )
        },
        Route {
            summary: "Queues as configured.",
            ..Route::get(
                "/queues",
                With(Right::ListQueues),
                "listQueues",
                Answer::Json(schema::<lists::Queues>),
                || get(lists::queues),
            )
        },
        Route {
            summary: "Agents as configured.",
            ..Route::get(
                "/agents",
                With(Right::ListAgents),
                "listAgents",
                Answer::Json(schema::<lists::Agents>),
                || get(lists::agents),
            )
        },
    ]
}

fn nodes() -> Vec<Route> {
    use Access::With;
    let order = |path, name, handler| Route {
        method: Method::POST,
        errors: &[400, 404, 409, 503, 504],
        ..Route::get(path, With(Right::DrainNodes), name, Answer::Nothing, handler)
    };
    vec![
        Route {
            summary: "The cluster as this node sees it: members, owners of shards, moves, what it stands on.",
            errors: &[503, 504],
            ..Route::get(
                "/cluster",
                With(Right::ReadCluster),
                "getCluster",
                Answer::Json(schema::<ClusterOverview>),
                || get(cluster::overview),
            )
        },
        Route {
            summary: "Drains a node: it takes no new calls, and its shards move to others. Audited.",
            ..order("/cluster/nodes/{node}/drain", "drainNode", || post(cluster::drain))
        },
        Route {
            summary: "Takes a drain back: the node serves again. Audited.",
            ..order("/cluster/nodes/{node}/undrain", "undrainNode", || post(cluster::undrain))
        },
    ]
}

fn documents() -> Vec<Route> {
    use Access::{Public, Socket};
    vec![
        Route {
            summary: "The agents' WebSocket, subprotocol trunkline.v1: see /api/v1/agent/protocol.",
            errors: &[400],
            ..Route::get("/agent/ws", Socket(Right::AgentDesk), "agentSocket", Answer::WebSocket, || {
                get(ws::upgrade)
            })
        },
        Route {
            summary: "The agent protocol as JSON schema.",
            ..Route::get("/agent/protocol.json", Public, "getAgentProtocolSchema", Answer::Document, || {
                get(protocol_schema)
            })
        },
        Route {
            summary: "The agent protocol for people.",
            ..Route::get("/agent/protocol", Public, "getAgentProtocol", Answer::Html, || get(protocol_page))
        },
        Route {
            summary: "This document.",
            ..Route::get("/openapi.json", Public, "getOpenApi", Answer::Document, || get(api_document))
        },
    ]
}

/// The documents never change while the process runs.
static PROTOCOL_SCHEMA: LazyLock<Bytes> = LazyLock::new(|| pretty(&ws::schema()));
static PROTOCOL_PAGE: LazyLock<Bytes> = LazyLock::new(|| ws::page().into());
static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| pretty(&openapi::document()));

fn pretty(document: &serde_json::Value) -> Bytes {
    format!("{document:#}\n").into()
}

async fn protocol_schema(headers: HeaderMap) -> Response {
    etag::tagged(&headers, "application/schema+json", PROTOCOL_SCHEMA.clone())
}

async fn protocol_page(headers: HeaderMap) -> Response {
    etag::tagged(&headers, "text/html; charset=utf-8", PROTOCOL_PAGE.clone())
}

async fn api_document(headers: HeaderMap) -> Response {
    etag::tagged(&headers, "application/json", OPENAPI.clone())
}
