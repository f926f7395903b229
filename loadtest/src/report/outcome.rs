//! What a run came to, ready to be told.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    load::Schedule,
    run::{
        Counts, Followed, Happened, Hist, JOURNAL_LAG, Played, Remote, SHARES, Second, Trend, meaning, rate,
        trend,
    },
};

/// A whole report; its JSON is this.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// What it is for.
    pub about: String,
    /// When the report was made, UTC.
    pub made: String,
    /// Where the coordinator ran.
    pub machine: Machine,
    /// Seed.
    pub seed: u64,
    /// Calls per second meant on average, after the warm-up.
    pub offered_rate: f64,
    /// How long load was offered, seconds.
    pub offered_s: f64,
    /// How long at its beginning was not counted.
    pub warm_up_s: f64,
    /// Agents.
    pub agents: usize,
    /// What did not hold; empty = everything held.
    pub broken: Vec<String>,
    /// Whether anything was to hold.
    pub expected: bool,
    /// Why the run ended before its time, and the rate that was still borne.
    pub stopped: Option<Stopped>,
    /// Counts.
    pub counts: Counts,
    /// Times, by what they are of.
    pub times: BTreeMap<&'static str, Quantiles>,
    /// Processes of the system.
    pub processes: BTreeMap<String, Process>,
    /// Metrics that were followed.
    pub metrics: Vec<Metric>,
    /// Processor time of the generator, seconds.
    pub generator_cpu_s: f64,
    /// Workers on other machines.
    pub workers: Vec<Remote>,
    /// Events as they went.
    pub events: Vec<Happened>,
    /// What was noted.
    pub notes: Vec<String>,
    /// Second by second, the warm-up included.
    pub seconds: Vec<Second>,
}

/// A run that found the limit.
#[derive(Debug, Serialize)]
pub struct Stopped {
    /// What was exceeded.
    pub why: String,
    /// Calls per second at the beginning of the window in which it was.
    pub rate: f64,
}

/// Where a run was made.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processor.
    pub model: String,
    /// Cores.
    pub cores: usize,
    /// Load averages of 1, 5 and 15 minutes at the end.
    pub load: String,
    /// Kernel.
    pub kernel: String,
}

/// Quantiles of times, milliseconds.
#[derive(Debug, Serialize)]
pub struct Quantiles {
    /// How many times.
    pub count: u64,
    /// Mean.
    pub mean_ms: f64,
    /// By share: p50, p90, p95, p99, p99.9, max.
    pub quantiles_ms: Vec<(String, f64)>,
    /// The curve: one over the share that is slower, and the time.
    pub curve: Vec<(f64, f64)>,
}

/// A process of the system.
#[derive(Debug, Serialize)]
pub struct Process {
    /// Processor time after the warm-up, seconds.
    pub cpu_s: f64,
    /// The same for each call that was due, milliseconds.
    pub cpu_per_call_ms: f64,
    /// Largest resident memory, MB.
    pub rss_most_mb: f64,
    /// Growth of resident memory after the warm-up, MB an hour.
    pub memory: Option<Trend>,
    /// Growth of open descriptors, an hour.
    pub descriptors: Option<Trend>,
    /// Samples and thread groups.
    #[serde(flatten)]
    pub followed: Followed,
}

/// A metric of the system.
#[derive(Debug, Serialize)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Growth an hour.
    pub trend: Option<Trend>,
    /// The same as a time, seconds an hour, where the value is a backlog: divided by what came in a second.
    pub behind: Option<Trend>,
    /// Seconds and value.
    pub points: Vec<(f64, f64)>,
}

impl Report {
    /// Of a run that is over.
    pub fn of(played: Played) -> Self {
        let Played { scenario, tally, sampler, events, workers, stopped, offered } = played;
        let warm_up_s = scenario.warm_up.0.as_secs_f64();
        let calls = tally.counts.due.max(1) as f64;
        let after = |points: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
            // What comes after the load is no steady state.
            points.into_iter().filter(|(at, _)| *at >= warm_up_s && *at <= offered.as_secs_f64()).collect()
        };
        let processes = sampler.processes.into_iter().map(|(name, followed)| {
            let of = |part: fn(&crate::run::Sample) -> f64| {
                trend(&after(followed.samples.iter().map(|sample| (sample.at_s, part(sample))).collect()))
            };
            let process = Process {
                cpu_s: followed.cpu_s,
                cpu_per_call_ms: followed.cpu_s * 1_000.0 / calls,
                rss_most_mb: followed.samples.iter().map(|sample| sample.rss_mb).fold(0.0, f64::max),
                memory: of(|sample| sample.rss_mb),
                descriptors: of(|sample| sample.descriptors as f64),
                followed,
            };
            (name, process)
        });
        let processes: BTreeMap<String, Process> = processes.collect();
        let each_second = rate(&after(sampler.appended));
        let metrics = sampler.metrics.into_iter().map(|(name, points)| {
            let trend = trend(&after(points.clone()));
            let each_second = each_second.filter(|_| name == JOURNAL_LAG);
            let behind = trend.zip(each_second).map(|(trend, each_second)| trend.of(1.0 / each_second));
            Metric { name, meaning: meaning(name), trend, behind, points }
        });
        let metrics: Vec<Metric> = metrics.collect();
        let times = &tally.times;
        let named = [
            ("INVITE to 180", &times.ringing),
            ("INVITE to 200", &times.setup),
            ("agent free to ringing", &times.free_to_ring),
            ("caller in the queue to ringing", &times.wait),
            ("accept to its answer", &times.accept),
            ("longest audio gap of a caller", &times.gaps),
            ("lateness of the generator", &times.late),
        ];
        let expect = scenario.expect;
        let mut broken = expect.broken(&tally.seen(), &tally.counts, &processes, &metrics);
        broken
            .extend(events.iter().filter_map(|e| Some(format!("event {}: {}", e.title, e.error.as_ref()?))));
        let phases = scenario.phases();
        let counted = offered.as_secs_f64() - warm_up_s;
        let before = Schedule::before(&phases, scenario.warm_up.0);
        Self {
            offered_rate: (Schedule::before(&phases, offered) - before) / counted.max(1e-9),
            scenario: scenario.name,
            about: scenario.about,
            made: now(),
            machine: Machine::this(),
            seed: scenario.seed,
            offered_s: offered.as_secs_f64(),
            warm_up_s,
            agents: scenario.agents.count,
            broken,
            expected: expect.is_given(),
            stopped: stopped.map(|(why, rate)| Stopped { why, rate }),
            times: named.into_iter().filter_map(|(name, hist)| Some((name, Quantiles::of(hist)?))).collect(),
            counts: tally.counts,
            processes,
            metrics,
            generator_cpu_s: tally.generator_cpu_s,
            workers,
            events,
            notes: tally.notes,
            seconds: tally.seconds,
        }
    }

    /// Whether everything held.
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }
}

impl Quantiles {
    fn of(hist: &Hist) -> Option<Self> {
        let quantiles = SHARES.iter().map(|share| {
            let name = if *share == 1.0 {
                "max".to_owned()
            } else {
                format!("p{}", (share * 1_000.0).round() / 10.0)
            };
            Some((name, hist.at(*share)?))
        });
        // Ten points for each factor of ten.
        let points = (0..=70).map(|n| 10.0_f64.powf(f64::from(n) / 10.0));
        let points = points.take_while(|slower| *slower <= hist.count() as f64 + 0.5);
        let curve =
            points.map(|slower| Some((slower, hist.at(1.0 - 1.0 / slower)?))).collect::<Option<_>>()?;
        Some(Self {
            count: hist.count(),
            mean_ms: hist.mean()?,
            quantiles_ms: quantiles.collect::<Option<_>>()?,
            curve,
        })
    }

    /// A quantile by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.quantiles_ms.iter().find(|(known, _)| known == name).map(|(_, ms)| *ms)
    }
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let load = read("/proc/loadavg");
        Self {
            model: model.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load: load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// UTC, to the second, as RFC 3339 writes it.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    utc(since.as_secs())
}

/// Howard Hinnant's days-to-civil, which holds for every year.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn quantiles_are_named_and_their_curve_rises() {
        let mut hist = Hist::default();
        (1..=1_000).for_each(|ms| hist.record(Duration::from_millis(ms)));
        let quantiles = Quantiles::of(&hist).unwrap();
        assert!(
            (quantiles.get("p99.9").unwrap() - 999.0).abs() < 1.0 && quantiles.get("max").unwrap() >= 1_000.0
        );
        assert!(quantiles.curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) && quantiles.curve.len() == 31);
        assert!(Quantiles::of(&Hist::default()).is_none());
    }
}
