use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::timeout;
use tonic::Streaming;
use trunkline_proto::records::v1 as proto;
use trunkline_types::RecordingId;

use super::{contacts::visible, etag};
use crate::{auth::Caller, problem::Problem, server::Shared};

/// Bytes from `first` up to and including `last` of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    first: u64,
    last: u64,
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Part),
    Outside,
}

/// `Range` of RFC 9110 section 14.2: one byte range. Several, other units and what cannot be read give the whole.
fn asked(range: Option<&HeaderValue>, total: u64) -> Asked {
    let spec =
        range.and_then(|value| value.to_str().ok()).and_then(|text| text.trim().strip_prefix("bytes="));
    let Some((from, to)) = spec.filter(|spec| !spec.contains(',')).and_then(|spec| spec.split_once('-'))
    else {
        return Asked::Whole;
    };
    let number =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let (from, to) = (from.trim(), to.trim());
    let part = match (from.is_empty(), number(from), to.is_empty(), number(to)) {
        (true, _, false, Some(0)) => return Asked::Outside,
        (true, _, false, Some(suffix)) => {
            Part { first: total.saturating_sub(suffix), last: total.saturating_sub(1) }
        }
        (false, Some(first), true, _) => Part { first, last: total.saturating_sub(1) },
        (false, Some(first), false, Some(last)) if first <= last => {
            Part { first, last: last.min(total.saturating_sub(1)) }
        }
        _ => return Asked::Whole,
    };
    if part.first >= total { Asked::Outside } else { Asked::Part(part) }
}

/// `GET /recordings/{recording_id}/audio`: passes the bytes on from the records role as they come.
pub(super) async fn audio(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id: RecordingId =
        id.parse().map_err(|_| Problem::field("recording_id", "This is not the id of a recording."))?;
    let (total, tag) = find(&shared, &caller, id).await?;
    if etag::matches(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    // If-Range (RFC 9110 section 13.1.5): a part only of what the client has the rest of.
    let same = headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == tag.as_bytes());
    let part = match asked(headers.get(header::RANGE).filter(|_| same), total) {
        Asked::Whole => None,
        Asked::Part(part) => Some(part),
        Asked::Outside => return Ok(outside(total)),
    };
    let length = part.map_or(total, |part| part.last - part.first + 1);
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        tracing::info!(target: "audit", action = "recording.play", name = caller.name, tenant = %caller.tenant,
            recording_id = %id, call_id = %id.call, first = part.map_or(0, |p| p.first), bytes = length, "playback");
        open(&shared, &caller, id, part.map_or(0, |part| part.first), length).await?
    };
    let mut response = Response::new(body);
    let set = response.headers_mut();
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static("audio/wav"));
    set.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    set.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    set.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        set.insert(header::ETAG, tag);
    }
    if let Some(Part { first, last }) = part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        if let Ok(value) = HeaderValue::from_str(&format!("bytes {first}-{last}/{total}")) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

fn outside(total: u64) -> Response {
    let mut response = Problem::range(total).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{total}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// Size and ETag of a recording that the caller may hear.
async fn find(shared: &Shared, caller: &Caller, id: RecordingId) -> Result<(u64, String), Problem> {
    let missing = || Problem::not_found("There is no such recording in this tenant.");
    let contact = visible(shared, caller, id.call).await.map_err(|problem| match problem.status() {
        StatusCode::NOT_FOUND => missing(),
        _ => problem,
    })?;
    let name = id.to_string();
    let recording = contact.recordings.into_iter().find(|r| r.recording_id == name).ok_or_else(missing)?;
    match recording.state.as_str() {
        "available" => {}
        "recording" => {
            return Err(Problem::not_found("The recording is still being made: ask again after the call."));
        }
        _ => return Err(Problem::not_found(format!("There is no audio: {}", recording.detail))),
    }
    let total = u64::try_from(recording.size_bytes).unwrap_or(0);
    let tag = if recording.sha256.is_empty() {
        format!("\"{name}-{total}\"")
    } else {
        format!("\"{}\"", recording.sha256.chars().filter(char::is_ascii_alphanumeric).collect::<String>())
    };
    Ok((total, tag))
}

/// Opens the stream and waits for its first chunk, so that a failure is still an answer of its own.
async fn open(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: RecordingId,
    first: u64,
    length: u64,
) -> Result<Body, Problem> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let request = proto::ReadRecordingRequest {
        tenant: caller.tenant.to_string(),
        recording_id: id.to_string(),
        offset: signed(first),
        length: signed(length),
    };
    let mut client = shared.records.client();
    let mut chunks = shared.records.answer("recording", client.read_recording(request)).await?;
    let head = match timeout(shared.records.limit(), chunks.message()).await {
        Ok(Ok(Some(chunk))) => chunk.data,
        Ok(Ok(None)) => Bytes::new(),
        Ok(Err(status)) => return Err(Problem::from_status(&status, "recording")),
        Err(_) => return Err(Problem::timeout()),
    };
    let reading = Reading { shared: Arc::clone(shared), chunks, head: Some(head), left: length };
    Ok(Body::from_stream(stream::try_unfold(reading, Reading::next)))
}

/// The rest of an answer.
struct Reading {
    shared: Arc<Shared>,
    chunks: Streaming<proto::RecordingChunk>,
    head: Option<Bytes>,
    left: u64,
}

impl Reading {
    /// The next chunk, never more than was promised. An error cuts the connection, so that the client notices.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, std::io::Error> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut data = match self.head.take() {
            Some(head) => head,
            None => match timeout(self.shared.records.limit(), self.chunks.message()).await {
                Ok(Ok(Some(chunk))) => chunk.data,
                Ok(Ok(None)) => return Err(std::io::Error::other("the recording ended early")),
                Ok(Err(status)) => return Err(std::io::Error::other(status.message().to_owned())),
                Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
            },
        };
        data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= data.len() as u64;
        self.shared.ports.metrics.recording_bytes.inc_by(data.len() as u64);
        Ok(Some((data, self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        let part = |first, last| Asked::Part(Part { first, last });
        for (text, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-", part(0, 999)),
            ("bytes=900-2000", part(900, 999)),
            ("bytes=-10", part(990, 999)),
            ("bytes=-5000", part(0, 999)),
            ("bytes=999-", part(999, 999)),
            ("bytes=1000-", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=5-4", Asked::Whole),
            ("bytes=0-1,5-6", Asked::Whole),
            ("lines=0-1", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=0-99999999999999999999999", Asked::Whole),
        ] {
            assert_eq!(asked(Some(&HeaderValue::from_static(text)), 1_000), expected, "{text}");
        }
        assert_eq!(asked(None, 1_000), Asked::Whole);
        assert_eq!(asked(Some(&HeaderValue::from_static("bytes=0-")), 0), Asked::Outside);
    }
}
