use object_store::{ObjectStoreExt, path::Path};
use tokio_stream::StreamExt;
use tonic::Status;
use trunkline_proto::records::v1::{ReadRecordingRequest, RecordingChunk};
use trunkline_rpc::ErrorKind;
use trunkline_types::RecordingId;

use super::{Service, Streaming, failed};

const CHUNK_BYTES: usize = 64 * 1024;

/// The bytes of a stored recording from `offset` on.
pub(super) async fn read(
    service: &Service,
    wanted: ReadRecordingRequest,
) -> Result<Streaming<RecordingChunk>, Status> {
    let id: RecordingId = wanted
        .recording_id
        .parse()
        .map_err(|_| ErrorKind::Invalid.status("recording_id: not the id of a recording"))?;
    let contact = service.contact(&wanted.tenant, &id.call.to_string()).await.map_err(failed)?;
    let recording =
        contact.and_then(|c| c.recordings.into_iter().find(|r| r.recording_id == wanted.recording_id));
    let Some(recording) = recording else {
        return Err(ErrorKind::NotFound.status("there is no such recording"));
    };
    match recording.state.as_str() {
        "available" => {}
        "recording" => return Err(ErrorKind::Conflict.status("the recording is not finished yet")),
        _ => return Err(ErrorKind::NotFound.status(format!("the recording failed: {}", recording.detail))),
    }
    let path =
        Path::parse(&recording.detail).map_err(|error| ErrorKind::Internal.status(error.to_string()))?;
    let total = service.objects.head(&path).await.map_err(missing)?.size;
    let offset = u64::try_from(wanted.offset).unwrap_or(0).min(total);
    let asked = u64::try_from(wanted.length).unwrap_or(0);
    let end = if asked == 0 { total } else { offset.saturating_add(asked).min(total) };
    Ok(chunks(service, path, offset..end, total))
}

fn missing(error: object_store::Error) -> Status {
    match error {
        object_store::Error::NotFound { .. } => {
            ErrorKind::NotFound.status("the recording's file is not in the store any more")
        }
        error => {
            tracing::error!(%error, "the recordings' store cannot be read");
            ErrorKind::Unavailable.status("the recordings' store cannot be read now")
        }
    }
}

/// Reads piece by piece, as the reader takes them.
fn chunks(
    service: &Service,
    path: Path,
    range: std::ops::Range<u64>,
    total: u64,
) -> Streaming<RecordingChunk> {
    let objects = service.objects.clone();
    let read_bytes = service.metrics.read_bytes.clone();
    let starts: Vec<u64> =
        if range.is_empty() { vec![range.start] } else { range.clone().step_by(CHUNK_BYTES).collect() };
    let stream = tokio_stream::iter(starts).then(move |start| {
        let (objects, path, read_bytes) = (objects.clone(), path.clone(), read_bytes.clone());
        let end = (start + CHUNK_BYTES as u64).min(range.end);
        async move {
            let data = if start < end {
                objects.get_range(&path, start..end).await.map_err(missing)?
            } else {
                Default::default()
            };
            read_bytes.inc_by(data.len() as u64);
            let total_bytes = i64::try_from(total).unwrap_or(i64::MAX);
            Ok(RecordingChunk { data, total_bytes })
        }
    });
    Box::pin(stream)
}
