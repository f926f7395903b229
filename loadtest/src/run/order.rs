//! The order of service: whoever came first is served first.
//!
//! From outside nobody knows when exactly a caller entered the queue: at some moment between the INVITE and a little after
//! the 200. A caller was surely later when the INVITE went out after another one's 200 had come; only such pairs are judged.

/// The queue may be entered this much after the 200, and rings that are closer have no order.
const SLACK_US: i64 = 50_000;

/// A caller's time in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// When the INVITE went out.
    pub sent_us: i64,
    /// When it was answered.
    pub entered_us: i64,
    /// An agent's page rang.
    pub rang: bool,
    /// When it rang for the first time, or the caller went away.
    pub left_us: i64,
}

/// Callers who waited while somebody who had surely come later was served.
pub fn overtaken(places: &[Place]) -> u64 {
    let mut early: Vec<&Place> = places.iter().collect();
    early.sort_unstable_by_key(|place| std::cmp::Reverse(place.entered_us));
    let mut late: Vec<&Place> = places.iter().filter(|place| place.rang).collect();
    late.sort_unstable_by_key(|place| std::cmp::Reverse(place.sent_us));
    // From the last to the first: the earliest ring of all who surely came later.
    let (mut count, mut earliest, mut later) = (0, i64::MAX, late.into_iter().peekable());
    for place in early {
        while let Some(other) = later.next_if(|other| other.sent_us > place.entered_us + SLACK_US) {
            earliest = earliest.min(other.left_us);
        }
        count += u64::from(earliest.saturating_add(SLACK_US) < place.left_us);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(entered_ms: i64, left_ms: i64, rang: bool) -> Place {
        let sent_us = (entered_ms - 20) * 1_000;
        Place { sent_us, entered_us: entered_ms * 1_000, rang, left_us: left_ms * 1_000 }
    }

    #[test]
    fn who_waits_longer_than_a_later_caller_was_overtaken() {
        let fair = [place(0, 1_000, true), place(200, 1_200, true), place(400, 1_400, true)];
        assert_eq!(overtaken(&fair), 0);
        let unfair = [place(0, 1_000, true), place(200, 1_600, true), place(400, 1_400, true)];
        assert_eq!(overtaken(&unfair), 1);
        let last_first = [place(0, 3_000, true), place(200, 2_000, true), place(400, 1_000, true)];
        assert_eq!(overtaken(&last_first), 2);
    }

    #[test]
    fn who_gives_up_overtakes_nobody_but_can_be_overtaken() {
        let gave_up = [place(0, 1_000, true), place(200, 300, false)];
        assert_eq!(overtaken(&gave_up), 0);
        let waited = [place(0, 5_000, false), place(200, 1_000, true)];
        assert_eq!(overtaken(&waited), 1);
    }

    #[test]
    fn what_nobody_can_tell_apart_is_in_order() {
        let close = [place(0, 1_000, true), place(40, 960, true), place(45, 955, true)];
        assert_eq!(overtaken(&close), 0);
        // A 200 that takes half a second says nothing about when the queue was entered.
        let slow = Place { sent_us: 0, ..place(500, 2_000, true) };
        assert_eq!(overtaken(&[slow, place(300, 1_000, true), place(520, 1_500, true)]), 0);
        assert_eq!(overtaken(&[slow, place(620, 1_000, true)]), 1);
        assert_eq!(overtaken(&[]), 0);
    }
}
