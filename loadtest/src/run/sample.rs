//! What the system's processes use, second by second.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::system::{Usage, scrape, scrape_sum, threads, usage};

/// Gauges that are followed, and what they mean.
const METRICS: &[(&str, &str)] = &[
    (JOURNAL_LAG, "events in the journal that the slowest records have not folded"),
    ("trunkline_journal_queue_depth", "appends waiting for the journal"),
    ("trunkline_actors_mailbox_depth", "messages waiting in mailboxes"),
    ("trunkline_actors_entities", "actors in memory"),
    ("trunkline_sip_transactions", "SIP transactions in memory"),
    ("trunkline_media_events_waiting", "events of media that are not acknowledged"),
    ("trunkline_media_uploads_waiting", "recordings that wait for their store"),
];
/// Made of two counters: what was appended everywhere, less what the slowest records have folded. Where both began is not
/// known, so that only its growth tells something.
pub const JOURNAL_LAG: &str = "journal lag";
const APPENDED: &str = "trunkline_journal_events_total";
const FOLDED: &str = "trunkline_records_events_total";
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
    /// Events that were appended to the journal so far: time in seconds and count, over all pages.
    #[serde(skip)]
    pub appended: Vec<(f64, f64)>,
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
        // With a page missing, sums would fall for no reason.
        let Ok(pages) = pages.into_iter().collect::<anyhow::Result<Vec<String>>>() else { return };
        for (name, _) in METRICS {
            if let Some(value) = value(&pages, name) {
                self.metrics.entry(name).or_default().push((at_s, value));
            }
        }
        self.appended.extend(value(&pages, APPENDED).map(|appended| (at_s, appended)));
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

/// A metric over all pages.
fn value(pages: &[String], name: &str) -> Option<f64> {
    let of = |name: &str| -> Vec<f64> { pages.iter().filter_map(|page| scrape_sum(page, name)).collect() };
    if name == JOURNAL_LAG {
        let slowest = of(FOLDED).into_iter().reduce(f64::min)?;
        return Some(of(APPENDED).into_iter().sum::<f64>() - slowest);
    }
    let values = of(name);
    (!values.is_empty()).then(|| values.iter().sum())
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Two nodes append, two fold everything: the lag is that of the slower one.
    #[test]
    fn the_lag_is_that_of_the_slowest() {
        let page = |appended: u32, folded: Option<u32>| {
            let folded = folded.map_or(String::new(), |folded| format!("{FOLDED} {folded}\n"));
            format!("{APPENDED} {appended}\n{folded}")
        };
        let pages = [page(100, Some(290)), page(200, Some(250)), page(0, None)];
        assert_eq!(value(&pages, JOURNAL_LAG), Some(50.0));
        assert_eq!(value(&pages, "trunkline_actors_entities"), None);
        assert_eq!(value(&[], JOURNAL_LAG), None);
    }

    /// Pages are read every fifth time: what was appended and the lag are kept with their moments.
    #[tokio::test]
    async fn pages_tell_what_was_appended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for appended in [100, 170] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let page =
                    format!("HTTP/1.1 200 OK\r\n\r\n{APPENDED}{{kind=\"x\"}} {appended}\n{FOLDED} 90\n");
                // An unread request would reset the connection.
                let _ = stream.read(&mut [0; 1_000]).await.unwrap();
                stream.write_all(page.as_bytes()).await.unwrap();
            }
        });
        let (mut sampler, start) = (Sampler::default(), Instant::now());
        for _ in 0..=SCRAPE_EVERY {
            sampler.sample(start, &[], &[at], true).await;
        }
        let values = |points: &[(f64, f64)]| points.iter().map(|(_, value)| *value).collect::<Vec<_>>();
        assert_eq!(values(&sampler.appended), [100.0, 170.0]);
        assert_eq!(values(&sampler.metrics[JOURNAL_LAG]), [10.0, 80.0]);
        assert!(sampler.appended[0].0 < sampler.appended[1].0);
    }

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
