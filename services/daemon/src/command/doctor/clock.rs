//! This machine's clock.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::finding::{Area, Level};

/// What shows when the two are compared by eye, and what makes records nonsense.
const WARN_S: f64 = 0.5;
const FAIL_S: f64 = 10.0;
const PATIENCE: Duration = Duration::from_secs(3);
/// systemd-timesyncd makes it when it has set the clock.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

/// Whether it is kept right, and how far it is from the database's.
pub async fn check(offset_s: Option<f64>) -> Area {
    let mut area = Area::new("clock");
    match synchronised().await {
        Some((true, who)) => area.ok("synchronisation", format!("kept by {who}")),
        Some((false, who)) => area.warn(
            "synchronisation",
            format!("{who} says that the clock is not synchronised"),
            "durations of calls that move between nodes, and times in records, drift apart",
            "run chronyd or systemd-timesyncd and let NTP through",
        ),
        None => {
            area.ok("synchronisation", "nobody on this machine tells (a container takes its host's clock)")
        }
    }
    if let Some(offset) = offset_s {
        area.at(level(offset), "against PostgreSQL", format!("{offset:+.3} s"), WHY, REMEDY);
    }
    area
}

const WHY: &str = "times in records, boards and logs of different nodes do not fit together";
const REMEDY: &str = "synchronise both machines by NTP";

/// How bad an offset is.
pub fn level(offset_s: f64) -> Level {
    match offset_s.abs() {
        offset if offset > FAIL_S => Level::Fail,
        offset if offset > WARN_S => Level::Warn,
        _ => Level::Ok,
    }
}

async fn synchronised() -> Option<(bool, &'static str)> {
    if Path::new(TIMESYNCD).exists() {
        return Some((true, "systemd-timesyncd"));
    }
    if let Some(tracking) = output("chronyc", &["-n", "tracking"]).await {
        return Some((!tracking.contains("Not synchronised"), "chronyd"));
    }
    match output("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).await?.trim() {
        "yes" => Some((true, "the kernel (NTP)")),
        "no" => Some((false, "the kernel")),
        _ => None,
    }
}

/// What a program says, when it is there and succeeds in time.
async fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_counts_in_both_directions() {
        assert_eq!((level(-0.4), level(-0.6), level(11.0)), (Level::Ok, Level::Warn, Level::Fail));
    }
}
