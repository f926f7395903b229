use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Streaming;
use trunkline_proto::records::v1 as proto;
use trunkline_types::TenantId;

use super::{Records, views::LiveSnapshot};
use crate::{
    auth::{Auth, Caller, Right},
    config::Timings,
    metrics::ConsoleMetrics,
    problem::Problem,
    server::Shared,
};

/// The last numbers as JSON; none before the first ones came.
type Numbers = Option<Arc<str>>;

/// Live numbers: one stream from the records role for each tenant that somebody looks at, shared by all who do.
pub(crate) struct LiveHub {
    records: Records,
    timings: Timings,
    metrics: ConsoleMetrics,
    streams: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, watch::Sender<Numbers>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl LiveHub {
    pub(crate) fn new(
        records: Records,
        timings: Timings,
        metrics: ConsoleMetrics,
        max_streams: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(max_streams));
        Self { records, timings, metrics, streams, tenants: Mutex::default(), tasks, stop }
    }

    /// A place among the streams and the numbers of a tenant.
    fn subscribe(
        self: &Arc<Self>,
        tenant: &TenantId,
    ) -> Result<(OwnedSemaphorePermit, watch::Receiver<Numbers>), Problem> {
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Problem::busy("Too many streams of live numbers: close some pages."))?;
        let mut tenants = self.tenants.lock();
        let sender = tenants.entry(tenant.clone()).or_insert_with(|| {
            let sender = watch::Sender::new(None);
            self.tasks.spawn(Arc::clone(self).feed(tenant.clone(), sender.clone()));
            sender
        });
        let mut receiver = sender.subscribe();
        receiver.mark_changed();
        Ok((permit, receiver))
    }

    /// Keeps one tenant's numbers new until nobody looks any more.
    async fn feed(self: Arc<Self>, tenant: TenantId, sender: watch::Sender<Numbers>) {
        self.metrics.live_upstreams.inc();
        let mut wait = Duration::from_millis(250);
        loop {
            let mut client = self.records.client();
            let request = proto::WatchLiveRequest { tenant: tenant.to_string() };
            let ended = match timeout(self.records.limit(), client.watch_live(request)).await {
                Ok(Ok(stream)) => {
                    let before = sender.borrow().clone();
                    let ended = self.pass_on(&tenant, stream.into_inner(), &sender).await;
                    if *sender.borrow() != before {
                        wait = Duration::from_millis(250);
                    }
                    ended
                }
                Ok(Err(status)) => {
                    tracing::info!(code = %status.code(), "live numbers are not to be had; trying again");
                    false
                }
                Err(_) => false,
            };
            if ended || self.pause(&tenant, &sender, wait).await {
                break;
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        self.metrics.live_upstreams.dec();
    }

    /// Passes numbers on, at most one set for each `timings.live`; the newest counts. True: nobody looks any more, or
    /// the node stops.
    async fn pass_on(
        &self,
        tenant: &TenantId,
        mut stream: Streaming<proto::LiveSnapshot>,
        sender: &watch::Sender<Numbers>,
    ) -> bool {
        let mut next = Instant::now();
        let mut newest: Numbers = None;
        let mut unwatched: Option<Instant> = None;
        let mut look = tokio::time::interval((self.timings.live_linger / 4).max(Duration::from_millis(10)));
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return true,
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        newest = serde_json::to_string(&LiveSnapshot::from(message)).ok().map(Into::into);
                    }
                    Ok(None) => return false,
                    Err(status) => {
                        tracing::info!(code = %status.code(), "live numbers broke off; asking again");
                        return false;
                    }
                },
                () = sleep_until(next), if newest.is_some() => {
                    sender.send_replace(newest.take());
                    next = Instant::now() + self.timings.live;
                }
                _ = look.tick() => {
                    if sender.receiver_count() > 0 {
                        unwatched = None;
                    } else if unwatched.get_or_insert_with(Instant::now).elapsed() >= self.timings.live_linger
                        && self.forget(tenant, sender)
                    {
                        return true;
                    }
                }
            }
        }
    }

    /// Waits before the next try. True: nobody looks any more, or the node stops.
    async fn pause(&self, tenant: &TenantId, sender: &watch::Sender<Numbers>, wait: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => true,
            () = tokio::time::sleep(wait) => sender.receiver_count() == 0 && self.forget(tenant, sender),
        }
    }

    /// Under the lock under which others subscribe: nobody can come in between.
    fn forget(&self, tenant: &TenantId, sender: &watch::Sender<Numbers>) -> bool {
        let mut tenants = self.tenants.lock();
        let over = sender.receiver_count() == 0;
        if over {
            tenants.remove(tenant);
        }
        over
    }
}

/// `GET /live`
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<LiveSnapshot>, Problem> {
    let request = proto::WatchLiveRequest { tenant: caller.tenant.to_string() };
    let mut client = shared.records.client();
    let numbers = shared.records.answer("tenant", client.get_live(request)).await?;
    Ok(Json(numbers.into()))
}

/// One open page.
struct Watching {
    numbers: watch::Receiver<Numbers>,
    caller: Caller,
    auth: Arc<Auth>,
    stop: CancellationToken,
    check: tokio::time::Interval,
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

/// Counts for as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Watching {
    /// The next event; the stream ends with the sign-in or when the node stops.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                changed = self.numbers.changed() => {
                    changed.ok()?;
                    let numbers = self.numbers.borrow_and_update().clone();
                    if let Some(numbers) = numbers {
                        let event = Event::default().event("live").data(numbers);
                        return Some((Ok(event), self));
                    }
                }
                _ = self.check.tick() => {
                    if !self.auth.still_holds(&self.caller, Right::ReadLive) {
                        return None;
                    }
                }
            }
        }
    }
}

/// `GET /live/stream`
pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
) -> Result<impl IntoResponse, Problem> {
    let (permit, numbers) = shared.live.subscribe(&caller.tenant)?;
    let watching = Watching {
        numbers,
        caller,
        auth: Arc::clone(&shared.auth),
        stop: shared.stop.clone(),
        check: tokio::time::interval(Duration::from_secs(1)),
        _permit: permit,
        _counted: Counted::new(&shared.ports.metrics.live_streams),
    };
    let keep_alive = KeepAlive::new().interval(shared.config.timings.live_keepalive);
    // Proxies must not collect the stream.
    let headers = [("x-accel-buffering", "no"), ("cache-control", "no-store")];
    Ok((headers, Sse::new(stream::unfold(watching, Watching::next)).keep_alive(keep_alive)))
}
