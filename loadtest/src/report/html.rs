//! A report as one page that needs nothing else.

use std::fmt::Write;

use super::{
    outcome::{Process, Report},
    svg::{Plot, Series, escape},
};
use crate::run::{Sample, Second, Trend};

const STYLE: &str = include_str!("report.css");

impl Report {
    /// As one HTML page: no script, no other file.
    pub fn html(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_page(&mut out);
        out
    }

    fn write_page(&self, out: &mut String) -> std::fmt::Result {
        let title = escape(&self.scenario);
        writeln!(
            out,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} – trunkline-load</title>\
             <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>"
        )?;
        writeln!(out, "<header><h1>{title}</h1><p>{}</p>", escape(self.about.trim()))?;
        let machine = &self.machine;
        writeln!(
            out,
            "<p class=\"meta\">{} · {:.1} calls/s for {:.0} s ({:.0} s warm-up not counted) · {} agents · seed {} · {} \
             cores, {} · load {} · Linux {}</p>",
            self.made,
            self.offered_rate,
            self.offered_s,
            self.warm_up_s,
            self.agents,
            self.seed,
            machine.cores,
            escape(&machine.model),
            machine.load,
            escape(&machine.kernel)
        )?;
        self.write_verdict(out)?;
        writeln!(out, "</header><main>")?;
        self.write_cards(out)?;
        self.write_quantiles(out)?;
        writeln!(out, "<section class=\"plots\">")?;
        for plot in self.plots().iter().filter(|plot| !plot.is_empty()) {
            out.push_str(&plot.draw());
        }
        writeln!(out, "</section>")?;
        self.write_processes_table(out)?;
        self.write_metrics_table(out)?;
        self.write_events(out)?;
        writeln!(
            out,
            "<footer>Every time counts from the moment at which something was meant to happen (no coordinated omission). \
             Points are seconds; curves of quantiles are of the whole run without the warm-up. The generator used {:.1} s of \
             processor time.</footer></main></body></html>",
            self.generator_cpu_s
        )
    }

    fn write_verdict(&self, out: &mut String) -> std::fmt::Result {
        if let Some(stopped) = &self.stopped {
            let why = escape(&stopped.why);
            writeln!(
                out,
                "<p class=\"verdict\">Limit found at <b>{:.0} calls/s</b>: {why}</p>",
                stopped.rate
            )?;
        }
        match (self.holds(), self.expected) {
            (true, true) => writeln!(out, "<p class=\"verdict good\">Everything held that was to hold.</p>"),
            (true, false) => Ok(()),
            (false, _) => {
                let items: String =
                    self.broken.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
                writeln!(out, "<div class=\"verdict bad\">Not held:<ul>{items}</ul></div>")
            }
        }
    }

    fn write_cards(&self, out: &mut String) -> std::fmt::Result {
        let counts = &self.counts;
        let mut cards = vec![
            ("calls due", counts.due.to_string(), false),
            ("served by an agent", counts.served.to_string(), false),
            ("refused or lost", counts.refused_all().to_string(), counts.refused_all() > 0),
            ("not started", counts.not_started.to_string(), counts.not_started > 0),
            ("gave up waiting", counts.gave_up.to_string(), false),
            ("overtaken", counts.overtaken.to_string(), counts.overtaken > 0),
            ("two agents at once", counts.twice.to_string(), counts.twice > 0),
            ("repeated requests", counts.repeats.to_string(), false),
        ];
        if counts.passed_on > 0 {
            cards.push(("passed on", counts.passed_on.to_string(), false));
        }
        if counts.packets > 0 {
            cards.push(("packets lost", format!("{:.3} %", counts.lost_share() * 100.0), false));
            cards.push(("longest audio gap", format!("{:.0} ms", counts.gap_ms), false));
        }
        if counts.two_sided > 0 {
            let one_way = format!("{} of {}", counts.one_way, counts.two_sided);
            cards.push(("one-way audio", one_way, counts.one_way > 0));
        }
        let cpu: f64 = self.processes.values().map(|process| process.cpu_per_call_ms).sum();
        if cpu > 0.0 {
            cards.push(("CPU a call", format!("{cpu:.2} ms"), false));
        }
        writeln!(out, "<section class=\"cards\">")?;
        for (name, value, bad) in cards {
            let class = if bad { " class=\"bad\"" } else { "" };
            writeln!(out, "<div{class}><b>{value}</b><span>{name}</span></div>")?;
        }
        writeln!(out, "</section>")
    }

    fn write_quantiles(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "<section><table><thead><tr><th>ms</th>")?;
        let names = ["p50", "p90", "p95", "p99", "p99.9", "max"];
        for name in names {
            write!(out, "<th>{name}</th>")?;
        }
        writeln!(out, "<th>mean</th><th>count</th></tr></thead><tbody>")?;
        for (name, times) in &self.times {
            write!(out, "<tr><th>{}</th>", escape(name))?;
            for quantile in names {
                write!(out, "<td>{:.1}</td>", times.get(quantile).unwrap_or_default())?;
            }
            writeln!(out, "<td>{:.1}</td><td>{}</td></tr>", times.mean_ms, times.count)?;
        }
        writeln!(out, "</tbody></table></section>")
    }

    fn plots(&self) -> Vec<Plot> {
        let marks: Vec<(f64, String)> =
            self.events.iter().map(|event| (event.from_s, event.title.clone())).collect();
        let plot = |title: &str, unit, series| Plot {
            title: title.into(),
            unit,
            series,
            marks: marks.clone(),
            shares: false,
        };
        let count = |name: &str, part: fn(&Second) -> u64| {
            let points = self.seconds.iter().enumerate().map(|(n, s)| (n as f64, part(s) as f64)).collect();
            Series { name: name.into(), points, peaks: false }
        };
        let time = |name: &str, part: fn(&Second) -> Option<f64>| {
            let points = self.seconds.iter().enumerate().filter_map(|(n, s)| Some((n as f64, part(s)?)));
            Series { name: name.into(), points: points.collect(), peaks: true }
        };
        let mut failed = count("refused or lost", |s| s.failed);
        failed.peaks = true;
        let curves =
            self.times.iter().filter(|(name, _)| !name.contains("generator") && !name.contains("gap"));
        let curves = curves.map(|(name, times)| Series {
            name: (*name).to_owned(),
            points: times.curve.clone(),
            peaks: true,
        });
        let mut plots = vec![
            plot(
                "Calls",
                "a second",
                vec![
                    count("due", |s| s.due),
                    count("served", |s| s.served),
                    failed,
                    count("gave up", |s| s.gave_up),
                ],
            ),
            plot(
                "Under way",
                "calls",
                vec![
                    count("all", |s| s.live),
                    count("waiting", |s| s.waiting),
                    count("talking", |s| s.talking),
                ],
            ),
            plot(
                "Set-up (INVITE to 200)",
                "ms",
                vec![time("p50", |s| s.setup_p50), time("p99", |s| s.setup_p99)],
            ),
            plot(
                "Agent free to ringing",
                "ms",
                vec![time("p50", |s| s.free_p50), time("p99", |s| s.free_p99)],
            ),
            plot("Caller in the queue to ringing", "ms", vec![time("p99", |s| s.wait_p99)]),
            Plot {
                title: "Quantiles".into(),
                unit: "ms",
                series: curves.collect(),
                marks: Vec::new(),
                shares: true,
            },
        ];
        for (title, unit, part) in [
            ("Processor time", "% of a core", (|s: &Sample| s.cpu_percent) as fn(&Sample) -> f64),
            ("Resident memory", "MB", |s| s.rss_mb),
            ("Open descriptors", "", |s| s.descriptors as f64),
        ] {
            let series = self.processes.iter().map(|(name, process)| process.series(name, part)).collect();
            plots.push(plot(title, unit, series));
        }
        for metric in &self.metrics {
            let series = Series { name: metric.name.into(), points: metric.points.clone(), peaks: true };
            plots.push(plot(metric.meaning, "", vec![series]));
        }
        plots
    }

    fn write_processes_table(&self, out: &mut String) -> std::fmt::Result {
        if self.processes.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "<section><h2>Processes</h2><table><thead><tr><th></th><th>CPU, s</th><th>ms a call</th><th>most MB</th>\
             <th>MB an hour (95 %)</th><th>descriptors an hour (95 %)</th></tr></thead><tbody>"
        )?;
        for (name, process) in &self.processes {
            writeln!(
                out,
                "<tr><th>{}</th><td>{:.1}</td><td>{:.2}</td><td>{:.0}</td><td>{}</td><td>{}</td></tr>",
                escape(name),
                process.cpu_s,
                process.cpu_per_call_ms,
                process.rss_most_mb,
                interval(process.memory),
                interval(process.descriptors)
            )?;
            let mut threads: Vec<_> = process.followed.threads.iter().collect();
            threads.sort_by(|a, b| b.1.total_cmp(a.1));
            for (group, cpu_s) in threads.into_iter().take(10).filter(|(_, cpu_s)| **cpu_s >= 0.005) {
                let each = cpu_s * 1_000.0 / self.counts.due.max(1) as f64;
                writeln!(
                    out,
                    "<tr class=\"sub\"><th>{}</th><td>{cpu_s:.2}</td><td>{each:.3}</td><td></td><td></td><td></td></tr>",
                    escape(group)
                )?;
            }
        }
        writeln!(out, "</tbody></table></section>")
    }

    fn write_metrics_table(&self, out: &mut String) -> std::fmt::Result {
        if self.metrics.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "<section><h2>Metrics</h2><table><thead><tr><th></th><th>at the end</th><th>an hour (95 %)</th>\
             <th>an hour, as ms of what comes (95 %)</th></tr></thead><tbody>"
        )?;
        for metric in &self.metrics {
            let last = metric.points.last().map_or(0.0, |(_, value)| *value);
            let behind = metric.behind.map(|behind| behind.of(1_000.0));
            let (name, meaning) = (escape(metric.name), escape(metric.meaning));
            let (trend, behind) = (interval(metric.trend), interval(behind));
            writeln!(
                out,
                "<tr><th title=\"{meaning}\">{name}</th><td>{last:.0}</td><td>{trend}</td><td>{behind}</td></tr>"
            )?;
        }
        writeln!(out, "</tbody></table></section>")
    }

    fn write_events(&self, out: &mut String) -> std::fmt::Result {
        let mut lines: Vec<String> = Vec::new();
        for event in &self.events {
            let error = event.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            lines.push(format!("{:.1} s to {:.1} s: {}{error}", event.from_s, event.to_s, event.title));
        }
        for worker in &self.workers {
            let (at, cores, within) = (worker.at, worker.cores, worker.clock.within_us);
            lines.push(format!("worker {at}: {cores} cores, clock within {within} µs"));
        }
        let counts = &self.counts;
        lines.extend(
            counts.refused.iter().map(|(status, count)| format!("{count} calls were refused with {status}")),
        );
        lines.extend(
            counts.agents_refused.iter().map(|(what, n)| format!("agents were refused {n} times: {what}")),
        );
        lines.extend(counts.agents_lost.iter().map(|(why, n)| format!("agents lost {n} connections: {why}")));
        if !counts.agents_lost.is_empty() {
            lines.push(format!("{} sessions of agents went on after that", counts.agents_resumed));
        }
        lines.extend(self.notes.iter().cloned());
        if lines.is_empty() {
            return Ok(());
        }
        let items: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
        writeln!(out, "<section><h2>Events and notes</h2><ul>{items}</ul></section>")
    }
}

impl Process {
    fn series(&self, name: &str, part: fn(&Sample) -> f64) -> Series {
        let points = self.followed.samples.iter().map(|sample| (sample.at_s, part(sample))).collect();
        Series { name: name.to_owned(), points, peaks: false }
    }
}

fn interval(trend: Option<Trend>) -> String {
    trend.map_or("–".to_owned(), |t| format!("{:+.1} ({:+.1} to {:+.1})", t.slope, t.low, t.high))
}
