//! What the system gives the process: descriptors, kernel buffers, processors and memory.

use std::{fs, path::PathBuf};

use socket2::{Domain, Socket, Type};
use trunkline_cluster::Role;

use super::{Subject, finding::Area};

/// Sockets and files of a node that carries nothing.
const BASE: u64 = 300;
/// A caller's RTP and RTCP, and a recording with the part that is being stored.
const A_CALLER: u64 = 4;
/// What `edge` asks for its UDP socket and `media` for the browsers' one; the kernel doubles what it grants.
const BUFFER_BYTES: usize = 8 << 20;
/// Memory of an empty node, and of a session with recording.
const NODE_BYTES: u64 = 200 << 20;
const SESSION_BYTES: u64 = 120 << 10;
const MIB: u64 = 1 << 20;

/// Looks at this process's limits, or at those of the node that runs here.
pub fn check(subject: &Subject) -> Area {
    let mut area = Area::new("limits");
    let whose =
        subject.pid.map_or_else(|| "this shell".to_owned(), |pid| format!("the running node (pid {pid})"));
    let process = subject.pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    descriptors(&mut area, subject, &process, &whose);
    if subject.config.has(Role::Edge) || subject.config.has(Role::Media) {
        buffers(&mut area);
    }
    cgroup(&mut area, subject, &process, &whose);
    area
}

fn descriptors(area: &mut Area, subject: &Subject, process: &str, whose: &str) {
    let config = &subject.config;
    let mut wanted = BASE;
    if config.has(Role::Edge) {
        wanted += config.sip.max_connections as u64;
    }
    if config.has(Role::Console) {
        wanted += config.console.max_connections as u64;
    }
    if config.has(Role::Media) {
        let pairs = u64::from(config.media.rtp.last - config.media.rtp.first).div_ceil(2);
        wanted += A_CALLER * pairs.min(config.media.max_sessions as u64);
    }
    let text = fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let Some(soft) = line.split_whitespace().next() else { return };
    let found = format!("{soft} for {whose}, {wanted} for what is configured");
    if soft.parse::<u64>().is_ok_and(|limit| limit < wanted) {
        area.warn(
            "descriptors",
            found,
            "without descriptors calls get no ports, browsers no connection and recordings no file",
            &format!(
                "start the node with LimitNOFILE={0} (systemd) or `ulimit -n {0}`",
                wanted.next_power_of_two()
            ),
        );
    } else {
        area.ok("descriptors", found);
    }
}

/// What a socket is granted that asks as the node's do.
fn buffers(area: &mut Area) {
    let asked = || -> std::io::Result<[usize; 2]> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        Ok([socket.recv_buffer_size()?, socket.send_buffer_size()?])
    };
    match asked() {
        Ok(granted) => judge_buffers(area, granted),
        Err(error) => area.warn(
            "kernel buffers",
            format!("a socket cannot be asked: {error}"),
            "whether bursts of calls fit is not known",
            "run the doctor where the node runs, as its user",
        ),
    }
}

fn judge_buffers(area: &mut Area, granted: [usize; 2]) {
    for (granted, (setting, what)) in
        granted.into_iter().zip([("rmem_max", "received"), ("wmem_max", "sent")])
    {
        let found = format!("{granted} bytes for what is {what} (net.core.{setting})");
        if granted < BUFFER_BYTES {
            area.warn(
                "kernel buffers",
                found,
                &format!("a burst of calls is lost before it is {what}: the SIP and browser sockets want {BUFFER_BYTES} bytes"),
                &format!("sysctl -w net.core.{setting}={BUFFER_BYTES} on the machine, and in /etc/sysctl.d to keep it"),
            );
        } else {
            area.ok("kernel buffers", found);
        }
    }
}

fn cgroup(area: &mut Area, subject: &Subject, process: &str, whose: &str) {
    let config = &subject.config;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let group = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let Some(path) = group.lines().find_map(|line| line.strip_prefix("0::")) else {
        return area.ok("cgroup", format!("{cores} processors; no unified hierarchy to ask for limits"));
    };
    let folder = PathBuf::from("/sys/fs/cgroup").join(path.trim().trim_start_matches('/'));
    let read = |name: &str| {
        // In a container its own group is the root of what it sees.
        fs::read_to_string(folder.join(name))
            .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{name}")))
            .ok()
    };
    let quota = read("cpu.max").and_then(|text| quota(&text));
    let threads = config.node.arbiters + if config.has(Role::Media) { config.media.workers } else { 0 };
    match quota {
        Some(quota) if quota + 0.5 < threads as f64 => area.warn(
            "cpu",
            format!("{quota:.1} processors for {whose}, {threads} threads for actors and audio"),
            "when the quota is used up all threads stand still together: audio of every call breaks",
            "raise the CPU limit (best: none, only a request), or lower node.arbiters and media.workers",
        ),
        Some(quota) => area.ok("cpu", format!("{quota:.1} of {cores} processors for {whose}")),
        None => area.ok("cpu", format!("{cores} processors, no quota")),
    }
    let Some(limit) = read("memory.max").and_then(|text| text.trim().parse::<u64>().ok()) else {
        return area.ok("memory", "no limit");
    };
    let sessions = if config.has(Role::Media) { config.media.max_sessions as u64 } else { 0 };
    let wanted = NODE_BYTES + sessions * SESSION_BYTES;
    let found = format!("{} MiB for {whose}, about {} for what is configured", limit / MIB, wanted / MIB);
    if limit < wanted {
        let why = "at the limit the kernel kills the node with every call on it";
        area.warn("memory", found, why, "raise the memory limit, or lower media.max_sessions");
    } else {
        area.ok("memory", found);
    }
}

/// Processors by `cpu.max`: `200000 100000`, or `max 100000` for no quota.
fn quota(text: &str) -> Option<f64> {
    let mut parts = text.split_whitespace().map(str::parse::<f64>);
    match (parts.next()?, parts.next()?) {
        (Ok(quota), Ok(period)) if period > 0.0 => Some(quota / period),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel doubles what it grants, for its own use; each direction is judged by itself.
    #[test]
    fn small_buffers_are_found_with_the_setting_that_makes_them_so() {
        let told = |granted| {
            let mut area = Area::new("limits");
            judge_buffers(&mut area, granted);
            let mut report = super::super::finding::Report::default();
            report.take(area);
            report.text()
        };
        let enough = told([2 * BUFFER_BYTES, BUFFER_BYTES]);
        assert!(
            !enough.contains("sysctl") && enough.contains("16777216 bytes for what is received"),
            "{enough}"
        );
        let small = told([425_984, 2 * BUFFER_BYTES]);
        assert!(
            small.contains("sysctl -w net.core.rmem_max=8388608")
                && !small.contains("sysctl -w net.core.wmem"),
            "{small}"
        );
        let mut here = Area::new("limits");
        buffers(&mut here);
        let mut report = super::super::finding::Report::default();
        report.take(here);
        assert_eq!(report.text().matches("kernel buffers").count(), 2, "{}", report.text());
    }

    #[test]
    fn quotas_are_read() {
        assert_eq!(quota("150000 100000\n"), Some(1.5));
        assert_eq!((quota("max 100000"), quota("")), (None, None));
    }
}
