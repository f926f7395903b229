use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio_stream::Stream;
use trunkline_proto::cluster::v1::{Hello, LinkRequest, link_request::Message};

use super::{Link, queue::Next};

/// What one connection of a link sends. It takes from the link's queue only when the connection has room, so batches grow
/// while it is busy, and a single envelope leaves at once while it is not.
pub(super) struct Outgoing {
    link: Arc<Link>,
    connection: u64,
    hello: Option<Hello>,
}

impl Outgoing {
    pub(super) fn new(link: Arc<Link>, connection: u64, hello: Hello) -> Self {
        Self { link, connection, hello: Some(hello) }
    }
}

impl Stream for Outgoing {
    type Item = LinkRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LinkRequest>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(LinkRequest { message: Some(Message::Hello(hello)) }));
        }
        let link = &self.link;
        let mut expired = 0;
        let next = link.queue.lock().next(
            self.connection,
            (link.now)(),
            &link.options,
            &mut expired,
            context.waker(),
        );
        link.expired(expired);
        match next {
            Next::Batch { batch, again } => {
                let n = batch.envelopes.len() as u64;
                link.metrics.batch.observe(n as f64);
                if again { &link.metrics.resent } else { &link.metrics.sent }.inc_by(n);
                Poll::Ready(Some(LinkRequest { message: Some(Message::Batch(batch)) }))
            }
            Next::Wait => Poll::Pending,
            Next::End => Poll::Ready(None),
        }
    }
}
