//! A timing wheel of 5 ms: endpoints that make a frame every 20 ms are spread over four slots, so that a thousand of
//! them are not served in one burst.
//!
//! Those that rest for long are put into one slot of sixteen, so that the thread sleeps over the others: slots that hold
//! nothing wake nobody.
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
/// A rest of so many slots or more ends together with others, by less than [`TOGETHER`] slots earlier.
const LONG: usize = 50;
const TOGETHER: usize = 16;
/// By less than this a long rest ends early.
pub(crate) const EARLY: Duration = Duration::from_millis(SLOT.as_millis() as u64 * TOGETHER as u64);
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
    /// The slot at the cursor is being served: its list is with the caller of [`Wheel::take`].
    serving: bool,
}

impl Wheel {
    pub(crate) fn new(now: Timestamp) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { slots, cursor: 0, due: now, phase: 0, count: 0, serving: false }
    }

    /// When the next slot that holds anything is due; `None` when none does.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let (behind, ahead) = self.slots.split_at_checked(self.cursor)?;
        let empty = ahead.iter().chain(behind).position(|slot| !slot.is_empty())?;
        Some(self.due.plus(SLOT * u32::try_from(empty).unwrap_or(0)))
    }

    /// Puts a new key in, at one of the four phases in turn.
    pub(crate) fn insert(&mut self, now: Timestamp, key: Key, turn: Turn) {
        if self.count == 0 {
            self.due = now;
        }
        self.pass(now);
        self.phase = (self.phase + 1) % 4;
        self.put(self.phase + 1, key, turn);
    }

    /// Puts a key `slots` after the one that is being served.
    pub(crate) fn put(&mut self, slots: usize, key: Key, turn: Turn) {
        let slots = slots.clamp(1, SLOTS - 1);
        let at = (self.cursor + slots) % SLOTS;
        let at = if slots < LONG { at } else { at - at % TOGETHER };
        self.slots[at].push((key, turn));
        self.count += 1;
    }

    /// Passes over what is due and holds nothing.
    fn pass(&mut self, now: Timestamp) {
        while !self.serving && self.count > 0 && self.due <= now && self.slots[self.cursor].is_empty() {
            self.cursor = (self.cursor + 1) % SLOTS;
            self.due = self.due.plus(SLOT);
        }
    }

    /// The keys of the next slot that is due, in a list to be given back by [`Wheel::done`].
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<(Timestamp, Vec<(Key, Turn)>)> {
        self.pass(now);
        if self.count == 0 || self.due > now {
            return None;
        }
        if now.since(self.due) > MAX_BEHIND {
            self.due = now;
        }
        let keys = std::mem::take(&mut self.slots[self.cursor]);
        self.count -= keys.len();
        self.serving = true;
        Some((self.due, keys))
    }

    /// Ends the slot; keeps the list's allocation.
    pub(crate) fn done(&mut self, mut keys: Vec<(Key, Turn)>) {
        keys.clear();
        self.slots[self.cursor] = keys;
        self.serving = false;
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

    /// Serves whatever is due each time `next` says so; gives when, and whom.
    fn sleep_and_serve(wheel: &mut Wheel, now: &mut Timestamp, until: Timestamp) -> Vec<(Timestamp, Key)> {
        let mut served = Vec::new();
        while let Some(next) = wheel.next().filter(|next| *next <= until) {
            *now = next.max(*now);
            while let Some((_, keys)) = wheel.take(*now) {
                served.extend(keys.iter().map(|(key, _)| (*now, *key)));
                wheel.done(keys);
            }
        }
        *now = until;
        served
    }

    /// Many who rest wake the thread a few times a second, none of them late, none much too early.
    #[test]
    fn long_rests_end_together() {
        let (mut slab, mut now) = (Slab::new(), Timestamp::from_millis(1_000));
        let mut wheel = Wheel::new(now);
        let mut wanted = Vec::new();
        for _ in 0..150 {
            assert!(wheel.take(now).is_none());
            let key = slab.insert(());
            wheel.put(200, key, 0);
            wanted.push((key, wheel.due.plus(SLOT * 200)));
            now = now.plus(SLOT);
        }
        let end = now.plus(Duration::from_secs(2));
        let served = sleep_and_serve(&mut wheel, &mut now, end);
        assert_eq!(served.len(), wanted.len());
        let early = SLOT * TOGETHER as u32;
        for ((key, due), (at, served)) in wanted.into_iter().zip(&served) {
            assert!(key == *served && *at <= due && at.plus(early) > due, "{at:?} for {due:?}");
        }
        let mut wakes: Vec<Timestamp> = served.iter().map(|(at, _)| *at).collect();
        wakes.dedup();
        assert!(wakes.len() <= 150 / TOGETHER + 2, "{} wakes", wakes.len());
    }

    /// One that is roused while a slot is served loses nobody, whatever is due next.
    #[test]
    fn who_is_put_in_while_a_slot_is_served_stays() {
        let (mut slab, mut now) = (Slab::new(), Timestamp::from_millis(1_000));
        let mut wheel = Wheel::new(now);
        let [served, next, roused] = [slab.insert(()), slab.insert(()), slab.insert(())];
        wheel.put(1, served, 0);
        wheel.put(2, next, 0);
        now = now.plus(Duration::from_millis(20));
        let (_, keys) = wheel.take(now).unwrap();
        wheel.insert(now, roused, 0);
        wheel.done(keys);
        let end = now.plus(Duration::from_secs(1));
        let rest: Vec<Key> =
            sleep_and_serve(&mut wheel, &mut now, end).into_iter().map(|(_, key)| key).collect();
        assert_eq!(rest, [next, roused]);
    }

    /// To sleep over empty slots is not to be behind: distances stay, and who comes meanwhile is served in time.
    #[test]
    fn empty_slots_are_slept_over() {
        let (mut slab, mut now) = (Slab::new(), Timestamp::from_millis(1_000));
        let mut wheel = Wheel::new(now);
        let [near, far, new] = [slab.insert(()), slab.insert(()), slab.insert(())];
        wheel.put(40, near, 0);
        wheel.put(240, far, 0);
        let begun = now;
        let ms = |at: Timestamp| at.since(begun).as_millis();
        assert_eq!(wheel.next().map(ms), Some(200));
        now = now.plus(Duration::from_millis(150));
        assert!(wheel.take(now).is_none());
        wheel.insert(now, new, 0);
        let served = sleep_and_serve(&mut wheel, &mut now, begun.plus(Duration::from_secs(2)));
        let at = |key: Key| served.iter().find(|(_, served)| *served == key).map(|(at, _)| ms(*at));
        assert!(at(new).is_some_and(|at| (155..=175).contains(&at)), "{:?}", at(new));
        assert_eq!((at(near), at(far)), (Some(200), Some(1_200)));
    }
}
