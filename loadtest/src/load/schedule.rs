//! When calls come, whatever becomes of them (open loop).
//!
//! A schedule is a rate over time. Its integral is the number of calls due by a moment; the moment of a call is the
//! inverse of that integral, so that nothing adds up over a run: call 100,000 is as punctual as call 1.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp1};
use serde::Deserialize;

/// How calls follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent callers: exponential times between calls.
    #[default]
    Poisson,
    /// Equal times between calls.
    Constant,
}

/// A part of a schedule in which the rate is constant or changes evenly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// How long.
    pub length: Duration,
    /// Calls per second at its beginning.
    pub from: f64,
    /// Calls per second at its end.
    pub to: f64,
}

impl Phase {
    /// Calls due after `t` seconds of it.
    fn due(&self, t: f64) -> f64 {
        let slope = (self.to - self.from) / self.length.as_secs_f64().max(1e-9);
        self.from * t + slope * t * t / 2.0
    }

    /// When so many calls are due, seconds from its beginning.
    fn when(&self, due: f64) -> f64 {
        let slope = (self.to - self.from) / self.length.as_secs_f64().max(1e-9);
        // The root of slope/2·t² + from·t = due that does not cancel.
        let root = (self.from * self.from + 2.0 * slope * due).max(0.0).sqrt();
        let below = self.from + root;
        if below > 0.0 { 2.0 * due / below } else { 0.0 }
    }
}

/// The moments at which one of several workers places its calls, from the beginning of the run.
#[derive(Clone, Debug)]
pub struct Schedule {
    phases: Vec<Phase>,
    arrivals: Arrivals,
    rng: StdRng,
    worker: usize,
    workers: usize,
    count: u64,
    due: f64,
    /// Phase under way, when it began, calls due before it.
    at: (usize, Duration, f64),
}

impl Schedule {
    /// The share of `worker` (from 0) of `workers`. All shares together have the rate of the phases: with Poisson
    /// arrivals each is a Poisson process of its part of the rate, with constant ones they take turns.
    pub fn new(phases: &[Phase], arrivals: Arrivals, seed: u64, worker: usize, workers: usize) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ (worker as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let workers = workers.max(1);
        Self {
            phases: phases.to_vec(),
            arrivals,
            rng,
            worker,
            workers,
            count: 0,
            due: 0.0,
            at: (0, Duration::ZERO, 0.0),
        }
    }

    /// Calls due in all.
    pub fn expected(phases: &[Phase]) -> f64 {
        Self::before(phases, Duration::MAX)
    }

    /// Calls due before a moment.
    pub fn before(phases: &[Phase], at: Duration) -> f64 {
        let mut left = at;
        let due = phases.iter().map(|phase| {
            let part = left.min(phase.length);
            left -= part;
            phase.due(part.as_secs_f64())
        });
        due.sum()
    }

    /// Calls per second wanted at a moment.
    pub fn rate(phases: &[Phase], at: Duration) -> f64 {
        let mut begun = Duration::ZERO;
        for phase in phases {
            if at < begun + phase.length {
                let share = (at - begun).as_secs_f64() / phase.length.as_secs_f64();
                return phase.from + (phase.to - phase.from) * share;
            }
            begun += phase.length;
        }
        0.0
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let share = self.workers as f64;
        self.due = match self.arrivals {
            Arrivals::Constant => self.worker as f64 + self.count as f64 * share,
            Arrivals::Poisson => {
                let unit: f64 = Exp1.sample(&mut self.rng);
                self.due + unit * share
            }
        };
        self.count += 1;
        loop {
            let (index, begun, before) = self.at;
            let phase = self.phases.get(index)?;
            let length = phase.length.as_secs_f64();
            let inside = self.due - before;
            if inside < phase.due(length) {
                return Some(begun + Duration::from_secs_f64(phase.when(inside).min(length)));
            }
            self.at = (index + 1, begun + phase.length, before + phase.due(length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(seconds: u64, from: f64, to: f64) -> Phase {
        Phase { length: Duration::from_secs(seconds), from, to }
    }

    /// The hundred-thousandth call is where arithmetic says, not where rounding has carried it.
    #[test]
    fn constant_arrivals_do_not_drift() {
        let phases = [phase(100_000, 3.0, 3.0)];
        let times: Vec<Duration> = Schedule::new(&phases, Arrivals::Constant, 1, 0, 1).collect();
        assert_eq!(times.len(), 300_000);
        for n in [0, 1, 99_999, 299_999] {
            assert!((times[n].as_secs_f64() - n as f64 / 3.0).abs() < 1e-6, "{n}: {:?}", times[n]);
        }
    }

    /// Mean and variance of a Poisson process are its rate times the time; the gaps are exponential.
    #[test]
    fn poisson_arrivals_have_the_rate_and_the_variance() {
        let phases = [phase(20_000, 5.0, 5.0)];
        let times: Vec<Duration> = Schedule::new(&phases, Arrivals::Poisson, 42, 0, 1).collect();
        let count = times.len() as f64;
        assert!((count - 100_000.0).abs() < 4.0 * 100_000.0_f64.sqrt(), "{count}");
        let mut bins = vec![0.0; 20_000];
        times.iter().for_each(|time| bins[time.as_secs() as usize] += 1.0);
        let mean = count / 20_000.0;
        let variance = bins.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / 19_999.0;
        assert!((variance / mean - 1.0).abs() < 0.05, "index of dispersion {}", variance / mean);
    }

    #[test]
    fn a_ramp_follows_its_line() {
        let phases = [phase(10, 0.0, 20.0), phase(10, 20.0, 20.0), phase(10, 20.0, 0.0)];
        let times: Vec<f64> =
            Schedule::new(&phases, Arrivals::Constant, 1, 0, 1).map(|t| t.as_secs_f64()).collect();
        assert_eq!(times.len(), 400);
        let until = |t: f64| times.iter().filter(|time| **time < t).count();
        assert!((until(5.0) as i64 - 25).abs() <= 1 && (until(10.0) as i64 - 100).abs() <= 1);
        assert!((until(20.0) as i64 - 300).abs() <= 1 && (until(25.0) as i64 - 375).abs() <= 1);
        assert!(times.is_sorted() && times.iter().all(|t| t.is_finite()));
        assert_eq!(Schedule::before(&phases, Duration::from_secs(15)), 200.0);
        assert_eq!(Schedule::expected(&phases), 400.0);
        assert_eq!(Schedule::rate(&phases, Duration::from_secs(5)), 10.0);
        assert_eq!(Schedule::rate(&phases, Duration::from_secs(30)), 0.0);
    }

    /// Shares of three workers make the whole: the same moments when constant, the same rate when Poisson.
    #[test]
    fn workers_share_the_schedule() {
        let phases = [phase(30, 4.0, 10.0)];
        let whole: Vec<Duration> = Schedule::new(&phases, Arrivals::Constant, 1, 0, 1).collect();
        let mut shares: Vec<Duration> =
            (0..3).flat_map(|n| Schedule::new(&phases, Arrivals::Constant, 1, n, 3)).collect();
        shares.sort_unstable();
        assert_eq!(whole, shares);
        let phases = [phase(10_000, 6.0, 6.0)];
        let counts: Vec<usize> =
            (0..3).map(|n| Schedule::new(&phases, Arrivals::Poisson, 9, n, 3).count()).collect();
        assert!(counts.iter().all(|n| n.abs_diff(20_000) < 600), "{counts:?}");
        assert!(counts[0] != counts[1], "workers must not place their calls at the same moments");
    }

    #[test]
    fn pauses_have_no_calls_and_nothing_hangs() {
        let phases = [phase(1, 2.0, 2.0), phase(5, 0.0, 0.0), phase(1, 2.0, 2.0)];
        let times: Vec<f64> =
            Schedule::new(&phases, Arrivals::Constant, 1, 0, 1).map(|t| t.as_secs_f64()).collect();
        assert_eq!(times, [0.0, 0.5, 6.0, 6.5]);
        assert_eq!(Schedule::new(&[], Arrivals::Poisson, 1, 0, 1).next(), None);
    }
}
