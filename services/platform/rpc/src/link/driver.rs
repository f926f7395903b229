//! Keeps a link connected while it has something to say.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tonic::{Streaming, transport::Uri};
use trunkline_cluster::Placement;
use trunkline_proto::cluster::v1::{Hello, LinkResponse, Moved, link_client::LinkClient};

use super::{Link, Outgoing};
use crate::{Tls, dial, metrics::BusMetrics};

/// The peer must take the stream within this.
const OPEN: Duration = Duration::from_secs(3);

/// What a link's task needs besides the link.
pub(crate) struct Drive {
    pub(crate) placement: Arc<dyn Placement>,
    pub(crate) tls: Option<Tls>,
    pub(crate) metrics: BusMetrics,
    pub(crate) stop: watch::Receiver<bool>,
    /// Told of what the peer does not own.
    pub(crate) moved: Box<dyn Fn(Vec<Moved>) + Send + Sync>,
    /// Told that the peer was lost, or not reached.
    pub(crate) lost: Box<dyn Fn() + Send + Sync>,
}

/// Connects when there is something to send, again when the connection is lost, until the link is retired.
pub(crate) async fn drive(link: Arc<Link>, mut drive: Drive) {
    let mut failures = 0_u32;
    while !link.retired() {
        if link.is_empty() {
            tokio::select! {
                () = link.wanted.notified() => continue,
                _ = drive.stop.wait_for(|stop| *stop) => return,
            }
        }
        let mut stop = drive.stop.clone();
        let ended = tokio::select! {
            ended = connection(&link, &drive) => ended,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        disconnected(&link);
        match ended {
            Ended::Idle => failures = 0,
            Ended::Lost { answered, why } => {
                failures = if answered { 1 } else { failures.saturating_add(1) };
                tracing::debug!(peer = %link.peer, lane = link.lane.as_str(), failures, why, "link lost");
                (drive.lost)();
                tokio::select! {
                    () = tokio::time::sleep(pause(&link, failures)) => {}
                    _ = drive.stop.wait_for(|stop| *stop) => return,
                }
            }
        }
    }
}

/// Doubles with each failure in a row; half of it is by chance, so that the links of a node that comes back do not all
/// arrive at once.
fn pause(link: &Link, failures: u32) -> Duration {
    let options = &link.options;
    let whole = options.first_pause.saturating_mul(1 << (failures - 1).min(16)).min(options.longest_pause);
    whole.mul_f64(rand::random_range(0.5..1.0))
}

fn disconnected(link: &Link) {
    let waker = link.queue.lock().disconnect();
    if let Some(waker) = waker {
        waker.wake();
    }
}

enum Ended {
    /// Nothing to say any more.
    Idle,
    Lost {
        /// Whether the peer had said anything.
        answered: bool,
        why: String,
    },
}

/// The life of one connection.
async fn connection(link: &Arc<Link>, drive: &Drive) -> Ended {
    let lost = |why: String| Ended::Lost { answered: false, why };
    let answers = match timeout(dial::PING_ANSWER + OPEN, open(link, drive)).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(why)) => {
            drive.metrics.connect("failed");
            return lost(why);
        }
        Err(_) => {
            drive.metrics.connect("failed");
            return lost("not taken in time".to_owned());
        }
    };
    drive.metrics.connect("ok");
    link.metrics.connected.inc();
    let ended = listen(link, drive, answers).await;
    link.metrics.connected.dec();
    ended
}

async fn open(link: &Arc<Link>, drive: &Drive) -> Result<Streaming<LinkResponse>, String> {
    let (address, tls) = (link.address.clone(), drive.tls.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move { dial::connect(&address, tls.as_ref()).await.map(TokioIo::new) }
    });
    let channel = dial::endpoint().connect_with_connector(connector).await.map_err(|error| chain(&error))?;
    let local = drive.placement.local();
    let hello = Hello {
        node: local.id.as_str().to_owned(),
        incarnation: local.incarnation.0,
        lane: link.lane.wire().into(),
        to_node: link.peer.id.as_str().to_owned(),
        to_incarnation: link.peer.incarnation.0,
        link_id: link.id,
    };
    let (connection, late) = link.queue.lock().connect((link.now)());
    link.expired(late);
    let outgoing = Outgoing::new(Arc::clone(link), connection, hello);
    let answer = timeout(OPEN, LinkClient::new(channel).open(outgoing)).await;
    match answer {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("the peer did not answer in time".to_owned()),
    }
}

async fn listen(link: &Arc<Link>, drive: &Drive, mut answers: Streaming<LinkResponse>) -> Ended {
    let mut answered = false;
    let mut busy = Instant::now();
    loop {
        let next = timeout(link.options.idle, answers.message()).await;
        match next {
            Ok(Ok(Some(answer))) => {
                answered = true;
                busy = Instant::now();
                link.acknowledge(answer.acknowledged);
                if !answer.moved.is_empty() {
                    (drive.moved)(answer.moved);
                }
            }
            Ok(Ok(None)) => return Ended::Lost { answered, why: "the peer ended the stream".to_owned() },
            Ok(Err(status)) => return Ended::Lost { answered, why: status.to_string() },
            Err(_) if busy.elapsed() >= link.options.idle && link.queue.lock().disconnect_idle() => {
                return Ended::Idle;
            }
            Err(_) => {}
        }
    }
}

/// An error with what is behind it, which tonic's own text leaves out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
