//! What the system's processes use, second by second.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::system::{Usage, scrape, scrape_sum, threads, usage};

/// Metrics that are followed, what they mean, and whether they are told as their growth a second.
const METRICS: &[(&str, &str)] = &[
    ("trunkline_records_events_waiting", "events that the records have not folded yet"),
    ("trunkline_media_uploads_waiting", "recordings that wait for their store"),
    ("trunkline_platform_mailbox_depth", "messages waiting in mailboxes"),
];
/// Pages are large: they are read this often.
const SCRAPE_EVERY: u64 = 5;

/// A process at one second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Seconds since the beginning of the load.
    pub at_s: f64,
    /// Share of one core, percent.
    pub cpu_percent: f64,
    /// Resident memory, MB.
    pub rss_mb: f64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// A process over the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Followed {
    /// Its samples; a pause where it did not run.
    pub samples: Vec<Sample>,
    /// Processor time after the warm-up, seconds.
    pub cpu_s: f64,
    /// The same by groups of threads, as far as they lived at the end of a second.
    pub threads: BTreeMap<String, f64>,
    #[serde(skip)]
    last: Option<Last>,
}

#[derive(Clone, Debug)]
struct Last {
    pid: u32,
    at: Instant,
    usage: Usage,
    threads: BTreeMap<String, Duration>,
}

/// All processes and metrics.
#[derive(Debug, Default, Serialize)]
pub struct Sampler {
    /// Processes by name.
    pub processes: BTreeMap<String, Followed>,
    /// Followed metrics: time in seconds and value, summed over all pages.
    pub metrics: BTreeMap<&'static str, Vec<(f64, f64)>>,
    #[serde(skip)]
    ticks: u64,
}

impl Sampler {
    /// Looks at everything; `counted` after the warm-up.
    pub async fn sample(
        &mut self,
        start: Instant,
        pids: &[(String, u32)],
        metrics: &[SocketAddr],
        counted: bool,
    ) {
        let at_s = start.elapsed().as_secs_f64();
        for (name, pid) in pids {
            self.processes.entry(name.clone()).or_default().sample(at_s, *pid, counted);
        }
        self.ticks += 1;
        if self.ticks % SCRAPE_EVERY != 1 || metrics.is_empty() {
            return;
        }
        let pages = futures::future::join_all(metrics.iter().map(|at| scrape(*at))).await;
        for (name, _) in METRICS {
            let values: Vec<f64> = pages.iter().flatten().filter_map(|page| scrape_sum(page, name)).collect();
            if !values.is_empty() {
                self.metrics.entry(name).or_default().push((at_s, values.iter().sum()));
            }
        }
    }

    /// Processor time of all processes after the warm-up, seconds.
    pub fn cpu_s(&self) -> f64 {
        self.processes.values().map(|process| process.cpu_s).sum()
    }

    /// Share of one core that all use now, percent, and their memory, MB.
    pub fn now(&self) -> Option<(f64, f64)> {
        let last: Vec<&Sample> =
            self.processes.values().filter_map(|process| process.samples.last()).collect();
        let sum = |part: fn(&Sample) -> f64| last.iter().map(|sample| part(sample)).sum();
        (!last.is_empty()).then(|| (sum(|s| s.cpu_percent), sum(|s| s.rss_mb)))
    }
}

impl Followed {
    fn sample(&mut self, at_s: f64, pid: u32, counted: bool) {
        let Ok(usage) = usage(pid) else { return };
        let (now, threads) = (Instant::now(), threads(pid));
        let last = self.last.take().filter(|last| last.pid == pid);
        let mut cpu_percent = 0.0;
        if let Some(last) = last {
            let spent = usage.cpu.saturating_sub(last.usage.cpu).as_secs_f64();
            cpu_percent = spent / (now - last.at).as_secs_f64().max(0.001) * 100.0;
            if counted {
                self.cpu_s += spent;
                for (group, total) in &threads {
                    let before = last.threads.get(group).copied().unwrap_or_default();
                    *self.threads.entry(group.clone()).or_default() +=
                        total.saturating_sub(before).as_secs_f64();
                }
            }
        }
        self.samples.push(Sample {
            at_s,
            cpu_percent,
            rss_mb: usage.rss_bytes as f64 / 1e6,
            descriptors: usage.descriptors,
            threads: usage.threads,
        });
        self.last = Some(Last { pid, at: now, usage, threads });
    }
}

/// What a followed metric means.
pub fn meaning(metric: &str) -> &'static str {
    METRICS.iter().find(|(name, _)| *name == metric).map_or("", |(_, meaning)| meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work that this process does shows up as its processor time, and only after the warm-up.
    #[tokio::test]
    async fn processor_time_is_followed() {
        let (mut sampler, start) = (Sampler::default(), Instant::now());
        let me = [("me".to_owned(), std::process::id())];
        sampler.sample(start, &me, &[], false).await;
        let busy = Instant::now();
        let mut sum = 0u64;
        while busy.elapsed() < Duration::from_millis(150) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        sampler.sample(start, &me, &[], false).await;
        let shown = sampler.now().unwrap().0;
        assert!(shown > 10.0 && sampler.cpu_s() == 0.0, "{shown} %");
        while busy.elapsed() < Duration::from_millis(300) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        sampler.sample(start, &me, &[], true).await;
        assert!(sampler.cpu_s() >= 0.02, "{}", sampler.cpu_s());
        let threads: f64 = sampler.processes["me"].threads.values().sum();
        assert!(threads > 0.02, "{threads}");
    }
}
