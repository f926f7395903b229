//! A report as text.

use std::fmt::Write;

use super::outcome::Report;

impl Report {
    /// As text, for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let counts = &self.counts;
        writeln!(out, "\n{}: {}\n", self.scenario, self.about.trim())?;
        writeln!(
            out,
            "{} · {} cores, {} · load {} · seed {}",
            self.made, self.machine.cores, self.machine.model, self.machine.load, self.seed
        )?;
        writeln!(
            out,
            "{:.1} calls/s for {:.0} s ({:.0} s warm-up not counted), {} agents\n",
            self.offered_rate, self.offered_s, self.warm_up_s, self.agents
        )?;
        for (name, value) in [
            ("calls due", counts.due),
            ("not started (too many under way)", counts.not_started),
            ("over", counts.over),
            ("refused or lost", counts.refused_all()),
            ("callers who gave up", counts.gave_up),
            ("served by an agent", counts.served),
            ("overtaken in the queue", counts.overtaken),
            ("with two agents at once", counts.twice),
            ("repeated requests", counts.repeats),
        ] {
            writeln!(out, "  {name:<38}{value:>12}")?;
        }
        for (status, count) in &counts.refused {
            let status = if *status == 0 { "no answer".to_owned() } else { status.to_string() };
            writeln!(out, "  {:<38}{count:>12}", format!("… with {status}"))?;
        }
        if counts.passed_on > 0 {
            writeln!(out, "  {:<38}{:>12}", "passed on to another queue", counts.passed_on)?;
        }
        if counts.packets > 0 {
            writeln!(out, "  {:<38}{:>12}", "RTP packets heard", counts.packets)?;
            let lost = format!("{} ({:.4} %)", counts.packets_lost, counts.lost_share() * 100.0);
            writeln!(out, "  {:<38}{lost:>12}", "RTP packets lost")?;
            writeln!(out, "  {:<38}{:>9.0} ms", "longest audio gap", counts.gap_ms)?;
        }
        if counts.two_sided > 0 {
            let one_way = format!("{} of {}", counts.one_way, counts.two_sided);
            writeln!(out, "  {:<38}{one_way:>12}", "conversations with one-way audio")?;
        }
        self.write_times(out)?;
        self.write_processes(out)?;
        self.write_rest(out)
    }

    fn write_times(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n  {:<34}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "ms", "p50", "p90", "p99", "p99.9", "max", "count"
        )?;
        for (name, times) in &self.times {
            write!(out, "  {name:<34}")?;
            for quantile in ["p50", "p90", "p99", "p99.9", "max"] {
                write!(out, "{:>9.1}", times.get(quantile).unwrap_or_default())?;
            }
            writeln!(out, "{:>9}", times.count)?;
        }
        Ok(())
    }

    fn write_processes(&self, out: &mut String) -> std::fmt::Result {
        for (name, process) in &self.processes {
            writeln!(
                out,
                "\n  {name}: {:.1} s CPU, {:.2} ms a call, at most {:.0} MB",
                process.cpu_s, process.cpu_per_call_ms, process.rss_most_mb
            )?;
            for (what, unit, trend) in
                [("memory", "MB", process.memory), ("descriptors", "", process.descriptors)]
            {
                if let Some(trend) = trend {
                    writeln!(
                        out,
                        "    {what:<14}{:+9.1} {unit} an hour (95 %: {:+.1} to {:+.1})",
                        trend.slope, trend.low, trend.high
                    )?;
                }
            }
            let mut threads: Vec<_> = process.followed.threads.iter().collect();
            threads.sort_by(|a, b| b.1.total_cmp(a.1));
            for (group, cpu_s) in threads.into_iter().take(12).filter(|(_, cpu_s)| **cpu_s >= 0.005) {
                let each = cpu_s * 1_000.0 / self.counts.due.max(1) as f64;
                writeln!(out, "    {group:<24}{cpu_s:>9.2} s {each:>9.3} ms a call")?;
            }
        }
        for metric in &self.metrics {
            let last = metric.points.last().map_or(0.0, |(_, value)| *value);
            write!(out, "\n  {} ({}): {last:.0} at the end", metric.name, metric.meaning)?;
            if let Some(trend) = metric.trend {
                write!(out, ", {:+.1} an hour (95 %: {:+.1} to {:+.1})", trend.slope, trend.low, trend.high)?;
            }
            if let Some(behind) = metric.behind.map(|behind| behind.of(1_000.0)) {
                write!(
                    out,
                    ", which is {:+.0} ms of what comes (95 %: {:+.0} to {:+.0})",
                    behind.slope, behind.low, behind.high
                )?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn write_rest(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n  generator: {:.1} s CPU", self.generator_cpu_s)?;
        for worker in &self.workers {
            writeln!(
                out,
                "  worker {}: {} cores, clock within {} µs",
                worker.at, worker.cores, worker.clock.within_us
            )?;
        }
        for event in &self.events {
            let error = event.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            writeln!(out, "  {:>7.1} s to {:.1} s  {}{error}", event.from_s, event.to_s, event.title)?;
        }
        for (what, count) in &self.counts.agents_refused {
            writeln!(out, "  agents were refused {count} times: {what}")?;
        }
        for (why, count) in &self.counts.agents_lost {
            writeln!(out, "  agents lost {count} connections: {why}")?;
        }
        if !self.counts.agents_lost.is_empty() {
            writeln!(out, "  {} sessions of agents went on after that", self.counts.agents_resumed)?;
        }
        for note in &self.notes {
            writeln!(out, "  note: {note}")?;
        }
        if let Some(stopped) = &self.stopped {
            writeln!(out, "\n  the limit was found at {:.0} calls/s: {}", stopped.rate, stopped.why)?;
        }
        match (self.holds(), self.expected) {
            (true, true) => writeln!(out, "\n  everything held that was to hold"),
            (true, false) => writeln!(out, "\n  nothing was to hold"),
            (false, _) => {
                writeln!(out, "\n  NOT HELD:")?;
                self.broken.iter().try_for_each(|broken| writeln!(out, "  - {broken}"))
            }
        }
    }
}
