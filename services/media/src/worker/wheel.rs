//! A timing wheel of 5 ms: endpoints that make a frame every 20 ms are spread over four slots, so that a thousand of
//! them are not served in one burst.

use std::time::Duration;

use trunkline_types::Timestamp;

use crate::slab::Key;

const SLOTS: usize = 64;
/// Width of a slot.
pub(crate) const SLOT: Duration = Duration::from_millis(5);
/// Further behind than this the wheel does not catch up, it jumps.
const MAX_BEHIND: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<Key>>,
    cursor: usize,
    /// When the slot at the cursor is due.
    due: Timestamp,
    phase: usize,
    count: usize,
}

impl Wheel {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), cursor: 0, due: now, phase: 0, count: 0 }
    }

    /// When the next slot is due; `None` when nothing is in the wheel.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        (self.count > 0).then_some(self.due)
    }

    /// Puts a new key in, at one of the four phases in turn.
    pub(crate) fn insert(&mut self, now: Timestamp, key: Key) {
        if self.count == 0 {
            self.due = now;
        }
        self.phase = (self.phase + 1) % 4;
        self.put(self.phase + 1, key);
    }

    /// Puts a key `slots` after the one that is being served.
    pub(crate) fn put(&mut self, slots: usize, key: Key) {
        let at = (self.cursor + slots.clamp(1, SLOTS - 1)) % SLOTS;
        self.slots[at].push(key);
        self.count += 1;
    }

    /// The keys of the next slot that is due, in a list to be given back by [`Wheel::done`].
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<(Timestamp, Vec<Key>)> {
        if self.count == 0 || self.due > now {
            return None;
        }
        if now.since(self.due) > MAX_BEHIND {
            self.due = now;
        }
        let keys = std::mem::take(&mut self.slots[self.cursor]);
        self.count -= keys.len();
        Some((self.due, keys))
    }

    /// Ends the slot; keeps the list's allocation.
    pub(crate) fn done(&mut self, mut keys: Vec<Key>) {
        keys.clear();
        self.slots[self.cursor] = keys;
        self.cursor = (self.cursor + 1) % SLOTS;
        self.due = self.due.plus(SLOT);
    }
}
