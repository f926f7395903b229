//! Whether something grows: a line through means of blocks, with a confidence interval of its slope.
//!
//! Neighbouring samples depend on each other (an allocator keeps what it once had), so that a line through all of them
//! would claim far too much certainty. Blocks of a minute, or at least a tenth of the run, are close to independent; their
//! means are fitted by least squares, and the interval is Student's for blocks − 2 degrees of freedom.

use serde::Serialize;

/// A slope with its 95 % confidence interval, an hour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trend {
    /// Least squares.
    pub slope: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Blocks that were used.
    pub blocks: usize,
}

impl Trend {
    /// In another unit, of which `factor` are one of the old one.
    pub fn of(self, factor: f64) -> Self {
        let Self { slope, low, high, blocks } = self;
        Self { slope: slope * factor, low: low * factor, high: high * factor, blocks }
    }
}

/// How fast a counter went on average, a second; `None` when it did not.
pub fn rate(points: &[(f64, f64)]) -> Option<f64> {
    let ((from, first), (to, last)) = (points.first()?, points.last()?);
    let rate = (last - first) / (to - from);
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

/// Of a shorter time nothing can be said.
const LEAST_S: f64 = 100.0;
const BLOCKS: usize = 30;
const LEAST: usize = 5;

/// The trend of (seconds, value); `None` when there is too little.
pub fn trend(points: &[(f64, f64)]) -> Option<Trend> {
    let (first, last) = (points.first()?.0, points.last()?.0);
    let span = last - first;
    if span < LEAST_S {
        return None;
    }
    let blocks = ((span / 60.0) as usize).clamp(10, BLOCKS);
    let mut sums = vec![(0.0, 0.0, 0.0); blocks];
    for (at, value) in points {
        let index = (((at - first) / span * blocks as f64) as usize).min(blocks - 1);
        if let Some((n, x, y)) = sums.get_mut(index) {
            (*n, *x, *y) = (*n + 1.0, *x + at, *y + value);
        }
    }
    let means: Vec<(f64, f64)> =
        sums.into_iter().filter(|(n, ..)| *n > 0.0).map(|(n, x, y)| (x / n, y / n)).collect();
    let fit = line(&means)?;
    let hour = 3_600.0;
    let margin = student(means.len() - 2) * fit.error;
    Some(Trend {
        slope: fit.slope * hour,
        low: (fit.slope - margin) * hour,
        high: (fit.slope + margin) * hour,
        blocks: means.len(),
    })
}

/// A straight line.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Rise.
    pub slope: f64,
    /// Value at zero.
    pub intercept: f64,
    /// Standard error of the slope.
    pub error: f64,
}

/// Least squares; needs at least as many points as a spread can be told from.
pub fn line(points: &[(f64, f64)]) -> Option<Line> {
    if points.len() < LEAST.min(3) {
        return None;
    }
    let n = points.len() as f64;
    let mean = |part: fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let sxx: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let sxy: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    if sxx <= 0.0 {
        return None;
    }
    let slope = sxy / sxx;
    let intercept = y - slope * x;
    let rest: f64 = points.iter().map(|p| (p.1 - intercept - slope * p.0).powi(2)).sum();
    let error = (rest / (n - 2.0).max(1.0) / sxx).sqrt();
    Some(Line { slope, intercept, error })
}

/// The exponent b of y = a·x^b by a line through the logarithms, with its 95 % interval.
pub fn exponent(points: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    let logs: Vec<(f64, f64)> =
        points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    let fit = line(&logs)?;
    let margin = student(logs.len() - 2) * fit.error;
    Some((fit.slope, fit.slope - margin, fit.slope + margin))
}

/// Student's t for 95 % (two-sided).
fn student(freedom: usize) -> f64 {
    const SMALL: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    match freedom.checked_sub(1).and_then(|n| SMALL.get(n)) {
        Some(t) => *t,
        // Cornish-Fisher around the normal quantile: right to 0.1 % from 11 on.
        None => {
            let (z, v) = (1.96_f64, freedom.max(1) as f64);
            z + (z.powi(3) + z) / (4.0 * v) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v)
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn students_t_is_that_of_the_tables() {
        for (freedom, t) in [(1, 12.706), (10, 2.228), (20, 2.086), (28, 2.048)] {
            assert!((student(freedom) - t).abs() < 0.003, "{freedom}: {}", student(freedom));
        }
    }

    /// A leak of 40 an hour is found within noise; noise alone is not a leak; the interval covers what is true.
    #[test]
    fn a_leak_is_told_from_noise() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut run = |slope: f64| {
            let points: Vec<(f64, f64)> = (0..1_800)
                .map(|t| (f64::from(t), 100.0 + slope * f64::from(t) / 3_600.0 + rng.random_range(-3.0..3.0)))
                .collect();
            trend(&points).unwrap()
        };
        let leak = run(40.0);
        assert!(leak.low > 35.0 && leak.high < 45.0 && leak.low < 40.0 && leak.high > 40.0, "{leak:?}");
        let calm = (0..100).filter(|_| run(0.0).low <= 0.0).count();
        assert!(calm >= 92, "95 % intervals hold zero in 95 of 100 runs, not in {calm}");
    }

    #[test]
    fn a_counter_has_a_rate() {
        assert_eq!(rate(&[(10.0, 500.0), (11.0, 0.0), (20.0, 700.0)]), Some(20.0));
        assert_eq!((rate(&[]), rate(&[(1.0, 5.0)]), rate(&[(1.0, 5.0), (2.0, 5.0)])), (None, None, None));
        let trend = Trend { slope: 100.0, low: -50.0, high: 250.0, blocks: 10 }.of(1.0 / 500.0);
        assert_eq!((trend.slope, trend.low, trend.high, trend.blocks), (0.2, -0.1, 0.5, 10));
    }

    #[test]
    fn exponents_are_found() {
        let square: Vec<(f64, f64)> = [10.0, 100.0, 1_000.0].map(|x: f64| (x, 3.0 * x * x)).into();
        let (b, low, high) = exponent(&square).unwrap();
        assert!((b - 2.0).abs() < 1e-9 && (high - low) < 1e-6);
        let flat: Vec<(f64, f64)> = [(10.0, 5.0), (100.0, 5.1), (1_000.0, 4.9)].into();
        let (b, low, high) = exponent(&flat).unwrap();
        assert!(b.abs() < 0.02 && low < 0.0 && high > 0.0);
        assert!(exponent(&[(1.0, 1.0)]).is_none() && trend(&[]).is_none());
    }
}
