//! The receiving end of links.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use trunkline_proto::{
    cluster::v1::{
        Batch, Hello, LinkRequest, LinkResponse, Moved, PingRequest, PingResponse, link_request::Message,
        link_server::Link,
    },
    common::v1::Envelope,
};
use trunkline_types::NodeId;

use super::Remote;
use crate::{Bus, ErrorKind, lane::Lane, metrics::LaneMetrics};

/// A stream begins with its `Hello` within this.
const HELLO: Duration = Duration::from_secs(5);
/// Senders that are remembered; beyond it those that are no members are forgotten.
const SENDERS: usize = 4_096;
/// Shards told of in one answer.
const MOVED: usize = 256;

/// How far each sender's lanes were taken.
#[derive(Default)]
pub(crate) struct Sequences(Mutex<HashMap<Sender, Arc<Mutex<Sequence>>>>);

/// A node and a lane.
type Sender = (NodeId, usize);

/// One lane of one sender.
#[derive(Debug, Default)]
struct Sequence {
    /// The sender's life and its link: a higher one begins a new sequence.
    link: (u64, u64),
    /// Everything up to here was taken, or will never come.
    taken: u64,
    /// The stream that may deliver: the last one that said hello.
    stream: u64,
}

impl Sequences {
    fn of(&self, node: NodeId, lane: Lane, remote: &Remote) -> Arc<Mutex<Sequence>> {
        let mut senders = self.0.lock();
        if senders.len() >= SENDERS {
            senders.retain(|(node, _), _| remote.placement.node(node).is_some());
        }
        Arc::clone(senders.entry((node, lane.index())).or_default())
    }
}

impl Sequence {
    /// A stream begins. `None` = it is one of a former link.
    fn begin(&mut self, link: (u64, u64)) -> Option<u64> {
        if link < self.link {
            return None;
        }
        if link > self.link {
            (self.link, self.taken) = (link, 0);
        }
        self.stream += 1;
        Some(self.stream)
    }
}

/// The `Link` service of a node.
#[derive(Clone)]
pub(crate) struct LinkService {
    bus: Bus,
    remote: Arc<Remote>,
}

impl LinkService {
    pub(crate) fn new(bus: Bus, remote: Arc<Remote>) -> Self {
        Self { bus, remote }
    }

    fn welcome(&self, hello: &Hello) -> Result<(NodeId, Lane), Status> {
        let local = self.remote.placement.local();
        if hello.to_node != local.id.as_str() || hello.to_incarnation != local.incarnation.0 {
            let why = format!("this is {local}, not {}/{}", hello.to_node, hello.to_incarnation);
            return Err(ErrorKind::Moved.status(why));
        }
        let node =
            hello.node.parse().map_err(|error| ErrorKind::Invalid.status(format!("hello.node: {error}")))?;
        let lane = Lane::from_wire(hello.lane())
            .ok_or_else(|| ErrorKind::Invalid.status("hello.lane: unknown; is the sender newer?"))?;
        Ok((node, lane))
    }
}

#[tonic::async_trait]
impl Link for LinkService {
    type OpenStream = Answers;

    async fn open(&self, request: Request<Streaming<LinkRequest>>) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let first = timeout(HELLO, requests.message()).await;
        let first = first.map_err(|_| ErrorKind::Deadline.status("no hello in time"))??;
        let Some(Message::Hello(hello)) = first.and_then(|request| request.message) else {
            return Err(ErrorKind::Invalid.status("the first message is not a hello"));
        };
        let (node, lane) = self.welcome(&hello)?;
        let sequence = self.remote.sequences.of(node.clone(), lane, &self.remote);
        let begun = {
            let mut sequence = sequence.lock();
            sequence.begin((hello.incarnation, hello.link_id)).map(|stream| (stream, sequence.taken))
        };
        let Some((stream, taken)) = begun else {
            return Err(ErrorKind::Conflict.status("a later link of this node is known"));
        };
        let answers = Answers::new(taken);
        let taking = Taking {
            bus: self.bus.clone(),
            remote: Arc::clone(&self.remote),
            sequence,
            stream,
            node,
            metrics: self.remote.metrics.lane(lane),
            answers: answers.clone(),
        };
        tokio::spawn(taking.run(requests));
        Ok(Response::new(answers))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let local = self.remote.placement.local();
        Ok(Response::new(PingResponse {
            node: local.id.as_str().to_owned(),
            incarnation: local.incarnation.0,
        }))
    }
}

/// A stream that is being read.
struct Taking {
    bus: Bus,
    remote: Arc<Remote>,
    sequence: Arc<Mutex<Sequence>>,
    stream: u64,
    node: NodeId,
    metrics: LaneMetrics,
    answers: Answers,
}

impl Taking {
    async fn run(self, mut requests: Streaming<LinkRequest>) {
        let mut stopped = self.remote.stopped();
        let status = loop {
            let request = tokio::select! {
                request = requests.message() => request,
                _ = stopped.wait_for(|stop| *stop) => break ErrorKind::Unavailable.status("the node stops"),
            };
            match request {
                Ok(Some(LinkRequest { message: Some(Message::Batch(batch)) })) => {
                    if batch.first.checked_add(batch.envelopes.len() as u64).is_none() {
                        break ErrorKind::Invalid.status("batch.first: there are no such numbers");
                    }
                    if !self.take(batch) {
                        break ErrorKind::Conflict.status("a later stream of this link is known");
                    }
                }
                Ok(Some(_)) => break ErrorKind::Invalid.status("expected a batch"),
                Ok(None) => break Status::ok("end"),
                Err(status) => break status,
            }
        };
        tracing::debug!(node = %self.node, %status, "a link to this node ended");
        self.answers.end(status);
    }

    /// Delivers what is new. (A number behind the last one fits: it was checked.) False = the link has another stream.
    fn take(&self, batch: Batch) -> bool {
        let now = (self.remote.now)();
        // Of the same instant as the sender's: on the way nothing is added to deadlines.
        let shift = now.as_micros().saturating_sub(batch.sent_us);
        let mut moved = Vec::new();
        // Held while the batch is delivered, so that a stream and its successor cannot deliver side by side.
        let mut sequence = self.sequence.lock();
        if sequence.stream != self.stream {
            return false;
        }
        for (number, bytes) in (batch.first..).zip(batch.envelopes) {
            if number <= sequence.taken {
                self.metrics.duplicate.inc();
                continue;
            }
            sequence.taken = number;
            self.metrics.received.inc();
            match Envelope::decode(bytes) {
                Ok(mut envelope) => {
                    if envelope.deadline_us != 0 && batch.sent_us != 0 {
                        envelope.deadline_us = envelope.deadline_us.saturating_add(shift);
                    }
                    self.bus.accept(&self.remote, envelope, &mut moved);
                }
                Err(error) => tracing::warn!(node = %self.node, %error, "an envelope cannot be decoded"),
            }
        }
        let taken = sequence.taken;
        drop(sequence);
        self.answers.acknowledge(taken, moved);
        true
    }
}

impl Drop for Taking {
    /// However it ends, by a panic of a receiver too, the sender is told and connects again.
    fn drop(&mut self) {
        self.answers.end(ErrorKind::Internal.status("the stream was given up"));
    }
}

/// What goes back: the last acknowledgement replaces those before it, so nothing piles up when the sender does not read.
#[derive(Clone)]
pub(crate) struct Answers(Arc<Mutex<Answer>>);

struct Answer {
    response: Option<LinkResponse>,
    end: Option<Status>,
    ended: bool,
    waker: Option<Waker>,
}

impl Answers {
    /// Begins with what was taken before.
    fn new(taken: u64) -> Self {
        let response = Some(LinkResponse { acknowledged: taken, moved: Vec::new() });
        Self(Arc::new(Mutex::new(Answer { response, end: None, ended: false, waker: None })))
    }

    fn acknowledge(&self, taken: u64, moved: Vec<Moved>) {
        let mut answer = self.0.lock();
        let response = answer.response.get_or_insert_default();
        response.acknowledged = taken;
        for moved in moved {
            match response.moved.iter().position(|known| known.shard == moved.shard) {
                Some(known) => response.moved[known] = moved,
                None if response.moved.len() < MOVED => response.moved.push(moved),
                // The map will tell.
                None => {}
            }
        }
        answer.wake();
    }

    fn end(&self, status: Status) {
        let mut answer = self.0.lock();
        if answer.end.is_none() && !answer.ended {
            answer.end = Some(status);
        }
        answer.wake();
    }
}

impl Answer {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Stream for Answers {
    type Item = Result<LinkResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut answer = self.0.lock();
        if let Some(response) = answer.response.take() {
            return Poll::Ready(Some(Ok(response)));
        }
        if answer.ended {
            return Poll::Ready(None);
        }
        if let Some(status) = answer.end.take() {
            answer.ended = true;
            return Poll::Ready((status.code() != tonic::Code::Ok).then_some(Err(status)));
        }
        answer.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_link_begins_anew_and_a_former_one_is_refused() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.begin((1, 10)), Some(1));
        sequence.taken = 5;
        assert_eq!((sequence.begin((1, 10)), sequence.taken), (Some(2), 5), "the same link goes on");
        assert_eq!((sequence.begin((1, 11)), sequence.taken), (Some(3), 0));
        assert_eq!(sequence.begin((1, 10)), None);
        assert_eq!(sequence.begin((2, 1)), Some(4), "the sender's next life");
    }
}
