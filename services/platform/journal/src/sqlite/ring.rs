//! The newest committed appends, in memory: whoever follows the journal reads there what the writer has just written,
//! instead of having it read back from the file.
//!
//! The ring holds an unbroken piece of the journal's end: everything after one position and up to another. Whoever asks for
//! more is sent to the file; so is everybody while the writer does not know what the file ends with. Only the writer adds
//! to it, whole batches, once they are committed and before anybody is told.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

use crate::{Append, Appended, StoredEvent};

/// Enough for some thousand appends: a follower that looks ten times a second finds all of a busy journal.
pub(super) const BYTES: usize = 4 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    piece: Mutex<Piece>,
    /// What may be held, by [`Append::weight`].
    limit: usize,
}

#[derive(Debug)]
struct Piece {
    /// Everything after this position is held,
    after: u64,
    /// up to this one. `None` = what the file ends with is unknown.
    up_to: Option<u64>,
    held: VecDeque<Held>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Held {
    append: Arc<Append>,
    at: Appended,
}

impl Ring {
    /// For a journal whose highest position this is.
    pub(super) fn new(position: u64, limit: usize) -> Self {
        let piece = Piece { after: position, up_to: Some(position), held: VecDeque::new(), bytes: 0 };
        Self { piece: Mutex::new(piece), limit }
    }

    /// These were committed together, in this order, and nothing else since the last time unless it was lost sight of.
    pub(super) fn committed<'a>(&self, appends: impl Iterator<Item = (&'a Arc<Append>, Appended)>) {
        let mut piece = self.piece.lock();
        for (append, at) in appends {
            piece.push(Held { append: Arc::clone(append), at });
        }
        while piece.bytes > self.limit && piece.drop_oldest() {}
    }

    /// Something may have been committed that the writer does not know of.
    pub(super) fn lost_sight(&self) {
        self.piece.lock().up_to = None;
    }

    /// The events after a position, at most `most`; `None` = the file has to be asked.
    pub(super) fn tail(&self, after: u64, most: usize) -> Option<Vec<StoredEvent>> {
        let found = self.piece.lock().since(after, most)?;
        let mut events = Vec::new();
        for held in &found {
            held.expand(after, most, &mut events);
        }
        Some(events)
    }
}

impl Piece {
    fn push(&mut self, held: Held) {
        let before = held.before();
        if self.up_to != Some(before) {
            self.held.clear();
            (self.after, self.bytes) = (before, 0);
        }
        self.up_to = Some(held.at.position);
        self.bytes += held.append.weight();
        self.held.push_back(held);
    }

    /// False when there is nothing to drop.
    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.held.pop_front() else { return false };
        self.after = oldest.at.position;
        self.bytes = self.bytes.saturating_sub(oldest.append.weight());
        true
    }

    /// The appends in which so many events after a position are.
    fn since(&self, after: u64, most: usize) -> Option<Vec<Held>> {
        self.up_to.filter(|_| after >= self.after)?;
        let first = self.held.partition_point(|held| held.at.position <= after);
        let mut events = 0;
        let enough = |held: &&Held| {
            let more = events < most;
            events += usize::try_from(held.at.position - held.before().max(after)).unwrap_or(usize::MAX);
            more
        };
        Some(self.held.range(first..).take_while(enough).cloned().collect())
    }
}

impl Held {
    /// The position before that of its first event.
    fn before(&self) -> u64 {
        self.at.position - self.append.events.len() as u64
    }

    /// Adds the events after a position, until there are `most`.
    fn expand(&self, after: u64, most: usize, out: &mut Vec<StoredEvent>) {
        let Append { entity, epoch, after: nth, events } = &*self.append;
        let before = self.before();
        for (i, event) in (0_u64..).zip(events) {
            if before + 1 + i <= after || out.len() >= most {
                continue;
            }
            out.push(StoredEvent {
                position: before + 1 + i,
                shard: entity.shard(),
                seq: self.at.first_seq + i,
                epoch: *epoch,
                entity: entity.clone(),
                nth: nth + 1 + i,
                kind: event.kind.clone(),
                version: event.version,
                at: event.at,
                payload: event.payload.clone(),
                last: event.last,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_types::{EntityAddress, Epoch, Timestamp};

    use super::*;
    use crate::NewEvent;

    fn held(after: u64, events: u64) -> (Arc<Append>, Appended) {
        let entity = EntityAddress::queue(&"default".parse().unwrap(), &"q".parse().unwrap());
        let events: Vec<_> =
            (1..=events).map(|n| NewEvent::new("q.e", 1, Timestamp::ZERO, vec![n as u8])).collect();
        let position = after + events.len() as u64;
        let at = Appended { first_seq: after + 1, last_seq: position, position };
        (Arc::new(Append { entity, epoch: Epoch(1), after, events }), at)
    }

    fn committed(ring: &Ring, appends: &[(u64, u64)]) {
        let made: Vec<_> = appends.iter().map(|(after, events)| held(*after, *events)).collect();
        ring.committed(made.iter().map(|(append, at)| (append, *at)));
    }

    fn positions(ring: &Ring, after: u64, most: usize) -> Option<Vec<u64>> {
        ring.tail(after, most).map(|events| events.iter().map(|event| event.position).collect())
    }

    #[test]
    fn who_is_near_the_end_reads_from_memory_and_who_is_behind_is_sent_to_the_file() {
        let ring = Ring::new(10, BYTES);
        assert_eq!(positions(&ring, 10, 5), Some(vec![]));
        assert_eq!(positions(&ring, 11, 5), Some(vec![]), "who is ahead of the journal has nothing to read");
        assert_eq!(positions(&ring, 9, 5), None);
        committed(&ring, &[(10, 3), (13, 1), (14, 2)]);
        assert_eq!(positions(&ring, 9, 5), None);
        assert_eq!(positions(&ring, 10, 100), Some(vec![11, 12, 13, 14, 15, 16]));
        assert_eq!(positions(&ring, 11, 3), Some(vec![12, 13, 14]), "from within an append into another");
        assert_eq!(positions(&ring, 10, 2), Some(vec![11, 12]));
        assert_eq!(positions(&ring, 10, 0), Some(vec![]));
        assert_eq!(positions(&ring, 16, 1), Some(vec![]));
    }

    #[test]
    fn it_holds_no_more_than_it_may_and_forgets_the_oldest() {
        let one = held(0, 2).0.weight();
        let ring = Ring::new(0, 3 * one);
        committed(&ring, &[(0, 2), (2, 2), (4, 2), (6, 2)]);
        assert_eq!(positions(&ring, 1, 9), None);
        assert_eq!(positions(&ring, 2, 9), Some(vec![3, 4, 5, 6, 7, 8]));
        let none = Ring::new(0, one - 1);
        committed(&none, &[(0, 2)]);
        assert_eq!((positions(&none, 0, 9), positions(&none, 2, 9)), (None, Some(vec![])));
        assert_eq!(none.piece.lock().bytes, 0);
    }

    #[test]
    fn after_a_gap_it_begins_anew() {
        let ring = Ring::new(0, BYTES);
        committed(&ring, &[(0, 2)]);
        ring.lost_sight();
        assert_eq!((positions(&ring, 0, 9), positions(&ring, 2, 9)), (None, None), "nobody knows the end");
        committed(&ring, &[(5, 1), (6, 1)]);
        assert_eq!((positions(&ring, 4, 9), positions(&ring, 5, 9)), (None, Some(vec![6, 7])));
        committed(&ring, &[(9, 1)]);
        assert_eq!((positions(&ring, 5, 9), positions(&ring, 9, 9)), (None, Some(vec![10])));
        // What turned out not to have been committed leaves no gap.
        ring.lost_sight();
        committed(&ring, &[(10, 1)]);
        assert_eq!((positions(&ring, 9, 9), positions(&ring, 10, 9)), (None, Some(vec![11])));
    }
}
