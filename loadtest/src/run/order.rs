//! The order of service: whoever came first is served first.

/// Calls that entered or rang within this of each other have no order that an observer from outside could know.
const SLACK_US: i64 = 50_000;

/// A caller's time in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// When the queue was entered.
    pub entered_us: i64,
    /// An agent's page rang.
    pub rang: bool,
    /// When it rang for the first time, or the caller went away.
    pub left_us: i64,
}

/// Callers who waited while somebody who had come later was served.
pub fn overtaken(places: &mut [Place]) -> u64 {
    places.sort_unstable_by_key(|place| place.entered_us);
    // For each caller the earliest ring of all who came later: from the back.
    let mut count = 0;
    let mut earliest = i64::MAX;
    let mut later = places.len();
    for index in (0..places.len()).rev() {
        let Some(place) = places.get(index).copied() else { continue };
        while let Some(other) = later.checked_sub(1).and_then(|n| places.get(n)).copied()
            && other.entered_us > place.entered_us + SLACK_US
        {
            if other.rang {
                earliest = earliest.min(other.left_us);
            }
            later -= 1;
        }
        count += u64::from(earliest.saturating_add(SLACK_US) < place.left_us);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(entered_ms: i64, left_ms: i64, rang: bool) -> Place {
        Place { entered_us: entered_ms * 1_000, rang, left_us: left_ms * 1_000 }
    }

    #[test]
    fn who_waits_longer_than_a_later_caller_was_overtaken() {
        let mut fair = [place(0, 1_000, true), place(200, 1_200, true), place(400, 1_400, true)];
        assert_eq!(overtaken(&mut fair), 0);
        let mut unfair = [place(0, 1_000, true), place(200, 1_600, true), place(400, 1_400, true)];
        assert_eq!(overtaken(&mut unfair), 1);
        let mut last_first = [place(0, 3_000, true), place(200, 2_000, true), place(400, 1_000, true)];
        assert_eq!(overtaken(&mut last_first), 2);
    }

    #[test]
    fn who_gives_up_overtakes_nobody_but_can_be_overtaken() {
        let mut gave_up = [place(0, 1_000, true), place(200, 300, false)];
        assert_eq!(overtaken(&mut gave_up), 0);
        let mut waited = [place(0, 5_000, false), place(200, 1_000, true)];
        assert_eq!(overtaken(&mut waited), 1);
    }

    #[test]
    fn what_nobody_can_tell_apart_is_in_order() {
        let mut close = [place(0, 1_000, true), place(40, 960, true), place(45, 955, true)];
        assert_eq!(overtaken(&mut close), 0);
        assert_eq!(overtaken(&mut []), 0);
    }
}
