use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::Response,
};
use http::HeaderMap;
use schemars::JsonSchema;
use serde::Deserialize;
use trunkline_proto::records::v1 as proto;
use trunkline_types::{AgentId, CallId, QueueId};

use super::{
    etag,
    extract::ApiQuery,
    views::{Contact, ContactPage, Intervals},
};
use crate::{
    auth::{Caller, Right},
    problem::Problem,
    server::Shared,
};

const MAX_PAGE: u32 = 200;
const OUTCOMES: &[&str] =
    &["in_progress", "answered", "abandoned", "short_abandoned", "timed_out", "refused", "flow", "lost"];
/// Intervals in one answer.
const MAX_INTERVALS: i64 = 3_000;
/// Later than every date that people type, and far from overflow.
const MAX_MS: i64 = 1 << 52;

/// Filters of the list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ContactsQuery {
    /// `next_cursor` of the page before.
    #[schemars(length(max = 256))]
    cursor: Option<String>,
    /// 1 to 200; default 50.
    #[schemars(range(min = 1, max = 200))]
    page_size: Option<u32>,
    /// Id of a queue.
    queue: Option<String>,
    /// Id of an agent; agents can only give their own.
    agent: Option<String>,
    /// Part of the caller's number or name.
    #[schemars(length(max = 64))]
    caller: Option<String>,
    /// `in_progress`, `answered`, `abandoned`, `short_abandoned`, `timed_out`, `refused`, `flow` or `lost`.
    outcome: Option<String>,
    /// Started at or after, milliseconds since the Unix epoch.
    from_ms: Option<i64>,
    /// Started before, milliseconds since the Unix epoch.
    to_ms: Option<i64>,
}

/// Which intervals.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct IntervalsQuery {
    /// Id of a queue.
    queue: String,
    /// Beginning, milliseconds since the Unix epoch.
    from_ms: i64,
    /// End, milliseconds since the Unix epoch.
    to_ms: i64,
    /// Length of an interval, 300 to 86,400 seconds; default 900.
    #[schemars(range(min = 300, max = 86400))]
    interval_s: Option<u32>,
}

fn queue(text: Option<String>) -> Result<String, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(String::new()) };
    text.parse::<QueueId>()
        .map(|id| id.to_string())
        .map_err(|error| Problem::field("queue", error.to_string()))
}

/// The agent to filter by: own contacts only, unless all can be read.
fn agent(caller: &Caller, text: Option<String>) -> Result<String, Problem> {
    let asked = match text.filter(|text| !text.is_empty()) {
        Some(text) => {
            Some(text.parse::<AgentId>().map_err(|error| Problem::field("agent", error.to_string()))?)
        }
        None => None,
    };
    if caller.may(Right::ReadAllContacts) {
        return Ok(asked.map_or_else(String::new, |id| id.to_string()));
    }
    let own = caller.agent.as_ref().ok_or_else(|| Problem::forbidden("This account is no agent's."))?;
    match asked {
        Some(asked) if asked != *own => Err(Problem::forbidden("Agents see their own contacts only.")),
        _ => Ok(own.to_string()),
    }
}

fn micros(field: &str, ms: Option<i64>) -> Result<i64, Problem> {
    match ms {
        None => Ok(0),
        Some(ms) if (0..=MAX_MS).contains(&ms) => Ok(ms * 1_000),
        Some(_) => Err(Problem::field(field, "Give milliseconds since the Unix epoch, not negative.")),
    }
}

fn period(from_ms: Option<i64>, to_ms: Option<i64>) -> Result<(i64, i64), Problem> {
    let (from, to) = (micros("from_ms", from_ms)?, micros("to_ms", to_ms)?);
    if to_ms.is_some() && to <= from {
        return Err(Problem::field("to_ms", "has to be later than from_ms."));
    }
    Ok((from, to))
}

fn short(field: &str, text: Option<String>, max: usize) -> Result<String, Problem> {
    let text = text.unwrap_or_default();
    if text.chars().count() > max {
        return Err(Problem::field(field, format!("Give at most {max} characters.")));
    }
    Ok(text)
}

fn request(caller: &Caller, query: ContactsQuery) -> Result<proto::ListContactsRequest, Problem> {
    let page_size = query.page_size.unwrap_or(50);
    if !(1..=MAX_PAGE).contains(&page_size) {
        return Err(Problem::field("page_size", format!("is {page_size}: give 1 to {MAX_PAGE}.")));
    }
    let outcome = query.outcome.unwrap_or_default();
    if !outcome.is_empty() && !OUTCOMES.contains(&outcome.as_str()) {
        return Err(Problem::field("outcome", format!("Give one of {}.", OUTCOMES.join(", "))));
    }
    let (from_us, to_us) = period(query.from_ms, query.to_ms)?;
    Ok(proto::ListContactsRequest {
        tenant: caller.tenant.to_string(),
        page_size,
        cursor: short("cursor", query.cursor, 256)?,
        queue_id: queue(query.queue)?,
        agent_id: agent(caller, query.agent)?,
        caller: short("caller", query.caller, 64)?,
        from_us,
        to_us,
        outcome,
    })
}

/// `GET /contacts`
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    ApiQuery(query): ApiQuery<ContactsQuery>,
) -> Result<Json<ContactPage>, Problem> {
    let request = request(&caller, query)?;
    let mut client = shared.records.client();
    let page = shared.records.answer("page of contacts", client.list_contacts(request)).await?;
    Ok(Json(page.into()))
}

/// A contact that the caller may see. For agents, others' contacts do not exist.
pub(super) async fn visible(shared: &Shared, caller: &Caller, id: CallId) -> Result<proto::Contact, Problem> {
    let request = proto::GetContactRequest { tenant: caller.tenant.to_string(), call_id: id.to_string() };
    let mut client = shared.records.client();
    let contact = shared.records.answer("contact", client.get_contact(request)).await?;
    let own = caller.agent.as_ref().is_some_and(|agent| agent.as_str() == contact.agent_id);
    if own || caller.may(Right::ReadAllContacts) {
        Ok(contact)
    } else {
        Err(Problem::not_found("There is no such contact in this tenant."))
    }
}

/// `GET /contacts/{call_id}`
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = id.parse::<CallId>().map_err(|_| Problem::field("call_id", "This is not the id of a call."))?;
    let contact = visible(&shared, &caller, id).await?;
    etag::json(&headers, &Contact::new(contact, &shared.config.links))
}

/// `GET /intervals`
pub(super) async fn intervals(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    ApiQuery(query): ApiQuery<IntervalsQuery>,
) -> Result<Json<Intervals>, Problem> {
    let interval_s = query.interval_s.unwrap_or(900);
    if !(300..=86_400).contains(&interval_s) {
        return Err(Problem::field("interval_s", format!("is {interval_s}: give 300 to 86400.")));
    }
    let queue_id = queue(Some(query.queue))?;
    if queue_id.is_empty() {
        return Err(Problem::field("queue", "Name a queue."));
    }
    let (from_us, to_us) = period(Some(query.from_ms), Some(query.to_ms))?;
    if (to_us - from_us) / (i64::from(interval_s) * 1_000_000) > MAX_INTERVALS {
        return Err(Problem::field(
            "to_ms",
            format!("More than {MAX_INTERVALS} intervals: ask for less time or for longer intervals."),
        ));
    }
    let tenant = caller.tenant.to_string();
    let request = proto::GetIntervalsRequest { tenant, queue_id, from_us, to_us, interval_s };
    let mut client = shared.records.client();
    let answer = shared.records.answer("queue", client.get_intervals(request)).await?;
    Ok(Json(answer.into()))
}
