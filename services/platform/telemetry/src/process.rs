//! What the process takes of its machine, read from /proc at each scrape.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::Metrics;

/// Shows the process's own use of CPU, memory, threads and descriptors as `trunkline_process_…`. Linux; elsewhere there
/// are no such metrics.
pub fn register_process(metrics: &Metrics) {
    metrics.room("process", |room| room.register_collector(Box::new(Process)));
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::read) else {
            return Ok(());
        };
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        let cpu = ConstCounter::new(stat.cpu_ticks as f64 / ticks);
        let help = "CPU time of the process, user and system";
        let kind = EncodeMetric::metric_type(&cpu);
        cpu.encode(encoder.encode_descriptor("cpu_seconds", help, None, kind)?)?;
        let memory = stat.resident_pages.saturating_mul(rustix::param::page_size() as u64);
        let mut gauge = |name: &str, help: &str, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let kind = EncodeMetric::metric_type(&gauge);
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)
        };
        gauge("resident_memory_bytes", "Memory of the process that is in RAM", memory)?;
        gauge("threads", "Threads of the process", stat.threads)?;
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            gauge("open_descriptors", "Files and sockets that the process has open", open.count() as u64)?;
        }
        if let Some(most) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(descriptor_limit)
        {
            gauge("descriptors_capacity", "Files and sockets that the process may have open", most)?;
        }
        Ok(())
    }
}

/// Of /proc/self/stat (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    resident_pages: u64,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The name stands in parentheses and may contain anything; field 3 comes after the last one.
        let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| rest.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            resident_pages: field(24)?,
        })
    }
}

/// The soft limit of open files; `None` when there is none.
fn descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_by_position_whatever_the_name_of_the_program() {
        let text = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 130 20 0 0 20 0 17 0 99 1000000 2048 1844";
        let stat = Stat::read(text);
        assert_eq!(stat, Some(Stat { cpu_ticks: 150, threads: 17, resident_pages: 2_048 }));
        assert_eq!(Stat::read("42 (short) S 1"), None);
        assert_eq!(
            descriptor_limit("Max open files            1024                 4096      files\n"),
            Some(1_024)
        );
        assert_eq!(
            descriptor_limit("Max open files            unlimited            4096      files\n"),
            None
        );
    }

    #[test]
    fn a_process_shows_what_it_takes() {
        let metrics = Metrics::new();
        register_process(&metrics);
        let text = metrics.encode();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse::<f64>().unwrap()
        };
        assert!(value("trunkline_process_resident_memory_bytes ") > 100_000.0);
        assert!(value("trunkline_process_cpu_seconds_total ") >= 0.0);
        assert!(value("trunkline_process_threads ") >= 1.0);
        assert!(value("trunkline_process_open_descriptors ") >= 3.0);
    }
}
