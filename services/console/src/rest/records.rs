use std::{future::Future, time::Duration};

use tokio::time::timeout;
use tonic::{Response, Status};
use trunkline_proto::records::v1::records_client::RecordsClient;
use trunkline_rpc::Traced;

use crate::problem::Problem;

/// The records role, with a limit to each wait.
#[derive(Clone)]
pub(crate) struct Records {
    client: RecordsClient<Traced>,
    limit: Duration,
}

impl Records {
    pub(crate) fn new(client: RecordsClient<Traced>, limit: Duration) -> Self {
        Self { client, limit }
    }

    /// A client for one call.
    pub(crate) fn client(&self) -> RecordsClient<Traced> {
        self.client.clone()
    }

    /// Awaits an answer. `what` names the thing for "not found".
    pub(crate) async fn answer<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Problem> {
        match timeout(self.limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Problem::from_status(&status, what)),
            Err(_) => Err(Problem::timeout()),
        }
    }

    /// The limit of one wait.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}
