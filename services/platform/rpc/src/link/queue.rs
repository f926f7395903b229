//! What waits on a link: numbered, limited, and kept until it is acknowledged.

use std::{collections::VecDeque, task::Waker};

use bytes::Bytes;
use trunkline_proto::cluster::v1::Batch;
use trunkline_types::Timestamp;

use super::{LinkOptions, Parcel};

/// Why a link takes nothing.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// As much waits as may.
    Full,
    /// The peer has gone or has another life: there is another way, or none.
    Retired,
}

/// The parcels of a link, oldest first: those that were sent and not acknowledged, then those that were not sent.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    sent: VecDeque<(u64, Parcel)>,
    waiting: VecDeque<Parcel>,
    sent_bytes: usize,
    waiting_bytes: usize,
    /// The last number given.
    last: u64,
    /// How many of `sent` went out on the present connection.
    again: usize,
    /// The connection that may take; 0 = none.
    connection: u64,
    connections: u64,
    retired: bool,
    waker: Option<Waker>,
}

/// What a connection gets when it asks for more.
pub(crate) enum Next {
    /// These, for the first time or again.
    Batch { batch: Batch, again: bool },
    /// Nothing at present.
    Wait,
    /// This connection is not the link's any more.
    End,
}

impl Queue {
    /// Takes a parcel, and gives who has to be woken.
    pub(crate) fn push(&mut self, parcel: Parcel, limits: &LinkOptions) -> Result<Option<Waker>, NotTaken> {
        if self.retired {
            return Err(NotTaken::Retired);
        }
        let bytes = self.sent_bytes + self.waiting_bytes + parcel.bytes.len();
        if self.len() >= limits.queued || bytes > limits.queued_bytes {
            return Err(NotTaken::Full);
        }
        self.waiting_bytes += parcel.bytes.len();
        self.waiting.push_back(parcel);
        Ok(self.waker.take())
    }

    /// The next batch for `connection`, stamped `now`. `expired` counts what was dropped.
    pub(crate) fn next(
        &mut self,
        connection: u64,
        now: Timestamp,
        limits: &LinkOptions,
        expired: &mut usize,
        waker: &Waker,
    ) -> Next {
        if self.connection != connection {
            return Next::End;
        }
        let again = self.again < self.sent.len();
        let batch = if again { self.resend(limits) } else { self.take(now, limits, expired) };
        match batch {
            Some((first, envelopes)) => {
                Next::Batch { batch: Batch { first, envelopes, sent_us: now.as_micros() }, again }
            }
            None => {
                self.waker = Some(waker.clone());
                Next::Wait
            }
        }
    }

    /// Those that an earlier connection sent and that were not acknowledged: numbers in a row.
    fn resend(&mut self, limits: &LinkOptions) -> Option<(u64, Vec<Bytes>)> {
        let (first, _) = self.sent.get(self.again)?;
        let (first, mut bytes) = (*first, 0);
        let mut envelopes = Vec::new();
        for (number, parcel) in self.sent.range(self.again..) {
            let expected = first + envelopes.len() as u64;
            if *number != expected || envelopes.len() >= limits.batch || bytes >= limits.batch_bytes {
                break;
            }
            bytes += parcel.bytes.len();
            envelopes.push(parcel.bytes.clone());
        }
        self.again += envelopes.len();
        Some((first, envelopes))
    }

    fn take(
        &mut self,
        now: Timestamp,
        limits: &LinkOptions,
        expired: &mut usize,
    ) -> Option<(u64, Vec<Bytes>)> {
        let (first, mut bytes) = (self.last + 1, 0);
        let mut envelopes = Vec::new();
        while envelopes.len() < limits.batch
            && bytes < limits.batch_bytes
            && self.sent.len() < limits.unacknowledged
            && self.sent_bytes < limits.unacknowledged_bytes
        {
            let Some(parcel) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= parcel.bytes.len();
            if parcel.until < now {
                *expired += 1;
                continue;
            }
            bytes += parcel.bytes.len();
            envelopes.push(parcel.bytes.clone());
            self.last += 1;
            self.sent_bytes += parcel.bytes.len();
            self.sent.push_back((self.last, parcel));
        }
        self.again = self.sent.len();
        (!envelopes.is_empty()).then_some((first, envelopes))
    }

    /// Everything up to `number` was taken. Gives how many that were, and who may send more now.
    pub(crate) fn acknowledge(&mut self, number: u64) -> (usize, Option<Waker>) {
        let mut n = 0;
        while self.sent.front().is_some_and(|(sent, _)| *sent <= number) {
            if let Some((_, parcel)) = self.sent.pop_front() {
                self.sent_bytes -= parcel.bytes.len();
                n += 1;
            }
        }
        self.again = self.again.saturating_sub(n);
        let more = !self.waiting.is_empty();
        (n, if more { self.waker.take() } else { None })
    }

    /// A new connection takes over: what is not acknowledged goes out on it first, unless it is late. Gives the
    /// connection's number and how many were late.
    pub(crate) fn connect(&mut self, now: Timestamp) -> (u64, usize) {
        self.connections += 1;
        self.connection = self.connections;
        self.again = 0;
        self.waker = None;
        let before = self.sent.len();
        let bytes = &mut self.sent_bytes;
        self.sent.retain(|(_, parcel)| {
            let worth = parcel.until >= now;
            if !worth {
                *bytes -= parcel.bytes.len();
            }
            worth
        });
        (self.connection, before - self.sent.len())
    }

    /// No connection any more.
    pub(crate) fn disconnect(&mut self) -> Option<Waker> {
        self.connection = 0;
        self.again = 0;
        self.waker.take()
    }

    /// Ends the connection when nothing waits for it. True = it ended.
    pub(crate) fn disconnect_idle(&mut self) -> bool {
        let idle = self.len() == 0;
        if idle {
            self.connection = 0;
        }
        idle
    }

    pub(crate) fn connected(&self) -> bool {
        self.connection != 0
    }

    /// The link ends: nothing is taken any more, and what is left goes another way, in order.
    pub(crate) fn retire(&mut self) -> (Vec<Parcel>, Option<Waker>) {
        self.retired = true;
        self.connection = 0;
        self.sent_bytes = 0;
        self.waiting_bytes = 0;
        self.again = 0;
        let sent = std::mem::take(&mut self.sent).into_iter().map(|(_, parcel)| parcel);
        let left = sent.chain(std::mem::take(&mut self.waiting)).collect();
        (left, self.waker.take())
    }

    pub(crate) fn retired(&self) -> bool {
        self.retired
    }

    /// Takes out, in order, what `moved` says has another way now. What was sent stays when there is a connection: the
    /// peer has it, or will, and passes it on.
    pub(crate) fn take_moved(&mut self, mut moved: impl FnMut(&Parcel) -> bool) -> Vec<Parcel> {
        let mut left = Vec::new();
        if self.connection == 0 && self.sent.iter().any(|(_, parcel)| moved(parcel)) {
            for (number, parcel) in std::mem::take(&mut self.sent) {
                if moved(&parcel) {
                    self.sent_bytes -= parcel.bytes.len();
                    left.push(parcel);
                } else {
                    self.sent.push_back((number, parcel));
                }
            }
        }
        if self.waiting.iter().any(&mut moved) {
            for parcel in std::mem::take(&mut self.waiting) {
                if moved(&parcel) {
                    self.waiting_bytes -= parcel.bytes.len();
                    left.push(parcel);
                } else {
                    self.waiting.push_back(parcel);
                }
            }
        }
        left
    }

    /// Parcels on this link, sent or not.
    pub(crate) fn len(&self) -> usize {
        self.sent.len() + self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Origin;

    fn parcel(n: u8) -> Parcel {
        Parcel { bytes: vec![n; 10].into(), shard: None, until: Timestamp::MAX, origin: Origin::Here }
    }

    fn numbers(queue: &mut Queue, connection: u64, limits: &LinkOptions) -> Vec<(u64, u8)> {
        let (mut found, mut expired) = (Vec::new(), 0);
        while let Next::Batch { batch, .. } =
            queue.next(connection, Timestamp::from_millis(10), limits, &mut expired, Waker::noop())
        {
            let numbered = batch.envelopes.iter().enumerate();
            found.extend(numbered.map(|(i, envelope)| (batch.first + i as u64, envelope[0])));
        }
        found
    }

    #[test]
    fn what_is_not_acknowledged_goes_out_again_under_its_number() {
        let limits = LinkOptions { batch: 2, ..LinkOptions::default() };
        let mut queue = Queue::default();
        for n in 1..=5 {
            queue.push(parcel(n), &limits).unwrap();
        }
        let (first, _) = queue.connect(Timestamp::ZERO);
        assert_eq!(numbers(&mut queue, first, &limits), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
        assert_eq!(queue.acknowledge(3).0, 3);
        queue.push(parcel(6), &limits).unwrap();
        let (second, _) = queue.connect(Timestamp::ZERO);
        assert!(matches!(queue.next(first, Timestamp::ZERO, &limits, &mut 0, Waker::noop()), Next::End));
        assert_eq!(numbers(&mut queue, second, &limits), [(4, 4), (5, 5), (6, 6)]);
        assert_eq!(queue.acknowledge(6).0, 3);
        assert_eq!((queue.len(), queue.sent_bytes, queue.waiting_bytes), (0, 0, 0));
    }

    #[test]
    fn moved_parcels_leave_holes_and_order_stays() {
        let limits = LinkOptions::default();
        let mut queue = Queue::default();
        for n in 1..=4 {
            queue.push(parcel(n), &limits).unwrap();
        }
        let (connection, _) = queue.connect(Timestamp::ZERO);
        assert_eq!(numbers(&mut queue, connection, &limits).len(), 4);
        queue.push(parcel(5), &limits).unwrap();
        queue.push(parcel(6), &limits).unwrap();
        let moved = |queue: &mut Queue, wanted: &[u8]| -> Vec<u8> {
            queue.take_moved(|p| wanted.contains(&p.bytes[0])).iter().map(|p| p.bytes[0]).collect()
        };
        assert_eq!(moved(&mut queue, &[2, 5]), [5], "the peer has 2, or will");
        queue.disconnect();
        assert_eq!(moved(&mut queue, &[2]), [2]);
        let (connection, _) = queue.connect(Timestamp::ZERO);
        assert_eq!(numbers(&mut queue, connection, &limits), [(1, 1), (3, 3), (4, 4), (5, 6)]);
        let (left, _) = queue.retire();
        assert_eq!(left.iter().map(|p| p.bytes[0]).collect::<Vec<_>>(), [1, 3, 4, 6]);
        assert!(matches!(queue.push(parcel(7), &limits), Err(NotTaken::Retired)));
    }

    #[test]
    fn limits_hold_and_what_is_late_is_dropped() {
        let limits = LinkOptions { queued: 3, unacknowledged: 2, ..LinkOptions::default() };
        let mut queue = Queue::default();
        queue.push(Parcel { until: Timestamp::from_millis(9), ..parcel(1) }, &limits).unwrap();
        queue.push(parcel(2), &limits).unwrap();
        queue.push(parcel(3), &limits).unwrap();
        assert!(matches!(queue.push(parcel(4), &limits), Err(NotTaken::Full)));
        let (connection, _) = queue.connect(Timestamp::ZERO);
        let mut expired = 0;
        let now = Timestamp::from_millis(10);
        let next = queue.next(connection, now, &limits, &mut expired, Waker::noop());
        assert!(
            matches!(next, Next::Batch { batch, again: false } if batch.first == 1 && batch.envelopes.len() == 2)
        );
        assert_eq!(expired, 1);
        queue.push(parcel(5), &limits).unwrap();
        assert!(
            matches!(queue.push(parcel(6), &limits), Err(NotTaken::Full)),
            "what is sent counts until it is taken"
        );
        assert!(matches!(queue.next(connection, now, &limits, &mut 0, Waker::noop()), Next::Wait));
        let (n, waker) = queue.acknowledge(1);
        assert!(n == 1 && waker.is_some(), "there is room for more");
        let bytes = LinkOptions { queued_bytes: 35, ..LinkOptions::default() };
        assert!(queue.push(parcel(6), &bytes).is_ok());
        assert!(matches!(queue.push(parcel(7), &bytes), Err(NotTaken::Full)), "10 bytes each");
    }
}
