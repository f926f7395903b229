//! A timing wheel of 5 ms: endpoints that make a frame every 20 ms are spread over four slots, so that a thousand of
//! them are not served in one burst.
//!
//! Each key is put in with a turn, and is served if that is still its turn: one that rests for longer is roused by being put
//! in anew, and what it left further on in the wheel is passed over.

use std::time::Duration;

use trunkline_types::Timestamp;

use crate::slab::Key;

/// More than the longest rest.
const SLOTS: usize = 256;

/// Which of a key's entries counts.
pub(crate) type Turn = u32;
/// Width of a slot.
pub(crate) const SLOT: Duration = Duration::from_millis(5);
/// Further behind than this the wheel does not catch up, it jumps.
const MAX_BEHIND: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<(Key, Turn)>>,
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
    pub(crate) fn insert(&mut self, now: Timestamp, key: Key, turn: Turn) {
        if self.count == 0 {
            self.due = now;
        }
        self.phase = (self.phase + 1) % 4;
        self.put(self.phase + 1, key, turn);
    }

    /// Puts a key `slots` after the one that is being served.
    pub(crate) fn put(&mut self, slots: usize, key: Key, turn: Turn) {
        let at = (self.cursor + slots.clamp(1, SLOTS - 1)) % SLOTS;
        self.slots[at].push((key, turn));
        self.count += 1;
    }

    /// The keys of the next slot that is due, in a list to be given back by [`Wheel::done`].
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<(Timestamp, Vec<(Key, Turn)>)> {
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
    pub(crate) fn done(&mut self, mut keys: Vec<(Key, Turn)>) {
        keys.clear();
        self.slots[self.cursor] = keys;
        self.cursor = (self.cursor + 1) % SLOTS;
        self.due = self.due.plus(SLOT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    /// Turns the wheel by so many slots; gives what was served in each.
    fn turn(wheel: &mut Wheel, now: &mut Timestamp, slots: usize) -> Vec<Vec<(Key, Turn)>> {
        (0..slots)
            .map(|_| {
                *now = now.plus(SLOT);
                let Some((_, keys)) = wheel.take(*now) else { return Vec::new() };
                wheel.done(keys.clone());
                keys
            })
            .collect()
    }

    #[test]
    fn one_that_rests_is_served_at_once_when_it_is_roused_and_its_old_entry_later() {
        let mut slab = Slab::new();
        let key = slab.insert(());
        let mut now = Timestamp::from_millis(1_000);
        let mut wheel = Wheel::new(now);
        wheel.insert(now, key, 0);
        // Served within the four slots of a frame, it then rests for fifty.
        let served = turn(&mut wheel, &mut now, 6);
        assert_eq!(served.concat(), [(key, 0)]);
        wheel.put(50, key, 0);
        assert!(turn(&mut wheel, &mut now, 20).concat().is_empty());
        wheel.insert(now, key, 1);
        assert_eq!(turn(&mut wheel, &mut now, 6).concat(), [(key, 1)]);
        // To be passed over by its turn.
        assert_eq!(turn(&mut wheel, &mut now, 30).concat(), [(key, 0)]);
        assert_eq!(wheel.next(), None);
    }
}
