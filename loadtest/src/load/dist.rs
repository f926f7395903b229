//! How long people wait, talk and write: distributions of times.

use std::{fmt, time::Duration};

use rand::Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};
use serde::{Deserialize, Deserializer, de};

use super::Span;

/// What is drawn is at most this when a scenario says nothing else.
const MOST: Duration = Duration::from_secs(24 * 3_600);
/// Values of an empirical distribution.
const VALUES: usize = 10_000;

/// A distribution of times; every draw is at most `at_most`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dist {
    shape: Shape,
    at_most: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Constant(Duration),
    Uniform(Duration, Duration),
    Exponential(Duration),
    /// Median and the standard deviation of the logarithm.
    Lognormal(Duration, f64),
    /// Equidistant quantiles, rising; between them it is linear.
    Empirical(Vec<Duration>),
}

impl Dist {
    /// Always the same.
    pub fn constant(time: Duration) -> Self {
        Self { shape: Shape::Constant(time), at_most: MOST }
    }

    /// Draws a time.
    pub fn draw(&self, rng: &mut impl Rng) -> Duration {
        let seconds = match &self.shape {
            Shape::Constant(time) => time.as_secs_f64(),
            Shape::Uniform(from, to) => {
                let share: f64 = rng.random();
                from.as_secs_f64() + share * (to.as_secs_f64() - from.as_secs_f64())
            }
            Shape::Exponential(mean) => {
                let unit: f64 = Exp1.sample(rng);
                mean.as_secs_f64() * unit
            }
            Shape::Lognormal(median, sigma) => {
                let unit: f64 = StandardNormal.sample(rng);
                median.as_secs_f64() * (sigma * unit).exp()
            }
            Shape::Empirical(values) => quantile(values, rng.random()),
        };
        Duration::try_from_secs_f64(seconds).map_or(self.at_most, |time| time.min(self.at_most))
    }

    /// The mean, without regard to `at_most`.
    pub fn mean(&self) -> Duration {
        match &self.shape {
            Shape::Constant(time) | Shape::Exponential(time) => *time,
            Shape::Uniform(from, to) => (*from + *to) / 2,
            Shape::Lognormal(median, sigma) => {
                let mean = median.as_secs_f64() * (sigma * sigma / 2.0).exp();
                Duration::try_from_secs_f64(mean).unwrap_or(MOST)
            }
            Shape::Empirical(values) => {
                let inner: f64 = values.iter().map(Duration::as_secs_f64).sum();
                let ends = [values.first(), values.last()].into_iter().flatten();
                let ends: f64 = ends.map(Duration::as_secs_f64).sum();
                let spaces = values.len().saturating_sub(1).max(1) as f64;
                Duration::from_secs_f64(((inner - ends / 2.0) / spaces).max(0.0))
            }
        }
    }
}

impl From<Duration> for Dist {
    fn from(time: Duration) -> Self {
        Self::constant(time)
    }
}

/// The value below which `share` of the draws are, in seconds.
fn quantile(values: &[Duration], share: f64) -> f64 {
    let at = share * values.len().saturating_sub(1) as f64;
    let value = |index: usize| values.get(index).or(values.last()).map_or(0.0, Duration::as_secs_f64);
    let (low, high) = (value(at as usize), value(at as usize + 1));
    low + (high - low) * at.fract()
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: Kind,
    value: Option<Span>,
    from: Option<Span>,
    to: Option<Span>,
    mean: Option<Span>,
    median: Option<Span>,
    sigma: Option<f64>,
    values: Option<Vec<Span>>,
    at_most: Option<Span>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Constant,
    Uniform,
    Exponential,
    Lognormal,
    Empirical,
}

impl Kind {
    /// Its name and the keys that belong to it.
    fn keys(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Constant => ("constant", &["value"]),
            Self::Uniform => ("uniform", &["from", "to"]),
            Self::Exponential => ("exponential", &["mean"]),
            Self::Lognormal => ("lognormal", &["median", "sigma"]),
            Self::Empirical => ("empirical", &["values"]),
        }
    }
}

impl Written {
    fn check(self) -> Result<Dist, String> {
        let (name, keys) = self.kind.keys();
        let given = [
            ("value", self.value.is_some()),
            ("from", self.from.is_some()),
            ("to", self.to.is_some()),
            ("mean", self.mean.is_some()),
            ("median", self.median.is_some()),
            ("sigma", self.sigma.is_some()),
            ("values", self.values.is_some()),
        ];
        for (key, is_given) in given {
            match (keys.contains(&key), is_given) {
                (true, false) => return Err(format!("kind {name} needs the key {key}")),
                (false, true) => {
                    return Err(format!(
                        "kind {name} has no key {key}; it takes {} and at_most",
                        keys.join(", ")
                    ));
                }
                _ => {}
            }
        }
        let time = |span: Option<Span>| span.unwrap_or_default().0;
        let shape = match self.kind {
            Kind::Constant => Shape::Constant(time(self.value)),
            Kind::Uniform if time(self.to) < time(self.from) => {
                return Err("to: must not be less than from".into());
            }
            Kind::Uniform => Shape::Uniform(time(self.from), time(self.to)),
            Kind::Exponential => Shape::Exponential(time(self.mean)),
            Kind::Lognormal => {
                let sigma = self.sigma.unwrap_or_default();
                if !(0.0..=4.0).contains(&sigma) {
                    return Err(format!("sigma: {sigma} is outside 0 to 4 (0.5 is a usual talk time)"));
                }
                Shape::Lognormal(time(self.median), sigma)
            }
            Kind::Empirical => {
                let mut values: Vec<Duration> =
                    self.values.unwrap_or_default().iter().map(|span| span.0).collect();
                if !(2..=VALUES).contains(&values.len()) {
                    return Err(format!("values: from 2 to {VALUES} are needed, not {}", values.len()));
                }
                values.sort_unstable();
                Shape::Empirical(values)
            }
        };
        Ok(Dist { shape, at_most: self.at_most.map_or(MOST, |span| span.0) })
    }
}

impl<'de> Deserialize<'de> for Dist {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = Dist;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a length of time such as 3s, or a distribution such as {kind: exponential, mean: 3s}",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dist, E> {
                text.parse::<Span>().map(|span| Dist::constant(span.0)).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Dist, E> {
                match number {
                    0 => Ok(Dist::constant(Duration::ZERO)),
                    _ => Err(E::custom(format!("{number} has no unit: write for example {number}s"))),
                }
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Dist, A::Error> {
                let written = Written::deserialize(de::value::MapAccessDeserializer::new(map))?;
                written.check().map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn read(text: &str) -> Result<Dist, String> {
        serde_yaml_ng::from_str(text).map_err(|error| error.to_string())
    }

    /// Mean, standard deviation and median of 200,000 draws, in seconds.
    fn moments(dist: &Dist) -> (f64, f64, f64) {
        let mut rng = StdRng::seed_from_u64(7);
        let mut draws: Vec<f64> = (0..200_000).map(|_| dist.draw(&mut rng).as_secs_f64()).collect();
        let n = draws.len() as f64;
        let mean = draws.iter().sum::<f64>() / n;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        draws.sort_unstable_by(f64::total_cmp);
        (mean, variance.sqrt(), draws[draws.len() / 2])
    }

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() <= 0.015 * wanted.max(0.01), "{found}, wanted {wanted}");
    }

    /// The first two moments and the median are those of the textbook.
    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let (mean, deviation, median) = moments(&read("{kind: exponential, mean: 60s}").unwrap());
        close(mean, 60.0);
        close(deviation, 60.0);
        close(median, 60.0 * 2.0_f64.ln());
        let lognormal = read("{kind: lognormal, median: 180s, sigma: 0.5}").unwrap();
        let (mean, deviation, median) = moments(&lognormal);
        let expected = 180.0 * 0.125_f64.exp();
        close(median, 180.0);
        close(mean, expected);
        close(deviation, expected * (0.25_f64.exp() - 1.0).sqrt());
        close(lognormal.mean().as_secs_f64(), expected);
        let (mean, deviation, _) = moments(&read("{kind: uniform, from: 2s, to: 8s}").unwrap());
        close(mean, 5.0);
        close(deviation, 6.0 / 12.0_f64.sqrt());
        let (mean, deviation, _) = moments(&read("3s").unwrap());
        close(mean, 3.0);
        assert!(deviation < 1e-9);
    }

    #[test]
    fn an_empirical_distribution_goes_through_its_quantiles() {
        let dist = read("{kind: empirical, values: [10s, 0s, 2s]}").unwrap();
        let (mean, _, median) = moments(&dist);
        close(median, 2.0);
        close(mean, 3.5);
        close(dist.mean().as_secs_f64(), 3.5);
        assert_eq!(quantile(&[Duration::ZERO, Duration::from_secs(4)], 0.25), 1.0);
        assert_eq!(quantile(&[Duration::ZERO, Duration::from_secs(4)], 1.0), 4.0);
    }

    #[test]
    fn no_draw_is_above_the_most() {
        let dist = read("{kind: exponential, mean: 60s, at_most: 61s}").unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let most = (0..10_000).map(|_| dist.draw(&mut rng)).max().unwrap();
        assert_eq!(most, Duration::from_secs(61));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, part) in [
            ("{kind: exponential}", "needs the key mean"),
            ("{kind: exponential, mean: 1s, sigma: 1}", "has no key sigma"),
            ("{kind: uniform, from: 2s, to: 1s}", "must not be less"),
            ("{kind: lognormal, median: 2s, sigma: 9}", "outside 0 to 4"),
            ("{kind: empirical, values: [1s]}", "from 2 to"),
            ("{kind: gaussian, mean: 1s}", "unknown variant"),
            ("{kind: constant, value: 1s, x: 1}", "unknown field"),
            ("7", "has no unit"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
