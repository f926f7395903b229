//! What the caller's terminal shows: one line for each thing that happens, and the totals.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

use trunkline_sip::{Response, default_reason};

use super::listen::Heard;

/// How one call went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// INVITE sent.
    pub begun: Instant,
    /// 180 after so long.
    pub ringing: Option<Duration>,
    /// 200 came.
    pub answered: Option<Instant>,
    /// First audio so long after the answer.
    pub audio_after: Option<Duration>,
    /// The call is over.
    pub ended: Option<Instant>,
    /// Why the call counts as failed.
    pub failure: Option<String>,
    /// Media.
    pub heard: Heard,
}

impl Outcome {
    /// A call that begins now.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            ringing: None,
            answered: None,
            audio_after: None,
            ended: None,
            failure: None,
            heard: Heard::default(),
        }
    }
}

/// Writes the lines of one call.
#[derive(Clone, Debug)]
pub struct Line {
    begun: Instant,
    label: String,
    quiet: bool,
}

impl Line {
    /// For call `number` of `count`; times are given since `begun`.
    pub fn new(begun: Instant, number: u32, count: u32, quiet: bool) -> Self {
        let width = count.to_string().len();
        Self { begun, label: format!("call {number:<width$}"), quiet }
    }

    /// Something happened.
    pub fn say(&self, what: &str) {
        if !self.quiet {
            self.write(what);
        }
    }

    /// Something went wrong: shown with --quiet too.
    pub fn failure(&self, what: &str) {
        self.write(&format!("FAILED: {what}"));
    }

    /// The measurements at the end.
    pub fn heard(&self, heard: &Heard) {
        if heard.received == 0 {
            return self.say(&format!("heard nothing (0 packets); sent {}", heard.sent));
        }
        self.say(&format!(
            "heard {} packets, {} lost, jitter {:.1} ms, level {:.0} dBFS; sent {}",
            heard.received,
            heard.lost,
            heard.jitter_ms(),
            heard.level_dbfs(),
            heard.sent,
        ));
    }

    fn write(&self, what: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        // A name or a reason phrase from the network must not steer the terminal.
        let what: String = what.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        out(&format!("{at:8.3} s  {}  {what}\n", self.label));
    }
}

/// Nobody reads a closed terminal: the calls go on.
fn out(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Status and reason phrase of a response.
pub fn describe(response: &Response) -> String {
    let reason = String::from_utf8_lossy(&response.reason).into_owned();
    let reason = if reason.is_empty() { default_reason(response.status).to_owned() } else { reason };
    match response.status {
        180 => "ringing".into(),
        status => format!("{status} {reason}"),
    }
}

/// Prints the totals; true when no call failed.
pub fn totals(outcomes: &[Outcome]) -> bool {
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    out(&summary(outcomes));
    failed == 0
}

fn summary(outcomes: &[Outcome]) -> String {
    let answered: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.answered.is_some()).collect();
    let mut text = format!("\n{} calls, {} answered", outcomes.len(), answered.len());
    let mut failures = std::collections::BTreeMap::<&str, usize>::new();
    for failure in outcomes.iter().filter_map(|outcome| outcome.failure.as_deref()) {
        *failures.entry(failure).or_default() += 1;
    }
    let _ = writeln!(text, ", {} failed", failures.values().sum::<usize>());
    for (failure, count) in failures {
        let _ = writeln!(text, "  {count} × {failure}");
    }
    let times = |of: &dyn Fn(&&Outcome) -> Option<Duration>| {
        let mut times: Vec<Duration> = answered.iter().filter_map(of).collect();
        times.sort_unstable();
        times
    };
    for (name, times) in [
        ("ringing after", times(&|outcome| outcome.ringing)),
        (
            "answered after",
            times(&|outcome| Some(outcome.answered?.saturating_duration_since(outcome.begun))),
        ),
        ("audio after the answer", times(&|outcome| outcome.audio_after)),
        ("duration", times(&|outcome| Some(outcome.ended?.saturating_duration_since(outcome.answered?)))),
    ] {
        if let (Some(least), Some(most)) = (times.first(), times.last()) {
            let middle = times.get(times.len() / 2).unwrap_or(most);
            let seconds = |time: &Duration| format!("{:.3} s", time.as_secs_f64());
            let _ = writeln!(
                text,
                "  {name:<23} median {}, least {}, most {}",
                seconds(middle),
                seconds(least),
                seconds(most)
            );
        }
    }
    if !answered.is_empty() {
        let sum = |of: fn(&Heard) -> u64| answered.iter().map(|outcome| of(&outcome.heard)).sum::<u64>();
        let deaf = answered.iter().filter(|outcome| outcome.heard.received == 0).count();
        let jitter = answered.iter().map(|outcome| outcome.heard.jitter_ms()).fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "  packets                 {} sent, {} heard, {} lost, jitter at most {jitter:.1} ms; {deaf} calls heard \
             nothing",
            sum(|heard| heard.sent),
            sum(|heard| heard.received),
            sum(|heard| heard.lost),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_failures_by_cause() {
        let begun = Instant::now();
        let good = Outcome {
            begun,
            answered: Some(begun + Duration::from_millis(12)),
            ended: Some(begun + Duration::from_millis(2_012)),
            ..Outcome::new()
        };
        let bad = Outcome { failure: Some("refused".into()), ..Outcome::new() };
        let text = summary(&[good, bad.clone(), bad]);
        for part in [
            "3 calls, 1 answered, 2 failed",
            "2 × refused",
            "median 0.012 s",
            "median 2.000 s",
            "1 calls heard nothing",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
