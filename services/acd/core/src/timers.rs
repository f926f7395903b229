use std::{collections::BTreeMap, collections::BTreeSet, time::Duration};

use trunkline_types::Timestamp;

/// At most one deadline for each key; setting, cancelling and taking the next one are O(log n).
#[derive(Debug)]
pub(crate) struct Timers<K> {
    due: BTreeSet<(Timestamp, K)>,
    at: BTreeMap<K, Timestamp>,
}

impl<K: Ord + Clone> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { due: BTreeSet::new(), at: BTreeMap::new() }
    }

    /// Replaces the deadline of `key`.
    pub(crate) fn set(&mut self, key: K, at: Timestamp) {
        if let Some(old) = self.at.insert(key.clone(), at) {
            if old == at {
                return;
            }
            self.due.remove(&(old, key.clone()));
        }
        self.due.insert((at, key));
    }

    pub(crate) fn cancel(&mut self, key: &K) {
        if let Some(at) = self.at.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the earliest deadline that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, K)> {
        if self.next()? > now {
            return None;
        }
        let (at, key) = self.due.pop_first()?;
        self.at.remove(&key);
        Some((at, key))
    }
}

/// The pause before sending again for the `attempt`th time (0 = first): `first`, doubled each time up to `most`.
pub(crate) fn backoff(attempt: u32, first: Duration, most: Duration) -> Duration {
    first.saturating_mul(1u32.checked_shl(attempt.min(16)).unwrap_or(u32::MAX)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_deadline_and_they_come_in_order() {
        let at = Timestamp::from_millis;
        let mut timers = Timers::new();
        timers.set("a", at(5));
        timers.set("b", at(3));
        timers.set("a", at(1));
        timers.set("c", at(2));
        timers.cancel(&"c");
        assert_eq!(timers.next(), Some(at(1)));
        assert_eq!(timers.pop_due(at(4)), Some((at(1), "a")));
        assert_eq!(timers.pop_due(at(2)), None);
        assert_eq!(timers.pop_due(at(4)), Some((at(3), "b")));
        assert_eq!((timers.pop_due(at(9)), timers.next()), (None, None));
    }

    #[test]
    fn pauses_double_up_to_the_limit() {
        let ms = Duration::from_millis;
        let pauses: Vec<_> = (0..5).map(|n| backoff(n, ms(250), ms(2_000)).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 2_000]);
        assert_eq!(backoff(u32::MAX, ms(250), ms(2_000)), ms(2_000));
    }
}
