//! How far another machine's clock is from ours.
//!
//! As in NTP: of several questions the one with the shortest way there and back tells most; half of that way is what the
//! offset can be wrong by.

use serde::Serialize;

/// One question and its answer, microseconds: sent and received by our clock, answered by theirs.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// When the question left.
    pub sent_us: i64,
    /// What their clock said.
    pub theirs_us: i64,
    /// When the answer came.
    pub received_us: i64,
}

/// Their clock minus ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offset {
    /// Microseconds.
    pub offset_us: i64,
    /// It is within this of the truth.
    pub within_us: i64,
}

/// The best that these exchanges tell.
pub fn agree(exchanges: &[Exchange]) -> Option<Offset> {
    let best =
        exchanges.iter().filter(|e| e.received_us >= e.sent_us).min_by_key(|e| e.received_us - e.sent_us)?;
    let way = best.received_us - best.sent_us;
    let middle = best.sent_us + way / 2;
    Some(Offset { offset_us: best.theirs_us - middle, within_us: (way + 1) / 2 })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    /// With any delays there and back, the truth is within what is claimed.
    #[test]
    fn the_truth_is_within_the_claim() {
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..1_000 {
            let truth = rng.random_range(-1_000_000_000..1_000_000_000_i64);
            let exchanges: Vec<Exchange> = (0..10)
                .map(|n| {
                    let (there, back) = (rng.random_range(50..5_000), rng.random_range(50..5_000));
                    let sent_us = n * 10_000;
                    Exchange {
                        sent_us,
                        theirs_us: sent_us + there + truth,
                        received_us: sent_us + there + back,
                    }
                })
                .collect();
            let found = agree(&exchanges).unwrap();
            assert!((found.offset_us - truth).abs() <= found.within_us, "{found:?}, truth {truth}");
            let shortest = exchanges.iter().map(|e| e.received_us - e.sent_us).min().unwrap();
            assert!(found.within_us <= shortest / 2 + 1);
        }
        assert_eq!(agree(&[]), None);
    }
}
