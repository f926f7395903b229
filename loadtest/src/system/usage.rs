//! What the kernel says about a process: /proc.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};

/// What a process and its descendants have and have used at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all threads, ended ones included.
    pub cpu: Duration,
    /// Resident memory; of descendants only what they do not share.
    pub rss_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// Of a process and its descendants (a database server is one for each connection), now.
pub fn usage(pid: u32) -> Result<Usage> {
    let (mut all, _) = alone(pid)?;
    // One that has ended in the meantime has used nothing more.
    for (of, own_bytes) in family(pid).into_iter().skip(1).filter_map(|child| alone(child).ok()) {
        all.cpu += of.cpu;
        all.rss_bytes += own_bytes;
        all.threads += of.threads;
        all.descriptors += of.descriptors;
    }
    Ok(all)
}

/// Of a process without its descendants, and the resident memory that it shares with nobody.
fn alone(pid: u32) -> Result<(Usage, u64)> {
    let folder = format!("/proc/{pid}");
    let gone = || format!("no process {pid}");
    let stat = std::fs::read_to_string(format!("{folder}/stat")).with_context(gone)?;
    let status = std::fs::read_to_string(format!("{folder}/status")).with_context(gone)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let usage = Usage {
        cpu: cpu(&stat).with_context(|| format!("{folder}/stat is not as expected"))?,
        rss_bytes: field("VmRSS:") * 1_024,
        threads: field("Threads:"),
        descriptors: std::fs::read_dir(format!("{folder}/fd")).map_or(0, |entries| entries.count() as u64),
    };
    Ok((usage, field("RssAnon:") * 1_024))
}

/// Processor time of a process by the names of its threads, numbers at their ends left out. From the scheduler's own
/// accounting (nanoseconds); threads that have ended are not in it.
pub fn threads(pid: u32) -> BTreeMap<String, Duration> {
    let mut groups: BTreeMap<String, Duration> = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let spent = read("schedstat").split_whitespace().next().and_then(|ns| ns.parse().ok());
        let name = group(read("comm").trim());
        *groups.entry(name).or_default() += Duration::from_nanos(spent.unwrap_or(0));
    }
    groups
}

/// Processor time of several processes in nanoseconds: the sum over their threads, by the scheduler's accounting.
pub fn exact(pids: &[u32]) -> Duration {
    pids.iter().flat_map(|pid| threads(*pid).into_values()).sum()
}

/// A process and all its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        at += 1;
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let children = children.unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    family
}

fn group(name: &str) -> String {
    let base =
        name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '-' | '_' | ':' | ' ' | '#'));
    if base.is_empty() { name.to_owned() } else { base.to_owned() }
}

/// utime and stime, fields 14 and 15 of proc(5), in ticks of 10 ms (USER_HZ is 100 on every Linux). The name in field 2
/// may contain anything, so counting begins after its closing bracket.
fn cpu(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_read_after_the_name_whatever_it_is() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 100 1 1 1";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("7 nonsense"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let pid = std::process::id();
        let usage = usage(pid).unwrap();
        assert!(usage.rss_bytes > 100_000 && usage.threads >= 1 && usage.descriptors >= 3);
        assert!(exact(&[pid]) > Duration::ZERO && family(pid).first() == Some(&pid));
    }

    /// The shell does nothing itself: what is used is its child's.
    #[test]
    fn descendants_count_with_their_ancestor() {
        let program = "while :; do :; done & wait";
        let mut shell = std::process::Command::new("sh").args(["-c", program]).spawn().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let seen = loop {
            let seen = (usage(shell.id()).unwrap(), alone(shell.id()).unwrap().0);
            let enough = seen.0.cpu >= seen.1.cpu + Duration::from_millis(50);
            if enough || std::time::Instant::now() > deadline {
                break seen;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        for pid in family(shell.id()).into_iter().rev() {
            let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
        let (all, alone) = seen;
        assert!(all.cpu >= alone.cpu + Duration::from_millis(50), "{all:?} {alone:?}");
        assert!(all.threads == 2 && all.descriptors > alone.descriptors && all.rss_bytes > alone.rss_bytes);
    }

    #[test]
    fn threads_of_one_kind_are_one_group() {
        for (name, expected) in
            [("tokio-rt-worker", "tokio-rt-worker"), ("arbiter-12", "arbiter"), ("42", "42")]
        {
            assert_eq!(group(name), expected);
        }
    }
}
