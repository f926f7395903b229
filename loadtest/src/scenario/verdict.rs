//! What must hold, and when a run has found the limit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    load::Span,
    report::{Metric, Process},
    run::{Counts, JOURNAL_LAG, Trend},
};

/// Limits on what was measured; each that is given is checked.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Share of the calls that were refused, lost, or never started, 0 to 1.
    pub failed: Option<f64>,
    /// INVITE to 180, from the intended moment, 99th percentile.
    pub ringing_p99: Option<Span>,
    /// INVITE to 200, from the intended moment, 99th percentile.
    pub setup_p99: Option<Span>,
    /// Agent free (with somebody waiting) to ringing, 99th percentile.
    pub free_to_ring_p99: Option<Span>,
    /// Caller in the queue to ringing, 99th percentile.
    pub wait_p99: Option<Span>,
}

/// When a run ends before its time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopWhen {
    /// The time that is looked at, always the latest.
    #[serde(default = "over")]
    pub over: Span,
    /// Share of the calls that were refused, lost, or never started, 0 to 1.
    pub failed: Option<f64>,
    /// INVITE to 200, 99th percentile.
    pub setup_p99: Option<Span>,
    /// Agent free to ringing, 99th percentile.
    pub free_to_ring_p99: Option<Span>,
    /// Caller in the queue to ringing, 99th percentile.
    pub wait_p99: Option<Span>,
}

fn over() -> Span {
    Span::seconds(5)
}

impl StopWhen {
    /// The same as limits.
    pub fn limits(&self) -> Limits {
        Limits {
            failed: self.failed,
            ringing_p99: None,
            setup_p99: self.setup_p99,
            free_to_ring_p99: self.free_to_ring_p99,
            wait_p99: self.wait_p99,
        }
    }
}

/// What must hold at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Share of the calls that were refused, lost, or never started, 0 to 1.
    pub failed: Option<f64>,
    /// INVITE to 180, 99th percentile.
    pub ringing_p99: Option<Span>,
    /// INVITE to 200, 99th percentile.
    pub setup_p99: Option<Span>,
    /// Agent free to ringing, 99th percentile.
    pub free_to_ring_p99: Option<Span>,
    /// Caller in the queue to ringing, 99th percentile.
    pub wait_p99: Option<Span>,
    /// Callers who were overtaken.
    pub overtaken: Option<u64>,
    /// Callers who were connected to two agents.
    pub twice: Option<u64>,
    /// Conversations in which one side did not hear the other.
    pub one_way: Option<u64>,
    /// Longest time without a packet for any caller.
    pub gap: Option<Span>,
    /// Share of RTP packets that never came, 0 to 1.
    pub packets_lost: Option<f64>,
    /// Growth of the processes' memory, upper end of the 95 % confidence interval, MB an hour.
    pub memory_growth: Option<f64>,
    /// Growth of the processes' descriptors, upper end of the interval, an hour.
    pub descriptor_growth: Option<f64>,
    /// Growth of the journal's lag, upper end of the interval, an hour: of what the records have not folded, told in the
    /// time in which so many events are appended, so that it means the same at every rate.
    pub lag_growth: Option<Span>,
}

/// What was measured, as far as limits speak of it. Times in milliseconds; `None` = nothing to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seen {
    /// Share of the calls that failed.
    pub failed: f64,
    /// INVITE to 180.
    pub ringing_p99: Option<f64>,
    /// INVITE to 200.
    pub setup_p99: Option<f64>,
    /// Agent free to ringing.
    pub free_to_ring_p99: Option<f64>,
    /// Caller in the queue to ringing.
    pub wait_p99: Option<f64>,
}

impl Limits {
    /// What is above its limit, in words.
    pub fn exceeded(&self, seen: &Seen) -> Vec<String> {
        let mut exceeded = Vec::new();
        if let Some(limit) = self.failed.filter(|limit| seen.failed > *limit) {
            exceeded.push(format!(
                "{:.2} % of the calls failed, at most {:.2} % may",
                seen.failed * 100.0,
                limit * 100.0
            ));
        }
        for (what, limit, seen) in [
            ("INVITE to 180", self.ringing_p99, seen.ringing_p99),
            ("INVITE to 200", self.setup_p99, seen.setup_p99),
            ("agent free to ringing", self.free_to_ring_p99, seen.free_to_ring_p99),
            ("caller in the queue to ringing", self.wait_p99, seen.wait_p99),
        ] {
            if let (Some(limit), Some(seen)) = (limit, seen)
                && seen > limit.milliseconds()
            {
                exceeded.push(format!("{what}: p99 is {seen:.1} ms, at most {limit} is allowed"));
            }
        }
        exceeded
    }
}

impl Expect {
    /// Whether anything is to hold.
    pub fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// What is to stay as it is, if anything: the first by name.
    pub fn growth(&self) -> Option<&'static str> {
        let memory = self.memory_growth.map(|_| "memory_growth");
        let descriptors = self.descriptor_growth.map(|_| "descriptor_growth");
        memory.or(descriptors).or(self.lag_growth.map(|_| "lag_growth"))
    }

    /// What does not hold, or was not seen to hold: a limit on what nobody measured is broken.
    pub fn broken(
        &self,
        seen: &Seen,
        counts: &Counts,
        processes: &BTreeMap<String, Process>,
        metrics: &[Metric],
    ) -> Vec<String> {
        let lag = metrics.iter().find(|metric| metric.name == JOURNAL_LAG).and_then(|metric| metric.behind);
        let mut broken = self.limits().exceeded(seen);
        broken.extend(self.counts_broken(counts));
        broken.extend(self.not_measured(seen, counts, processes, lag.is_some()));
        let (lag, lag_limit) = (lag.map(|lag| lag.of(1_000.0)), self.lag_growth.map(Span::milliseconds));
        let of_processes = processes.iter().flat_map(|(name, process)| {
            [
                (name.as_str(), "MB an hour of memory", self.memory_growth, process.memory),
                (name.as_str(), "descriptors an hour", self.descriptor_growth, process.descriptors),
            ]
        });
        for (name, what, limit, trend) in
            of_processes.chain([(JOURNAL_LAG, "ms an hour of what comes", lag_limit, lag)])
        {
            if let Some((limit, trend)) = limit.zip(trend).filter(|(limit, trend)| trend.high > *limit) {
                let Trend { slope, low, high, .. } = trend;
                broken.push(format!(
                    "{name} grows by {slope:.1} {what} (95 %: {low:.1} to {high:.1}), at most {limit} is allowed"
                ));
            }
        }
        broken
    }

    fn not_measured(
        &self,
        seen: &Seen,
        counts: &Counts,
        processes: &BTreeMap<String, Process>,
        lag: bool,
    ) -> Vec<String> {
        let grown = |trend: fn(&Process) -> bool| !processes.is_empty() && processes.values().all(trend);
        let (calls, served) = ("calls have to be made", "callers have to be served");
        let audio = "callers have to listen (callers.media: listen) and to be heard (agents.audio)";
        let processes =
            "the processes have to be known (--spawn or --pid) and to run for two minutes after the warm-up";
        let pages = "metrics have to be read (--metrics) for two minutes after the warm-up, while calls come";
        [
            ("failed", self.failed.is_some(), counts.over + counts.not_started > 0, calls),
            ("ringing_p99", self.ringing_p99.is_some(), seen.ringing_p99.is_some(), calls),
            ("setup_p99", self.setup_p99.is_some(), seen.setup_p99.is_some(), calls),
            ("free_to_ring_p99", self.free_to_ring_p99.is_some(), seen.free_to_ring_p99.is_some(), served),
            ("wait_p99", self.wait_p99.is_some(), seen.wait_p99.is_some(), served),
            ("overtaken", self.overtaken.is_some(), counts.served > 0, served),
            ("twice", self.twice.is_some(), counts.served > 0, served),
            ("one_way", self.one_way.is_some(), counts.two_sided > 0, audio),
            ("gap", self.gap.is_some(), counts.packets > 0, audio),
            ("packets_lost", self.packets_lost.is_some(), counts.packets + counts.packets_lost > 0, audio),
            ("memory_growth", self.memory_growth.is_some(), grown(|p| p.memory.is_some()), processes),
            (
                "descriptor_growth",
                self.descriptor_growth.is_some(),
                grown(|p| p.descriptors.is_some()),
                processes,
            ),
            ("lag_growth", self.lag_growth.is_some(), lag, pages),
        ]
        .into_iter()
        .filter(|(_, expected, measured, _)| *expected && !measured)
        .map(|(name, .., remedy)| format!("expect.{name}: nothing was measured; {remedy}"))
        .collect()
    }

    fn counts_broken(&self, counts: &Counts) -> Vec<String> {
        let mut broken = Vec::new();
        for (what, limit, seen) in [
            ("callers were overtaken", self.overtaken, counts.overtaken),
            ("callers were with two agents at once", self.twice, counts.twice),
            ("conversations had audio in one direction only", self.one_way, counts.one_way),
        ] {
            if limit.is_some_and(|limit| seen > limit) {
                broken.push(format!("{seen} {what}, at most {} may be", limit.unwrap_or_default()));
            }
        }
        if let Some(limit) = self.gap.filter(|limit| counts.gap_ms > limit.milliseconds()) {
            broken.push(format!(
                "a caller heard nothing for {:.0} ms, at most {limit} is allowed",
                counts.gap_ms
            ));
        }
        if let Some(limit) = self.packets_lost.filter(|limit| counts.lost_share() > *limit) {
            let (seen, limit) = (counts.lost_share() * 100.0, limit * 100.0);
            broken.push(format!("{seen:.3} % of the packets were lost, at most {limit:.3} % may be"));
        }
        broken
    }

    /// The part that a moving window can be judged by, too.
    pub fn limits(&self) -> Limits {
        Limits {
            failed: self.failed,
            ringing_p99: self.ringing_p99,
            setup_p99: self.setup_p99,
            free_to_ring_p99: self.free_to_ring_p99,
            wait_p99: self.wait_p99,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Followed;

    #[test]
    fn nothing_worse_than_expected_may_pass() {
        let expect = Expect {
            overtaken: Some(0),
            twice: Some(0),
            one_way: Some(1),
            gap: Some(Span::seconds(1)),
            packets_lost: Some(0.01),
            ..Expect::default()
        };
        let fine = Counts {
            served: 2,
            two_sided: 2,
            one_way: 1,
            packets: 99,
            packets_lost: 1,
            gap_ms: 1_000.0,
            ..Counts::default()
        };
        let broken = |counts: &Counts| expect.broken(&Seen::default(), counts, &BTreeMap::new(), &[]);
        assert_eq!(broken(&fine), [""; 0]);
        let bad = Counts { overtaken: 1, twice: 1, one_way: 2, packets_lost: 2, gap_ms: 1_001.0, ..fine };
        assert_eq!(broken(&bad).len(), 5);
        assert!(expect.is_given() && !Expect::default().is_given());
    }

    /// It is the upper end of the interval that has to stay below the limit: a short soak proves little.
    #[test]
    fn growth_is_judged_by_the_end_of_its_interval() {
        let expect = Expect { lag_growth: Some(Span::seconds(1)), ..Expect::default() };
        let lag = |slope, high| Trend { slope, low: -9.0, high, blocks: 10 };
        let metric = |high| Metric {
            name: JOURNAL_LAG,
            meaning: "",
            // So many events are no matter: it is the time that is judged.
            trend: Some(lag(1e9, 1e9)),
            behind: Some(lag(0.25, high)),
            points: Vec::new(),
        };
        let broken =
            |high| expect.broken(&Seen::default(), &Counts::default(), &BTreeMap::new(), &[metric(high)]);
        assert!(broken(1.0).is_empty());
        assert!(broken(1.1)[0].contains("journal lag grows by 250.0 ms an hour"));
    }

    /// A limit on what was not measured is not one that held: each of them says what is missing.
    #[test]
    fn nothing_measured_is_nothing_that_holds() {
        let span = Some(Span::seconds(1));
        let expect = Expect {
            failed: Some(1.0),
            ringing_p99: span,
            setup_p99: span,
            free_to_ring_p99: span,
            wait_p99: span,
            overtaken: Some(9),
            twice: Some(9),
            one_way: Some(9),
            gap: span,
            packets_lost: Some(1.0),
            memory_growth: Some(1e9),
            descriptor_growth: Some(1e9),
            lag_growth: span,
        };
        let trend = Some(Trend { slope: 0.0, low: 0.0, high: 0.0, blocks: 10 });
        let process = |memory| Process {
            cpu_s: 0.0,
            cpu_per_call_ms: 0.0,
            rss_most_mb: 0.0,
            memory,
            descriptors: trend,
            followed: Followed::default(),
        };
        let lag = |behind| Metric { name: JOURNAL_LAG, meaning: "", trend, behind, points: Vec::new() };
        let broken = |seen, counts, second, behind| {
            let processes =
                [("a", trend), ("b", second)].map(|(name, trend)| (name.to_owned(), process(trend)));
            expect.broken(&seen, &counts, &processes.into(), &[lag(behind)])
        };
        let seen = Seen {
            ringing_p99: Some(1.0),
            setup_p99: Some(1.0),
            free_to_ring_p99: Some(1.0),
            wait_p99: Some(1.0),
            ..Seen::default()
        };
        let counts = Counts { over: 1, served: 1, two_sided: 1, packets: 1, ..Counts::default() };
        assert_eq!(broken(seen, counts.clone(), trend, trend), [""; 0]);
        // One process that was not followed is enough.
        let one = broken(seen, counts, None, trend);
        assert!(
            one.len() == 1 && one[0].starts_with("expect.memory_growth: nothing was measured; "),
            "{one:?}"
        );
        let none = expect.broken(&Seen::default(), &Counts::default(), &BTreeMap::new(), &[lag(None)]);
        assert_eq!(none.len(), 13, "{none:?}");
        let nothing = Expect::default().broken(&Seen::default(), &Counts::default(), &BTreeMap::new(), &[]);
        assert_eq!(nothing, [""; 0], "nothing is expected");
    }

    #[test]
    fn what_is_above_its_limit_is_told() {
        let limits = Limits { failed: Some(0.01), setup_p99: Some(Span::seconds(1)), ..Limits::default() };
        let fine = Seen { failed: 0.01, setup_p99: Some(1_000.0), wait_p99: Some(9e9), ..Seen::default() };
        assert!(limits.exceeded(&fine).is_empty());
        let slow = Seen { failed: 0.02, setup_p99: Some(1_000.1), ..Seen::default() };
        let told = limits.exceeded(&slow);
        assert!(told[0].starts_with("2.00 %") && told[1].starts_with("INVITE to 200: p99 is 1000.1 ms"));
        assert!(limits.exceeded(&Seen::default()).is_empty(), "nothing measured is nothing exceeded");
    }
}
