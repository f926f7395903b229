//! A line each second while a run goes on.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use super::Tally;

/// Where the line goes: it is overwritten on a terminal and added elsewhere.
pub(super) struct Screen {
    terminal: bool,
    length: Duration,
}

impl Screen {
    pub fn new(length: Duration) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), length }
    }

    pub fn show(&mut self, at: Duration, tally: &Tally, used: Option<(f64, f64)>) {
        let line = line(at, self.length, tally, used);
        let mut stderr = std::io::stderr().lock();
        // A closed terminal stops nothing.
        let _ = if self.terminal { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
        let _ = stderr.flush();
    }

    pub fn end(&self) {
        if self.terminal {
            let _ = writeln!(std::io::stderr().lock());
        }
    }
}

fn line(at: Duration, length: Duration, tally: &Tally, used: Option<(f64, f64)>) -> String {
    let clock = |time: Duration| format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    // The latest second that is complete; what agents say of one may come before what callers say of it.
    let complete = || tally.seconds.iter().rev().skip(1);
    let second = complete().take(2).find(|second| second.live > 0).or(complete().next()).cloned();
    let second = second.unwrap_or_default();
    let ms = |time: Option<f64>| time.map_or("–".into(), |ms| format!("{ms:.0} ms"));
    let (waiting, talking) = tally.now();
    let failed = tally.counts.refused_all() + tally.counts.not_started;
    let mut line = format!(
        "{}/{}  {} calls/s  {} under way: {waiting} wait, {talking} talk  failed {failed}  set-up p99 {}  free to ring \
         p99 {}",
        clock(at),
        clock(length),
        second.due,
        second.live,
        ms(second.setup_p99),
        ms(second.free_p99)
    );
    if let Some((cpu, memory)) = used {
        line += &format!("  CPU {cpu:.0} %  {memory:.0} MB");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_latest_complete_second() {
        let mut tally = Tally::new(Duration::ZERO, false, false);
        tally.seconds = vec![Default::default(); 3];
        tally.seconds[1].due = 17;
        tally.seconds[1].setup_p99 = Some(12.4);
        tally.counts.not_started = 2;
        let line = line(Duration::from_secs(62), Duration::from_secs(120), &tally, Some((55.0, 80.0)));
        assert!(line.starts_with("01:02/02:00  17 calls/s"), "{line}");
        assert!(line.contains("failed 2  set-up p99 12 ms  free to ring p99 –  CPU 55 %"), "{line}");
    }

    #[test]
    fn a_second_of_which_only_agents_have_told_is_not_complete() {
        let mut tally = Tally::new(Duration::ZERO, false, false);
        tally.seconds = vec![Default::default(); 4];
        (tally.seconds[1].due, tally.seconds[1].live) = (17, 5);
        tally.seconds[2].free_p99 = Some(3.0);
        let line = line(Duration::from_secs(63), Duration::from_secs(120), &tally, None);
        assert!(line.starts_with("01:03/02:00  17 calls/s  5 under way"), "{line}");
    }
}
