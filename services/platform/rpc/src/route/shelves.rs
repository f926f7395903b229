//! Envelopes for shards of which it is not known who takes them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message;
use trunkline_proto::common::v1::Envelope;
use trunkline_types::{EntityAddress, ShardId, Timestamp};

use crate::link::{LinkOptions, Origin};

/// An envelope that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) entity: EntityAddress,
    pub(crate) envelope: Envelope,
    pub(crate) origin: Origin,
    pub(crate) until: Timestamp,
}

/// As much waits as may.
#[derive(Debug)]
pub(crate) struct NoRoom;

/// The hold-back buffer: for each shard, in order. While a shard has a shelf, everything for it goes behind what waits
/// there, so that nothing overtakes.
pub(crate) struct Shelves {
    /// Shelves that there are; read without the lock.
    count: AtomicUsize,
    inner: Mutex<Inner>,
    gauge: Gauge,
}

#[derive(Default)]
struct Inner {
    shelves: BTreeMap<ShardId, VecDeque<Waiting>>,
    envelopes: usize,
    bytes: usize,
}

impl Shelves {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self { count: AtomicUsize::new(0), inner: Mutex::default(), gauge }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Puts an envelope behind those of its shard that wait already. When none does, it comes back.
    pub(crate) fn behind(
        &self,
        shard: ShardId,
        waiting: Waiting,
        limits: &LinkOptions,
    ) -> Result<Option<Waiting>, NoRoom> {
        if self.is_empty() {
            return Ok(Some(waiting));
        }
        let mut inner = self.inner.lock();
        if !inner.shelves.contains_key(&shard) {
            return Ok(Some(waiting));
        }
        self.put(&mut inner, shard, waiting, limits).map(|()| None)
    }

    /// Puts an envelope on its shard's shelf.
    pub(crate) fn push(&self, shard: ShardId, waiting: Waiting, limits: &LinkOptions) -> Result<(), NoRoom> {
        self.put(&mut self.inner.lock(), shard, waiting, limits)
    }

    fn put(
        &self,
        inner: &mut Inner,
        shard: ShardId,
        waiting: Waiting,
        limits: &LinkOptions,
    ) -> Result<(), NoRoom> {
        let bytes = waiting.envelope.encoded_len();
        let here = inner.shelves.get(&shard).map_or(0, VecDeque::len);
        if here >= limits.held_shard
            || inner.envelopes >= limits.held
            || inner.bytes + bytes > limits.held_bytes
        {
            return Err(NoRoom);
        }
        inner.shelves.entry(shard).or_default().push_back(waiting);
        self.counted(inner, 1, bytes);
        Ok(())
    }

    fn counted(&self, inner: &mut Inner, n: usize, bytes: usize) {
        inner.envelopes += n;
        inner.bytes += bytes;
        self.settle(inner);
    }

    fn settle(&self, inner: &Inner) {
        self.gauge.set(i64::try_from(inner.envelopes).unwrap_or(i64::MAX));
        self.count.store(inner.shelves.len(), Ordering::Release);
    }

    /// Puts envelopes, in order, in front of those that wait: they were sent before. Gives those for which there is no
    /// room: the newest.
    pub(crate) fn prepend(
        &self,
        shard: ShardId,
        mut earlier: Vec<Waiting>,
        limits: &LinkOptions,
    ) -> Vec<Waiting> {
        let mut inner = self.inner.lock();
        let here = inner.shelves.get(&shard).map_or(0, VecDeque::len);
        let room = limits.held_shard.saturating_sub(here).min(limits.held.saturating_sub(inner.envelopes));
        let over = earlier.split_off(room.min(earlier.len()));
        let bytes = earlier.iter().map(|waiting| waiting.envelope.encoded_len()).sum();
        let n = earlier.len();
        if n > 0 {
            let shelf = inner.shelves.entry(shard).or_default();
            for waiting in earlier.into_iter().rev() {
                shelf.push_front(waiting);
            }
        }
        self.counted(&mut inner, n, bytes);
        over
    }

    /// The shards for which something waits.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        self.inner.lock().shelves.keys().copied().collect()
    }

    /// The next of a shard. `None` = nothing waits any more, and from now on nothing has to go behind. The shelf is there
    /// until then, also while the last one is being delivered.
    pub(crate) fn next(&self, shard: ShardId) -> Option<Waiting> {
        let mut inner = self.inner.lock();
        let next = inner.shelves.get_mut(&shard).and_then(VecDeque::pop_front);
        match &next {
            Some(waiting) => {
                inner.envelopes -= 1;
                inner.bytes = inner.bytes.saturating_sub(waiting.envelope.encoded_len());
            }
            None => _ = inner.shelves.remove(&shard),
        }
        self.settle(&inner);
        next
    }

    /// Puts back what [`Shelves::next`] gave, in front.
    pub(crate) fn put_back(&self, shard: ShardId, waiting: Waiting) {
        let mut inner = self.inner.lock();
        let bytes = waiting.envelope.encoded_len();
        inner.shelves.entry(shard).or_default().push_front(waiting);
        self.counted(&mut inner, 1, bytes);
    }

    /// Drops what has waited too long, and shelves that nothing is left on. Gives how many were dropped.
    pub(crate) fn expire(&self, now: Timestamp) -> usize {
        let mut inner = self.inner.lock();
        let Inner { shelves, envelopes, bytes } = &mut *inner;
        let mut dropped = 0;
        shelves.retain(|_, shelf| {
            shelf.retain(|waiting| {
                let late = waiting.until < now;
                if late {
                    dropped += 1;
                    *bytes = bytes.saturating_sub(waiting.envelope.encoded_len());
                }
                !late
            });
            !shelf.is_empty()
        });
        *envelopes -= dropped;
        self.settle(&inner);
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(n: u64) -> Waiting {
        let entity = EntityAddress::queue(&"default".parse().unwrap(), &"q".parse().unwrap());
        let envelope = Envelope { map_revision: n, ..Envelope::default() };
        let until = Timestamp::from_millis(i64::try_from(n).unwrap());
        Waiting { entity, envelope, origin: Origin::Here, until }
    }

    fn order(shelves: &Shelves, shard: ShardId) -> Vec<u64> {
        std::iter::from_fn(|| shelves.next(shard)).map(|waiting| waiting.envelope.map_revision).collect()
    }

    #[test]
    fn what_was_sent_before_goes_before_and_the_shelf_stays_until_it_is_empty() {
        let (shelves, limits) = (Shelves::new(Gauge::default()), LinkOptions::default());
        let shard = ShardId::new(1).unwrap();
        assert!(matches!(shelves.behind(shard, waiting(3), &limits), Ok(Some(_))), "nothing waits");
        shelves.push(shard, waiting(3), &limits).unwrap();
        assert!(matches!(shelves.behind(shard, waiting(4), &limits), Ok(None)));
        assert!(shelves.prepend(shard, vec![waiting(1), waiting(2)], &limits).is_empty());
        let first = shelves.next(shard).unwrap();
        shelves.put_back(shard, first);
        assert_eq!(
            (1..=4).map(|_| shelves.next(shard).unwrap().envelope.map_revision).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        assert!(!shelves.is_empty(), "the last one may still be on its way");
        assert!(matches!(shelves.behind(shard, waiting(5), &limits), Ok(None)));
        assert_eq!(order(&shelves, shard), [5]);
        assert!(shelves.is_empty() && matches!(shelves.behind(shard, waiting(6), &limits), Ok(Some(_))));
    }

    #[test]
    fn limits_hold_and_what_is_late_is_dropped() {
        let limits = LinkOptions { held_shard: 2, held: 3, ..LinkOptions::default() };
        let shelves = Shelves::new(Gauge::default());
        let (a, b) = (ShardId::new(1).unwrap(), ShardId::new(2).unwrap());
        shelves.push(a, waiting(10), &limits).unwrap();
        shelves.push(a, waiting(20), &limits).unwrap();
        assert!(shelves.push(a, waiting(30), &limits).is_err(), "two for a shard");
        let over = shelves.prepend(b, vec![waiting(30), waiting(40)], &limits);
        assert_eq!(over.len(), 1, "three in all");
        assert_eq!(shelves.gauge.get(), 3);
        assert_eq!(shelves.expire(Timestamp::from_millis(25)), 2);
        assert_eq!((shelves.shards(), shelves.gauge.get()), (vec![b], 1));
        let small = LinkOptions { held_bytes: 1, ..LinkOptions::default() };
        assert!(shelves.push(a, waiting(9), &small).is_err());
    }
}
