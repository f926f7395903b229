//! The gRPC service over the folds.

mod intervals;
mod live;
mod recording;

use std::{pin::Pin, sync::Arc};

use object_store::ObjectStore;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use trunkline_proto::records::v1::{
    Contact, GetContactRequest, GetIntervalsRequest, GetIntervalsResponse, ListContactsRequest,
    ListContactsResponse, LiveSnapshot, ReadRecordingRequest, RecordingChunk, WatchLiveRequest,
    records_server::Records,
};
use trunkline_rpc::ErrorKind;

use crate::{
    Directory,
    metrics::RecordsMetrics,
    projector::Shared,
    store::{Store, StoreError},
};

const PAGE: u32 = 50;
const PAGE_MOST: u32 = 200;

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
pub(crate) struct Service {
    pub store: Store,
    pub shared: Shared,
    pub objects: Arc<dyn ObjectStore>,
    pub directory: Arc<dyn Directory>,
    pub metrics: RecordsMetrics,
    pub now: fn() -> trunkline_types::Timestamp,
}

impl Service {
    /// As it is now: the row of a call that is up may be some seconds behind.
    async fn contact(&self, tenant: &str, call: &str) -> Result<Option<Contact>, StoreError> {
        if let Some(contact) = self.shared.contacts.lock().get(tenant, call) {
            return Ok(Some(contact.clone()));
        }
        Ok(self.store.contact(tenant, call).await?.map(|(contact, _)| contact))
    }
}

fn failed(error: StoreError) -> Status {
    tracing::error!(%error, "a query of the records failed");
    ErrorKind::Unavailable.status("the records cannot be read now")
}

#[tonic::async_trait]
impl Records for Service {
    async fn list_contacts(
        &self,
        request: Request<ListContactsRequest>,
    ) -> Result<Response<ListContactsResponse>, Status> {
        let wanted = request.into_inner();
        let size = if wanted.page_size == 0 { PAGE } else { wanted.page_size.min(PAGE_MOST) };
        let cursor = read_cursor(&wanted.cursor)?;
        let mut contacts = self.store.contacts(&wanted, cursor, size + 1).await.map_err(failed)?;
        let next_cursor = if contacts.len() > size as usize {
            contacts.truncate(size as usize);
            contacts.last().map(|c| format!("{}.{}", c.started_us, c.call_id)).unwrap_or_default()
        } else {
            String::new()
        };
        Ok(Response::new(ListContactsResponse { contacts, next_cursor }))
    }

    async fn get_contact(&self, request: Request<GetContactRequest>) -> Result<Response<Contact>, Status> {
        let wanted = request.into_inner();
        let contact = self.contact(&wanted.tenant, &wanted.call_id).await.map_err(failed)?;
        contact.map(Response::new).ok_or_else(|| ErrorKind::NotFound.status("there is no such contact"))
    }

    type WatchLiveStream = Streaming<LiveSnapshot>;

    async fn watch_live(
        &self,
        request: Request<WatchLiveRequest>,
    ) -> Result<Response<Self::WatchLiveStream>, Status> {
        Ok(Response::new(live::watch(self, request.into_inner().tenant)?))
    }

    async fn get_live(&self, request: Request<WatchLiveRequest>) -> Result<Response<LiveSnapshot>, Status> {
        let tenant = live::tenant(&request.into_inner().tenant)?;
        Ok(Response::new(live::snapshot(&self.shared, &*self.directory, &tenant, (self.now)().as_micros())))
    }

    type ReadRecordingStream = Streaming<RecordingChunk>;

    async fn read_recording(
        &self,
        request: Request<ReadRecordingRequest>,
    ) -> Result<Response<Self::ReadRecordingStream>, Status> {
        recording::read(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_intervals(
        &self,
        request: Request<GetIntervalsRequest>,
    ) -> Result<Response<GetIntervalsResponse>, Status> {
        intervals::get(self, request.into_inner()).await.map(Response::new)
    }
}

fn read_cursor(cursor: &str) -> Result<(i64, String), Status> {
    if cursor.is_empty() {
        return Ok((i64::MAX, String::new()));
    }
    cursor
        .split_once('.')
        .and_then(|(started, call)| Some((started.parse().ok()?, call.to_owned())))
        .ok_or_else(|| ErrorKind::Invalid.status("cursor: not one that this service gave out"))
}
