//! Histograms of times: recorded in microseconds, sent between machines, merged.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2Serializer},
};
use serde::{Deserialize, Deserializer as De, Serialize, Serializer as Ser};

/// Times from 1 µs to an hour, to three digits; longer ones count as an hour.
#[derive(Clone, Debug, PartialEq)]
pub struct Hist(Histogram<u64>);

const MOST_US: u64 = 3_600_000_000;
/// Shares that reports tell.
pub const SHARES: [f64; 6] = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0];

impl Default for Hist {
    fn default() -> Self {
        Self::with_digits(3)
    }
}

impl Hist {
    /// With so many digits, 1 to 3; fewer need less memory.
    pub fn with_digits(digits: u8) -> Self {
        // These bounds are always good ones; the smallest histogram stands in for what cannot happen.
        let made = Histogram::new_with_bounds(1, MOST_US, digits.clamp(1, 3));
        Self(made.unwrap_or_else(|_| Histogram::new(1).unwrap_or_else(|_| unreachable_histogram())))
    }

    /// Notes a time.
    pub fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(MOST_US);
        self.0.saturating_record(us.clamp(1, MOST_US));
    }

    /// Takes over what another one has noted.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds, so that nothing can be out of range.
        let _ = self.0.add(&other.0);
    }

    /// How many times were noted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share did not exceed, in milliseconds; `None` when nothing was noted.
    pub fn at(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(share) as f64 / 1_000.0)
    }

    /// The mean, in milliseconds.
    pub fn mean(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.mean() / 1_000.0)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// As text for a message.
    pub fn encode(&self) -> Result<String> {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut bytes).ok().context("a histogram cannot be written")?;
        Ok(STANDARD.encode(bytes))
    }

    /// From the text of a message.
    pub fn decode(text: &str) -> Result<Self> {
        let bytes = STANDARD.decode(text).context("a histogram is not base64")?;
        let read: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .ok()
            .context("what should be a histogram is none")?;
        Ok(Self(read))
    }
}

fn unreachable_histogram() -> Histogram<u64> {
    // One significant digit over the default range is accepted by every version of the library.
    #[expect(clippy::expect_used, reason = "constant arguments")]
    Histogram::new_with_bounds(1, 1_000, 1).expect("constant bounds")
}

impl Serialize for Hist {
    fn serialize<S: Ser>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode().map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Hist {
    fn deserialize<D: De<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::decode(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times_ms: impl IntoIterator<Item = u64>) -> Hist {
        let mut hist = Hist::default();
        times_ms.into_iter().for_each(|ms| hist.record(Duration::from_millis(ms)));
        hist
    }

    /// Percentiles of histograms that came from several machines are those of all times together, not means of
    /// percentiles.
    #[test]
    fn merged_histograms_have_the_percentiles_of_the_whole() {
        let (fast, slow) = (of(1..=900), of((0..100).map(|n| 5_000 + n)));
        let mut merged = Hist::default();
        for part in [&fast, &slow] {
            let sent = serde_json::to_string(part).unwrap();
            merged.add(&serde_json::from_str(&sent).unwrap());
        }
        let whole = of((1..=900).chain((0..100).map(|n| 5_000 + n)));
        assert_eq!(merged.count(), 1_000);
        for share in SHARES {
            assert_eq!(merged.at(share), whole.at(share));
        }
        let p99 = merged.at(0.99).unwrap();
        assert!((p99 - 5_089.0).abs() < 6.0, "{p99}");
        let wrong = (fast.at(0.99).unwrap() + slow.at(0.99).unwrap()) / 2.0;
        assert!((p99 - wrong).abs() > 1_000.0);
    }

    #[test]
    fn histograms_of_fewer_digits_take_part() {
        let (mut coarse, fine) = (Hist::with_digits(2), of(1..=1_000));
        coarse.add(&fine);
        let p50 = coarse.at(0.5).unwrap();
        assert!((p50 - 500.0).abs() < 5.0, "{p50}");
    }

    #[test]
    fn nothing_is_no_time_and_too_long_is_the_most() {
        assert_eq!(Hist::default().at(0.5), None);
        let mut hist = Hist::default();
        hist.record(Duration::from_secs(100_000));
        hist.record(Duration::ZERO);
        assert!(hist.at(1.0).unwrap() >= 3_590_000.0);
        assert!(Hist::decode("bm9uc2Vuc2U=").is_err() && Hist::decode("?").is_err());
    }
}
